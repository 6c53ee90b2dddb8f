"""Rates, storms, stamps and the time of day, on a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from runtime.camera_pace import Pace, StampCheck, StormGuard, WallMap, restart_ns, stall_ns

S = 10**9
MS = 10**6


def times(fps: float, seconds: float, start_ns: int = S) -> list[int]:
    return [start_ns + int(index * S / fps) for index in range(int(seconds * fps))]


@pytest.mark.parametrize(
    ("fps", "limit_s"), [(120, 0.3), (30, 0.3), (10, 0.3), (5, 0.6), (3, 1.0), (1, 3.0), (0.5, 6.0)]
)
def test_a_stall_is_three_periods_and_at_least_300_ms(fps: float, limit_s: float) -> None:
    assert stall_ns(int(S / fps)) == pytest.approx(limit_s * S, rel=1e-6)
    assert stall_ns(0) == S  # the period is not known yet


def test_a_restart_waits_for_at_least_two_stalls_and_for_a_slow_cameras_second_picture() -> None:
    assert restart_ns(S // 30, 2.0, 10.0) == 2 * S
    assert restart_ns(S, 2.0, 10.0) == 6 * S
    assert restart_ns(0, 2.0, 10.0) == 10 * S


@pytest.mark.parametrize("fps", [1, 7.5, 30, 120])
def test_the_period_is_learned(fps: float) -> None:
    pace = Pace()
    for now_ns in times(fps, max(20 / fps, 1)):
        pace.arrived(now_ns)
    assert pace.period_ns == pytest.approx(S / fps, rel=1e-3)


def test_bursts_do_not_make_the_period_short() -> None:
    pace = Pace()
    for group in range(20):
        for picture in range(3):  # three at once, ten times a second
            pace.arrived(S + group * 100 * MS + picture * MS)
    assert pace.period_ns == pytest.approx(S / 30, rel=0.25)  # the window of 16 intervals cuts a group


def test_a_stall_does_not_make_the_period_long_and_a_slower_rate_is_learned_after_it() -> None:
    pace = Pace()
    for now_ns in times(30, 1):
        pace.arrived(now_ns)
    back_ns = 12 * S
    for now_ns in times(30, 0.5, back_ns):
        pace.arrived(now_ns)
    assert pace.period_ns == pytest.approx(S / 30, rel=1e-3)
    for now_ns in times(2, 4, back_ns + 10 * S):
        pace.arrived(now_ns)
    assert pace.period_ns == pytest.approx(S / 2, rel=1e-3)


def test_a_known_rate_decides_and_the_measured_one_is_still_told() -> None:
    pace = Pace(hint_fps=10)
    assert pace.period_ns == S // 10
    for now_ns in times(30, 1):
        pace.arrived(now_ns)
    assert pace.period_ns == S // 10 and pace.measured_ns == pytest.approx(S / 30, rel=1e-3)


def passed(guard: StormGuard, arrivals: list[int]) -> int:
    return sum(guard.passes(now_ns) for now_ns in arrivals)


@pytest.mark.parametrize("hint_fps", [None, 30])
def test_a_storm_is_capped_at_once_and_lasting_after_three_seconds(hint_fps: float | None) -> None:
    guard = StormGuard(hint_fps, 130)
    assert passed(guard, times(30, 4)) == 120 and not guard.lasting
    storm = times(300, 2, 5 * S)
    assert passed(guard, storm) == pytest.approx(2 * 70 + 8, abs=4) and not guard.lasting  # 2 * 30 + 10 a second
    passed(guard, times(300, 2.1, 7 * S))
    assert guard.lasting


def test_jitter_bursts_and_a_somewhat_faster_camera_are_no_storm() -> None:
    guard, chance = StormGuard(None, 130), random.Random(0)
    jittered = [now_ns + chance.randrange(20 * MS) for now_ns in times(30, 10)]
    assert passed(guard, jittered) == 300
    backlog = [20 * S + index * MS for index in range(40)]  # what waited during a hiccup comes at once
    assert 8 <= passed(guard, backlog) < 14 and not guard.lasting
    assert passed(guard, times(45, 10, 30 * S)) == 450 and not guard.lasting


def test_a_storm_from_the_first_picture_on_is_held_by_the_absolute_limit() -> None:
    guard = StormGuard(None, 130)
    assert passed(guard, times(1000, 5)) == pytest.approx(5 * 130, rel=0.1)
    assert guard.lasting


@pytest.mark.parametrize(
    ("sensor_ns", "invalid"),
    [
        (100 * S - 30 * MS, ""), (100 * S, ""), (100 * S + 2 * MS, ""), (None, ""), (0, "zero"), (-5, "zero"),
        (100 * S + 3600 * S, "future"), (100 * S + 50 * MS, "future"), (80 * S, "old"), (98 * S, "backward"),
    ],
)  # fmt: skip
def test_stamps_that_cannot_be_true_are_left_out(sensor_ns: int | None, invalid: str) -> None:
    stamps = StampCheck()
    assert stamps.checked(99 * S, 99 * S + MS) == 99 * S
    got = stamps.checked(sensor_ns, 100 * S)
    assert stamps.invalid == invalid and got == (None if invalid else sensor_ns)
    assert stamps.checked(101 * S, 101 * S) == 101 * S and stamps.invalid == ""


@pytest.mark.parametrize("hour_ns", [3600 * S, -3600 * S])
def test_a_step_of_the_clock_is_told_once_and_followed(hour_ns: int) -> None:
    wall = WallMap(0, 10**18)
    assert wall.observe(S, 10**18 + S) == 0
    assert wall.observe(2 * S, 10**18 + 2 * S + hour_ns) == hour_ns
    assert wall.observe(3 * S, 10**18 + 3 * S + hour_ns) == 0
    assert wall.wall_ns(4 * S) == 10**18 + 4 * S + hour_ns


def test_a_drift_is_followed_without_an_event() -> None:
    """500 ppm, the most by which ntpd slews a clock, for an hour, looked at every second."""
    wall = WallMap(0, 10**18)
    for second in range(3600):
        true_ns = 10**18 + second * S + second * 500_000
        assert wall.observe(second * S, true_ns) == 0
    assert abs(wall.wall_ns(3599 * S) - true_ns) < 10 * MS
