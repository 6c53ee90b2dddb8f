"""Cityscapes: ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png.

*_gtFine_labelTrainIds.png are preferred where every picture has one; otherwise labelIds become trainIds by the official
table. The names are those of cityscapesScripts: {root}/{type}/{split}/{city}/{city}_{seq:0>6}_{frame:0>6}_{type}{ext}.
"""

from __future__ import annotations

from pathlib import Path

from pspnet.dataset_classes import cityscapes19
from pspnet.dataset_labels import IndexLabels, index_labels
from pspnet.dataset_layout import Found, Layout, list_images, protocol_of, splits_with
from pspnet.errors import PspnetError
from pspnet.spec import IGNORE

LICENCE = "Cityscapes: non-commercial use, no redistribution (cityscapes-dataset.com/license)"
SIZE = (1024, 2048)
IMAGE_END, TRAIN_IDS_END, IDS_END = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
IDS = 34  # labelIds are 0 to 33; licence plates (-1) are never drawn
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""labelId to trainId (cityscapesscripts/helpers/labels.py); every other labelId has no class."""


def _recognises(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir()


def _find(root: Path, splits: tuple[str, ...]) -> Found:
    withheld = "test" in splits and _is_withheld(root)
    labelled = tuple(split for split in splits if split != "test" or not withheld)
    images = [image for split in labelled or splits for image in _images(root, split)]
    train_ids = [_label(root, image, TRAIN_IDS_END) for image in images]
    classes = cityscapes19(LICENCE)
    labels, reader = train_ids, index_labels(classes, "the trainIds of Cityscapes")
    if not all(label.is_file() for label in train_ids):
        labels, reader = [_label(root, image, IDS_END) for image in images], label_ids()
    pairs = tuple(zip(images, labels, strict=True))
    protocol = protocol_of("cityscapes19", SIZE, pairs)
    if not withheld:
        return Found(classes, reader, pairs, protocol)
    note = f"{root}: the labels of Cityscapes' test split are withheld, its gtFine files hold no class: "
    if labelled:
        return Found(classes, reader, pairs, protocol, note + "its pictures are left out")
    note += "nothing can be scored on it here. Use --split val, or send predictions to the benchmark's server"
    return Found(classes, reader, (), protocol, note, tuple(images))


def _is_withheld(root: Path) -> bool:
    """Whether the first label of the test split holds no class, as published; the others are alike."""
    label = _label(root, _images(root, "test")[0], IDS_END)
    try:
        return label.is_file() and bool((label_ids().read(label) == IGNORE).all())
    except PspnetError:  # told with its name when the pair is read
        return False


def label_ids() -> IndexLabels:
    """Labels stored as Cityscapes' labelIds."""
    return IndexLabels({i: TRAIN_IDS.get(i, IGNORE) for i in range(IDS)}, "0 to 33, the labelIds of Cityscapes")


def _images(root: Path, split: str) -> list[Path]:
    folder = root / "leftImg8bit" / split
    cities = sorted(city for city in folder.iterdir() if city.is_dir()) if folder.is_dir() else []
    images = [image for city in cities for image in list_images(city) if image.name.endswith(IMAGE_END)]
    if not images:
        raise PspnetError(f"{folder} holds no CITY/*{IMAGE_END}: unpack leftImg8bit_trainvaltest.zip in {root}")
    return images


def _label(root: Path, image: Path, end: str) -> Path:
    city, split = image.parent.name, image.parents[1].name
    return root / "gtFine" / split / city / (image.name[: -len(IMAGE_END)] + end)


LAYOUTS = (
    Layout("cityscapes", "leftImg8bit/ with gtFine/", _recognises, splits_with("gtFine/{}"), _find),
)  # fmt: skip
