"""Checkpoints on PyTorch, the reference that every other engine is held against."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pspnet.checkpoint import load_model
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from runtime.cuda import backend_name, open_device
from runtime.runner import ClosingRunner, check_images

if TYPE_CHECKING:
    from runtime.torch_cuda import TorchNetwork


class TorchRunner(ClosingRunner):
    """A PSPNet in float32 on the device where its weights are."""

    precision = "fp32"

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self.engine = "torch" if self._device.type == "cpu" else f"torch-{self._device.type}"
        self._mean = torch.tensor(spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=self._device).view(1, 3, 1, 1)

    @classmethod
    def from_checkpoint(cls, path: str | Path, threads: int) -> TorchRunner:
        """The checkpoint in channels_last, on the GPU where there is one, else on the CPU with `threads` threads."""
        torch.set_num_threads(threads)
        spec, model = load_model(path)
        if torch.cuda.is_available():
            torch.backends.cudnn.allow_tf32 = False  # TF32 keeps ten bits, and this is the reference
            model = model.cuda()
        runner = cls(model.to(memory_format=torch.channels_last), spec)
        runner.name = str(path)
        return runner

    def network(self) -> TorchNetwork | None:
        """A copy in float16 for a segmenter on the GPU; None on a CPU, and where no package lets our kernels run."""
        if self._device.type != "cuda" or backend_name() is None:
            return None
        from runtime.torch_cuda import TorchNetwork

        index = self._device.index or 0
        return TorchNetwork(self._model, self.spec, self.name, open_device(index), torch.device("cuda", index))

    def at_size(self, size: tuple[int, int]) -> TorchRunner:
        """The same weights for pictures of another (height, width); PspnetError where it is too small for the bins."""
        smallest = (max(self.spec.bins, default=1) - 1) * self.spec.output_stride + 1
        if min(size) < smallest:
            raise PspnetError(
                f"an input of {size[0]}x{size[1]} is too small: this network needs sides of {smallest} or more. "
                "Give larger --scales or a larger --crop"
            )
        resized = TorchRunner(self._model, dataclasses.replace(self.spec, input_size=size))
        resized.name = self.name
        return resized

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32."""
        check_images(images, self.spec)
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()  # NHWC memory: channels_last
            return self._model((pixels - self._mean) / self._std)["out"].float().cpu().numpy()
