"""The CUDA driver double, through the true cuda-bindings: streams, events, capture, host functions, kernels."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.cuda_driver import CudaDouble, kernel_library

cu = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NON_BLOCKING, DISABLE_TIMING = 1, 2
KERNELS = """
__global__ void scale(float *y, unsigned char offset, double factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        y[i] = static_cast<float>(y[i] * factor) + offset;
}
DOUBLE_KERNEL(scale)

__global__ void where_am_i(unsigned *seen, uint3 size) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
    seen[(z * size.y + y) * size.x + x] += 1 + gridDim.x * 100 + blockDim.y * 10;
}
DOUBLE_KERNEL(where_am_i)
"""


def ok(answer: tuple[Any, ...]) -> Any:
    """The value of a call that must work."""
    assert answer[0] == cu.CUresult.CUDA_SUCCESS
    return answer[1] if len(answer) == 2 else answer[1:]


def error(answer: tuple[Any, ...]) -> str:
    """The name of a call's result, short: "INVALID_VALUE"."""
    return answer[0].name.removeprefix("CUDA_ERROR_")


class Memory:
    """Sixteen floats in page-locked memory and sixteen on the device."""

    def __init__(self) -> None:
        self.device = int(ok(cu.cuMemAlloc(64)))
        self.pinned = int(ok(cu.cuMemHostAlloc(64, 0)))
        self.host = np.ctypeslib.as_array((ctypes.c_float * 16).from_address(self.pinned))
        self.host[:] = np.arange(16)

    def upload(self, stream: Any) -> tuple[Any, ...]:
        return cu.cuMemcpyHtoDAsync(self.device, self.pinned, 64, stream)

    def download(self, stream: Any) -> tuple[Any, ...]:
        return cu.cuMemcpyDtoHAsync(self.pinned, self.device, 64, stream)


@pytest.fixture
def memory(cuda_double: CudaDouble) -> Iterator[Memory]:
    """Memory in the primary context, which is current."""
    ok(cu.cuInit(0))
    ok(cu.cuCtxPushCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
    yield Memory()
    cuda_double.reset()


@pytest.fixture
def stream(memory: Memory) -> Any:
    return ok(cu.cuStreamCreate(NON_BLOCKING))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """KERNELS as a library for the double."""
    return kernel_library(KERNELS, tmp_path_factory.mktemp("kernels"))


def host_function(double: CudaDouble, stream: Any, function: Callable[[Any], None]) -> Any:
    """Puts a Python function on the stream; the answer keeps it alive."""
    call = HOST_FUNCTION(function)
    assert double.library.cuLaunchHostFunc(ctypes.c_void_p(int(stream)), call, None) == 0
    return call


def captured(stream: Any, mode: int = 1) -> None:
    ok(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode(mode)))


def test_streams_keep_order_and_events_measure(memory: Memory, stream: Any, cuda_double: CudaDouble) -> None:
    start, end = ok(cu.cuEventCreate(0)), ok(cu.cuEventCreate(0))
    seen = []
    ok(cu.cuEventRecord(start, stream))
    ok(memory.upload(stream))
    calls = [host_function(cuda_double, stream, lambda _: seen.append("first"))]
    calls.append(host_function(cuda_double, stream, lambda _: time.sleep(0.02)))
    calls.append(host_function(cuda_double, stream, lambda _: seen.append("second")))
    ok(cu.cuEventRecord(end, stream))
    ok(cu.cuEventSynchronize(end))
    assert seen == ["first", "second"]
    elapsed_ms = ok(cu.cuEventElapsedTime(start, end))
    assert 20 <= elapsed_ms < 2000
    assert ok(cu.cuEventElapsedTime(end, start)) == pytest.approx(-elapsed_ms)


def test_events_that_have_no_time(memory: Memory, stream: Any) -> None:
    start, untimed = ok(cu.cuEventCreate(0)), ok(cu.cuEventCreate(DISABLE_TIMING))
    assert error(cu.cuEventElapsedTime(start, start)) == "INVALID_HANDLE"  # never recorded
    ok(cu.cuEventRecord(start, stream))
    ok(cu.cuEventRecord(untimed, stream))
    assert error(cu.cuEventElapsedTime(start, untimed)) == "INVALID_HANDLE"
    ok(cu.cuEventDestroy(start))
    assert error(cu.cuEventDestroy(start)) == "INVALID_HANDLE"


def test_a_host_function_may_not_call_cuda(memory: Memory, stream: Any, cuda_double: CudaDouble) -> None:
    answers = []
    call = host_function(cuda_double, stream, lambda _: answers.append(error(cu.cuMemAlloc(16))))
    assert answers == ["NOT_PERMITTED"]
    ok(cu.cuMemAlloc(16))
    del call


