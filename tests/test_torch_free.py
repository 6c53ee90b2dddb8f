"""Every verb that a Jetson needs works on an ONNX file where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nets import CAMVID, CLIP, ROOT

BLOCKED = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from pspnet.cli import main
sys.exit(main({arguments!r}))
"""


def pspnet_without_torch(*arguments: object) -> subprocess.CompletedProcess:
    code = BLOCKED.format(arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("engine", ["openvino", "ort"])
def test_evaluate(engine: str, small_onnx: Path, tmp_path: Path) -> None:
    result = pspnet_without_torch(
        "evaluate", small_onnx, "--data", CAMVID, "--split", "test", "--engine", engine, "--json", tmp_path / "r.json"
    )
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "r.json").read_text())
    assert 0 <= scores["miou"] <= 100
    assert scores["protocol"]["images"] == 5 and scores["protocol"]["engine"] == engine


def test_bench_with_miou_and_report(small_onnx: Path, tmp_path: Path) -> None:
    figures, page = tmp_path / "b.json", tmp_path / "r.html"
    result = pspnet_without_torch(
        "bench", small_onnx, "--engine", "openvino,ort", "--data", CAMVID, "--split", "test", "--source", CLIP,
        "--frames", 2, "--rounds", 3, "--pictures", 1, "--json", figures,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    bench = json.loads(figures.read_text())
    assert [entry["engine"] for entry in bench["candidates"]] == ["openvino", "ort"]
    assert all(entry["scores"]["protocol"]["images"] == 5 for entry in bench["candidates"])
    assert pspnet_without_torch("report", figures, "-o", page).returncode == 0
    assert "data:image/jpeg;base64," in page.read_text()


def test_run_inspect_and_doctor(small_onnx: Path, tmp_path: Path) -> None:
    photo = next((CAMVID / "val" / "images").iterdir())
    assert pspnet_without_torch("run", small_onnx, photo, "-o", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "labels" / f"{photo.stem}.png").is_file()
    assert "mobilenet_v2" in pspnet_without_torch("inspect", small_onnx).stdout
    doctor = pspnet_without_torch("doctor")
    assert doctor.returncode == 0 and "torch" in doctor.stdout


def test_a_checkpoint_names_the_missing_package(small_checkpoint: Path) -> None:
    result = pspnet_without_torch("evaluate", small_checkpoint, "--data", CAMVID)
    assert result.returncode == 2
    assert "torch" in result.stderr and "pip install" in result.stderr and result.stderr.count("\n") == 1
