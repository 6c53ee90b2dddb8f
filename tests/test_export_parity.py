"""The proof on checkpoints that are dead or damaged: what is equal passes, and what is at fault is named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.exporter import export
from export.parity import largest_gap, prove, relative_error
from pspnet.checkpoint import load_model, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.metadata import read_model
from pspnet.model import PSPNet
from runtime.ort import session_from_model
from tests.nets import CAMVID, random_model
from tests.test_refusals import refusal


def test_relative_error_of_nothing() -> None:
    zeros, values = np.zeros((2, 3), np.float32), np.array([[1, -4, 0], [2, 0, 3]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert relative_error(zeros, zeros) == 0
        assert relative_error(zeros + 1e-30, zeros) == math.inf
        assert relative_error(zeros, values) == 1 and relative_error(values + 1, values) == 0.25
        assert math.isnan(relative_error(values * np.nan, values)) and relative_error(zeros * np.nan, zeros) == math.inf
        flips = np.ones((1, 3), bool)
        assert largest_gap(zeros[:, None], np.ones((1, 3), int), flips) == 0
        assert largest_gap(values[:, None], np.array([[1, 1, 0]]), flips) == 0.75  # 3 to 0, of the largest, 4


def changed(folder: Path, change: Callable[[PSPNet], object]) -> Path:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    with torch.no_grad():
        change(model)
    save_checkpoint(folder / "m.pt", spec, model.state_dict())
    return folder / "m.pt"


def test_a_dead_network_is_exported_as_it_is(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda model: [parameter.zero_() for parameter in model.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        proof = export(path, tmp_path / "m.onnx", fp16=True)
    assert proof["head_error"] == proof["network_error"] == proof["fp16"]["network_error"] == 0
    assert proof["argmax_agreement"] == 1
    images = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    assert not session_from_model(read_model(tmp_path / "m.onnx")).run(None, {"image": images})[0].any()


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_a_negative_variance_is_the_checkpoints_fault(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def damage(model: PSPNet) -> None:
        model.head.bottleneck[1].running_var[5] = -0.25
        assert model.eval()(torch.zeros(1, 3, 96, 128))["out"].isnan().any()

    path = changed(tmp_path, damage)
    rest = ["-o", tmp_path / "m.onnx"] if verb == "export" else ["--data", CAMVID]
    message = refusal(capsys, verb, path, *rest)
    assert f"{path}: head.bottleneck.1.running_var holds -0.25" in message and "report" not in message
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_finite_weights_that_run_out_of_float32_are_the_checkpoints_fault(
    small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def enlarge(model: PSPNet) -> None:
        for layer in (model.head.bottleneck[0], model.head.classifier):
            layer.weight *= 1e25

    path = changed(tmp_path, enlarge)
    spec, model = load_model(path)
    with pytest.raises(PspnetError, match="the checkpoint itself gives logits that are NaN or infinite") as error:
        prove(model, spec, read_model(small_onnx), [])
    assert "\n" not in str(error.value) and "report" not in str(error.value)
    message = refusal(capsys, "evaluate", path, "--data", CAMVID)
    assert message.startswith(f"pspnet: {path} gives logits that are NaN or infinite (torch, fp32)")
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]
