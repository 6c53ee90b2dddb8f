"""What lives on a GPU: memory, streams, events and modules."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.cuda_backend import MAPPED
from runtime.cuda_context import Context, Resource


class DeviceBuffer(Resource):
    """Memory of the GPU. address: aligned to 256 bytes, as TensorRT wants it."""

    order, kind = 3, "device buffer"

    def __init__(self, context: Context, nbytes: int) -> None:
        backend = context.backend
        self.nbytes = nbytes
        super().__init__(context, context.call(backend.allocate, nbytes, needed_bytes=nbytes), backend.free)

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._context.backend.address(self.native)

    device_address = address


class PinnedArray(Resource):
    """Page-locked host memory as an array, which copies need to run beside other work.

    Free it when no stream uses it any more; views of `array` must not be used afterwards.
    """

    order, kind = 3, "pinned array"

    def __init__(self, context: Context, shape: tuple[int, ...], dtype: np.dtype, mapped: bool) -> None:
        backend, nbytes = context.backend, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        flags = MAPPED if mapped else 0
        native, memory = context.call(backend.allocate_host, nbytes, flags, needed_bytes=nbytes, of_host=True)
        super().__init__(context, native, backend.free_host)
        self._array = memory.view(dtype).reshape(shape)
        self._address = context.call(backend.mapped_address, native) if mapped else None

    @property
    def array(self) -> np.ndarray:
        """The memory, valid until free()."""
        _ = self.native
        return self._array

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    @property
    def device_address(self) -> int:
        """Where the GPU sees the same memory; ValueError where it is not mapped."""
        _ = self.native
        if self._address is None:
            raise ValueError("this pinned array is not mapped: allocate it with mapped=True")
        return self._address


class RegisteredArray(PinnedArray):
    """Memory of somebody else, page-locked and mapped in place; free() takes both back and leaves the memory."""

    kind = "registered array"

    def __init__(self, context: Context, array: np.ndarray) -> None:
        backend = context.backend
        native = context.call(backend.register, array, needed_bytes=array.nbytes, of_host=True)
        Resource.__init__(self, context, native, backend.unregister)
        self._array, self._address = array, context.call(backend.mapped_address, native)


class Stream(Resource):
    """A queue of work that does not wait for the default stream."""

    order, kind = 4, "stream"

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.call(context.backend.create_stream), context.backend.destroy_stream)

    @property
    def handle(self) -> int:
        """The CUstream, which TensorRT takes as `stream_handle`."""
        return self._context.backend.stream_handle(self.native)

    def synchronize(self) -> None:
        """Wait until everything in it is done; errors of that work show here."""
        self._context.call(self._context.backend.synchronize_stream, self.native)

    finish = synchronize


class Event(Resource):
    """A moment in a stream."""

    order, kind = 2, "event"

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.call(context.backend.create_event), context.backend.destroy_event)

    def record(self, stream: Stream) -> None:
        """Let the moment be when the stream has done everything that is in it now."""
        self._context.call(self._context.backend.record, self.native, stream.native)

    def synchronize(self) -> None:
        """Wait for the moment."""
        self._context.call(self._context.backend.synchronize_event, self.native)

    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds from `earlier`, both recorded and reached."""
        return self._context.call(self._context.backend.elapsed_ms, earlier.native, self.native)


class Function:
    """A kernel of a module, for `Device.launch`."""

    def __init__(self, module: Module, name: str, native: Any) -> None:
        self.name, self._module, self._native = name, module, native

    @property
    def native(self) -> Any:
        """What the backend knows it by; ValueError once its module has been freed."""
        _ = self._module.native
        return self._native

    def release(self) -> None:
        """Let go of what keeps the module loaded."""
        self._native = None


class Module(Resource):
    """A loaded cubin."""

    order, kind = 1, "module"

    def __init__(self, context: Context, image: bytes) -> None:
        backend = context.backend
        self._functions: dict[str, Function] = {}
        native = context.call(backend.load_module, image, needed_bytes=len(image))
        super().__init__(context, native, self._unload)

    def function(self, name: str) -> Function:
        """The kernel of that name (as in the cubin: extern "C", or mangled)."""
        if name not in self._functions:
            native = self._context.call(self._context.backend.function, self.native, name)
            self._functions[name] = Function(self, name, native)
        return self._functions[name]

    def _unload(self, native: Any) -> None:
        for function in self._functions.values():
            function.release()
        self._functions.clear()
        self._context.backend.unload_module(native)
