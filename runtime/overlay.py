"""Labels as colours over the picture, and a legend that says which colour is which class."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pspnet.drawing import DRAWN_AT, FONT, drawable, text_width

Palette = Sequence[tuple[int, int, int]]

BACKGROUND, OUTLINE, TEXT = (28, 24, 22), (120, 114, 110), (236, 234, 232)  # BGR
ROW_PIXELS = 28  # of a legend with room; many classes make narrower rows, then further columns
NARROWEST_ROW_PIXELS = 15


def colour_table(palette: Palette) -> np.ndarray:
    """(256, 3) uint8 BGR: the colour of every label; labels without a class are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)[:, ::-1]
    return table


def blend(bgr: np.ndarray, labels: np.ndarray, palette: Palette, alpha: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the picture with the class colour over it; alpha 0 is the picture, 1 the colour.

    bgr: (H, W, 3) uint8. labels: (H, W) uint8; a label without a class (255) leaves the picture as it is.
    """
    colours = cv2.LUT(cv2.merge((labels, labels, labels)), colour_table(palette).reshape(1, 256, 3))
    mixed = cv2.addWeighted(bgr, 1 - alpha, colours, alpha, 0)
    return cv2.copyTo(bgr, (labels >= len(palette)).view(np.uint8), mixed)


def legend(class_names: Sequence[str], palette: Palette, height: int) -> np.ndarray:
    """(height, W, 3) uint8 BGR strip with the colour and the name of each class, from the top, W even.

    Names that the font cannot draw lose their accents; what it lacks altogether becomes a question mark.
    """
    margin = 12
    row = int(np.clip((height - 2 * margin) // max(len(class_names), 1), NARROWEST_ROW_PIXELS, ROW_PIXELS))
    rows = max((height - 2 * margin) // row, 1)
    texts = [drawable(name) for name in class_names]
    swatch, scale = round(row * 0.62), row * 0.0185
    columns = [range(start, min(start + rows, len(texts))) for start in range(0, len(texts), rows)]
    widths = [margin + swatch + 8 + max(text_width(texts[i], scale) for i in column) for column in columns]
    width = sum(widths) + margin
    strip = np.full((height * DRAWN_AT, (width + width % 2) * DRAWN_AT, 3), BACKGROUND, np.uint8)
    left = margin
    for column, column_width in zip(columns, widths, strict=True):
        for place, index in enumerate(column):
            top = margin + place * row + (row - swatch) // 2
            colour = tuple(int(value) for value in reversed(palette[index]))
            _draw_entry(strip, texts[index], colour, (top, left, swatch), scale)
        left += column_width
    return cv2.resize(strip, (width + width % 2, height), interpolation=cv2.INTER_AREA)


def _draw_entry(
    strip: np.ndarray, text: str, colour: tuple[int, ...], place: tuple[int, int, int], scale: float
) -> None:
    top, left, swatch = (value * DRAWN_AT for value in place)
    corner = (left + swatch, top + swatch)
    cv2.rectangle(strip, (left, top), corner, colour, cv2.FILLED)
    cv2.rectangle(strip, (left, top), corner, OUTLINE, DRAWN_AT)
    text_height = cv2.getTextSize("H", FONT, scale * DRAWN_AT, 1)[0][1]
    origin = (corner[0] + 8 * DRAWN_AT, top + (swatch + text_height) // 2)
    cv2.putText(strip, text, origin, FONT, scale * DRAWN_AT, TEXT, DRAWN_AT, cv2.LINE_AA)
