"""The one evaluation: whole image, single scale, one accumulated confusion matrix, on any engine and without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.metrics import ConfusionMatrix
from pspnet.spec import NetworkSpec


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray], spec: NetworkSpec, dataset: Dataset, fit: str | None = None
) -> dict[str, Any]:
    """Scores in percent ("miou", "per_class", ...) of `predict` on every pair of `dataset`, with the protocol.

    predict: picture (H, W, 3) uint8 BGR -> labels (H, W) uint8 at the same size, so that predictions meet the labels
    at the labels' own size. fit: the one that `predict` uses, where it is not the spec's.
    """
    check_classes(spec, dataset)
    matrix = ConfusionMatrix(spec.classes)
    for index in tqdm(range(len(dataset)), desc=f"evaluate {dataset.split}", unit="image", leave=False):
        image, target = dataset.read(index)
        matrix.add(target, predict(image))
    if not matrix.counts.any():
        raise PspnetError(f"no pixel of {dataset.root} ({dataset.split}) has a class: there is nothing to score")
    return {
        **matrix.scores(spec.class_names),
        "protocol": {
            "dataset": dataset.name, "split": dataset.split, "images": len(dataset),
            "mode": "whole image, single scale", "network_size": list(spec.input_size), "fit": fit or spec.fit,
        },
    }  # fmt: skip


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
