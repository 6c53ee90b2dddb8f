"""The CUDA driver double, through the true cuda-bindings and ctypes: device, contexts, memory, errors, loading."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles import cuda_driver
from tests.doubles.cuda_driver import CudaDouble

cu = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")

ROOT = Path(__file__).parents[1]
AFTER_CUDA_13_1 = {
    "CUDA_ERROR_KEY_ROTATION", "CUDA_ERROR_GRAPH_RECAPTURE_FAILURE", "CUDA_ERROR_FABRIC_NOT_READY",
    "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION", "CUDA_ERROR_MULTICAST_RESOURCE_FULL",
}  # fmt: skip
MAPPED = 2  # CU_MEMHOSTALLOC_DEVICEMAP and CU_MEMHOSTREGISTER_DEVICEMAP


def ok(answer: tuple[Any, ...]) -> Any:
    """The values of a call that must work."""
    assert answer[0] == cu.CUresult.CUDA_SUCCESS
    return answer[1] if len(answer) == 2 else answer[1:]


def error(answer: tuple[Any, ...]) -> str:
    """The name of a call's result, short: "INVALID_VALUE"."""
    return answer[0].name.removeprefix("CUDA_ERROR_")


def device_name() -> str:
    """The device's name without what lies behind its end in the binding's buffer."""
    return ok(cu.cuDeviceGetName(64, 0)).split(b"\0")[0].decode()


@pytest.fixture
def context(cuda_double: CudaDouble) -> Iterator[Any]:
    """The primary context, current."""
    ok(cu.cuInit(0))
    context = ok(cu.cuDevicePrimaryCtxRetain(0))
    ok(cu.cuCtxPushCurrent(context))
    yield context
    cuda_double.reset()


def test_the_device_is_what_the_environment_says(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    integrated = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
    ok(cu.cuInit(0))
    assert device_name() == "CPU double"
    assert ok(cu.cuDeviceGetAttribute(integrated, 0)) == 1
    assert ok(cu.cuDriverGetVersion()) == 13000
    monkeypatch.setenv("CUDA_DOUBLE_NAME", "Orin")
    monkeypatch.setenv("CUDA_DOUBLE_COMPUTE_CAPABILITY", "11.0")
    monkeypatch.setenv("CUDA_DOUBLE_INTEGRATED", "0")
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY_BYTES", "4096")
    monkeypatch.setenv("CUDA_DOUBLE_DRIVER_VERSION", "12060")
    assert device_name() == "Orin"
    attribute = cu.CUdevice_attribute
    major = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0))
    minor = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0))
    assert (major, minor) == (11, 0)
    assert ok(cu.cuDeviceGetAttribute(integrated, 0)) == 0
    assert ok(cu.cuDeviceTotalMem(0)) == 4096
    assert ok(cu.cuDriverGetVersion()) == 12060


def test_a_machine_without_a_gpu(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(cu.cuDeviceGet(1)) == "INVALID_DEVICE"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert error(cu.cuInit(0)) == "NO_DEVICE"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_DOUBLE_DEVICES", "0")
    assert error(cu.cuInit(0)) == "NO_DEVICE"


def test_errors_have_the_drivers_names_and_texts(cuda_double: CudaDouble) -> None:
    unknown = set()
    for code in cu.CUresult:
        answer, name = cu.cuGetErrorName(code)
        if answer == cu.CUresult.CUDA_SUCCESS:
            assert name.decode() == code.name
        else:
            unknown.add(code.name)
    assert unknown <= AFTER_CUDA_13_1
    texts = {2: "out of memory", 201: "invalid device context", 700: "an illegal memory access was encountered"}
    for number, text in texts.items():
        assert ok(cu.cuGetErrorString(cu.CUresult(number))).decode() == text


def test_calls_need_a_context_on_their_own_thread(context: Any) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(error(cu.cuMemAlloc(16))))
    thread.start()
    thread.join()
    assert found == ["INVALID_CONTEXT"]
    assert int(ok(cu.cuCtxPopCurrent())) == int(context)
    assert error(cu.cuMemAlloc(16)) == "INVALID_CONTEXT"
    assert error(cu.cuCtxPopCurrent()) == "INVALID_CONTEXT"


def test_the_last_release_of_the_primary_context_frees_what_is_in_it(context: Any, cuda_double: CudaDouble) -> None:
    ok(cu.cuDevicePrimaryCtxRetain(0))
    address = ok(cu.cuMemAlloc(1000))
    ok(cu.cuStreamCreate(1))
    ok(cu.cuEventCreate(0))
    assert cuda_double.live() == {"allocations": 1, "bytes": 1000, "contexts": 2, "streams": 1, "events": 1}
    ok(cu.cuDevicePrimaryCtxRelease(0))
    assert cuda_double.live()["contexts"] == 1
    ok(cu.cuDevicePrimaryCtxRelease(0))
    assert cuda_double.live() == {}
    assert error(cu.cuMemFree(address)) == "CONTEXT_IS_DESTROYED"
    assert error(cu.cuDevicePrimaryCtxRelease(0)) == "INVALID_CONTEXT"


