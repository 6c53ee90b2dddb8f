"""PSPNet as in Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017 (https://arxiv.org/abs/1612.01105)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet.backbone import Backbone
from pspnet.narrow import narrow
from pspnet.spec import ModelSpec

DROPOUT = 0.1  # hszhao/semseg model/pspnet.py


def conv_bn_relu(channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution without bias and with same padding, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Concatenates the map with its means over b x b bins, each reduced by a 1x1 convolution and spread back.

    (N, C, h, w) -> (N, C + len(bins) * branch_channels, h, w); without bins, the map itself.
    """

    def __init__(self, channels: int, branch_channels: int, bins: tuple[int, ...], align_corners: bool) -> None:
        super().__init__()
        self.bins, self.align_corners = bins, align_corners
        self.branches = nn.ModuleList(conv_bn_relu(channels, branch_channels, 1) for _ in bins)

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[2:]
        context = [features]
        for bin_size, branch in zip(self.bins, self.branches, strict=True):
            cells = branch(F.adaptive_avg_pool2d(features, bin_size))  # (N, branch_channels, b, b)
            context.append(F.interpolate(cells, size=size, mode="bilinear", align_corners=self.align_corners))
        return torch.cat(context, 1) if self.branches else features


class Head(nn.Sequential):
    """PPM, 3x3 bottleneck, dropout, 1x1 classifier: features (N, C, h, w) -> logits (N, classes, h, w)."""

    def __init__(self, channels: int, spec: ModelSpec) -> None:
        super().__init__()
        self.ppm = PyramidPooling(channels, spec.branch_channels, spec.bins, spec.align_corners)
        self.bottleneck = conv_bn_relu(channels + len(spec.bins) * spec.branch_channels, spec.head_channels, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(spec.head_channels, spec.classes, 1)


class AuxHead(nn.Sequential):
    """3x3 convolution, dropout, 1x1 classifier on an earlier stage's map; it supervises training only."""

    def __init__(self, channels: int, spec: ModelSpec) -> None:
        super().__init__()
        self.bottleneck = conv_bn_relu(channels, spec.aux_channels, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(spec.aux_channels, spec.classes, 1)


class PSPNet(nn.Module):
    """Normalised RGB (N, 3, H, W) float -> {"out": logits (N, classes, h, w)}; in training "aux3" … beside it.

    There is one "aux" key for each of the spec's aux stages; stages 1 and 2 have maps of H / 4 and H / 8. The logits
    stay at the head's resolution, H / output_stride: whoever needs labels or a loss interpolates them.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = Backbone(spec.backbone, spec.output_stride, spec.stem, spec.dilation)
        self.head = Head(self.backbone.channels, spec)
        widths = self.backbone.stage_channels
        self.aux_heads = nn.ModuleDict({str(stage): AuxHead(widths[stage - 1], spec) for stage in spec.aux_stages})
        narrow(self, spec.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stages = tuple(map(int, self.aux_heads)) if self.training else ()
        features, *maps = self.backbone(images, stages)
        aux = {f"aux{stage}": self.aux_heads[str(stage)](x) for stage, x in zip(stages, maps, strict=True)}
        return {"out": self.head(features), **aux}


def default_widths(backbone: str) -> tuple[int, int, int]:
    """(branch_channels, head_channels, aux_channels) of a backbone.

    Branches take C / 4 for four bins (the paper); head and aux as in mmsegmentation: R50/101 512 and 256, R18 128 and
    64. Mobilenets (C = 320 and 160) take R18's.
    """
    if backbone in ("resnet50", "resnet101"):
        return 512, 512, 256
    return {"mobilenet_v2": 80, "mobilenet_v3_large": 40}.get(backbone, 128), 128, 64
