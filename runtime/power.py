"""What a GPU draws, how fast it is clocked, and whether it is slowed down: by NVML, or by the files of a Jetson.

Telemetry counts when throttling begins; the summary of a run says what was seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from runtime.power_board import open_board
from runtime.power_nvml import open_nvml
from runtime.telemetry import Telemetry

PERIOD_S = 1.0


@dataclass(frozen=True)
class Reading:
    """One look. None: not known here. throttles: cause (thermal, power, current, hardware) -> whether it lasts."""

    power_w: float | None = None
    gpu_mhz: float | None = None
    temperature_c: float | None = None
    throttles: Mapping[str, bool] = field(default_factory=dict)


class Meter(Protocol):
    """Where readings come from. source: for people."""

    source: str
    gpu_most_mhz: float | None

    def read(self) -> Mapping[str, Any]:
        """The fields of a Reading that are known now."""
        ...

    def close(self) -> None: ...


def open_meter(index: int = 0, root: Path = Path("/")) -> Meter | None:
    """NVML's where its library is and knows this GPU, else the board's; None where neither says anything.

    root: under which /sys is. A Jetson has an NVML too, which knows hardly anything there, so its files go first.
    """
    return open_board(root) or open_nvml(index)


class PowerWatch:
    """Reads a meter every PERIOD_S in a thread of its own, inside of its `with` block; nothing where there is none."""

    def __init__(
        self, telemetry: Telemetry | None = None, open_: Callable[[], Meter | None] = open_meter,
        period_s: float = PERIOD_S,
    ) -> None:  # fmt: skip
        self._telemetry, self._open, self._period_s = telemetry, open_, period_s
        self._meter: Meter | None = None
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._readings = 0
        self._extremes: dict[str, tuple[float, float, float]] = {}  # least, most, sum
        self._counts: dict[str, int] = {}
        self._throttled: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def __enter__(self) -> PowerWatch:
        self._meter = self._open()
        if self._meter is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._meter is not None:
            self._thread.join()
            self._meter.close()

    def look(self) -> None:
        """One reading."""
        assert self._meter is not None
        reading = Reading(**self._meter.read())
        with self._lock:
            self._readings += 1
            for name in ("power_w", "gpu_mhz", "temperature_c"):
                if (value := getattr(reading, name)) is not None:
                    least, most, total = self._extremes.get(name, (value, value, 0.0))
                    self._extremes[name] = min(least, value), max(most, value), total + value
                    self._counts[name] = self._counts.get(name, 0) + 1
            for cause, lasts in reading.throttles.items():
                self._throttled[cause] = self._throttled.get(cause, 0) + lasts
        if self._telemetry is not None:
            for cause, lasts in reading.throttles.items():
                self._telemetry.throttle(cause, lasts)

    def summary(self) -> dict[str, Any] | None:
        """least, mean and most of what was read, and the share of readings in which each cause throttled; None: none.

        gpu_most_mhz: the highest clock that the GPU has.
        """
        with self._lock:
            if self._meter is None or not self._readings:
                return None
            figures = {
                name: {"least": least, "mean": total / self._counts[name], "most": most}
                for name, (least, most, total) in self._extremes.items()
            }
            shares = {cause: count / self._readings for cause, count in self._throttled.items() if count}
            facts = {"source": self._meter.source, "readings": self._readings, "gpu_most_mhz": self._meter.gpu_most_mhz}
            return {**facts, **figures, "throttled_share": shares}

    def line(self) -> str:
        """The summary for people; "" where nothing is known."""
        facts = self.summary()
        if facts is None:
            return ""
        parts = [
            f"{facts[name]['mean']:.{digits}f} {unit}"
            for name, digits, unit in (("power_w", 1, "W"), ("gpu_mhz", 0, "MHz"), ("temperature_c", 0, "°C"))
            if name in facts
        ]
        slowed = [f"{cause} {share:.0%} of the time" for cause, share in facts["throttled_share"].items()]
        parts.append(f"slowed down: {', '.join(slowed)}" if slowed else "not slowed down")
        return f"GPU by {facts['source']}: {', '.join(parts)}"

    def _run(self) -> None:
        self.look()
        while not self._ended.wait(self._period_s):
            self.look()
