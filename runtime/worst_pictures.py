"""The pictures on which a network does worst: the picture, its labels, the prediction and the differences."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pspnet.dataset import Dataset
from pspnet.drawing import Canvas
from pspnet.image import write_image
from pspnet.metrics import ConfusionMatrix
from pspnet.spec import IGNORE, NetworkSpec
from runtime.overlay import BACKGROUND, TEXT, Palette, blend, legend

WIDEST_PANEL, CAPTION = 640, 26  # pixels
ALPHA = 0.7
WRONG, UNLABELLED = (48, 48, 235), (60, 40, 30)  # BGR
JPEG = (int(cv2.IMWRITE_JPEG_QUALITY), 95)


class WorstPictures:
    """Keeps the `count` pictures of the lowest mIoU of their own, over the classes that label or prediction hold."""

    def __init__(self, count: int, spec: NetworkSpec) -> None:
        self._count, self._spec = count, spec
        self._found: list[tuple[float, int, np.ndarray]] = []

    def add(self, index: int, target: np.ndarray, labels: np.ndarray) -> None:
        """Take the prediction for the picture at `index` into account; a picture without any label is left out."""
        matrix = ConfusionMatrix(self._spec.classes)
        matrix.add(target, labels)
        if self._count and matrix.counts.any():
            self._found.append((matrix.scores(self._spec.class_names)["miou"], index, labels))
            self._found.sort(key=lambda each: each[:2])
            del self._found[self._count :]

    def write(self, folder: Path, dataset: Dataset) -> None:
        """RANK-miouSCORE-NAME.jpg for each, the worst first; `folder` is made where there is anything to write."""
        for rank, (miou, index, labels) in enumerate(self._found, 1):
            name = dataset.images[index].stem
            image, target = dataset.read(index)
            picture = comparison(image, target, labels, self._spec, f"{rank}. {name}: mIoU {miou:.1f} %")
            write_image(folder / f"{rank:03d}-miou{miou:05.1f}-{name}.jpg", picture, *JPEG)


def comparison(image: np.ndarray, target: np.ndarray, labels: np.ndarray, spec: NetworkSpec, title: str) -> np.ndarray:
    """(H, W, 3) uint8 BGR: picture and labels above prediction and differences, with the legend of the classes.

    image: (h, w, 3) uint8 BGR; target, labels: (h, w) uint8. Differences are red on the darkened picture, unlabelled
    pixels dark blue. A panel is at most 640 pixels wide.
    """
    labelled = target != IGNORE
    wrong = labelled & (labels != target)
    share = 100 * wrong.sum() / max(labelled.sum(), 1)
    panels = [
        (title, image),
        ("labels", _coloured(image, target, spec.palette)),
        ("prediction", _coloured(image, labels, spec.palette)),
        (f"differences: {share:.1f} % of the labelled pixels", _differences(image, labelled, wrong)),
    ]
    drawn = [_panel(text, panel) for text, panel in panels]
    grid = np.vstack([np.hstack(drawn[:2]), np.hstack(drawn[2:])])
    return np.hstack([grid, legend(spec.class_names, spec.palette, len(grid))])


def _coloured(image: np.ndarray, labels: np.ndarray, palette: Palette) -> np.ndarray:
    """The picture under its class colours, black where there is no class."""
    drawn = blend(image, labels, palette, ALPHA)
    drawn[labels >= len(palette)] = 0
    return drawn


def _differences(image: np.ndarray, labelled: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    drawn = cv2.convertScaleAbs(grey, alpha=0.55)
    drawn[wrong] = cv2.addWeighted(grey, 0.35, np.full_like(grey, WRONG), 0.65, 0)[wrong]
    drawn[~labelled] = UNLABELLED
    return drawn


def _panel(text: str, picture: np.ndarray) -> np.ndarray:
    """The picture, made smaller where it is wide, under a line of text."""
    height, width = picture.shape[:2]
    if width > WIDEST_PANEL:
        size = WIDEST_PANEL, max(round(height * WIDEST_PANEL / width), 1)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    caption = Canvas(CAPTION, picture.shape[1], BACKGROUND)
    caption.text(text, CAPTION / 2, 8, 0.45, TEXT)
    return np.vstack([caption.picture(), picture])
