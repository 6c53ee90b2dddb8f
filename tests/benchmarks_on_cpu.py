"""The benchmarks of a GPU on the CPU: our kernels as g++ makes them on the driver double, PyTorch without graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import kernel_floor
from runtime.cuda import Device, Module
from tests import cpu_kernels
from tests.doubles.cuda_driver import kernel_library

FLOOR_KERNELS = ("nothing", "move", "multiply_add")


def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """All kernels as g++ makes them, and benchmarks that repeat next to nothing."""
    cpu_kernels.use_on_cpu(monkeypatch)

    def module(device: Device) -> Module:
        listed = "".join(f"\nDOUBLE_KERNEL({kernel})" for kernel in FLOOR_KERNELS)
        source = f"#include <cmath>\n{kernel_floor.SOURCE}{listed}\n"
        return device.load_module(kernel_library(source, folder))

    monkeypatch.setattr(kernel_floor, "floor_module", module)
    monkeypatch.setattr(kernel_floor, "REPEATS", 2)
    monkeypatch.setattr(kernel_floor, "WARM_UP", 0)
    monkeypatch.setattr(kernel_floor, "PEAK_BLOCKS", 1)


def torch_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch_floor.py captures is called instead, and timed by the CPU's clock."""
    import torch

    from benchmarks import gpu_steps, torch_floor

    def taken_ms(replay: Callable[[], object]) -> float:
        start = time.perf_counter()
        replay()
        return (time.perf_counter() - start) * 1e3

    for module in (gpu_steps, torch_floor):
        monkeypatch.setattr(module, "no_torch", lambda: "")
    monkeypatch.setattr(torch_floor, "PLACE", "cpu")
    monkeypatch.setattr(torch_floor, "MATRIX", 64)
    monkeypatch.setattr(torch_floor, "captured", lambda work: work)
    monkeypatch.setattr(torch_floor, "taken_ms", taken_ms)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "CPU in its place")
