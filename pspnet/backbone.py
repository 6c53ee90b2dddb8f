"""Dilated backbones: torchvision's classification nets cut into a stem and stages, at output stride 8, 16 or 32."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from pspnet.errors import PspnetError


class Backbone(nn.Module):
    """Returns the last stage's map (N, C, h, w) and that of the stage before it (N, C', h', w').

    Dilation follows hszhao/semseg: where a stride is removed, every 3x3 convolution of the stage takes dilation 2 (or 4
    in the last stage at output stride 8), its first block included.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        build = _mobilenet_stages if name == "mobilenet_v2" else _resnet_stages
        self.early, self.before_last, self.last = build(name)
        if output_stride == 8:
            _dilate(self.before_last, 2)
        if output_stride <= 16:
            _dilate(self.last, 4 if output_stride == 8 else 2)
        self.channels, self.aux_channels = _width(self.last), _width(self.before_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        before_last = self.before_last(self.early(images))  # (N, C', H/8 or H/16, ...)
        return self.last(before_last), before_last  # (N, C, H/output_stride, ...)


def load_backbone(backbone: Backbone, name: str, weights: str) -> str:
    """Load ImageNet weights into `backbone` and say in one line what was loaded.

    weights: "imagenet" (torchvision's, downloaded), "none", or a file with a state dict of torchvision's key names.
    Tensors that the file lacks keep their random initialisation; a file that fits nothing, or in shape not, is refused.
    """
    if weights == "none":
        return "backbone: random initialisation"
    state = _imagenet_state(name) if weights == "imagenet" else _state_from_file(Path(weights))
    wanted = backbone.state_dict()
    loaded = {}
    for key, target in _torchvision_keys(name, backbone).items():
        if target not in state:
            continue
        if state[target].shape != wanted[key].shape:
            raise PspnetError(
                f"{weights}: {target} is {tuple(state[target].shape)}, {name} needs {tuple(wanted[key].shape)}. "
                "Give weights of the same backbone"
            )
        loaded[key] = state[target].to(wanted[key].dtype)
    if not loaded:
        raise PspnetError(f"{weights} holds no tensor of {name}: a state dict with torchvision's key names is needed")
    backbone.load_state_dict(loaded, strict=False)
    absent = [k for k in wanted if k not in loaded and not k.endswith("num_batches_tracked")]
    note = f", not in the file: {len(absent)} ({', '.join(absent[:3])} …)" if absent else ""
    return f"backbone: {len(loaded)} tensors from {weights}{note}"


def _resnet_stages(name: str) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    net = getattr(torchvision.models, name)(weights=None)
    early = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
    return early, net.layer3, net.layer4


def _mobilenet_stages(name: str) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    # features[18], the 1x1 convolution to 1280 channels, serves classification only; mmsegmentation drops it too.
    features = getattr(torchvision.models, name)(weights=None).features
    return features[:7], features[7:14], features[14:18]


def _dilate(stage: nn.Sequential, rate: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate, rate)


def _width(stage: nn.Sequential) -> int:
    return [m.num_features for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1]


def _torchvision_keys(name: str, backbone: Backbone) -> dict[str, str]:
    """Our key -> torchvision's key, for every tensor of the backbone."""
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2"}

    def rename(key: str) -> str:
        part, rest = key.split(".", 1)
        if name == "mobilenet_v2":  # a slice of a Sequential keeps the indices of the whole
            return f"features.{rest}"
        if part != "early":
            return f"{'layer3' if part == 'before_last' else 'layer4'}.{rest}"
        index, rest = rest.split(".", 1)
        return f"{names[index]}.{rest}"

    return {key: rename(key) for key in backbone.state_dict()}


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


def _state_from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PspnetError(f"cannot read weights {path}: no such file. Give imagenet, none or a file with --weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file, OSError among them
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PspnetError(f"{path} is not a whole PyTorch state dict ({reason}). Fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise PspnetError(f"{path} is not a plain state dict. For one of our checkpoints use --init {path}")
    return state
