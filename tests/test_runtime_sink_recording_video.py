"""Recordings as video: parts that play and keep time, gaps that show, and encoders and disks that do not keep up."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import sink_recording, view_sink
from runtime.record import Record
from runtime.sink_recording import VideoRecording
from tests.live_records import SPEC, record_of

FLOOR = 0  # tests keep nothing free
LOSSY_LEVELS = 10  # mean error of a VP8 frame made of a few even fields


class Clock:
    """Stands for `time` in the recording module. now_ns: what the test says it is."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (sink_recording, view_sink):
        monkeypatch.setattr(module, "time", clock)
    return clock


def at(record: Record, clock: Clock) -> Record:
    """The record as if its picture had come this moment."""
    return dataclasses.replace(record, captured_ns=clock.now_ns, published_ns=clock.now_ns)


def read_video(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def test_video_shows_the_overlay_beside_the_legend_and_keeps_time(tmp_path: Path, clock: Clock) -> None:
    sink = VideoRecording(tmp_path, SPEC, fps=10.0, alpha=0.25, floor_bytes=FLOOR)
    for tick in range(61):  # 30 pictures a second for two seconds
        sink(at(record_of(tick // 3, (241, 321)), clock))
        clock.now_ns += 33_333_333
    sink.close()
    [path] = tmp_path.iterdir()
    assert path.name.startswith("front_") and path.suffix == ".webm" and "partial" not in path.name
    frames = read_video(path)
    assert abs(len(frames) - 20) <= 1
    colours = np.array([(b, g, r) for r, g, b in SPEC.palette], np.float64)
    frame = frames[0]
    assert frame.shape[0] == 240 and frame.shape[1] > 320 and frame.shape[1] % 2 == 0
    labels = record_of(0, (241, 321)).labels
    assert labels is not None
    inside = slice(70, 190)
    expected = 0.75 * 90 + 0.25 * colours[labels[inside, :320]]
    assert np.median(np.abs(frame[inside, :320] - expected)) <= LOSSY_LEVELS


def test_gaps_are_filled_then_shown_as_no_signal(tmp_path: Path, clock: Clock) -> None:
    sink = VideoRecording(tmp_path, SPEC, fps=10.0, floor_bytes=FLOOR)
    sink(at(record_of(0, (240, 320)), clock))
    for _ in range(8):
        clock.now_ns += 500_000_000
        sink.idle()
    sink.close()
    [path] = tmp_path.iterdir()
    frames = read_video(path)
    assert 35 <= len(frames) <= 42  # four seconds
    bright, last = frames[5][20:60, 20:300], frames[-1][20:60, 20:300]
    assert abs(float(bright.mean()) - 90) < LOSSY_LEVELS and float(last.mean()) < 40


def test_an_encoder_that_is_too_slow_does_not_fall_behind(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = VideoRecording(tmp_path, SPEC, fps=100.0, floor_bytes=FLOOR)
    sink(at(record_of(0), clock))
    part = sink._parts["front"]
    encoded = []

    def slow(picture: np.ndarray) -> None:
        clock.now_ns += 50_000_000  # five periods
        encoded.append(1)

    monkeypatch.setattr(part, "_writer", type("Writer", (), {"write": staticmethod(slow), "release": lambda _: None})())
    for sequence in range(1, 40):
        begun_ns = clock.now_ns
        sink(at(record_of(sequence), clock))
        assert clock.now_ns - begun_ns <= 200_000_000
        clock.now_ns += 10_000_000
    assert len(encoded) >= 39


def test_parts_end_by_time_and_by_size(tmp_path: Path, clock: Clock) -> None:
    sink = VideoRecording(tmp_path, SPEC, part_s=2.0, floor_bytes=FLOOR)
    for tick in range(50):
        sink(at(record_of(tick, (96, 128) if tick < 45 else (48, 64)), clock))
        whole = [path for path in tmp_path.iterdir() if "partial" not in path.name]
        assert all(read_video(path) for path in whole)
        clock.now_ns += 100_000_000
    sink.close()
    sizes = [(len(read_video(path)), read_video(path)[0].shape[0]) for path in sorted(tmp_path.iterdir())]
    assert [height for _, height in sizes] == [96, 96, 96, 48] and sum(count for count, _ in sizes) == 50


def test_two_cameras_have_videos_of_their_own(tmp_path: Path, clock: Clock) -> None:
    sink = VideoRecording(tmp_path, SPEC, floor_bytes=FLOOR)
    for camera in ("front", "rear"):
        sink(at(record_of(0, camera=camera), clock))
    sink.close()
    assert sorted(path.name.split("_")[0] for path in tmp_path.iterdir()) == ["front", "rear"]


def test_a_video_that_was_removed_is_told_and_begun_anew(tmp_path: Path, clock: Clock) -> None:
    sink = VideoRecording(tmp_path / "v", SPEC, floor_bytes=FLOOR)
    sink(at(record_of(0), clock))
    clock.now_ns += 100_000_000
    for path in (tmp_path / "v").iterdir():
        path.unlink()
    (tmp_path / "v").rmdir()
    with pytest.raises(PspnetError, match="No such file"):
        sink(at(record_of(1), clock))
    clock.now_ns += 100_000_000
    sink(at(record_of(2), clock))
    sink.close()
    [path] = (tmp_path / "v").iterdir()
    assert len(read_video(path)) == 1


def test_a_video_that_does_not_grow_is_told(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_recording, "UNWRITTEN_S", 0.5)
    sink = VideoRecording(tmp_path, SPEC, floor_bytes=FLOOR)
    with pytest.raises(PspnetError, match="does not grow"):
        for sequence in range(40):  # the encoder keeps some seconds to itself, as if nothing reached the disk
            sink(at(record_of(sequence), clock))
            clock.now_ns += 100_000_000


KILLED = """
import os, signal, sys
import numpy as np
from runtime import sink_recording, view_sink
from tests.live_records import SPEC, record_of
from tests.test_runtime_sink_recording_video import Clock, at
clock = sink_recording.time = view_sink.time = Clock()
sink = sink_recording.VideoRecording(sys.argv[1], SPEC, fps=10.0, floor_bytes=0)
generator = np.random.default_rng(0)
for number in range(int(sys.argv[2])):
    record = record_of(number, (240, 320))
    record.frame.image[:] = generator.integers(0, 256, record.frame.image.shape)
    sink(at(record, clock))
    clock.now_ns += 10**8
os.kill(os.getpid(), signal.SIGKILL)
"""
LONG, SHORT = 150, 1  # pictures: 15 s, of which the encoder has written most, and one that it still holds back


def killed_run(folder: Path, pictures: int) -> Path:
    """The part that a run left that was killed after so many pictures."""
    code = [sys.executable, "-c", KILLED, str(folder), str(pictures)]
    done = subprocess.run(code, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [part] = folder.glob("*.partial.webm")
    return part


def test_parts_of_killed_runs_are_kept_where_they_play(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    short = killed_run(tmp_path / "short", SHORT)
    long = killed_run(tmp_path / "long", LONG)
    cut = long.with_name(long.name.replace(".partial.", ".cut."))
    VideoRecording(tmp_path / "short", SPEC, floor_bytes=FLOOR).close()
    assert not list(short.parent.iterdir()) and capsys.readouterr().err == ""
    VideoRecording(tmp_path / "long", SPEC, floor_bytes=FLOOR).close()
    assert list(long.parent.iterdir()) == [cut] and len(read_video(cut)) > LONG / 3
    assert capsys.readouterr().err == f"pspnet: a run that was killed left {cut.name}\n"
    VideoRecording(tmp_path / "long", SPEC, floor_bytes=FLOOR).close()
    assert list(long.parent.iterdir()) == [cut] and capsys.readouterr().err == ""


def test_parts_of_a_living_run_are_not_touched(tmp_path: Path, clock: Clock) -> None:
    first = VideoRecording(tmp_path, SPEC, fps=10.0, floor_bytes=FLOOR)
    first(at(record_of(0, (240, 320)), clock))
    [part] = tmp_path.glob("*.partial.webm")
    before = part.stat().st_ino
    second = VideoRecording(tmp_path, SPEC, fps=10.0, floor_bytes=FLOOR)
    assert sink_recording.keep_orphans(tmp_path) == [] and part.stat().st_ino == before
    clock.now_ns += 10**9
    first(at(record_of(1, (240, 320)), clock))
    second.close()
    first.close()
    [whole] = tmp_path.iterdir()
    assert whole.name == part.name.replace(".partial", "") and len(read_video(whole)) > 5
    assert sink_recording.keep_orphans(tmp_path) == []
