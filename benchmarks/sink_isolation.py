"""Shows that what is slow, full or dead beside a camera does not make its frames older.

python benchmarks/sink_isolation.py --json docs/results/sink-isolation.json

One test:// camera, an engine that only takes its time, and four outputs: one that notes when frames arrive, the page,
JSON lines on a small disk, and labels in shared memory that another process reads. Each run disturbs one thing:

    viewer      somebody watches the page and reads 1 byte per second
    disk        the disk of the JSON lines is full
    consumer    the process that reads the shared labels is killed
    dead        a second camera whose reads never return, and whose process is replaced again and again
    slow        a second camera whose pictures come 400 ms late

In each round one undisturbed run is followed by one run of each kind, in turn. Figures are the 99th percentiles of
frame age at the first output; the change is that against the undisturbed run of the same round, median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fault_outputs import fill, sipping, small_disk
from benchmarks.live_overhead import FixedRunner
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import size_from_text
from runtime.bench_report import stamped
from runtime.board import Board
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet, Sink
from runtime.pipeline import percentiles
from runtime.record import Record
from runtime.segmenter import CpuSegmenter
from runtime.server import Server
from runtime.sink_mjpeg import MjpegSink
from runtime.sink_recording import JsonlRecording
from runtime.sink_shared_labels import SharedLabelsSink
from runtime.telemetry import Telemetry

ROOT = Path(__file__).parents[1]
FRONT, SECOND = "front", "second"
SECOND_CAMERAS = {"dead": "hang&loop=1", "slow": "slow 400ms 1h"}
"""Neither gives the engine anything to do: what two cameras that share it cost each other is another matter."""

KINDS = ("viewer", "disk", "consumer", *SECOND_CAMERAS)
GOAL = 0.10
WARM_UP, SETTLE_S, PATIENCE_S = 20, 0.5, 60.0
VIEWER_S = 4.0  # after which another viewer comes; the page drops each after 5 s
CONSUMER = """
import sys
from runtime.shared_labels import LabelReader
with LabelReader(sys.argv[1]) as reader:
    number = 0
    while True:
        number = reader.read(number, 1.0).number
"""


def main(arguments: list[str] | None = None) -> int:
    """Print the table; write it to --json too."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--engine-ms", type=float, default=20.0)
    options.add_argument("--size", default="360x480", help="HxW of the pictures")
    options.add_argument("--fps", type=float, default=30.0)
    options.add_argument("--frames", type=int, default=230, help="of a run")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--kinds", default=",".join(KINDS), help=f"with commas, of {', '.join(KINDS)}")
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args(arguments)
    try:
        result = stamped(measured(args), "python benchmarks/sink_isolation.py")
        if args.json:
            write_json(args.json, result)
    except PspnetError as error:
        print(f"benchmarks/sink_isolation.py: {error}", file=sys.stderr)
        return 2
    show(result)
    return 0


class Ages(Sink):
    """Frame ages of the first camera in ms when records arrive, from `begin` on."""

    def __init__(self) -> None:
        self.before, self.ages_ms, self.wanted = 0, list[float](), False

    def __call__(self, record: Record) -> None:
        """One more."""
        age_ms = record.age_at_ms(time.monotonic_ns())
        if record.camera == FRONT and record.valid and age_ms is not None:
            self.before += not self.wanted
            if self.wanted:
                self.ages_ms.append(age_ms)


class FullDisk(Sink):
    """In place of a full disk where no small one can be mounted. full: from when on."""

    full = False

    def __call__(self, record: Record) -> None:
        """Nothing, or the error of a full disk."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Percentiles of each run, changes of their p99 against the undisturbed run of the round, and their medians."""
    kinds = args.kinds.split(",")
    if odd := set(kinds) - set(KINDS):
        raise PspnetError(f"--kinds {', '.join(sorted(odd))}: give some of {','.join(KINDS)}")
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("alone", *kinds)}
    for turn in range(args.rounds):
        shift = turn % len(kinds)  # so that no kind always follows the same one
        for kind in ("alone", *kinds[shift:], *kinds[:shift]):
            runs[kind].append(percentiles(one_run(kind, args)))
    rows = []
    for kind in kinds:
        pairs = zip(runs[kind], runs["alone"], strict=True)
        changes = [disturbed["p99"] / alone["p99"] - 1 for disturbed, alone in pairs]
        change = median(changes)
        rows.append({"kind": kind, "p99_change": change, "changes": changes, "met": change < GOAL})
    ages = {kind: {mark: median(run[mark] for run in each) for mark in each[0]} for kind, each in runs.items()}
    return {
        "kind": "sink isolation", "engine_ms": args.engine_ms, "fps": args.fps, "size": size_from_text(args.size),
        "rounds": args.rounds, "frames_per_run": args.frames, "goal": GOAL, "age_ms": ages, "runs": runs, "rows": rows,
    }  # fmt: skip


