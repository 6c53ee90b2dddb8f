"""PSPNet as hszhao/semseg and as mmsegmentation write it, restated plainly, with their names of tensors.

From the facts of model/pspnet.py and model/resnet.py (semseg), and of backbones/resnet.py, utils/res_layer.py,
decode_heads/psp_head.py and fcn_head.py (mmsegmentation). Nothing here comes from our own model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = (1, 2, 3, 6)
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """A residual block; of a basic one, `second` is the dilation of its second convolution."""

    def __init__(
        self, channels: int, planes: int, stride: int, dilation: int, bottleneck: bool, second: int = 1
    ) -> None:
        super().__init__()
        self.width, self.bottleneck = planes * (4 if bottleneck else 1), bottleneck
        d = dilation
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, d, d, bias=False)
            self.conv3 = nn.Conv2d(planes, self.width, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(self.width)
        else:
            self.conv1 = nn.Conv2d(channels, planes, 3, stride, d, d, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, second, second, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        if stride != 1 or channels != self.width:
            shortcut = nn.Conv2d(channels, self.width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(self.width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


def layer(
    channels: int, planes: int, blocks: int, stride: int, dilations: tuple[int, int], bottleneck: bool, second: bool
) -> nn.Sequential:
    """A stage. dilations: of the first block, of the others. second: dilate a basic block's second convolution too."""
    parts = []
    for index in range(blocks):
        d = dilations[min(index, 1)]
        parts.append(Block(channels, planes, stride if index == 0 else 1, d, bottleneck, d if second else 1))
        channels = parts[-1].width
    return nn.Sequential(*parts)


def stem(widths: tuple[int, int, int]) -> list[nn.Module]:
    """Three 3x3 convolutions, the first of stride 2, each with norm and ReLU."""
    parts: list[nn.Module] = []
    for channels, width, stride in zip((3, *widths[:2]), widths, (2, 1, 1), strict=True):
        parts += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return parts


class SemsegBranches(nn.Module):
    """ppm.features of semseg: pool, 1x1 convolution, norm, ReLU; spread with align_corners=True."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(b), nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for b in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.interpolate(f(x), x.shape[2:], mode="bilinear", align_corners=True) for f in self.features]
        return torch.cat([x, *parts], 1)


class SemsegPSPNet(nn.Module):
    """PSPNet of hszhao/semseg at zoom factor 1: logits at an eighth of the input, and the aux head's."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        big = depth >= 50
        blocks, e = BLOCKS[depth], 4 if big else 1
        self.layer0 = nn.Sequential(*stem((64, 64, 128)), nn.MaxPool2d(3, 2, 1))
        self.layer1 = layer(128, 64, blocks[0], 1, (1, 1), big, True)
        self.layer2 = layer(64 * e, 128, blocks[1], 2, (1, 1), big, True)
        self.layer3 = layer(128 * e, 256, blocks[2], 1, (2, 2), big, True)
        self.layer4 = layer(256 * e, 512, blocks[3], 1, (4, 4), big, True)
        self.ppm = SemsegBranches(512 * e, 128 * e)
        self.cls = self.classifier(1024 * e, 512, classes)
        self.aux = self.classifier(256 * e, 256, classes)

    @staticmethod
    def classifier(channels: int, width: int, classes: int) -> nn.Sequential:
        """3x3 convolution, norm, ReLU, dropout, 1x1 convolution."""
        first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the stages 4 and 3."""
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        return self.layer4(third), third

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last, third = self.features(x)
        return self.cls(self.ppm(last)), self.aux(third)


class ConvModule(nn.Module):
    """mmcv's: convolution without bias, norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class MmsegBackbone(nn.Module):
    """ResNet (7x7 stem) or ResNetV1c with dilations (1, 1, 2, 4), strides (1, 2, 1, 1), contract_dilation=True."""

    def __init__(self, depth: int, v1c: bool) -> None:
        super().__init__()
        big = depth >= 50
        blocks, e = BLOCKS[depth], 4 if big else 1
        self.v1c = v1c
        if v1c:
            self.stem = nn.Sequential(*stem((32, 32, 64)))
        else:
            self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = layer(64, 64, blocks[0], 1, (1, 1), big, False)
        self.layer2 = layer(64 * e, 128, blocks[1], 2, (1, 1), big, False)
        self.layer3 = layer(128 * e, 256, blocks[2], 1, (1, 2), big, False)
        self.layer4 = layer(256 * e, 512, blocks[3], 1, (2, 4), big, False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(self.stem(x) if self.v1c else torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = [self.layer1(x)]
        for stage in (self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return tuple(maps)


class PSPHead(nn.Module):
    """PSPModule with align_corners=False, bottleneck, dropout, conv_seg."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvModule(channels, width, 1)) for b in BINS
        )
        self.bottleneck = ConvModule(channels + 4 * width, width, 3)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.interpolate(m(x), x.shape[2:], mode="bilinear", align_corners=False) for m in self.psp_modules]
        return self.conv_seg(self.bottleneck(torch.cat([x, *parts], 1)))


class FCNHead(nn.Module):
    """One 3x3 convolution and conv_seg."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvModule(channels, width, 3))
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.convs(x))


class MmsegPSPNet(nn.Module):
    """EncoderDecoder of configs/_base_/models/pspnet_r50-d8.py, or of its R18 and 7x7-stem relatives.

    aux_indices: backbone outputs that an auxiliary head reads; one alone is no list, as in the published configs.
    """

    def __init__(self, depth: int, classes: int, v1c: bool = True, aux_indices: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        e, width, aux = (4, 512, 256) if depth >= 50 else (1, 128, 64)
        self.backbone = MmsegBackbone(depth, v1c)
        self.decode_head = PSPHead(512 * e, width, classes)
        heads = [FCNHead(64 * 2**index * e, aux, classes) for index in aux_indices]
        self.aux_indices = aux_indices
        self.auxiliary_head: nn.Module = heads[0] if len(heads) == 1 else nn.ModuleList(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(x)
        heads = [self.auxiliary_head] if len(self.aux_indices) == 1 else list(self.auxiliary_head)  # type: ignore
        aux = (head(maps[index]) for head, index in zip(heads, self.aux_indices, strict=True))
        return self.decode_head(maps[-1]), *aux
