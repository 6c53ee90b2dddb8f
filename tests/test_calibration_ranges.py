"""Each method of choosing a range against an independent computation on the raw values, or on the same counts."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import entropy

from calibration.histogram import Histogram, histogram_of
from calibration.ranges import METHODS, amax_from_histogram, check_method, entropy_bins, text_of
from pspnet.errors import PspnetError

MSE_EXCESS = (
    1.005  # of the least mean squared error: the curve is flat at its minimum, and tried are ratios 0.5 % apart
)
SECONDS_FOR_60 = 8.0  # the methods need 2 on one idle core


def samples(kind: str) -> np.ndarray:
    """A hundred thousand float32 values as activations have them."""
    random = np.random.default_rng(6)
    normal = random.normal(size=100_000)
    values = {
        "normal": normal, "heavy tails": random.standard_t(3, 100_000), "relu": np.maximum(normal, 0),
        "relu6": np.clip(4 * normal, 0, 6), "even": random.random(100_000) * 3e-5,
        "one outlier": np.append(normal, 40.0),
    }[kind]  # fmt: skip
    return values.astype(np.float32)


KINDS = ("normal", "heavy tails", "relu", "relu6", "even", "one outlier")


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_the_exact_largest_magnitude(kind: str) -> None:
    values = samples(kind)
    assert amax_from_histogram(histogram_of(values), "minmax") == np.abs(values).max()


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_is_that_of_the_values_within_one_bin(kind: str, percentile: float) -> None:
    values = samples(kind)
    histogram = histogram_of(values)
    exact = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert exact <= amax_from_histogram(histogram, "percentile", percentile) <= exact + histogram.width
    assert histogram.width <= np.abs(values).max() / 4096


def entropy_restated(counts: np.ndarray) -> int:
    """NVIDIA's loop (pytorch-quantization, calib/histogram.py) as it is published, with scipy's divergence."""
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    divergences = []
    for kept in range(128, len(counts) + 1):
        inside = counts[:kept]
        group = np.digitize(range(kept), np.linspace(0, kept, 129)) - 1
        spread = np.zeros(kept)
        for level in range(128):
            members = (group == level) & (inside > 0)
            spread[members] = inside[members].sum() / max(members.sum(), 1)
        reference = inside.copy()
        reference[-1] += counts[kept:].sum()
        divergences.append(entropy(reference, spread))
    return 128 + len(divergences) - 1 - int(np.argmin(divergences[::-1]))


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "relu6", "one outlier"])
def test_entropy_keeps_as_many_bins_as_the_published_loop(kind: str) -> None:
    histogram = histogram_of(samples(kind))
    few = histogram.coarser(histogram.exponent + 3)  # a quarter of the loop's time
    assert entropy_bins(few) == entropy_restated(few)
    counts = histogram.coarser(histogram.exponent + 2)
    assert 1024 < len(counts) <= 2048
    assert amax_from_histogram(histogram, "entropy") == min(
        entropy_bins(counts) * 4 * histogram.width, histogram.largest
    )


def squared_error(magnitudes: np.ndarray, amax: float) -> float:
    """Mean squared error of symmetric int8 on the raw values, in float64."""
    step = amax / 127
    return float(np.square(magnitudes - step * np.minimum(np.rint(magnitudes / step), 127)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_reaches_the_least_error_that_brute_force_finds(kind: str) -> None:
    values = samples(kind)
    magnitudes = np.abs(values).astype(np.float64)
    least = min(squared_error(magnitudes, amax) for amax in np.geomspace(1 / 64, 1, 400) * magnitudes.max())
    amax = amax_from_histogram(histogram_of(values), "mse")
    assert squared_error(magnitudes, amax) <= MSE_EXCESS * least


def test_mse_cuts_an_outlier_and_keeps_an_even_range() -> None:
    assert amax_from_histogram(histogram_of(samples("one outlier")), "mse") < 30
    assert amax_from_histogram(histogram_of(samples("even")), "mse") > 0.98 * 3e-5


@pytest.mark.parametrize("method", METHODS)
def test_dead_tensor_has_range_zero(method: str) -> None:
    assert amax_from_histogram(histogram_of(np.zeros((2, 3), np.float32)), method) == 0.0
    assert amax_from_histogram(Histogram(), method) == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[3.0], [0.0, 1e-42], [5.0] * 7 + [0.0] * 9, [1.0, 3e38]])
def test_ranges_of_odd_tensors_lie_between_zero_and_the_largest(method: str, values: list[float]) -> None:
    amax = amax_from_histogram(histogram_of(np.float32(values)), method)
    assert 0 < amax <= max(np.float32(values))


def test_sixty_tensors_take_seconds() -> None:
    histogram = histogram_of(samples("relu"))
    start = time.process_time()
    for _ in range(60):
        for method in METHODS:
            amax_from_histogram(histogram, method)
    assert time.process_time() - start < SECONDS_FOR_60


def test_unknown_methods_and_percentiles_are_refused() -> None:
    for method, percentile, words in (("magic", 99.0, "minmax, percentile"), ("percentile", 101.0, "at most 100")):
        with pytest.raises(PspnetError, match=words):
            check_method(method, percentile)
    assert text_of("percentile", 99.9) == "percentile 99.9" and text_of("mse", 99.9) == "mse"
