"""What `pspnet build --dla` refuses, and what loading refuses of its engines, in one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from runtime.passport import Passport, passport_path
from runtime.tensorrt_runner import TensorRTRunner
from tests.dla_boards import NEW, OLD, board
from tests.doubles.cuda_driver import CudaDouble
from tests.doubles.tensorrt_double.dla import CORES_VARIABLE
from tests.engine_files import write_files


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("refused"), small_onnx)


Refusal = tuple[str, int, str, list[str], str]
REFUSALS: dict[str, Refusal] = {
    "no DLA": (OLD, 0, "net.onnx", [], "CPU double has no DLA (AGX Orin"),
    "no such core": (OLD, 2, "net.onnx", ["--dla", "2"], "there is no DLA core 2 here, only 0 to 1: give one"),
    "no such core, of one": (NEW, 1, "net.onnx", ["--dla", "1"], "there is no DLA core 1 here, only 0: give one"),
    "negative": (OLD, 2, "net.onnx", ["--dla", "-1"], "dla is -1: give --dla 0 or more"),
    "10.8": ("10.8.0.40", 2, "net.onnx", [], "TensorRT 10.8.0.40 has no DLA on a Jetson: 10.3 to 10.7 have it"),
    "10.16": ("10.16.2.10", 2, "net.int8.onnx", [], "TensorRT 10.16.2.10 has no DLA on a Jetson"),
    "11.4.0": ("11.4.0.106", 2, "net.onnx", [], "and 11.4.1 and later (JetPack 7.2.2, AGX Orin)"),
    "fp32": (OLD, 2, "net.onnx", ["--precision", "fp32"], "a DLA has no fp32: give --precision fp16 or int8"),
    "int8 of a float file": (OLD, 2, "net.onnx", ["--precision", "int8"], "has no Q/DQ, and INT8 without ranges"),
    "strong up to 10.7": (OLD, 2, "net.onnx", ["--route", "strong"], "weakly typed with TensorRT 10.3.0, whose DLA"),
    "weak from 11 on": (NEW, 2, "net.onnx", ["--route", "weak"], "strongly typed with TensorRT 11.4.1.2, which has no"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_dla_can_do_is_refused_in_one_line(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], case: str,
) -> None:  # fmt: skip
    version, cores, name, arguments, words = REFUSALS[case]
    board(monkeypatch, tmp_path, version, cores)
    chosen = arguments if "--dla" in arguments else [*arguments, "--dla", "0"]
    assert main(["build", str(files.with_name(name)), "-o", str(tmp_path / "a.engine"), *chosen]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "a.engine").exists() and not cuda_double.live()


def test_best_leaves_fp32_out(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    board(monkeypatch, tmp_path, OLD)
    report = tmp_path / "report.json"
    arguments = ["-o", str(tmp_path / "a.engine"), "--dla", "0", "--precision", "best", "--json", str(report)]
    assert main(["build", str(files.with_name("net.int8.onnx")), *arguments]) == 0
    rows = json.loads(report.read_text())["candidates"]
    assert [row["name"] for row in rows] == ["int8 weak", "fp16 weak"] and all(row["dla"]["core"] == 0 for row in rows)


@pytest.mark.parametrize("spoil", ["the cache", "the end of the backbone", "every layer"])
def test_builds_that_cannot_be_are_one_line(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], spoil: str,
) -> None:  # fmt: skip
    board(monkeypatch, tmp_path, OLD)
    changes: dict[str, tuple[str, Callable[..., Any] | str, str]] = {
        "the cache": ("calibration.dla.cache_text", lambda *_: "TRT-8600-EntropyCalibration2\n",
                      "does not take the calibration cache that was made for it (TRT-8600-EntropyCalibration2)"),
        "the end of the backbone": ("calibration.dla.FEATURES", "elsewhere", "no tensor elsewhere, where the backbone"),
        "every layer": ("tests.doubles.tensorrt_double.config.runs_on_dla", lambda *_: False,
                        "takes no layer of the backbone for a DLA (image.cast, image.transpose, "),
    }  # fmt: skip
    target, value, words = changes[spoil]
    monkeypatch.setattr(target, value)
    arguments = ["-o", str(tmp_path / "a.engine"), "--dla", "0", "--no-compare"]
    assert main(["build", str(files.with_name("net.int8.onnx")), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "a.engine").exists()


def test_an_engine_for_a_core_that_is_not_there_is_refused(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    board(monkeypatch, tmp_path, NEW)
    engine = tmp_path / "a.engine"
    assert main(["build", str(files), "-o", str(engine), "--dla", "1"]) == 0
    monkeypatch.setenv(CORES_VARIABLE, "1")
    with pytest.raises(PspnetError, match=r"was built for DLA core 1, and here is 1 DLA core: .*--dla 1") as refused:
        TensorRTRunner(engine)
    assert "\n" not in str(refused.value)
    raw = json.loads(passport_path(engine).read_text())
    for damage in ({"core": "1"}, {}, {"core": -1}, {"core": True}):
        passport_path(engine).write_text(json.dumps({**raw, "dla": damage}))
        with pytest.raises(PspnetError, match="dla has no sound core"):
            Passport.load(passport_path(engine))
    del raw["dla"]  # as earlier versions wrote it
    passport_path(engine).write_text(json.dumps(raw))
    assert Passport.load(passport_path(engine)).dla is None
