"""Pruning: what is left computes what a network with dead channels would, costs what it promises, and travels on."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pspnet.checkpoint import load_model, replace_spec, save_checkpoint
from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.initialise import model_from_checkpoint
from pspnet.model import PSPNet
from pspnet.prune import Group, coupled_groups, layer_costs, multiply_adds, pruned, without_channels
from pspnet.spec import ModelSpec
from runtime.runner import open_runner
from tests.nets import random_model

SIZE = (96, 128)
GOAL = 0.6
CLOSE = 0.05  # many layers have the same width and lose 8 channels at the same moment
SAME = 1e-5  # of the largest logit: float32 sums over fewer channels, in another order
Pruned = tuple[ModelSpec, PSPNet, ModelSpec, PSPNet]


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v3_large"])
def pair(request: pytest.FixtureRequest) -> Pruned:
    """A network and what pruning made of it; one with residual sums, one with depthwise layers and squeezes too."""
    spec, model = random_model(request.param, 16, SIZE, aux_stages=(3, 2))
    return spec, model, *pruned(spec, model, GOAL)


def outputs(model: PSPNet, training: bool = True) -> dict[str, torch.Tensor]:
    """All heads' logits of seeded noise; layers are in eval mode, `training` of the whole asks for the aux heads."""
    model.eval().training = training
    with torch.no_grad():
        found = model(torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    model.training = False
    return found


def silenced(model: PSPNet, groups: list[Group], left: dict[str, int]) -> PSPNet:
    """A copy whose least important channels are always 0, in every layer that shares them."""
    dead = copy.deepcopy(model)
    for group in groups:
        index = list(group.order[: len(group.order) - left.get(group.names[0], len(group.order))])
        for name in group.names:
            parent, _, last = name.rpartition(".")
            siblings = dict(dead.get_submodule(parent).named_children())
            after = siblings.get(
                last.replace("conv", "bn") if "conv" in last else str(int(last) + 1) if last.isdigit() else ""
            )
            layer: Any = after if isinstance(after, nn.BatchNorm2d) else siblings[last]
            with torch.no_grad():
                layer.weight[index] = 0
                layer.bias[index] = 0
    return dead


def test_the_pruned_network_computes_what_one_with_dead_channels_does(pair: Pruned) -> None:
    _, model, smaller, network = pair
    expected = outputs(silenced(model, coupled_groups(model), smaller.channels))
    found = outputs(network)
    assert set(found) == {"out", "aux3", "aux2"}
    for head, logits in expected.items():
        assert found[head].shape == logits.shape
        torch.testing.assert_close(found[head], logits, rtol=0, atol=SAME * float(logits.abs().max()))


def test_rebuilt_from_its_spec_it_equals_what_torch_pruning_left(pair: Pruned) -> None:
    _, model, smaller, network = pair
    removed = {g.names[0]: g.order[: len(g.order) - smaller.channels.get(g.names[0], len(g.order))]
               for g in coupled_groups(model)}  # fmt: skip
    left = outputs(without_channels(model, removed))
    for head, logits in outputs(network).items():
        assert torch.equal(logits, left[head])


def test_multiply_adds_fall_to_the_goal_in_channels_of_eight(pair: Pruned) -> None:
    spec, model, smaller, network = pair
    counted = []
    for net in (model, network):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, *SIZE))
        counted.append(counter.get_total_flops() // 2)
    assert [multiply_adds(spec), multiply_adds(smaller)] == counted
    assert GOAL - CLOSE < counted[1] / counted[0] <= GOAL
    assert smaller.channels and all(width % 8 == 0 for width in smaller.channels.values())
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.out_channels == smaller.channels.get(name, model.get_submodule(name).out_channels)
    assert network.head.classifier.out_channels == spec.classes
    assert network.backbone.channels == network.head.ppm.branches[0][0].in_channels


def test_the_least_important_channels_go() -> None:
    spec, model = random_model("resnet18", 16, SIZE)
    weak = [*range(0, 128, 4)]
    with torch.no_grad():
        model.head.bottleneck[1].weight[weak] = 1e-6
        model.head.bottleneck[0].weight[weak] *= 100  # large weights do not count for the method bn
    for method, stays in (("bn", False), ("magnitude", True)):
        _, network = pruned(spec, model, 0.6, method)
        kept = [bool((network.head.bottleneck[1].weight == value).any()) for value in model.head.bottleneck[1].weight]
        assert sum(kept) > 64 and kept[weak[0]] is stays


def test_a_pruned_network_can_be_pruned_again(pair: Pruned) -> None:
    _, _, once, network = pair
    twice, network = pruned(once, network, 0.7)
    assert multiply_adds(twice) <= 0.7 * multiply_adds(once)
    assert twice.channels.keys() >= once.channels.keys()
    assert outputs(network)["out"].shape == (2, 11, 6, 8)


def test_it_travels_as_a_checkpoint_and_as_a_graph(
    tmp_path: Path, camvid_tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, model = random_model("resnet18", 16, SIZE)
    whole, small, graph = (tmp_path / name for name in ("whole.pt", "small.pt", "small.onnx"))
    save_checkpoint(whole, spec, model.state_dict())
    assert main(["prune", str(whole), "--macs", "0.5", "-o", str(small), "--json", str(tmp_path / "p.json")]) == 0
    facts = json.loads((tmp_path / "p.json").read_text())
    assert f"({100 * facts['share_left']:.1f} %)" in capsys.readouterr().out and facts["share_left"] <= 0.5
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    for module in ("torch_pruning", "pspnet.prune"):
        monkeypatch.setitem(sys.modules, module, None)  # what was pruned is used without either
    loaded, _ = load_model(small)
    assert loaded.channels == facts["channels"] and loaded.recipe["pruned"] == "whole.pt" and not loaded.metrics
    with open_runner(small, "auto", 1) as runner:
        logits = runner.infer(pixels)
    assert main(["export", str(small), "-o", str(graph)]) == 0  # proves parity, or exits with 2
    with open_runner(graph, "ort", 1) as runner:
        assert runner.spec.channels == loaded.channels
        np.testing.assert_allclose(runner.infer(pixels), logits, rtol=0, atol=SAME * np.abs(logits).max())
    assert main(["inspect", str(small)]) == 0 and "channels" in capsys.readouterr().out
    dataset = open_dataset("camvid11", camvid_tiny, "train")
    tuned, _ = model_from_checkpoint(dataset, small, seed=0, output_stride=8)
    assert tuned.channels == loaded.channels and tuned.output_stride == 8


@pytest.mark.parametrize(
    ("macs", "method", "message"),
    [
        (0.0, "magnitude", "macs is 0: give the share of multiply-adds to keep, above 0 and below 1"),
        (float("nan"), "magnitude", "macs is nan"),
        (
            0.001,
            "magnitude",
            r"8 channels in every layer 0\.\d+ of the multiply-adds remain: give --macs 0\.\d+ or more",
        ),
        (0.5, "taylor", "pruning method is 'taylor': choose one of magnitude, bn"),
    ],
)
def test_what_cannot_be_pruned_is_refused(macs: float, method: str, message: str) -> None:
    spec, model = random_model("mobilenet_v2", 16, SIZE)
    with pytest.raises(PspnetError, match=message):
        pruned(spec, model, macs, method)


def test_the_advice_of_a_refusal_can_be_followed() -> None:
    spec, model = random_model("mobilenet_v2", 16, SIZE)
    with pytest.raises(PspnetError) as refusal:
        pruned(spec, model, 0.001)
    found = re.search(r"--macs ([\d.]+)", str(refusal.value))
    assert found and multiply_adds(pruned(spec, model, float(found[1]))[0]) > 0


@pytest.mark.parametrize(
    "channels",
    [
        {"backbone.nothing": 8}, {"head.bottleneck.0": 4096}, {"head.bottleneck.0": 0}, {"head.bottleneck.0": "8"},
        {"backbone.early.5.0.conv2": 64},
    ],
)  # fmt: skip
def test_damaged_widths_are_refused(channels: dict[str, Any]) -> None:
    spec, _ = random_model("resnet18", 16, SIZE)
    with pytest.raises(PspnetError, match=r"damaged|do not fit together"):
        PSPNet(replace_spec(spec, channels=channels))


def test_costs_by_layer_name_every_convolution_but_the_aux_heads() -> None:
    spec, model = random_model("resnet18", 16, SIZE)
    names = {name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    assert set(layer_costs(spec)) == {name for name in names if not name.startswith("aux_heads.")}