def test_a_capture_records_and_a_graph_replays(memory: Memory, stream: Any, cuda_double: CudaDouble) -> None:
    seen: list[int] = []
    ok(cu.cuMemsetD32(memory.device, 0, 16))
    captured(stream)
    ok(memory.upload(stream))
    call = host_function(cuda_double, stream, lambda _: seen.append(1))
    ok(cu.cuMemsetD32Async(memory.device, 0, 8, stream))
    ok(memory.download(stream))
    assert int(ok(cu.cuStreamIsCapturing(stream))) == 1
    graph = ok(cu.cuStreamEndCapture(stream))
    assert seen == [] and memory.host[3] == 3  # nothing ran
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphDestroy(graph))
    for launch in range(2):
        memory.host[:] = np.arange(16) + 100 * launch
        ok(cu.cuGraphLaunch(executable, stream))
        ok(cu.cuStreamSynchronize(stream))
        np.testing.assert_array_equal(memory.host, [0] * 8 + [8 + i + 100 * launch for i in range(8)])
    assert seen == [1, 1]
    ok(cu.cuGraphExecDestroy(executable))
    assert error(cu.cuGraphLaunch(executable, stream)) == "INVALID_VALUE"
    assert "graphs" not in cuda_double.live() and "graph_execs" not in cuda_double.live()
    del call


@pytest.mark.parametrize("forbidden", ["synchronize", "allocate", "pageable", "query"])
def test_what_a_capture_forbids_spoils_it(memory: Memory, stream: Any, cuda_double: CudaDouble, forbidden: str) -> None:
    pageable = np.zeros(16, np.float32)
    calls: dict[str, Callable[[], tuple[Any, ...]]] = {
        "synchronize": lambda: cu.cuStreamSynchronize(stream),
        "allocate": lambda: cu.cuMemAlloc(64),
        "pageable": lambda: cu.cuMemcpyHtoDAsync(memory.device, pageable.ctypes.data, 64, stream),
        "query": lambda: cu.cuStreamQuery(stream),
    }
    captured(stream)
    assert error(calls[forbidden]()) == "STREAM_CAPTURE_UNSUPPORTED"
    assert error(memory.upload(stream)) == "STREAM_CAPTURE_INVALIDATED"
    assert error(cu.cuStreamEndCapture(stream)) == "STREAM_CAPTURE_INVALIDATED"
    assert "graphs" not in cuda_double.live()
    ok(memory.upload(stream))


