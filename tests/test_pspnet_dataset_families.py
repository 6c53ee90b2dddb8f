"""Cityscapes, BDD100K and semseg's lists, with the genuine file names and values written out."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.dataset import DATASETS, is_dataset, open_dataset, open_pictures, splits_of
from pspnet.errors import PspnetError

SIZE = (4, 6)
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
OFFICIAL = [  # cityscapesscripts/helpers/labels.py: trainId of labelId 0 to 33
    255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14,
    15, 255, 255, 16, 17, 18,
]  # fmt: skip


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), len(path.name), np.uint8))


def label(path: Path, values: object = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.broadcast_to(np.asarray(values, np.uint8), size))


def refused(message: str, root: Path, name: str = "auto", split: str = "train") -> None:
    with pytest.raises(PspnetError, match=re.escape(message)) as caught:
        dataset = open_dataset(name, root, split)
        for index in range(len(dataset)):
            dataset.read(index)
    assert "\n" not in str(caught.value)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Two train pairs, one val pair and one test pair whose label holds no class, as labelIds."""
    for split, frame in (
        ("train", "aachen/aachen_000000_000019"),
        ("train", "zurich/zurich_000121_000019"),
        ("val", "munster/munster_000173_000019"),
        ("test", "berlin/berlin_000000_000019"),
    ):
        picture(tmp_path / "leftImg8bit" / split / f"{frame}_leftImg8bit.png")
        label(tmp_path / "gtFine" / split / f"{frame}_gtFine_labelIds.png", 3 if split == "test" else 7)
        (tmp_path / "gtFine" / split / f"{frame}_gtFine_polygons.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", ["auto", "cityscapes"])
def test_cityscapes_is_recognised(cityscapes: Path, name: str) -> None:
    dataset = open_dataset(name, cityscapes, "train")
    assert (dataset.name, len(dataset), dataset.protocol) == ("cityscapes", 2, "")
    assert dataset.labels[1] == cityscapes / "gtFine/train/zurich/zurich_000121_000019_gtFine_labelIds.png"
    assert dataset.classes.names == CITYSCAPES and dataset.classes.drivable == (0,)
    assert dataset.classes.palette[0] == (128, 64, 128) and dataset.classes.palette[13] == (0, 0, 142)
    assert splits_of(name, cityscapes) == ("train", "val", "test") and len(open_dataset(name, cityscapes, "all")) == 3


