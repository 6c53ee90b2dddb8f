"""Stems, dilations, aux heads, widths and mobilenet_v3_large, against torchvision's own networks where they agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import SqueezeExcitation

from pspnet.backbone import Backbone
from pspnet.checkpoint import load_model, save_checkpoint
from pspnet.describe import facts_of_checkpoint, text_of
from pspnet.errors import PspnetError
from pspnet.model import PSPNet, default_widths
from pspnet.spec import ModelSpec
from tests.nets import random_model
from tests.test_pspnet_model import assert_same, randomise


def make_spec(backbone: str = "resnet18", **changes: Any) -> ModelSpec:
    """A spec of three classes for small pictures."""
    branch, head, aux = default_widths(backbone)
    fields: dict[str, Any] = {
        "output_stride": 8, "bins": (1, 2, 3), "branch_channels": branch, "head_channels": head, "aux_channels": aux,
        "class_names": ("a", "b", "c"), "palette": ((0, 0, 0),) * 3, "input_size": (65, 97),
    }  # fmt: skip
    return ModelSpec(backbone, **{**fields, **changes})


def assert_copies(ours: nn.Module, reference: nn.Module, height: int = 65, width: int = 97) -> None:
    """Fails where `ours` differs from `reference` on a seeded picture, given the reference's weights in order."""
    own, theirs = ours.state_dict(), randomise(reference).state_dict()
    assert len(own) == len(theirs)
    ours.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
    x = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert_same(ours.eval()(x)[0], reference(x))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_contract_dilation_of_bottlenecks_is_torchvisions(output_stride: int) -> None:
    net = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
    assert_copies(Backbone("resnet50", output_stride, "7x7", "contract"), nn.Sequential(*list(net.children())[:-2]))


def test_mobilenet_v3_at_stride_16_is_torchvisions_dilated_one() -> None:
    net = torchvision.models.mobilenet_v3_large(weights=None, dilated=True)
    assert_copies(Backbone("mobilenet_v3_large", 16), net.features[:-1])


@pytest.mark.parametrize(("part", "rate"), [("before_last", 2), ("last", 4)])
def test_dilated_mobilenet_v3_is_the_undilated_one_on_every_rate_th_pixel(part: str, rate: int) -> None:
    """All its kernels, 5x5 too; squeeze-excitation is left out here, as its mean is over the whole map."""
    dilated, plain = (getattr(Backbone("mobilenet_v3_large", stride), part) for stride in (8, 32))
    for stage in (dilated, plain):
        randomise(stage)
        for block in stage.modules():
            for name, child in block.named_children():
                if isinstance(child, SqueezeExcitation):
                    setattr(block, name, nn.Identity())
    plain.load_state_dict(dilated.state_dict())
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    channels = next(m for m in dilated.modules() if isinstance(m, nn.Conv2d)).in_channels
    x = torch.randn(1, channels, 4 * rate, 6 * rate, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full = dilated(x)
        for row, column in ((0, 0), (rate - 1, 1)):
            assert_same(full[:, :, row::rate, column::rate], plain(x[:, :, row::rate, column::rate]))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "mobilenet_v3_large"])
