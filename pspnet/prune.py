"""Structured pruning: whole channels go, what is left is a smaller dense network. torch-pruning finds what is coupled.

Every layer loses the same share of its channels, those with the lowest importance, and keeps a multiple of 8. Layers
that are added, multiplied or depthwise share their channels, so they are ranked and pruned together (Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023, https://arxiv.org/abs/2301.12900).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from pspnet.checkpoint import load_model, model_from_state, replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec

MULTIPLE = 8  # sides of products that tensor cores and INT8 kernels run at full speed
HALVINGS = 12  # of the interval of the share: 1/4096 of a layer is less than one channel

METHODS = ("magnitude", "bn")
"""magnitude: L2 norm of a channel's weights over all coupled layers; bn: its batch norm factors (Liu et al., ICCV 2017,
"Network Slimming")."""


@dataclass(frozen=True)
class Group:
    """Convolutions whose output channels are the same ones or are added or multiplied.

    names: of the convolutions, the one that pruning starts from first. readers: of the convolutions that read these
    channels, except depthwise ones. order: channels, the least important first.
    """

    names: tuple[str, ...]
    readers: tuple[str, ...]
    order: tuple[int, ...]

    def width(self, share: float) -> int:
        """Channels that are left when `share` of them goes: the nearest multiple of 8, never none."""
        rounded = int(len(self.order) * (1 - share) / MULTIPLE + 0.5) * MULTIPLE
        return min(max(rounded, MULTIPLE), len(self.order))

    def removed(self, share: float) -> tuple[int, ...]:
        """The channels that go."""
        return self.order[: len(self.order) - self.width(share)]


def prune(checkpoint: str | Path, output: str | Path, macs: float, method: str = "magnitude") -> dict[str, Any]:
    """Write the pruned checkpoint and return what it costs before and after; `pruned` says what the arguments mean."""
    spec, model = load_model(checkpoint)
    smaller, network = pruned(spec, model, macs, method)
    record = {"pruned": Path(checkpoint).name, "macs": macs, "method": method, "init_recipe": spec.recipe}
    save_checkpoint(output, replace_spec(smaller, recipe=record, metrics={}), network.state_dict())
    costs = {
        "multiply_adds": [multiply_adds(spec), multiply_adds(smaller)],
        "parameters": [sum(p.numel() for p in m.parameters()) for m in (model, network)],
    }
    return {
        "checkpoint": str(output), "method": method, "input_size": list(spec.input_size), **costs,
        "share_left": costs["multiply_adds"][1] / costs["multiply_adds"][0], "channels": smaller.channels,
    }  # fmt: skip


def pruned(spec: ModelSpec, model: PSPNet, macs: float, method: str = "magnitude") -> tuple[ModelSpec, PSPNet]:
    """A narrower copy of `model` in eval mode with at most `macs` of its multiply-adds, and its spec.

    The number of classes and the maps' sizes stay. Its scores fall until it is fine-tuned. PspnetError where so few
    multiply-adds cannot be reached.
    """
    if method not in METHODS:
        raise PspnetError(f"pruning method is {method!r}: choose one of {', '.join(METHODS)} with --method")
    if not 0 < macs < 1:
        raise PspnetError(
            f"macs is {macs:g}: give the share of multiply-adds to keep, above 0 and below 1, with --macs"
        )
    groups = coupled_groups(model, method)
    share = _share_within(layer_costs(spec), groups, macs)
    widths = {name: group.width(share) for group in groups for name in group.names if group.removed(share)}
    smaller = replace_spec(spec, channels={**spec.channels, **widths})
    network = without_channels(model, {group.names[0]: group.removed(share) for group in groups})
    return smaller, model_from_state(smaller, network.state_dict(), "the pruned network")


def coupled_groups(model: PSPNet, method: str = "magnitude") -> list[Group]:
    """Every group whose channels may go: all but the classifiers', whose outputs are the classes."""
    graph = _graph(model)
    names = {module: name for name, module in model.named_modules()}
    classifiers = [module for module, name in names.items() if name.endswith(".classifier")]
    magnitude = tp.importance.GroupMagnitudeImportance(p=2)
    importance = tp.importance.BNScaleImportance() if method == "bn" else magnitude
    groups = []
    for group in graph.get_all_groups(ignored_layers=classifiers, root_module_types=(nn.Conv2d,)):
        scores = importance(group)
        if scores is None or not len(scores):  # no batch norm here, as in squeeze and excitation
            scores = magnitude(group)
        layers = [(d.handler, d.target.module) for d, _ in group if isinstance(d.target.module, nn.Conv2d)]
        coupled = dict.fromkeys(names[layer] for handler, layer in layers if graph.is_out_channel_pruning_fn(handler))
        readers = [names[layer] for handler, layer in layers if handler == tp.prune_conv_in_channels]
        groups.append(Group(tuple(coupled), tuple(readers), tuple(torch.argsort(scores, stable=True).tolist())))
    return groups


