"""Text and rectangles in pictures with OpenCV alone, smooth at small sizes."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""Blue, green, red, 0..255."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
DRAWN_AT = 3  # drawn larger and averaged down: OpenCV's stroke font is rough at its small sizes


class Canvas:
    """A picture to draw on, in pixels of the result, whatever it is drawn at."""

    def __init__(self, height: int, width: int, background: Colour) -> None:
        self.height, self.width = height, width
        self._large = np.full((height * DRAWN_AT, width * DRAWN_AT, 3), background, np.uint8)

    def rectangle(self, top: float, left: float, height: float, width: float, colour: Colour) -> None:
        """A filled rectangle; nothing where its height or width rounds to none."""
        y, x, bottom, right = (round(DRAWN_AT * value) for value in (top, left, top + height, left + width))
        self._large[max(y, 0) : max(bottom, 0), max(x, 0) : max(right, 0)] = colour

    def text(self, text: str, middle: float, x: float, scale: float, colour: Colour, align: float = 0) -> None:
        """A line of text whose capitals are centred on `middle`; align 0 begins, 0.5 centres, 1 ends it at x.

        scale: of OpenCV's Hershey font, whose capitals are 22 pixels high at 1.
        """
        high = cv2.getTextSize("H", FONT, scale * DRAWN_AT, 1)[0][1]
        left = round(DRAWN_AT * (x - align * text_width(text, scale)))
        origin = left, round(DRAWN_AT * middle + high / 2)
        cv2.putText(self._large, drawable(text), origin, FONT, scale * DRAWN_AT, colour, DRAWN_AT, cv2.LINE_AA)

    def upright_text(self, text: str, bottom: float, middle: float, scale: float, colour: Colour) -> None:
        """A line of text that reads from `bottom` upwards, centred on the column `middle`."""
        room = 32 * scale  # on both sides, more than letters rise and fall
        left, right = (max(round(DRAWN_AT * (middle + side)), 0) for side in (-room, room))
        region = self._large[: round(DRAWN_AT * bottom), left:right]
        strip = Canvas(1, 1, (0, 0, 0))
        strip._large = np.ascontiguousarray(np.rot90(region, -1))
        strip.text(text, middle - left / DRAWN_AT, 0, scale, colour)
        region[:] = np.rot90(strip._large)

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8 BGR: what has been drawn."""
        return cv2.resize(self._large, (self.width, self.height), interpolation=cv2.INTER_AREA)


def text_width(text: str, scale: float) -> int:
    """Pixels that a line of text takes at the font's scale."""
    return -(-cv2.getTextSize(drawable(text), FONT, scale * DRAWN_AT, DRAWN_AT)[0][0] // DRAWN_AT)


def drawable(text: str) -> str:
    """The text in what the font has: letters lose their accents, other characters become question marks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()
