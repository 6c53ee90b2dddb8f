"""The checks of the CUDA double on a real GPU: pytest -m gpu."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.cuda import CudaError, Device, Module, open_device
from runtime.cuda_backend import BACKENDS, backend_failures
from runtime.kernel_cache import options_for
from runtime.nvrtc import CannotCompile, open_nvrtc
from tests import cuda_checks

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.gpu


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """GPU 0 by each backend that this machine has."""
    if reason := backend_failures()[request.param]:
        pytest.skip(reason)
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", request.param)
    with open_device() as opened:
        yield opened


@pytest.fixture
def module(device: Device) -> Module:
    """`scale_add`, compiled by NVRTC for the GPU at hand."""
    return device.load_module(cubin(cuda_checks.SCALE_ADD, device))


def cubin(source: str, device: Device) -> bytes:
    """Machine code of CUDA C++ for the GPU at hand, through NVRTC."""
    try:
        compiler = open_nvrtc(device.driver_version)
    except CannotCompile as error:
        pytest.skip(str(error))
    return compiler.cubin(source, "kernel.cu", options_for(device.compute_capability))


def torch_on_gpu() -> Any:
    """PyTorch, which a board need not have."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no NVIDIA GPU on this machine")
    return torch


def test_the_device_is_the_one_that_torch_sees(device: Device) -> None:
    torch = torch_on_gpu()
    properties = torch.cuda.get_device_properties(0)
    assert device.name == properties.name and device.compute_capability == (properties.major, properties.minor)
    assert device.integrated == bool(properties.is_integrated)
    assert abs(device.memory_bytes()[1] - properties.total_memory) < 2**30
    assert int(device.driver_version.split(".")[0]) >= int(str(torch.version.cuda).split(".")[0])


@pytest.mark.parametrize(
    "check",
    [
        cuda_checks.check_copies, cuda_checks.check_mapped_memory, cuda_checks.check_failed_captures,
        cuda_checks.check_threads, cuda_checks.check_out_of_memory,
    ],
)  # fmt: skip
def test_a_check_holds(device: Device, check) -> None:  # type: ignore[no-untyped-def]
    check(device)


def test_a_kernel_runs(device: Device, module: Module) -> None:
    cuda_checks.check_kernel(device, module)


def test_a_capture_runs(device: Device, module: Module) -> None:
    cuda_checks.check_capture(device, module)


def test_a_damaged_module_is_refused_and_the_device_lives(device: Device, module: Module) -> None:
    with pytest.raises(CudaError, match="CUDA_ERROR"):
        device.load_module(b"no cubin")
    with pytest.raises(CudaError, match="CUDA_ERROR_NOT_FOUND"):
        module.function("another")
    assert not device.dead


def test_memory_is_shared_with_torch(device: Device) -> None:
    """Both are in the primary context: an address of one is good in the other."""
    torch = torch_on_gpu()
    tensor = torch.arange(64, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    stream, result = device.stream(), np.zeros(64, np.uint8)
    device.copy_to_host(result, tensor.data_ptr(), stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, np.arange(64))


BREAKING = """
from runtime.cuda import CudaError, open_device
from tests.test_runtime_cuda_gpu import cubin
import numpy as np
device = open_device()
source = 'extern "C" __global__ void broken(int *address) { *address = 1; }'
module = device.load_module(cubin(source, device))
stream = device.stream()
device.launch(module.function("broken"), (1,), (1,), [256], stream)
for ask in (stream.synchronize, device.memory_bytes):
    try:
        ask()
    except CudaError as error:
        print(error)
print(device.dead)
device.close()
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_illegal_address_ends_the_device_and_not_the_process(backend: str) -> None:
    if reason := backend_failures()[backend]:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-c", BREAKING], capture_output=True, text=True, timeout=120,
        cwd=ROOT, env={**os.environ, "PSPNET_CUDA_BACKEND": backend},
    )  # fmt: skip
    if "NVRTC" in done.stderr:  # there is none for this GPU
        pytest.skip(done.stderr.strip().rpartition("\n")[2])
    assert done.returncode == 0, done.stderr
    first, second, dead = done.stdout.splitlines()
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in first and "is lost to this process since" in second and dead == "True"
