"""Merges, doubtful pixels and masks, against plain numpy, in place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from pspnet.spec import IGNORE
from runtime.frame import Frame, Segmentation
from runtime.postprocess import Postprocess
from tests.live_doubles import NAMES, SPEC

SIZE = 37, 53
GROUPS = {"ground": ["lane", "road"], "things": ["car"]}


def result(seed: int = 0, source: str = "front", with_confidence: bool = True) -> Segmentation:
    """Labels of all five classes and 255, and any confidence."""
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([0, 1, 2, 3, 4, IGNORE], np.uint8), SIZE)
    confidence = random.integers(0, 256, SIZE, np.uint8) if with_confidence else None
    return Segmentation(Frame(np.zeros((*SIZE, 3), np.uint8), "bgr", source, 0, 0, 0), labels, {}, None, confidence)


def mask_file(folder: Path, values: np.ndarray, name: str = "mask.png") -> Path:
    cv2.imwrite(str(folder / name), values)
    return folder / name


def test_without_anything_to_do_results_stay_as_they_are() -> None:
    post, given, expected = Postprocess(SPEC), result(), result()
    post(given)
    assert np.array_equal(given.labels, expected.labels) and np.array_equal(given.confidence, expected.confidence)
    assert post.spec is SPEC and not post.needs_confidence


def test_merges_change_labels_names_colours_and_what_is_drivable() -> None:
    post, given, before = Postprocess(SPEC, GROUPS), result(), result().labels
    memory = given.labels
    post(given)
    expected = np.full(SIZE, IGNORE, np.uint8)
    for new, olds in enumerate([(1, 0), (2,), (3,), (4,)]):
        expected[np.isin(before, olds)] = new
    assert given.labels is memory and np.array_equal(memory, expected)
    assert post.spec.class_names == ("ground", "things", "sky", "tree")
    assert post.spec.palette == (SPEC.palette[1], SPEC.palette[2], SPEC.palette[3], SPEC.palette[4])
    assert post.spec.drivable == (0,) and post.spec.classes == 4


def test_a_merge_is_drivable_only_where_all_of_it_is() -> None:
    assert Postprocess(SPEC, {"flat": ["road", "sky"]}).spec.drivable == (1,)  # the lane, which is left


def test_classes_can_be_left_out() -> None:
    post, given, before = Postprocess(SPEC, {"unlabelled": ["sky", "tree"]}), result(), result().labels
    post(given)
    assert post.spec.class_names == NAMES[:3]
    assert np.array_equal(given.labels, np.where(before >= 3, IGNORE, before))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_doubtful_pixels_become_unlabelled(share: float) -> None:
    post, given, before = Postprocess(SPEC, min_confidence=share), result(), result()
    post(given)
    assert post.needs_confidence
    assert np.array_equal(given.labels, np.where(before.confidence / 255 < share, IGNORE, before.labels))
    assert np.array_equal(given.confidence, before.confidence)


def test_doubt_without_confidence_is_refused() -> None:
    with pytest.raises(PspnetError, match="needs results with confidence"):
        Postprocess(SPEC, min_confidence=0.5)(result(with_confidence=False))


@pytest.mark.parametrize("bands", [1, 3])
def test_the_masked_part_is_not_looked_at(tmp_path: Path, bands: int) -> None:
    drawn = np.zeros(SIZE, np.uint8)
    drawn[30:, 10:] = 1
    path = mask_file(tmp_path, drawn if bands == 1 else cv2.merge((drawn * 0, drawn * 0, drawn)))
    post = Postprocess(SPEC, masks={"front": path, "rear": None})
    given, other, before = result(), result(source="rear"), result()
    post(given)
    post(other)
    assert np.array_equal(given.labels, np.where(drawn > 0, IGNORE, before.labels))
    assert np.array_equal(given.confidence, np.where(drawn > 0, 0, before.confidence))
    assert np.array_equal(other.labels, before.labels)


def test_all_at_once(tmp_path: Path) -> None:
    """The order does not matter: what is masked or doubtful has no class, whatever it would be merged to."""
    drawn = np.zeros(SIZE, np.uint8)
    drawn[:, :7] = 255
    post = Postprocess(SPEC, {"all": ["sky", "tree", "road"]}, 0.5, {"front": mask_file(tmp_path, drawn)})
    given, before = result(), result()
    post(given)
    table = np.full(256, IGNORE, np.uint8)
    table[[3, 4, 0, 1, 2]] = [0, 0, 0, 1, 2]
    unsure = (drawn > 0) | (before.confidence < 128)
    assert np.array_equal(given.labels, np.where(unsure, IGNORE, table[before.labels]))


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    post = Postprocess(SPEC, masks={"front": mask_file(tmp_path, np.zeros((10, 20), np.uint8))})
    post.check("front", (10, 20))
    post.check("rear", SIZE)
    with pytest.raises(PspnetError, match="mask is 10x20, its pictures 37x53"):
        post.check("front", SIZE)
    with pytest.raises(PspnetError, match="mask is 10x20"):
        post(result())


def test_a_mask_that_is_no_png_is_refused(tmp_path: Path) -> None:
    path = mask_file(tmp_path, np.zeros((10, 20), np.uint8), "mask.jpg")
    with pytest.raises(PspnetError, match="is no PNG"):
        Postprocess(SPEC, masks={"front": path})


@pytest.mark.parametrize(
    ("merges", "text"),
    [
        ({"a": ["water"]}, "merge 'a' names 'water', which is no class of this artefact: road, lane, car"),
        ({"a": []}, "merge 'a' has no classes"),
        ({"a": ["road"], "b": ["road", "car"]}, "class 'road' is in two merges"),
        ({"a": ["road", "road"]}, "class 'road' is in two merges"),
        ({"sky": ["road"]}, "merge 'sky' has the name of a class that is in no merge"),
        ({"unlabelled": list(NAMES)}, "the merges leave no class"),
    ],
)
def test_merges_without_sense_are_refused(merges: dict[str, list[str]], text: str) -> None:
    with pytest.raises(PspnetError) as caught:
        Postprocess(SPEC, merges)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(PspnetError, match="min_confidence"):
        Postprocess(SPEC, min_confidence=share)
