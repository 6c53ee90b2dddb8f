"""A camera's clockwork: its rate, what counts as a stall or a storm, its sensor's stamps, and the time of day.

Everything here is told the time, in nanoseconds, and reads no clock.
"""

from __future__ import annotations

from collections import deque

SECOND_NS = 10**9
SHORTEST_STALL_NS = 300_000_000
UNKNOWN_STALL_NS = SECOND_NS
STALL_PERIODS = 3
WINDOW, FEWEST = 16, 4  # intervals of which the period is the mean

STORM_SECONDS = 3
STORM_FACTOR, STORM_FPS = 2.0, 10.0  # above nominal * factor + fps it is a storm; slack for rates that wander
BURST = 8  # pictures of a burst that pass, after a hiccup of the network

FUTURE_NS = 5_000_000  # a stamp so far after the arrival is still the error of two readings of one clock
OLDEST_NS = 10 * SECOND_NS
STEP_NS = 50_000_000
SLEW_SHARE = 16


def stall_ns(period_ns: int) -> int:
    """How long no picture may come: three periods, at least 300 ms; 1 s while the period is unknown (0)."""
    return max(STALL_PERIODS * period_ns, SHORTEST_STALL_NS) if period_ns else UNKNOWN_STALL_NS


def restart_ns(period_ns: int, restart_after_s: float, open_deadline_s: float) -> int:
    """How long no picture may come before the source is opened again.

    While the period is unknown the camera may be a slow one, so the second picture has as long as the first.
    """
    asked = restart_after_s if period_ns else max(restart_after_s, open_deadline_s)
    return max(int(asked * SECOND_NS), 2 * stall_ns(period_ns))


class Pace:
    """The mean time between pictures, without the gaps that were stalls.

    After a gap the rate is learned anew, since the camera may have become a slower one. hint_fps: rate that is known.
    """

    def __init__(self, hint_fps: float | None = None) -> None:
        self._hint_ns = int(SECOND_NS / hint_fps) if hint_fps else 0
        self._intervals: deque[int] = deque(maxlen=WINDOW)
        self._last_ns = 0

    @property
    def period_ns(self) -> int:
        """Nanoseconds from picture to picture; 0 while unknown."""
        return self._hint_ns or self.measured_ns

    @property
    def measured_ns(self) -> int:
        """The same as it was measured, whatever the hint; 0 while unknown."""
        enough = len(self._intervals) >= FEWEST
        return max(sum(self._intervals) // len(self._intervals), 1) if enough else 0

    def arrived(self, now_ns: int) -> None:
        """A picture came."""
        interval_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if interval_ns <= stall_ns(self.period_ns):
            self._intervals.append(interval_ns)
        elif interval_ns < now_ns:  # no gap before the first picture
            self._intervals.clear()


class StormGuard:
    """Keeps a source that sends far more than it should from flooding the rest.

    hint_fps: rate that is known; else the second second after the start is taken for usual. max_fps: the limit in any
    case.
    """

    def __init__(self, hint_fps: float | None, max_fps: float) -> None:
        self._nominal_fps, self._max_fps = hint_fps, max_fps
        self._window_start_ns, self._count, self._windows = 0, 0, 0
        self._over = 0
        self._tokens, self._last_ns = float(BURST), 0

    @property
    def limit_fps(self) -> float:
        """Pictures a second that pass."""
        if self._nominal_fps is None:
            return self._max_fps
        return min(self._max_fps, STORM_FACTOR * self._nominal_fps + STORM_FPS)

    @property
    def lasting(self) -> bool:
        """Whether the storm has lasted long enough for the source to be opened again."""
        return self._over >= STORM_SECONDS

    def passes(self, now_ns: int) -> bool:
        """Whether the picture that comes now is within the limit."""
        self._count_second(now_ns)
        gained = (now_ns - self._last_ns) / SECOND_NS * self.limit_fps if self._last_ns else BURST
        self._last_ns = now_ns
        self._tokens = min(self._tokens + gained, BURST)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _count_second(self, now_ns: int) -> None:
        self._count += 1
        if not self._window_start_ns:
            self._window_start_ns = now_ns
        elapsed_ns = now_ns - self._window_start_ns
        if elapsed_ns < SECOND_NS:
            return
        fps = self._count / elapsed_ns * SECOND_NS
        self._over = self._over + 1 if fps > self.limit_fps else 0
        if self._nominal_fps is None and self._windows:  # the first second may hold a backlog
            self._nominal_fps = min(fps, self._max_fps)
        self._window_start_ns, self._count, self._windows = now_ns, 0, self._windows + 1


class StampCheck:
    """Keeps the sensor's times that can be believed. Pictures are in order of arrival whatever their stamps say."""

    def __init__(self) -> None:
        self._last_ns = 0
        self.invalid = ""  # zero, future, backward or old, of the last stamp; "" where it was good or missing

    def checked(self, sensor_ns: int | None, captured_ns: int) -> int | None:
        """The stamp, or None where it is missing or cannot be true. captured_ns: when its picture had arrived."""
        self.invalid = ""
        if sensor_ns is None:
            return None
        if sensor_ns <= 0:
            self.invalid = "zero"
        elif sensor_ns > captured_ns + FUTURE_NS:
            self.invalid = "future"
        elif sensor_ns < captured_ns - OLDEST_NS:
            self.invalid = "old"
        elif sensor_ns < self._last_ns:
            self.invalid = "backward"
        else:
            self._last_ns = sensor_ns
            return sensor_ns
        return None


class WallMap:
    """The time of day of monotonic times, free of the jumps that the system's clock makes between two pictures."""

    def __init__(self, monotonic_ns: int, wall_ns: int) -> None:
        self._offset_ns = wall_ns - monotonic_ns

    def wall_ns(self, monotonic_ns: int) -> int:
        """Nanoseconds since 1970 at a monotonic time."""
        return monotonic_ns + self._offset_ns

    def observe(self, monotonic_ns: int, wall_ns: int) -> int:
        """Both clocks at one moment. Returns the nanoseconds by which the wall clock was set, 0 where it only drifts.

        A drift is followed slowly; a step at once.
        """
        difference_ns = wall_ns - monotonic_ns - self._offset_ns
        if abs(difference_ns) > STEP_NS:
            self._offset_ns += difference_ns
            return difference_ns
        self._offset_ns += difference_ns // SLEW_SHARE
        return 0
