"""Checkpoints of hszhao/semseg and mmsegmentation give here the logits that those projects' networks give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pspnet.checkpoint import load_model, save_checkpoint
from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.initialise import new_model
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from tests.nets import CAMVID
from tests.semseg_restated import MmsegPSPNet, SemsegPSPNet
from tests.test_pspnet_model import assert_same, randomise

CLASSES = 11
PICTURE = (1, 3, 65, 81)  # 8 k + 1, as semseg asks; a map of 9 x 11


def model_from(path: Path, **asked: Any) -> tuple[ModelSpec, PSPNet]:
    """What `pspnet train --weights path` begins with for CamVid's 11 classes; None is a flag that was not given."""
    given = {**dict.fromkeys(("backbone", "output_stride", "bins", "fit", "align_corners")), **asked}
    dataset = open_dataset("camvid11", CAMVID, "train")
    spec, model = new_model(dataset, size=(65, 81), weights=str(path), seed=0, **given)
    return spec, model.eval()


def logits(model: PSPNet, images: Tensor) -> list[Tensor]:
    """ "out", then the aux heads' in their order, without dropout and with stored statistics."""
    with torch.inference_mode():
        _, *maps = model.backbone(images, tuple(map(int, model.aux_heads)))
        return [model(images)["out"], *(h(x) for h, x in zip(model.aux_heads.values(), maps, strict=True))]


def seeded(net: nn.Module) -> nn.Module:
    """The net with reproducible weights, large enough that a misplaced layer shows in the logits."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return randomise(net)


@pytest.fixture(scope="module")
def mmseg18(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """mmsegmentation's PSPNet-R18 and its checkpoint."""
    net = seeded(MmsegPSPNet(18, CLASSES))
    path = tmp_path_factory.mktemp("mmseg") / "pspnet_r18-d8.pth"
    meta = {"mmseg_version": "0.30.0", "CLASSES": ("a", "b"), "iter": 80000}
    torch.save({"meta": meta, "state_dict": net.state_dict()}, path)
    return net, path


