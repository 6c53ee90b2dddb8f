"""The confusion matrix and each class's IoU as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pspnet.drawing import Canvas, Colour, text_width
from pspnet.errors import PspnetError
from pspnet.metrics import ConfusionMatrix

ROW, CELL = 26, 44  # pixels: height and width of a cell
BAR, FIGURE = 230, 46  # width of a bar of 100 %, and of the figure beyond it
MARGIN, GAP, TITLE, FOOT = 14, 8, 34, 30
NAME_SCALE, CELL_SCALE = 0.44, 0.38  # of the font
MOST_CLASSES = 160
SMALLEST_SHOWN = 0.05  # per cent; less would read 0.0
WHITE: Colour = (255, 255, 255)
INK: Colour = (40, 34, 30)
FAINT: Colour = (236, 232, 228)
RIGHT: Colour = (120, 82, 12)  # of a full cell on the diagonal: blue
WRONG: Colour = (24, 52, 196)  # of a full cell beside it: red
MEAN: Colour = (90, 84, 80)


def confusion_picture(
    matrix: ConfusionMatrix, class_names: Sequence[str], palette: Sequence[tuple[int, int, int]], caption: str
) -> np.ndarray:
    """(H, W, 3) uint8 BGR: rows are labelled classes, columns predicted ones, cells per cent of the row's pixels.

    Beside each row the class's IoU as a bar in its colour. A last column holds pixels without a prediction where there
    are any. The diagonal is blue; errors are red and as strong as the root of their share, so that small ones show.
    palette: RGB. caption: what the figures are of, at the foot.
    """
    if len(class_names) > MOST_CLASSES:
        raise PspnetError(
            f"a picture of {len(class_names)} classes cannot be read, {MOST_CLASSES} are the most: leave out "
            "--confusion; --json has every class"
        )
    columns = len(class_names) + bool(matrix.counts[:, -1].any())
    names = (*class_names, "no prediction")[:columns]
    longest = max(text_width(name, NAME_SCALE) for name in names)
    top, left = TITLE + longest + 2 * GAP, MARGIN + longest + GAP
    right = left + columns * CELL
    height, width = top + len(class_names) * ROW + FOOT + MARGIN, right + 3 * GAP + BAR + FIGURE + MARGIN
    canvas = Canvas(height, max(width, text_width(caption, 0.42) + 2 * MARGIN), WHITE)
    canvas.text("rows: label, columns: prediction, in % of the row's pixels", TITLE / 2, MARGIN, 0.5, INK)
    for index, name in enumerate(names):
        canvas.upright_text(name, top - GAP, left + (index + 0.5) * CELL, NAME_SCALE, INK)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = matrix.counts / matrix.counts.sum(1, keepdims=True)
    for index, name in enumerate(class_names):
        canvas.text(name, top + (index + 0.5) * ROW, left - GAP, NAME_SCALE, INK, align=1)
        _draw_row(canvas, top + index * ROW, left, shares[index, :columns], index)
    _draw_bars(canvas, top, right + 3 * GAP, matrix, class_names, palette)
    canvas.text(caption, height - MARGIN - 4, MARGIN, 0.42, MEAN)
    return canvas.picture()


def _draw_row(canvas: Canvas, top: int, left: int, shares: np.ndarray, diagonal: int) -> None:
    """The cells of one class; shares: (columns,) 0..1, NaN throughout where no pixel is labelled so."""
    for index, share in enumerate(shares):
        strength = 0.0 if np.isnan(share) else float(share if index == diagonal else np.sqrt(share))
        colour = _mixed(FAINT if index == diagonal else WHITE, RIGHT if index == diagonal else WRONG, strength)
        canvas.rectangle(top, left + index * CELL, ROW, CELL, FAINT)
        canvas.rectangle(top + 0.5, left + index * CELL + 0.5, ROW - 1, CELL - 1, colour)
        if 100 * share >= SMALLEST_SHOWN:
            ink = WHITE if strength > 0.5 else INK
            canvas.text(f"{100 * share:.1f}", top + ROW / 2, left + (index + 0.5) * CELL, CELL_SCALE, ink, align=0.5)


def _draw_bars(
    canvas: Canvas,
    top: int,
    left: int,
    matrix: ConfusionMatrix,
    class_names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> None:
    scores = matrix.scores(tuple(class_names))
    for percent in (0, 25, 50, 75, 100):
        x = left + BAR * percent / 100
        canvas.rectangle(top, x, len(class_names) * ROW, 1, FAINT)
        canvas.text(str(percent), top - GAP, x, CELL_SCALE, MEAN, align=0.5)
    for index, (name, (red, green, blue)) in enumerate(zip(class_names, palette, strict=True)):
        iou, y = scores["per_class"][name]["iou"], top + index * ROW
        length = 0.0 if np.isnan(iou) else BAR * iou / 100
        canvas.rectangle(y + 4, left, ROW - 8, length, MEAN)
        canvas.rectangle(y + 5, left, ROW - 10, max(length - 1, 0), (blue, green, red))
        text = "-" if np.isnan(iou) else f"{iou:.1f}"
        canvas.text(text, y + ROW / 2, left + BAR + FIGURE, 0.4, INK, align=1)
    mean = left + BAR * scores["miou"] / 100
    canvas.rectangle(top, mean, len(class_names) * ROW, 1.4, INK)
    canvas.text(f"IoU in %, mean {scores['miou']:.2f} (line)", TITLE / 2, left, 0.5, INK)


def _mixed(low: Colour, high: Colour, strength: float) -> Colour:
    blue, green, red = (round(a + (b - a) * strength) for a, b in zip(low, high, strict=True))
    return blue, green, red
