"""A frozen camera is found, and a parked car, a black picture and a moment of a coded stream are not taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from runtime.camera_settings import CameraSettings
from runtime.camera_uri import camera_uri
from runtime.frozen import FrozenWatch

FPS = 30
PERIOD_NS = 10**9 // FPS
SIZE = (90, 120)


def scene(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (*SIZE, 3), np.uint8)


def noisy(picture: np.ndarray, sequence: int) -> np.ndarray:
    """The picture with one grey level of noise on one pixel in a hundred."""
    noise = np.random.default_rng(sequence).random(picture.shape) < 0.01
    return picture + noise.astype(np.uint8)


def first_frozen_s(
    watch: FrozenWatch,
    picture: Callable[[int], np.ndarray],
    seconds: float = 6.0,
    layout: str = "bgr",
    stamp: Callable[[int], int | None] = lambda sequence: None,
) -> float | None:
    """Seconds from the first picture until the watch says frozen; None where it never does."""
    for sequence in range(int(seconds * FPS)):
        watch.see(picture(sequence), layout, 1 + sequence * PERIOD_NS, stamp(sequence))
        if watch.frozen:
            return sequence / FPS
    return None


def test_the_same_picture_is_frozen_after_the_limit_and_a_new_one_ends_it() -> None:
    watch = FrozenWatch(2.0)
    assert first_frozen_s(watch, lambda _: scene()) == pytest.approx(2.0, abs=2 / FPS)
    assert watch.frozen and not watch.repeated
    watch.see(scene(1), "bgr", 10 * 10**9, None)
    assert not watch.frozen


def test_a_parked_car_is_not_frozen() -> None:
    assert first_frozen_s(FrozenWatch(1.0), lambda sequence: noisy(scene(), sequence)) is None


def test_one_pixel_that_lives_is_enough() -> None:
    def picture(sequence: int) -> np.ndarray:
        image = scene()
        image[8, 77, 1] = sequence % 2  # in a row that the checksum does not look at
        return image

    rows = range(0, SIZE[0], SIZE[0] // 16)
    assert 8 not in rows
    assert first_frozen_s(FrozenWatch(1.0), picture) is None


def test_stamps_that_stand_still_are_found_sooner_and_are_no_scene_at_rest() -> None:
    watch = FrozenWatch(10.0)
    assert first_frozen_s(watch, lambda _: scene(), stamp=lambda _: 77) == pytest.approx(0.5, abs=2 / FPS)
    assert watch.repeated


def test_stamps_that_go_on_leave_the_limit_as_it_is() -> None:
    watch = FrozenWatch(3.0)
    found_s = first_frozen_s(watch, lambda _: scene(), stamp=lambda sequence: 1000 * sequence)
    assert found_s == pytest.approx(3.0, abs=2 / FPS) and not watch.repeated


def test_a_few_equal_pictures_of_a_slow_camera_are_not_enough() -> None:
    watch = FrozenWatch(1.0)
    for sequence in range(5):
        watch.see(scene(), "bgr", 1 + sequence * 10**9, None)
        assert not watch.frozen
    watch.see(scene(), "bgr", 1 + 5 * 10**9, None)
    assert watch.frozen


@pytest.mark.parametrize("value", [0, 255, 90])
def test_a_picture_without_contrast_says_nothing(value: int) -> None:
    assert first_frozen_s(FrozenWatch(1.0), lambda _: np.full((*SIZE, 3), value, np.uint8)) is None


@pytest.mark.parametrize(
    ("layout", "shape", "luma"),
    [("nv12", (135, 120), np.s_[:90]), ("yuyv", (90, 120, 2), np.s_[..., 0]), ("uyvy", (90, 120, 2), np.s_[..., 1])],
)
def test_every_format_is_understood(layout: str, shape: tuple[int, ...], luma: tuple[slice, ...]) -> None:
    black = np.full(shape, 128, np.uint8)
    black[luma] = 16
    lively = np.random.default_rng(3).integers(0, 255, shape, np.uint8)
    assert first_frozen_s(FrozenWatch(1.0), lambda _: black, layout=layout) is None
    assert first_frozen_s(FrozenWatch(1.0), lambda _: lively, layout=layout) == pytest.approx(1.0, abs=2 / FPS)


def test_size_and_format_may_change_at_any_time() -> None:
    watch = FrozenWatch(1.0)
    pictures = [scene(), scene()[:60], np.zeros((60, 120), np.uint8), scene()[:60]]
    for sequence in range(60):
        picture = pictures[sequence % 4]
        watch.see(picture, "grey" if picture.ndim == 2 else "bgr", sequence * PERIOD_NS, None)
        assert not watch.frozen


def test_the_picture_that_is_kept_is_ours() -> None:
    """Captures write each picture into the same memory."""
    buffer = scene()

    def picture(sequence: int) -> np.ndarray:
        buffer[8, 77, 1] = sequence % 2
        return buffer

    assert first_frozen_s(FrozenWatch(1.0), picture) is None


def test_zero_is_never() -> None:
    assert first_frozen_s(FrozenWatch(0.0), lambda _: scene()) is None


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [("v4l2:///dev/video0", 1), ("csi://0", 1), ("http://host/a", 3), ("rtsp://host/a", 10), ("clip://a.mp4", 10)],
)
def test_the_limit_is_that_of_the_kind_of_camera(uri: str, seconds: float) -> None:
    assert CameraSettings("a", uri).frozen_limit_s(camera_uri(uri)) == seconds
    assert CameraSettings("a", uri, frozen_after_s=0).frozen_limit_s(camera_uri(uri)) == 0
