"""Each condition is raised by a scripted camera and by no frame of the shipped clip, and begins and ends with delay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from pspnet.spec import IGNORE
from runtime.camera_uri import camera_uri
from runtime.frame import Frame
from runtime.health import CONDITIONS, LEARN_S, HealthWatch, class_shares, picture_values
from runtime.pattern import Pattern, packed_from_bgr
from runtime.source import open_source
from tests.nets import CAMVID, CLIP

SIZE, FPS, CLASSES = (360, 480), 10, 5
LAYOUTS = ("bgr", "rgb", "grey", "nv12", "yuyv", "uyvy")
LOOKS = {"black": "dark", "dark": "dark", "white": "over_exposed", "cover": "covered"}
"""What a test:// camera can be told to show -> the condition that it must raise."""


def frame(bgr: np.ndarray, at_s: float, layout: str = "bgr", full_range: bool = False) -> Frame:
    if layout == "rgb":
        image = np.ascontiguousarray(bgr[:, :, ::-1])
    elif layout == "grey":
        image = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    else:
        image = bgr if layout == "bgr" else packed_from_bgr(bgr, layout, "601", full_range)
    return Frame(image, layout, "front", 0, int(at_s * 1e9), 0, full_range=full_range)


def labels(*shares: float) -> np.ndarray:
    """(100, 200) with bands of the classes, in these shares; what is left is unlabelled."""
    made, top = np.full((100, 200), IGNORE, np.uint8), 0
    for index, share in enumerate(shares):
        made[top : top + round(100 * share)] = index
        top += round(100 * share)
    return made


ROAD = labels(0.4, 0.3, 0.2, 0.1)


def clip(seconds: float, look: str = "", start_s: float = 0.0, layout: str = "bgr") -> Iterator[Frame]:
    """A scripted camera's pictures; it draws a frame code over all but black, white and cover."""
    pattern = Pattern(SIZE)
    for count in range(int(seconds * FPS)):
        yield frame(pattern.draw(count, look), start_s + count / FPS, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("look", LOOKS)
def test_a_scripted_camera_raises_its_condition_alone_and_recovers(look: str, layout: str) -> None:
    watch, condition = HealthWatch(CLASSES), LOOKS[look]
    assert {watch.see(one, ROAD) for one in clip(2, layout=layout)} == {()}
    bad = [watch.see(one, ROAD) for one in clip(3, look, 2, layout)]
    begin = CONDITIONS[condition].begin_s * FPS
    assert bad[int(begin) - 1] == () and bad[int(begin) + 1] == (condition,) and set(bad) == {(), (condition,)}
    well = [watch.see(one, ROAD) for one in clip(4, "", 5, layout)]
    end = CONDITIONS[condition].end_s * FPS
    assert well[int(end) - 1] == (condition,) and well[int(end) + 1] == ()


@pytest.mark.parametrize("full_range", [False, True])
def test_black_and_white_are_those_of_the_range(full_range: bool) -> None:
    black, white = (np.full((*SIZE, 3), level, np.uint8) for level in (0, 255))
    assert picture_values(frame(black, 0, "nv12", full_range))["dark"] == 1
    assert picture_values(frame(white, 0, "nv12", full_range))["over_exposed"] == 1
    dim = np.full((*SIZE, 3), 30, np.uint8)  # above the limit in either range
    assert picture_values(frame(dim, 0, "nv12", full_range))["dark"] == 0


def test_a_short_flash_raises_nothing() -> None:
    watch = HealthWatch(CLASSES)
    for start_s in (0.0, 2.0, 4.0):
        assert {watch.see(one, ROAD) for one in clip(0.9, "white", start_s)} == {()}
        assert {watch.see(one, ROAD) for one in clip(1, "", start_s + 1)} == {()}


def test_no_frame_of_the_shipped_clip_and_no_shipped_picture_raises_anything() -> None:
    """Picture conditions on every frame, without hysteresis; labels need a network: benchmarks/health_check.py."""
    pictures = [cv2.imread(str(path)) for path in sorted(CAMVID.rglob("images/*"))]
    shown = [*open_source(str(CLIP)), *(frame(picture, 0) for picture in pictures)]
    assert len(shown) > 100
    for one in shown:
        values = picture_values(one)
        assert all(value < CONDITIONS[name].below for name, value in values.items()), (one.name, values)


def test_one_class_alone_is_noticed_whatever_is_unlabelled() -> None:
    watch, pictures = HealthWatch(CLASSES), list(clip(6))
    seen = [watch.see(one, labels(0.0, 0.5)) for one in pictures[:30]]
    assert seen[-1] == ("single_class",) and seen[0] == ()
    seen = [watch.see(one, ROAD) for one in pictures[30:]]
    assert seen[-1] == ()
    assert {
        watch.see(dataclasses.replace(one, captured_ns=one.captured_ns + 10**10), labels()) for one in pictures
    } == {()}  # nothing labelled says nothing about classes


def test_shares_are_of_the_labelled_pixels() -> None:
    assert np.allclose(class_shares(labels(0.2, 0.1, 0.1), CLASSES), [0.5, 0.25, 0.25, 0, 0])
    assert class_shares(labels(0.01), CLASSES) is None


def drive(watch: HealthWatch, start_s: float, seconds: float, shown: np.ndarray) -> list[tuple[str, ...]]:
    """Conditions at 2 fps of a picture without anything wrong."""
    picture = Pattern(SIZE).draw(0)
    return [watch.see(frame(picture, start_s + count / 2), shown) for count in range(int(seconds * 2))]


def test_drift_is_noticed_and_becomes_normal_after_minutes() -> None:
    watch, other = HealthWatch(CLASSES), labels(0.05, 0.05, 0.1, 0.2, 0.6)
    assert set(drive(watch, 0, 60, ROAD)) == {()}
    moved = drive(watch, 60, 30, other)
    assert moved[0] == () and moved[-1] == ("drift",)
    assert drive(watch, 90, 400, other)[-1] == ()


def test_a_slow_change_and_a_change_before_there_is_a_baseline_are_no_drift() -> None:
    assert set(drive(HealthWatch(CLASSES), 0, LEARN_S / 2, ROAD)) == {()}
    watch, at_s = HealthWatch(CLASSES), 0.0
    for step in np.linspace(0, 1, 21):
        shown = labels(0.6 - 0.5 * step, 0.3, 0.1 + 0.3 * step, 0.2 * step)
        assert set(drive(watch, at_s, 30, shown)) == {()}
        at_s += 30


def test_the_baseline_learns_nothing_from_a_bad_picture() -> None:
    """What a network sees for minutes under a covered lens is not what is normal afterwards."""
    watch, cover = HealthWatch(CLASSES), Pattern(SIZE).draw(0, "cover").copy()
    drive(watch, 0, 60, ROAD)
    for count in range(400):
        held = watch.see(frame(cover, 60 + count / 2), labels(0, 0, 0, 0.4, 0.6))
    assert "covered" in held
    assert drive(watch, 260, 15, ROAD)[-1] == ()


def test_time_that_nobody_saw_counts_for_nothing() -> None:
    """After an hour without pictures the shares of before are still the baseline."""
    watch = HealthWatch(CLASSES)
    drive(watch, 0, 60, ROAD)
    assert drive(watch, 3660, 10, labels(0.05, 0.05, 0.1, 0.2, 0.6))[-1] == ("drift",)


def test_the_looks_are_words_of_the_script() -> None:
    for look in LOOKS:
        camera_uri(f"test://pattern?script={look} 2s")
