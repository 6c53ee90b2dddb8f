"""From a histogram of magnitudes to the range that INT8 represents."""

from __future__ import annotations

import numpy as np

from pspnet.errors import PspnetError

METHODS = ("minmax", "percentile")


def amax_from_histogram(counts: np.ndarray, largest: float, method: str, percentile: float) -> float:
    """The magnitude up to which values are represented; larger ones saturate.

    counts: (B,) occurrences of |activation| in equal bins over [0, largest]. minmax keeps everything. percentile takes
    the upper edge of the first bin at which `percentile` per cent of all values are covered, zeros of a ReLU included.
    """
    if method == "minmax" or not counts.sum():
        return largest
    if method != "percentile":
        raise PspnetError(f"unknown method {method!r}: choose one of {', '.join(METHODS)} with --method")
    covered = np.cumsum(counts) / counts.sum()
    edge = int(np.searchsorted(covered, percentile / 100)) + 1
    return largest * min(edge, len(counts)) / len(counts)
