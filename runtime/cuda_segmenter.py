"""CudaSegmenter: from a camera's bytes to labels on the GPU; only pictures go there, and only labels come back."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

import numpy as np

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from runtime.array_pool import ArrayPool
from runtime.cuda import CudaOutOfMemory, Graph
from runtime.cuda_kernels import Kernels
from runtime.cuda_shared_pictures import SharedPictures
from runtime.cuda_sights import Sight, Sights
from runtime.cuda_slots import Shared, Slot, needs_of
from runtime.cuda_work import STAGES, Work
from runtime.device_network import DeviceNetwork
from runtime.frame import Frame, Segmentation
from runtime.ranges import named_range
from runtime.segmenter import Region, View

SLOTS = 3
SEEN_KEPT = 256
ON_CARDS = ("copy_in", "copy_out")


class CudaSegmenter:
    """Frames of any size to labels of the same size, on the GPU of a DeviceNetwork.

    fit, region, views, with_confidence and batch as of `CpuSegmenter`; batch: None for the network's largest. slots: 2
    or more calls whose memory is apart. graphs: whether a call that was made once is repeated as one CUDA graph;
    without_graphs then says why it is not, "" where it is. Calls may come from any thread; they take turns.

    A result's memory is a slot's, which is used again when nobody refers to the result any more; where consumers hold
    on to all others, results are copies. times_ms: of the GPU, shared by the pictures of a batch, and `stage`, the
    CPU's copy of pictures that do not lie in a camera's own memory.
    """

    without_kernels = ""

    def __init__(
        self, network: DeviceNetwork, fit: str | None = None, region: Region | None = None,
        views: Mapping[str, View] | None = None, with_confidence: bool = False, batch: int | None = None,
        slots: int = SLOTS, graphs: bool = True,
    ) -> None:  # fmt: skip
        batch = network.largest_batch if batch is None else batch
        if not 1 <= batch <= network.largest_batch:
            raise PspnetError(
                f"batch is {batch}: {network.name} takes 1 to {network.largest_batch} pictures; build it again with "
                "--batch for more"
            )
        if slots < 2:
            raise ValueError(f"{slots} slots: one is written while another is read, so there are 2 or more")
        self.runner, self.spec, self.batch, self.with_confidence = network, network.spec, batch, with_confidence
        self.fit = fit or self.spec.fit
        self.without_graphs = network.without_graphs if graphs else "they were not asked for"
        self._view, self._views = View(self.fit, region), dict(views or {})
        self._turn, self._closed = threading.Lock(), False
        self._seen: dict[tuple[object, ...], None] = {}
        self._copies: dict[tuple[int, int], ArrayPool] = {}
        device = self._device = network.device
        self._stream = device.stream()
        self._slots: list[Slot] = []
        self._shared = Shared(device)
        self._pictures = SharedPictures(device, self._stream.synchronize)
        cells = network.logits(0).shape[1:]
        self._sights = Sights(device, self.spec, cells, with_confidence, self.geometry, self._forget_graphs)
        try:
            self._kernels = Kernels(device)
            self._slots += [Slot(device, len(STAGES)) for _ in range(slots)]
        except BaseException:
            self.close()
            raise
        network.on_close.append(self.close)

    @property
    def picture_refusals(self) -> dict[str, str]:
        """Camera -> why its memory could not be registered, so that its pictures are copied first."""
        return dict(self._pictures.refusals)

    def geometry(self, camera_size: tuple[int, int], source: str = "") -> Geometry:
        """The map between a camera of (height, width) pixels and the network's input."""
        view = self._views.get(source, self._view)
        return Geometry(camera_size, self.spec.input_size, view.fit or self.spec.fit, view.region)

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Labels (H, W) uint8 of one picture (H, W, 3) uint8 BGR."""
        return self.segment([Frame(image, "bgr", "", 0, 0, 0)])[0].labels

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """One result per frame, in order; frames may differ in size and format.

        PspnetError where the network gives NaN or infinity, and where memory is short; CudaError where the GPU is lost.
        """
        results: list[Segmentation] = []
        waiting: deque[_Call] = deque()
        with self._turn, self._device.current():
            try:
                for start in range(0, len(frames), self.batch):
                    while (slot := self._free_slot()) is None:
                        results += self._results(waiting.popleft())
                    waiting.append(self._begin(slot, frames[start : start + self.batch]))
                while waiting:
                    results += self._results(waiting.popleft())
            except BaseException:
                with suppress(PspnetError):  # the error that is on its way says more
                    self._stream.synchronize()
                for call in waiting:
                    call.slot.busy = False
                raise
        return results

    def close(self) -> None:
        """Free everything on the GPU but the network; results that somebody holds stay readable."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            if not self._device.dead:
                self._stream.synchronize()
            for slot in self._slots:
                slot.release()
            self._sights.free()
            self._shared.free()
            self._pictures.close()
            if hasattr(self, "_kernels"):
                self._kernels.free()
            self._stream.free()

    def __enter__(self) -> CudaSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _free_slot(self) -> Slot | None:
        return next((slot for slot in self._slots if slot.free_to_use), None)

    def _begin(self, slot: Slot, frames: list[Frame]) -> _Call:
        """Put a call into the stream and return at once."""
        sights = self._sights.of(frames)
        registered = [self._pictures.address(frame) for frame in frames]
        self._reserve(slot, frames, sights, [address is None for address in registered])
        self.runner.prepare(len(frames), self._stream)
        call = _Call(slot, frames, sights)
        with named_range("stage"):
            for place, (frame, sight) in enumerate(zip(frames, sights, strict=True)):
                if registered[place] is None:
                    staged = slot.memory("picture", place).array[: sight.picture_bytes]
                    np.copyto(staged.reshape(frame.image.shape), frame.image)
        slot.found.array[0] = 0
        call.staged_ns = time.perf_counter_ns()
        slot.busy = True
        try:
            with named_range("enqueue"):
                work = Work(
                    self.runner, self._kernels, self._stream, self._shared, slot, sights, registered,
                    [frame.image for frame in frames], self.with_confidence,
                )  # fmt: skip
                self._enqueue(work, slot, (*map(id, sights), *(address is None for address in registered)))
                slot.done.record(self._stream)
        except BaseException:
            slot.busy = False
            raise
        call.staged = None in registered
        return call

    def _enqueue(self, work: Work, slot: Slot, key: tuple[object, ...]) -> None:
        """As a graph where the same call was made before, else piece by piece."""
        fixed = work.first_fixed
        work.enqueue(0, fixed)
        graph = slot.graphs.get(key) if not self.without_graphs else None
        if graph is None and key in self._seen and not self.without_graphs:
            graph = self._captured(work, fixed)
            if graph is not None:
                slot.keep(key, graph)
        if graph is not None:
            slot.graphs.move_to_end(key)
            return graph.launch(self._stream)
        if len(self._seen) >= SEEN_KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        work.enqueue(fixed, len(STAGES))

    def _captured(self, work: Work, fixed: int) -> Graph | None:
        """The graph of the stages from `fixed` on; None where the network or the driver refuses, for good."""
        try:
            with self.runner.capturing(), self._device.capture(self._stream) as graph:
                work.enqueue(fixed, len(STAGES), captured=True)
            return graph
        except PspnetError as error:
            if self._device.dead:
                raise
            self.without_graphs = str(error)
            return None

    def _results(self, call: _Call) -> list[Segmentation]:
        """Wait for a call and take its results."""
        slot = call.slot
        try:
            with named_range("wait"):
                slot.done.synchronize()
            if slot.found.array[0]:
                raise PspnetError(
                    f"{self.runner.name} gives logits that are NaN or infinite ({self.runner.engine}, "
                    f"{self.runner.precision}), so its labels mean nothing. Use a sound checkpoint, or export again "
                    "from one"
                )
            times_ms = {} if not call.staged else {"stage": (call.staged_ns - call.begun_ns) / 1e6}
            for number, stage in enumerate(STAGES):
                if stage not in ON_CARDS or not self._device.integrated:
                    times_ms[stage] = slot.marks[number + 1].elapsed_ms(slot.marks[number])
        finally:
            slot.busy = False
        lend = any(other is not slot and other.free_to_use for other in self._slots)
        return [self._result(call, place, dict(times_ms), lend) for place in range(len(call.frames))]

    def _result(self, call: _Call, place: int, times_ms: dict[str, float], lend: bool) -> Segmentation:
        sight = call.sights[place]
        copies = self._copies.setdefault(sight.kind.size, ArrayPool())
        labels = call.slot.result("labels", place, sight, lend, copies)
        result = Segmentation(call.frames[place], labels, times_ms, sight.geometry)
        if self.with_confidence:
            result.confidence = call.slot.result("confidence", place, sight, lend, copies)
        return result

    def _reserve(self, slot: Slot, frames: list[Frame], sights: list[Sight], staged: list[bool]) -> None:
        """Have memory for a call; graphs that hold memory that becomes larger end."""
        host = needs_of(sights, staged, self.with_confidence)
        card = needs_of(sights, [True] * len(sights), self.with_confidence)
        shared_fits = all(self._shared.fits(*need) for need in card)
        if shared_fits and all(slot.fits(*need) for need in host):
            return
        self._stream.synchronize()
        for each in [slot] if shared_fits else self._slots:
            each.drop_graphs()
        try:
            for need in host:
                slot.reserve(*need)
            for need in card:
                self._shared.reserve(*need)
        except CudaOutOfMemory as error:
            cameras = ", ".join(dict.fromkeys(f"{f.source or 'picture'} of {f.size[0]}x{f.size[1]}" for f in frames))
            raise CudaOutOfMemory(f"{cameras}: {error}", error.needed_bytes, error.free_bytes) from None

    def _forget_graphs(self) -> None:
        """Before memory goes that graphs hold."""
        self._stream.synchronize()
        for slot in self._slots:
            slot.drop_graphs()
        self._seen.clear()


class _Call:
    """A call under way."""

    def __init__(self, slot: Slot, frames: list[Frame], sights: list[Sight]) -> None:
        self.slot, self.frames, self.sights, self.staged = slot, frames, sights, False
        self.begun_ns = self.staged_ns = time.perf_counter_ns()
