"""What `export --fp16` refuses and warns of: overflow that a Clip hides, values that are lost, and flipped labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from export import exporter, half_parity
from export.half_parity import AGREEMENT_WANTED, ERROR_LIMIT, prove_half, text_of
from export.parity import batches
from pspnet.checkpoint import save_checkpoint
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.fp16_typing import fp16_from_fp32
from tests.nets import random_model
from tests.test_refusals import refusal
from tests.test_runtime_fp16_simulation import gain_of
from tests.test_runtime_fp16_typing import model_of, start

FLOAT16_END = 65504
REACHED_TOLERANCE = 2e-3  # relative: one layer with weights and pixels rounded to eleven bits

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


def test_an_overflow_is_refused_though_a_clip_hides_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    first = model.backbone.early[0]
    first[0].weight.data *= 3e5
    save_checkpoint(tmp_path / "m.pt", spec, model.state_dict())
    images = torch.from_numpy(next(batches(spec, []))).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        convolved = first[1](first[0]((images - mean) / std))
        clipped = first((images - mean) / std)
    assert clipped.abs().max() == 6 and convolved.abs().max() > FLOAT16_END, "nothing overflows, or nothing hides it"
    message = refusal(capsys, "export", tmp_path / "m.pt", "-o", tmp_path / "m.onnx", "--fp16")
    before, after = message.split(" reaches ")
    assert before == "pspnet: this network overflows in fp16: backbone.early.0.0"
    assert float(after.split(",")[0]) == pytest.approx(float(convolved.abs().max()), rel=REACHED_TOLERANCE)
    assert after.endswith("float16 ends at 65504. Leave out --fp16\n")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def prove_alone(graph: onnx.ModelProto) -> dict:
    return prove_half(graph, fp16_from_fp32(graph), spec_from_model(graph), [])


def test_large_values_that_stay_float32_are_no_overflow() -> None:
    """Products with "pool_..." are typed float32: 70,000 and more fit between two of them, not in front of an Add."""
    large = 400 * np.eye(16, dtype=np.float32)
    middle = [
        helper.make_node("MatMul", ["x", "head.pool_w"], ["large"]),
        helper.make_node("MatMul", ["head.pool_h", "large"], ["small"]),
    ]
    end = helper.make_node("Conv", ["small", "w"], ["logits"], strides=[8, 8])
    constants = {"head.pool_w": large, "head.pool_h": large / 160000, "w": np.ones((3, 3, 8, 8), np.float32) / 64}
    proof = prove_alone(model_of([*start(), *middle, end], constants))
    assert proof["largest"]["tensor"] == "large" and proof["largest"]["magnitude"] > FLOAT16_END
    inside = helper.make_node("Add", ["large", "large"], ["small"])
    with pytest.raises(PspnetError, match=r"overflows in fp16: large_fp16 reaches \d{5,6}, float16 ends at 65504"):
        prove_alone(model_of([*start(), middle[0], inside, end], constants))


def test_values_that_float16_loses_are_refused() -> None:
    """Half of the smallest float16 is 0, and so are the logits: error 1."""
    with pytest.raises(PspnetError, match=r"logits are off by 1 of the largest, the limit is 0\.1, and ") as error:
        prove_alone(gain_of(2.0**-25, 2.0**15))
    assert "\n" not in str(error.value) and ERROR_LIMIT == 0.1
    assert prove_alone(gain_of(2.0**-24, 2.0**15))["network_error"] == 0  # a power of two more, and nothing is lost


def near_ties() -> onnx.ModelProto:
    """The classes' logits are one plane times 1, 1.0001 and 0.5: float16 cannot tell the first two apart."""
    weight = np.zeros((3, 3, 8, 8), np.float32)
    weight[:, 0, 0, 0] = [1, 1.0001, 0.5]
    return model_of([*start(), helper.make_node("Conv", ["x", "w"], ["logits"], strides=[8, 8])], {"w": weight})


def test_flipped_arg_maxes_are_warned_of_and_stored() -> None:
    graph = near_ties()
    images = next(batches(spec_from_model(graph), [])).astype(np.float64)
    plane = images[:, ::8, ::8, 0]
    share = 1 - (plane > 0).mean()  # where the pixel is 0 all three are equal and the lowest index wins twice
    assert share < AGREEMENT_WANTED
    proof = prove_alone(graph)
    assert proof["argmax_agreement"] == pytest.approx(share) and proof["network_error"] < 2e-4
    line = text_of(proof).splitlines()[1]
    assert line == f"warning: {proof['warning']}" and "99 % or more are usual" in line and "pspnet verify" in line
    assert "\n" not in text_of(proof | {"warning": None})


def test_the_warning_is_printed_once_and_stored(
    small_checkpoint: Path, small_onnx: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(exporter, "onnx_from_model", lambda *_: read_model(small_onnx))  # made once, which saves time
    monkeypatch.setattr(half_parity, "AGREEMENT_WANTED", 1.01)
    assert main(["export", str(small_checkpoint), "-o", str(tmp_path / "m.onnx"), "--fp16"]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: only ")]
    proof = extra(tmp_path / "m.fp16.onnx", "proof")["fp16"]
    assert warned == [f"warning: {proof['warning']}"]
    assert (proof["error_limit"], proof["agreement_wanted"]) == (ERROR_LIMIT, 1.01)
