"""The layouts of this project: images/ and labels/ side by side, with classes.json.

`camvid11`  ROOT/{train,val,test}/{images,labels} and ROOT/classes.json: the SegNet 11-class CamVid
`folder`    ROOT/{images,labels} and ROOT/classes.json; splits as subfolders ROOT/{train,val,test}/{images,labels},
            or none: then the first nine tenths by name are `train` and the last tenth is `val`
"""

from __future__ import annotations

from pathlib import Path

from pspnet.dataset_camvid import SEGNET, SEGNET_SIZE
from pspnet.dataset_classes import CAMVID11, classes_from_json
from pspnet.dataset_labels import index_labels
from pspnet.dataset_layout import Found, Layout, Pair, images_of, protocol_of, splits_with
from pspnet.errors import PspnetError

_divisions = splits_with("{}/images")


def _is_folder(root: Path) -> bool:
    return (root / "classes.json").is_file() and ((root / "images").is_dir() or bool(_divisions(root)))


def _is_camvid11(root: Path) -> bool:
    try:
        return bool(_divisions(root)) and classes_from_json(root / "classes.json").names == CAMVID11
    except PspnetError:  # told by `_find`, with its cause
        return False


def _splits(root: Path) -> tuple[str, ...]:
    if found := _divisions(root):
        return found
    return ("train", "val") if len(_pairs(root)) > 1 else ("all",)


def _find(root: Path, splits: tuple[str, ...]) -> Found:
    classes = classes_from_json(root / "classes.json")
    if _divisions(root):
        pairs = [pair for split in splits for pair in _pairs(root / split)]
    else:
        whole = _pairs(root)
        pairs = [pair for split in splits for pair in _part(whole, split)]
    return Found(classes, index_labels(classes, str(root / "classes.json")), tuple(pairs))


def _find_camvid11(root: Path, splits: tuple[str, ...]) -> Found:
    classes = classes_from_json(root / "classes.json")
    if classes.names != CAMVID11:
        raise PspnetError(f"{root} has other classes than camvid11 ({', '.join(CAMVID11)}): use --dataset folder")
    if not _divisions(root):
        raise PspnetError(
            f"{root} has no train/images, val/images or test/images: camvid11 needs them (or --dataset folder)"
        )
    found = _find(root, splits)
    return Found(found.classes, found.labels, found.pairs, protocol_of(SEGNET, SEGNET_SIZE, found.pairs))


def _pairs(folder: Path) -> list[Pair]:
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise PspnetError(f"{folder / part} does not exist: a split needs the folders images and labels")
    return [(image, folder / "labels" / f"{image.stem}.png") for image in images_of(folder / "images")]


def _part(pairs: list[Pair], split: str) -> list[Pair]:
    """The pairs of one split of an undivided folder."""
    if split == "all":
        return pairs
    if split == "test":
        raise PspnetError(
            "this folder has no test split: make ROOT/test/images and ROOT/test/labels, or use --split all"
        )
    if len(pairs) < 2:
        raise PspnetError("one pair cannot be divided into train and val: add images, or use --split all")
    held_out = max(len(pairs) // 10, 1)
    # The last by name: of a recording, the latest, so that neighbours are not split.
    return pairs[:-held_out] if split == "train" else pairs[-held_out:]


CAMVID11_FOLDER = Layout(
    "camvid11", "classes.json with train/images/ and train/labels/", _is_camvid11, _divisions, _find_camvid11
)
FOLDER = Layout("folder", "classes.json with images/ and labels/", _is_folder, _splits, _find)
