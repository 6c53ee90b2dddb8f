"""CUDA through PyCUDA, which is built from source against the CUDA of the machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.cuda_backend import MAPPED, NON_BLOCKING
from runtime.cuda_driver import DriverFailure, code_from_description, driver_call, error_text


class PycudaBackend:
    """The calls of `Backend` on `pycuda.driver`. A native value is PyCUDA's object: copies and launches insist on it.

    PyCUDA destroys a stream, an event or a module with the last reference to it. So these are in a list of one, which
    is emptied while the context is current: without it PyCUDA would leak them on any but the first thread.
    """

    name = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver = driver

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._failures():
            return function(*arguments, **options)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """PyCUDA's exceptions as DriverFailure. Their text is the call, "failed:", the driver's description."""
        try:
            yield
        except self._driver.Error as error:
            call, _, rest = str(error).partition(" failed: ")
            description, _, more = rest.partition(" - ")
            code = code_from_description(description)
            known = error_text(code) if description in error_text(code) else description
            raise DriverFailure(call, code, " ".join(f"{known} {more}".split())) from None

    def start(self) -> None:
        self._call(self._driver.init)

    def device_count(self) -> int:
        return self._call(self._driver.Device.count)

    def driver_version(self) -> int:
        return self._call(self._driver.get_driver_version)

    def device_facts(self, index: int) -> tuple[str, tuple[int, int], bool, int]:
        device = self._call(self._driver.Device, index)
        names = self._driver.device_attribute
        integrated = self._call(device.get_attribute, names.INTEGRATED)
        multiprocessors = self._call(device.get_attribute, names.MULTIPROCESSOR_COUNT)
        return self._call(device.name), self._call(device.compute_capability), bool(integrated), multiprocessors

    def retain_context(self, index: int) -> Any:
        return self._call(self._call(self._driver.Device, index).retain_primary_context)

    def release_context(self, context: Any) -> None:
        # detach() does nothing on a thread that did not retain the context, unless the context is current there; and
        # afterwards the driver still has it as current, which PyCUDA has forgotten.
        self._call(context.push)
        self._call(context.detach)
        driver_call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def abandon(self, native: Any) -> None:
        # PyCUDA's destructors end the process where the driver refuses them, so one reference too many is taken.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))

    def push(self, context: Any) -> None:
        self._call(context.push)

    def pop(self) -> None:
        try:
            self._call(self._driver.Context.pop)
        except DriverFailure:
            # PyCUDA ends the process with a thread on whose stack a context is left. It drops invalid ones from there.
            if context := self._driver.Context.get_current():
                context.detach()
                self._driver.Context.get_current()
            raise

    def memory_bytes(self) -> tuple[int, int]:
        return self._call(self._driver.mem_get_info)

    def allocate(self, nbytes: int) -> Any:
        return self._call(self._driver.mem_alloc, nbytes)

    def address(self, memory: Any) -> int:
        return int(memory)

    def free(self, memory: Any) -> None:
        self._call(memory.free)

    def allocate_host(self, nbytes: int, flags: int) -> tuple[Any, np.ndarray]:
        array = self._call(self._driver.pagelocked_empty, nbytes, np.uint8, mem_flags=flags)
        return array.base, array

    def free_host(self, memory: Any) -> None:
        self._call(memory.free)

    def register(self, array: np.ndarray) -> int:
        # PyCUDA 2026.1 crashes here: it sets the base of an array that has one.
        pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        driver_call("cuMemHostRegister_v2", pointer, size, ctypes.c_uint(MAPPED))
        return array.ctypes.data

    def unregister(self, memory: int) -> None:
        driver_call("cuMemHostUnregister", ctypes.c_void_p(memory))

    def mapped_address(self, memory: Any) -> int:
        if not isinstance(memory, int):
            return int(self._call(memory.get_device_pointer))
        address = ctypes.c_uint64()
        driver_call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), ctypes.c_void_p(memory), ctypes.c_uint(0))
        return address.value

    def create_stream(self) -> list[Any]:
        return [self._call(self._driver.Stream, NON_BLOCKING)]

    def stream_handle(self, stream: list[Any]) -> int:
        return stream[0].handle

    def synchronize_stream(self, stream: list[Any]) -> None:
        self._call(stream[0].synchronize)

    def destroy_stream(self, stream: list[Any]) -> None:
        stream.clear()

    def create_event(self) -> list[Any]:
        return [self._call(self._driver.Event)]

    def record(self, event: list[Any], stream: list[Any]) -> None:
        self._call(event[0].record, stream[0])

    def synchronize_event(self, event: list[Any]) -> None:
        self._call(event[0].synchronize)

    def elapsed_ms(self, earlier: list[Any], later: list[Any]) -> float:
        return self._call(later[0].time_since, earlier[0])

    def destroy_event(self, event: list[Any]) -> None:
        event.clear()

    def copy_to_device(self, address: int, array: np.ndarray, stream: list[Any]) -> None:
        self._call(self._driver.memcpy_htod_async, address, array, stream[0])

    def copy_to_host(self, array: np.ndarray, address: int, stream: list[Any]) -> None:
        self._call(self._driver.memcpy_dtoh_async, array, address, stream[0])

    def load_module(self, image: bytes) -> list[Any]:
        return [self._call(self._driver.module_from_buffer, image)]

    def function(self, module: list[Any], name: str) -> Any:
        return self._call(module[0].get_function, name)

    def unload_module(self, module: list[Any]) -> None:
        module.clear()

    def launch(
        self, function: Any, grid: tuple[int, int, int], block: tuple[int, int, int], data: bytes,
        offsets: Sequence[int], stream: list[Any], shared_bytes: int,
    ) -> None:  # fmt: skip
        arguments = (data,) if data else ()
        function.prepare([f"{len(data)}s"] if data else [])
        self._call(function.prepared_async_call, grid, block, stream[0], *arguments, shared_size=shared_bytes)
