"""Peak rates by which the search weighs layers where no engine can time them: the one table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Peaks of one device: multiply-adds per second in INT8 and in its float type, bytes per second of its memory.

    float_bytes: of one value of the float type that layers left in float run in.
    """

    int8_per_s: float
    float_per_s: float
    float_bytes: int
    bytes_per_s: float
    source: str


def _orin(multiprocessors: int, clock_hz: float, bytes_per_s: float, name: str) -> Rates:
    # A streaming multiprocessor of Orin's GPU does 2048 dense INT8 or 1024 dense FP16 multiply-adds per clock.
    rate = multiprocessors * clock_hz
    return Rates(2048 * rate, 1024 * rate, 2, bytes_per_s, f"{name}: data sheet's clock and memory, dense, GPU alone")


def _core(int8: int, name: str) -> Rates:
    # Two fused multiply-adds of 16 float32 each per clock. Cores share memory, so bytes are one core's part.
    return Rates(int8 * 2.5e9, 32 * 2.5e9, 4, 10e9, f"one core at 2.5 GHz, AVX-512, INT8 by {name}")


RATES = {
    "jetson-agx-orin": _orin(16, 1.3e9, 204.8e9, "Jetson AGX Orin 64 GB"),
    "jetson-orin-nx": _orin(8, 0.918e9, 102.4e9, "Jetson Orin NX 16 GB"),
    "jetson-orin-nano": _orin(8, 0.625e9, 68e9, "Jetson Orin Nano 8 GB"),
    "cpu-amx": _core(1024, "AMX"),
    "cpu-vnni": _core(128, "VNNI"),
    "cpu": _core(42, "three instructions of AVX-512 in place of VNNI's one"),
}


def rates_of_cpu(flags: list[str]) -> str:
    """The name in RATES that a CPU with these kernel flags comes closest to."""
    if "amx_int8" in flags:
        return "cpu-amx"
    return "cpu-vnni" if {"avx512_vnni", "avx_vnni", "asimddp"} & set(flags) else "cpu"
