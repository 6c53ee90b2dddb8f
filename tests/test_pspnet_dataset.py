"""Data sets: layouts, splits, what a label means, and every bad input by name."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pspnet.dataset import classes_from_json, open_dataset
from pspnet.errors import PspnetError

CLASSES: dict[str, Any] = {
    "classes": ["Road", "Sky", "Car", "Void"],
    "ignore_index": 3,
    "colours_rgb": {"Road": [1, 2, 3], "Sky": [4, 5, 6], "Car": [7, 8, 9], "Void": [0, 0, 0]},
}
SIZE = (24, 32)


def write_pairs(folder: Path, names: list[str]) -> None:
    """Seeded pairs whose labels hold every class and the ignore value."""
    rng = np.random.default_rng(len(names))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), rng.integers(0, 256, (*SIZE, 3), np.uint8))
        labels = rng.integers(0, 4, SIZE, np.uint8)
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), labels)


@pytest.fixture
def undivided(tmp_path: Path) -> Path:
    """A `folder` data set of 20 pairs without splits."""
    write_pairs(tmp_path, [f"{i:03}" for i in range(20)])
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A data set with 3 train pairs and 2 val pairs."""
    write_pairs(tmp_path / "train", ["c", "a", "b"])
    write_pairs(tmp_path / "val", ["d", "e"])
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


def refused(message: str, root: Path, name: str = "folder", split: str = "all") -> None:
    """Opens and reads everything; fails where that is not refused in one line that holds `message`."""
    with pytest.raises(PspnetError, match=re.escape(message)) as caught:
        dataset = open_dataset(name, root, split)
        for index in range(len(dataset)):
            dataset.read(index)
    assert "\n" not in str(caught.value)


def camvid_classes(root: Path) -> None:
    """Give the data set CamVid's classes; label values 0 to 3 are among them."""
    tiny = Path(__file__).parents[1] / "demo" / "camvid11_tiny"
    (root / "classes.json").write_text((tiny / "classes.json").read_text())


def test_auto_tells_camvid_by_its_classes(divided: Path) -> None:
    assert open_dataset("auto", divided, "train").name == "folder"
    camvid_classes(divided)
    assert open_dataset("auto", divided, "train").name == "camvid11"


def test_other_classes_are_not_camvid(divided: Path) -> None:
    refused("has other classes than camvid11", divided, name="camvid11")


@pytest.mark.parametrize("name", ["camvid11", "folder"])
def test_divided_layout(divided: Path, name: str) -> None:
    camvid_classes(divided)
    names = {s: [p.stem for p in open_dataset(name, divided, s).images] for s in ("train", "val", "all")}
    assert names == {"train": ["a", "b", "c"], "val": ["d", "e"], "all": ["a", "b", "c", "d", "e"]}
    assert [p.stem for p in open_dataset(name, divided, "all").labels] == names["all"]
    refused("test", divided, name, "test")


def test_undivided_layout_holds_out_the_last_tenth(undivided: Path) -> None:
    names = {s: [p.stem for p in open_dataset("folder", undivided, s).images] for s in ("train", "val", "all")}
    assert names["train"] == [f"{i:03}" for i in range(18)] and names["val"] == ["018", "019"]
    assert names["all"] == names["train"] + names["val"]
    refused("no test split", undivided, split="test")
    camvid_classes(undivided)
    refused("camvid11 needs them", undivided, name="camvid11")


