"""The exported file: its interface, its proof, and that the proof fails when it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
import torch.nn.functional as F

from export import pyramid
from export.exporter import FixedNetwork, export, fold_batch_norm, onnx_from_model
from export.parity import head_of, prove, reference, relative_error
from pspnet.checkpoint import load_model, save_checkpoint
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.metadata import extra, read_model, read_spec
from pspnet.model import PSPNet
from tests.nets import CAMVID, random_model

HEAD_NODES = 20
LOGITS_LIMIT = 1e-4  # of the largest logit: float32 through some fifty layers with batch norm folded
FOLD_LIMIT = 1e-5  # of the largest feature: the same sums with other factors


def plain_logits(model: PSPNet, images: np.ndarray) -> torch.Tensor:
    """Logits of pictures (N, H, W, 3) uint8 RGB, with ImageNet's normalisation written out."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    with torch.inference_mode():
        features, _ = model.backbone(pixels)
        context = [features]
        for b, branch in zip(model.head.ppm.bins, model.head.ppm.branches, strict=True):
            cells = branch(F.adaptive_avg_pool2d(features, b))
            context.append(F.interpolate(cells, features.shape[2:], mode="bilinear", align_corners=False))
        return model.head.classifier(model.head.bottleneck(torch.cat(context, 1)))


def test_interface_and_logits(small_checkpoint: Path, small_onnx: Path) -> None:
    spec, model = load_model(small_checkpoint)
    graph = read_model(small_onnx).graph
    assert [node.op_type for node in graph.node][:2] == ["Cast", "Transpose"]
    assert {node.op_type for node in graph.node} == {
        "Cast", "Transpose", "Mul", "Add", "Conv", "Clip", "Relu", "MatMul", "Reshape",
    }  # fmt: skip
    assert [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim] == [
        "batch", *spec.input_size, 3
    ]  # fmt: skip
    images = np.random.default_rng(3).integers(0, 256, (3, *spec.input_size, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(small_onnx), providers=["CPUExecutionProvider"])
    expected = plain_logits(model, images).numpy()
    for batch in (images, images[:1]):
        logits = session.run(None, {"image": batch})[0]
        assert np.abs(logits - expected[: len(batch)]).max() <= LOGITS_LIMIT * np.abs(expected).max()


def test_file_carries_spec_and_proof(small_checkpoint: Path, small_onnx: Path) -> None:
    assert read_spec(small_onnx) == load_model(small_checkpoint)[0]
    proof = extra(small_onnx, "proof")
    assert proof["head"] == "folded" and proof["sizes"] == [[96, 128]] and proof["batches"] == [2]
    assert proof["head_nodes"] == len(head_of(read_model(small_onnx)).graph.node) <= HEAD_NODES
    assert sum(proof["ops"].values()) == proof["nodes"] == len(read_model(small_onnx).graph.node)
    assert proof["argmax_agreement"] == proof["agreement"]["overall"] >= 0.9999
    assert proof["agreement"]["pixels"] == 2 * 6 * 8


def test_nothing_can_be_removed(small_onnx: Path) -> None:
    """onnxsim finds no node to remove, and the mean is one Add before the first convolution."""
    model = read_model(small_onnx)
    simplified, valid = onnxsim.simplify(model)
    assert valid and [n.op_type for n in simplified.graph.node] == [n.op_type for n in model.graph.node]
    assert [node.op_type for node in model.graph.node][2:4] == ["Add", "Conv"]


def test_both_forms_are_the_same_network(small_checkpoint: Path, small_onnx: Path, tmp_path: Path) -> None:
    proof = export(small_checkpoint, tmp_path / "fixed.onnx", form="fixed")
    assert proof["head"] == "fixed" and "Concat" in proof["head_ops"] and proof["head_error"] <= 1e-5
    images = np.random.default_rng(5).integers(0, 256, (2, 96, 128, 3), np.uint8)
    folded, fixed = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for path in (small_onnx, tmp_path / "fixed.onnx")
    )
    assert np.abs(folded - fixed).max() <= FOLD_LIMIT * np.abs(fixed).max()


