"""PyTorch's CPU in place of its GPU, with our kernels on the CUDA driver double."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pspnet.checkpoint import load_model
from pspnet.errors import PspnetError
from runtime.cuda import open_device
from runtime.torch_cuda import TorchNetwork


class OnDouble(TorchNetwork):
    """It knows no streams, and runs at once."""

    def _on(self, stream: Any) -> Any:
        return nullcontext()

    def _settle(self) -> None:
        pass

    def capturing(self) -> Any:
        """Refused: what runs at once is in no graph."""
        if hasattr(torch.cuda, "MemPool"):
            raise PspnetError("PyTorch on a CPU cannot be captured. Use a GPU")
        return super().capturing()


def network_of(checkpoint: Path) -> OnDouble:
    """A checkpoint in float16, on a device of its own."""
    spec, model = load_model(checkpoint)
    return OnDouble(model, spec, str(checkpoint), open_device(), torch.device("cpu"))
