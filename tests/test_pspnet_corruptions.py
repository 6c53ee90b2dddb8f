"""Corruptions against their formulas, one value after another, and the same for every run."""

from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet import corruptions
from pspnet.corruptions import CORRUPTIONS, SEVERITIES, STRENGTHS, corrupted, names_from_text
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from tests.nets import CAMVID

LEVEL = 1  # grey level: rounding to 8 bits, and OpenCV's fixed-point blur
SIGMA_SHARE = 0.03  # of the standard deviation, estimated from 120 x 160 x 3 values


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return open_dataset("auto", CAMVID, "val").read(0)[0][100:220, 100:260]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_keeps_its_form_and_gets_worse(name: str, photo: np.ndarray) -> None:
    before, errors = photo.copy(), []
    for severity in SEVERITIES:
        result = CORRUPTIONS[name](photo, severity, 7)
        assert result.shape == photo.shape and result.dtype == np.uint8
        np.testing.assert_array_equal(result, CORRUPTIONS[name](photo, severity, 7))
        errors.append(float(((result.astype(float) - photo) ** 2).mean()))
    np.testing.assert_array_equal(photo, before)
    assert errors[0] > 1 and errors == sorted(errors)
    assert set(STRENGTHS) == set(CORRUPTIONS)
    assert all(len(values) == len(SEVERITIES) for values in STRENGTHS[name].values())


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.08), (2, 0.18)])
def test_noise_has_the_stated_strength_and_no_offset(severity: int, sigma: float) -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    error = corruptions.noise(grey, severity, 3).astype(float) - 128
    if severity == 1:  # the second is clipped at 128 / 255 = 2.8 sigma
        assert error.std() == pytest.approx(255 * sigma, rel=SIGMA_SHARE)
    assert abs(error.mean()) < 4 * 255 * sigma / math.sqrt(error.size)
    bands = np.corrcoef(error.reshape(-1, 3).T)
    assert abs(bands - np.eye(3)).max() < 0.05  # independent bands
    assert (corruptions.noise(grey, severity, 4) != corruptions.noise(grey, severity, 3)).mean() > 0.8


@pytest.mark.parametrize(("severity", "sigma"), [(1, 1.0), (2, 3.0), (3, 6.0)])
def test_blur_is_a_gaussian(severity: int, sigma: float, photo: np.ndarray) -> None:
    reach = 24
    x = np.arange(-reach, reach + 1)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wide = np.pad(photo.astype(float), ((reach, reach), (reach, reach), (0, 0)), "reflect")
    rows = sum(k * wide[i : i + photo.shape[0]] for i, k in enumerate(kernel))
    expected = sum(k * rows[:, i : i + photo.shape[1]] for i, k in enumerate(kernel))
    assert np.abs(corruptions.blur(photo, severity, 0) - expected).max() <= 2 * LEVEL  # cut at 3 sigma, and rounded


@pytest.mark.parametrize(("severity", "divisor"), [(1, 4), (2, 8), (3, 16)])
def test_dark_divides_the_light(severity: int, divisor: int) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = cv2.merge((ramp, ramp, ramp))
    result = corruptions.dark(picture, severity, 0)
    for value in range(256):
        expected = 255 * ((value / 255) ** 2.2 / divisor) ** (1 / 2.2)
        assert abs(int(result[value // 16, value % 16, 0]) - expected) <= 0.5 + 1e-9


@pytest.mark.parametrize(("severity", "beta"), [(1, 0.005), (2, 0.01), (3, 0.02)])
def test_fog_follows_koschmieder(severity: int, beta: float, photo: np.ndarray) -> None:
    result, height = corruptions.fog(photo, severity, 0), len(photo)
    for row in range(height):
        below = (row + 0.5 - height / 2) / (height / 2)  # 0 at the horizon, 1 at the lower border
        depth = 100.0 if below <= 0.05 else 5.0 / below
        t = math.exp(-beta * depth)
        assert np.abs(result[row] - (photo[row] * t + 230 * (1 - t))).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (2, 15), (3, 7)])
def test_jpeg_is_that_of_pillow_at_the_stated_quality(severity: int, quality: int, photo: np.ndarray) -> None:
    pillow = pytest.importorskip("PIL.Image")  # torchvision's, and ImageNet-C's encoder
    file = io.BytesIO()
    pillow.fromarray(photo[..., ::-1]).save(file, "JPEG", quality=quality)
    expected = np.asarray(pillow.open(file))[..., ::-1].astype(float)
    assert np.abs(corruptions.jpeg(photo, severity, 0) - expected).mean() < LEVEL
    assert np.abs(photo - expected).mean() > 3 * LEVEL  # another quality would show


def test_a_picture_is_corrupted_by_its_name_and_not_by_its_place() -> None:
    dataset = open_dataset("auto", CAMVID, "test")
    noisy = corrupted(dataset, "noise", 1)
    image, labels = noisy.read(2)
    np.testing.assert_array_equal(labels, dataset.read(2)[1])
    assert (image != dataset.read(2)[0]).mean() > 0.5
    alone = type(dataset)(**{**vars(dataset), "images": dataset.images[2:], "labels": dataset.labels[2:]})
    np.testing.assert_array_equal(corrupted(alone, "noise", 1).read(0)[0], image)
    differences = [corrupted(dataset, "noise", 1).read(i)[0].astype(int) - dataset.read(i)[0] for i in (0, 1)]
    assert abs(np.corrcoef(differences[0].ravel(), differences[1].ravel())[0, 1]) < 0.2
    assert len(noisy) == len(dataset) and isinstance(noisy.root, Path) and noisy.protocol == dataset.protocol


@pytest.mark.parametrize(("text", "message"), [("snow", "snow"), ("fog,fog", "once"), ("", "choose from")])
def test_unknown_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(PspnetError, match=message):
        names_from_text(text)


def test_names_keep_their_order() -> None:
    assert names_from_text("fog,noise") == ("fog", "noise")
