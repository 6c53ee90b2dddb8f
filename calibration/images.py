"""The pictures that ranges are measured on: real, of the training split, spread evenly and known by their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet.dataset import is_dataset, list_images, open_dataset
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.spec import ModelSpec
from runtime.source import open_source

FEWEST = 4  # below this a range is an accident of the choice of pictures


@dataclass(frozen=True)
class CalibrationImages:
    """Network inputs (1, H, W, 3) uint8 RGB, and the SHA-256 of each original picture's pixels by its name."""

    source: str
    inputs: list[np.ndarray]
    hashes: dict[str, str]


def calibration_images(
    data: str | Path, dataset: str, split: str, count: int, spec: ModelSpec, force: bool = False
) -> CalibrationImages:
    """Up to `count` pictures of `data`, evenly spread by name or time, as the network would see them.

    data: a labelled data set (`split` chooses the part), a folder of pictures, or a clip; labels are
    not used. Pictures of a test split are refused unless `force`: ranges fitted to them would flatter the score.
    """
    data = Path(data)
    if count < FEWEST:
        raise PspnetError(f"{count} calibration images are too few: give --images {FEWEST} or more")
    if is_dataset(data):
        paths = list(open_dataset(dataset, data, split).images)
        source = f"{data.name} {split}"
    else:
        paths, split, source = _unlabelled(data), _split_of(data), data.name
    if split in ("test", "all") and not force:
        raise PspnetError(
            f"{data} ({split}) holds test images: ranges fitted to them flatter the score. "
            "Use --split train, or --force if no score will be measured on them"
        )
    if paths:
        chosen = [paths[index] for index in sorted(_spread(len(paths), count))]
        pictures = [(path.name, read_image(path)) for path in chosen]
    else:
        pictures = _clip_pictures(data, count)
    if len(pictures) < FEWEST:
        raise PspnetError(f"{data} holds {len(pictures)} pictures: {FEWEST} or more are needed to calibrate")
    inputs, hashes = [], {}
    for name, picture in pictures:
        inputs.append(network_input(picture, Geometry(picture.shape[:2], spec.input_size, spec.fit), spec)[None])
        hashes[name] = hashlib.sha256(picture.tobytes()).hexdigest()
    return CalibrationImages(source, inputs, hashes)


def _unlabelled(data: Path) -> list[Path]:
    """Pictures of a folder; an empty list for a clip."""
    if data.is_file():
        return []
    if not data.is_dir():
        raise PspnetError(f"{data} does not exist: give a data set, a folder of pictures or a clip with --data")
    if not (paths := list_images(data)):
        raise PspnetError(
            f"{data} holds neither pictures nor a data set in a known layout (docs/datasets.md): give one of the two"
        )
    return paths


def _split_of(data: Path) -> str:
    """ "test" for the images folder of a data set's test split, else "unlabelled"."""
    for folder in (data.resolve(), data.resolve().parent):
        if folder.name == "test" and (folder.parent / "classes.json").is_file():
            return "test"
    return "unlabelled"


def _clip_pictures(clip: Path, count: int) -> list[tuple[str, np.ndarray]]:
    with open_source(str(clip)) as source:
        wanted = _spread(source.length or 10 * count, count)
        return [(f"{clip.name}#{f.sequence}", f.bgr().copy()) for f in source if f.sequence in wanted]


def _spread(length: int, count: int) -> set[int]:
    return set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist())
