"""Networks with random weights, and where the repository's pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pspnet.dataset import open_dataset
from pspnet.model import PSPNet, default_widths
from pspnet.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
CAMVID = ROOT / "demo" / "camvid11_tiny"
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"


def random_model(backbone: str, output_stride: int, size: tuple[int, int], **changes: Any) -> tuple[ModelSpec, PSPNet]:
    """A seeded network for CamVid's classes whose batch norm has statistics and weights away from 0 and 1."""
    torch.manual_seed(0)
    classes = open_dataset("camvid11", CAMVID, "train").classes
    branch, head, aux = default_widths(backbone)
    spec = ModelSpec(
        backbone, output_stride, (1, 2, 3, 6), branch, head, aux, classes.names, classes.palette, size, **changes
    )
    model = PSPNet(spec)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return spec, model.eval()
