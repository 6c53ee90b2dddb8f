"""TensorRT engines on an NVIDIA GPU: plain and synchronous, for everything that asks a Runner for logits."""

from __future__ import annotations

import atexit
import math
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pspnet.errors import PspnetError
from pspnet.metadata import INPUT, OUTPUT
from pspnet.wording import counted
from runtime.cuda import CudaOutOfMemory, Device, DeviceBuffer, PinnedArray, open_device
from runtime.passport import rebuild_command
from runtime.preflight import checked_plan
from runtime.runner import ClosingRunner, check_images
from runtime.tensorrt_io import checked_io, tensors_of
from runtime.tensorrt_library import engine_log, tensorrt_module
from runtime.tensorrt_network import TensorRTNetwork


class TensorRTRunner(ClosingRunner):
    """An engine of `pspnet build`, checked against its passport before TensorRT sees a byte of it.

    One execution context with memory for the largest batch of the optimisation profile, on a stream of its own. Calls
    may come from any thread; they take turns. pinned_sha256: hex, the hash that the plan must have, whatever the
    passport says. PspnetError where the engine does not belong to this machine, and where memory is short.
    """

    engine = "tensorrt"

    def __init__(self, path: str | Path, device_index: int = 0, pinned_sha256: str | None = None) -> None:
        self.name, self._turn, self._batch = str(path), threading.Lock(), 0
        self._trt = tensorrt_module()
        self._log = engine_log(self._trt)  # TensorRT calls it for as long as the runtime lives
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._lent: TensorRTNetwork | None = None
        self._closed = False
        self._device = open_device(device_index)
        atexit.register(self.close)  # runs before the device's own, which must not find TensorRT's objects alive
        try:
            plan, self.passport = checked_plan(path, self._device, str(self._trt.__version__), pinned_sha256)
            self.spec, self.precision = self.passport.model_spec, self.passport.precision
            self._stream = self._device.stream()
            with self._device.current():
                self._deserialise(plan)
                self._io = checked_io(tensors_of(self._engine), self.passport, self.name)
                self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def provenance(self) -> dict[str, Any]:
        """What the engine was built of, by what and for which GPU."""
        kept = ("tensorrt", "cuda", "gpu", "dla", "platform", "power_mode", "route", "batch", "onnx", "table_sha256")
        return {name: getattr(self.passport, name) for name in kept}

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32; N is cut into batches that the engine takes."""
        check_images(images, self.spec)
        logits = np.empty((len(images), *self._io.map_shape), np.float32)
        with self._turn, self._device.current():
            if self._context is None:
                self._prepare()  # its memory was given to a network
            for start in range(0, len(images), self._io.largest_batch):
                part = slice(start, start + self._io.largest_batch)
                self._run(images[part], logits[part])
        return logits

    def network(self) -> TensorRTNetwork:
        """The engine for a segmenter that stays on the GPU; one at a time, and closed with the runner.

        The runner's own context and buffers are freed for it, and made again should `infer` be called.
        """
        with self._turn, self._device.current():
            if self._lent is not None:
                self._lent.close()
            self._context = None
            for buffers in (self._input, self._output):
                buffers.device.free()
                buffers.pinned.free()
            self._batch = 0
            self._lent = TensorRTNetwork(self, self._device, self._trt, self._engine, self._io)
            return self._lent

    def close(self) -> None:
        """Free the context, then the engine, the runtime, the buffers, the stream and last the device."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self.close)
            if self._lent is not None:
                self._lent.close()
            with self._device.current():
                with suppress(PspnetError):  # an interrupted run may still be under way; a lost device is told before
                    if self._stream is not None:
                        self._stream.synchronize()
                self._context = None  # TensorRT's objects go with their last reference
                self._engine = None
                self._runtime = None
            self._device.close()  # frees the buffers, then the stream

    def _deserialise(self, plan: bytes) -> None:
        """Make the engine."""
        free_bytes = self._device.memory_bytes()[0]
        self._runtime = self._trt.Runtime(self._log)
        if self.passport.dla is not None:
            self._choose_core(self.passport.dla["core"])
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            self.refuse("load", len(plan), free_bytes)

    def _choose_core(self, core: int) -> None:
        """Say which DLA core the engine is for: TensorRT forgets it, and takes core 0 for each that it loads."""
        if core >= (cores := int(self._runtime.num_DLA_cores)):
            raise PspnetError(
                f"{self.name} was built for DLA core {core}, and here is {counted(cores, 'DLA core')}: build it again "
                f"without --dla, or on a board that has that core: {rebuild_command(self.name, self.passport)}"
            )
        self._runtime.DLA_core = core

    def _prepare(self) -> None:
        """Make the context and the buffers of the largest batch, and tell the context once where they are."""
        io, free_bytes = self._io, self._device.memory_bytes()[0]
        pixels, maps = (io.largest_batch, *self.spec.input_size, 3), (io.largest_batch, *io.map_shape)
        buffer_bytes = math.prod(pixels) + math.prod(maps) * io.logits_type.itemsize
        needed_bytes = int(self._engine.device_memory_size_v2) + buffer_bytes
        try:
            self._input = _buffers(self._device, pixels, np.dtype(np.uint8))
            self._output = _buffers(self._device, maps, io.logits_type)
        except CudaOutOfMemory:
            raise self.too_little_memory(needed_bytes, free_bytes) from None
        self._context = self._engine.create_execution_context()
        if self._context is None:
            self.refuse("prepare", needed_bytes, free_bytes)
        # An engine that was built to be audited names every layer to profilers, which costs time in each run.
        self._context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        for name, buffers in ((INPUT, self._input), (OUTPUT, self._output)):
            if not self._context.set_tensor_address(name, buffers.device.address):
                self.refuse(f"bind {name} of")

    def _run(self, images: np.ndarray, logits: np.ndarray) -> None:
        """One batch: copy in, run, copy out, wait; `logits` (n, C, h, w) float32 is filled."""
        count = len(images)
        run = max(count, self._io.smallest_batch)  # the rest of a fixed batch is what lies there
        if run != self._batch:
            self._batch = 0  # unknown, should the context refuse the shape
            if not self._context.set_input_shape(INPUT, (run, *images.shape[1:])):
                self.refuse(f"set {counted(run, 'picture')} for")
            self._batch = run
        self._input.host[:count] = images
        self._device.copy_to_device(self._input.device, self._input.host[:run], self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            self.refuse("run")
        self._device.copy_to_host(self._output.host[:count], self._output.device, self._stream)
        self._stream.synchronize()
        logits[:] = self._output.host[:count]  # float16 becomes float32 here

    def refuse(self, what: str, needed_bytes: int = 0, free_bytes: int = 0) -> NoReturn:
        """PspnetError with TensorRT's own words, or with figures where these say that memory ran out."""
        reason = self._log.reason()
        if needed_bytes and "outofmemory" in reason.replace(" ", "").lower():
            raise self.too_little_memory(needed_bytes, free_bytes)
        raise PspnetError(
            f"TensorRT cannot {what} {self.name}: {reason}. Build the engine again: "
            f"{rebuild_command(self.name, self.passport)}"
        )

    def too_little_memory(self, needed_bytes: int, free_bytes: int) -> PspnetError:
        batch = self.passport.batch["max"]
        less = "a smaller --batch" if batch > 1 else "a network that is exported for a smaller --size"
        return PspnetError(
            f"{self.name} needs {needed_bytes / 1e6:.1f} MB of memory on the GPU for {counted(batch, 'picture')}, "
            f"{free_bytes / 1e6:.1f} MB are free: end other programs, or build it again with {less}: "
            f"{rebuild_command(self.name, self.passport)}"
        )


class _Buffers(NamedTuple):
    """Memory of one tensor on the GPU, and as much pinned memory that its copies go through."""

    device: DeviceBuffer
    pinned: PinnedArray

    @property
    def host(self) -> np.ndarray:
        """The pinned memory."""
        return self.pinned.array


def _buffers(device: Device, shape: tuple[int, ...], kind: np.dtype) -> _Buffers:
    return _Buffers(device.allocate(math.prod(shape) * kind.itemsize), device.allocate_pinned(shape, kind))
