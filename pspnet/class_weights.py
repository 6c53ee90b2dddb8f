"""Weights against rare classes, from the pixels of a data set's label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.distributed import share_of, summed
from pspnet.spec import IGNORE


def class_weights(dataset: Dataset, kind: str) -> np.ndarray:
    """(C,) float64 weights, by `enet_weights` or `median_frequency_weights`.

    Reads every label map once, each process its share. A class without a pixel gets a weight that no pixel will ever
    use, but that logit adjustment adds to its logits; one printed line names it.
    """
    own = class_pixels(dataset, share_of(len(dataset.labels)))
    pixels, present_in = summed(torch.from_numpy(np.stack(own))).numpy()
    if absent := [name for name, count in zip(dataset.classes.names, pixels, strict=True) if not count]:
        print(
            f"note: the {dataset.split} split has no pixel of {', '.join(absent)}, so the network cannot learn "
            f"{'it' if len(absent) == 1 else 'them'}; training goes on with the other classes"
        )
    return enet_weights(pixels) if kind == "enet" else median_frequency_weights(pixels, present_in)


def class_pixels(dataset: Dataset, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """(pixels of each class, labelled pixels of the pictures that contain it), both (C,) int64, of some label maps."""
    classes = len(dataset.classes.names)
    pixels, present_in = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for index in tqdm(indices, desc="class weights", unit="image", leave=False):
        counts = np.bincount(dataset.reader.read(dataset.labels[index]).ravel(), minlength=IGNORE + 1)[:classes]
        pixels += counts
        present_in += np.where(counts > 0, counts.sum(), 0)
    return pixels, present_in


def enet_weights(pixels: np.ndarray) -> np.ndarray:
    """(C,) weights 1 / ln(1.02 + p), p the class's share of the pixels (Paszke et al., ENet, section 5.2)."""
    return 1 / np.log(1.02 + pixels / max(pixels.sum(), 1))


def median_frequency_weights(pixels: np.ndarray, present_in: np.ndarray) -> np.ndarray:
    """(C,) weights median(f) / f; f: share of a class in the pictures that contain it. 1 for a class without a pixel.

    Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015, section 6.3.2. The median is
    over the classes that occur.
    """
    weights = np.ones(len(pixels))
    found = pixels > 0
    share = pixels[found] / present_in[found]
    weights[found] = np.median(share) / share if found.any() else 1
    return weights
