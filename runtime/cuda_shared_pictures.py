"""Pictures in the shared memory of cameras, which is registered with CUDA once, so that nobody copies them first."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np

from runtime.cuda import CudaError, CudaOutOfMemory, Device, RegisteredArray
from runtime.frame import Frame


class SharedPictures:
    """The memory that each camera's pictures lie in, by the camera's name (`Frame.source`).

    wait: returns when the GPU reads no picture any more; it is called before memory is let go. refusals: camera -> why
    its memory could not be registered.
    """

    def __init__(self, device: Device, wait: Callable[[], None]) -> None:
        self._device, self._wait = device, wait
        self._memory: dict[str, tuple[np.ndarray, RegisteredArray | None]] = {}
        self.refusals: dict[str, str] = {}

    def address(self, frame: Frame) -> int | None:
        """Where the GPU sees the frame's picture; None where it lies in memory of another kind, or in pieces."""
        owner = mapped_owner(frame.image)
        if owner is None or not frame.image.flags.c_contiguous:
            return None
        kept, registered = self._memory.get(frame.source, (None, None))
        if kept is not owner:  # a camera's memory is another one when its pictures have become larger
            self._forget(frame.source)
            registered = self._registered(frame.source, owner)
            self._memory[frame.source] = owner, registered
        if registered is None:
            return None
        return registered.device_address + frame.image.ctypes.data - owner.ctypes.data

    def close(self) -> None:
        """Let go of all memory."""
        for source in list(self._memory):
            self._forget(source)

    def _forget(self, source: str) -> None:
        _, registered = self._memory.pop(source, (None, None))
        if registered is not None:
            self._wait()
            registered.free()

    def _registered(self, source: str, owner: np.ndarray) -> RegisteredArray | None:
        try:
            return self._device.register(owner)
        except (CudaError, CudaOutOfMemory) as error:
            if self._device.dead:
                raise
            self.refusals[source] = str(error)
            return None


def mapped_owner(image: np.ndarray) -> np.ndarray | None:
    """The array over a whole memory map that an array lies in; None where it lies in no map that can be written."""
    owner = image
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    base = owner.base.obj if isinstance(owner.base, memoryview) else owner.base
    whole = isinstance(base, mmap.mmap) and owner.flags.writeable and owner.ctypes.data % mmap.PAGESIZE == 0
    return owner if whole and owner.nbytes == len(base) else None  # type: ignore[arg-type]
