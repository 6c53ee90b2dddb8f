"""A training split divided by time or by drive: what is in either part, and that neighbours are never in both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pspnet.dataset import Dataset, open_dataset
from pspnet.dataset_classes import camvid11
from pspnet.dataset_held_out import HeldOut, drive_of, hold_out, own_rule, rule_of
from pspnet.dataset_labels import index_labels
from pspnet.errors import PspnetError
from tests.drives import DRIVES, write_drives
from tests.nets import random_model

STEP = 30  # frames between two labelled stills of CamVid: one second
PARTS_OF_CAMVID = {"0001TP": (45, 5, 12), "0006R0": (76, 5, 20), "0016E5": (158, 5, 41)}


def dataset_of(names: list[str]) -> Dataset:
    """A split of pictures that are only named."""
    classes = camvid11("")
    images = tuple(Path("data/train/images", f"{name}.png") for name in names)
    labels = tuple(Path("data/train/labels", f"{name}.png") for name in names)
    return Dataset("camvid11", Path("data"), "train", classes, images, labels, index_labels(classes, "here"))


def camvid_names() -> list[str]:
    """The stills of CamVid's training split, as published: 62, 101 and 204 of three drives."""
    drive_16 = [*range(390, 2401, STEP), *range(4350, 7921, STEP), *range(8190, 8641, STEP)]
    return [
        *(f"0001TP_{n:06}" for n in range(6690, 8521, STEP)),
        *(f"0006R0_f{n:05}" for n in range(930, 3931, STEP)),
        *(f"0016E5_{n + (n == 900):05}" for n in drive_16),  # 00901 is one of the published names
    ]


def stems(dataset: Dataset) -> list[str]:
    return [path.stem for path in dataset.images]


def frame_of(stem: str) -> int:
    return int(stem.partition("_")[2].removeprefix("f"))


def test_the_last_share_of_each_drive_of_camvid_is_held_out() -> None:
    names = camvid_names()
    assert len(names) == 367
    found = hold_out(dataset_of(names), "0.2")
    assert found.rule == "0.2:5" and found.drives == PARTS_OF_CAMVID
    assert (len(found.rest), len(found.part)) == (279, 73)
    assert found.rest.split == "train, but for 0.2:5" and found.part.split == "train, held out 0.2:5"
    for drive, (_, _, held) in PARTS_OF_CAMVID.items():
        own = sorted(frame_of(name) for name in names if name.startswith(drive))
        assert [frame_of(name) for name in stems(found.part) if name.startswith(drive)] == own[-held:]
    assert "held out (0.2:5): 73 of 367 training images (0001TP 12, 0006R0 20, 0016E5 41)" in found.text()
    assert "279 to train on, 15 between" in found.text()


@pytest.mark.parametrize("rule", ["0.2", "0.1:0", "0.35:12", "0.5:1"])
def test_no_picture_to_train_on_is_near_one_that_is_held_out(rule: str) -> None:
    names = camvid_names()
    gap = int(rule.partition(":")[2] or 5)
    found = hold_out(dataset_of(names), rule)
    trained, held = set(stems(found.rest)), set(stems(found.part))
    assert not trained & held and len(names) - len(trained) - len(held) == 3 * gap
    for drive in PARTS_OF_CAMVID:
        last = max(frame_of(name) for name in trained if name.startswith(drive))
        first = min(frame_of(name) for name in held if name.startswith(drive))
        between = [name for name in names if name.startswith(drive) and last < frame_of(name) < first]
        assert len(between) == gap and first - last >= STEP * (gap + 1)


def test_labels_go_with_their_pictures_and_the_order_stays() -> None:
    names = camvid_names()
    random.Random(0).shuffle(names)
    found, sorted_one = hold_out(dataset_of(names), "0.2"), hold_out(dataset_of(camvid_names()), "0.2")
    for ours, theirs in ((found.rest, sorted_one.rest), (found.part, sorted_one.part)):
        assert [path.stem for path in ours.labels] == stems(ours)
        assert set(stems(ours)) == set(stems(theirs)) and stems(ours) == [n for n in names if n in set(stems(ours))]
    assert found.drives == sorted_one.drives


def test_whole_drives_are_held_out_though_their_names_look_like_numbers() -> None:
    found = hold_out(dataset_of(camvid_names()), "0016E5")
    assert found.rule == "0016E5" and {drive_of(stem) for stem in stems(found.part)} == {"0016E5"}
    assert found.drives == {"0001TP": (62, 0, 0), "0006R0": (101, 0, 0), "0016E5": (0, 0, 204)}
    both = hold_out(dataset_of(camvid_names()), "0016E5,0001TP")
    assert both.rule == "0001TP,0016E5" and {drive_of(stem) for stem in stems(both.rest)} == {"0006R0"}


def test_frames_follow_the_numbers_in_their_names() -> None:
    names = [f"drive_{number}" for number in (1, 2, 9, 10, 11, 100, 101, 102, 1000, 1001)]
    found = hold_out(dataset_of(sorted(names)), "0.3:1")
    assert set(stems(found.part)) == {"drive_102", "drive_1000", "drive_1001"}
    assert set(stems(found.rest)) == {f"drive_{n}" for n in (1, 2, 9, 10, 11, 100)}


def test_names_without_a_drive_are_one_drive() -> None:
    found = hold_out(dataset_of([f"{n:03}" for n in range(20)]), "0.25:2")
    assert found.drives == {"": (13, 2, 5)} and "(all 5)" in found.text()


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("0", "share must be above 0"), ("1", "share must be above 0"), ("nan", "share must be above 0"),
        ("0.2:-1", "the gap 0 to"), ("0.2:x", "neither a share nor drives"),
        ("Berlin", r"drives of this data \(they are 0001TP, 0006R0, 0016E5\)"),
        ("0006R0,Berlin", "neither a share nor drives"), ("0.001", "leaves nothing to hold out"),
        ("0.2:400", "leaves nothing to train on"), ("0001TP,0006R0,0016E5", "leaves nothing to train on"),
    ],
)  # fmt: skip
def test_rules_that_are_none(rule: str, said: str) -> None:
    with pytest.raises(PspnetError, match=said) as error:
        hold_out(dataset_of(camvid_names()), rule)
    assert "\n" not in str(error.value)


def test_an_artefact_knows_its_own_rule() -> None:
    spec, _ = random_model("mobilenet_v2", 16, (96, 128), recipe={"hold_out": {"rule": "0.2:5", "drives": {}}})
    assert own_rule(spec) == "0.2:5" == rule_of(spec, "best.pt")
    whole, _ = random_model("mobilenet_v2", 16, (96, 128), recipe={"init_recipe": spec.recipe})
    assert own_rule(whole) == ""
    with pytest.raises(PspnetError, match=r"best\.pt was trained without --hold-out"):
        rule_of(whole, "best.pt")


def test_the_parts_can_be_read(tmp_path: Path) -> None:
    found: HeldOut = hold_out(open_dataset("auto", write_drives(tmp_path), "train"), "0.25:1")
    assert found.drives == dict.fromkeys(sorted(DRIVES), (8, 1, 3))
    picture, labels = found.part.read(5)
    assert picture.shape == (64, 96, 3) and set(labels.ravel()) == {0, 1, 2}
    assert found.facts() == {"rule": "0.25:1", "drives": {name: [8, 1, 3] for name in sorted(DRIVES)}}
