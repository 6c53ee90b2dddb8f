"""The GPU that the double stands on: the driver double's, where `tests/doubles/cuda_driver` is loaded."""

from __future__ import annotations

import ctypes
import math
import os

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def driver() -> ctypes.CDLL | None:
    """The driver double of this process; None without one, also where a true driver is loaded."""
    try:
        library = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None
    return library if hasattr(library, "double_live") else None


class DeviceMemory:
    """Memory of the driver double, which what TensorRT holds takes away from others.

    `taken` is False where there is not so much left; nothing is taken without a driver double or a current context.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes, self.address, self.taken = size_bytes, 0, True
        library, context, address = driver(), ctypes.c_void_p(), ctypes.c_uint64()
        if library is None or size_bytes == 0:
            return
        library.cuCtxGetCurrent(ctypes.byref(context))
        if context.value:
            self.taken = library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size_bytes)) == 0
            self.address = address.value

    def free(self) -> None:
        """Give it back; harmless a second time."""
        address, self.address = self.address, 0
        library, context = driver(), ctypes.c_void_p()
        if library is None or not address or library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0:
            return
        start, size = ctypes.c_uint64(), ctypes.c_size_t()
        library.cuCtxPushCurrent_v2(context)
        found = library.cuMemGetAddressRange_v2(ctypes.byref(start), ctypes.byref(size), ctypes.c_uint64(address))
        # After a reset of the double, another's allocation may lie there.
        if (found, start.value, size.value) == (0, address, self.size_bytes):
            library.cuMemFree_v2(ctypes.c_uint64(address))
        library.cuCtxPopCurrent_v2(ctypes.byref(context))
        library.cuDevicePrimaryCtxRelease_v2(0)


def free_bytes() -> float:
    """Memory that is left on the device; infinite where there is no driver double, or no current context."""
    library, free, total = driver(), ctypes.c_size_t(), ctypes.c_size_t()
    if library is None or library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
        return math.inf
    return free.value


def device_identity() -> dict[str, str]:
    """GPU name and compute capability ("8.7") of device 0; those of the driver double's defaults without a driver."""
    library = driver()
    if library is None or library.cuInit(0) != 0:
        return {"gpu": "CPU double", "compute_capability": "8.7"}
    name, numbers = ctypes.create_string_buffer(256), []
    library.cuDeviceGetName(name, 256, 0)
    for kind in (MAJOR, MINOR):
        number = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(number), kind, 0)
        numbers.append(str(number.value))
    return {"gpu": name.value.decode(), "compute_capability": ".".join(numbers)}
