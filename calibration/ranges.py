"""From a histogram of magnitudes to the range that INT8 represents; larger values saturate."""

from __future__ import annotations

import numpy as np

from calibration.histogram import Histogram
from pspnet.errors import PspnetError

METHODS = ("minmax", "percentile", "entropy", "mse")
PERCENTILE = 99.99  # kept by --method percentile where nothing else is asked for
LARGEST = 127  # of symmetric int8
LEVELS = 128  # magnitudes that it tells apart, 0 included
ENTROPY_COARSER = 2  # halvings of the bins, to 1,025 to 2,048: NVIDIA's calibrators have 2,048
MSE_FEWEST_BINS, MSE_CANDIDATES = 32, 1024

CANDIDATES = (
    ("minmax", 100.0), ("percentile", 99.9), ("percentile", 99.99), ("percentile", 99.999), ("entropy", 100.0),
    ("mse", 100.0),
)  # fmt: skip
"""Methods that `--method auto` compares, each with its percentile where it has one."""


def method_from_flags(method: str, percentile: float | None) -> tuple[str, float]:
    """The method and its percentile; PspnetError where a percentile was given that the method does not use."""
    if percentile is None:
        return method, PERCENTILE
    if method in ("auto", *METHODS) and method != "percentile":
        tried = ", ".join(f"{value:g}" for name, value in CANDIDATES if name == "percentile")
        why = f"tries {tried} by itself" if method == "auto" else "has none"
        raise PspnetError(
            f"--percentile {percentile:g} is of --method percentile, and {method} {why}: leave out one of the two flags"
        )
    return method, percentile


def check_method(method: str, percentile: float) -> None:
    """PspnetError where the method is unknown or the percentile is out of range."""
    if method not in METHODS:
        raise PspnetError(f"unknown method {method!r}: choose one of auto, {', '.join(METHODS)} with --method")
    if not 50 < percentile <= 100:
        raise PspnetError(f"percentile is {percentile:g}: it must be above 50 and at most 100, for example 99.99")


def text_of(method: str, percentile: float) -> str:
    """A method as tables and metadata name it."""
    return f"{method} {percentile:g}" if method == "percentile" else method


def amax_from_histogram(histogram: Histogram, method: str, percentile: float = PERCENTILE) -> float:
    """The magnitude up to which values are represented, in the values' units; 0 of a tensor that is always 0.

    minmax keeps everything. percentile takes the upper edge of the first bin at which `percentile` per cent of all
    values are covered, zeros of a ReLU included. entropy and mse: see `entropy_bins` and `mse_bins`.
    """
    check_method(method, percentile)
    counts, largest = histogram.counts, histogram.largest
    if method == "minmax" or largest == 0:
        return largest
    if method == "percentile":
        covered = np.cumsum(counts)
        bins = 1 + int(np.searchsorted(covered, covered[-1] * percentile / 100))
    elif method == "entropy":
        bins = entropy_bins(histogram.coarser(histogram.exponent + ENTROPY_COARSER)) << ENTROPY_COARSER
    else:
        bins = mse_bins(counts)
    return min(bins * histogram.width, largest)


def entropy_bins(counts: np.ndarray) -> int:
    """How many bins to keep so that rounding to 128 levels loses least information, in Kullback-Leibler divergence.

    Migacz, "8-bit inference with TensorRT" (GTC 2017, s7310), as NVIDIA's pytorch-quantization computes it
    (calib/histogram.py, _compute_amax_entropy): the reference P is the first i bins with all that is cut off added to
    the last of them; Q spreads the counts of each of 128 equal groups of these bins over the group's bins that hold
    any. Both are normalised, and the last i >= 128 with the smallest sum of P log(P / Q) wins. The first bin, which
    holds a ReLU's zeros, takes its neighbour's count. All i at once, from sums over ranges of bins.
    """
    counts = counts.astype(np.float64)
    if len(counts) <= LEVELS:
        return len(counts)
    counts[0] = counts[1]
    kept = np.arange(LEVELS, len(counts) + 1)
    groups = -(-kept[:, None] * np.arange(LEVELS + 1) // LEVELS)  # (i, 129) first bin of each group, and the end
    mass = np.diff(_sums(counts)[groups])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = np.where(mass > 0, np.log(mass / np.diff(_sums(counts > 0)[groups])), 0.0)
        inside, last, total = _sums(counts)[kept], counts[kept - 1], counts.sum()
        cut = total - inside
        p_log_p = _sums(_x_log_x(counts))[kept] - _x_log_x(last) + _x_log_x(last + cut)
        p_log_q = (mass * log_mean).sum(1) + cut * log_mean[:, -1] - total * np.log(inside)
        divergence = (p_log_p - p_log_q) / total - np.log(total)
    divergence[((last == 0) & (cut > 0)) | (inside == 0)] = np.inf  # P holds what Q calls impossible
    return int(kept[len(kept) - 1 - np.argmin(divergence[::-1])])


def mse_bins(counts: np.ndarray) -> int:
    """How many bins to keep so that the expected squared error of symmetric int8 with 127 levels is smallest.

    The error of x is x - s * min(round(x / s), 127) with s = amax / 127. Values count as evenly spread inside a bin, so
    the error over each level's range follows from the sums of 1, x and x squared up to its borders. Tried are some
    thousand ranges in equal ratios, from 32 bins to all.
    """
    tried = np.unique(np.geomspace(min(MSE_FEWEST_BINS, len(counts)), len(counts), MSE_CANDIDATES).round().astype(int))
    levels = np.arange(LEVELS) * (tried[:, None] / LARGEST)  # (i, 128) in bins
    borders = np.concatenate(
        [np.zeros((len(tried), 1)), (levels[:, 1:] + levels[:, :-1]) / 2, np.full((len(tried), 1), len(counts))], axis=1
    )
    number, first, second = (np.diff(sums) for sums in _moments(counts.astype(np.float64), borders))
    error = (second - 2 * levels * first + levels**2 * number).sum(1)
    return int(tried[np.argmin(error)])


def _moments(counts: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of 1, x and x squared over the values below each position, both in bins."""
    lower = np.minimum(positions.astype(np.int64), len(counts) - 1)
    index = np.arange(len(counts))
    whole = counts, counts * (index + 1 / 2), counts * (index**2 + index + 1 / 3)
    parts = positions - lower, (positions**2 - lower**2) / 2, (positions**3 - lower.astype(np.float64) ** 3) / 3
    zero, one, two = (_sums(w)[lower] + counts[lower] * part for w, part in zip(whole, parts, strict=True))
    return zero, one, two


def _sums(values: np.ndarray) -> np.ndarray:
    """(B + 1,) sums of the values before each index."""
    return np.concatenate([[0], np.cumsum(values)])


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values * np.log(np.maximum(values, 1)), 0.0)
