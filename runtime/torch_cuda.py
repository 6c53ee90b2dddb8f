"""A checkpoint on PyTorch for a segmenter on the GPU, in float16: for desktops without TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn

from pspnet.batch_norm import without_batch_norm
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from runtime.cuda import Device, Stream
from runtime.cuda_pictures import DeviceLogits

LARGEST_BATCH = 4
"""Pictures of one run: as many cameras as are common, and no memory is taken before so many come."""

WARM_UP = 2  # runs: the first loads and tries out kernels, the second shows that nothing is left to allocate


class TorchNetwork:
    """A PSPNet in float16 and channels_last without batch norm, whose input and logits stay where they are.

    device: on which our kernels run; it is closed with the network. place: the same for PyTorch.
    """

    engine, precision, without_graphs = "torch-cuda", "fp16", ""

    def __init__(self, model: nn.Module, spec: ModelSpec, name: str, device: Device, place: torch.device) -> None:
        self.name, self.spec, self.device, self.largest_batch = name, spec, device, LARGEST_BATCH
        self.on_close: list[Callable[[], None]] = []
        self._place, self._prepared = place, set[int]()
        self._pool: Any = None
        try:
            with refusals(name):
                self._model: nn.Module | None = half_network(model, place)
                self._input = torch.zeros((LARGEST_BATCH, *spec.input_size, 3), dtype=torch.uint8, device=place)
                shape = (LARGEST_BATCH, spec.classes, *spec.map_size)
                self._logits = torch.zeros(shape, dtype=torch.float16, device=place)
                self._mean = torch.tensor(spec.mean, device=place).view(1, 3, 1, 1)
                self._std = torch.tensor(spec.std, device=place).view(1, 3, 1, 1)
                self._settle()
        except BaseException:
            device.close()
            raise
        self.input_address = self._input.data_ptr()

    @property
    def provenance(self) -> dict[str, Any]:
        """The PyTorch and the GPU."""
        gpu = {"name": self.device.name, "compute_capability": "{}.{}".format(*self.device.compute_capability)}
        return {"torch": torch.__version__, "cuda": self.device.driver_version, "gpu": gpu}

    def logits(self, index: int) -> DeviceLogits:
        """Where the logits of picture number `index` are, (C, h, w) float16."""
        _, classes, height, width = self._logits.shape
        return DeviceLogits(self._logits[index].data_ptr(), (classes, height, width), "float16")

    def prepare(self, count: int, stream: Stream) -> None:
        """Let PyTorch choose its kernels for `count` pictures and allocate what they need."""
        if count in self._prepared:
            return
        for _ in range(WARM_UP):
            self.enqueue(count, stream)
        stream.synchronize()
        self._prepared.add(count)

    def enqueue(self, count: int, stream: Stream) -> None:
        """Put a run into the stream, which PyTorch takes for its own."""
        assert self._model is not None
        with refusals(self.name), torch.inference_mode(), self._on(stream), fastest():
            pixels = self._input[:count].permute(0, 3, 1, 2).float()  # NHWC memory: channels_last
            found = self._model(((pixels - self._mean) / self._std).half())["out"]
            self._logits[:count].copy_(found)

    def capturing(self) -> AbstractContextManager[object]:
        """Memory of the graph's own: what PyTorch would use again for something else, each replay would overwrite."""
        if not hasattr(torch.cuda, "MemPool"):
            raise PspnetError(f"PyTorch {torch.__version__} cannot keep memory for a graph: install 2.6 or newer")
        if self._pool is None:
            self._pool = torch.cuda.MemPool()
        return torch.cuda.use_mem_pool(self._pool)

    def close(self) -> None:
        """Free the weights and all memory, and close the device."""
        while self.on_close:
            self.on_close.pop()()
        if self._model is None:
            return
        self._model = self._pool = None
        for name in ("_input", "_logits", "_mean", "_std"):
            delattr(self, name)
        self.device.close()

    def _on(self, stream: Stream) -> AbstractContextManager[object]:
        return torch.cuda.stream(torch.cuda.ExternalStream(stream.handle, self._place))

    def _settle(self) -> None:
        """Wait until the weights are there: they came by another stream than ours."""
        torch.cuda.synchronize(self._place)


def half_network(model: nn.Module, place: torch.device) -> nn.Module:
    """A copy for inference: batch norm folded in the weights' own type, then float16 and channels_last.

    After folding, no statistics are left that float16 could not hold.
    """
    half = without_batch_norm(model).to(device=place, dtype=torch.float16)
    return half.to(memory_format=torch.channels_last)


def fastest() -> AbstractContextManager[object]:
    """cuDNN tries its kernels and takes the fastest for each convolution."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True)


def refusals(name: str) -> AbstractContextManager[object]:
    """What PyTorch raises in the `with` block as one line."""
    stack = ExitStack()
    stack.push(lambda kind, error, trace: _refuse(name, error))
    return stack


def _refuse(name: str, error: BaseException | None) -> None:
    if isinstance(error, RuntimeError):  # out of memory is one, with figures
        reason = " ".join(str(error).split("\n")[0].split()).rstrip(".")
        raise PspnetError(
            f"PyTorch cannot run {name} on the GPU: {reason}. End other programs, or take a network of a smaller size"
        ) from error
