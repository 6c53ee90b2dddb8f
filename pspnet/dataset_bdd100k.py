"""BDD100K's 10,000 pictures with semantic labels, in the present and in the older layout; test labels are withheld.

images/10k/SPLIT/*.jpg  labels/sem_seg/masks/SPLIT/*.png       present (doc.bdd100k.com)
seg/images/SPLIT/*.jpg  seg/labels/SPLIT/*_train_id.png        before 2020; ROOT may be seg/ itself
Either may lie in ROOT/bdd100k. Values are the trainIds of Cityscapes, 255 is unknown.
"""

from __future__ import annotations

from pathlib import Path

from pspnet.dataset_classes import cityscapes19
from pspnet.dataset_labels import index_labels
from pspnet.dataset_layout import Found, Layout, images_of, protocol_of
from pspnet.errors import PspnetError

LICENCE = "BDD100K: educational, research and not-for-profit use (doc.bdd100k.com/license.html)"
SIZE = (720, 1280)
TREES = (
    ("images/10k", "labels/sem_seg/masks", ".png"),
    ("seg/images", "seg/labels", "_train_id.png"),
)


def _tree(root: Path) -> tuple[Path, Path, str] | None:
    """Folders of pictures and of labels, and how a label's name ends."""
    for base in (root, root / "bdd100k"):
        for images, labels, end in TREES:
            if (base / images).is_dir() and (base / labels).is_dir():
                return base / images, base / labels, end
    if root.name == "seg" and (root / "images").is_dir() and any((root / "labels").glob("*/*_train_id.png")):
        return root / "images", root / "labels", "_train_id.png"
    return None


def _splits(root: Path) -> tuple[str, ...]:
    tree = _tree(root)
    return tuple(s for s in ("train", "val") if tree and (tree[0] / s).is_dir())


def _find(root: Path, splits: tuple[str, ...]) -> Found:
    tree = _tree(root)
    if tree is None:
        raise PspnetError(f"{root} has no images/10k with labels/sem_seg/masks: unpack the 10K images and labels there")
    if "test" in splits:
        raise PspnetError(
            f"{root}: BDD100K withholds the labels of its test split: use --split val, or label its pictures with "
            f"pspnet run MODEL {tree[0] / 'test'} -o DIR"
        )
    images, labels, end = tree
    pairs = tuple((i, labels / split / f"{i.stem}{end}") for split in splits for i in images_of(images / split))
    classes = cityscapes19(LICENCE)
    reader = index_labels(classes, "BDD100K's label format")
    return Found(classes, reader, pairs, protocol_of("bdd100k19", SIZE, pairs))


LAYOUTS = (
    Layout(
        "bdd100k", "images/10k/ with labels/sem_seg/masks/, or seg/images/ with seg/labels/",
        lambda root: _tree(root) is not None, _splits, _find,
    ),
)  # fmt: skip