def without_channels(model: PSPNet, removed: Mapping[str, Sequence[int]]) -> PSPNet:
    """A copy of `model` without the given output channels, nor what is coupled to them; by a group's first name."""
    smaller = copy.deepcopy(model)
    graph = _graph(smaller)
    for name, indices in removed.items():
        if indices:
            convolution = smaller.get_submodule(name)
            graph.get_pruning_group(convolution, tp.prune_conv_out_channels, list(indices)).prune()
    return smaller


def multiply_adds(spec: ModelSpec) -> int:
    """Multiply-adds of all convolutions for one picture of the spec's input size; aux heads are not part of it."""
    return sum(cost for cost, *_ in layer_costs(spec).values())


def layer_costs(spec: ModelSpec) -> dict[str, tuple[int, int, int]]:
    """(multiply-adds, input channels per group, output channels) of every convolution, for one picture."""
    costs = {}
    with torch.device("meta"):  # shapes without numbers
        network = PSPNet(spec).eval()

        def record(name: str, module: Any, output: Tensor) -> None:
            area = output.shape[2] * output.shape[3]
            costs[name] = area * module.weight.numel(), module.weight.shape[1], module.out_channels

        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
        network(torch.zeros(1, 3, *spec.input_size))
    return costs


def _share_within(costs: dict[str, tuple[int, int, int]], groups: Sequence[Group], macs: float) -> float:
    """The smallest share of channels to remove that leaves at most `macs` of the multiply-adds, by halving."""

    def left(share: float) -> float:
        read = {name: reads for name, (_, reads, _) in costs.items()}
        written = {name: writes for name, (_, _, writes) in costs.items()}
        for group in groups:
            gone = len(group.removed(share))
            for name in group.readers:
                read[name] = read.get(name, 0) - gone
            for name in group.names:
                written[name] = written.get(name, 0) - gone
        after = sum(cost * read[n] * written[n] / (reads * writes) for n, (cost, reads, writes) in costs.items())
        return after / sum(cost for cost, *_ in costs.values())

    low, high = 0.0, 1.0
    if left(high) > macs:
        raise PspnetError(
            f"with {MULTIPLE} channels in every layer {left(high):.2g} of the multiply-adds remain: "
            f"give --macs {left(high) * 1.1:.2g} or more"
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= macs else (middle, high)
    return high


def _graph(model: PSPNet) -> tp.DependencyGraph:
    """torch-pruning's record of which channels depend on which, from one pass through the network and all aux heads."""
    side = 32 * max(model.head.ppm.bins, default=1)  # a map as large as the largest bin at any output stride
    picture = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)

    def heads(network: Any, images: Tensor) -> list[Tensor]:
        features, *maps = network.backbone(images, tuple(map(int, network.aux_heads)))
        aux = [head(x) for head, x in zip(network.aux_heads.values(), maps, strict=True)]
        return [network.head(features), *aux]

    with torch.enable_grad():  # it reads the graph of autograd
        return tp.DependencyGraph().build_dependency(model.eval(), example_inputs=picture, forward_fn=heads)
