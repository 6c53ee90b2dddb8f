"""What a training run asks of its pictures before the first step, and how a resumed one knows them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.spec import IGNORE

MOST_READ = 500
"""Validation pairs that are read before training: all of Cityscapes, some seconds; of larger splits a spread part."""

PATIENCE_S = 1.0
"""Time after which a progress bar appears."""


def check_labelled(dataset: Dataset) -> None:
    """PspnetError where no label map has a pixel with a class; reads until the first that has, mostly one."""
    for path in tqdm(dataset.labels, "looking for labels", unit="image", leave=False, delay=PATIENCE_S):
        if (dataset.reader.read(path) != IGNORE).any():
            return
    raise PspnetError(
        f"no pixel of {dataset.root} ({dataset.split}) has a class: training needs labelled pixels. See what the label "
        f"maps hold: pspnet doctor --data {dataset.root}"
    )


def spread_indices(count: int) -> list[int]:
    """Indices of `count` pairs, or MOST_READ of them at even distances, from the first to the last."""
    return np.linspace(0, count - 1, min(count, MOST_READ)).round().astype(int).tolist()


def labelled_pairs(dataset: Dataset, indices: Iterable[int]) -> int:
    """How many of the pairs at `indices` have a pixel with a class; PspnetError names what cannot be read."""
    indices = list(indices)

    def labelled(index: int) -> bool:
        return bool((dataset.read(index)[1] != IGNORE).any())

    # Threads, because decoding releases the interpreter's lock.
    with ThreadPool(min(os.cpu_count() or 1, 8)) as pool:
        found = pool.imap(labelled, indices)
        title = f"check {dataset.split}"
        return sum(tqdm(found, title, len(indices), unit="pair", leave=False, delay=PATIENCE_S))


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """Number of the pictures, and the SHA-256 of their names in order; a data set may move as a whole."""
    base = dataset.root if dataset.root.is_dir() else dataset.root.parent
    names = [path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name for path in dataset.images]
    return {"count": len(names), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}
