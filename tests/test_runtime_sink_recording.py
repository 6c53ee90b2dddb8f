"""Recordings: every line and label map whole and exact, on disks that fill, are limited or vanish."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pspnet.dataset_classes import classes_from_json
from pspnet.errors import PspnetError
from pspnet.image import read_labels
from runtime import live_files
from runtime.outlet import Outlet, OutletState, Sink
from runtime.record import no_signal
from runtime.sink_recording import JsonlRecording, LabelRecording, VideoRecording
from tests.live_records import PATIENCE_S, SPEC, Keeping, record_of, until

FLOOR = 0  # tests keep nothing free, unless they say so


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_record_has_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    sink = JsonlRecording(path, FLOOR)
    records = [record_of(0), record_of(1).invalidated("too old", 5), no_signal("rear", SPEC, "no picture yet")]
    for number, record in enumerate(records):
        sink(record)
        assert lines_of(path)[number] == json.loads(json.dumps(record.as_json()))
    sink.close()
    assert [(line["camera"], line["valid"]) for line in lines_of(path)] == [
        ("front", True), ("front", False), ("rear", False)
    ]  # fmt: skip


def test_a_restart_goes_on_and_heals_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    sink = JsonlRecording(path, FLOOR)
    sink(record_of(0))
    sink.close()
    with open(path, "a") as file:
        file.write('{"camera": "fro')  # the power went
    sink = JsonlRecording(path, FLOOR)
    sink(record_of(1))
    sink.close()
    first, half, last = path.read_text().splitlines()
    assert (json.loads(first)["sequence"], half, json.loads(last)["sequence"]) == (0, '{"camera": "fro', 1)


def test_a_moved_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "r.jsonl"
    sink = JsonlRecording(path, FLOOR)
    sink(record_of(0))
    path.rename(tmp_path / "r.jsonl.1")
    sink(record_of(1))
    path.unlink()
    path.parent.rmdir()
    sink(record_of(2))
    sink.close()
    assert [line["sequence"] for line in lines_of(path)] == [2]
    assert [line["sequence"] for line in lines_of(tmp_path / "r.jsonl.1")] == [0]


def test_lines_of_two_runs_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    live_files.check_unwritten(path)
    sink = JsonlRecording(path, FLOOR)
    for refused in (lambda: JsonlRecording(path, FLOOR), lambda: live_files.check_unwritten(path)):
        with pytest.raises(PspnetError, match=r"another run writes .*r\.jsonl: stop it"):
            refused()
    path.rename(tmp_path / "r.jsonl.1")
    other = JsonlRecording(path, FLOOR)  # the name was free for a moment
    with pytest.raises(PspnetError, match="another run writes"):
        sink(record_of(0))
    other(record_of(1))
    other.close()
    sink(record_of(2))  # and it is ours again
    with pytest.raises(PspnetError, match="another run writes"):
        JsonlRecording(path, FLOOR)
    sink.close()
    live_files.check_unwritten(path)
    JsonlRecording(path, FLOOR).close()
    assert [line["sequence"] for line in lines_of(path)] == [1, 2] and lines_of(tmp_path / "r.jsonl.1") == []


def test_a_file_system_without_locks_records_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(live_files.fcntl, "flock", flock)
    for sequence in range(2):
        sink = JsonlRecording(tmp_path / "r.jsonl", FLOOR)
        live_files.check_unwritten(tmp_path / "r.jsonl")
        sink(record_of(sequence))
        sink.close()
    assert [line["sequence"] for line in lines_of(tmp_path / "r.jsonl")] == [0, 1]
    somebodys = tmp_path / "front_x.partial.webm"
    somebodys.write_bytes(b"nobody knows whether its writer lives")
    video = VideoRecording(tmp_path, SPEC, floor_bytes=FLOOR)
    video(record_of(0, (64, 96)))
    video.close()
    assert somebodys.exists() and len(list(tmp_path.glob("front_*.webm"))) == 2


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_degrades_this_outlet_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        path, ballast = disk / "r.jsonl", disk / "ballast"
        full, other = Outlet(JsonlRecording(path, FLOOR), "jsonl"), Outlet(kept := Keeping(), "other")
        sequence = 0

        def offer() -> None:
            nonlocal sequence
            sequence += 1
            for outlet in (full, other):
                outlet.offer(record_of(sequence))

        for outlet in (full, other):
            outlet.start()
        offer()
        until(lambda: full.status().delivered == 1)
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        until(lambda: (offer(), full.status().state is OutletState.DEGRADED)[1], "the full disk")
        assert "No space left on device" in full.status().message and str(path) in full.status().message
        assert other.status().state is OutletState.RUNNING and other.status().errors == 0
        ballast.unlink()
        delivered = full.status().delivered
        until(lambda: (offer(), full.status().delivered > delivered)[1], "recovery")
        for outlet in (full, other):
            assert outlet.stop(PATIENCE_S).state is OutletState.STOPPED
        sequences = [line["sequence"] for line in lines_of(path)]  # whole lines only
        assert sequences == sorted(set(sequences)) and kept.seen[-1][1] == sequence


def test_a_limit_in_the_middle_of_a_line_leaves_no_half(tmp_path: Path) -> None:
    code = f"""
