"""Labels at any size straight from the head's logits, equal to interpolate-then-arg-max, without full-size logits.

Bilinear weights are convex: a class that wins at all four corners of a cell wins everywhere inside it. Only cells
whose corners disagree are interpolated. Ties go to the lowest class index.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np

from pspnet.geometry import Geometry
from pspnet.spec import IGNORE

OUTSIDE = -1  # cell index of a pixel that the network did not look at


def from_logits(logits: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Labels (H, W) uint8 of logits (C, h, w) float32 at `size`.

    Equal to torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=...).argmax(0), except where
    rounding decides between two classes.
    """
    rows = _axis(size[0], logits.shape[1], *_direct_map(size[0], logits.shape[1], align_corners))
    columns = _axis(size[1], logits.shape[2], *_direct_map(size[1], logits.shape[2], align_corners))
    return _labels(logits, *rows, *columns)


def from_logits_at_camera(logits: np.ndarray, geometry: Geometry, align_corners: bool = False) -> np.ndarray:
    """Labels (H, W) uint8 at the camera's pixels of logits (C, h, w) float32; 255 where the network did not look."""
    rows, columns = _camera_axes(geometry, logits.shape[1:], align_corners)
    return _labels(logits, *rows, *columns)


def uniform_share(logits: np.ndarray) -> float:
    """Share of the cells between logits whose four corners have the same winner, 0..1: the share that is not interpolated."""
    winner = logits.argmax(0)
    corners = np.stack([winner[:-1, :-1], winner[:-1, 1:], winner[1:, :-1], winner[1:, 1:]])
    return float((corners == corners[0]).all(0).mean())


def _labels(
    logits: np.ndarray, y_cell: np.ndarray, y_weight: np.ndarray, x_cell: np.ndarray, x_weight: np.ndarray
) -> np.ndarray:
    logits = np.ascontiguousarray(logits, np.float32)
    out = np.empty((len(y_cell), len(x_cell)), np.uint8)
    _fill(logits, _winners(logits), y_cell, y_weight, x_cell, x_weight, _runs(x_cell), out)
    return out


def _direct_map(pixels: int, cells: int, align_corners: bool) -> tuple[float, float]:
    """(scale, shift) from pixel index to logit index, as PyTorch's interpolate defines it."""
    if align_corners:
        return ((cells - 1) / (pixels - 1) if pixels > 1 else 0.0), 0.0
    return cells / pixels, 0.5 * cells / pixels - 0.5


@lru_cache(maxsize=16)
def _camera_axes(
    geometry: Geometry, cells: tuple[int, int], align_corners: bool
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    axes = []
    for axis, (scale, shift) in enumerate(geometry.axis_maps):
        network, count = geometry.network_size[axis], cells[axis]
        to_cells, offset = _direct_map(network, count, align_corners)
        # camera index X -> network index (X + 0.5) * scale + shift - 0.5 -> logit index
        cell, weight = _axis(
            geometry.camera_size[axis], count, scale * to_cells, (0.5 * scale + shift - 0.5) * to_cells + offset
        )
        centre = (np.arange(geometry.camera_size[axis]) + 0.5) * scale + shift
        start, length = geometry.view[axis], geometry.view[axis + 2]
        index = np.arange(geometry.camera_size[axis])
        seen = (index >= start) & (index < start + length) & (centre >= 0) & (centre <= network)
        cell[~seen] = OUTSIDE
        axes.append((cell, weight))
    return axes[0], axes[1]


def _axis(pixels: int, cells: int, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel the index of the logit before it and the weight of the one after it, clamped at the border."""
    position = np.clip(np.arange(pixels) * scale + shift, 0, cells - 1)
    cell = np.minimum(position.astype(np.int32), max(cells - 2, 0))
    return cell.astype(np.int32), (position - cell).astype(np.float32)


def _runs(x_cell: np.ndarray) -> np.ndarray:
    """Start of each run of equal cells, and the end."""
    return np.concatenate([[0], np.flatnonzero(np.diff(x_cell)) + 1, [len(x_cell)]]).astype(np.int32)


@numba.njit(parallel=True, cache=True)
def _winners(logits):  # type: ignore[no-untyped-def]
    classes, h, w = logits.shape
    winner = np.zeros((h, w), np.uint8)
    for y in numba.prange(h):
        best = logits[0, y].copy()
        for c in range(1, classes):
            for x in range(w):
                if logits[c, y, x] > best[x]:
                    best[x] = logits[c, y, x]
                    winner[y, x] = c
    return winner


@numba.njit(parallel=True, cache=True)
def _fill(logits, winner, y_cell, y_weight, x_cell, x_weight, runs, out):  # type: ignore[no-untyped-def]
    classes, h, w = logits.shape
    for row in numba.prange(len(y_cell)):
        top = y_cell[row]
        if top < 0:
            out[row] = IGNORE
            continue
        bottom = min(top + 1, h - 1)
        fy = y_weight[row]
        blended = np.empty((classes, w), np.float32)
        ready = False
        best = np.empty(out.shape[1], np.float32)
        for run in range(len(runs) - 1):
            start, stop = runs[run], runs[run + 1]
            left = x_cell[start]
            if left < 0:
                out[row, start:stop] = IGNORE
                continue
            right = min(left + 1, w - 1)
            k = winner[top, left]
            if winner[top, right] == k and winner[bottom, left] == k and winner[bottom, right] == k:
                for x in range(start, stop):
                    out[row, x] = k
                continue
            if not ready:  # a row without a mixed cell needs no vertical blend
                for c in range(classes):
                    for x in range(w):
                        blended[c, x] = logits[c, top, x] + fy * (logits[c, bottom, x] - logits[c, top, x])
                ready = True
            for x in range(start, stop):
                best[x] = blended[0, left] + x_weight[x] * (blended[0, right] - blended[0, left])
                out[row, x] = 0
            for c in range(1, classes):
                a, slope = blended[c, left], blended[c, right] - blended[c, left]
                for x in range(start, stop):
                    value = a + x_weight[x] * slope
                    if value > best[x]:
                        best[x] = value
                        out[row, x] = c
