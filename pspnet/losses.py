"""Losses on logits that stay at the head's resolution until here."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.spec import IGNORE


def segmentation_loss(
    outputs: dict[str, Tensor], labels: Tensor, aux_weight: float, align_corners: bool, weights: Tensor | None
) -> Tensor:
    """Cross-entropy of "out" plus aux_weight times that of "aux" (Zhao et al., section 3.3).

    outputs: logits (N, C, h, w), interpolated to labels (N, H, W) int64, where 255 is left out. weights: (C,) or None.
    Zero where no pixel has a label.
    """

    unlabelled = bool((labels == IGNORE).all())

    def loss(logits: Tensor) -> Tensor:
        full = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=align_corners)
        if unlabelled:
            return full.sum() * 0  # cross_entropy's mean over no pixel is NaN
        return F.cross_entropy(full, labels, weights, ignore_index=IGNORE)

    total = loss(outputs["out"])
    return total + aux_weight * loss(outputs["aux"]) if aux_weight and "aux" in outputs else total


def enet_class_weights(dataset: Dataset) -> Tensor:
    """(C,) weights 1 / ln(1.02 + p), p the class's share of the labelled pixels (Paszke et al., ENet, section 5.2)."""
    counts = np.zeros(256, np.int64)
    for index in tqdm(range(len(dataset)), desc="class weights", leave=False):
        counts += np.bincount(dataset.read(index)[1].ravel(), minlength=256)
    counts = counts[: len(dataset.classes.names)]
    return torch.from_numpy(1 / np.log(1.02 + counts / max(counts.sum(), 1))).float()
