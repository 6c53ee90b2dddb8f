"""The repair benchmark on a random network: its cases are hard and the same function, and repairs give back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.int8_repair import main
from benchmarks.uneven import uneven_pairs, uneven_streams
from calibration.equalise import pairs_of
from calibration.weights import ConvolutionWeights
from pspnet.metadata import read_model
from runtime.ort import session_from_model
from tests.nets import CAMVID

SAME = 1e-5  # of the largest logit: float32 sums of rescaled terms
OCTAVES = 5.0


@pytest.fixture(scope="module")
def rows(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    output = tmp_path_factory.mktemp("repair") / "repair.json"
    flags = [
        "--checkpoint",
        str(small_checkpoint),
        "--images",
        "6",
        "--held-out",
        "2",
        "--epochs",
        "1",
        "--lr",
        "0.001",
    ]
    assert main(["--data", str(CAMVID), *flags, "--engine", "ort", "--json", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["split"] == "val" and found["images"] == 2 and found["engine"] == "ort"
    return found["cases"]


def logits(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return session_from_model(model).run(["logits"], {"image": image})[0]


@pytest.mark.parametrize("case", ["pairs", "streams"])
def test_a_case_is_the_same_function_with_other_weights(case: str, small_onnx: Path) -> None:
    model = read_model(small_onnx)
    image = np.random.default_rng(2).integers(0, 256, (1, 96, 128, 3), np.uint8)
    hard = uneven_pairs(model, [image], OCTAVES, 0) if case == "pairs" else uneven_streams(model, OCTAVES, 0)
    before, after = logits(model, image), logits(hard, image)
    assert np.abs(before - after).max() <= SAME * np.abs(before).max()
    old, new = ConvolutionWeights(model), ConvolutionWeights(hard)
    names = {node.name for node in model.graph.node if node.op_type == "Conv"}
    changed = {name for name in names if not np.array_equal(old.weight(name), new.weight(name))}
    paired = {name for pair in pairs_of(model) for name in (pair.first, pair.second)}
    assert changed == paired if case == "pairs" else len(changed) > 20


def test_every_repair_gives_something_back(rows: dict[str, list[dict[str, Any]]]) -> None:
    for case, wide in (("pairs", True), ("streams", False)):
        none, corrected, equalised, both, tuned = rows[case]
        assert none["repair"] == "none" and tuned["repair"].startswith("fine-tuning")
        assert corrected["sqnr_db"] > none["sqnr_db"] + 1
        assert (equalised["sqnr_db"] > none["sqnr_db"] + 6) == wide, "it reaches pairs alone"
        assert both["sqnr_db"] > equalised["sqnr_db"]


@pytest.mark.parametrize(("flags", "words"), [(["--split", "test"], "--split val"), (["--cases", "a"], "--cases")])
def test_bad_flags_are_refused(flags: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["--data", str(CAMVID), *flags]) == 2
    assert words in capsys.readouterr().err
