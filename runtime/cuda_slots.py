"""Slots: the memory of one call, so that the next can be under way while results of the last are in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from runtime.array_pool import ArrayPool
from runtime.cuda import Device, DeviceBuffer, Event, Graph, Mark
from runtime.cuda_host_memory import HostMemory
from runtime.cuda_sights import Sight

MOST_GRAPHS = 16
"""Graphs of one slot; sets of cameras beyond that are launched one by one when they come again."""

PARTS = ("picture", "labels", "confidence")


class Shared:
    """Memory on a card that all slots use in turn, as the stream puts them in order; nothing where memory is shared.

    Each part has one buffer for each picture of a batch.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, int], DeviceBuffer] = {}

    def fits(self, part: str, place: int, nbytes: int) -> bool:
        """Whether `reserve` would change nothing."""
        buffer = self._buffers.get((part, place))
        return self._device.integrated or (buffer is not None and buffer.nbytes >= nbytes)

    def reserve(self, part: str, place: int, nbytes: int) -> None:
        """Have room for `nbytes`; what was there is freed."""
        if self.fits(part, place, nbytes):
            return
        if before := self._buffers.pop((part, place), None):
            before.free()
        self._buffers[part, place] = self._device.allocate(nbytes)

    def address(self, part: str, place: int, host: HostMemory | None) -> int:
        """Where kernels find that part: the CPU's memory itself where the GPU shares it."""
        if self._device.integrated:
            assert host is not None
            return host.device_address
        return self._buffers[part, place].address

    def free(self) -> None:
        """Give the memory back."""
        while self._buffers:
            self._buffers.popitem()[1].free()


class Slot:
    """Page-locked memory for the pictures and results of one call, its marks, and its graphs.

    loans: one entry for each result that somebody still refers to. found: a byte that kernels set where logits are no
    numbers.
    """

    def __init__(self, device: Device, stages: int) -> None:
        self._device = device
        self.marks: list[Mark] = [device.mark() for _ in range(stages + 1)]
        self.done: Event = device.event()
        self.found = HostMemory(device, 1)
        self.graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self.loans: set[object] = set()
        self.busy = False
        self._memory: dict[tuple[str, int], HostMemory] = {}

    @property
    def free_to_use(self) -> bool:
        """Whether nothing is under way in it and nobody refers to its results."""
        return not self.busy and not self.loans

    def fits(self, part: str, place: int, nbytes: int) -> bool:
        """Whether `reserve` would change nothing."""
        memory = self._memory.get((part, place))
        return memory is not None and memory.nbytes >= nbytes

    def reserve(self, part: str, place: int, nbytes: int) -> None:
        """Have room for `nbytes`; what was there is let go of."""
        if self.fits(part, place, nbytes):
            return
        if before := self._memory.pop((part, place), None):
            before.free()
        self._memory[part, place] = HostMemory(self._device, nbytes)

    def memory(self, part: str, place: int) -> HostMemory:
        """Of a picture, its labels or its confidence."""
        return self._memory[part, place]

    def maybe(self, part: str, place: int) -> HostMemory | None:
        """The same, None where there is none."""
        return self._memory.get((part, place))

    def keep(self, key: Hashable, graph: Graph) -> None:
        """One more graph; the one that was used longest ago goes where there are too many."""
        self.graphs[key] = graph
        if len(self.graphs) > MOST_GRAPHS:
            self.graphs.popitem(last=False)[1].free()

    def drop_graphs(self) -> None:
        """Forget all graphs, since memory that they use goes."""
        while self.graphs:
            self.graphs.popitem()[1].free()

    def result(self, part: str, place: int, sight: Sight, lend: bool, copies: ArrayPool) -> np.ndarray:
        """(H, W) uint8 of a picture: the slot's own memory where it can be lent, else a copy of it."""
        memory = self.memory(part, place)
        found = memory.array[: sight.label_bytes].reshape(sight.kind.size)
        if lend and memory.can_outlive:
            return np.asarray(_Loan(found, self.loans))
        return copies.copy(found)

    def release(self) -> None:
        """Give everything back to CUDA; results that are lent stay readable."""
        self.drop_graphs()
        for memory in (self.found, *self._memory.values()):
            memory.free()
        for moment in (*self.marks, self.done):
            moment.free()
        self._memory.clear()


class _Loan:
    """A result in use: numpy keeps this object as the base of every array and view of it, and it ends with the last."""

    def __init__(self, array: np.ndarray, loans: set[object]) -> None:
        self._array, self._loans, self._token = array, loans, object()
        self.__array_interface__: dict[str, Any] = array.__array_interface__
        loans.add(self._token)

    def __del__(self) -> None:
        self._loans.discard(self._token)


def needs_of(sights: Sequence[Sight], staged: Sequence[bool], with_confidence: bool) -> list[tuple[str, int, int]]:
    """(part, place in the batch, bytes) of what a call needs in a slot; staged: pictures that are copied there."""
    needs = []
    for place, sight in enumerate(sights):
        needs += [("picture", place, sight.picture_bytes)] if staged[place] else []
        needs += [(part, place, sight.label_bytes) for part in PARTS[1 : 2 + with_confidence]]
    return needs
