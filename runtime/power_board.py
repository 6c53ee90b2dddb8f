"""Power, clocks and throttling of a Jetson, by the files of its kernel under /sys.

INA3221 sensors (hwmon) give volts and amperes of the board's rails, devfreq the GPU's clock, the soctherm hwmon counts
over-current events, and cooling devices say how far the kernel has throttled.
Source: NVIDIA Jetson Linux Developer Guide, "Platform Power and Performance", Orin and Thor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOTAL_RAILS = ("VDD_IN", "VIN_SYS_5V0", "VIN", "POM_5V_IN")
"""Rails that feed the whole board, by module; where none is there, the rails' sum is taken."""

GPU_CLOCKS = ("gpu", "ga10b", "gv11b", "gb10b")
GPU_ZONES = ("gpu-thermal", "GPU-therm", "gpu")
THROTTLERS = ("thermal", "throttle", "cpufreq", "devfreq", "gpu")


class BoardMeter:
    """The files that this board has; those that cannot be read, or are absent, are left out."""

    source = "the board's sensors"

    def __init__(self, root: Path) -> None:
        sys = root / "sys"
        self._rails = _rails(sys)
        self._clock = next(
            (path for path in sorted((sys / "class/devfreq").glob("*")) if _names_gpu(path.name)), None
        )  # fmt: skip
        zones = sorted((sys / "class/thermal").glob("thermal_zone*"))
        self._zone = next((zone for zone in zones if _text(zone / "type") in GPU_ZONES), None)
        devices = sorted((sys / "class/thermal").glob("cooling_device*"))
        self._coolers = [each for each in devices if _throttles(_text(each / "type"))]
        self._events = sorted((sys / "class/hwmon").glob("hwmon*/oc*_event_cnt"))
        self._counted = {path: _number(path) for path in self._events}
        most = None if self._clock is None else _number(self._clock / "max_freq")
        self.gpu_most_mhz = None if most is None else most / 1e6

    @property
    def known(self) -> bool:
        """Whether it is a Jetson."""
        return bool(self._rails or self._events) or self._clock is not None

    def read(self) -> dict[str, Any]:
        """Watts of the board, MHz and degrees of the GPU, and what slows it down; current: since the last reading."""
        found: dict[str, Any] = {}
        if watts := [w for w in map(_watts, self._rails) if w is not None]:
            found["power_w"] = sum(watts)
        if self._clock is not None and (hertz := _number(self._clock / "cur_freq")) is not None:
            found["gpu_mhz"] = hertz / 1e6
        if self._zone is not None and (millidegrees := _number(self._zone / "temp")) is not None:
            found["temperature_c"] = millidegrees / 1000
        found["throttles"] = throttles = {}
        if self._coolers:
            throttles["thermal"] = any((_number(each / "cur_state") or 0) > 0 for each in self._coolers)
        if self._events:
            now = {path: _number(path) for path in self._events}
            throttles["current"] = any((now[path] or 0) > (self._counted[path] or 0) for path in self._events)
            self._counted = now
        return found

    def close(self) -> None:
        """Nothing is held open."""


def open_board(root: Path = Path("/")) -> BoardMeter | None:
    """The meter of a Jetson; None elsewhere. root: under which /sys is."""
    if not (root / "proc/device-tree/compatible").is_file() or "tegra" not in _text(
        root / "proc/device-tree/compatible"
    ):
        return None
    meter = BoardMeter(root)
    return meter if meter.known else None


def _rails(sys: Path) -> list[tuple[Path, str]]:
    """(folder, number) of the rails whose sum is the board's."""
    named = {}
    for label in sorted((sys / "class/hwmon").glob("hwmon*/in*_label")):
        named[label.parent, label.name[2:].partition("_")[0]] = _text(label)
    whole = [place for place, name in named.items() if name in TOTAL_RAILS]
    rails = [place for place, name in named.items() if name.startswith(("VDD", "VIN", "POM"))]
    return whole[:1] or rails


def _watts(rail: tuple[Path, str]) -> float | None:
    folder, number = rail
    millivolts, milliamperes = _number(folder / f"in{number}_input"), _number(folder / f"curr{number}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _names_gpu(name: str) -> bool:
    return any(part in name.lower() for part in GPU_CLOCKS)


def _throttles(kind: str) -> bool:
    return "fan" not in kind and any(part in kind.lower() for part in THROTTLERS)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
