"""The work that one call puts into the stream, stage by stage, at once or captured into a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.cuda import Stream
from runtime.cuda_kernels import Kernels
from runtime.cuda_sights import Sight
from runtime.cuda_slots import Shared, Slot
from runtime.device_network import DeviceNetwork

STAGES = ("copy_in", "pre", "infer", "labels", "copy_out")
"""As in `Segmentation.times_ms`. The copies are nothing where CPU and GPU share their memory."""


class Work:
    """Pictures through the network. registered: for each picture its address in a camera's registered memory, or None
    where it was copied into the slot.
    """

    def __init__(
        self, network: DeviceNetwork, kernels: Kernels, stream: Stream, shared: Shared, slot: Slot,
        sights: Sequence[Sight], registered: Sequence[int | None], images: Sequence[np.ndarray], with_confidence: bool,
    ) -> None:  # fmt: skip
        self._network, self._kernels, self._stream, self._shared, self._slot = network, kernels, stream, shared, slot
        self._sights, self._registered, self._images = sights, registered, images
        self._parts = ("labels", "confidence") if with_confidence else ("labels",)
        self._integrated = network.device.integrated

    @property
    def first_fixed(self) -> int:
        """The first stage from which on all addresses are those of the slot: a graph can hold the rest.

        A camera has its pictures now here, now there in its memory; they are copied from there, or read.
        """
        if all(address is None for address in self._registered):
            return 0
        return STAGES.index("infer" if self._integrated else "pre")

    def enqueue(self, start: int, stop: int, captured: bool = False) -> None:
        """Put the stages from number `start` to `stop` into the stream, each with a mark behind it."""
        stages = (self._copy_in, self._preprocess, self._infer, self._label, self._copy_out)
        if start == 0:
            self._slot.marks[0].record(self._stream, captured)
        for number in range(start, stop):
            if not self._integrated or STAGES[number] not in ("copy_in", "copy_out"):
                stages[number]()
            self._slot.marks[number + 1].record(self._stream, captured)

    def _copy_in(self) -> None:
        for place, (sight, address) in enumerate(zip(self._sights, self._registered, strict=True)):
            target = self._shared.address("picture", place, None)
            staged = self._slot.memory("picture", place).array[: sight.picture_bytes] if address is None else None
            source = self._images[place] if staged is None else staged
            self._network.device.copy_to_device(target, source, self._stream)

    def _preprocess(self) -> None:
        for place, (sight, address) in enumerate(zip(self._sights, self._registered, strict=True)):
            if address is None or not self._integrated:
                address = self._shared.address("picture", place, self._slot.maybe("picture", place))
            picture = sight.picture(address)
            self._kernels.preprocess(self._stream, picture, sight.into, self._network.input_address, place)

    def _infer(self) -> None:
        self._network.enqueue(len(self._sights), self._stream)

    def _label(self) -> None:
        first = self._network.logits(0)
        count = len(self._sights) * int(np.prod(first.shape))
        self._kernels.find_infinite(self._stream, first.address, count, first.dtype, self._slot.found.device_address)
        for place, sight in enumerate(self._sights):
            logits = self._network.logits(place)
            for part in self._parts:
                target = self._shared.address(part, place, self._slot.memory(part, place))
                write = self._kernels.labels if part == "labels" else self._kernels.confidence
                write(self._stream, logits, sight.back, target)

    def _copy_out(self) -> None:
        for place, sight in enumerate(self._sights):
            for part in self._parts:
                target = self._slot.memory(part, place).array[: sight.label_bytes]
                source = self._shared.address(part, place, None)
                self._network.device.copy_to_host(target, source, self._stream)
