"""Memory of the CPU that the GPU copies from and to, and that is still there when CUDA is gone."""

from __future__ import annotations

import mmap

import numpy as np

from runtime.cuda import CudaError, Device, PinnedArray
from runtime.frame_ring import page_rounded


class HostMemory:
    """Page-locked memory of at least `nbytes`. array: (bytes,) uint8.

    It is ordinary memory that is registered with CUDA, so results in it stay readable after `free`. can_outlive: False
    where this machine cannot register memory, and it ends with `free`.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        pages = mmap.mmap(-1, page_rounded(nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array = np.frombuffer(pages, np.uint8)
        try:
            self._held: PinnedArray = device.register(self.array)
            self.can_outlive = True
        except CudaError:
            if device.dead:
                raise
            self._held = device.allocate_pinned((page_rounded(nbytes),), np.uint8, mapped=True)
            self.array, self.can_outlive = self._held.array, False

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    @property
    def device_address(self) -> int:
        """Where the GPU sees it."""
        return self._held.device_address

    def free(self) -> None:
        """CUDA's hold ends, when no stream uses it any more."""
        self._held.free()
