"""The CUDA driver's own library: the words it has for its errors, and which of them end everything."""

from __future__ import annotations

import ctypes
import functools

from pspnet.errors import PspnetError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY, NO_DEVICE, NOT_FOUND, UNKNOWN = 2, 100, 500, 999
TOO_OLD = "this NVIDIA driver is too old to have it"
STICKY = {4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911}
"""Codes after which every call in the process gets the same answer (cuda.h: "must be terminated and relaunched")."""

ADVICE = {
    NO_DEVICE: "See nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all (Jetson: --runtime "
    "nvidia)",
    34: "Leave CUDA's stub libraries out of LD_LIBRARY_PATH",
    35: "Install a newer NVIDIA driver, or a cuda-bindings of the driver's major version",
    200: "Compile the kernel again: its file is damaged",
    209: "Compile the kernel for this GPU",
    218: "Compile the kernel again: its file is damaged",
    222: "Compile the kernel to a cubin, or install a newer NVIDIA driver",
    803: "Restart the machine: its driver was updated while it ran",
    900: "Leave allocations, waits and copies of pageable memory out of a capture",
    901: "Leave allocations, waits and copies of pageable memory out of a capture",
    906: "Leave allocations, waits and copies of pageable memory out of a capture",
    UNKNOWN: "See nvidia-smi; loading the kernel module nvidia_uvm (nvidia-modprobe -u) often helps",
}
"""What to do about errors whose text does not say it."""


class CudaError(PspnetError):
    """A CUDA call failed: its name and the driver's own text."""


class CudaOutOfMemory(PspnetError):
    """Memory ran out. needed_bytes and free_bytes are None where they are not known."""

    def __init__(self, message: str, needed_bytes: int | None, free_bytes: int | None) -> None:
        super().__init__(message)
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes


class DriverFailure(Exception):
    """What a backend raises: a call and the driver's code for its failure. It stays inside the cuda modules."""

    def __init__(self, call: str, code: int, text: str = "") -> None:
        super().__init__(f"{call} failed: {text or error_text(code)}")
        self.call, self.code = call, code

    def line(self) -> str:
        """The failure, and what to do about it where we know."""
        return f"{self}. {ADVICE[self.code]}" if self.code in ADVICE else str(self)


def driver_library() -> ctypes.CDLL:
    """The driver's library; PspnetError where this machine has none."""
    try:
        return _loaded(LIBRARY)
    except OSError as error:
        raise PspnetError(
            f"there is no NVIDIA driver here ({error}). On a Jetson it comes with JetPack: apt-get install "
            "nvidia-jetpack; on a desktop install it from nvidia.com/drivers or with ubuntu-drivers install; in a "
            "container start it with --gpus all (Jetson: --runtime nvidia)"
        ) from None


@functools.cache
def _loaded(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library)


def driver_call(name: str, *arguments: object) -> None:
    """Call the driver through ctypes. arguments: ctypes values; DriverFailure where it fails."""
    try:
        function = getattr(driver_library(), name)
    except AttributeError:
        raise DriverFailure(name, NOT_FOUND, TOO_OLD) from None
    if code := function(*arguments):
        raise DriverFailure(name, code)


def error_text(code: int) -> str:
    """The driver's name and description of a code: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access ...)."""
    name, description = _said("cuGetErrorName", code), _said("cuGetErrorString", code)
    return f"{name} ({description})" if name else f"error {code}, which this NVIDIA driver does not know"


def code_from_description(description: str) -> int:
    """The code that the driver describes so: PyCUDA's exceptions carry the words only. UNKNOWN where none is."""
    return _codes().get(description, UNKNOWN)


@functools.cache
def _codes() -> dict[str, int]:
    return {text: code for code in reversed(range(1, 1000)) if (text := _said("cuGetErrorString", code))}


def _said(function: str, code: int) -> str:
    text = ctypes.c_char_p()
    failed = getattr(driver_library(), function)(ctypes.c_int(code), ctypes.byref(text))
    return "" if failed or not text.value else text.value.decode(errors="replace")