def test_taps_are_the_maps_at_strides_4_to_32(backbone: str) -> None:
    net = randomise(getattr(torchvision.models, backbone)(weights=None))
    ours = Backbone(backbone, 32)
    own, theirs = ours.state_dict(), net.state_dict()
    ours.load_state_dict(dict(zip(own, list(theirs.values())[: len(own)], strict=True)))
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if backbone == "resnet18":
            y = net.maxpool(net.relu(net.bn1(net.conv1(x))))
            maps = [y := layer(y) for layer in (net.layer1, net.layer2, net.layer3, net.layer4)]
        else:
            maps = [net.features[:end](x) for end in {"mobilenet_v2": (4, 7, 14, 18)}.get(backbone, (4, 7, 13, 16))]
        last, *taps = ours.eval()(x, (1, 2, 3, 4))
    assert_same(last, maps[3])
    for stage, (tap, reference) in enumerate(zip(taps, maps, strict=True), 1):
        assert_same(tap, reference)
        assert tap.shape[2:] == (64 // 2 ** (stage + 1), 96 // 2 ** (stage + 1))
        assert tap.shape[1] == ours.stage_channels[stage - 1]


@pytest.mark.parametrize("stages", [(), (3,), (3, 2), (1, 4)])
def test_each_aux_stage_has_a_head_and_a_key(stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = PSPNet(make_spec(aux_stages=stages))
        outputs = model.train()(torch.zeros(2, 3, 65, 97))
        assert list(model.eval()(torch.zeros(2, 3, 65, 97))) == ["out"]
    assert list(outputs) == ["out", *(f"aux{stage}" for stage in stages)]
    maps = {1: (17, 25), 2: (9, 13), 3: (9, 13), 4: (9, 13)}
    assert all(outputs[f"aux{stage}"].shape == (2, 3, *maps[stage]) for stage in stages)
    inputs = {int(stage): head.bottleneck[0].in_channels for stage, head in model.aux_heads.items()}
    assert inputs == {stage: 64 * 2 ** (stage - 1) for stage in stages}


def test_each_aux_head_reads_its_own_stage() -> None:
    """Only the backbone's layers up to the stage get a gradient from its aux output."""
    model = PSPNet(make_spec(aux_stages=(3, 2)))
    model(torch.randn(2, 3, 65, 65))["aux2"].sum().backward()
    with_gradient = {
        name.split(".")[1] for name, p in model.backbone.named_parameters(prefix="b") if p.grad is not None
    }
    assert with_gradient == {"early"}
    assert (
        model.aux_heads["2"].classifier.weight.grad is not None and model.aux_heads["3"].classifier.weight.grad is None
    )


def test_widths_are_those_of_the_spec() -> None:
    with torch.device("meta"):
        model = PSPNet(make_spec(branch_channels=24, head_channels=40, aux_channels=12, stem="deep"))
    assert [branch[0].out_channels for branch in model.head.ppm.branches] == [24] * 3
    assert model.head.bottleneck[0].in_channels == 512 + 3 * 24 and model.head.classifier.in_channels == 40
    assert model.aux_heads["3"].bottleneck[0].out_channels == 12
    assert [m.out_channels for m in model.backbone.early if isinstance(m, nn.Conv2d)] == [64, 64, 128]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": "5x5"}, "7x7, deep, v1c"),
        ({"backbone": "mobilenet_v3_large", "stem": "deep"}, "has a stem of its own"),
        ({"dilation": "hybrid"}, "semseg, contract"),
        ({"aux_stages": (3, 3)}, "all different"),
        ({"aux_stages": (0,)}, "stages of 1 to 4"),
        ({"aux_stages": (True,)}, "stages of 1 to 4"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PspnetError, match=words) as caught:
        make_spec(**changes)
    assert "\n" not in str(caught.value)


def test_options_survive_json_and_may_be_absent_in_it() -> None:
    spec = make_spec(stem="v1c", dilation="contract", aux_stages=(3, 2))
    assert ModelSpec.from_json(spec.to_json()) == spec
    old = {k: v for k, v in json.loads(spec.to_json()).items() if k not in ("stem", "dilation", "aux_stages")}
    assert ModelSpec.from_json(json.dumps(old)) == make_spec(stem="7x7", dilation="semseg", aux_stages=(3,))


def test_a_checkpoint_from_before_these_options_loads(tmp_path: Path) -> None:
    """It has one aux head, under its old name, and its spec says nothing of stem, dilation and aux stages."""
    spec, model = random_model("mobilenet_v2", 32, (192, 192))
    save_checkpoint(tmp_path / "old.pt", spec, model.state_dict())
    raw = torch.load(tmp_path / "old.pt", weights_only=True)
    raw["model"] = {name.replace("aux_heads.3.", "aux_head."): value for name, value in raw["model"].items()}
    fields = json.loads(raw["spec"])
    raw["spec"] = json.dumps({k: v for k, v in fields.items() if k not in ("stem", "dilation", "aux_stages")})
    assert "aux_head.classifier.weight" in raw["model"]
    torch.save(raw, tmp_path / "old.pt")
    found, loaded = load_model(tmp_path / "old.pt")
    assert found == spec and found.aux_stages == (3,)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(("backbone", "shown"), [("resnet18", True), ("mobilenet_v2", False)])
def test_inspect_shows_the_options(backbone: str, shown: bool, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"")
    spec, model = random_model(backbone, 32, (161, 161), dilation="contract", aux_stages=(3, 2))
    text = text_of(facts_of_checkpoint(tmp_path / "m.pt", spec, {"model": model.state_dict()}))
    fields = {words[0]: " ".join(words[1:]) for line in text.splitlines() if (words := line.split())}
    assert (fields["dilation"], fields["aux_stages"]) == ("contract", "3, 2")
    assert fields.get("stem") == ("7x7" if shown else None)  # mobilenets have one of their own
