"""The one evaluation: one accumulated confusion matrix over any data set, on any engine and without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.inference import Mode
from pspnet.metrics import ConfusionMatrix
from pspnet.spec import NetworkSpec

Predict = Callable[[np.ndarray], np.ndarray]
"""Picture (H, W, 3) uint8 BGR -> labels (H, W) uint8 of the same size, 255 where there is no prediction."""


def evaluate(predict: Predict, spec: NetworkSpec, dataset: Dataset, fit: str | None = None) -> dict[str, Any]:
    """Scores in percent ("miou", "per_class", ...) of `predict` on every pair of `dataset`, with the protocol.

    Predictions meet the labels at the labels' own size. fit: the one that `predict` uses, where it is not the spec's.
    """
    matrix = confusion_of(predict, spec, dataset, range(len(dataset)))
    return scores_of(matrix, spec, dataset, fit)


def confusion_of(
    predict: Predict, spec: NetworkSpec, dataset: Dataset, indices: Iterable[int], title: str = ""
) -> ConfusionMatrix:
    """The confusion matrix of `predict` on the pairs at `indices`.

    Matrices of disjoint indices add up: the sum of their counts is the matrix of all, so that several processes can
    share a data set without counting a pair twice. title: of the progress bar.
    """
    check_classes(spec, dataset)
    matrix = ConfusionMatrix(spec.classes)
    for index in tqdm(indices, desc=title or f"evaluate {dataset.split}", unit="image", leave=False):
        image, target = dataset.read(index)
        matrix.add(target, predict(image))
    return matrix


def scores_of(
    matrix: ConfusionMatrix, spec: NetworkSpec, dataset: Dataset, fit: str | None = None, mode: Mode | None = None
) -> dict[str, Any]:
    """Scores in percent of a matrix over the whole of `dataset`, with the protocol; mode: None is whole, one scale."""
    if not matrix.counts.any():
        raise PspnetError(f"no pixel of {dataset.root} ({dataset.split}) has a class: there is nothing to score")
    return {**matrix.scores(spec.class_names), "protocol": protocol_of(spec, dataset, fit, mode or Mode())}


def protocol_of(spec: NetworkSpec, dataset: Dataset, fit: str | None, mode: Mode) -> dict[str, Any]:
    """What a figure must state to be compared with another: data, sizes, and how pictures became labels.

    "name" is the data set's published protocol, "" where it has none; "label_size" that of the first label map;
    "labels_sha256" covers names and contents of all label files, in order. "fit" is None for windows.
    """
    first = dataset.read(0)[1].shape
    return {
        "name": dataset.protocol, "dataset": dataset.name, "split": dataset.split,
        "images": len(dataset), "label_size": list(first), "labels_sha256": labels_sha256(dataset),
        "mode": mode.text(), "inference": mode.facts(spec.input_size), "network_size": list(spec.input_size),
        "fit": (fit or spec.fit) if mode.kind == "whole" else None,
    }  # fmt: skip


def labels_sha256(dataset: Dataset) -> str:
    """Hex SHA-256 over the names and the SHA-256 of all label files, one line each: equal where the labels are."""
    digest = hashlib.sha256()
    for path in dataset.labels:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def check_classes(spec: NetworkSpec, dataset: Dataset) -> None:
    """PspnetError where the classes of a model and of a data set differ in name or order."""
    ours, theirs = spec.class_names, dataset.classes.names
    if ours != theirs:
        first = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        name = [names[first] if first < len(names) else "nothing" for names in (ours, theirs)]
        raise PspnetError(
            f"the model knows {len(ours)} classes, {dataset.root} has {len(theirs)}; class {first} is {name[0]} and "
            f"{name[1]}: both must agree. Fine-tune with `pspnet train --init`"
        )
