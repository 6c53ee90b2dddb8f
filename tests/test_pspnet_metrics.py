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
    for c, iou in zip(present, reference.jaccard_score(t, p, labels=present, average=None), strict=True):
        row = scores["per_class"][NAMES[c]]
        assert row["iou"] == pytest.approx(100 * iou, abs=PERCENT)
        assert row["pixels"] == (t == c).sum()
    for c in set(range(CLASSES)) - set(present):
        assert math.isnan(scores["per_class"][NAMES[c]]["iou"])


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
