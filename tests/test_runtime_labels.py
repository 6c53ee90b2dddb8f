"""Labels from head-resolution logits against torch's interpolate and an explicit bilinear reference in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pspnet.geometry import Geometry
from pspnet.spec import FITS
from runtime import labels

EQUAL_SHARE = 0.9999  # of pixels; float32 rounding decides where two classes cross
NEAR = 1e-5  # of max |logits|: a few float32 roundings, 6e-8 each
MAPS = [(11, 45, 60), (19, 32, 64), (5, 1, 7), (3, 6, 1), (2, 1, 1)]
SIZES = [(180, 240), (97, 131), (32, 64), (20, 23), (1, 1), (1, 50), (301, 2)]


def random_logits(classes: int, height: int, width: int, sigma: float) -> np.ndarray:
    """Seeded (C, h, w) float32 noise, smoothed over `sigma` cells as a network's logits are."""
    noise = np.random.default_rng(0).standard_normal((classes, height, width)).astype(np.float32)
    return noise if sigma == 0 else np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in noise])


def bilinear(logits: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C, H, W) float64 at the logit coordinates y (H,) and x (W,), values beyond the border repeated."""

    def taps(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low = np.floor(position)
        near, far = (np.clip(low + step, 0, count - 1).astype(int) for step in (0, 1))
        return near, far, position - low

    (top, bottom, fy), (left, right, fx) = taps(y, logits.shape[1]), taps(x, logits.shape[2])
    wide = logits.astype(np.float64)
    total = np.zeros((len(logits), len(y), len(x)))
    for rows, row_weight in ((top, 1 - fy), (bottom, fy)):
        for columns, column_weight in ((left, 1 - fx), (right, fx)):
            total += wide[:, rows][:, :, columns] * np.outer(row_weight, column_weight)
    return total


def logit_coordinate(network: np.ndarray, pixels: int, cells: int, align_corners: bool) -> np.ndarray:
    """Index on an axis of `cells` logits of a point in the network's picture, whose edges are 0 and `pixels`."""
    if align_corners:  # the centres of the first and last pixels are the first and last logits
        return (network - 0.5) * (cells - 1) / max(pixels - 1, 1)
    return network / pixels * cells - 0.5


def assert_near_maximum(got: np.ndarray, full: np.ndarray, logits: np.ndarray) -> None:
    """Fails where the class of a pixel is not the float64 maximum, nor within NEAR of it."""
    chosen = np.take_along_axis(full, got[None].astype(int), 0)[0]
    behind = full.max(0) - chosen
    assert behind.max() <= NEAR * np.abs(logits).max()
    assert (behind == 0).mean() >= EQUAL_SHARE


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sigma", [0, 3])
@pytest.mark.parametrize("shape", MAPS)
def test_from_logits_equals_torch_interpolate_arg_max(
    shape: tuple[int, int, int], sigma: float, align_corners: bool
) -> None:
    logits = random_logits(*shape, sigma)
    equal = pixels = 0
    for size in SIZES:
        got = labels.from_logits(logits, size, align_corners)
        tensor = torch.from_numpy(logits)[None]
        full = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=align_corners)
        assert got.shape == size and got.dtype == np.uint8
        equal += (got == full.argmax(1)[0].numpy()).sum()
        pixels += got.size
        y, x = (
            logit_coordinate(np.arange(n) + 0.5, n, cells, align_corners)
            for n, cells in zip(size, shape[1:], strict=True)
        )
        assert_near_maximum(got, bilinear(logits, y, x), logits)
    assert equal >= EQUAL_SHARE * pixels


def test_ties_go_to_the_lowest_class() -> None:
    logits = random_logits(4, 12, 16, 2)
    doubled = np.concatenate([logits, logits])  # classes c and c + 4 are equal everywhere
    np.testing.assert_array_equal(labels.from_logits(doubled, (50, 70)), labels.from_logits(logits, (50, 70)))
    assert not labels.from_logits(np.zeros((3, 4, 4), np.float32), (9, 9)).any()


def test_a_class_that_wins_only_between_two_logits_is_found() -> None:
    logits = np.array(
        [[[4, 0]], [[0, 4]], [[3, 3]]], np.float32
    )  # the third class is second at both ends, first between
    assert labels.from_logits(logits, (1, 16)).tolist() == [[0] * 6 + [2] * 4 + [1] * 6]
    rotated = np.ascontiguousarray(logits.transpose(0, 2, 1))
    assert labels.from_logits(rotated, (16, 1)).ravel().tolist() == [0] * 6 + [2] * 4 + [1] * 6


def test_254_classes_keep_their_index() -> None:
    logits = np.zeros((254, 2, 2), np.float32)
    logits[253, :, 1] = logits[252, :, 0] = 1
    assert labels.from_logits(logits, (2, 8)).tolist() == [[252] * 4 + [253] * 4] * 2


def test_logits_of_any_memory_layout_are_taken() -> None:
    logits = random_logits(5, 9, 14, 1)
    channels_last = np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(labels.from_logits(channels_last, (40, 60)), labels.from_logits(logits, (40, 60)))


def test_uniform_share_counts_cells_with_one_winner() -> None:
    winners = np.array([[0, 0, 1], [0, 0, 1], [0, 2, 1]])
    logits = np.eye(3, dtype=np.float32)[winners].transpose(2, 0, 1)
    assert labels.uniform_share(logits) == 0.25


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("camera", [(270, 480), (240, 320)], ids=["16:9", "4:3"])
@pytest.mark.parametrize("region", [None, (60, 35, 150, 260)], ids=["whole", "region"])
def test_from_logits_at_camera_follows_the_geometry(
    camera: tuple[int, int], fit: str, region: tuple[int, int, int, int] | None, align_corners: bool
) -> None:
    network, cells = (96, 160), (12, 20)
    geometry = Geometry(camera, network, fit, region)
    logits = random_logits(7, *cells, 1.5)
    got = labels.from_logits_at_camera(logits, geometry, align_corners)

    top, left, height, width = region or (0, 0, *camera)
    seen = np.zeros(camera, bool)
    seen[top : top + height, left : left + width] = True
    y = np.array([geometry.network_from_camera(i + 0.5, 0.5)[0] for i in range(camera[0])])
    x = np.array([geometry.network_from_camera(0.5, j + 0.5)[1] for j in range(camera[1])])
    seen &= ((y >= 0) & (y <= network[0]))[:, None] & ((x >= 0) & (x <= network[1]))[None]

    np.testing.assert_array_equal(got == 255, ~seen)
    assert seen.any() and seen.all() == (region is None and fit != "crop")
    rows, columns = seen.any(1), seen.any(0)
    y_logits = logit_coordinate(y[rows], network[0], cells[0], align_corners)
    x_logits = logit_coordinate(x[columns], network[1], cells[1], align_corners)
    clamped = [np.clip(v, 0, n - 1) for v, n in zip((y_logits, x_logits), cells, strict=True)]
    assert_near_maximum(got[np.ix_(rows, columns)], bilinear(logits, *clamped), logits)
