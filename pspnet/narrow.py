"""Networks that are narrower than the standard ones: the widths that pruning left, as a table in the spec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pspnet.errors import PspnetError

PROBE = 64  # side in pixels of the black picture that shows which layer reads which


def narrow(network: Any, channels: dict[str, int]) -> None:
    """Make the convolutions named in `channels` so narrow, and everything that reads them, too.

    network: a new PSPNet; its weights become slices of what they are. How many channels a layer reads is seen in one
    forward pass, so the table holds outputs only. PspnetError where it names no convolution of this network, or where
    maps that are added or multiplied would have different widths.
    """
    if not channels:
        return
    names = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    wrong = [name for name, width in channels.items() if name not in names or width > names[name].out_channels]
    if wrong:
        raise PspnetError(f"the spec of this artefact is damaged: {wrong[0]} cannot have {channels[wrong[0]]} channels")
    widths = {module: channels.get(name, module.out_channels) for name, module in names.items()}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: _fit(module, inputs[0].shape[1], widths.get(module)))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        _read_all(network)
    except RuntimeError as error:
        detail = str(error).splitlines()[0]
        raise PspnetError(
            f"the channels in this artefact's spec do not fit together ({detail}). Prune again"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _read_all(network: Any) -> None:
    """Send a picture through the network and all its aux heads, and note the widths of the stages."""
    device, training = next(network.parameters()).device, network.training
    network.eval()  # no batch norm statistics of one small picture
    with torch.no_grad():
        features, *maps = network.backbone(torch.zeros(1, 3, PROBE, PROBE, device=device), (1, 2, 3, 4))
        network.head(features)
        for stage, head in network.aux_heads.items():
            head(maps[int(stage) - 1])
    network.backbone.stage_channels = tuple(x.shape[1] for x in maps)
    network.backbone.channels = features.shape[1]
    network.train(training)


def _fit(module: nn.Module, read: int, width: int | None) -> None:
    """Let a layer read `read` channels; a convolution writes `width`, a depthwise one as many as it reads."""
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = read
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.ndim:
                _replace(module, name, value[:read])
    elif isinstance(module, nn.Conv2d):
        if module.groups > 1:
            module.groups = module.in_channels = module.out_channels = read
            _replace(module, "weight", module.weight[:read])
        else:
            assert width is not None
            module.in_channels, module.out_channels = read, width
            _replace(module, "weight", module.weight[:width, :read])
        if module.bias is not None:
            _replace(module, "bias", module.bias[: module.out_channels])


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    value = value.detach().clone()
    setattr(module, name, nn.Parameter(value) if name in module._parameters else value)
