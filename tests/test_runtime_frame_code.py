"""The frame code: read back after all that a picture suffers on its way to a viewer, and never misread."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runtime import frame_code
from runtime.pattern import Pattern

NUMBERS = (0, 1, 2, 12345, frame_code.LIMIT - 1, 0xAAAAAA, 0x555555)


def after_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("size", [(90, 120), (240, 320), (360, 480), (540, 960), (1080, 1920)])
@pytest.mark.parametrize("number", NUMBERS)
def test_code_is_read_back(size: tuple[int, int], number: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert frame_code.draw(image, number)
    assert frame_code.decode(image) == number


def test_number_counts_on_from_zero_behind_the_last() -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    frame_code.draw(image, frame_code.LIMIT + 7)
    assert frame_code.decode(image) == 7


@pytest.mark.parametrize("number", NUMBERS)
def test_code_survives_jpeg_resizing_and_an_overlay(number: int) -> None:
    image = Pattern((360, 480), code=False).draw(0).copy()
    frame_code.draw(image, number)
    assert frame_code.decode(after_jpeg(image, 30)) == number
    assert frame_code.decode(after_jpeg(cv2.resize(image, (320, 180)), 60)) == number
    assert frame_code.decode(after_jpeg(cv2.resize(image, (1280, 960)), 60)) == number
    labels = np.random.default_rng(1).integers(0, 2, (12, 16), np.uint8)
    colours = np.array([[60, 20, 30], [200, 190, 192]], np.uint8)[cv2.resize(labels, (480, 360), interpolation=0)]
    assert frame_code.decode(after_jpeg(cv2.addWeighted(image, 0.5, colours, 0.5, 0), 80)) == number


def test_pictures_without_a_code_have_none() -> None:
    generator = np.random.default_rng(2)
    pictures = [np.full((360, 480, 3), value, np.uint8) for value in (0, 127, 255)]
    pictures += [generator.integers(0, 256, (360, 480, 3), np.uint8) for _ in range(20)]
    pictures.append(Pattern((360, 480), code=False).draw(5))
    assert [frame_code.decode(picture) for picture in pictures] == [None] * len(pictures)


def test_damaged_code_is_not_misread() -> None:
    image = np.zeros((360, 480, 3), np.uint8)
    frame_code.draw(image, 4711)
    seen = set()
    for index in range(frame_code.BITS + frame_code.CHECK_BITS):
        damaged = image.copy()
        upper, lower = frame_code._pair(index, (360, 480))
        damaged[upper], damaged[lower] = image[lower], image[upper]
        seen.add(frame_code.decode(damaged))
    assert seen == {None}


def test_small_pictures_have_no_code() -> None:
    image = np.zeros((89, 120, 3), np.uint8)
    assert not frame_code.draw(image, 1) and not image.any() and frame_code.decode(image) is None
