"""Measures, in software, how old a picture is when a viewer of the live page has it, and how many never get there.

python benchmarks/glass_to_glass.py model.int8.onnx --json docs/results/glass-to-glass.json

Runs `pspnet run` on a test:// camera, whose pictures carry their number, and reads the page's MJPEG stream as a viewer
does. The number is decoded from each picture that arrives. Age is from the stamp of that picture's read, in the
camera's process, to the end of the viewer's decoding, on the same clock; what a sensor and a screen add is not in it.
Drops are numbers that are missing between the first and the last: those that no label map was made of, as they were
older than the next when the engine was free, and those that were labelled and did not reach the viewer.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pspnet.errors import PspnetError
from pspnet.files import write_json
from runtime import frame_code
from runtime.bench_report import stamped
from runtime.pipeline import percentiles

PAGE = re.compile(r"live page on (http://\S+/)")
START_S = 120.0
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Seen:
    """One picture at the viewer: the camera's count of it, the number drawn into it, when it was decoded."""

    sequence: int
    code: int
    decoded_ns: int


def main() -> int:
    """Print the ages and drops; write them to --json too."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artefact", help="ONNX file, checkpoint or engine")
    options.add_argument("--engine", default="auto")
    options.add_argument("--size", default="360x480", help="HxW of the camera's pictures")
    options.add_argument("--fps", type=float, default=30.0)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    try:
        result = stamped(measured(args), "python benchmarks/glass_to_glass.py")
        if args.json:
            write_json(args.json, result)
    except PspnetError as error:
        print(f"benchmarks/glass_to_glass.py: {error}", file=sys.stderr)
        return 2
    age, drops = result["age_ms"], result["drops"]
    print(
        f"{result['network']} ({result['engine']}), {args.size} at {args.fps:g} fps, {result['pictures']} pictures seen"
    )
    print(f"age at the viewer  p50 {age['p50']:.1f}   p90 {age['p90']:.1f}   p99 {age['p99']:.1f} ms")
    print(f"{result['numbers']} numbers: {drops['before_labels']} not labelled, {drops['after_labels']} more not seen")
    return 0


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Ages and drops of one run; PspnetError where it fails, or where a picture's number contradicts its record."""
    source = f"test://pattern?size={args.size}&fps={args.fps:g}"
    with tempfile.TemporaryDirectory() as folder:
        lines, report = Path(folder) / "records.jsonl", Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pspnet", "run", args.artefact, source, "--engine", args.engine,
            "--serve", "127.0.0.1:0", "--jsonl", str(lines), "--json", str(report), "--max-age-ms", "5000",
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as program:
            assert program.stderr is not None
            try:
                seen = list(_watched(_page(program.stderr) + "stream/camera0.mjpg", args.seconds))
            except PspnetError as error:
                program.terminate()
                raise PspnetError(" ".join([f"{error}:", *program.stderr.read().splitlines()[-1:]])) from error
            finally:
                program.terminate()
        records = {each["sequence"]: each for each in map(json.loads, lines.read_text().splitlines()) if each["valid"]}
        facts = json.loads(report.read_text())
    return {
        "kind": "glass to glass", "network": Path(args.artefact).name, "engine": facts["engine"],
        "size": args.size, "fps": args.fps, "seconds": args.seconds, **figures(seen, records),
    }  # fmt: skip


def figures(seen: list[Seen], records: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Ages in ms and counts of drops, from what a viewer saw and the valid records by sequence."""
    seen = [each for each in seen if each.sequence in records]
    if len(seen) < 2:
        raise PspnetError(f"{len(seen)} numbered pictures reached the viewer: give more --seconds or a larger --size")
    offsets = {each.code - each.sequence for each in seen}
    if len(offsets) > 1:
        raise PspnetError(f"numbers are {sorted(offsets)} from their records' sequence: it must be one value")
    (offset,) = offsets
    first, last = seen[0].code, seen[-1].code
    labelled = sum(first <= sequence + offset <= last for sequence in records)
    ages = [(each.decoded_ns - records[each.sequence]["captured_ns"]) / 1e6 for each in seen]
    return {
        "pictures": len(seen), "numbers": last - first + 1, "age_ms": percentiles(ages),
        "drops": {"before_labels": last - first + 1 - labelled, "after_labels": labelled - len(seen)},
    }  # fmt: skip


def _page(stderr: IO[str]) -> str:
    """The page's address, once the run says it."""
    said = ""
    for line in stderr:
        if found := PAGE.search(line):
            return found[1]
        said = line.strip()
    raise PspnetError(f"pspnet run ended before it served a page: {said}")


def _watched(address: str, seconds: float) -> Iterator[Seen]:
    """Pictures of a stream whose number can be read, for a while after the first and a warm-up; each number once."""
    started_s, last = 0.0, -1
    with _opened(address) as stream:
        for sequence, data in jpegs_of(stream):
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            code, now_ns = None if picture is None else frame_code.decode(picture), time.monotonic_ns()
            if code is None or code == last:
                continue
            last, started_s = code, started_s or now_ns / 1e9 + WARM_UP_S
            if now_ns / 1e9 > started_s + seconds:
                return
            if now_ns / 1e9 > started_s:
                yield Seen(sequence, code, now_ns)


def _opened(address: str) -> Any:
    """The stream, once the engine is loaded and the camera runs."""
    due_s = time.monotonic() + START_S
    while True:
        try:
            return urllib.request.urlopen(address, timeout=START_S)
        except urllib.error.URLError as error:
            waits = isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.SERVICE_UNAVAILABLE
            if not waits or time.monotonic() > due_s:
                raise PspnetError(f"the page of pspnet run gives no pictures ({error})") from error
        time.sleep(0.2)


def jpegs_of(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Sequence and JPEG of each part of a multipart stream."""
    while line := stream.readline():
        if not line.startswith(b"--"):
            continue
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        yield int(headers[b"x-pspnet-sequence"]), stream.read(int(headers[b"content-length"]))


if __name__ == "__main__":
    sys.exit(main())
