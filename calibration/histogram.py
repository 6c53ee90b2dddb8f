"""Histograms of magnitudes that can be counted in parts and added without any loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numba
import numpy as np

LOG2_BINS = 13
BINS = 1 << LOG2_BINS  # at least half of them lie below the largest value
SMALLEST_EXPONENT = -100  # below it 1 / width would leave float32


def _no_counts() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Histogram:
    """How often each magnitude occurs: bin b holds the values with b * width <= |value| < (b + 1) * width.

    largest: the exact largest magnitude. counts: (B,) int64, B <= BINS, the last bin being the one of `largest`.
    The width is the power of two 2 ** exponent that `largest` alone decides, so bins of two histograms nest and the
    histogram of a union is exactly the sum of the parts' in whatever way the values are divided.
    """

    largest: float = 0.0
    exponent: int = SMALLEST_EXPONENT
    counts: np.ndarray = field(default_factory=_no_counts)

    @property
    def width(self) -> float:
        """Bin width, in units of the values."""
        return math.ldexp(1.0, self.exponent)

    def coarser(self, exponent: int) -> np.ndarray:
        """Counts in bins of 2 ** exponent, which is at least the own width, as sums of neighbours."""
        step = 1 << min(exponent - self.exponent, LOG2_BINS)  # so many bins are all that there can be
        padded = np.pad(self.counts, (0, -len(self.counts) % step))
        return padded.reshape(-1, step).sum(1)


def histogram_of(values: np.ndarray) -> Histogram:
    """The histogram of float32 values of any shape; `largest` is NaN or infinite, without counts, where a value is."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    largest = float(max(flat.max(), -flat.min())) if flat.size else 0.0
    if not math.isfinite(largest):
        return Histogram(largest)
    exponent = exponent_of(largest)
    counts = np.zeros(int(math.ldexp(largest, -exponent)) + 1, np.int64)
    _count(flat, np.float32(math.ldexp(1.0, -exponent)), counts)
    return Histogram(largest, exponent, counts)


def exponent_of(largest: float) -> int:
    """Exponent of the smallest bin width with which BINS bins reach beyond `largest`."""
    return max(math.frexp(largest)[1] - LOG2_BINS, SMALLEST_EXPONENT) if largest else SMALLEST_EXPONENT


def added(parts: Iterable[tuple[int, Histogram]]) -> Histogram:
    """The histogram of all parts' values, each part taken so many times; of nothing, an empty one."""
    result = Histogram()
    for times, part in parts:
        if not times:
            continue
        largest, exponent = max(result.largest, part.largest), max(result.exponent, part.exponent)
        ours, theirs = result.coarser(exponent), part.coarser(exponent)
        counts = np.zeros(max(len(ours), len(theirs)), np.int64)
        counts[: len(ours)] += ours
        counts[: len(theirs)] += times * theirs
        result = Histogram(largest, exponent, counts)
    return result


@numba.njit(cache=True)
def _count(values: np.ndarray, bins_per_unit: np.float32, counts: np.ndarray) -> None:
    for value in values:
        counts[int(abs(value) * bins_per_unit)] += 1  # exact: times a power of two, then down to a whole number
