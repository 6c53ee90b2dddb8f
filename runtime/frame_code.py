"""A picture's number drawn into it, in cells that survive JPEG, resizing and a half-transparent overlay.

The number and a checksum are 32 pairs of cells, one above the other: white over black is 1, black over white is 0. Only
the difference of a pair counts, so that what lies over both alike does not matter. Cells are shares of the picture's
sides, 1/60 of the width and 1/45 of the height, so the code is found at any size.
"""

from __future__ import annotations

import numpy as np

COLUMNS, ROWS = 60, 45
BITS, CHECK_BITS, PAIRS_A_ROW = 24, 8, 16
LIMIT = 1 << BITS
"""Numbers begin again here."""

SMALLEST = (90, 120)
"""(height, width) below which a cell has no 2 x 2 pixels, and no code is drawn."""

CONTRAST = 24.0  # grey levels between the cells of a pair; noise and JPEG stay below, half of 255 is above


def draw(bgr: np.ndarray, number: int) -> bool:
    """Draws `number` modulo LIMIT into the upper left of (H, W, 3) uint8; False where the picture is too small."""
    if bgr.shape[0] < SMALLEST[0] or bgr.shape[1] < SMALLEST[1]:
        return False
    number %= LIMIT
    bits = number << CHECK_BITS | _checksum(number)
    for index in range(BITS + CHECK_BITS):
        value = 255 * (bits >> index & 1)
        upper, lower = _pair(index, bgr.shape[:2])
        bgr[upper], bgr[lower] = value, 255 - value
    return True


def decode(bgr: np.ndarray) -> int | None:
    """The number in a picture (H, W, 3) or (H, W) uint8; None where there is no code that can be read for sure."""
    if bgr.shape[0] < SMALLEST[0] or bgr.shape[1] < SMALLEST[1]:
        return None
    bits = 0
    for index in range(BITS + CHECK_BITS):
        upper, lower = _pair(index, bgr.shape[:2], inner=True)
        difference = float(bgr[upper].mean()) - float(bgr[lower].mean())
        if abs(difference) < CONTRAST:
            return None
        bits |= (difference > 0) << index
    number, check = bits >> CHECK_BITS, bits & (1 << CHECK_BITS) - 1
    return number if check == _checksum(number) else None


def _pair(index: int, size: tuple[int, ...], inner: bool = False) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a bit's two cells are; inner: without the outer quarter, into which neighbours bleed."""
    row, column = divmod(index, PAIRS_A_ROW)
    across = _span(1 + column, size[1] / COLUMNS, inner)
    return (_span(1 + 2 * row, size[0] / ROWS, inner), across), (_span(2 + 2 * row, size[0] / ROWS, inner), across)


def _span(cell: int, side: float, inner: bool) -> slice:
    margin = side / 4 if inner else 0.0
    start = round(cell * side + margin)
    return slice(start, max(round((cell + 1) * side - margin), start + 1))


def _checksum(number: int) -> int:
    """CRC-8 with the polynomial 0x07, begun at 0xFF so that no picture of one value is a code."""
    check = 0xFF
    for shift in (16, 8, 0):
        check ^= number >> shift & 0xFF
        for _ in range(8):
            check = (check << 1 ^ (0x07 if check & 0x80 else 0)) & 0xFF
    return check
