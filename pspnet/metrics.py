"""Segmentation scores from one confusion matrix, accumulated over the whole data set and never averaged per image."""

from __future__ import annotations

from typing import Any

import numpy as np

from pspnet.spec import IGNORE


class ConfusionMatrix:
    """counts[t, p]: pixels of class t predicted as p; the last column counts pixels that got no prediction (255)."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, target: np.ndarray, predicted: np.ndarray) -> None:
        """Count one label map. Both (H, W) uint8; pixels whose target is 255 are left out."""
        classes = len(self.counts)
        valid = target != IGNORE
        column = np.minimum(predicted[valid], classes).astype(np.int64)
        cells = target[valid].astype(np.int64) * (classes + 1) + column
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def scores(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """mIoU, mAcc, pixel accuracy and macro F1 in percent, and IoU, precision, recall and F1 of each class.

        IoU = TP / (TP + FP + FN), as in hszhao/semseg. A mean is over the classes whose figure exists (else NaN):
        IoU and F1 where labels or predictions hold the class, recall (mAcc) where labels do, precision where
        predictions do. An unpredicted pixel is a miss of its class.
        """
        correct = np.diag(self.counts).astype(np.float64)
        labelled = self.counts.sum(1)
        predicted = self.counts[:, :-1].sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = 100 * correct / (labelled + predicted - correct)
            precision = 100 * correct / predicted
            recall = 100 * correct / labelled
            f1 = 200 * correct / (labelled + predicted)
        total = labelled.sum()
        return {
            "miou": _mean(iou),
            "macc": _mean(recall),
            "pixel_accuracy": float(100 * correct.sum() / total) if total else float("nan"),
            "precision": _mean(precision),
            "recall": _mean(recall),
            "f1": _mean(f1),
            "per_class": {
                name: {
                    "iou": float(iou[c]),
                    "precision": float(precision[c]),
                    "recall": float(recall[c]),
                    "f1": float(f1[c]),
                    "pixels": int(labelled[c]),
                }
                for c, name in enumerate(class_names)
            },
        }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
