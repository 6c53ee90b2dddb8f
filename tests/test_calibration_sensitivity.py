"""Sensitivities: the layer that was made sensitive is found, an interrupted run goes on, its files are checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from calibration import sensitivity
from calibration.score import Judge, Score
from calibration.sensitivity import mixed, sensitivities, text_of, write_bars
from pspnet.errors import PspnetError
from pspnet.files import read_json, write_json
from runtime.ort import session_from_model
from tests import outlier_net

CLEAR_DB = 15  # an outlier of 3000 leaves the other channels no bit at all; the rest of the layers has seven


@pytest.mark.parametrize("sensitive", ["second", "third", "fourth"])
def test_the_outlier_layer_is_found(sensitive: str) -> None:
    model = outlier_net.network(sensitive)
    judge = outlier_net.judge_of(model)
    rows = sensitivities(model, outlier_net.ranges(model), judge, quiet=True)
    assert [row.layer for row in rows] == list(outlier_net.LAYERS)
    by_noise, by_labels = min(rows, key=lambda row: row.sqnr_db), max(rows, key=lambda row: row.disagreement)
    assert by_noise.layer == by_labels.layer == max(rows, key=lambda row: row.loss).layer == sensitive
    assert all(row.sqnr_db > by_noise.sqnr_db + CLEAR_DB for row in rows if row.layer != sensitive)


def test_a_row_is_that_layer_alone() -> None:
    """SQNR of a graph that quantises by hand: weights per output channel, the input with one scale, no other layer."""
    model, table = outlier_net.network(None), outlier_net.ranges(outlier_net.network(None))
    judge = outlier_net.judge_of(model)
    row = sensitivities(model, table, judge, quiet=True)[3]
    graph = mixed(model, table, ["first", "second", "third"])
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph.node) == 2
    pictures = np.concatenate(outlier_net.inputs())
    exact, got = (
        session_from_model(m, 1).run(["logits"], {"image": pictures})[0].astype(np.float64) for m in (model, graph)
    )
    assert row.layer == "fourth"
    assert row.sqnr_db == pytest.approx(10 * np.log10((exact**2).sum() / ((got - exact) ** 2).sum()), abs=1e-3)
    assert row.disagreement == pytest.approx(100 * (got.argmax(1) != exact.argmax(1)).mean(), abs=1e-6)


def test_layers_that_the_table_leaves_in_float_have_no_row() -> None:
    model = outlier_net.network(None)
    table = dataclasses.replace(outlier_net.ranges(model), float_layers=["second"])
    rows = sensitivities(model, table, outlier_net.judge_of(model), quiet=True)
    assert [row.layer for row in rows] == ["first", "third", "fourth"]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = outlier_net.network("third"), tmp_path / "sensitivity.json"
    table, judge = outlier_net.ranges(model), outlier_net.judge_of(model)
    scored: list[str] = []
    score = Judge.score

    def interrupted(self: Judge, variant: onnx.ModelProto, title: str | None = None) -> Score:
        if len(scored) == 2:
            raise KeyboardInterrupt
        dequantised = {node.output[0] for node in variant.graph.node if node.op_type == "DequantizeLinear"}
        scored.append(next(n.name for n in variant.graph.node if n.op_type == "Conv" and n.input[0] in dequantised))
        return score(self, variant, title)

    monkeypatch.setattr(Judge, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivities(model, table, judge, path, quiet=True)
    half = read_json(path, "")
    assert scored == ["first", "second"] == [row["layer"] for row in half["layers"]]
    assert (half["measured"], half["of_layers"], half["figure"], half["images"]) == (2, 4, "mIoU", 6)

    scored[:] = []
    assert [row.layer for row in sensitivities(model, table, judge, path, quiet=True)] == list(outlier_net.LAYERS)
    assert scored == ["third", "fourth"]
    other = dataclasses.replace(table, amax={name: 2 * value for name, value in table.amax.items()})
    scored[:] = [""]
    with pytest.raises(KeyboardInterrupt):
        sensitivities(model, other, judge, path, quiet=True)
    assert scored == ["", "first"], "rows of other ranges are not taken"


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path, model = tmp_path / "bench.json", outlier_net.network(None)
    write_json(path, {"kind": "bench"})
    with pytest.raises(PspnetError, match="holds no sensitivities"):
        sensitivities(model, outlier_net.ranges(model), outlier_net.judge_of(model), path, quiet=True)
    assert read_json(path, "") == {"kind": "bench"}


def test_table_and_bars(tmp_path: Path) -> None:
    model = outlier_net.network("third")
    judge = outlier_net.judge_of(model, labelled=False)
    rows = sensitivities(model, outlier_net.ranges(model), judge, quiet=True)
    lines = text_of(rows, judge.facts()).splitlines()
    assert lines[1].startswith("third") and len(lines) == 6
    assert "agreement with FP32" in lines[-1] and "6 held-out images of blobs on ort" in lines[-1]
    write_bars(tmp_path / "bars.png", rows, judge.facts())
    picture = cv2.imread(str(tmp_path / "bars.png"))
    assert picture is not None and picture.std() > 5


def test_the_identity_tells_networks_apart() -> None:
    names = [sensitivity.network_sha256(outlier_net.network(layer)) for layer in (None, "third", None)]
    assert names[0] == names[2] != names[1]
