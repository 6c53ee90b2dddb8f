"""What any CUDA device must do, on a GPU as on the double: each check takes an open device."""

from __future__ import annotations

import threading
from importlib.util import find_spec

import numpy as np
import pytest

from runtime.cuda import CudaError, CudaOutOfMemory, Device, Module

INSTALLED = [
    pytest.param(name, marks=() if find_spec(module) else pytest.mark.skip(reason=f"{name} is not installed"))
    for name, module in (("pycuda", "pycuda"), ("cuda-bindings", "cuda"))
]
LAUNCH_FAILED = 719
"""A sticky error."""

SCALE_ADD = """
struct Shift { signed char sign; double amount; };
extern "C" {
__global__ void scale_add(const float *in, float *out, unsigned char count, float factor, short offset, Shift shift)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = in[i] * factor + offset + shift.sign * shift.amount;
}
}
"""
"""Arguments of 8, 8, 1, 4, 2 and 16 bytes: wrong alignment moves every later one."""
SHIFT = np.dtype([("sign", np.int8), ("amount", np.float64)], align=True)
ALIGNMENT = 256  # bytes: TensorRT refuses other addresses


def random_array(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Seeded values 0 to 255 of any dtype."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def copied(device: Device, array: np.ndarray) -> np.ndarray:
    """The array by way of the device, through pinned memory on both sides."""
    stream, buffer = device.stream(), device.allocate(array.nbytes)
    there, back = (device.allocate_pinned(array.shape, array.dtype) for _ in range(2))
    there.array[...] = array
    back.array[...] = 0
    device.copy_to_device(buffer, there.array, stream)
    device.copy_to_host(back.array, buffer, stream)
    stream.synchronize()
    result = back.array.copy()
    for resource in (back, there, buffer, stream):
        resource.free()
    return result


def check_copies(device: Device) -> None:
    """Every type comes back as it was; part of a buffer is reached by its address; addresses are aligned."""
    for dtype in ("uint8", "float16", "float32", "int64", "bool"):
        array = random_array((3, 5, 7), dtype)
        np.testing.assert_array_equal(copied(device, array), array)
    values, stream, buffer = random_array((64,)), device.stream(), device.allocate(64)
    assert buffer.address % ALIGNMENT == 0 and buffer.nbytes == 64
    pinned = device.allocate_pinned((64,), np.uint8)
    pinned.array[:] = values
    device.copy_to_device(buffer, pinned.array, stream)
    device.copy_to_device(buffer.address + 10, pinned.array[:5], stream)
    result = np.zeros(64, np.uint8)
    device.copy_to_host(result, buffer.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, np.concatenate([values[:10], values[:5], values[15:]]))


def check_kernel(device: Device, module: Module) -> None:
    """A kernel sees each argument as C does: buffers, small numbers between large ones, a structure."""
    values, stream = random_array((200,), "float32"), device.stream()
    given, made = device.allocate(values.nbytes), device.allocate(values.nbytes)
    device.copy_to_device(given, values, stream)
    shift = np.array((-1, 0.125), SHIFT)[()]
    arguments = [given, made.address, np.uint8(200), np.float32(0.5), np.int16(-3), shift]
    device.launch(module.function("scale_add"), (2,), (128, 1), arguments, stream)
    result = np.zeros_like(values)
    device.copy_to_host(result, made, stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, values * np.float32(0.5) - 3 - np.float32(0.125))  # exact in float32


def check_mapped_memory(device: Device) -> None:
    """Mapped and registered host memory is the same memory on both sides."""
    stream, mine = device.stream(), random_array((32,), seed=1)
    mapped, registered = device.allocate_pinned((4, 8), np.uint8, mapped=True), device.register(mine)
    device.copy_to_device(mapped.device_address, registered.array, stream)
    result = np.zeros(32, np.uint8)
    device.copy_to_host(result, registered.device_address, stream)
    stream.synchronize()
    assert registered.array is mine
    np.testing.assert_array_equal(mapped.array.ravel(), mine)
    np.testing.assert_array_equal(result, mine)
    registered.free()
    mapped.free()
    device.register(mine).free()  # which a memory that is still registered would refuse


def check_capture(device: Device, module: Module) -> None:
    """Captured work runs at each launch and not before, on what its addresses hold then."""
    stream, start, end = device.stream(), device.event(), device.event()
    pinned, result = (device.allocate_pinned((100,), np.float32) for _ in range(2))
    given, made = device.allocate(400), device.allocate(400)
    result.array[:] = -1
    shift = np.array((0, 0), SHIFT)[()]
    with device.capture(stream) as graph:
        device.copy_to_device(given, pinned.array, stream)
        arguments = [given, made, np.uint8(100), np.float32(2), np.int16(1), shift]
        device.launch(module.function("scale_add"), (1,), (128,), arguments, stream)
        device.copy_to_host(result.array, made, stream)
    stream.synchronize()
    assert (result.array == -1).all()
    for value in (3, 4):
        pinned.array[:] = value
        start.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        assert (result.array == 2 * value + 1).all() and end.elapsed_ms(start) >= 0
    graph.close()


def check_failed_captures(device: Device) -> None:
    """A capture that fails leaves no graph, and a stream that works."""
    stream, buffer = device.stream(), device.allocate(16)
    pinned = device.allocate_pinned((16,), np.uint8)
    with pytest.raises(ZeroDivisionError), device.capture(stream) as graph:
        device.copy_to_device(buffer, pinned.array, stream)
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="no finished capture"):
        graph.launch(stream)
    with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE"), device.capture(stream):
        stream.synchronize()
    pinned.array[:] = 7
    device.copy_to_device(buffer, pinned.array, stream)
    pinned.array[:] = 0
    device.copy_to_host(pinned.array, buffer, stream)
    stream.synchronize()


def check_threads(device: Device) -> None:
    """Two threads copy at the same time, one of them while this one captures; none leaves a context behind."""
    wrong: list[object] = []
    started, may_end = threading.Event(), threading.Event()

    def work(seed: int) -> None:
        for turn in range(20):
            array = random_array((64, 64), seed=100 * seed + turn)
            try:
                if not np.array_equal(copied(device, array), array):
                    wrong.append((seed, turn))
            except BaseException as error:
                wrong.append(error)
            started.set()
        may_end.set()

    stream, pinned, buffer = device.stream(), device.allocate_pinned((8,), np.uint8), device.allocate(8)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    with device.capture(stream) as graph:
        for thread in threads:
            thread.start()
        assert started.wait(30) and may_end.wait(60)
        device.copy_to_device(buffer, pinned.array, stream)
    for thread in threads:
        thread.join()
    graph.launch(stream)
    stream.synchronize()
    assert not wrong


def check_out_of_memory(device: Device) -> None:
    """More than there is: the message has what was needed and what is free, and the device goes on working."""
    free, total = device.memory_bytes()
    assert 0 < free <= total
    with pytest.raises(CudaOutOfMemory) as caught:
        device.allocate(2 * total)
    assert caught.value.needed_bytes == 2 * total and 0 < (caught.value.free_bytes or 0) <= total
    needed_mib = f"{2 * total / 2**20:,.1f} MiB needed"
    assert needed_mib in str(caught.value) and "MiB free" in str(caught.value) and device.name in str(caught.value)
    assert "\n" not in str(caught.value) and not device.dead
    device.allocate(256).free()