def test_memory_is_aligned_and_not_zero_and_freed_once(context: Any, cuda_double: CudaDouble) -> None:
    addresses = [ok(cu.cuMemAlloc(size)) for size in (1, 255, 4097)]
    assert all(int(address) % 256 == 0 for address in addresses)
    fresh = np.zeros(255, np.uint8)
    ok(cu.cuMemcpyDtoH(fresh.ctypes.data, addresses[1], fresh.nbytes))
    assert (fresh == 255).all()  # NaN, read as floats
    ok(cu.cuMemFree(addresses[0]))
    assert error(cu.cuMemFree(addresses[0])) == "INVALID_VALUE"
    assert error(cu.cuMemFree(int(addresses[1]) + 8)) == "INVALID_VALUE"
    assert cuda_double.live()["allocations"] == 2
    assert error(cu.cuMemAlloc(0)) == "INVALID_VALUE"


def test_copies_refuse_what_is_not_device_memory(context: Any) -> None:
    data = np.arange(64, dtype=np.float32)
    host, size = data.ctypes.data, data.nbytes
    address = int(ok(cu.cuMemAlloc(size)))
    other = int(ok(cu.cuMemAlloc(size)))
    ok(cu.cuMemcpyHtoD(address, host, size))
    ok(cu.cuMemcpyDtoD(other, address, size))
    back = np.zeros_like(data)
    ok(cu.cuMemcpyDtoH(back.ctypes.data, other, size))
    np.testing.assert_array_equal(back, data)
    assert error(cu.cuMemcpyHtoD(host, host, size)) == "INVALID_VALUE"  # pageable memory as device memory
    assert error(cu.cuMemcpyHtoD(address + 4, host, size)) == "INVALID_VALUE"  # past the end
    assert error(cu.cuMemcpyHtoD(address, other, size)) == "INVALID_VALUE"  # device memory as host memory
    ok(cu.cuMemFree(address))
    assert error(cu.cuMemcpyDtoH(host, address, size)) == "INVALID_VALUE"  # freed


def test_fills(context: Any) -> None:
    address = int(ok(cu.cuMemAlloc(32)))
    ok(cu.cuMemsetD8(address, 7, 8))
    ok(cu.cuMemsetD16(address + 8, 0x1234, 4))
    ok(cu.cuMemsetD32(address + 16, 0xDEADBEEF, 4))
    found = np.zeros(32, np.uint8)
    ok(cu.cuMemcpyDtoH(found.ctypes.data, address, 32))
    expected = np.full(8, 7, np.uint8).tobytes() + b"\x34\x12" * 4 + b"\xef\xbe\xad\xde" * 4
    assert found.tobytes() == expected
    assert error(cu.cuMemsetD32(address + 2, 0, 1)) == "INVALID_VALUE"


def test_memory_runs_out_where_the_test_says(context: Any, cuda_double: CudaDouble) -> None:
    cuda_double.set_memory_bytes(10_000)
    address = ok(cu.cuMemAlloc(6000))
    assert ok(cu.cuMemGetInfo()) == (4000, 10_000)
    assert error(cu.cuMemAlloc(4001)) == "OUT_OF_MEMORY"
    pinned = ok(cu.cuMemHostAlloc(4000, 0))  # integrated: page-locked memory is the same memory
    assert ok(cu.cuMemGetInfo()) == (0, 10_000)
    ok(cu.cuMemFreeHost(pinned))
    ok(cu.cuMemFree(address))
    ok(cu.cuMemAlloc(10_000))


def test_page_locked_and_mapped_memory(context: Any, cuda_double: CudaDouble) -> None:
    plain, mapped = ok(cu.cuMemHostAlloc(100, 0)), ok(cu.cuMemHostAlloc(100, MAPPED))
    assert error(cu.cuMemHostGetDevicePointer(plain, 0)) == "INVALID_VALUE"
    address = int(ok(cu.cuMemHostGetDevicePointer(mapped, 0)))
    ok(cu.cuMemsetD8(address, 9, 100))
    assert bytes((ctypes.c_char * 100).from_address(int(mapped))) == b"\x09" * 100
    assert cuda_double.live()["pinned"] == 2
    ok(cu.cuMemFreeHost(mapped))
    assert error(cu.cuMemFreeHost(mapped)) == "INVALID_VALUE"


def test_registered_memory(context: Any, cuda_double: CudaDouble) -> None:
    frame = np.zeros(5000, np.uint8)
    start = frame.ctypes.data
    assert error(cu.cuMemHostUnregister(start)) == "HOST_MEMORY_NOT_REGISTERED"
    ok(cu.cuMemHostRegister(start, frame.nbytes, MAPPED))
    assert error(cu.cuMemHostRegister(start + 100, 8, 0)) == "HOST_MEMORY_ALREADY_REGISTERED"
    ok(cu.cuMemsetD8(ok(cu.cuMemHostGetDevicePointer(start, 0)), 3, frame.nbytes))
    assert (frame == 3).all()
    ok(cu.cuMemHostUnregister(start))
    assert "registered" not in cuda_double.live()


