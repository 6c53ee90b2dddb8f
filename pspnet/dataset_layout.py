"""What every layout of files on disk tells about itself, and the small steps that several of them share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pspnet.dataset_classes import Classes
from pspnet.dataset_labels import LabelReader
from pspnet.errors import PspnetError
from pspnet.image import IMAGE_SUFFIXES, read_image

Pair = tuple[Path, Path]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Found:
    """The pairs of one or more splits (a label may be missing yet), what they mean and what a user must know.

    unlabelled: the pictures, where the wanted splits have no labels; then there are no pairs, and `note` says why.
    """

    classes: Classes
    labels: LabelReader
    pairs: tuple[Pair, ...]
    protocol: str = ""
    note: str = ""
    unlabelled: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One genuine layout of files.

    dataset: its name for --dataset. looks_for: its marks, in words. recognises: whether a root has those marks.
    splits: the splits that a root holds. find: their pairs; PspnetError where a split cannot be had.
    """

    dataset: str
    looks_for: str
    recognises: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    find: Callable[[Path, tuple[str, ...]], Found]


def splits_with(*places: str) -> Callable[[Path], tuple[str, ...]]:
    """The splits for which one of the folders ROOT/place exists; {} in a place stands for the split."""
    return lambda root: tuple(s for s in SPLITS if any((root / place.format(s)).is_dir() for place in places))


def list_images(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by name; hidden files (unfinished ones, macOS's ._ twins) are left out."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".")]
    return [Path(folder, name) for name in sorted(names) if name.lower().endswith(IMAGE_SUFFIXES)]


def images_of(folder: Path) -> list[Path]:
    """As `list_images`; PspnetError where the folder is absent or holds none."""
    if not folder.is_dir():
        raise PspnetError(f"{folder} does not exist: the split needs it")
    if not (images := list_images(folder)):
        raise PspnetError(f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    return images


def protocol_of(name: str, size: tuple[int, int], pairs: Iterable[Pair]) -> str:
    """`name-HxW` where the first picture has the protocol's size (height, width), else nothing."""
    try:
        matches = next((read_image(image).shape[:2] == size for image, _ in pairs), False)
    except PspnetError:  # reported with its name when the pair is read
        matches = False
    return f"{name}-{size[0]}x{size[1]}" if matches else ""