def test_semseg_resnet50_gives_the_same_logits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    net = seeded(SemsegPSPNet(50, CLASSES))
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"epoch": 200, "state_dict": state, "optimizer": {}}, tmp_path / "train_epoch_200.pth")
    spec, ours = model_from(tmp_path / "train_epoch_200.pth")
    x = torch.randn(PICTURE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = net(x)
    for value, reference in zip(logits(ours, x), expected, strict=True):
        assert_same(value, reference)
    assert (spec.backbone, spec.stem, spec.dilation, spec.align_corners) == ("resnet50", "deep", "semseg", True)
    assert (spec.branch_channels, spec.head_channels, spec.aux_channels) == (512, 512, 256)
    assert (spec.output_stride, spec.bins, spec.aux_stages) == (8, (1, 2, 3, 6), (3,))
    note = capsys.readouterr().out
    assert "hszhao/semseg" in note and "the classifier is kept" in note and "aux head of stage 3" in note


@pytest.mark.parametrize(("depth", "v1c", "stages"), [(50, False, (3,)), (18, True, (3,)), (18, True, (3, 2))])
def test_mmsegmentation_gives_the_same_logits(depth: int, v1c: bool, stages: tuple[int, ...], tmp_path: Path) -> None:
    net = seeded(MmsegPSPNet(depth, CLASSES, v1c, tuple(stage - 1 for stage in stages)))
    torch.save({"meta": {}, "state_dict": net.state_dict(), "optimizer": None}, tmp_path / "pspnet.pth")
    spec, ours = model_from(tmp_path / "pspnet.pth")
    x = torch.randn(PICTURE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = net(x)
    for value, reference in zip(logits(ours, x), expected, strict=True):
        assert_same(value, reference)
    assert (spec.backbone, spec.stem) == (f"resnet{depth}", "v1c" if v1c else "7x7")
    assert (spec.dilation, spec.align_corners, spec.aux_stages) == ("contract", False, stages)
    assert spec.branch_channels == spec.head_channels == {50: 512, 18: 128}[depth]


def test_another_number_of_classes_drops_the_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    net = seeded(MmsegPSPNet(18, 19))
    torch.save({"state_dict": net.state_dict()}, tmp_path / "cityscapes.pth")
    _, ours = model_from(tmp_path / "cityscapes.pth", align_corners=True)  # which no key can tell
    assert "a new classifier, for 11 classes in place of 19" in capsys.readouterr().out
    own, theirs = ours.state_dict(), net.state_dict()
    assert own["head.classifier.weight"].shape[0] == own["aux_heads.3.classifier.bias"].shape[0] == CLASSES
    assert torch.equal(own["head.bottleneck.1.running_var"], theirs["decode_head.bottleneck.bn.running_var"])
    assert torch.equal(own["aux_heads.3.bottleneck.0.weight"], theirs["auxiliary_head.convs.0.conv.weight"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"backbone": "resnet50"}, "has backbone resnet18: leave out --backbone resnet50"),
        ({"stem": "deep"}, "has stem v1c: leave out --stem"),
        ({"dilation": "semseg"}, "has dilation contract"),
        ({"head_channels": 64}, "has head-channels 128"),
        ({"aux_stages": ()}, "has aux-stages 3: leave out --aux-stages none"),
        ({"bins": (1, 2, 3)}, "has 4 bins, not 3"),
    ],
)
def test_flags_that_contradict_the_file_are_refused(
    asked: dict[str, Any], words: str, mmseg18: tuple[nn.Module, Path]
) -> None:
    with pytest.raises(PspnetError) as caught:
        model_from(mmseg18[1], **asked)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_stride_and_bins_of_the_same_number_can_be_chosen(mmseg18: tuple[nn.Module, Path]) -> None:
    spec, _ = model_from(mmseg18[1], output_stride=16, bins=(1, 2, 3, 4), backbone="resnet18")
    assert (spec.output_stride, spec.bins) == (16, (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decode_head.psp_modules.0.1.conv.weight": None}, "no PSPNet that can be read"),
        ({"decode_head.aspp_modules.0.conv.weight": torch.zeros(2)}, "decode_head.aspp_modules.0.conv.weight is"),
        ({"backbone.layer4.2.conv1.weight": torch.zeros(2)}, "no PSPNet that can be read"),  # no known depth
        ({"backbone.layer2.0.bn1.weight": None}, "backbone.early.11.0.bn1.weight is missing"),
        ({"backbone.layer2.0.bn1.weight": torch.zeros(3)}, "of another shape"),
    ],
)
def test_other_networks_of_these_projects_are_refused(
    change: dict[str, Tensor | None], words: str, mmseg18: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    state = {**mmseg18[0].state_dict(), **change}
    torch.save({"state_dict": {k: v for k, v in state.items() if v is not None}}, tmp_path / "other.pth")
    with pytest.raises(PspnetError, match=words):
        model_from(tmp_path / "other.pth")


def test_a_file_with_other_objects_says_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "mmengine.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "message_hub": np.random.RandomState(0)}, path)
    with pytest.raises(PspnetError) as caught:
        model_from(path)
    assert "holds more than tensors" in str(caught.value) and "\n" not in str(caught.value)
    command = str(caught.value).split('python -c "')[1].rstrip('"')
    converted = tmp_path / "tensors.pth"
    exec(command.replace("'tensors.pth'", repr(str(converted))))  # what the user is told to run
    assert list(torch.load(converted, weights_only=True)) == ["a"]


@pytest.mark.parametrize(("stem", "indexed"), [("deep", False), ("v1c", True)])
def test_a_backbone_with_three_convolutions_is_read(stem: str, indexed: bool, tmp_path: Path) -> None:
    """initmodel/resnet50_v2.pth of semseg has conv1 … bn3, mmsegmentation's resnet18_v1c has stem.0 … stem.7."""
    if indexed:
        net: nn.Module = seeded(MmsegPSPNet(18, CLASSES)).backbone  # type: ignore[assignment]
        state = net.state_dict()
    else:
        net = seeded(SemsegPSPNet(18, CLASSES))
        names = {"layer0.0": "conv1", "layer0.1": "bn1", "layer0.3": "conv2", "layer0.4": "bn2", "layer0.6": "conv3"}
        names["layer0.7"] = "bn3"
        state = {
            key if key[:8] not in names else names[key[:8]] + key[8:]: value
            for key, value in net.state_dict().items() if key.startswith("layer")
        }  # fmt: skip
    torch.save({**state, "fc.weight": torch.zeros(3, 3)}, tmp_path / "backbone.pth")
    dilation = "contract" if indexed else "semseg"
    asked = {"backbone": "resnet18", "stem": stem, "dilation": dilation}
    _, ours = model_from(tmp_path / "backbone.pth", **asked)
    x = torch.randn(PICTURE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = net(x)[-1] if indexed else net.features(x)[0]
        assert_same(ours.backbone(x)[0], expected)
    with pytest.raises(PspnetError, match="Give weights of the same backbone and stem"):
        model_from(tmp_path / "backbone.pth", backbone="resnet18")
    with pytest.raises(PspnetError, match="7x7 stem only"):
        model_from(Path("imagenet"), **asked)


def test_the_command_line_says_what_contradicts_the_file(
    mmseg18: tuple[nn.Module, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["train", "--data", str(CAMVID), "--dataset", "camvid11", "-o", str(tmp_path / "run")]
    for flags, words in (
        (["--weights", str(mmseg18[1]), "--stem", "deep"], "leave out --stem deep"),
        (["--weights", "none", "--backbone", "resnet18", "--stem", "5x5"], "7x7, deep, v1c"),
        (["--weights", "none", "--stem", "v1c"], "mobilenet_v2 has a stem of its own"),
        (["--weights", "none", "--dilation", "hybrid"], "semseg, contract"),
        (["--weights", "none", "--aux-stages", "3,5"], "stages of 1 to 4"),
        (["--weights", "none", "--aux-stages", "three"], "whole numbers with commas"),
        (["--weights", "none", "--head-channels", "0"], "--head-channels is 0: it must be 1 to"),
        (["--init", "best.pt", "--aux-stages", "none"], "the network from the checkpoint: leave out --aux-stages"),
    ):
        capsys.readouterr()
        assert main([*common, *flags]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1


def test_an_older_checkpoint_with_one_aux_head_loads(tmp_path: Path) -> None:
    spec, model = model_from(Path("none"), backbone="resnet18")
    old = {name.replace("aux_heads.3.", "aux_head."): value for name, value in model.state_dict().items()}
    assert "aux_head.classifier.weight" in old
    save_checkpoint(tmp_path / "old.pt", spec, old)
    _, loaded = load_model(tmp_path / "old.pt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
