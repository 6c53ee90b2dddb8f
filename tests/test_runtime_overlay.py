"""The overlay against a blend written out in float64, and the legend's colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet.spec import IGNORE
from runtime.overlay import blend, colour_table, legend

PALETTE = ((255, 0, 0), (10, 200, 30), (0, 0, 255))
NAMES = ("Road", "Tree", "Fußgänger")
ROUNDING = 0.5 + 1e-3  # OpenCV rounds once, to the nearest grey level; it multiplies in float32


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_blend_equals_the_written_out_formula(alpha: float) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (37, 53, 3), np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 3, IGNORE], np.uint8), (37, 53))
    kept = labels.copy()
    expected = picture.astype(np.float64)
    for index, (red, green, blue) in enumerate(PALETTE):
        colour = np.array([blue, green, red], np.float64)
        expected[labels == index] = (1 - alpha) * expected[labels == index] + alpha * colour
    out = blend(picture, labels, PALETTE, alpha)
    assert out.dtype == np.uint8
    assert np.abs(out - expected).max() <= ROUNDING
    without_class = labels >= len(PALETTE)
    np.testing.assert_array_equal(out[without_class], picture[without_class])
    np.testing.assert_array_equal(labels, kept)


def test_blend_leaves_its_picture_alone() -> None:
    picture = np.full((4, 4, 3), 7, np.uint8)
    blend(picture, np.zeros((4, 4), np.uint8), PALETTE, 1.0)
    assert (picture == 7).all()


def test_colour_table_is_bgr() -> None:
    table = colour_table(PALETTE)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert table[1].tolist() == [30, 200, 10] and table[IGNORE].tolist() == [0, 0, 0]


@pytest.mark.parametrize("height", [40, 360, 720])
def test_legend_shows_each_colour_once_from_the_top(height: int) -> None:
    strip = legend(NAMES, PALETTE, height)
    assert strip.shape[0] == height and strip.shape[1] % 2 == 0 and strip.dtype == np.uint8
    centres = []
    for red, green, blue in PALETTE:
        swatch = (strip == (blue, green, red)).all(2).astype(np.uint8)
        assert cv2.connectedComponents(swatch)[0] == 2  # the background and one patch
        rows, columns = np.nonzero(swatch)
        centres.append((columns.mean().round(), rows.mean()))
    assert centres == sorted(centres)
    assert (strip.max(2) > 200).any()  # the names are light on dark


def test_legend_of_many_classes_stays_inside() -> None:
    rng = np.random.default_rng(1)
    palette = [(int(r), int(g), int(b)) for r, g, b in rng.choice(np.arange(60, 250), (254, 3))]
    strip = legend([f"class {index}" for index in range(254)], palette, 360)
    shown = {tuple(pixel) for pixel in strip.reshape(-1, 3)[:, ::-1].tolist()}
    assert set(palette) <= shown
