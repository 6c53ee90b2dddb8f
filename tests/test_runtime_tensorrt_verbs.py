"""The verbs on an engine: evaluate, bench, verify, run and inspect, and how engines are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import passport_path
from runtime.passport import Passport
from runtime.runner import open_runner
from tests import cpu_kernels
from tests.doubles.cuda_driver import CudaDouble
from tests.nets import CAMVID

ON_TEST = ["--data", str(CAMVID), "--split", "test"]
MIOU_ATOL = 0.01  # points; the same network, whose logits differ in their last bits


@pytest.fixture(autouse=True)
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_kernels.use_on_cpu(monkeypatch)


@pytest.fixture
def photo() -> Path:
    return min((CAMVID / "val" / "images").iterdir())


def result(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    output = tmp_path / "result.json"
    assert main([*map(str, arguments), "--json", str(output)]) == 0
    return json.loads(output.read_text())


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_evaluate_states_what_the_figure_is_of(small_engine: Path, trt: ModuleType, tmp_path: Path) -> None:
    scores = result(tmp_path, "evaluate", small_engine, *ON_TEST)
    protocol, passport = scores["protocol"], Passport.load(passport_path(small_engine))
    assert (protocol["engine"], protocol["precision"], protocol["images"]) == ("tensorrt", "fp32", 5)
    assert protocol["sha256"] == passport.plan_sha256
    assert protocol["provenance"]["tensorrt"] == trt.__version__
    assert protocol["provenance"]["onnx"] == {"name": "small.onnx", "sha256": passport.onnx["sha256"]}


def test_bench_of_an_onnx_file_and_its_engine(
    small_engine: Path, small_onnx: Path, trt: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = result(
        tmp_path, "bench", small_onnx, small_engine, "--engine", "ort,tensorrt", "--threads", 1, "--rounds", 3,
        "--frames", 2, *ON_TEST,
    )  # fmt: skip
    file, engine = bench["candidates"]
    assert (file["engine"], engine["engine"]) == ("ort", "tensorrt")
    assert engine["file_bytes"] == small_engine.stat().st_size and engine["name"] == "model.engine (tensorrt, fp32)"
    assert engine["provenance"]["gpu"]["compute_capability"] == "8.7" and file["provenance"] is None
    assert f", CPU double (TensorRT {trt.__version__}); mIoU on 5 images" in capsys.readouterr().out
    assert engine["scores"]["miou"] == pytest.approx(file["scores"]["miou"], abs=MIOU_ATOL)
    assert main(["report", str(tmp_path / "result.json"), "-o", str(tmp_path / "report.html")]) == 0
    assert f"tensorrt {trt.__version__} on CPU double, fp32" in (tmp_path / "report.html").read_text()


def test_verify_an_engine_against_its_file(small_engine: Path, small_onnx: Path, tmp_path: Path) -> None:
    report = result(
        tmp_path, "verify", small_onnx, small_engine, *ON_TEST, "--engine", "ort,auto", "--min-agreement", 99.9,
        "-o", tmp_path / "flips.png",
    )  # fmt: skip
    assert report["missed"] == [] and report["logits_error"] < 1e-5
    assert report["artefacts"][1]["provenance"]["route"] in ("weak", "strong")


def test_run_with_and_without_a_pinned_hash(
    small_engine: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Passport.load(passport_path(small_engine)).plan_sha256
    assert "is pinned" in refused(capsys, "run", small_engine, photo, "-o", tmp_path / "a", "--pin", "f" * 64)
    assert not (tmp_path / "a").exists()
    summary = result(tmp_path, "run", small_engine, photo, "-o", tmp_path / "b", "--pin", right)
    assert (summary["engine"], summary["precision"], summary["frames"]) == ("tensorrt", "fp32", 1)
    assert summary["provenance"]["platform"].startswith("linux-")
    assert (tmp_path / "b" / "labels" / f"{photo.stem}.png").is_file()


def test_a_hash_is_pinned_for_engines_only(
    small_onnx: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "leave out --pin" in refused(capsys, "run", small_onnx, photo, "-o", tmp_path / "a", "--pin", "f" * 64)


def test_auto_and_tensorrt_open_an_engine(small_engine: Path, cuda_double: CudaDouble) -> None:
    for engine in ("auto", "tensorrt"):
        with open_runner(small_engine, engine) as runner:
            assert runner.infer(np.zeros((1, 96, 128, 3), np.uint8)).shape == (1, 11, 6, 8)
    assert cuda_double.live() == {}


@pytest.mark.parametrize("engine", ["openvino", "ort", "torch"])
def test_other_engines_do_not(engine: str, tmp_path: Path) -> None:
    (tmp_path / "model.engine").touch()
    with pytest.raises(PspnetError, match=f"runs on tensorrt: leave out --engine {engine}"):
        open_runner(tmp_path / "model.engine", engine)


def test_tensorrt_runs_engines_only(
    small_onnx: Path, small_checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "run", small_onnx, photo, "-o", tmp_path / "a", "--engine", "tensorrt")
    assert f"pspnet build {small_onnx}" in text
    text = refused(capsys, "bench", small_checkpoint, "--source", photo, "--engine", "tensorrt")
    assert f"pspnet export {small_checkpoint}" in text
    plan = tmp_path / "model.engine"
    plan.touch()
    for a, b, engine, pair in (
        (small_onnx, plan, "ort", "ort,tensorrt"),
        (small_checkpoint, plan, "tensorrt", "torch,tensorrt"),
        (plan, small_onnx, "tensorrt", "tensorrt,openvino"),
        (small_checkpoint, small_onnx, "ort", "torch,ort"),
    ):
        assert f"give --engine {pair}\n" in refused(capsys, "verify", a, b, *ON_TEST, "--engine", engine)


@pytest.mark.parametrize("engine", ["torch", "tensorrt"])
def test_calibrate_compares_onnx_files(engine: str, small_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "calibrate", small_onnx, "--data", CAMVID, "--engine", engine)
    assert f"--engine {engine} does not run" in text


def test_without_tensorrt_an_engine_says_what_to_install(
    small_engine: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "JetPack" in refused(capsys, "run", small_engine, photo, "-o", tmp_path / "a")
    assert main(["inspect", str(small_engine)]) == 0