def test_label_ids_become_train_ids(cityscapes: Path) -> None:
    path = cityscapes / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    picture(cityscapes / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png", (1, 34))
    label(path, np.arange(34), (1, 34))
    dataset = pickle.loads(pickle.dumps(open_dataset("auto", cityscapes, "train")))  # as loader processes get it
    assert dataset.read(0)[1].tolist() == [OFFICIAL]
    label(path, 34, (1, 34))
    refused(f"{path} holds the value 34 (34 pixels): labels must be 0 to 33, the labelIds", cityscapes)


def test_train_ids_are_preferred_where_all_are_there(cityscapes: Path) -> None:
    folder = cityscapes / "gtFine" / "train"
    label(folder / "aachen/aachen_000000_000019_gtFine_labelTrainIds.png", 18)
    assert (open_dataset("auto", cityscapes, "train").read(0)[1] == 0).all()
    label(folder / "zurich/zurich_000121_000019_gtFine_labelTrainIds.png", [[255], [18], [0], [5]])
    dataset = open_dataset("auto", cityscapes, "train")
    assert (dataset.read(0)[1] == 18).all() and dataset.read(1)[1][:, 0].tolist() == [255, 18, 0, 5]
    label(folder / "aachen/aachen_000000_000019_gtFine_labelTrainIds.png", 26)
    refused("holds the value 26 (24 pixels): labels must be 0 to 18 or 255", cityscapes)


def test_the_withheld_labels_of_cityscapes_are_refused_and_left_out(
    cityscapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused("the labels of Cityscapes' test split are withheld", cityscapes, split="test")
    assert [path.name for path in open_pictures("auto", cityscapes, "test")] == ["berlin_000000_000019_leftImg8bit.png"]
    open_dataset("auto", cityscapes, "val")
    assert not caplog.records
    images = open_dataset("auto", cityscapes, "all").images
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "left out" in caplog.text
    assert [path.parent.name for path in images] == ["aachen", "zurich", "munster"]


def test_a_test_split_of_cityscapes_that_has_labels_is_read(cityscapes: Path) -> None:
    label(cityscapes / "gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png", 7)
    assert (open_dataset("auto", cityscapes, "test").read(0)[1] == 0).all()
    assert len(open_dataset("auto", cityscapes, "all")) == 4


def test_broken_cityscapes_is_named(cityscapes: Path) -> None:
    missing = cityscapes / "gtFine/val/munster/munster_000173_000019_gtFine_labelIds.png"
    missing.unlink()
    refused(f"{missing} is missing (1 of 1 labels are)", cityscapes, split="val")
    (cityscapes / "leftImg8bit/val/munster/munster_000173_000019_leftImg8bit.png").unlink()
    refused("unpack leftImg8bit_trainvaltest.zip", cityscapes, split="val")


@pytest.mark.parametrize(
    ("name", "size", "protocol"),
    [("cityscapes", (1024, 2048), "cityscapes19-1024x2048"), ("bdd100k", (720, 1280), "bdd100k19-720x1280")],
)
def test_the_published_size_has_a_protocol(tmp_path: Path, name: str, size: tuple[int, int], protocol: str) -> None:
    image, stored = {
        "cityscapes": ("leftImg8bit/val/a/a_000000_000000_leftImg8bit.png", "gtFine/val/a/a_000000_000000_gtFine_"),
        "bdd100k": ("images/10k/val/a.jpg", "labels/sem_seg/masks/val/a"),
    }[name]
    picture(tmp_path / image, size)
    label(tmp_path / (stored + ("labelIds.png" if name == "cityscapes" else ".png")), 7, size)
    assert open_dataset("auto", tmp_path, "val").protocol == protocol


@pytest.mark.parametrize(
    ("images", "labels", "end", "root"),
    [
        ("images/10k", "labels/sem_seg/masks", ".png", ""),
        ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks", ".png", ""),
        ("seg/images", "seg/labels", "_train_id.png", ""),
        ("bdd100k/seg/images", "bdd100k/seg/labels", "_train_id.png", ""),
        ("bdd100k/seg/images", "bdd100k/seg/labels", "_train_id.png", "bdd100k/seg"),
    ],
)
def test_bdd100k_in_every_layout(tmp_path: Path, images: str, labels: str, end: str, root: str) -> None:
    for split, stem in (("train", "0004a4c0-d4dff0ad"), ("val", "7d06fefd-f7be05a6"), ("test", "ac6d4f42-00000000")):
        picture(tmp_path / images / split / f"{stem}.jpg")
        if split != "test":
            label(tmp_path / labels / split / f"{stem}{end}", [[0], [18], [255], [13]])
    root_path = tmp_path / root
    dataset = open_dataset("auto", root_path, "val")
    assert (dataset.name, dataset.protocol, dataset.images[0].stem) == ("bdd100k", "", "7d06fefd-f7be05a6")
    assert dataset.read(0)[1][:, 0].tolist() == [0, 18, 255, 13] and dataset.classes.names == CITYSCAPES
    assert len(open_dataset("bdd100k", root_path, "all")) == 2
    refused("withholds the labels of its test split", root_path, split="test")
    label(tmp_path / labels / "val" / f"7d06fefd-f7be05a6{end}", 19)
    refused("holds the value 19 (24 pixels): labels must be 0 to 18 or 255", root_path, split="val")


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """semseg's lists: train with plain paths, val with paths of another machine; classes as names and colours."""
    for name in ("a", "b", "c"):
        picture(tmp_path / "img" / f"{name}.jpg")
        label(tmp_path / "ann" / f"{name}.png", [[0], [1], [255], [1]])
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "fine_train.txt").write_text("img/b.jpg ann/b.png\nimg/a.jpg ann/a.png\n\n")
    (tmp_path / "list" / "val.txt").write_text("/data/x/img/c.jpg /data/x/ann/c.png\n")
    (tmp_path / "list" / "own_names.txt").write_text("Road\nSky\n")
    (tmp_path / "list" / "own_colors.txt").write_text("128 64 128\n70 130 180\n")
    return tmp_path


def test_lists_are_read_in_their_order(lists: Path) -> None:
    train, val = (open_dataset("auto", lists, split) for split in ("train", "val"))
    assert train.name == "list" and [p.stem for p in train.images] == ["b", "a"]
    assert val.images == (lists / "img/c.jpg",) and val.labels == (lists / "ann/c.png",)
    assert train.classes.names == ("Road", "Sky") and train.classes.palette == ((128, 64, 128), (70, 130, 180))
    assert train.classes.drivable == (0,) and train.read(0)[1][:, 0].tolist() == [0, 1, 255, 1]
    assert splits_of("list", lists) == ("train", "val") and len(open_dataset("list", lists, "all")) == 3
    refused("has no list for the split test", lists, split="test")


def test_a_list_file_stands_for_the_root(lists: Path) -> None:
    path = lists / "list" / "val.txt"
    assert open_dataset("auto", path, "val").images == (lists / "img/c.jpg",)
    assert len(open_dataset("auto", path, "train")) == 2 and len(open_dataset("auto", path, "all")) == 3
    own = lists / "list" / "mine.txt"
    own.write_text("img/a.jpg ann/a.png")
    assert len(open_dataset("auto", own, "all")) == 1 and is_dataset(own)
    refused("or use --split all", own, split="val")


def test_a_list_of_pictures_alone_has_no_labels(lists: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = lists / "list" / "fine_test.txt"
    listed.write_text("img/c.jpg\n\n/elsewhere/img/a.jpg\n")
    for root in (lists, listed):
        refused(f"{listed}: every line is one path, so its pictures have no labels", root, "list", "test")
        assert open_pictures("list", root, "test") == (lists / "img/c.jpg", lists / "img/a.jpg")
    assert not caplog.records and splits_of("list", lists) == ("train", "val", "test")
    assert len(open_dataset("list", lists, "all")) == 3 and "they are left out" in caplog.text
    listed.write_text("img/c.jpg\nimg/gone.jpg\n")
    with pytest.raises(PspnetError, match=r"gone\.jpg is missing \(1 of 2 pictures"):
        open_pictures("list", lists, "test")


def test_a_classes_json_gives_a_list_its_classes(lists: Path) -> None:
    colours = {"Road": [1, 2, 3], "Sky": [4, 5, 6], "Void": [0, 0, 0]}
    value = {"classes": ["Road", "Sky", "Void"], "ignore_index": 2, "colours_rgb": colours}
    (lists / "classes.json").write_text(json.dumps(value))
    dataset = open_dataset("auto", lists, "train")
    assert dataset.name == "list" and dataset.classes.palette == ((1, 2, 3), (4, 5, 6))
    refused("holds the value 255", lists)


def test_broken_lists_are_named(lists: Path) -> None:
    path = lists / "list" / "val.txt"
    path.write_text("img/c.jpg ann/c.png\nimg/a.jpg\n")
    refused(f"{path} line 2 holds 1 name: write IMAGE LABEL", lists, split="val")
    path.write_text("img/c.jpg ann/nowhere.png\n")
    refused("nowhere.png is missing (1 of 1 labels are)", lists, split="val")
    path.write_text("img/nowhere.jpg ann/c.png\n")
    refused("nowhere.jpg is missing (1 of 1 pictures are)", lists, split="val")
    path.write_text("\n")
    refused("lists no pair", lists, split="val")
    (lists / "list" / "own_colors.txt").write_text("1 2 3\n")
    refused("for each of the 2 names", lists)
    (lists / "list" / "own_names.txt").unlink()
    refused("has lists but no classes", lists)


def test_what_is_not_recognised_gets_one_line_with_every_layout(tmp_path: Path, cityscapes: Path) -> None:
    empty = tmp_path / "sub" / "empty"
    empty.mkdir(parents=True)
    refused("is no data set of a known layout: looked for leftImg8bit/ with gtFine/ (cityscapes)", empty)
    for mark in (
        "trainannot",
        "701_StillsRaw_full",
        "train_labels",
        "images/10k/",
        "seg/images/",
        "list/",
        "classes.json",
    ):
        refused(mark, empty)
    assert not is_dataset(empty) and is_dataset(cityscapes)
    refused(f"{cityscapes} looks like one", cityscapes / "leftImg8bit")
    refused("is no data set of a known layout", cityscapes, name="bdd100k")


def test_two_layouts_in_one_folder_must_be_chosen_from(cityscapes: Path, lists: Path) -> None:
    assert cityscapes == lists
    refused("choose one with --dataset cityscapes or --dataset list", lists)
    assert open_dataset("cityscapes", lists, "val").name == "cityscapes"
    assert open_dataset("list", lists, "val").images == (lists / "img/c.jpg",)


def test_the_help_names_every_data_set() -> None:
    from pspnet.shared_arguments import DATASETS as text

    assert re.findall(r"[a-z0-9]+", text.replace("default", "").replace(" or ", " ")) == list(DATASETS)