import resource
from runtime.sink_recording import JsonlRecording
from tests.live_records import record_of
sink = JsonlRecording({str(tmp_path / "r.jsonl")!r}, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    for sequence in range(100):
        sink(record_of(sequence))
except Exception as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink(record_of(1000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.startswith("PspnetError cannot write") and "File too large" in done.stdout, done
    sequences = [line["sequence"] for line in lines_of(tmp_path / "r.jsonl")]
    assert sequences[:-1] == list(range(len(sequences) - 1)) and sequences[-1] == 1000 and len(sequences) > 2
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def sinks_with_floor(folder: Path, floor_bytes: int) -> list[Sink]:
    return [
        JsonlRecording(folder / "r.jsonl", floor_bytes),
        LabelRecording(folder / "labels", SPEC, "", floor_bytes),
        VideoRecording(folder / "video", SPEC, floor_bytes=floor_bytes),
    ]


def test_the_floor_of_the_disk_is_kept(tmp_path: Path) -> None:
    for sink in sinks_with_floor(tmp_path, 1 << 60):
        with pytest.raises(PspnetError, match="MiB are kept free"):
            sink(record_of(0))
        sink.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "classes.json"]
    assert [path.name for path in written] == ["r.jsonl"] and written[0].read_text() == ""


def test_label_maps_are_lossless_and_named_by_time(tmp_path: Path) -> None:
    sink = LabelRecording(tmp_path / "out", SPEC, "a licence", FLOOR)
    generator = np.random.default_rng(0)
    records = []
    for sequence in range(3):
        labels = generator.integers(0, 256, (48, 64), np.uint8)
        wall_ns = 1_795_000_000_123_456_789 + sequence * 10**9
        records.append(dataclasses.replace(record_of(sequence), labels=labels, wall_ns=wall_ns))
        sink(records[-1])
    sink(records[-1].invalidated("too old", 0))
    paths = sorted((tmp_path / "out" / "front").iterdir())
    assert paths[0].name == "front_20261118T110640.123Z_000000.png" and len(paths) == 3
    for path, record in zip(paths, records, strict=True):
        np.testing.assert_array_equal(read_labels(path), record.labels)
    assert classes_from_json(tmp_path / "out" / "classes.json").names == SPEC.class_names


def test_labels_of_other_classes_are_not_mixed(tmp_path: Path) -> None:
    LabelRecording(tmp_path, SPEC, "", FLOOR)
    LabelRecording(tmp_path, SPEC, "", FLOOR)
    other = dataclasses.replace(SPEC, class_names=("Road", "Car", "Sky"))
    with pytest.raises(PspnetError, match="labels of other classes"):
        LabelRecording(tmp_path, other, "", FLOOR)


def test_what_cannot_be_recorded_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    for make in (
        lambda: JsonlRecording(tmp_path / "file" / "r.jsonl", FLOOR),
        lambda: LabelRecording(tmp_path / "file", SPEC, "", FLOOR),
        lambda: VideoRecording(tmp_path / "file", SPEC, floor_bytes=FLOOR),
    ):
        with pytest.raises(PspnetError, match="cannot write"):
            make()
    with pytest.raises(PspnetError, match=r"give 0\.1 to 120"):
        VideoRecording(tmp_path / "v", SPEC, fps=1000)
    monkeypatch.setattr("runtime.sink.CODEC", "XXXX")
    with pytest.raises(PspnetError, match="OpenCV cannot write"):
        VideoRecording(tmp_path / "v", SPEC, floor_bytes=FLOOR)
    assert list((tmp_path / "v").iterdir()) == []


def test_stamps_sort_by_time() -> None:
    second_ns = 10**9
    stamps = [live_files.stamp_from_wall(wall_ns) for wall_ns in range(0, 100 * second_ns, second_ns // 3)]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)