def test_the_mean_colour_stays_the_padding(tmp_path: Path) -> None:
    """With the mean far from zero, a padding that moved with it would show at the border at once."""
    spec, model = random_model("resnet18", 16, (96, 96), mean=(250.0, 5.0, 128.0), std=(3.0, 90.0, 20.0))
    save_checkpoint(tmp_path / "m.pt", spec, model.state_dict())
    assert export(tmp_path / "m.pt", tmp_path / "m.onnx")["network_error"] <= LOGITS_LIMIT
    wrong = FixedNetwork(model, spec)
    wrong.shift.zero_()  # a shift of the bias instead of the pixels would pad with black
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    with torch.inference_mode():
        expected = reference(model, spec, noise)[1]
        assert relative_error(wrong(torch.from_numpy(noise))[0].numpy(), expected) > 100 * LOGITS_LIMIT


def test_real_pictures_join_the_proof(small_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    assert main(["export", str(small_checkpoint), "-o", str(output), "--size", "104x120", "--data", str(CAMVID)]) == 0
    proof = extra(output, "proof")
    assert proof["real_pictures"] == 3 and proof["batches"] == [2, 1]
    first = sorted((CAMVID / "val" / "images").iterdir())[0]
    assert proof["pictures"][first.name] == sha256_of(first)
    assert read_spec(output).input_size == (104, 120)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_resnets_export_at_an_odd_size(backbone: str, tmp_path: Path) -> None:
    spec, model = random_model(backbone, 8, (89, 113), align_corners=True)
    save_checkpoint(tmp_path / "m.pt", spec, model.state_dict())
    assert export(tmp_path / "m.pt", tmp_path / "m.onnx")["head_error"] <= 1e-5


def test_folding_batch_norm_changes_nothing() -> None:
    _, model = random_model("resnet18", 16, (96, 96))
    folded = fold_batch_norm(model).float()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected, result = model(images)["out"], folded(images)["out"]
    assert (result - expected).abs().max() <= FOLD_LIMIT * expected.abs().max()


@pytest.mark.parametrize("head", ["folded", "fixed"])
@pytest.mark.parametrize("altered", ["pool", "spread"])
def test_one_altered_constant_fails_the_proof_and_leaves_no_file(
    altered: str, head: str, small_checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    name = {"pool": "pool_matrix", "spread": "upsample_matrix"}[altered]
    genuine = getattr(pyramid, name)

    def wrong(*arguments: object) -> np.ndarray:
        matrix = genuine(*arguments)
        if matrix.shape in ((6, 8), (8, 6)):  # the 6-bin branch along the 8 columns of the 6x8 map
            matrix[3, 3] += 0.01
        return matrix

    monkeypatch.setattr(pyramid, name, wrong)
    assert main(["export", str(small_checkpoint), "-o", str(tmp_path / "m.onnx"), "--head", head]) == 2
    message = capsys.readouterr().err
    layer = {
        ("folded", "pool"): "head.cells", ("folded", "spread"): "head.bottleneck",
        ("fixed", "pool"): "head.ppm.branches.3.0", ("fixed", "spread"): "head.bottleneck.0",
    }[head, altered]  # fmt: skip
    assert "head error" in message and f"the first layer to differ is {layer}," in message
    assert list(tmp_path.iterdir()) == []


def test_an_altered_backbone_weight_is_found_by_name() -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    graph = onnx_from_model(model, spec)
    name = "backbone.last.15.conv.1.0.weight"
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights *= 1.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, name))
    with pytest.raises(PspnetError, match=r"first layer to differ is backbone\.last\.15\.conv\.1\.0,"):
        prove(model, spec, graph, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "90"], "HEIGHTxWIDTH"),
        (["--size", "40x96"], "smaller than the largest bin"),
        (["--fit", "squash"], "stretch, letterbox"),
        (["--head", "naive"], "folded, fixed"),
    ],
)
def test_bad_settings_are_one_line(
    arguments: list[str], words: str, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", str(small_checkpoint), "-o", str(tmp_path / "m.onnx"), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "imagenet.pth")
    broken_spec, broken = random_model("mobilenet_v2", 16, (96, 96))
    broken.head.classifier.weight.data[0, 0] = float("nan")
    save_checkpoint(tmp_path / "nan.pt", broken_spec, broken.state_dict())
    for file, words in (
        (tmp_path / "imagenet.pth", "another kind"), (small_onnx, "is an ONNX file, not a checkpoint"),
        (tmp_path / "absent.pt", "it is no file"), (tmp_path / "nan.pt", "NaN"),
    ):  # fmt: skip
        assert main(["export", str(file), "-o", str(tmp_path / "m.onnx")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_onnx_file_is_valid(small_onnx: Path) -> None:
    onnx.checker.check_model(str(small_onnx), full_check=True)
