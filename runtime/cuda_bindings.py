"""CUDA through NVIDIA's cuda-bindings, which has wheels for desktops and Jetsons."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.cuda_backend import INTEGRATED, MAPPED, NON_BLOCKING
from runtime.cuda_driver import NOT_FOUND, TOO_OLD, DriverFailure

NAME_BYTES = 256


class BindingsBackend:
    """The calls of `Backend` on `cuda.bindings.driver`, 12 and 13. Streams, events and memory are integers here."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a driver function gives: None, one value, or a tuple of several."""
        try:
            code, *results = getattr(self._driver, name)(*arguments)
        except RuntimeError:  # of cuda-bindings, which has not found the function
            raise DriverFailure(name, NOT_FOUND, TOO_OLD) from None
        if int(code):
            raise DriverFailure(name, int(code))
        return tuple(results) if len(results) > 1 else results[0] if results else None

    def start(self) -> None:
        self._call("cuInit", 0)

    def device_count(self) -> int:
        return self._call("cuDeviceGetCount")

    def driver_version(self) -> int:
        return self._call("cuDriverGetVersion")

    def device_facts(self, index: int) -> tuple[str, tuple[int, int], bool, int]:
        device = self._call("cuDeviceGet", index)
        name = self._call("cuDeviceGetName", NAME_BYTES, device).split(b"\0")[0].decode()
        attributes = self._driver.CUdevice_attribute
        major, minor, integrated, multiprocessors = (
            self._call("cuDeviceGetAttribute", attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                attributes(INTEGRATED),
                attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        return name, (major, minor), bool(integrated), multiprocessors

    def retain_context(self, index: int) -> Any:
        device = self._call("cuDeviceGet", index)
        return device, self._call("cuDevicePrimaryCtxRetain", device)

    def release_context(self, context: Any) -> None:
        self._call("cuDevicePrimaryCtxRelease", context[0])

    def abandon(self, native: Any) -> None:
        """Nothing to do: dropping an integer destroys nothing."""

    def push(self, context: Any) -> None:
        self._call("cuCtxPushCurrent", context[1])

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def memory_bytes(self) -> tuple[int, int]:
        return self._call("cuMemGetInfo")

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def address(self, memory: int) -> int:
        return memory

    def free(self, memory: int) -> None:
        self._call("cuMemFree", memory)

    def allocate_host(self, nbytes: int, flags: int) -> tuple[int, np.ndarray]:
        pointer = int(self._call("cuMemHostAlloc", nbytes, flags))
        return pointer, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))

    def free_host(self, memory: int) -> None:
        self._call("cuMemFreeHost", memory)

    def register(self, array: np.ndarray) -> int:
        self._call("cuMemHostRegister", array.ctypes.data, array.nbytes, MAPPED)
        return array.ctypes.data

    def unregister(self, memory: int) -> None:
        self._call("cuMemHostUnregister", memory)

    def mapped_address(self, memory: int) -> int:
        return int(self._call("cuMemHostGetDevicePointer", memory, 0))

    def create_stream(self) -> int:
        return int(self._call("cuStreamCreate", NON_BLOCKING))

    def stream_handle(self, stream: int) -> int:
        return stream

    def synchronize_stream(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def create_event(self) -> int:
        return int(self._call("cuEventCreate", 0))

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def synchronize_event(self, event: int) -> None:
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, earlier: int, later: int) -> float:
        return float(self._call("cuEventElapsedTime", earlier, later))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def copy_to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def copy_to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def load_module(self, image: bytes) -> Any:
        return self._call("cuModuleLoadData", image)

    def function(self, module: Any, name: str) -> Any:
        return self._call("cuModuleGetFunction", module, name.encode())

    def unload_module(self, module: Any) -> None:
        self._call("cuModuleUnload", module)

    def launch(
        self, function: Any, grid: tuple[int, int, int], block: tuple[int, int, int], data: bytes,
        offsets: Sequence[int], stream: int, shared_bytes: int,
    ) -> None:  # fmt: skip
        values = ctypes.create_string_buffer(data, max(len(data), 1))
        start = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * max(len(offsets), 1))(*(start + offset for offset in offsets))
        self._call("cuLaunchKernel", function, *grid, *block, shared_bytes, stream, ctypes.addressof(pointers), 0)
