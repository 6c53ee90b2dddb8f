"""What a CUDA backend offers, and the choice of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pspnet.errors import PspnetError

BACKENDS = ("pycuda", "cuda-bindings")
VARIABLE = "PSPNET_CUDA_BACKEND"
INSTALL = {
    "pycuda": "pip install 'pspnet-edge[pycuda]', which compiles: it needs g++ and the CUDA toolkit (on a Jetson "
    "apt-get install nvidia-jetpack, on a desktop nvidia.com/cuda-downloads)",
    "cuda-bindings": "pip install cuda-bindings, on a Jetson with JetPack 6 and wherever the driver has CUDA 12 pip "
    "install 'cuda-bindings<13'",
}
MAPPED, NON_BLOCKING, INTEGRATED = 2, 1, 18
"""Numbers of cuda.h: CU_MEMHOSTALLOC_DEVICEMAP and its twin for registering, CU_STREAM_NON_BLOCKING, an attribute."""


class Backend(Protocol):
    """A Python package for the CUDA driver. Every method raises DriverFailure where the driver refuses.

    native: whatever the package stands for a context, a piece of memory, a stream ... with; each goes back into the
    methods of the same backend only. From `allocate` on, the context must be current on the calling thread.
    """

    name: str

    def start(self) -> None: ...

    def device_count(self) -> int: ...

    def driver_version(self) -> int:
        """1000 times the major version of CUDA, and 10 times the minor: 12060."""
        ...

    def device_facts(self, index: int) -> tuple[str, tuple[int, int], bool, int]:
        """Name, compute capability, whether the GPU shares the CPU's memory, and its multiprocessors."""
        ...

    def retain_context(self, index: int) -> Any:
        """The GPU's primary context."""
        ...

    def release_context(self, context: Any) -> None:
        """Give the primary context back; it must not be current on any thread."""
        ...

    def abandon(self, native: Any) -> None:
        """Leave anything as it is, for good: the driver would refuse to destroy what is on a lost GPU."""
        ...

    def push(self, context: Any) -> None: ...

    def pop(self) -> None: ...

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU."""
        ...

    def allocate(self, nbytes: int) -> Any: ...

    def address(self, memory: Any) -> int: ...

    def free(self, memory: Any) -> None: ...

    def allocate_host(self, nbytes: int, flags: int) -> tuple[Any, np.ndarray]:
        """Page-locked memory and an array (nbytes,) uint8 over it."""
        ...

    def free_host(self, memory: Any) -> None: ...

    def register(self, array: np.ndarray) -> Any:
        """Page-lock and map the memory of a contiguous array."""
        ...

    def unregister(self, memory: Any) -> None: ...

    def mapped_address(self, memory: Any) -> int:
        """Where the GPU sees mapped or registered host memory."""
        ...

    def create_stream(self) -> Any: ...

    def stream_handle(self, stream: Any) -> int: ...

    def synchronize_stream(self, stream: Any) -> None: ...

    def destroy_stream(self, stream: Any) -> None: ...

    def create_event(self) -> Any: ...

    def record(self, event: Any, stream: Any) -> None: ...

    def synchronize_event(self, event: Any) -> None: ...

    def elapsed_ms(self, earlier: Any, later: Any) -> float: ...

    def destroy_event(self, event: Any) -> None: ...

    def copy_to_device(self, address: int, array: np.ndarray, stream: Any) -> None: ...

    def copy_to_host(self, array: np.ndarray, address: int, stream: Any) -> None: ...

    def load_module(self, image: bytes) -> Any: ...

    def function(self, module: Any, name: str) -> Any: ...

    def unload_module(self, module: Any) -> None: ...

    def launch(
        self, function: Any, grid: tuple[int, int, int], block: tuple[int, int, int], data: bytes,
        offsets: Sequence[int], stream: Any, shared_bytes: int,
    ) -> None:  # fmt: skip
        """data: the arguments packed as in C; offsets: where each begins."""
        ...


def backend_name() -> str | None:
    """ "pycuda" or "cuda-bindings": what `open_device` works with; None where neither can be imported.

    PyCUDA comes first where both can. The environment variable PSPNET_CUDA_BACKEND chooses one; PspnetError where it
    names no backend.
    """
    backend, _ = _found()
    return backend.name if backend else None


def open_backend() -> Backend:
    """The backend that `backend_name` names; PspnetError that says how to install one where there is none."""
    backend, reasons = _found()
    if backend:
        return backend
    advice = "; or ".join(INSTALL[name] for name in reversed(_allowed()))
    raise PspnetError(f"CUDA needs a Python package, and {' and '.join(reasons)}. Install one: {advice}")


def backend_failures() -> dict[str, str]:
    """Each backend that may be chosen -> why it cannot be imported, or "" where it can."""
    return {name: _imported(name)[1] for name in _allowed()}


def _allowed() -> tuple[str, ...]:
    chosen = os.environ.get(VARIABLE)
    if chosen and chosen not in BACKENDS:
        raise PspnetError(f"{VARIABLE} is {chosen!r}: set it to {' or '.join(BACKENDS)}, or unset it")
    return (chosen,) if chosen else BACKENDS


def _found() -> tuple[Backend | None, list[str]]:
    """The first backend that can be imported, and why those before it cannot."""
    reasons: list[str] = []
    for name in _allowed():
        backend, reason = _imported(name)
        if backend:
            return backend, reasons
        reasons.append(reason)
    return None, reasons


def _imported(name: str) -> tuple[Backend | None, str]:
    try:
        if name == "pycuda":
            from runtime.cuda_pycuda import PycudaBackend

            return PycudaBackend(), ""
        from runtime.cuda_bindings import BindingsBackend

        return BindingsBackend(), ""
    except ModuleNotFoundError as error:
        absent = (error.name or "").split(".")[0] in ("pycuda", "cuda")
        return None, f"{name} is not installed" if absent else f"{name} lacks the package {error.name}"
    except Exception as error:  # a package of compiled code may fail to load in any way
        return None, f"{name} cannot be loaded ({' '.join(str(error).split())[:200]})"
