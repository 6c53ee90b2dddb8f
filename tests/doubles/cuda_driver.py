"""A libcuda.so.1 on the CPU: compiles tests/doubles/cuda_driver once, loads it, and tells it what a test needs.

Once it is loaded, everything in the process that asks for libcuda.so.1 gets it, cuda-bindings and PyCUDA among them,
since the loader goes by that name. `library_folder()` in LD_LIBRARY_PATH does the same for a subprocess.

The environment says what the device claims to be: CUDA_DOUBLE_NAME ("CPU double"), CUDA_DOUBLE_COMPUTE_CAPABILITY
("8.7"), CUDA_DOUBLE_INTEGRATED (1), CUDA_DOUBLE_MEMORY_BYTES (8 GiB), CUDA_DOUBLE_DRIVER_VERSION (13000 for CUDA 13.0)
and CUDA_DOUBLE_DEVICES (1).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("cuda_driver")
LIBRARY = "libcuda.so.1"
FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")
KERNEL_FLAGS = ("-std=c++17", "-O2", "-Wall", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-shared")
COUNTS = (
    "allocations", "pinned", "registered", "bytes", "contexts", "streams", "events", "graphs", "graph_execs", "modules",
)  # fmt: skip


class CudaDouble:
    """The loaded driver double. `library` is its ctypes.CDLL, with every cu* function that it has."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library
        library.double_live.restype = ctypes.c_long
        library.double_set_memory_bytes.argtypes = [ctypes.c_uint64]
        library.double_fail_call.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long]

    def reset(self) -> None:
        """A new device: contexts, memory and errors are gone, limits and modes are as at first."""
        self.library.double_reset()

    def set_memory_bytes(self, size_bytes: int) -> None:
        """The size of the device's memory; what is in use stays."""
        self.library.double_set_memory_bytes(size_bytes)

    def set_deferred(self, on: bool) -> None:
        """Whether work on a stream waits until something waits for it, instead of being done at once."""
        self.library.double_set_deferred(int(on))

    def break_device(self, error: int = 700) -> None:
        """A sticky error: every call that needs a context answers it from now on. 700 is an illegal address."""
        self.library.double_break(error)

    def fail_call(self, call: str, error: int, after: int = 0) -> None:
        """The driver function of this name ("cuMemAlloc_v2") answers `error` once, after `after` calls that work."""
        self.library.double_fail_call(call.encode(), error, after)

    def live(self) -> dict[str, int]:
        """What there is and is not zero, by the words of COUNTS. A primary context counts once for each retain."""
        counts = {what: self.library.double_live(what.encode()) for what in COUNTS}
        return {what: count for what, count in counts.items() if count}


def reason_unavailable() -> str | None:
    """Why the double cannot be loaded in this process; None where it can."""
    if platform.system() != "Linux":
        return "the CUDA driver double is for Linux"
    if shutil.which("gcc") is None:
        return "no gcc to compile the CUDA driver double with"
    loaded = loaded_driver()
    if loaded is not None and not hasattr(loaded, "double_reset"):
        return "the real CUDA driver is loaded in this process"
    return None


def loaded_driver() -> ctypes.CDLL | None:
    """The libcuda.so.1 that this process has already."""
    try:
        return ctypes.CDLL(LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def load() -> CudaDouble:
    """The double, compiled where its sources changed and loaded for the whole process."""
    reason = reason_unavailable()
    if reason is not None:
        raise RuntimeError(reason)
    return CudaDouble(loaded_driver() or ctypes.CDLL(str(library_folder() / LIBRARY), mode=ctypes.RTLD_GLOBAL))


def library_folder() -> Path:
    """The folder of the compiled libcuda.so.1, with a libcuda.so for linkers beside it."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sources:
        digest.update(path.read_bytes())
    folder = cache_folder() / digest.hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            units = [str(path) for path in sources if path.suffix == ".c"]
            compiled = ["gcc", *FLAGS, f"-Wl,-soname,{LIBRARY}", "-o", str(new / LIBRARY), *units, "-ldl"]
            subprocess.run(compiled, check=True)
            (new / "libcuda.so").symlink_to(LIBRARY)
            if not folder.exists():
                new.rename(folder)
    return folder


def cache_folder() -> Path:
    """Where compiled doubles are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pspnet-edge", "cuda-driver-double")


def kernel_library(source: str, folder: Path) -> bytes:
    """A "cubin" for the double: CUDA C++ compiled by g++ with kernel_shim.h.

    source: kernels, each followed by DOUBLE_KERNEL(name). folder: for the compiler's files.
    """
    unit, library = folder / "kernels.cpp", folder / "kernels.so"
    unit.write_text(f'#include "kernel_shim.h"\n{source}', encoding="utf-8")
    subprocess.run(["g++", *KERNEL_FLAGS, f"-I{SOURCES}", "-o", str(library), str(unit)], check=True)
    return library.read_bytes()
