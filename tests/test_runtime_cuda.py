"""runtime.cuda on the driver double, through every backend that is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime.cuda import CudaError, CudaOutOfMemory, Device, Module, open_device
from tests import cuda_checks
from tests.cuda_checks import INSTALLED, LAUNCH_FAILED
from tests.doubles.cuda_driver import CudaDouble, kernel_library

MIB = 2**20
INVALID_VALUE = 1


@pytest.fixture(params=INSTALLED)
def double(request: pytest.FixtureRequest, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    """The driver double, with each backend in turn."""
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", request.param)
    return cuda_double


@pytest.fixture
def device(double: CudaDouble) -> Iterator[Device]:
    """An open device, after which the driver must hold nothing."""
    with open_device() as opened:
        yield opened
    assert opened.dead or not double.live()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`scale_add`, compiled for the double."""
    return kernel_library(cuda_checks.SCALE_ADD + "DOUBLE_KERNEL(scale_add)\n", tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def module(device: Device, kernels: bytes) -> Module:
    return device.load_module(kernels)


def test_the_device_says_what_it_is(device: Device, request: pytest.FixtureRequest) -> None:
    assert (device.name, device.compute_capability, device.integrated) == ("CPU double", (8, 7), True)
    assert device.driver_version == "13.0" and not device.dead
    assert device.backend in request.node.name


def test_a_discrete_gpu_of_another_driver(double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INTEGRATED", "0"), ("COMPUTE_CAPABILITY", "12.0"), ("DRIVER_VERSION", "12060")):
        monkeypatch.setenv(f"CUDA_DOUBLE_{name}", value)
    with open_device() as device:
        assert (device.compute_capability, device.integrated, device.driver_version) == ((12, 0), False, "12.6")


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


def test_a_kernel_may_have_no_argument(device: Device, tmp_path: Path) -> None:
    source = "static int runs; __global__ void count() { runs++; } __global__ void tell(int *to) { *to = runs; }\n"
    module = device.load_module(kernel_library(source + "DOUBLE_KERNEL(count)\nDOUBLE_KERNEL(tell)\n", tmp_path))
    stream, result = device.stream(), device.allocate_pinned((1,), np.int32, mapped=True)
    device.launch(module.function("count"), (3,), (4, 2), [], stream)
    device.launch(module.function("tell"), (1,), (1,), [result], stream)
    stream.synchronize()
    assert result.array[0] == 3 * 4 * 2


def test_work_is_done_in_the_streams_turn(device: Device, double: CudaDouble) -> None:
    double.set_deferred(True)
    stream, event = device.stream(), device.event()
    pinned, buffer = device.allocate_pinned((4,), np.uint8), device.allocate(4)
    pinned.array[:] = 5
    device.copy_to_device(buffer, pinned.array, stream)
    event.record(stream)
    device.copy_to_host(result := device.allocate_pinned((4,), np.uint8).array, buffer, stream)
    result[:] = 1
    event.synchronize()
    assert (result == 1).all()
    stream.synchronize()
    assert (result == 5).all()


def test_what_would_be_wrong_is_refused(device: Device, module: Module) -> None:
    stream, buffer = device.stream(), device.allocate(16)
    fixed = np.zeros(8, np.uint8)
    fixed.setflags(write=False)
    for call, text in (
        (lambda: device.copy_to_device(buffer, np.zeros(17, np.uint8), stream), "17 bytes, the device buffer 16"),
        (lambda: device.copy_to_host(np.zeros(5, np.float32), buffer, stream), "20 bytes, the device buffer 16"),
        (lambda: device.copy_to_device(buffer, np.zeros((4, 4), np.uint8)[:, ::2], stream), "contiguous"),
        (lambda: device.copy_to_host(fixed, buffer, stream), "not writable"),
        (lambda: device.register(fixed), "writable"),
        (lambda: device.register(np.zeros((4, 4))[:, :2]), "contiguous"),
        (lambda: device.allocate(0), "at least one"),
        (lambda: device.launch(module.function("scale_add"), (1, 1, 1, 1), (1,), [], stream), "of 4 sides"),
        (lambda: device.launch(module.function("scale_add"), (1,), (), [], stream), "of 0 sides"),
        (lambda: device.allocate_pinned((3, 0), np.uint8), "at least 1"),
        (lambda: device.allocate_pinned((3,), np.uint8).device_address, "not mapped"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            call()


def test_errors_carry_the_drivers_own_text(device: Device, module: Module, double: CudaDouble) -> None:
    with pytest.raises(CudaError, match=r"CUDA_ERROR_NOT_FOUND \(named symbol not found\)"):
        module.function("another")
    with pytest.raises(CudaError, match=r"CUDA_ERROR_INVALID_IMAGE \(device kernel image is invalid\)\. Compile"):
        device.load_module(b"no cubin")
    with pytest.raises(CudaError, match=r"CUDA_ERROR_INVALID_VALUE"):
        device.launch(module.function("scale_add"), (1,), (2048,), [], device.stream())  # too many threads
    double.fail_call("cuStreamSynchronize", INVALID_VALUE)
    stream = device.stream()
    with pytest.raises(CudaError, match=r"CUDA_ERROR_INVALID_VALUE \(invalid argument\)") as caught:
        stream.synchronize()
    assert "cuStreamSynchronize" in str(caught.value) and "\n" not in str(caught.value)
    stream.synchronize()
    assert not device.dead


def test_a_sticky_error_ends_the_device(device: Device, double: CudaDouble) -> None:
    stream, buffer = device.stream(), device.allocate(64)
    double.break_device(LAUNCH_FAILED)
    with pytest.raises(CudaError, match=r"CUDA_ERROR_LAUNCH_FAILED \(.*is lost to this process"):
        stream.synchronize()
    assert device.dead
    double.reset()  # so that whatever is refused now is refused by us
    for call in (stream.synchronize, device.memory_bytes, device.stream, lambda: device.allocate(1)):
        with pytest.raises(CudaError, match=r"lost to this process since cuStreamSynchronize failed: .*LAUNCH_FAILED"):
            call()
    buffer.free()
    device.close()


def test_memory_that_runs_out_is_told_in_figures(device: Device, double: CudaDouble) -> None:
    double.set_memory_bytes(100 * MIB)
    kept = device.allocate(60 * MIB)
    with pytest.raises(CudaOutOfMemory) as caught:
        device.allocate(50 * MIB)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (50 * MIB, 40 * MIB)
    assert "50.0 MiB needed, 40.0 of 100.0 MiB free on CPU double" in str(caught.value)
    assert isinstance(caught.value, PspnetError) and caught.value.__cause__ is None
    kept.free()
    device.allocate(50 * MIB)
    double.fail_call("cuMemHostAlloc", 2)
    with pytest.raises(CudaOutOfMemory, match=r"3\.0 MiB needed, .* free in the CPU's memory"):
        device.allocate_pinned((3, 1024, 1024), np.uint8)


def test_freeing_twice_and_using_what_is_freed(device: Device, double: CudaDouble, module: Module) -> None:
    stream, buffer, event = device.stream(), device.allocate(64), device.event()
    pinned, mine = device.allocate_pinned((64,), np.uint8, mapped=True), device.register(np.zeros(64, np.uint8))
    function = module.function("scale_add")
    with device.capture(stream) as graph:
        device.copy_to_device(buffer, pinned.array, stream)
    for resource in (graph, module, event, mine, pinned, buffer):
        resource.free()
        resource.close()
    assert set(double.live()) == {"contexts", "streams"}
    for call in (
        lambda: buffer.address, lambda: pinned.array, lambda: pinned.device_address, lambda: mine.array,
        lambda: graph.launch(stream), lambda: event.record(stream), lambda: module.function("scale_add"),
        lambda: device.launch(function, (1,), (1,), [], stream),
        lambda: device.copy_to_device(buffer, np.zeros(1, np.uint8), stream),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="freed"):
            call()
    stream.close()
    with pytest.raises(ValueError, match="this stream has been freed"):
        stream.synchronize()


def test_what_another_thread_frees_is_gone_at_once(device: Device, double: CudaDouble, module: Module) -> None:
    module.function("scale_add")
    for resource in (device.stream(), device.event(), module, device.allocate(8), device.allocate_pinned((4,), "u1")):
        (thread := threading.Thread(target=resource.free)).start()
        thread.join()
    assert set(double.live()) == {"contexts"}


def test_two_threads_free_one_buffer_once(device: Device, double: CudaDouble) -> None:
    for _ in range(50):
        buffer = device.allocate(64)
        threads = [threading.Thread(target=buffer.free) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(double.live()) == {"contexts"}