def one_run(kind: str, args: argparse.Namespace) -> list[float]:
    """Frame ages in ms of one run with a disturbance, or with none."""
    size, ages, stop = size_from_text(args.size), Ages(), threading.Event()
    prefix = f"isolation{os.getpid()}-"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mounted = stack.enter_context(small_disk(folder, "16m"))
        lines = JsonlRecording(folder / "records.jsonl", 0) if mounted else FullDisk()
        runner = FixedRunner(size, args.engine_ms)
        cameras = [_camera(FRONT, args, "")]
        if kind in SECOND_CAMERAS:
            cameras.append(_camera(SECOND, args, SECOND_CAMERAS[kind]))
        names = [camera.name for camera in cameras]
        pictures, telemetry, board = MjpegSink(runner.spec, names), Telemetry(), Board(dict.fromkeys(names, 10_000.0))
        server = stack.enter_context(Server(telemetry, board, port=0, pictures=pictures))
        labels = SharedLabelsSink(runner.spec, names, prefix)
        outlets = [Outlet(ages, "ages"), Outlet(pictures, "page"), Outlet(lines, "lines"), Outlet(labels, "labels")]
        arguments = (cameras, CpuSegmenter(runner), outlets, LiveSettings(), stop, None, telemetry, board)
        run = threading.Thread(target=run_live, args=arguments)
        run.start()
        try:
            consumer = stack.enter_context(_consumer(prefix + FRONT))
            _await(lambda: ages.before >= WARM_UP, run)
            with _disturbed(kind, server, folder, lines, consumer):
                time.sleep(SETTLE_S)
                ages.wanted = True
                _await(lambda: len(ages.ages_ms) >= args.frames, run)
        finally:
            stop.set()
            run.join()
    return ages.ages_ms[: args.frames]


def _camera(name: str, args: argparse.Namespace, script: str) -> Camera:
    uri = f"test://pattern?size={args.size}&fps={args.fps:g}&code=0&script={script}"
    settings = CameraSettings(name, uri, fps=args.fps, open_deadline_s=10.0 if name == FRONT else 1.0)
    # No age is too much for the first: what is measured must not depend on a limit.
    return Camera(dataclasses.replace(settings, max_age_ms=10_000) if name == FRONT else settings, seed=0)


@contextlib.contextmanager
def _disturbed(
    kind: str, server: Server, folder: Path, lines: JsonlRecording | FullDisk, consumer: subprocess.Popen[bytes]
) -> Iterator[None]:
    """One thing goes wrong inside of the block; second cameras do so by themselves."""
    end = threading.Event()

    def view() -> None:
        while not end.is_set():
            with sipping(server, FRONT):
                end.wait(VIEWER_S)

    viewer = threading.Thread(target=view)
    if kind == "viewer":
        viewer.start()
    elif kind == "consumer":
        consumer.kill()
    elif kind == "disk" and isinstance(lines, FullDisk):
        lines.full = True
    elif kind == "disk":
        fill(folder / "ballast")
    try:
        yield
    finally:
        end.set()
        if viewer.ident is not None:
            viewer.join()


@contextlib.contextmanager
def _consumer(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads the shared labels as they come."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, name], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _await(condition: Callable[[], bool], run: threading.Thread) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end_s or not run.is_alive():
            raise PspnetError(f"no frames came for {PATIENCE_S:g} s, or the run ended: is the machine overloaded?")
        time.sleep(0.01)


def show(result: dict[str, Any]) -> None:
    """Print one row per kind."""
    print(f"engine {result['engine_ms']:g} ms, {result['fps']:g} fps, {result['rounds']} rounds, frame age in ms")
    changes = {row["kind"]: row for row in result["rows"]}
    for kind, marks in result["age_ms"].items():
        told = "undisturbed"
        if kind in changes:
            row = changes[kind]
            spread = f"{100 * min(row['changes']):+.1f} to {100 * max(row['changes']):+.1f} %"
            told = f"p99 {100 * row['p99_change']:+.1f} % ({spread}): {'met' if row['met'] else 'not met'}"
        print(f"{kind:>10}  p50 {marks['p50']:7.2f}   p90 {marks['p90']:7.2f}   p99 {marks['p99']:7.2f}   {told}")
    print(f"goal: less than {100 * result['goal']:g} % more")


if __name__ == "__main__":
    sys.exit(main())
