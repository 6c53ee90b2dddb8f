"""The INT8 benchmarks: their figures against plain restatements, and a whole small run without the other tools."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from benchmarks import int8_peers, int8_speed
from calibration.images import calibration_images
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.runner import open_runner

CLASSES = 4
LABELS = np.random.default_rng(0).integers(0, CLASSES, (12, 200))  # of 12 pictures
EXACT = 1e-9  # percent: sums of a few integers in float64
SAME = 1e-4  # of the largest logit: one network in two memory formats sums in another order


def predictions(labels: np.ndarray, seed: int, wrong: float) -> np.ndarray:
    """`labels`, of which the share `wrong` is drawn anew."""
    random = np.random.default_rng(seed)
    return np.where(random.random(labels.shape) < wrong, random.integers(0, CLASSES, labels.shape), labels)


def counts_of(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    matrices = [confusion_matrix(a, b, labels=range(CLASSES)) for a, b in zip(labels, predicted, strict=True)]
    return np.pad(np.stack(matrices), ((0, 0), (0, 0), (0, 1)))


def test_the_loss_is_the_difference_of_sklearns_scores() -> None:
    good, bad = predictions(LABELS, 1, 0.2), predictions(LABELS, 1, 0.4)
    found = int8_peers.miou_loss(counts_of(LABELS, good), counts_of(LABELS, bad))
    scores = [100 * jaccard_score(LABELS.ravel(), x.ravel(), average="macro") for x in (good, bad)]
    assert found["loss"] == pytest.approx(scores[0] - scores[1], abs=EXACT)
    assert 0 < found["low"] < found["loss"] < found["high"]


def test_networks_that_err_equally_often_cannot_be_told_apart() -> None:
    one, other = (counts_of(LABELS, predictions(LABELS, seed, 0.3)) for seed in (1, 2))
    assert int8_peers.miou_loss(one, one) == {"loss": 0.0, "low": 0.0, "high": 0.0}
    found = int8_peers.miou_loss(one, other)
    assert found["low"] < 0 < found["high"]


def test_absent_tools_are_named_and_left_out(
    small_onnx: Path, camvid_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The whole run: ours with two sets of flags beside a tool that is there, and two that are not."""
    monkeypatch.setattr(importlib.util, "find_spec", absent("modelopt", "nncf"))
    command = [
        str(small_onnx), "--data", str(camvid_tiny), "--images", "4", "--rounds", "3", "--frames", "1", "--threads",
        "1", "--ours=--no-check", "--ours=--no-check --method minmax", "--files", str(tmp_path), "--json",
        str(tmp_path / "p.json"),
    ]  # fmt: skip
    assert int8_peers.main(command) == 0
    printed = capsys.readouterr().out
    assert 'modelopt is not installed and left out: pip install "nvidia-modelopt[onnx]"' in printed
    assert "nncf is not installed and left out: pip install nncf" in printed
    result = json.loads((tmp_path / "p.json").read_text())
    rows = {row["name"]: row for row in result["candidates"]}
    assert list(rows) == ["fp32", "pspnet --no-check", "pspnet --no-check --method minmax", "onnxruntime"]
    assert rows["fp32"]["int8_share"]["fraction"] == 0 and rows["fp32"]["miou_loss"]["loss"] == 0
    assert all(row["int8_share"]["fraction"] > 0.5 for name, row in rows.items() if name != "fp32")
    assert rows["onnxruntime"]["made"]["tool"] == "onnxruntime"
    for row in rows.values():
        difference = rows["fp32"]["scores"]["miou"] - row["scores"]["miou"]
        assert row["miou_loss"]["loss"] == pytest.approx(difference, abs=EXACT)
        assert row["scores"]["protocol"]["split"] == "val"


def absent(*names: str):  # type: ignore[no-untyped-def]
    find = importlib.util.find_spec
    return lambda name, *rest: None if name in names else find(name, *rest)


def test_a_file_is_made_once_for_a_network_and_its_pictures(
    small_onnx: Path, camvid_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def quantise(model: Path, images: list[np.ndarray], output: Path) -> None:
        calls.append(len(images))
        onnx.save(onnx.load(model), output)

    monkeypatch.setattr(int8_peers, "in_own_process", lambda tool, *arguments: tool(*arguments))
    monkeypatch.setitem(int8_peers.PEERS, "json", (quantise, "pip install json"))
    monkeypatch.setattr(json, "__version__", "2.0.9", raising=False)
    spec = spec_from_model(read_model(small_onnx))
    few, more = (calibration_images(camvid_tiny, "auto", "train", count, spec) for count in (4, 5))
    for images in (few, few, more):
        output = int8_peers.theirs("json", small_onnx, images, tmp_path / "o.onnx")
        assert output and extra(output, "precision") == "int8"
        assert extra(output, int8_peers.MADE_BY)["images"] == images.hashes
    assert calls == [4, 5]


def test_an_unknown_tool_is_refused(
    small_onnx: Path, camvid_tiny: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    command = [str(small_onnx), "--data", str(camvid_tiny), "--images", "4", "--ours", str(small_onnx)]
    assert int8_peers.main([*command, "--peers", "ppq"]) == 2
    assert capsys.readouterr().err == (
        "int8_peers.py: unknown tool 'ppq': choose among modelopt, nncf, onnxruntime with --peers\n"
    )


def test_eager_pytorch_runs_one_network_in_two_memory_formats(small_checkpoint: Path, one_thread: None) -> None:
    contiguous, channels_last = int8_speed.eager(small_checkpoint, 1)
    image = np.random.default_rng(0).integers(0, 256, (1, *contiguous.spec.input_size, 3)).astype(np.uint8)
    seen = {}
    for runner in (contiguous, channels_last):
        convolution = next(m for m in runner._model.modules() if m.__class__.__name__ == "Conv2d")
        convolution.register_forward_hook(lambda _, given, __, name=runner.precision: seen.update({name: given[0]}))
    with open_runner(small_checkpoint, "torch", 1) as reference:
        expected = reference.infer(image)
    for runner in (contiguous, channels_last):
        assert np.abs(runner.infer(image) - expected).max() < SAME * np.abs(expected).max()
    assert seen["fp32, contiguous"].stride()[3] == 1
    assert seen["fp32, channels_last"].stride()[1] == 1


def test_gains_are_formed_round_by_round() -> None:
    int8, slow, drifting = (
        SimpleNamespace(name=name, rounds_fps=fps)
        for name, fps in (("int8", [4.0, 8.0, 2.0]), ("slow", [1.0, 2.0, 0.5]), ("drifting", [1.0, 1.0, 1.0]))
    )
    found = int8_speed.gains([slow, int8, drifting], int8)
    assert found["slow"] == {"median": 4.0, "low": 4.0, "high": 4.0}
    assert found["drifting"]["median"] == 4.0 and found["drifting"]["low"] < found["drifting"]["high"]
    assert list(found) == ["slow", "drifting"]
