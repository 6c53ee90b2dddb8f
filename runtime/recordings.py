"""Many recordings through one network: a list of files, split over several machines, taken up again where it ended.

Each recording becomes a `folder` data set of its own, and one line of a manifest: DIR/manifest-2-of-8.jsonl for --shard
2/8. Shards never write the same file, so that machines can share the folder; what is done is read from all manifests of
the folder, so that the next run may be split in another way.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError, is_out_of_memory
from pspnet.geometry import region_from_text
from pspnet.metadata import artefact_sha256
from pspnet.wording import counted
from runtime.camera_uri import without_credentials
from runtime.cuda import CudaError, CudaOutOfMemory
from runtime.pipeline import segment_stream
from runtime.runner import open_runner
from runtime.segmenters import AnySegmenter, segmenting
from runtime.sink import FolderSink
from runtime.source import open_source

DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class RecordingSettings:
    """How every recording is run, as for a single one on the command line."""

    artefact: str
    engine: str = "auto"
    threads: int | None = None
    pin: str | None = None
    fit: str | None = None
    region: str | None = None
    limit: int | None = None


def run_recordings(
    settings: RecordingSettings, list_file: str, shard: str, folder: str, say: Callable[[str], None] = print
) -> int:
    """Write the labels of this shard's recordings below `folder`; 0 where all are done, 2 where some failed.

    A recording that is done with the same network, settings and file is left out, whichever shard did it; one that
    failed is tried again.
    """
    first, of = shard_from_text(shard)
    recordings = read_list(list_file)[first - 1 :: of]
    manifest = Path(folder) / f"manifest-{first}-of-{of}.jsonl"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    region = region_from_text(settings.region) if settings.region else None
    with (
        open_runner(settings.artefact, settings.engine, settings.threads, settings.pin) as runner,
        segmenting(runner, settings.fit, region) as segmenter,
    ):
        key = _key(settings, segmenter)
        before = read_manifests(manifest.parent)
        _check_key(manifest.parent, before, key)
        counts = {DONE: 0, FAILED: 0, "left out": 0}
        for recording in recordings:
            name = folder_name(recording)
            line: dict[str, Any] = {"file": str(recording), "output": name, "key": key, **_facts(recording)}
            earlier = before.get(str(recording), {})
            if earlier.get("state") == DONE and all(earlier.get(each) == line[each] for each in line):
                counts["left out"] += 1
                continue
            line |= _run_one(recording, Path(folder) / name, segmenter, settings)
            _append(manifest, line)
            counts[line["state"]] += 1
            if line["state"] == FAILED:
                print(f"pspnet: {line['error']}", file=sys.stderr)
    parts = ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "none"
    say(f"{counted(len(recordings), 'recording')} of shard {first}/{of}: {parts}; {manifest}")
    return 2 if counts[FAILED] else 0


def shard_from_text(text: str) -> tuple[int, int]:
    """(first, of) of "2/8", which counts from 1."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise PspnetError(f"shard is {text!r}: write --shard I/N with I from 1 to N, for example 2/8")
    return int(found[1]), int(found[2])


def read_list(list_file: str | Path) -> list[Path]:
    """The recordings of a list, one per line, relative to the list's folder; # begins a comment line.

    The order is the list's, on which shards depend; PspnetError where one is named twice or none is.
    """
    path = Path(list_file)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PspnetError(f"cannot read list {path}: {reason}. Give a text file with one path per line") from error
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if camera := next((name for name in named if re.match(r"[A-Za-z][\w+.-]*://", name)), None):
        raise PspnetError(
            f"list {path} names {without_credentials(camera)}, and lists take files: clips, folders and photos. Give "
            "cameras on the command line, or with --config"
        )
    found = [path.parent / name for name in named]
    if not found:
        raise PspnetError(f"list {path} names no recording: write one path per line")
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise PspnetError(f"list {path} names {twice} twice: remove one line")
    return found


def read_manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest line of each recording in the manifests of all shards; one that a power cut cut off is left out."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("manifest-*-of-*.jsonl")):
        own: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                own[entry["file"]] = entry
            except (ValueError, KeyError, TypeError):
                continue
        for file, entry in own.items():
            if file not in found or str(entry.get("started", "")) >= str(found[file].get("started", "")):
                found[file] = entry
    return found


def folder_name(recording: Path) -> str:
    """The name of a recording's output: its own, and eight digits of its path, since names such as front.mp4 repeat."""
    digits = hashlib.sha256(str(recording).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', recording.stem)[:80]}-{digits}"


def _run_one(recording: Path, output: Path, segmenter: AnySegmenter, settings: RecordingSettings) -> dict[str, Any]:
    """Run one recording; what the manifest says about it. The output appears whole or not at all."""
    licence = segmenter.spec.licence or "not stated"
    note = f"labels predicted by {Path(settings.artefact).name}; its training data: {licence}"
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if output.is_dir():  # of a file that has changed since, or its line was not written before the power went
        shutil.rmtree(output)
    try:
        with open_source(str(recording)) as source:
            sink = FolderSink(output, segmenter.spec, note)
            summary = segment_stream(source, segmenter, [sink], limit=settings.limit)
    except PspnetError as error:
        if is_out_of_memory(error.__cause__) or isinstance(error, CudaError | CudaOutOfMemory):
            raise  # no fault of this recording, and the next would fail alike
        return {"state": FAILED, "error": str(error), "started": started}
    return {
        "state": DONE, "frames": summary["frames"], "seconds": round(summary["seconds"], 3),
        "service_ms": summary["service_ms"], "engine": segmenter.runner.engine,
        "precision": segmenter.runner.precision, "started": started,
    }  # fmt: skip


def _key(settings: RecordingSettings, segmenter: AnySegmenter) -> str:
    """What decides the labels, as eight digits: a changed network or setting makes earlier labels other ones.

    Engine and precision are those that the frames really run on: a checkpoint is float16 where PyTorch has a GPU and
    our kernels can reach it, else float32.
    """
    runner = segmenter.runner
    parts = [artefact_sha256(settings.artefact), runner.engine, runner.precision]
    parts += [str(each) for each in (settings.fit, settings.region, settings.limit)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _check_key(folder: Path, before: dict[str, dict[str, Any]], key: str) -> None:
    if others := [entry for entry in before.values() if entry.get("state") == DONE and entry.get("key") != key]:
        raise PspnetError(
            f"{folder} holds {counted(len(others), 'recording')} of another network or other settings: give another "
            "-o DIR, so that labels do not mix"
        )


def _facts(recording: Path) -> dict[str, int]:
    """What tells a recording from an earlier one of its name; nothing for a folder or a missing file."""
    if not recording.is_file():
        return {}
    status = recording.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _append(manifest: Path, line: dict[str, Any]) -> None:
    """One more line, on the disk before the next recording begins."""
    try:
        with open(manifest, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a power cut left half a line, which must not swallow this one
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PspnetError(f"cannot write {manifest}: {error.strerror or error}. Free space and run again") from error
