"""Labels at any size straight from the head's logits, equal to interpolate-then-arg-max, without full-size logits.

Bilinear weights are convex, so a class that wins at both ends of a line wins everywhere between them. For each row of
pixels the logits above and below are blended, one value per class and column of the map; pixels between two columns
with the same winner take it as it is, and only the others are interpolated, among the few classes that can win there.
Ties go to the lowest class index.
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
    return from_logits_at_camera(logits, Geometry(size, size), align_corners)


def from_logits_at_camera(
    logits: np.ndarray, geometry: Geometry, align_corners: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Labels (H, W) uint8 at the camera's pixels of logits (C, h, w) float32; 255 where the network did not look.

    out: written and returned where given, else a new array.
    """
    height, width = logits.shape[1:]
    axes = camera_axes(geometry, (height, width), align_corners)
    out = np.empty(geometry.camera_size, np.uint8) if out is None else out
    _fill(np.ascontiguousarray(logits, np.float32), *axes, out)  # type: ignore[call-arg]
    return out


def from_labels_at_camera(
    network: np.ndarray, geometry: Geometry, align_corners: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Labels (H, W) uint8 at the camera's pixels of a network's labels (h, w) uint8, each that of the nearest one.

    255 where the network did not look. Of two that are equally near, the one further down or to the right. out: written
    and returned where given, else a new array.
    """
    height, width = network.shape
    y_cell, y_weight, x_cell, x_weight, _ = camera_axes(geometry, (height, width), align_corners)
    out = np.empty(geometry.camera_size, np.uint8) if out is None else out
    rows, columns = y_cell + (y_weight >= 0.5), x_cell + (x_weight >= 0.5)
    for line, row in zip(out, rows.clip(0, height - 1), strict=True):  # line by line: no array of the picture's size
        network[row].take(columns, out=line, mode="clip")
    out[y_cell == OUTSIDE], out[:, x_cell == OUTSIDE] = IGNORE, IGNORE
    return out


def uniform_share(logits: np.ndarray) -> float:
    """Share of the cells between four neighbouring logits where all four have the same winner, 0..1.

    No pixel of these cells is interpolated along the row: the lower the share, the slower the labels.
    """
    winner = logits.argmax(0)
    corners = np.stack([winner[:-1, :-1], winner[:-1, 1:], winner[1:, :-1], winner[1:, 1:]])
    return float((corners == corners[0]).all(0).mean())


@lru_cache(maxsize=16)
def camera_axes(geometry: Geometry, cells: tuple[int, int], align_corners: bool) -> tuple[np.ndarray, ...]:
    """y_cell, y_weight, x_cell, x_weight of every camera row and column, and the runs of columns with equal x_cell.

    cell: index of the logit before the pixel, OUTSIDE where the network does not look; weight: share of the next logit.
    """
    axes: list[np.ndarray] = []
    for (position, seen), count in zip(geometry.logit_positions(cells, align_corners), cells, strict=True):
        cell = np.minimum(position.astype(np.int32), max(count - 2, 0))
        axes += [np.where(seen, cell, OUTSIDE).astype(np.int32), (position - cell).astype(np.float32)]
    x_cell = axes[2]
    runs = np.concatenate([[0], np.flatnonzero(np.diff(x_cell)) + 1, [len(x_cell)]])
    return *axes, runs.astype(np.int32)


# One thread: with several, the threads' meeting at the end waits for whatever else runs on the cores, an engine's own
# threads above all, and costs more than the work. Without the GIL, so that cameras' threads do not wait for each other.
@numba.njit(nogil=True, cache=True)
def _fill(logits, y_cell, y_weight, x_cell, x_weight, runs, out):  # type: ignore[no-untyped-def]
    width = logits.shape[2]
    for row in range(len(y_cell)):
        if y_cell[row] < 0:
            out[row] = IGNORE
            continue
        line, winner = _blended_row(logits, y_cell[row], y_weight[row])
        candidates = np.empty(len(line), np.int32)
        begin, label = 0, IGNORE  # pixels from `begin` on all have `label` and are written together
        for run in range(len(runs) - 1):
            start, stop = runs[run], runs[run + 1]
            first = last = IGNORE
            left = x_cell[start]
            right = min(left + 1, width - 1)
            if left >= 0:
                first, last = winner[left], winner[right]
            if first != label or first != last:
                out[row, begin:start] = label
                begin, label = start, first
            if first != last:
                _interpolate(line, left, right, first, last, x_weight, out, row, start, stop, candidates)
                begin, label = stop, last
        out[row, begin:] = label


@numba.njit(nogil=True, cache=True)
def _blended_row(logits, top, weight):  # type: ignore[no-untyped-def]
    """(classes, w) logits between the rows top and top + 1, and the winner of each column."""
    classes, h, w = logits.shape
    bottom = min(top + 1, h - 1)
    line = np.empty((classes, w), np.float32)
    best = np.full(w, -np.inf, np.float32)
    winner = np.zeros(w, np.uint8)
    for c in range(classes):
        for x in range(w):
            above = logits[c, top, x]
            value = above + weight * (logits[c, bottom, x] - above)
            line[c, x] = value
            if value > best[x]:
                best[x] = value
                winner[x] = c
    return line, winner


@numba.njit(nogil=True, cache=True)
def _interpolate(line, left, right, first, last, x_weight, out, row, start, stop, candidates):  # type: ignore[no-untyped-def]
    """Labels of the pixels start to stop of a row, between the columns left and right with winners first and last."""
    count = 0
    for c in range(len(line)):
        # A third class must beat `last` at the left and `first` at the right, or one of them is above it all the way.
        if c in (first, last) or (line[c, left] > line[last, left] and line[c, right] > line[first, right]):
            candidates[count] = c
            count += 1
    for x in range(start, stop):
        best, label = np.float32(-np.inf), 0
        for i in range(count):
            c = candidates[i]
            value = line[c, left] + x_weight[x] * (line[c, right] - line[c, left])
            if value > best:
                best = value
                label = c
        out[row, x] = label
