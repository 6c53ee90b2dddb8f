"""The context of a CUDA device: where it is current, and how it ends. On the driver double, by every backend."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from runtime.cuda import CudaError, open_device
from tests.cuda_checks import INSTALLED, LAUNCH_FAILED, copied, random_array
from tests.doubles.cuda_driver import CudaDouble, kernel_library, library_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=INSTALLED)
def double(request: pytest.FixtureRequest, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    """The driver double, with each backend in turn."""
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", request.param)
    return cuda_double


def current_context(double: CudaDouble) -> int | None:
    """The driver's current context on this thread."""
    context = ctypes.c_void_p()
    assert double.library.cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


def test_a_context_that_cannot_be_popped_ends_the_device_and_not_the_process(double: CudaDouble) -> None:
    device = open_device()

    def work() -> None:
        with device.current():
            double.fail_call("cuCtxPopCurrent_v2", LAUNCH_FAILED)

    failed: list[threading.ExceptHookArgs] = []
    threading.excepthook, before = failed.append, threading.excepthook
    try:
        (thread := threading.Thread(target=work)).start()
        thread.join()
    finally:
        threading.excepthook = before
    assert failed[0].exc_type is CudaError and device.dead
    device.close()


def test_an_error_inside_of_the_block_is_not_hidden_by_the_end(double: CudaDouble) -> None:
    with pytest.raises(ZeroDivisionError), open_device() as device:
        device.stream()
        double.break_device()
        raise ZeroDivisionError
    double.reset()
    device = open_device()
    stream = device.stream()
    double.fail_call("cuStreamSynchronize", LAUNCH_FAILED)
    with pytest.raises(CudaError, match="LAUNCH_FAILED"):
        device.close()
    with pytest.raises(ValueError, match="freed"):
        _ = stream.handle


def test_closing_frees_everything_in_order(double: CudaDouble, tmp_path: Path) -> None:
    device, kernels = open_device(), kernel_library("__global__ void none() {} DOUBLE_KERNEL(none)\n", tmp_path)
    stream, module, event, pinned = device.stream(), device.load_module(kernels), device.event(), device.allocate(8)
    with device.capture(stream) as graph:
        pass
    gone: list[object] = []
    for resource in (pinned, stream, graph, event, module):
        freed = resource.free
        resource.free = lambda resource=resource, freed=freed: (gone.append(resource), freed())  # type: ignore
    assert set(double.live()) == {"contexts", "streams", "modules", "events", "allocations", "bytes", "graph_execs"}
    device.close()
    assert gone == [graph, module, event, pinned, stream]
    assert not double.live() and current_context(double) is None
    device.close()
    for call in (device.stream, device.memory_bytes, device.current, lambda: device.allocate(1)):
        with pytest.raises(ValueError, match="the device CPU double is closed"):
            call()


def test_closing_from_another_thread_gives_the_context_back(double: CudaDouble) -> None:
    device = open_device()
    stream = device.stream()
    with device.current(), pytest.raises(RuntimeError, match="outside"):
        device.close()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    assert not double.live() and current_context(double) is None
    with pytest.raises(ValueError, match="freed"):
        stream.synchronize()


def test_the_context_is_current_in_the_block_only(double: CudaDouble) -> None:
    device = open_device()
    device.allocate(8).free()
    assert current_context(double) is None
    with device.current():
        mine = current_context(double)
        with device.current():
            assert current_context(double) == mine
            device.allocate(8).free()
        assert current_context(double) == mine and mine is not None
        other: list[int | None] = []
        thread = threading.Thread(target=lambda: other.append(current_context(double)))
        thread.start()
        thread.join()
        assert other == [None]
    with pytest.raises(ZeroDivisionError), device.current():
        raise ZeroDivisionError
    assert current_context(double) is None
    device.close()


def test_two_devices_nest(double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_DEVICES", "2")
    with open_device(0) as first, open_device(1) as second:
        with first.current():
            outer = current_context(double)
            with second.current():
                inner = current_context(double)
                buffer = first.allocate(8)
                assert current_context(double) == inner != outer
            assert current_context(double) == outer
        np.testing.assert_array_equal(copied(second, array := random_array((9,))), array)
        buffer.free()
    assert not double.live() and current_context(double) is None


def test_the_context_that_another_library_made_current_stays(double: CudaDouble) -> None:
    device = open_device()
    primary = ctypes.c_void_p()
    assert double.library.cuDevicePrimaryCtxRetain(ctypes.byref(primary), 0) == 0
    assert double.library.cuCtxSetCurrent(primary) == 0  # as the CUDA runtime does
    with device.current():
        assert current_context(double) == primary.value  # the same context, and theirs
    np.testing.assert_array_equal(copied(device, array := random_array((9,))), array)
    device.close()
    assert current_context(double) == primary.value
    assert double.library.cuCtxSetCurrent(None) == 0
    assert double.library.cuDevicePrimaryCtxRelease_v2(0) == 0


LEFT_OPEN = """
import threading
from runtime.cuda import CudaError, open_device
device, other = open_device(), open_device()
stream, buffer, pinned = device.stream(), device.allocate(64), device.allocate_pinned((4,), "uint8")
with device.capture(stream) as graph:
    pass
event = device.event()
thread = threading.Thread(target=lambda: other.allocate(8))
thread.start()
thread.join()
{then}
"""
BREAK = """
from tests.doubles.cuda_driver import load
load().break_device()
try:
    stream.synchronize()
except CudaError:
    assert device.dead and not other.dead
"""


@pytest.mark.parametrize("then", ["", BREAK], ids=["sound", "lost"])
def test_a_device_left_open_ends_with_the_process(double: CudaDouble, then: str) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library_folder())}
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN.format(then=then)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