def test_camvid_of_the_repository(camvid_tiny: Path) -> None:
    counts = {s: len(open_dataset("camvid11", camvid_tiny, s)) for s in ("train", "val", "test", "all")}
    assert counts == {"train": 8, "val": 3, "test": 5, "all": 16}
    dataset = open_dataset("camvid11", camvid_tiny, "val")
    assert dataset.protocol == "camvid11-segnet-360x480"
    assert dataset.classes.names[0] == "Sky" and len(dataset.classes.names) == 11
    assert [dataset.classes.names[i] for i in dataset.classes.drivable] == ["Road"]
    image, labels = dataset.read(0)
    stored = cv2.imread(str(dataset.labels[0]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, np.where(stored == 11, 255, stored))
    np.testing.assert_array_equal(image, cv2.imread(str(dataset.images[0])))


@pytest.mark.parametrize("ignore", [3, 255])
def test_the_ignore_value_becomes_255(undivided: Path, ignore: int) -> None:
    classes = {**CLASSES, "ignore_index": ignore}
    if ignore == 255:
        classes["classes"] = CLASSES["classes"][:3]
    (undivided / "classes.json").write_text(json.dumps(classes))
    stored = np.full(SIZE, ignore, np.uint8)
    stored[:2] = [[0], [2]]
    cv2.imwrite(str(undivided / "labels" / "000.png"), stored)
    dataset = open_dataset("folder", undivided, "all")
    labels = dataset.read(0)[1]
    assert dataset.classes.names == ("Road", "Sky", "Car")
    assert (labels[0] == 0).all() and (labels[1] == 2).all() and (labels[2:] == 255).all()


def test_a_missing_label_is_named(undivided: Path) -> None:
    (undivided / "labels" / "007.png").unlink()
    refused(f"{undivided / 'labels' / '007.png'} is missing (1 of 20", undivided)


def test_a_value_outside_the_classes_is_named_with_its_file(undivided: Path) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[0, :5] = 77
    cv2.imwrite(str(undivided / "labels" / "004.png"), labels)
    refused(f"{undivided / 'labels' / '004.png'} holds the value 77 (5 pixels)", undivided)


def test_a_size_mismatch_is_named(undivided: Path) -> None:
    cv2.imwrite(str(undivided / "labels" / "004.png"), np.zeros((24, 31), np.uint8))
    refused("004.png is 24x31, but its image is 24x32", undivided)


@pytest.mark.parametrize(
    ("target", "picture", "message"),
    [
        ("images/000.png", np.zeros((*SIZE, 3), np.uint16), "16-bit"),
        ("images/000.png", np.zeros((*SIZE, 4), np.uint8), "4 bands"),
        ("images/000.png", np.zeros(SIZE, np.uint16), "16-bit"),
        ("labels/000.png", np.zeros(SIZE, np.uint16), "16 bits"),
        ("labels/000.png", np.zeros((*SIZE, 3), np.uint8), "3 band(s)"),
    ],
    ids=["16-bit image", "four-band image", "16-bit grey image", "16-bit labels", "colour labels"],
)
def test_pictures_of_another_kind_are_refused(undivided: Path, target: str, picture: np.ndarray, message: str) -> None:
    (undivided / "images" / "000.jpg").unlink()
    cv2.imwrite(str(undivided / "images" / "000.png"), np.zeros((*SIZE, 3), np.uint8))
    cv2.imwrite(str(undivided / target), picture)
    refused(message, undivided)


def test_labels_with_a_palette_are_refused(undivided: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 8, 3, 0, 0, 0)
    rows = (b"\0" + b"\1" * SIZE[1]) * SIZE[0]
    png = chunk(b"IHDR", header) + chunk(b"PLTE", bytes(6)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (undivided / "labels" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    refused("is a PNG with a palette: store the class indices as one 8-bit band", undivided)


@pytest.mark.parametrize("target", ["images/000.jpg", "labels/000.png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.95])
def test_a_truncated_picture_is_refused(undivided: Path, target: str, share: float) -> None:
    path = undivided / target
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(f"{path} is corrupt or not a picture", undivided)


def test_a_grey_image_is_read_as_three_bands(undivided: Path) -> None:
    grey = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE)
    (undivided / "images" / "000.jpg").unlink()
    cv2.imwrite(str(undivided / "images" / "000.png"), grey)
    image = open_dataset("folder", undivided, "all").read(0)[0]
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, 2))


def test_wrong_names_and_folders_are_refused(undivided: Path) -> None:
    refused("auto, cityscapes, camvid11, bdd100k, list, folder", undivided, name="kitti")
    refused("train, val, test, all", undivided, split="trainval")
    refused("does not exist", undivided / "nowhere")
    (undivided / "classes.json").unlink()
    refused("cannot read class list", undivided)


def test_folders_without_pictures_or_labels_are_refused(undivided: Path) -> None:
    for picture in (undivided / "images").iterdir():
        picture.unlink()
    refused("holds no picture", undivided)
    for label in (undivided / "labels").iterdir():
        label.unlink()
    (undivided / "labels").rmdir()
    refused("labels does not exist", undivided)


def test_one_pair_cannot_be_divided(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["only"])
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    refused("cannot be divided", tmp_path, split="train")
    assert len(open_dataset("folder", tmp_path, "all")) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": None},
        {"ignore_index": "none"},
        {"ignore_index": 256},
        {"ignore_index": 1},
        {"ignore_index": -1},
        {"colours_rgb": {}},
        {"colours_rgb": None},
        {"colours_rgb": {**CLASSES["colours_rgb"], "Sky": [1, 2]}},
        {"colours_rgb": {**CLASSES["colours_rgb"], "Sky": [1, 2, 256]}},
        {"drivable": ["Pavement"]},
        {"classes": []},
        {"classes": "Road"},
    ],
    ids=str,
)
def test_a_broken_classes_json_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({**CLASSES, **changes}))
    with pytest.raises(PspnetError, match=r"classes\.json") as caught:
        classes_from_json(path)
    assert "\n" not in str(caught.value)


def test_a_classes_json_that_is_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("[]")
    with pytest.raises(PspnetError, match=r"classes\.json"):
        classes_from_json(tmp_path / "classes.json")
