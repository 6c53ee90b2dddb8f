"""A training split divided by time or by drive: what is in either part, and that neighbours are never in both."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from pspnet.dataset import Dataset, open_dataset
from pspnet.dataset_classes import camvid11
from pspnet.dataset_held_out import (
    HeldOut,
    difference,
    drive_of,
    hold_out,
    not_held_out,
    other_part,
    own_rule,
    rule_of,
    texts_of,
)
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
        ("0006R0, Berlin", "of which 'Berlin' is no drive here"), ("0.001", "leaves nothing to hold out"),
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
    facts = found.facts()
    assert (facts["rule"], facts["drives"]) == ("0.25:1", {name: [8, 1, 3] for name in sorted(DRIVES)})
    names = {name: "\n".join(f"{name}_{frame}" for frame in (270, 300, 330)) for name in DRIVES}
    assert facts["names"] == {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in names.items()}


def frames(drive: str, *numbers: int) -> list[str]:
    return [f"{drive}_{number}" for number in numbers]


def test_other_pictures_under_the_same_rule_are_another_part() -> None:
    names = [*frames("A", *range(12)), *frames("B", *range(20))]
    base = hold_out(dataset_of(names), "0.25:1").facts()
    moved = hold_out(dataset_of(names[:9] + names[12:]), "0.25:1").facts()
    assert difference(base, hold_out(dataset_of(names[::-1]), "0.25:1").facts()) == ""
    assert "of drive A it had 8 to train on, 1 between and 3 held out, and here are 6 " in difference(base, moved)
    renamed = hold_out(dataset_of([*names[:11], "A_99", *names[12:]]), "0.25:1").facts()
    assert difference(base, renamed) == "of drive A it had as many frames, but others"
    assert difference({"rule": base["rule"], "drives": base["drives"]}, renamed) == ""  # of earlier versions
    assert difference({"rule": base["rule"], "drives": base["drives"]}, moved)
    assert texts_of(base, base) == ("0.25:1", "0.25:1") and texts_of({}, base) == ("nothing", "0.25:1")
    assert "of other pictures: of drive A" in texts_of(base, moved)[1]


def test_a_whole_drive_is_the_same_beside_any_others() -> None:
    base = hold_out(dataset_of([*frames("A", *range(9)), *frames("B", *range(9))]), "A").facts()
    more = hold_out(dataset_of([*frames("A", *range(9)), *frames("B", *range(5)), *frames("C", 1)]), " A").facts()
    assert more["rule"] == "A" and difference(base, more) == ""
    grown = hold_out(dataset_of([*frames("A", *range(10)), *frames("B", *range(9))]), "A").facts()
    assert "9 held out, and here are 0 to train on, 0 between and 10 held out" in difference(base, grown)


def test_the_written_rule_divides_as_the_given_one() -> None:
    names = frames("A", *range(1_000_000, 1_000_000 + 700))
    for share in (1 / 3, 0.0021428571, 0.12345678):
        found = hold_out(dataset_of(names), f"{share!r}:0")
        assert hold_out(dataset_of(names), found.rule).facts() == found.facts()


def test_an_artefact_tells_whether_a_part_is_its_own() -> None:
    found = hold_out(dataset_of(frames("A", *range(12))), "0.25:1")
    spec, _ = random_model("mobilenet_v2", 16, (96, 128), recipe={"hold_out": found.facts()})
    assert other_part(spec, found) == ""
    assert other_part(spec, hold_out(dataset_of(frames("A", *range(13))), "0.25:1")).startswith("of drive A it had")
    assert (
        other_part(spec, hold_out(dataset_of(frames("A", *range(12))), "0.3"))
        == "it was trained with --hold-out 0.25:1"
    )
    assert other_part(object(), found) == "it was trained without --hold-out"


def test_pictures_that_no_training_may_see(tmp_path: Path) -> None:
    found = hold_out(open_dataset("auto", write_drives(tmp_path / "data"), "train"), "0.25:1")
    last = max(frame_of(path.stem) for path in found.rest.images)
    folder = tmp_path / "more"
    folder.mkdir()
    for name in (f"A1_{last}", f"A1_{last - 15}", f"A1_{last + 1}", "A1_99999", "A2_99999", "0016E5_270", "x"):
        (folder / f"{name}.png").write_bytes(name.encode())
    (folder / "copy.png").write_bytes(found.part.images[0].read_bytes())
    (folder / "between.png").write_bytes(found.between[1].read_bytes())
    (folder / "trained.png").write_bytes(found.rest.images[0].read_bytes())
    kept = [path.stem for path in not_held_out(sorted(folder.iterdir()), found)]
    assert kept == sorted([f"A1_{last}", f"A1_{last - 15}", "A2_99999", "x", "trained"])
