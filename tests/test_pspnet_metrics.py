"""Scores from the confusion matrix against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference

from pspnet.metrics import ConfusionMatrix

CLASSES = 6
NAMES = tuple("abcdef")
PERCENT = 1e-9  # float64 on both sides


def pair(seed: int, classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels with some 255 and predictions that are mostly right, both of the listed classes only."""
    rng = np.random.default_rng(seed)
    target = rng.choice(classes, (40, 50)).astype(np.uint8)
    predicted = np.where(rng.random(target.shape) < 0.7, target, rng.choice(classes, target.shape)).astype(np.uint8)
    target[rng.random(target.shape) < 0.1] = 255
    return target, predicted


@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4, 5], [0, 2, 5]], ids=["all", "some classes absent"])
def test_scores_equal_scikit_learn(present: list[int]) -> None:
    pairs = [pair(seed, present) for seed in range(3)]
    matrix = ConfusionMatrix(CLASSES)
    for target, predicted in pairs:
        matrix.add(target, predicted)
    t, p = (np.concatenate([x[i][x[0] != 255] for x in pairs]) for i in (0, 1))
    np.testing.assert_array_equal(matrix.counts[:, :-1], reference.confusion_matrix(t, p, labels=range(CLASSES)))
    assert not matrix.counts[:, -1].any()

    scores = matrix.scores(NAMES)
    kind = {"labels": present, "average": "macro"}
    expected = {
        "miou": reference.jaccard_score(t, p, **kind),
        "precision": reference.precision_score(t, p, **kind),
        "recall": reference.recall_score(t, p, **kind),
        "macc": reference.balanced_accuracy_score(t, p),
        "f1": reference.f1_score(t, p, **kind),
        "pixel_accuracy": reference.accuracy_score(t, p),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(100 * value, abs=PERCENT), name
    each = {"labels": present, "average": None}
    rows = {
        "iou": reference.jaccard_score(t, p, **each),
        "precision": reference.precision_score(t, p, **each),
        "recall": reference.recall_score(t, p, **each),
        "f1": reference.f1_score(t, p, **each),
    }
    for place, c in enumerate(present):
        row = scores["per_class"][NAMES[c]]
        for name, values in rows.items():
            assert row[name] == pytest.approx(100 * values[place], abs=PERCENT), name
        assert row["pixels"] == (t == c).sum()
    for c in set(range(CLASSES)) - set(present):
        assert math.isnan(scores["per_class"][NAMES[c]]["iou"])


@pytest.mark.parametrize("seed", range(20))
def test_random_maps_with_ignored_and_unpredicted_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 30))
    target, predicted = rng.integers(0, classes, (2, 30, 41)).astype(np.uint8)
    target[rng.random(target.shape) < 0.3], predicted[rng.random(target.shape) < 0.05] = 255, 255
    matrix = ConfusionMatrix(classes)
    matrix.add(target, predicted)
    valid = target != 255
    # to scikit-learn an unpredicted pixel is of one class more, of which no label is
    t, p = target[valid], np.where(predicted[valid] == 255, classes, predicted[valid])
    expected = reference.confusion_matrix(t, p, labels=range(classes + 1))
    np.testing.assert_array_equal(matrix.counts, expected[:-1])
    scores = matrix.scores(tuple(map(str, range(classes))))
    kind = {"labels": range(classes), "average": "macro", "zero_division": 0}
    assert scores["miou"] == pytest.approx(100 * reference.jaccard_score(t, p, **kind), abs=PERCENT)
    assert scores["f1"] == pytest.approx(100 * reference.f1_score(t, p, **kind), abs=PERCENT)


@pytest.mark.parametrize("seed", range(20))
def test_every_mean_is_over_the_classes_that_have_the_figure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labelled, predicted = (rng.choice(CLASSES, rng.integers(2, CLASSES), replace=False) for _ in range(2))
    target, labels = (rng.choice(classes, (20, 30)).astype(np.uint8) for classes in (labelled, predicted))
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(target, labels)
    scores, either = matrix.scores(NAMES), sorted({*labelled, *predicted})
    for name, figure, classes in (
        ("miou", reference.jaccard_score, either), ("f1", reference.f1_score, either),
        ("macc", reference.recall_score, labelled), ("recall", reference.recall_score, labelled),
        ("precision", reference.precision_score, predicted),
    ):  # fmt: skip
        mean = figure(target.ravel(), labels.ravel(), labels=classes, average="macro", zero_division=0)
        assert scores[name] == pytest.approx(100 * mean, abs=PERCENT), name


def test_matrices_of_parts_add_up_to_that_of_the_whole() -> None:
    whole, parts = ConfusionMatrix(CLASSES), [ConfusionMatrix(CLASSES) for _ in range(3)]
    for seed in range(7):
        target, predicted = pair(seed, list(range(CLASSES)))
        whole.add(target, predicted)
        parts[seed % 3].add(target, predicted)
    np.testing.assert_array_equal(sum(part.counts for part in parts), whole.counts)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.zeros((1, 4), np.uint8), np.array([[0, 0, 1, 1]], np.uint8))
    scores = matrix.scores(("road", "sky"))
    assert scores["per_class"]["sky"]["iou"] == 0
    assert scores["miou"] == pytest.approx(100 * (0.5 + 0) / 2)


def test_unpredicted_pixels_are_misses_and_no_false_positives() -> None:
    target = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 255, 1], [1, 255, 255, 0]], np.uint8)
    matrix = ConfusionMatrix(2)
    matrix.add(target, predicted)
    scores = matrix.scores(("road", "sky"))
    # scikit-learn sees the unpredicted pixels as a class of its own that is left out of the mean
    t, p = target[target != 255], predicted[target != 255]
    assert scores["miou"] == pytest.approx(100 * reference.jaccard_score(t, p, labels=[0, 1], average="macro"))
    assert scores["precision"] == pytest.approx(100)
    assert scores["pixel_accuracy"] == pytest.approx(100 * 4 / 6)


def test_an_empty_matrix_has_no_score() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    scores = matrix.scores(("road", "sky"))
    assert math.isnan(scores["miou"]) and math.isnan(scores["pixel_accuracy"])
