"""test:// and clip:// captures: each fault of the language as a reader meets it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import frame_code
from runtime.camera_uri import CameraUri, camera_uri
from runtime.capture import Capture, Picture, open_capture
from runtime.capture_errors import CaptureBroken, CaptureError, CaptureRefused, CaptureTimeout
from runtime.capture_test import CRASH_STATUS
from runtime.frame import Frame
from tests.cameras import blocks_sigterm

LOADED_S = 30.0  # deadline of what must come, on a machine with other work
YUV_LEVELS = 3.0  # mean error of a round trip through halved chroma of a smooth picture


def opened(script: str, more: str = "fps=100&size=90x120") -> tuple[CameraUri, Capture]:
    uri = camera_uri(f"test://pattern?{more}&script={script}")
    return uri, open_capture(uri, LOADED_S)


def pictures(capture: Capture, count: int) -> list[Picture]:
    found = []
    for _ in range(count):
        picture = capture.read(LOADED_S)
        found.append(Picture(picture.image.copy(), *list(vars(picture).values())[1:]))
    return found


def numbers(capture: Capture, count: int) -> list[int | None]:
    return [frame_code.decode(picture.image) for picture in pictures(capture, count)]


def cause_of_read(capture: Capture, deadline_s: float = LOADED_S) -> str:
    with pytest.raises(CaptureError) as caught:
        capture.read(deadline_s)
    return caught.value.cause


def test_pictures_move_count_and_keep_pace() -> None:
    _, capture = opened("", "fps=50&size=180x240")
    began = time.monotonic()
    found = pictures(capture, 10)
    assert time.monotonic() - began >= 8 / 50
    codes = [frame_code.decode(picture.image) for picture in found]
    assert codes == sorted(set(codes)) and None not in codes  # type: ignore[type-var]
    assert all((a.image != b.image).mean() > 0.05 for a, b in pairwise(found))
    stamps = [picture.sensor_ns for picture in found]
    assert stamps == sorted(stamps) and 0 <= time.monotonic_ns() - stamps[-1] < LOADED_S * 1e9  # type: ignore[type-var,operator]


def test_equal_seeds_give_equal_pictures_and_others_do_not() -> None:
    first = [opened("", f"size=90x120&seed={seed}")[1].read(LOADED_S).image.copy() for seed in (1, 1, 2)]
    assert (first[0] == first[1]).all() and (first[0] != first[2]).any()


def test_late_reader_loses_pictures_as_with_a_real_camera() -> None:
    _, capture = opened("")
    [first] = numbers(capture, 1)
    time.sleep(0.2)
    [later] = numbers(capture, 1)
    assert first is not None and later is not None and later - first >= 15


def test_storm_brings_more_pictures_than_asked() -> None:
    _, capture = opened("storm 20x 1h", "fps=2&size=90x120")
    began = time.monotonic()
    pictures(capture, 10)
    assert time.monotonic() - began < 9 / 2 / 2


def test_stall_is_a_timeout_and_heals() -> None:
    _, capture = opened("stall 300ms")
    assert cause_of_read(capture, 0.05) == "timeout"
    assert capture.read(LOADED_S).image.shape == (90, 120, 3)


def test_frozen_pictures_are_equal_bytes_and_a_parked_car_is_not() -> None:
    _, frozen = opened("ok 10ms; freeze 1h")
    found = pictures(frozen, 8)[-5:]
    assert all((picture.image == found[0].image).all() for picture in found)
    assert len({picture.sensor_ns for picture in found}) == 5
    _, still = opened("still 1h", "fps=100&size=90x120&code=0")
    found = pictures(still, 5)
    different = [np.abs(a.image.astype(int) - b.image) for a, b in pairwise(found)]
    assert all(0 < difference.mean() < 3 and difference.max() <= 4 for difference in different)


@pytest.mark.parametrize(
    ("look", "low", "high"), [("dark", 3, 30), ("black", 0, 5), ("white", 250, 255), ("cover", 20, 70)]
)
def test_light_and_lens(look: str, low: float, high: float) -> None:
    [picture] = pictures(opened(f"{look} 1h", "size=180x240&code=0")[1], 1)
    assert low <= picture.image.mean() <= high
    assert look == "dark" or picture.image.std(axis=(0, 1)).max() < 3


def test_damaged_pictures_are_counted_and_the_capture_goes_on() -> None:
    _, capture = opened("corrupt 3")
    assert [cause_of_read(capture) for _ in range(3)] == ["corrupt"] * 3
    assert capture.read(LOADED_S).image.any()


def test_resize_changes_the_pictures_and_stays_over_reconnection() -> None:
    uri, capture = opened("ok 10ms; resize 120x160; ok 10ms; cut")
    shapes = set()
    with pytest.raises(CaptureBroken):
        while True:
            shapes.add(capture.read(LOADED_S).image.shape)
            time.sleep(0.01)
    assert {(90, 120, 3), (120, 160, 3)} == shapes
    assert open_capture(uri, LOADED_S).read(LOADED_S).image.shape == (120, 160, 3)


def test_stamps_misbehave_as_told() -> None:
    assert {picture.sensor_ns for picture in pictures(opened("stamps zero 1h")[1], 3)} == {0}
    assert {picture.sensor_ns for picture in pictures(opened("stamps none 1h")[1], 3)} == {None}
    back = [picture.sensor_ns for picture in pictures(opened("stamps backward 1h")[1], 4)]
    assert back == sorted(back, reverse=True)  # type: ignore[type-var]
    [ahead] = pictures(opened("stamps future 1h")[1], 1)
    assert ahead.sensor_ns is not None and ahead.sensor_ns > time.monotonic_ns() + 10**12


def test_slow_pictures_are_old_when_they_come() -> None:
    [picture] = pictures(opened("slow 80ms 1h")[1], 1)
    assert picture.sensor_ns is not None and time.monotonic_ns() - picture.sensor_ns >= 79e6


def test_lost_pictures_leave_gaps_that_repeat_with_the_seed() -> None:
    found = [numbers(opened("drop 60% 1h", f"fps=200&size=90x120&seed={seed}")[1], 6) for seed in (3, 3)]
    lost = [set(range(1, 7)) - set(codes) for codes in found]
    assert lost[0] and all(codes == sorted(codes) for codes in found)  # type: ignore[type-var]


def test_refusals_come_with_their_cause_and_after_a_broken_connection() -> None:
    uri, capture = opened("ok 10ms; refuse 2 auth; cut")
    capture.read(LOADED_S)
    time.sleep(0.02)
    assert cause_of_read(capture) == "disconnected"
    for _ in range(2):
        with pytest.raises(CaptureRefused) as caught:
            open_capture(uri, 1)
        assert caught.value.cause == "auth"
    assert cause_of_read(open_capture(uri, 1)) == "disconnected"  # the cut
    assert open_capture(uri, 1).read(LOADED_S).image.any()


def test_camera_that_accepts_and_never_answers_is_a_timeout() -> None:
    uri = camera_uri("test://pattern?script=refuse 1 timeout")
    began = time.monotonic()
    with pytest.raises(CaptureTimeout):
        open_capture(uri, 0.1)
    assert time.monotonic() - began >= 0.1


def test_end_is_an_end() -> None:
    assert cause_of_read(opened("end")[1]) == "ended"


def test_interruption_ends_a_blocked_read() -> None:
    _, capture = opened("stall 1h")
    threading.Timer(0.1, capture.interrupt).start()
    began = time.monotonic()
    assert cause_of_read(capture, 60) == "disconnected" and time.monotonic() - began < LOADED_S


def read_for_ever(uri: CameraUri) -> None:
    capture = open_capture(uri, LOADED_S)
    while True:
        capture.read(LOADED_S)


def test_crash_ends_the_process_once_and_the_script_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads of BLAS, which numpy starts, would take the signal in the place of the one that blocks it.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    uri = camera_uri("test://pattern?fps=100&size=90x120&script=ok 30ms; crash; deaf")
    process = multiprocessing.get_context("spawn").Process(target=read_for_ever, args=(uri,))
    process.start()
    process.join(60)
    assert process.exitcode == CRASH_STATUS
    process = multiprocessing.get_context("spawn").Process(target=read_for_ever, args=(uri,))
    process.start()
    deadline = time.monotonic() + 60
    while uri.memory[0] < 2 or uri.memory[2] < 1 or not blocks_sigterm(process.pid):  # until it is deaf
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    process.join(0.5)
    assert process.is_alive()
    process.kill()
    process.join(60)


@pytest.mark.parametrize("layout", ["nv12", "yuyv", "uyvy"])
@pytest.mark.parametrize(("matrix", "full"), [("601", "limited"), ("709", "full")])
def test_packed_formats_are_the_same_picture(layout: str, matrix: str, full: str) -> None:
    more = "size=90x120&code=0&fps=30"
    bgr = opened("still 1h", more)[1].read(LOADED_S).image
    picture = opened("still 1h", f"{more}&format={layout}&matrix={matrix}&range={full}")[1].read(LOADED_S)
    assert (picture.format, picture.matrix, picture.full_range) == (layout, matrix, full == "full")
    frame = Frame(picture.image, picture.format, "t", 0, 0, 0, matrix=matrix, full_range=full == "full")
    assert frame.size == (90, 120) and np.abs(frame.bgr().astype(int) - bgr).mean() < YUV_LEVELS


def clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for index in range(frames):
        writer.write(np.full((120, 160, 3), 20 * index, np.uint8))
    writer.release()
    return path


def test_clip_suffers_the_same_faults(tmp_path: Path) -> None:
    uri = camera_uri(f"test://{clip(tmp_path / 'a.avi', 5)}?fps=200&script=corrupt 1")
    capture = open_capture(uri, 1)
    assert cause_of_read(capture) == "corrupt" and capture.decoder.startswith("FFmpeg")
    found = pictures(capture, 12)  # more than it has
    assert {picture.image.shape for picture in found} == {(120, 160, 3)}
    assert frame_code.decode(found[-1].image) is not None


def test_clip_plays_in_real_time_to_its_end_or_again(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.avi", 6)
    capture = open_capture(camera_uri(f"clip://{path}"), 1)
    began, read = time.monotonic(), 0
    with pytest.raises(CaptureError) as caught:
        while True:
            capture.read(LOADED_S)
            read += 1
    assert caught.value.cause == "ended" and 1 <= read <= 6
    assert time.monotonic() - began >= 4 / 25
    capture = open_capture(camera_uri(f"clip://{path}?loop=1&fps=500"), 1)
    assert len(pictures(capture, 15)) == 15


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    for scheme in ("clip", "test"):
        for name, cause in (("x.mp4", "codec"), ("absent.mp4", "not_found")):
            with pytest.raises(PspnetError) as caught:
                open_capture(camera_uri(f"{scheme}://{tmp_path}/{name}"), 1)
            assert caught.value.cause == cause  # type: ignore[attr-defined]
