"""Checkpoints on PyTorch, the reference that every other engine is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pspnet.checkpoint import load_model
from pspnet.spec import ModelSpec
from runtime.runner import ClosingRunner, check_images


class TorchRunner(ClosingRunner):
    """A PSPNet in float32 on the device where its weights are."""

    engine, precision = "torch", "fp32"

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._mean = torch.tensor(spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=self._device).view(1, 3, 1, 1)

    @classmethod
    def from_checkpoint(cls, path: str | Path, threads: int) -> TorchRunner:
        """The checkpoint on the CPU, in channels_last."""
        torch.set_num_threads(threads)
        spec, model = load_model(path)
        return cls(model.to(memory_format=torch.channels_last), spec)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32."""
        check_images(images, self.spec)
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()  # NHWC memory: channels_last
            return self._model((pixels - self._mean) / self._std)["out"].float().cpu().numpy()
