"""The one way to CUDA: a device, its memory, streams, kernels and graphs, on PyCUDA or on cuda-bindings.

Everything that a device makes lives until it is freed, or until the device is closed: dropping the last reference
frees nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pspnet.errors import PspnetError
from runtime.cuda_arguments import packed_arguments
from runtime.cuda_backend import Backend, backend_name, open_backend
from runtime.cuda_context import Context
from runtime.cuda_driver import NO_DEVICE, CudaError, CudaOutOfMemory, DriverFailure, driver_library
from runtime.cuda_graph import Graph, Mark, capture
from runtime.cuda_resources import DeviceBuffer, Event, Function, Module, PinnedArray, RegisteredArray, Stream

__all__ = [
    "CudaError", "CudaOutOfMemory", "Device", "DeviceBuffer", "Event", "Function", "Graph", "Mark", "Module",
    "PinnedArray", "RegisteredArray", "Stream", "backend_name", "device_count", "open_device",
]  # fmt: skip


def device_count() -> int:
    """How many GPUs CUDA sees, at least one; PspnetError as in `open_device`."""
    return _started()[1]


def open_device(index: int = 0) -> Device:
    """The GPU of that number, its primary context retained; close it, or leave its `with` block.

    PspnetError where there is no driver, no backend, no GPU or no such GPU, with the driver's text and what to install.
    """
    backend, count = _started()
    if not 0 <= index < count:
        raise PspnetError(f"there is no GPU {index}: this machine has {count}, numbered from 0. See nvidia-smi")
    try:
        return Device(backend, index)
    except DriverFailure as failure:
        raise CudaError(f"the GPU cannot be used: {failure.line()}") from None


def _started() -> tuple[Backend, int]:
    """The backend, ready, and the number of GPUs."""
    driver_library()
    backend = open_backend()
    try:
        backend.start()
        if count := backend.device_count():
            return backend, count
        raise DriverFailure("cuDeviceGetCount", NO_DEVICE)
    except DriverFailure as failure:
        raise CudaError(f"the GPU cannot be used: {failure.line()}") from None


class Device:
    """A GPU. Any thread may use it, several at once; TensorRT is called inside of `with device.current()`.

    compute_capability: (8, 7) for sm_87. integrated: it shares the CPU's memory, as on a Jetson. multiprocessors: how
    many it has. driver_version: the newest CUDA that the driver knows, "13.0". backend: the Python package in use.
    Every call raises CudaOutOfMemory, which says what was needed and is free, or CudaError with the driver's text.
    After an error that ends everything, such as an illegal address, the device is dead, and each later call says so.
    What is used after it was freed, and what cannot be right whatever the GPU, is a ValueError.
    """

    def __init__(self, backend: Backend, index: int) -> None:
        self.name, self.compute_capability, self.integrated, self.multiprocessors = backend.device_facts(index)
        version = backend.driver_version()
        self.driver_version = f"{version // 1000}.{version % 1000 // 10}"
        self.backend = backend.name
        self._context = Context(backend, index, self.name)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except PspnetError:
            if kind is None:  # otherwise the block's own error says more
                raise

    def close(self) -> None:
        """Wait for every stream; free graphs, modules, events, memory and streams, in this order; then the context."""
        self._context.close()

    @property
    def dead(self) -> bool:
        """Whether an error has ended everything on this device."""
        return bool(self._context.lost)

    def current(self) -> AbstractContextManager[None]:
        """The context for the `with` block, on the calling thread; may be nested."""
        return self._context.current()

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory."""
        return self._context.call(self._context.backend.memory_bytes)

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Memory of the GPU, of unknown content."""
        if nbytes <= 0:
            raise ValueError(f"a device buffer of {nbytes} bytes: it needs at least one")
        return DeviceBuffer(self._context, nbytes)

    def allocate_pinned(self, shape: Sequence[int], dtype: DTypeLike, mapped: bool = False) -> PinnedArray:
        """Page-locked host memory, of unknown content. mapped: the GPU reads and writes it in place, too."""
        if min(shape, default=1) <= 0:
            raise ValueError(f"a pinned array of shape {tuple(shape)}: each side must be at least 1")
        return PinnedArray(self._context, tuple(shape), np.dtype(dtype), mapped)

    def register(self, array: np.ndarray) -> RegisteredArray:
        """Page-lock and map memory that exists, such as shared memory; free it before that memory goes away.

        array: contiguous and writable.
        """
        if not (array.flags.c_contiguous and array.flags.writeable and array.nbytes):
            raise ValueError("only a contiguous, writable array that is not empty can be registered")
        return RegisteredArray(self._context, array)

    def stream(self) -> Stream:
        """A new stream, which does not wait for the default stream."""
        return Stream(self._context)

    def event(self) -> Event:
        """A new event, which keeps time."""
        return Event(self._context)

    def mark(self) -> Mark:
        """A new mark, an event that a graph can hold."""
        return Mark(self._context)

    def copy_to_device(self, target: DeviceBuffer | int, array: np.ndarray, stream: Stream) -> None:
        """Copy a contiguous array to a buffer or an address, in the stream's turn.

        The array must stay as it is until the stream has got there. Inside of a capture it must be pinned.
        """
        address = _checked_address(target, array)
        self._context.call(self._context.backend.copy_to_device, address, array, stream.native)

    def copy_to_host(self, array: np.ndarray, source: DeviceBuffer | int, stream: Stream) -> None:
        """Fill a contiguous, writable array from a buffer or an address, in the stream's turn.

        It holds the values once the stream has got there. Inside of a capture it must be pinned.
        """
        if not array.flags.writeable:
            raise ValueError("the array to copy to is not writable")
        address = _checked_address(source, array)
        self._context.call(self._context.backend.copy_to_host, array, address, stream.native)

    def load_module(self, cubin: bytes) -> Module:
        """Kernels that were compiled for this GPU, or PTX."""
        return Module(self._context, cubin)

    def launch(
        self, function: Function, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], stream: Stream,
        shared_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel in the stream's turn.

        grid: blocks along x, y, z; block: threads of each; missing sides are 1. arguments: as `packed_arguments` says:
        buffers and ints are addresses, numbers are numpy or ctypes scalars. shared_bytes: dynamic shared memory.
        """
        data, offsets = packed_arguments(arguments)
        self._context.call(
            self._context.backend.launch, function.native, _three(grid), _three(block), data, offsets, stream.native,
            shared_bytes,
        )  # fmt: skip

    def capture(self, stream: Stream) -> AbstractContextManager[Graph]:
        """Capture into a graph what this thread puts into the stream inside of the `with` block; nothing of it runs.

        The context is current in the block, and the graph can be launched after it. Run the work once before, outside:
        libraries allocate at their first run, which a capture cannot hold. Other threads may go on using the device.
        """
        return capture(self._context, stream)


def _three(sides: Sequence[int]) -> tuple[int, int, int]:
    if not 1 <= len(sides) <= 3:
        raise ValueError(f"a grid or block of {len(sides)} sides: it has one, two or three")
    x, y, z = (*(int(side) for side in sides), 1, 1, 1)[:3]
    return x, y, z


def _checked_address(place: DeviceBuffer | int, array: np.ndarray) -> int:
    """The address; ValueError where the array is not contiguous, or larger than the buffer."""
    if not array.flags.c_contiguous:
        raise ValueError("only a contiguous array can be copied: see numpy.ascontiguousarray")
    if isinstance(place, DeviceBuffer):
        if array.nbytes > place.nbytes:
            raise ValueError(f"the array has {array.nbytes} bytes, the device buffer {place.nbytes}")
        return place.address
    return operator.index(place)
