"""Dilated backbones: torchvision's classification nets cut into a stem and stages, at output stride 8, 16 or 32."""

from __future__ import annotations

import itertools
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from pspnet.errors import PspnetError
from pspnet.foreign_weights import read_state

STEM_WIDTHS = {"deep": (64, 64, 128), "v1c": (32, 32, 64)}
"""Channels of the three 3x3 convolutions: hszhao/semseg model/resnet.py, mmsegmentation's ResNetV1c."""


class GlobalMean(nn.Module):
    """The mean over the map, (N, C, H, W) -> (N, C, 1, 1); AdaptiveAvgPool2d(1) exports as a chain around a Gather."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Backbone(nn.Module):
    """Maps of a classification net's stages 1 to 4; stages 3 and 4 give up their stride where the output stride asks.

    Where a stride is removed, dilation takes its place, 2, or 4 in the last stage at output stride 8:
    "semseg" (hszhao/semseg): in every convolution larger than 1x1 of the stage, its first block included.
    "contract" (mmsegmentation's contract_dilation): the first block takes half of it, because what it reads was made
    with half; of a BasicBlock only the first convolution is dilated, as in mmseg/models/backbones/resnet.py.
    """

    def __init__(self, name: str, output_stride: int, stem: str = "7x7", dilation: str = "semseg") -> None:
        super().__init__()
        resnet = name.startswith("resnet")
        self.early, self.before_last, self.last = _resnet_stages(name, stem) if resnet else _mobilenet_stages(name)
        self.first_stage = len(self.early) - 1 if resnet else 4  # so many modules of early make the map at stride 4
        contract = dilation == "contract"
        if output_stride == 8:
            _dilate(self.before_last, 2, contract)
        if output_stride <= 16:
            _dilate(self.last, 4 if output_stride == 8 else 2, contract)
        stages = (self.early[: self.first_stage], self.early, self.before_last, self.last)
        self.stage_channels = tuple(map(_width, stages))
        self.channels = self.stage_channels[-1]

    def forward(self, images: Tensor, taps: tuple[int, ...] = (3,)) -> tuple[Tensor, ...]:
        """The last stage's map (N, C, H/output_stride, ...), then those of the stages in `taps`, in that order."""
        x, maps = images, {}
        for count, layer in enumerate(self.early, 1):
            x = layer(x)
            if count == self.first_stage:
                maps[1] = x  # (N, C1, H/4, ...)
        maps[2] = x  # (N, C2, H/8, ...)
        maps[3] = self.before_last(x)  # (N, C3, H/8 or H/16, ...)
        maps[4] = self.last(maps[3])  # (N, C, H/output_stride, ...)
        return maps[4], *(maps[stage] for stage in taps)


def load_backbone(backbone: Backbone, name: str, weights: str, stem: str = "7x7") -> str:
    """Load ImageNet weights into `backbone` and say in one line what was loaded.

    weights: "imagenet" (torchvision's, downloaded), "none", or a file with a state dict of torchvision's key names; a
    stem of three convolutions is conv1 to bn3 (hszhao/semseg's initmodel) or stem.0 to stem.7 (mmsegmentation's v1c).
    Tensors that the file lacks keep their random initialisation; a file that fits nothing, or in shape not, is refused.
    """
    if weights == "none":
        return "backbone: random initialisation"
    if weights == "imagenet" and stem != "7x7":
        raise PspnetError(
            f"torchvision has ImageNet weights of the 7x7 stem only: for --stem {stem} give --weights FILE or none"
        )
    state = _imagenet_state(name) if weights == "imagenet" else _without_stem_indices(read_state(Path(weights)))
    wanted = backbone.state_dict()
    loaded = {}
    for key, target in _file_keys(name, stem, backbone).items():
        if target not in state:
            continue
        if state[target].shape != wanted[key].shape:
            raise PspnetError(
                f"{weights}: {target} is {tuple(state[target].shape)}, {name} with the stem {stem} needs "
                f"{tuple(wanted[key].shape)}. Give weights of the same backbone and stem"
            )
        loaded[key] = state[target].to(wanted[key].dtype)
    if not loaded:
        raise PspnetError(f"{weights} holds no tensor of {name}: a state dict with torchvision's key names is needed")
    backbone.load_state_dict(loaded, strict=False)
    absent = [k for k in wanted if k not in loaded and not k.endswith("num_batches_tracked")]
    note = f", not in the file: {len(absent)} ({', '.join(absent[:3])} …)" if absent else ""
    return f"backbone: {len(loaded)} tensors from {weights}{note}"


def _resnet_stages(name: str, stem: str) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    net = getattr(torchvision.models, name)(weights=None)
    first = [net.conv1, net.bn1, net.relu, net.maxpool]
    if stem != "7x7":
        widths = STEM_WIDTHS[stem]
        layers = (_stem_layer(*pair, halve=pair[0] == 3) for pair in itertools.pairwise((3, *widths)))
        first = [*itertools.chain.from_iterable(layers), net.maxpool]
        if widths[-1] != net.bn1.num_features:
            _widen_input(net.layer1[0], widths[-1])
    return nn.Sequential(*first, net.layer1, net.layer2), net.layer3, net.layer4


def _stem_layer(channels: int, out_channels: int, halve: bool) -> list[nn.Module]:
    convolution = _convolution(channels, out_channels, 3, 2 if halve else 1)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _widen_input(block: BasicBlock | Bottleneck, channels: int) -> None:
    """Let the first block of layer1 read `channels`, as in hszhao/semseg; its shortcut then needs a projection."""
    block.conv1 = _convolution(channels, block.conv1.out_channels, block.conv1.kernel_size[0])
    width = block.conv1.out_channels * block.expansion
    block.downsample = nn.Sequential(_convolution(channels, width, 1), nn.BatchNorm2d(width))


def _convolution(channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet
    return convolution


def _mobilenet_stages(name: str) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    # The last 1x1 convolution, to 1280 or 960 channels, widens what classification pools. mmsegmentation drops v2's
    # too; behind v3's, the 3x3 bottleneck would take six times the multiply-adds, more than the whole backbone.
    features = getattr(torchvision.models, name)(weights=None).features
    for module in features.modules():
        if isinstance(module, SqueezeExcitation):
            module.avgpool = GlobalMean()
    cuts = (7, 14, 18) if name == "mobilenet_v2" else (7, 13, 16)
    return features[: cuts[0]], features[cuts[0] : cuts[1]], features[cuts[1] : cuts[2]]


def _dilate(stage: nn.Sequential, rate: int, contract: bool) -> None:
    for index, block in enumerate(stage):
        own = rate // 2 if contract and index == 0 else rate
        plain = block.conv2 if contract and isinstance(block, BasicBlock) else None
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size != (1, 1) and module is not plain:
                    module.dilation = (own, own)
                    module.padding = (own * (module.kernel_size[0] // 2), own * (module.kernel_size[1] // 2))


def _width(stage: nn.Sequential) -> int:
    return [m.num_features for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1]


def _file_keys(name: str, stem: str, backbone: Backbone) -> dict[str, str]:
    """Our key -> the key in a file, for every tensor of the backbone."""
    convolutions = 1 if stem == "7x7" else 3
    names = {str(3 * i + j): f"{kind}{i + 1}" for i in range(convolutions) for j, kind in enumerate(("conv", "bn"))}
    names |= {str(len(backbone.early) - 2): "layer1", str(len(backbone.early) - 1): "layer2"}

    def rename(key: str) -> str:
        part, rest = key.split(".", 1)
        if not name.startswith("resnet"):  # a slice of a Sequential keeps the indices of the whole
            return f"features.{rest}"
        if part != "early":
            return f"{'layer3' if part == 'before_last' else 'layer4'}.{rest}"
        index, rest = rest.split(".", 1)
        return f"{names[index]}.{rest}"

    return {key: rename(key) for key in backbone.state_dict()}


def _without_stem_indices(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files of mmsegmentation's backbones call a stem's layers stem.0, stem.1, stem.3 …; others conv1, bn1, conv2 …"""

    def rename(key: str) -> str:
        if not key.startswith("stem."):
            return key
        _, index, rest = key.split(".", 2)
        return f"{('conv', 'bn')[int(index) % 3]}{int(index) // 3 + 1}.{rest}"

    return {rename(key): value for key, value in state.items()}


def _imagenet_state(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if name.startswith("resnet") and hasattr(torchvision.models.get_model_weights(name), "IMAGENET1K_V1"):
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1  # V2's recipe transfers worse when dilated
    try:
        return weights.get_state_dict(progress=True)
    except OSError as error:
        raise PspnetError(
            f"ImageNet weights of {name} cannot be downloaded from {weights.url} ({error}). "
            "Fetch that file elsewhere and give it with --weights FILE"
        ) from error
