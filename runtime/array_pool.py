"""Memory for pictures and label maps that is used again as soon as nobody refers to it any more.

Who holds an array, or any view of it, keeps its content: there is nothing to give back and nothing to forget. CPython
sees at once when the last reference goes, and the memory is free for the next frame.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

KEPT = 8  # free arrays of one pool; outlets and boards that let go of more at once are none that last


class ArrayPool:
    """uint8 arrays of one shape at a time, taken by one thread. made: how many had to be allocated so far.

    As many are in use as there are consumers at work, plus the newest result and the one that is being made: as an
    outlet has a slot of one in which the newest wins, all slots together hold the same result.
    """

    def __init__(self) -> None:
        self.made = 0
        self._shape: tuple[int, ...] = ()
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array (shape) uint8 of unknown content that nobody else refers to."""
        if shape != self._shape:
            self._shape, self._free = shape, []
        memory: np.ndarray | None = None
        while self._free and memory is None:
            candidate = self._free.pop()  # only here: other threads put back, and may be late with an old shape
            memory = candidate if candidate.shape == shape else None
        if memory is None:
            memory = np.empty(shape, np.uint8)
            self.made += 1
        return np.asarray(_Loan(memory, weakref.ref(self)))

    def copy(self, array: np.ndarray) -> np.ndarray:
        """A copy of a uint8 array."""
        copied = self.take(array.shape)
        np.copyto(copied, array)
        return copied

    def _take_back(self, memory: np.ndarray) -> None:
        if memory.shape == self._shape and len(self._free) < KEPT:
            self._free.append(memory)


class _Loan:
    """Memory in use: numpy keeps this object as the base of every array and view of it, and it ends with the last."""

    def __init__(self, memory: np.ndarray, pool: weakref.ref[ArrayPool]) -> None:
        self._memory, self._pool = memory, pool
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        if (pool := self._pool()) is not None:
            pool._take_back(self._memory)
