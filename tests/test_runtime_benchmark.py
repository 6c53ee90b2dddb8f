"""The benchmark's bookkeeping, with runners whose time is known."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pspnet.cli import main
from pspnet.spec import ModelSpec
from runtime.bench_report import print_table, stamped
from runtime.benchmark import Candidate, benchmark, median_interval, open_candidates
from runtime.runner import ClosingRunner
from runtime.segmenter import CpuSegmenter
from tests.nets import CAMVID, CLIP, random_model

LATEST = 10  # times a sleep: schedulers wake late, never early, and a loaded machine much later


class SleepingRunner(ClosingRunner):
    """Answers with class 0 after a fixed time."""

    engine, precision = "sleep", "none"

    def __init__(self, spec: ModelSpec, seconds: float, turns: list[float]) -> None:
        self.spec, self.seconds, self.turns = spec, seconds, turns

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.turns.append(self.seconds)
        time.sleep(self.seconds)
        logits = np.zeros((len(images), self.spec.classes, *self.spec.map_size), np.float32)
        logits[:, 0] = 1
        return logits


@pytest.fixture
def candidates(tmp_path: Path) -> tuple[list[Candidate], list[float]]:
    spec, _ = random_model("mobilenet_v2", 16, (96, 128))
    turns: list[float] = []
    made = []
    for name, seconds in (("slow.pt", 0.060), ("fast.pt", 0.020)):
        (tmp_path / name).write_bytes(b"x" * 1000)
        runner = SleepingRunner(spec, seconds, turns)
        made.append(Candidate(tmp_path / name, runner, CpuSegmenter(runner)))
    return made, turns


def test_figures_are_those_of_the_runners(candidates: tuple[list[Candidate], list[float]]) -> None:
    made, _ = candidates
    result = benchmark(made, str(CAMVID / "val" / "images"), rounds=3, frames=3, threads=2)
    slow, fast = result["candidates"]
    assert result["rounds"] == 3 and result["frames_per_round"] == 3
    assert 60 <= slow["stages_ms"]["infer"]["p50"] <= 60 * LATEST
    assert 20 <= fast["stages_ms"]["infer"]["p50"] <= 20 * LATEST
    assert slow["ratio_to_first"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    expected = sorted(f / s for f, s in zip(made[1].rounds_fps, made[0].rounds_fps, strict=True))[1]
    assert fast["ratio_to_first"]["median"] == pytest.approx(expected)
    assert slow["service_ms"]["p50"] >= slow["stages_ms"]["infer"]["p50"]
    assert slow["file_bytes"] == 1000


def test_candidates_take_turns(candidates: tuple[list[Candidate], list[float]]) -> None:
    made, turns = candidates
    benchmark(made, str(CAMVID / "val" / "images"), rounds=3, frames=2, threads=2)
    measured = turns[4:]  # two frames of warm-up each
    assert measured == [0.060, 0.060, 0.020, 0.020] * 3


def test_interval_holds_the_median_and_is_repeatable() -> None:
    values = np.random.default_rng(1).normal(50, 5, 9).tolist()
    first = median_interval(values)
    assert first == median_interval(values)
    assert first["median"] == sorted(values)[4]
    assert min(values) <= first["low"] <= first["median"] <= first["high"] <= max(values)


def test_each_artefact_meets_the_engines_that_can_run_it(small_onnx: Path, small_checkpoint: Path) -> None:
    with ExitStack() as stack:
        made, threads = open_candidates(stack, [small_onnx, small_checkpoint], "openvino,ort,torch", 1, None)
        assert [c.runner.engine for c in made] == ["openvino", "ort", "torch"] and threads == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--source"),
        (["--source", str(CLIP), "--rounds", "1"], "--rounds 3"),
        (["--source", str(CLIP), "--engine", "torch"], "leave out --engine torch"),
        (["--source", str(CLIP), "--engine", "abacus"], "unknown engine"),
        (["--source", str(CLIP), "--pictures", "2"], "--json"),
        (["--source", "absent.mp4"], "absent.mp4"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", str(small_onnx), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_other_classes_are_refused(small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).symlink_to(CAMVID / "val" / part)
    raw = json.loads((CAMVID / "classes.json").read_text())
    raw["classes"][3], raw["classes"][4] = raw["classes"][4], raw["classes"][3]
    (tmp_path / "classes.json").write_text(json.dumps(raw))
    assert main(["evaluate", str(small_onnx), "--data", str(tmp_path), "--dataset", "folder", "--split", "all"]) == 2
    assert "class 3 is Road and Pavement" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"torch": "2.11.0", "gpu": {"name": "GPU One"}}, ", GPU One (PyTorch 2.11.0); mIoU"),
        ({"onnxruntime": "1.31.0", "provider": "CUDAExecutionProvider"}, ", ONNX Runtime 1.31.0; mIoU"),
        ({"tensorrt": "10.3.0", "gpu": {"name": "GPU One"}}, ", GPU One (TensorRT 10.3.0); mIoU"),
    ],
)
def test_the_table_names_the_gpu_and_its_library(
    candidates: tuple[list[Candidate], list[float]], provenance: dict[str, Any], said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    made, _ = candidates
    monkeypatch.setattr(SleepingRunner, "provenance", provenance)
    result = benchmark(made[1:], str(CAMVID / "val" / "images"), rounds=3, frames=1, threads=1)
    result["candidates"][0]["scores"] = {"miou": 50.0, "protocol": {"images": 3, "split": "val"}}
    print_table(stamped(result))
    assert said in capsys.readouterr().out
