"""Pictures that fine-tuning learns from, with labels where there are any, read one at a time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet.dataset import is_dataset, list_images, open_unchecked
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.spec import IGNORE, ModelSpec

Pair = tuple[np.ndarray, np.ndarray | None]
"""The network's input (H, W, 3) uint8 RGB and, in its pixels, labels (H, W) uint8 or None."""


@dataclass(frozen=True)
class TuningPictures:
    """labelled: whether every pair has labels. pairs: functions, each of which reads one."""

    source: str
    labelled: bool
    pairs: Sequence[Callable[[], Pair]]

    def __len__(self) -> int:
        return len(self.pairs)


def tuning_pictures(
    data: str | Path, dataset: str, split: str | None, exclude: Mapping[str, str], spec: ModelSpec,
    otherwise: list[np.ndarray],
) -> TuningPictures:  # fmt: skip
    """Every picture of `data` (as of `calibration_images`) but those of `exclude`, by name, and copies of them.

    exclude: name -> SHA-256 of the pixels of pictures that a score is measured on. otherwise: inputs (1, H, W, 3) that
    stand for a clip, whose frames cannot be read in any order.
    """
    data, split = Path(data), split or "train"
    if data.is_file() and data.suffix != ".txt":
        return TuningPictures(data.name, False, [functools.partial(_unlabelled, image[0]) for image in otherwise])
    kept, labels = [], []
    if labelled := is_dataset(data):
        found = open_unchecked(dataset, data, split)
        labelled = bool(found.labels) and found.classes.names == spec.class_names
        kept = [index for index, path in enumerate(found.images) if path.name not in exclude]
        paths = [found.images[index] for index in kept]
        labels = [found.labels[index] for index in kept] if labelled else []
    else:
        paths = [path for path in list_images(data) if path.name not in exclude]
    source = f"{data.name} {split}" if is_dataset(data) else data.name
    if not paths:
        raise PspnetError(f"no picture of {source} is left to fine-tune on: score on fewer, or give more data")
    hidden = set(exclude.values())

    def reader(index: int) -> Callable[[], Pair]:
        def read() -> Pair:
            picture, target = found.read(kept[index]) if labels else (read_image(paths[index]), None)
            if hashlib.sha256(picture.tobytes()).hexdigest() in hidden:
                raise PspnetError(f"{paths[index]} is a copy of a picture that INT8 is scored on: remove one of them")
            geometry = Geometry((picture.shape[0], picture.shape[1]), spec.input_size, spec.fit)
            image = network_input(picture, geometry, spec)
            return image, None if target is None else network_labels(target, geometry)

        return read

    return TuningPictures(source, labelled, [reader(index) for index in range(len(paths))])


def _unlabelled(image: np.ndarray) -> Pair:
    return image, None


def network_labels(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Labels (h, w) uint8 at the network's size of a camera's (H, W): the nearest pixel's; 255 outside of the view."""
    (sy, ty), (sx, tx) = geometry.axis_maps
    top, left, height, width = geometry.view
    rows, columns = (np.arange(size) + 0.5 for size in geometry.network_size)
    y, x = np.floor((rows - ty) / sy).astype(int), np.floor((columns - tx) / sx).astype(int)
    inside = ((y >= top) & (y < top + height))[:, None] & ((x >= left) & (x < left + width))
    found = labels[y.clip(0, labels.shape[0] - 1)][:, x.clip(0, labels.shape[1] - 1)]
    return np.where(inside, found, np.uint8(IGNORE))
