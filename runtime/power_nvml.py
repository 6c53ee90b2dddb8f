"""Power, clocks and throttling of a card, by NVML: the library of nvidia-smi, which comes with the driver."""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK = 1  # NVML_CLOCK_SM
GPU_SENSOR = 0  # NVML_TEMPERATURE_GPU
REASONS = {"power": 0x04 | 0x80, "thermal": 0x20 | 0x40, "hardware": 0x08}
"""Bits of nvmlClocksEventReasons by cause: software power cap and power brake, software and hardware thermal slowdown,
and a hardware slowdown of whatever reason."""


class NvmlMeter:
    """A GPU in NVML. A figure that this GPU does not have is left out."""

    source = "NVML"

    def __init__(self, library: ctypes.CDLL, device: ctypes.c_void_p) -> None:
        self._library, self._device = library, device
        most = self._number("nvmlDeviceGetMaxClockInfo", SM_CLOCK)
        self.gpu_most_mhz = None if most is None else float(most)

    def read(self) -> dict[str, Any]:
        """Watts, MHz of the multiprocessors, degrees, and what slows the GPU down."""
        found: dict[str, Any] = {}
        if (milliwatts := self._number("nvmlDeviceGetPowerUsage")) is not None:
            found["power_w"] = milliwatts / 1000
        if (clock := self._number("nvmlDeviceGetClockInfo", SM_CLOCK)) is not None:
            found["gpu_mhz"] = float(clock)
        if (degrees := self._number("nvmlDeviceGetTemperature", GPU_SENSOR)) is not None:
            found["temperature_c"] = float(degrees)
        reasons = ctypes.c_ulonglong()
        if self._called("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.byref(reasons)):
            found["throttles"] = {cause: bool(reasons.value & bits) for cause, bits in REASONS.items()}
        return found

    def close(self) -> None:
        """Let go of NVML."""
        self._library.nvmlShutdown()

    def _number(self, name: str, *arguments: int) -> int | None:
        value = ctypes.c_uint()
        numbers = [ctypes.c_uint(argument) for argument in arguments]
        return value.value if self._called(name, *numbers, ctypes.byref(value)) else None

    def _called(self, name: str, *arguments: Any) -> bool:
        function = getattr(self._library, name, None)  # an old driver lacks some
        return function is not None and function(self._device, *arguments) == 0


def open_nvml(index: int = 0, library: str = LIBRARY) -> NvmlMeter | None:
    """The GPU of that number; None where there is no NVML, or it does not know the GPU."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        return None
    device = ctypes.c_void_p()
    if loaded.nvmlInit_v2():
        return None
    if loaded.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)):
        loaded.nvmlShutdown()
        return None
    return NvmlMeter(loaded, device)
