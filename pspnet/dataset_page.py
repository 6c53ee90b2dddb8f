"""One picture that shows a data set: pairs as overlays, each with its name, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from pspnet.dataset_classes import Colour
from pspnet.doctor_data import DataReport

COLUMNS, TILE_WIDTH, CAPTION_HEIGHT, GAP = 3, 480, 26, 8
BACKGROUND, TEXT = (28, 24, 22), (236, 234, 232)  # BGR
ALPHA = 0.55  # of the class colours: strong enough to tell classes apart, and edges stay visible

Blend = Callable[[np.ndarray, np.ndarray, Sequence[Colour], float], np.ndarray]
Legend = Callable[[Sequence[str], Sequence[Colour], int], np.ndarray]


def chosen_pairs(report: DataReport, count: int) -> list[tuple[str, int]]:
    """Split and index of `count` readable pairs, or of all where there are fewer, evenly spread over each split.

    Every split gives as many as any other; one that has fewer gives all, and the others make up for it.
    """
    readable = {name: split.readable() for name, split in report.splits.items() if split.dataset.labels}
    shares = dict.fromkeys(readable, 0)
    for _ in range(min(count, sum(map(len, readable.values())))):
        name = min((name for name in readable if shares[name] < len(readable[name])), key=shares.__getitem__)
        shares[name] += 1
    return [
        (name, indices[at])
        for name, indices in readable.items()
        for at in np.linspace(0, len(indices) - 1, shares[name]).round().astype(int)
    ]


def contact_sheet(report: DataReport, chosen: Sequence[tuple[str, int]], blend: Blend, legend: Legend) -> np.ndarray:
    """(H, W, 3) uint8 BGR page of the pairs that `chosen_pairs` gave, one or more.

    blend(image, labels, palette, alpha) and legend(names, palette, height) draw: this package may not import those of
    `runtime`. A pixel without a class shows the picture as it is.
    """
    classes = report.splits[chosen[0][0]].dataset.classes
    tiles = []
    for name, index in chosen:
        dataset = report.splits[name].dataset
        image, labels = dataset.read(index)
        tiles.append((blend(image, labels, classes.palette, ALPHA), f"{name}  {dataset.images[index].name}"))
    height, width = tiles[0][0].shape[:2]
    tile_size = (max(round(TILE_WIDTH * height / width), 1), TILE_WIDTH)
    cells = [_cell(picture, caption, tile_size) for picture, caption in tiles]
    cells += [np.full_like(cells[0], BACKGROUND)] * (-len(cells) % COLUMNS)
    page = np.vstack([np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)])
    return np.hstack([page, legend(classes.names, classes.palette, page.shape[0])])


def _cell(picture: np.ndarray, caption: str, size: tuple[int, int]) -> np.ndarray:
    """The picture inside `size` (height, width), with its caption below and a gap around."""
    height, width = size
    scale = min(height / picture.shape[0], width / picture.shape[1])
    shape = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))  # width, height
    shrunk = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    cell = np.full((height + CAPTION_HEIGHT + 2 * GAP, width + 2 * GAP, 3), BACKGROUND, np.uint8)
    cell[GAP : GAP + shape[1], GAP : GAP + shape[0]] = shrunk
    drawable = caption.encode("ascii", "replace").decode()
    place = (GAP, GAP + height + CAPTION_HEIGHT - 8)
    cv2.putText(cell, drawable, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)
    return cell