def test_a_sticky_error_stays(context: Any, cuda_double: CudaDouble) -> None:
    address = ok(cu.cuMemAlloc(16))
    cuda_double.break_device(719)
    cuda_double.break_device(700)
    assert error(cu.cuCtxSynchronize()) == "LAUNCH_FAILED"
    assert error(cu.cuMemFree(address)) == "LAUNCH_FAILED"
    assert error(cu.cuDevicePrimaryCtxRetain(0)) == "LAUNCH_FAILED"
    ok(cu.cuCtxPopCurrent())
    ok(cu.cuDeviceGetName(64, 0))


def test_a_call_fails_once_where_the_test_says(context: Any, cuda_double: CudaDouble) -> None:
    cuda_double.fail_call("cuMemAlloc_v2", 2, after=1)
    ok(cu.cuMemAlloc(16))
    assert error(cu.cuMemAlloc(16)) == "OUT_OF_MEMORY"
    ok(cu.cuMemAlloc(16))


def test_handles_of_before_a_reset_are_dead(context: Any, cuda_double: CudaDouble) -> None:
    stream, event = ok(cu.cuStreamCreate(0)), ok(cu.cuEventCreate(0))
    cuda_double.reset()
    assert cuda_double.live() == {}
    ok(cu.cuCtxPushCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
    assert error(cu.cuStreamSynchronize(stream)) == "INVALID_HANDLE"
    assert error(cu.cuEventRecord(event, 0)) == "INVALID_HANDLE"


def test_functions_that_the_double_lacks_say_so(cuda_double: CudaDouble) -> None:
    """PyCUDA needs them to be there when it is imported; cuda-bindings is told that they are not."""
    names = [line[len("NOT_SUPPORTED(") : -1] for line in listed() if line.startswith("NOT_SUPPORTED(")]
    assert len(names) > 50
    assert all(getattr(cuda_double.library, name)() == 801 for name in names)  # CUDA_ERROR_NOT_SUPPORTED
    with pytest.raises(RuntimeError, match="cuMemPoolCreate"):
        cu.cuMemPoolCreate(cu.CUmemPoolProps())


def listed() -> list[str]:
    """The lines of the list of unsupported functions."""
    return (cuda_driver.SOURCES / "not_supported.h").read_text(encoding="utf-8").splitlines()[4:]


def test_versions_of_a_function_are_found_by_number(cuda_double: CudaDouble) -> None:
    def symbol(name: str, version: int) -> int | None:
        found, status = ctypes.c_void_p(), ctypes.c_int()
        cuda_double.library.cuGetProcAddress_v2(name.encode(), ctypes.byref(found), version, 0, ctypes.byref(status))
        assert (status.value == 0) == (found.value is not None)
        return found.value

    def exported(name: str) -> int | None:
        return ctypes.cast(getattr(cuda_double.library, name), ctypes.c_void_p).value

    assert symbol("cuMemAlloc", 3020) == exported("cuMemAlloc_v2")
    assert symbol("cuCtxCreate", 3020) == exported("cuCtxCreate_v2")
    assert symbol("cuCtxCreate", 13000) == exported("cuCtxCreate_v4")
    assert symbol("cuEventElapsedTime", 2000) == exported("cuEventElapsedTime")
    assert symbol("cuEventElapsedTime", 12080) == exported("cuEventElapsedTime_v2")
    assert symbol("cuCtxSynchronize", 13000) is None
    assert symbol("cuNoSuchFunction", 13000) is None


LOADED_IN_A_PROCESS = """
import ctypes, sys, warnings
warnings.simplefilter("error")
if {torch_first}:
    import torch
    assert not torch.cuda.is_available()
from tests.doubles import cuda_driver
double = cuda_driver.load()
assert ctypes.CDLL("libcuda.so.1").double_reset
import torch
from cuda.bindings import driver
assert not torch.cuda.is_available() and torch.cuda.device_count() == 0
assert torch.ones(3).sum() == 3
assert driver.cuInit(0)[0] == 0 and driver.cuDeviceGetCount()[1] == 1
assert not torch.cuda.is_available()
"""


@pytest.mark.parametrize("torch_first", [False, True])
def test_torch_stays_on_the_cpu(cuda_double: CudaDouble, torch_first: bool) -> None:
    subprocess.run([sys.executable, "-c", LOADED_IN_A_PROCESS.format(torch_first=torch_first)], cwd=ROOT, check=True)


def test_a_subprocess_finds_the_double_on_the_library_path(cuda_double: CudaDouble) -> None:
    code = "from cuda.bindings import driver as d; d.cuInit(0); print(d.cuDeviceGetName(64, 0)[1].decode())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda_driver.library_folder()), "CUDA_DOUBLE_NAME": "another"}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert shown.startswith("another")
