"""The network against hszhao/semseg's architecture, restated in plain torch on the same weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pspnet.backbone import Backbone, load_backbone
from pspnet.errors import PspnetError
from pspnet.model import AuxHead, Head, PSPNet, default_widths
from pspnet.spec import BACKBONES, OUTPUT_STRIDES, ModelSpec

SAME = 1e-5  # of max |reference|: float32, the same operations in another order at most
# Millions without the aux head, 19 classes: computed from the published architectures with the 7x7 stem.
WIDTHS = {
    "resnet50": (2048, 1024), "resnet101": (2048, 1024), "mobilenet_v2": (320, 96), "mobilenet_v3_large": (160, 112),
}  # fmt: skip
PARAMETERS = {"resnet18": (12.6, 0.15), "resnet50": (46.6, 2.36), "resnet101": (65.6, 2.36)}


def make_spec(backbone: str, output_stride: int, size: tuple[int, int] = (97, 129), classes: int = 5) -> ModelSpec:
    """A spec whose bins suit small pictures."""
    names, palette = tuple(map(str, range(classes))), ((0, 0, 0),) * classes
    return ModelSpec(backbone, output_stride, (1, 2, 3), *default_widths(backbone), names, palette, size)


def randomise(module: nn.Module) -> nn.Module:
    """Seeded batch norm statistics that are not those of a new network, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
            part.weight.data.uniform_(0.8, 1.2, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return module.eval()


def assert_same(ours: Tensor, reference: Tensor) -> None:
    """Fails where two tensors differ by more than SAME of the reference's maximum."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= SAME * reference.abs().max()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_output_shapes(backbone: str, output_stride: int) -> None:
    spec = make_spec(backbone, output_stride)
    with torch.device("meta"), torch.inference_mode():  # shapes without arithmetic
        model = PSPNet(spec).eval()
        out = model(torch.zeros(1, 3, *spec.input_size))
        assert list(out) == ["out"] and out["out"].shape == (1, 5, *spec.map_size)
        features, before_last = model.backbone(torch.zeros(1, 3, *spec.input_size))
    assert features.shape[1] == WIDTHS.get(backbone, (512, 256))[0]
    assert before_last.shape[1] == WIDTHS.get(backbone, (512, 256))[1]


def test_training_adds_the_aux_output() -> None:
    outputs = PSPNet(make_spec("resnet18", 8)).train()(torch.zeros(2, 3, 97, 129))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == dict.fromkeys(
        ("out", "aux3"), (2, 5, 13, 17)
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_head_equals_semseg_restated(align_corners: bool) -> None:
    spec = ModelSpec(
        "resnet18", 8, (1, 2, 3, 6), 16, 24, 8, ("a", "b", "c"), ((0, 0, 0),) * 3, (96, 96), align_corners=align_corners
    )
    head = randomise(Head(40, spec))
    w = head.state_dict()
    x = torch.randn(2, 40, 13, 17)

    def norm(y: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{name}.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / torch.sqrt(var + 1e-5) * scale + shift).clamp(min=0)

    with torch.inference_mode():
        parts = [x]
        for i, b in enumerate((1, 2, 3, 6)):  # model/pspnet.py, class PPM
            y = norm(F.conv2d(F.adaptive_avg_pool2d(x, b), w[f"ppm.branches.{i}.0.weight"]), f"ppm.branches.{i}.1")
            parts.append(F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=align_corners))
        y = norm(F.conv2d(torch.cat(parts, 1), w["bottleneck.0.weight"], padding=1), "bottleneck.1")
        assert_same(head(x), F.conv2d(y, w["classifier.weight"], w["classifier.bias"]))


def test_aux_head_equals_semseg_restated() -> None:
    aux = randomise(AuxHead(40, make_spec("resnet18", 8)))
    reference = nn.Sequential(
        nn.Conv2d(40, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(64, 5, 1),
    )
    reference.load_state_dict(dict(zip(reference.state_dict(), aux.state_dict().values(), strict=True)))
    x = torch.randn(1, 40, 9, 11)
    with torch.inference_mode():
        assert_same(aux(x), reference.eval()(x))


def semseg_resnet50() -> nn.Module:
    """torchvision's ResNet-50 dilated by the loop of hszhao/semseg's PSPNet.__init__, at output stride 8."""
    net = torchvision.models.resnet50(weights=None)
    for layer, rate in ((net.layer3, 2), (net.layer4, 4)):
        for name, module in layer.named_modules():
            if "conv2" in name:
                module.dilation, module.padding, module.stride = (rate, rate), (rate, rate), (1, 1)
            elif "downsample.0" in name:
                module.stride = (1, 1)
    return net


def test_resnet50_is_dilated_as_in_semseg(tmp_path: Path) -> None:
    reference = randomise(semseg_resnet50())
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    ours = Backbone("resnet50", 8).eval()
    load_backbone(ours, "resnet50", str(tmp_path / "weights.pth"))

    def geometry(part: nn.Module) -> list[tuple]:
        return [(m.kernel_size, m.stride, m.dilation, m.padding) for m in part.modules() if isinstance(m, nn.Conv2d)]

    assert geometry(ours.before_last) == geometry(reference.layer3)
    assert geometry(ours.last) == geometry(reference.layer4)
    x = torch.randn(1, 3, 33, 41)
    with torch.inference_mode():
        y = reference.maxpool(F.relu(reference.bn1(reference.conv1(x))))
        before_last = reference.layer3(reference.layer2(reference.layer1(y)))
        features, aux_features = ours(x)
        assert_same(aux_features, before_last)
        assert_same(features, reference.layer4(before_last))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_basic_blocks_are_dilated_in_both_convolutions(backbone: str) -> None:
    net = Backbone(backbone, 8)
    for stage, rate in ((net.before_last, 2), (net.last, 4)):
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(convolutions) == 2 * len(stage)
        assert {(m.stride, m.dilation, m.padding) for m in convolutions} == {((1, 1), (rate, rate), (rate, rate))}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize(("output_stride", "rate"), [(16, 2), (8, 4)])
def test_a_dilated_stage_is_the_undilated_one_on_every_rate_th_pixel(
    backbone: str, output_stride: int, rate: int
) -> None:
    dilated = randomise(Backbone(backbone, output_stride).last)
    plain = randomise(Backbone(backbone, 32).last)
    plain.load_state_dict(dilated.state_dict())
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    channels = next(m for m in dilated.modules() if isinstance(m, nn.Conv2d)).in_channels
    x = torch.randn(1, channels, 4 * rate, 6 * rate)
    with torch.inference_mode():
        full = dilated(x)
        for row, column in ((0, 0), (rate - 1, 1)):
            assert_same(full[:, :, row::rate, column::rate], plain(x[:, :, row::rate, column::rate]))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large"])
def test_backbone_at_stride_32_is_torchvisions(backbone: str, tmp_path: Path) -> None:
    reference = randomise(getattr(torchvision.models, backbone)(weights=None))
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    ours = Backbone(backbone, 32).eval()
    note = load_backbone(ours, backbone, str(tmp_path / "weights.pth"))
    assert "not in the file" not in note and f"{len(ours.state_dict())} tensors" in note
    x = torch.randn(1, 3, 40, 64)
    with torch.inference_mode():
        if backbone.startswith("mobilenet"):
            expected = reference.features[:-1](x)
        else:
            expected = nn.Sequential(*list(reference.children())[:-2])(x)
        assert_same(ours(x)[0], expected)


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_parameter_count(backbone: str) -> None:
    with torch.device("meta"):
        model = PSPNet(ModelSpec(backbone, 8, (1, 2, 3, 6), *default_widths(backbone), *classes(19), (96, 96)))
    aux = sum(p.numel() for p in model.aux_heads.parameters())
    total = sum(p.numel() for p in model.parameters())
    without_aux, with_aux = PARAMETERS[backbone]
    assert (total - aux) / 1e6 == pytest.approx(without_aux, rel=0.01)
    assert aux / 1e6 == pytest.approx(with_aux, rel=0.01)


def classes(count: int) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and palette of `count` classes."""
    return tuple(map(str, range(count))), ((0, 0, 0),) * count


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    backbone = Backbone("resnet18", 32)
    before = copy.deepcopy(backbone.state_dict())
    cases = {
        "same backbone": torchvision.models.resnet50(weights=None).state_dict(),
        "no tensor of resnet18": torchvision.models.mobilenet_v2(weights=None).state_dict(),
        "not a plain state dict": {"model": {}},
    }
    for message, state in cases.items():
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(PspnetError, match=message):
            load_backbone(backbone, "resnet18", str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(PspnetError, match="not a whole PyTorch state dict"):
        load_backbone(backbone, "resnet18", str(tmp_path / "w.pth"))
    with pytest.raises(PspnetError, match="cannot read weights"):
        load_backbone(backbone, "resnet18", str(tmp_path / "none.pth"))
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
