"""A network without bins is the PSPNet without its pyramid, from training to INT8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.differ import first_difference
from export.exporter import export, onnx_from_model
from export.sizes import table_of, text_of
from pspnet.checkpoint import load_model, read_checkpoint, save_checkpoint
from pspnet.cli import main
from pspnet.metadata import read_spec
from pspnet.model import PSPNet
from pspnet.prune import pruned
from pspnet.spec import ModelSpec
from runtime.runner import open_runner
from tests.drives import write_drives
from tests.nets import CAMVID, random_model

SIZE = (96, 128)
ENGINE = 1e-4  # of the largest logit: another engine, and normalisation folded into its first convolution
INT8_DB = 12.0  # signal to noise of INT8 logits of a random network: below it something is wrong, not rounded


@pytest.fixture(scope="module")
def plain() -> tuple[ModelSpec, PSPNet]:
    """Random weights, output stride 16, no bins."""
    spec, model = random_model("mobilenet_v2", 16, SIZE)
    torch.manual_seed(1)
    fields = {name: getattr(spec, name) for name in ModelSpec.__dataclass_fields__} | {"bins": ()}
    spec = ModelSpec(**fields)
    without = PSPNet(spec)
    state = {name: value for name, value in model.state_dict().items() if ".ppm." not in name}
    state["head.bottleneck.0.weight"] = state["head.bottleneck.0.weight"][:, : without.backbone.channels]
    without.load_state_dict(state)
    return spec, without.eval()


@pytest.fixture(scope="module")
def checkpoint(plain: tuple[ModelSpec, PSPNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.pt"
    save_checkpoint(path, plain[0], plain[1].state_dict())
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    path = checkpoint.with_suffix(".onnx")
    assert main(["export", str(checkpoint), "-o", str(path), "--fp16", "--data", str(CAMVID), "--images", "2"]) == 0
    return path


def pictures(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def test_the_head_is_the_plain_layers_in_a_row(plain: tuple[ModelSpec, PSPNet]) -> None:
    """Equal to a PSPNet whose bottleneck has zeros where it reads the pyramid."""
    spec, model = plain
    whole_spec, whole = random_model("mobilenet_v2", 16, SIZE)
    with torch.no_grad():
        whole.head.bottleneck[0].weight[:, model.backbone.channels :] = 0
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(model(images)["out"], whole(images)["out"], atol=1e-5)
    assert spec.bins == () and not list(model.head.ppm.parameters())
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert ModelSpec.from_json(spec.to_json()) == spec and whole_spec.bins


@pytest.mark.parametrize("form", ["folded", "fixed"])
def test_export_equals_pytorch(form: str, checkpoint: Path, tmp_path: Path) -> None:
    proof = export(checkpoint, tmp_path / "m.onnx", form=form)
    assert proof["head"] == "plain" and proof["head_ops"] == {"Conv": 2, "Relu": 1}
    assert read_spec(tmp_path / "m.onnx").bins == ()
    spec, model = load_model(checkpoint)
    images = pictures()
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        expected = model(torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2).float())["out"].numpy()
    for engine in ("ort", "openvino"):
        with open_runner(tmp_path / "m.onnx", engine) as runner:
            assert np.abs(runner.infer(images) - expected).max() <= ENGINE * np.abs(expected).max()


def test_a_wrong_graph_is_traced_to_its_layer(plain: tuple[ModelSpec, PSPNet]) -> None:
    spec, model = plain
    graph = onnx_from_model(model, spec)
    tensor = next(t for t in graph.graph.initializer if t.name == "head.bottleneck.0.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    assert "the first layer to differ is head.bottleneck" in first_difference(model, spec, graph, pictures())


def test_the_whole_road_to_int8(exported: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.int8.onnx"
    words = ["calibrate", str(exported), "--data", str(CAMVID), "--images", "4", "-o", str(int8)]
    assert main([*words, "--json", str(tmp_path / "c.json")]) == 0
    images = pictures(1)
    with open_runner(exported, "ort") as whole, open_runner(int8, "ort") as rounded:
        expected, found = (np.array(runner.infer(images), np.float64) for runner in (whole, rounded))
    assert 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()) > INT8_DB
    assert exported.with_name("plain.fp16.onnx").is_file()
    assert main(["inspect", str(int8)]) == 0


def test_scales_windows_and_sizes(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(checkpoint), "--data", str(CAMVID), "--split", "test", "--scales", "0.5,1"]
    assert main([*words, "--json", str(tmp_path / "s.json")]) == 0
    assert set(json.loads((tmp_path / "s.json").read_text())["scales"]) == {"0.5", "1"}
    table = table_of(checkpoint, "96x128,32x32", None)
    assert table["bins"] == [] and table["branch_channels"] == 0 and "bins none" in text_of(table)
    costs = table["sizes"][0]["multiply_adds"]
    area, channels = 6 * 8, table["channels"]
    by_hand = area * (9 * channels * table["head_channels"] + table["head_channels"] * 11)
    assert costs["trained"]["total"] == costs["fixed"]["total"] == costs["folded"]["total"] == by_hand


def test_pruning(plain: tuple[ModelSpec, PSPNet]) -> None:
    smaller, network = pruned(*plain, 0.6)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, *SIZE))["out"].shape == (1, 11, *smaller.map_size)


def test_train_without_a_pyramid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_drives(tmp_path / "data", frames=6)
    words = ["train", "--data", str(data), "--hold-out", "0.34:1", "--weights", "none", "--bins", "none"]
    words += ["--output-stride", "32", "--crop", "64", "--batch", "2", "--epochs", "1", "--workers", "0"]
    assert main([*words, "-o", str(tmp_path / "run")]) == 0
    spec, _ = read_checkpoint(tmp_path / "run" / "best.pt")
    assert spec.bins == ()
    assert main([*words, "--branch-channels", "40", "-o", str(tmp_path / "no")]) == 2
    assert "leave it out with --bins none" in capsys.readouterr().err
