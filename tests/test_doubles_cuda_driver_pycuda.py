"""The true PyCUDA on the CUDA driver double: it imports, and works as on a GPU. `make test-pycuda` builds it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.cuda_driver import CudaDouble, kernel_library

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is None, reason="PyCUDA is not installed: make test-pycuda"
)

SAXPY = """
__global__ void saxpy(float *y, const float *x, float a, unsigned char offset, double b, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        y[i] += a * x[i] + static_cast<float>(b) + offset;
}
DOUBLE_KERNEL(saxpy)
"""


@pytest.fixture
def driver(cuda_double: CudaDouble) -> Iterator[Any]:
    """pycuda.driver, with the primary context current. Importing it needs every one of its symbols to be there."""
    import pycuda.driver as driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    yield driver
    context.pop()


def test_device_and_versions(driver: Any) -> None:
    device = driver.Device(0)
    assert (device.name(), device.compute_capability()) == ("CPU double", (8, 7))
    assert driver.get_driver_version() == 13000
    assert device.get_attributes()[driver.device_attribute.INTEGRATED] == 1
    assert driver.mem_get_info() == (device.total_memory(), device.total_memory())


def test_copies_and_events_on_a_stream(driver: Any, cuda_double: CudaDouble) -> None:
    stream, start, end = driver.Stream(flags=1), driver.Event(), driver.Event()
    sent = driver.pagelocked_empty(100, np.float32)
    sent[:] = np.arange(100)
    received = driver.pagelocked_empty(100, np.float32, mem_flags=driver.host_alloc_flags.DEVICEMAP)
    assert int(received.base.get_device_pointer()) == received.ctypes.data
    device = driver.mem_alloc(sent.nbytes)
    cuda_double.set_deferred(True)
    start.record(stream)
    driver.memcpy_htod_async(device, sent, stream)
    driver.memcpy_dtoh_async(received, device, stream)
    end.record(stream)
    assert not end.query()
    end.synchronize()
    np.testing.assert_array_equal(received, sent)
    assert end.time_since(start) > 0
    del device, stream, start, end, sent, received
    assert cuda_double.live() == {"contexts": 1}


def test_kernels_take_packed_arguments(driver: Any, tmp_path: Path) -> None:
    x = np.arange(100, dtype=np.float32)
    on_device, y, found = driver.to_device(x), driver.mem_alloc(x.nbytes), np.zeros_like(x)
    driver.memset_d32(y, 0, 100)
    saxpy = driver.module_from_buffer(kernel_library(SAXPY, tmp_path)).get_function("saxpy")
    values = (np.float32(2), np.uint8(1), np.float64(0.5), np.int32(100))
    saxpy(y, on_device, *values, block=(32, 1, 1), grid=(4, 1))
    saxpy.prepare("PPfBdi").prepared_async_call((4, 1), (32, 1, 1), driver.Stream(), y, on_device, *values)
    driver.memcpy_dtoh(found, y)
    np.testing.assert_array_equal(found, 4 * x + 3)


def test_errors_are_pycudas(driver: Any, cuda_double: CudaDouble) -> None:
    with pytest.raises(driver.LogicError, match=r"device kernel image is invalid - $"):  # the log after it is empty
        driver.module_from_buffer(b"neither cubin nor PTX" + bytes(64))
    cuda_double.set_memory_bytes(1000)
    with pytest.raises(driver.MemoryError, match="out of memory"):
        driver.mem_alloc(1001)
    cuda_double.break_device()
    with pytest.raises(driver.LogicError, match="an illegal memory access was encountered"):
        driver.Context.synchronize()


def test_own_contexts_are_counted(driver: Any, cuda_double: CudaDouble) -> None:
    context = driver.Device(0).make_context()
    assert cuda_double.live()["contexts"] == 2
    context.pop()
    context.detach()
    assert cuda_double.live()["contexts"] == 1
