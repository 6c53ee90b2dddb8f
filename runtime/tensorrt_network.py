"""A TensorRT engine for a segmenter on the GPU: its tensors stay where they are, in memory that kernels share."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pspnet.metadata import INPUT, OUTPUT
from pspnet.spec import ModelSpec
from runtime.cuda import CudaOutOfMemory, Device, DeviceBuffer, Stream
from runtime.cuda_pictures import DeviceLogits
from runtime.tensorrt_io import PlanIO

if TYPE_CHECKING:
    from runtime.tensorrt_runner import TensorRTRunner

LEAST_SCRATCH_BYTES = 256


class TensorRTNetwork:
    """An engine that a TensorRTRunner has loaded; it lives no longer than that.

    There is one execution context for each number of pictures, as a graph needs a context whose shapes nobody changes.
    All share one scratch memory, since their runs follow each other in one stream.
    """

    engine = "tensorrt"

    def __init__(self, runner: TensorRTRunner, device: Device, trt: Any, engine: Any, io: PlanIO) -> None:
        self._runner, self._trt, self._engine, self._io = runner, trt, engine, io
        self.name, self.precision, self.device = runner.name, runner.precision, device
        self.largest_batch = io.largest_batch
        dla = runner.passport.dla
        self.without_graphs = f"CUDA cannot capture what runs on DLA core {dla['core']}" if dla else ""
        self.on_close: list[Callable[[], None]] = []
        self._contexts: dict[int, Any] = {}
        self._buffers: list[DeviceBuffer] = []
        pixels = io.largest_batch * math.prod((*self.spec.input_size, 3))
        self._map_bytes = math.prod(io.map_shape) * io.logits_type.itemsize
        scratch = max(int(engine.device_memory_size_v2), LEAST_SCRATCH_BYTES)
        sizes, free_bytes = (pixels, io.largest_batch * self._map_bytes, scratch), device.memory_bytes()[0]
        try:
            for nbytes in sizes:
                self._buffers.append(device.allocate(nbytes))
        except CudaOutOfMemory:
            self.close()
            raise runner.too_little_memory(sum(sizes), free_bytes) from None
        self._input, self._output, self._scratch = self._buffers
        self.input_address = self._input.address

    @property
    def spec(self) -> ModelSpec:
        """Of the network in the engine."""
        return self._runner.spec

    @property
    def provenance(self) -> dict[str, Any]:
        """What the engine was built of, by what and for which GPU."""
        return self._runner.provenance

    def logits(self, index: int) -> DeviceLogits:
        """Where the logits of picture number `index` are, (C, h, w) float32 or float16."""
        address = self._output.address + index * self._map_bytes
        return DeviceLogits(address, self._io.map_shape, self._io.logits_type.name)

    def prepare(self, count: int, stream: Stream) -> None:
        """Make the context for `count` pictures and run it once, which a capture needs."""
        count = max(count, self._io.smallest_batch)  # the rest of a fixed batch is what lies there
        if count in self._contexts:
            return
        with self.device.current():
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
            if context is None:
                self._runner.refuse("prepare")
            context.set_device_memory(self._scratch.address, self._scratch.nbytes)
            # An engine that was built to be audited names every layer to profilers, which costs time in each run.
            context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
            for name, buffer in ((INPUT, self._input), (OUTPUT, self._output)):
                if not context.set_tensor_address(name, buffer.address):
                    self._runner.refuse(f"bind {name} of")
            if not context.set_input_shape(INPUT, (count, *self.spec.input_size, 3)):
                self._runner.refuse(f"set the number of pictures to {count} for")
            if not context.execute_async_v3(stream.handle):
                self._runner.refuse("run")
            stream.synchronize()
        self._contexts[count] = context

    def enqueue(self, count: int, stream: Stream) -> None:
        """Put a run into the stream."""
        with self.device.current():
            if not self._contexts[max(count, self._io.smallest_batch)].execute_async_v3(stream.handle):
                self._runner.refuse("run")

    def capturing(self) -> AbstractContextManager[object]:
        """Nothing: the engine's memory is its own."""
        return nullcontext()

    def close(self) -> None:
        """Free the contexts, then their memory."""
        while self.on_close:
            self.on_close.pop()()
        with self.device.current():
            self._contexts.clear()
        while self._buffers:
            self._buffers.pop().free()
