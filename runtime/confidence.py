"""How sure the network is of each pixel's class: the winner's probability, from the head's size to the camera's."""

from __future__ import annotations

import numba
import numpy as np

from pspnet.geometry import Geometry
from runtime.labels import camera_axes

LEVELS = 255
"""What a probability of 1 is stored as; 0 stands for 0, and for pixels that the network did not look at."""


def at_camera(
    output: np.ndarray,
    geometry: Geometry,
    align_corners: bool = False,
    probabilities: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W) uint8 at the camera's pixels, 0..255: the largest softmax over the classes of logits (C, h, w) float32.

    It is taken at the head's size and upsampled bilinearly from there, so a pixel between two confident cells of
    different classes counts as sure. Where the network did not look it is 0. probabilities: `output` holds
    probabilities already. out: written and returned where given.
    """
    height, width = output.shape[1:]
    y_cell, y_weight, x_cell, x_weight, _ = camera_axes(geometry, (height, width), align_corners)
    out = np.empty(geometry.camera_size, np.uint8) if out is None else out
    output = np.ascontiguousarray(output, np.float32)
    _upsample(_winners(output, probabilities), y_cell, y_weight, x_cell, x_weight, out)  # type: ignore[call-arg]
    return out


def level_from_share(share: float) -> int:
    """The smallest stored value, 0 to 255, that stands for a probability of at least `share`."""
    return int(np.ceil(share * LEVELS))


@numba.njit(nogil=True, cache=True)
def _winners(output, probabilities):  # type: ignore[no-untyped-def]
    """(h, w) float32: the winner's probability in 0..255."""
    classes, height, width = output.shape
    best = np.empty((height, width), np.float32)
    total = np.empty(width, np.float32)
    for y in range(height):
        for x in range(width):
            best[y, x] = output[0, y, x]
        for c in range(1, classes):
            for x in range(width):
                best[y, x] = max(best[y, x], output[c, y, x])
        if probabilities:
            for x in range(width):
                # Of two classes the second says all; a guest with one plane gives the first a constant half.
                value = max(output[1, y, x], 1 - output[1, y, x]) if classes == 2 else best[y, x]
                best[y, x] = LEVELS * min(max(value, np.float32(0)), np.float32(1))
            continue
        total[:] = 0
        for c in range(classes):
            for x in range(width):
                total[x] += np.exp(output[c, y, x] - best[y, x])
        for x in range(width):
            best[y, x] = LEVELS / total[x]
    return best


@numba.njit(nogil=True, cache=True)
def _upsample(values, y_cell, y_weight, x_cell, x_weight, out):  # type: ignore[no-untyped-def]
    height, width = values.shape
    line = np.empty(width, np.float32)
    for row in range(len(y_cell)):
        top = y_cell[row]
        if top < 0:
            out[row] = 0
            continue
        bottom = min(top + 1, height - 1)
        for x in range(width):
            line[x] = values[top, x] + y_weight[row] * (values[bottom, x] - values[top, x])
        for column in range(len(x_cell)):
            left = x_cell[column]
            if left < 0:
                out[row, column] = 0
                continue
            right = min(left + 1, width - 1)
            out[row, column] = np.uint8(line[left] + x_weight[column] * (line[right] - line[left]) + np.float32(0.5))
