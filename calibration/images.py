"""The pictures that ranges are measured on: real, of the training split, spread evenly and known by their hashes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet.dataset import check_no_choice, is_dataset, list_images, open_pictures
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.spec import ModelSpec
from pspnet.wording import counted
from runtime.source import open_source

FEWEST = 4  # below this a range is an accident of the choice of pictures
DEFAULT_COUNT = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationImages:
    """Network inputs (1, H, W, 3) uint8 RGB, and the SHA-256 of each original picture's pixels by its name.

    split: of the data set, "unlabelled" without one. paths: files of the pictures, none for a clip's. sizes: (height,
    width) of the originals. left: how many pictures the source has beside these, copies among them; of a clip, about
    how many.
    """

    source: str
    split: str
    inputs: list[np.ndarray]
    hashes: dict[str, str]
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    left: int

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each input, in order."""
        return tuple(self.hashes)


def calibration_images(
    data: str | Path, dataset: str, split: str | None, count: int | None, spec: ModelSpec, force: bool = False
) -> CalibrationImages:
    """Up to `count` pictures of `data`, evenly spread by name or time, as the network would see them.

    data: a data set, of which `split` (None: train) chooses the part, a folder of pictures, or a clip; labels are not
    used. count: None takes 64, or three quarters of a source with fewer than 86, so that some are left to score on.
    Pictures with equal pixels count once.
    Pictures of a test split are refused unless `force`: ranges fitted to them would flatter the score.
    """
    data = Path(data)
    if count is not None and count < FEWEST:
        raise PspnetError(f"{counted(count, 'calibration image')}: too few, give --images {FEWEST} or more")
    paths, split, source = _source(data, dataset, split)
    _check_split(data, split, force)
    if paths:
        chosen = [paths[index] for index in sorted(spread(len(paths), count or _default(len(paths))))]
        available, pictures = len(paths), _pictures(chosen)
    else:
        chosen, available = [], _frames_of(data, count)
        pictures = _clip_pictures(data, available, count or _default(available))
    inputs, sizes, kept = [], [], []
    hashes: dict[str, str] = {}
    for index, name, digest, picture in _distinct(pictures, data):
        size = picture.shape[0], picture.shape[1]
        inputs.append(network_input(picture, Geometry(size, spec.input_size, spec.fit), spec)[None])
        unique = name if name not in hashes else f"{name} ({len(hashes)})"  # a list may name files of several folders
        hashes[unique] = digest
        sizes.append(size)
        kept.append(index)
    if len(inputs) < FEWEST:
        raise PspnetError(
            f"{counted(len(inputs), 'different picture')} of {data}: {FEWEST} or more are needed to calibrate. Give a "
            "source with more, or more of them with --images"
        )
    files = tuple(chosen[index] for index in kept) if chosen else ()
    return CalibrationImages(source, split, inputs, hashes, files, tuple(sizes), max(available - len(inputs), 0))


def _source(data: Path, dataset: str, split: str | None) -> tuple[list[Path], str, str]:
    """Every picture of the data, none for a clip; its split and its name."""
    if is_dataset(data):
        split = split or "train"
        return list(open_pictures(dataset, data, split)), split, f"{data.name} {split}"
    paths = _unlabelled(data)
    check_no_choice(data, dataset, split)
    return paths, split_of(data), data.name


def _distinct(pictures: Iterable[tuple[str, np.ndarray]], data: Path) -> Iterator[tuple[int, str, str, np.ndarray]]:
    """Index, name, SHA-256 of the pixels and the picture; copies, by their pixels, are left out with a warning."""
    seen: set[tuple[str, tuple[int, ...]]] = set()
    copies = 0
    for index, (name, picture) in enumerate(pictures):
        digest = hashlib.sha256(picture.tobytes()).hexdigest()
        if (digest, picture.shape) in seen:
            copies += 1
            continue
        seen.add((digest, picture.shape))
        yield index, name, digest, picture
    if copies:
        logger.warning(
            "%s among the calibration pictures of %s left out: a picture counts once",
            "1 copy" if copies == 1 else f"{copies} copies", data,
        )  # fmt: skip


def split_of(data: Path) -> str:
    """ "test" or "val" for the folder of such a split's images, else "unlabelled"."""
    for folder in (data.resolve(), data.resolve().parent):
        if folder.name in ("test", "val") and (folder.parent / "classes.json").is_file():
            return folder.name
    return "unlabelled"


def spread(length: int, count: int) -> set[int]:
    """`count` indices below `length`, or all, evenly spread."""
    return set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist())


def _check_split(data: Path, split: str, force: bool) -> None:
    """PspnetError for a test split unless `force`; a warning for the split on which models are chosen."""
    if split in ("test", "all") and not force:
        raise PspnetError(
            f"{data} ({split}) holds test images: ranges fitted to them flatter the score. "
            "Use --split train, or --force if no score will be measured on them"
        )
    if split == "val":
        logger.warning("%s: ranges fitted to val flatter a score on val: calibrate on train where you can", data)


def _default(available: int) -> int:
    return min(DEFAULT_COUNT, max(available * 3 // 4, FEWEST))


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


def _pictures(paths: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    return ((path.name, read_image(path)) for path in paths)


def _frames_of(clip: Path, count: int | None) -> int:
    """How many frames a clip says it has; where it does not say, ten for each wanted one."""
    with open_source(str(clip)) as source:
        return source.length or 10 * (count or DEFAULT_COUNT)


def _clip_pictures(clip: Path, frames: int, count: int) -> Iterator[tuple[str, np.ndarray]]:
    wanted = spread(frames, count)
    with open_source(str(clip)) as source:
        for frame in source:
            if frame.sequence in wanted:
                yield f"{clip.name}#{frame.sequence}", frame.bgr().copy()
