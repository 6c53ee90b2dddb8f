"""Telemetry: exact percentiles of the last values, histories per second, buckets and counters."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest

from runtime.telemetry import AGE, BUCKETS_MS, KEPT, Telemetry, word

SECOND_NS = 10**9
ROUNDING = 1e-9  # milliseconds; both interpolate in float64


class Clock:
    """Monotonic time that a test sets."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_percentiles_are_of_the_last_4096_values() -> None:
    values = np.random.default_rng(0).gamma(2.0, 10.0, KEPT + 900)
    telemetry = Telemetry()
    for value in values:
        telemetry.add("front", {"infer": value}, None)
    found = telemetry.percentiles("front")["infer"]
    expected = np.percentile(values[-KEPT:], [50, 90, 99])
    assert [found["p50"], found["p90"], found["p99"]] == pytest.approx(expected, abs=ROUNDING)
    assert found["samples"] == KEPT


@pytest.mark.parametrize("count", [1, 2, 3, KEPT - 1, KEPT, KEPT + 1])
def test_percentiles_of_few_and_of_just_enough_values(count: int) -> None:
    telemetry = Telemetry()
    for value in range(count):
        telemetry.add("front", {}, float(value))
    kept = np.arange(max(count - KEPT, 0), count)
    found = telemetry.percentiles("front")[AGE]
    assert [found["p50"], found["p99"]] == pytest.approx(np.percentile(kept, [50, 99]), abs=ROUNDING)


def test_a_history_has_one_point_per_second_with_results() -> None:
    clock, random = Clock(), np.random.default_rng(1)
    telemetry = Telemetry(clock)
    seconds: dict[int, list[float]] = {}
    for second in (0, 1, 2, 5, 6, 9):  # nothing came in the others
        for place in range(int(random.integers(1, 40))):
            clock.now_ns = second * SECOND_NS + place * SECOND_NS // 50
            value = float(random.gamma(2.0, 10.0))
            seconds.setdefault(second, []).append(value)
            telemetry.add("front", {"infer": value}, None)
    clock.now_ns = 10 * SECOND_NS - 1  # so that whole seconds ago are those of the clock
    expected = [[9 - second, *np.percentile(values, [50, 99])] for second, values in seconds.items()]
    assert np.allclose(telemetry.history("front")["infer"], expected, rtol=0, atol=ROUNDING)
    assert [point[0] for point in telemetry.history("front", seconds=5)["infer"]] == [4, 3, 0]


def test_a_camera_without_results_has_no_figures() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    assert telemetry.percentiles("front") == {} and telemetry.history("front") == {}
    telemetry.add("front", {}, 1.0)
    clock.now_ns = 200 * SECOND_NS
    assert telemetry.history("front") == {AGE: []}


def test_buckets_count_every_value_up_to_their_limit() -> None:
    values = [0.0, 0.5, 1.0, 1.01, 2.0, 33.0, 199.9, 200.0, 200.1, 5000.0]
    telemetry = Telemetry()
    for value in values:
        telemetry.add("front", {"infer": value}, None)
    counted = telemetry.counted()["front"]["infer"]
    limits = [-np.inf, *BUCKETS_MS, np.inf]
    expected = [sum(low < v <= high for v in values) for low, high in pairwise(limits)]
    assert list(counted.buckets) == expected
    assert counted.sum_ms == pytest.approx(sum(values))


def test_times_that_are_no_numbers_are_left_out() -> None:
    telemetry = Telemetry()
    telemetry.add("front", {"infer": float("nan"), "pre": float("inf"), "labels": 3.0}, float("nan"))
    assert set(telemetry.percentiles("front")) == {"labels"}


def test_results_drops_throttling_and_refusals_are_counted() -> None:
    telemetry = Telemetry()
    telemetry.add("front", {}, 1.0)
    telemetry.add("front", {}, 300.0, valid=False)
    telemetry.drop("front", "stale")
    telemetry.drop("front", "stale", 4)
    telemetry.drop("rear", "rtsp://user:secret@10.0.0.5/1")
    for active in (True, True, False, True):
        telemetry.throttle("thermal", active)
    telemetry.refuse("token")
    assert telemetry.results() == {"front": {"valid": 1, "invalid": 1}}
    assert telemetry.drops() == {"front": {"stale": 5}, "rear": {"other": 1}}
    assert telemetry.throttles() == {"thermal": (2, True)}
    assert telemetry.refusals() == {"token": 1}


@pytest.mark.parametrize(("cause", "label"), [
    ("busy", "busy"), ("over_exposed", "over_exposed"), ("", "other"), ("Too old", "other"), ("a" * 33, "other"),
    ('x"} 1\nevil', "other"), ("rtsp://10.0.0.5", "other"),
])  # fmt: skip
def test_only_a_word_becomes_a_label(cause: str, label: str) -> None:
    assert word(cause) == label


def test_reading_while_writing_loses_nothing() -> None:
    telemetry, rounds = Telemetry(), 3000

    def write(camera: str) -> None:
        for value in range(rounds):
            telemetry.add(camera, {"infer": float(value)}, 1.0)
            telemetry.drop("shared", "busy")

    writers = [threading.Thread(target=write, args=(name,)) for name in ("front", "rear")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        telemetry.percentiles("front")
        telemetry.counted()
        telemetry.results()
    for writer in writers:
        writer.join()
    assert telemetry.drops()["shared"]["busy"] == 2 * rounds
    assert sum(telemetry.counted()["rear"]["infer"].buckets) == rounds