@pytest.mark.parametrize(("mode", "answer"), [(0, "STREAM_CAPTURE_UNSUPPORTED"), (1, "CUDA_SUCCESS")])
def test_a_thread_local_capture_leaves_other_threads_alone(memory: Memory, stream: Any, mode: int, answer: str) -> None:
    found = []

    def allocate() -> None:
        ok(cu.cuCtxPushCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        found.append(error(cu.cuMemAlloc(64)))
        found.append(error(cu.cuStreamEndCapture(stream)))
        ok(cu.cuCtxPopCurrent())

    captured(stream, mode)
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert found == [answer, "STREAM_CAPTURE_WRONG_THREAD"]


def test_a_second_stream_joins_a_capture_by_events(memory: Memory, stream: Any) -> None:
    other = ok(cu.cuStreamCreate(NON_BLOCKING))
    fork, join = ok(cu.cuEventCreate(0)), ok(cu.cuEventCreate(0))
    for joined in (True, False):
        captured(stream)
        ok(memory.upload(stream))
        ok(cu.cuEventRecord(fork, stream))
        ok(cu.cuStreamWaitEvent(other, fork, 0))
        ok(cu.cuMemsetD32Async(memory.device, 0, 4, other))
        ok(cu.cuEventRecord(join, other))
        if joined:
            ok(cu.cuStreamWaitEvent(stream, join, 0))
            executable = ok(cu.cuGraphInstantiate(ok(cu.cuStreamEndCapture(stream)), 0))
        else:
            assert error(cu.cuStreamEndCapture(stream)) == "STREAM_CAPTURE_UNJOINED"
    assert error(cu.cuEventSynchronize(fork)) == "CAPTURED_EVENT"
    ok(cu.cuGraphLaunch(executable, stream))
    ok(memory.download(stream))
    np.testing.assert_array_equal(memory.host, [0] * 4 + list(range(4, 16)))


def test_deferred_work_waits_until_something_waits_for_it(memory: Memory, cuda_double: CudaDouble, stream: Any) -> None:
    other = ok(cu.cuStreamCreate(NON_BLOCKING))
    event = ok(cu.cuEventCreate(0))
    pageable = np.full(16, 5, np.float32)
    cuda_double.set_deferred(True)
    ok(cu.cuMemcpyHtoDAsync(memory.device, pageable.ctypes.data, 64, stream))
    pageable[:] = 6  # the driver took its copy
    ok(cu.cuEventRecord(event, stream))
    ok(cu.cuStreamWaitEvent(other, event, 0))
    ok(memory.download(other))
    assert memory.host[1] == 1
    assert error(cu.cuEventQuery(event)) == "NOT_READY"
    ok(cu.cuStreamSynchronize(other))
    assert (memory.host == 5).all()
    ok(cu.cuEventQuery(event))
    ok(cu.cuMemsetD32Async(memory.device, 0, 16, stream))
    ok(cu.cuMemcpyDtoHAsync(pageable.ctypes.data, memory.device, 64, stream))  # to pageable memory: waits
    assert (pageable == 0).all()


def launch(function: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, values: tuple) -> tuple[Any, ...]:
    return cu.cuLaunchKernel(function, *grid, *block, 0, stream, values, 0)


def test_kernels_run_and_are_captured_with_their_arguments(memory: Memory, stream: Any, kernels: bytes) -> None:
    function = ok(cu.cuModuleGetFunction(ok(cu.cuModuleLoadData(kernels)), b"scale"))
    types = (ctypes.c_void_p, ctypes.c_uint8, ctypes.c_double, ctypes.c_int)
    ok(memory.upload(stream))
    ok(launch(function, (4, 1, 1), (4, 1, 1), stream, ((memory.device, 3, 0.5, 15), types)))
    ok(memory.download(stream))
    expected = np.append((np.arange(15) * 0.5 + 3).astype(np.float32), np.float32(15))
    np.testing.assert_array_equal(memory.host, expected)
    captured(stream)
    ok(launch(function, (1, 1, 1), (16, 1, 1), stream, ((memory.device, 1, 2.0, 16), types)))
    executable = ok(cu.cuGraphInstantiate(ok(cu.cuStreamEndCapture(stream)), 0))
    ok(cu.cuGraphLaunch(executable, stream))
    ok(memory.download(stream))
    np.testing.assert_array_equal(memory.host, expected * 2 + 1)


def test_every_thread_of_a_launch_runs_once(memory: Memory, stream: Any, kernels: bytes) -> None:
    size = (6, 6, 4)  # grid (3, 2, 2) of blocks (2, 3, 2)
    seen = ok(cu.cuMemAlloc(4 * 144))
    ok(cu.cuMemsetD32(seen, 0, 144))
    function = ok(cu.cuModuleGetFunction(ok(cu.cuModuleLoadData(kernels)), b"where_am_i"))
    packed = np.array([(int(seen), size)], dtype=[("seen", "u8"), ("size", "u4", 3)])  # as PyCUDA passes arguments
    length = np.array([packed.nbytes], np.uint64)
    extra = np.array([1, packed.ctypes.data, 2, length.ctypes.data, 0], np.uint64)
    ok(cu.cuLaunchKernel(function, 3, 2, 2, 2, 3, 2, 0, stream, 0, extra.ctypes.data))
    found = np.zeros(144, np.uint32)
    ok(cu.cuMemcpyDtoH(found.ctypes.data, seen, found.nbytes))
    assert (found == 1 + 3 * 100 + 3 * 10).all()
    assert error(cu.cuLaunchKernel(function, 1, 1, 1, 2048, 1, 1, 0, stream, 0, extra.ctypes.data)) == "INVALID_VALUE"
    assert error(cu.cuLaunchKernel(function, 0, 1, 1, 1, 1, 1, 0, stream, 0, extra.ctypes.data)) == "INVALID_VALUE"


def test_modules_refuse_what_they_cannot_run(memory: Memory, kernels: bytes, tmp_path: Path) -> None:
    module = ok(cu.cuModuleLoadData(kernels))
    assert error(cu.cuModuleGetFunction(module, b"absent")) == "NOT_FOUND"
    ok(cu.cuModuleUnload(module))
    assert error(cu.cuModuleUnload(module)) == "INVALID_HANDLE"
    assert error(cu.cuModuleLoadData(b".version 8.0 // PTX\0")) == "INVALID_IMAGE"
    cubin = kernels[:18] + (190).to_bytes(2, "little") + kernels[20:]  # e_machine: EM_CUDA
    assert error(cu.cuModuleLoadData(cubin)) == "NO_BINARY_FOR_GPU"
    assert error(cu.cuModuleLoad(str(tmp_path / "absent").encode())) == "FILE_NOT_FOUND"
    (tmp_path / "kernels.so").write_bytes(kernels)
    ok(cu.cuModuleGetFunction(ok(cu.cuModuleLoad(str(tmp_path / "kernels.so").encode())), b"scale"))
