"""Data sets as pairs of a picture and its label map, without torch.

cityscapes, camvid11, bdd100k and semseg's lists in the layouts that people have, and folders of one's own:
docs/datasets.md has them all. `auto` recognises a layout by its files; the modules dataset_*.py hold a family each.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet import dataset_bdd100k, dataset_camvid, dataset_cityscapes, dataset_lists
from pspnet.dataset_classes import CAMVID11, Classes, classes_from_json
from pspnet.dataset_folder import CAMVID11_FOLDER, FOLDER
from pspnet.dataset_labels import LabelReader
from pspnet.dataset_layout import SPLITS, Found, Layout, list_images
from pspnet.errors import PspnetError
from pspnet.image import read_image

__all__ = [
    "CAMVID11", "DATASETS", "SPLITS", "Classes", "Dataset", "check_no_choice", "classes_from_json", "is_dataset",
    "list_images", "open_dataset", "open_pictures", "open_unchecked", "splits_of",
]  # fmt: skip

LAYOUTS: tuple[Layout, ...] = (
    *dataset_cityscapes.LAYOUTS, *dataset_camvid.LAYOUTS, CAMVID11_FOLDER, *dataset_bdd100k.LAYOUTS,
    *dataset_lists.LAYOUTS, FOLDER,
)  # fmt: skip
DATASETS = ("auto", *dict.fromkeys(layout.dataset for layout in LAYOUTS))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """One split: pairs in name order (of a list, in its order).

    split: train, val or test, or all for every split or an undivided folder. protocol: the published label set and size
    that these pairs follow, such as camvid11-segnet-360x480; empty where there is none. note: one line that a user must
    know, else empty. labels: empty where the split has none, which only `open_unchecked` gives; then `note` says why.
    """

    name: str
    root: Path
    split: str
    classes: Classes
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    reader: LabelReader
    protocol: str = ""
    note: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 BGR and labels (H, W) uint8 with 255 where a pixel has no class.

        PspnetError where the two differ in size or a label is neither a class nor the ignore value.
        """
        image, labels = read_image(self.images[index]), self.reader.read(self.labels[index])
        if image.shape[:2] != labels.shape:
            raise PspnetError(
                f"{self.labels[index]} is {labels.shape[0]}x{labels.shape[1]}, but its image is "
                f"{image.shape[0]}x{image.shape[1]}: both must have the same size"
            )
        return image, labels


def open_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """The pairs of one split, checked for a label beside every picture (contents are checked when read).

    name: one of DATASETS; auto recognises the layout. root: its folder, or a list file. split: train, val, test, or all
    (every labelled split, or the whole undivided folder). What a user must know of the data is logged once, as a
    warning. PspnetError where the split has no labels.
    """
    dataset = open_unchecked(name, root, split)
    if not dataset.labels:
        raise PspnetError(dataset.note)
    _check_there(dataset, "labels", dataset.labels)
    _check_there(dataset, "pictures", dataset.images)
    if dataset.note:
        _warn_once(dataset.note)
    return dataset


def open_pictures(name: str, root: str | Path, split: str) -> tuple[Path, ...]:
    """The pictures of one split, for those that need no labels; the arguments are those of `open_dataset`."""
    dataset = open_unchecked(name, root, split)
    _check_there(dataset, "pictures", dataset.images)
    if dataset.note and dataset.labels:
        _warn_once(dataset.note)
    return dataset.images


def open_unchecked(name: str, root: str | Path, split: str) -> Dataset:
    """As `open_dataset`, where files or all labels may be missing: for those that report it."""
    root = Path(root)
    layout = _layout(name, root)
    if split not in (*SPLITS, "all"):
        raise PspnetError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}, all")
    found: Found = layout.find(root, (layout.splits(root) or SPLITS) if split == "all" else (split,))
    images = (*(image for image, _ in found.pairs), *found.unlabelled)
    labels = tuple(label for _, label in found.pairs)
    return Dataset(layout.dataset, root, split, found.classes, images, labels, found.labels, found.protocol, found.note)


def splits_of(name: str, root: str | Path) -> tuple[str, ...]:
    """The splits that a data set has on disk; ("all",) where it cannot be divided."""
    return _layout(name, Path(root)).splits(Path(root))


def is_dataset(root: str | Path) -> bool:
    """Whether `root` is a labelled data set, and not a clip or a plain folder of pictures."""
    root = Path(root)
    return (root / "classes.json").is_file() or any(layout.recognises(root) for layout in LAYOUTS)


def check_no_choice(data: str | Path, name: str, split: str | None) -> None:
    """PspnetError where a layout or a split is chosen of `data` that is no data set, but pictures or a clip."""
    if name != "auto":
        raise PspnetError(f"{data} is no data set in a known layout (docs/datasets.md): leave out --dataset {name}")
    if split is not None:
        raise PspnetError(f"{data} is no data set, so it has no splits: leave out --split {split}")


def _layout(name: str, root: Path) -> Layout:
    if name not in DATASETS:
        raise PspnetError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)} with --dataset")
    if not root.is_dir() and not (root.is_file() and root.suffix == ".txt"):
        raise PspnetError(f"data folder {root} does not exist: give the folder of a data set with --data")
    wanted = [layout for layout in LAYOUTS if name in ("auto", layout.dataset)]
    matching = [layout for layout in wanted if layout.recognises(root)]
    if len(matching) > 1 and FOLDER in matching:  # every camvid11 folder is one, and lists may have a classes.json
        matching.remove(FOLDER)
    if len(matching) == 1:
        return matching[0]
    if matching:
        shapes = ", ".join(f"{layout.dataset} ({layout.looks_for})" for layout in matching)
        raise PspnetError(f"{root} looks like {shapes}: {_choice(matching)}")
    telling = {"auto": FOLDER, "folder": FOLDER, "camvid11": CAMVID11_FOLDER}  # these say what is wrong in a folder
    if name in telling and (name == "folder" or (root / "classes.json").is_file()):
        return telling[name]
    raise _unrecognised(root, wanted)


def _choice(matching: list[Layout]) -> str:
    names = list(dict.fromkeys(layout.dataset for layout in matching))
    if len(names) == 1:
        return "keep one of them in that folder"
    return f"choose one with --dataset {' or --dataset '.join(names)}"


def _unrecognised(root: Path, wanted: list[Layout]) -> PspnetError:
    near = [root.parent, *sorted(path for path in root.iterdir() if path.is_dir())[:20]] if root.is_dir() else []
    hint = next((f"; {path} looks like one" for path in near if any(o.recognises(path) for o in wanted)), "")
    shapes = ", ".join(f"{layout.looks_for} ({layout.dataset})" for layout in wanted)
    return PspnetError(f"{root} is no data set of a known layout{hint}: looked for {shapes}. See docs/datasets.md")


def _check_there(dataset: Dataset, kind: str, paths: tuple[Path, ...]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise PspnetError(
            f"{missing[0]} is missing ({len(missing)} of {len(paths)} {kind} are): every image needs one. "
            f"pspnet doctor --data {dataset.root} lists them"
        )


@functools.cache
def _warn_once(note: str) -> None:
    logger.warning("%s", note)
