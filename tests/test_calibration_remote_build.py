"""`pspnet build --on ssh://` against a real sshd: the verb itself on the board, on TensorRT's double."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pspnet import cli
from pspnet.files import sha256_of
from runtime.passport import Passport
from runtime.runner import open_runner
from tests.board_guests import TestBoard, arguments, board_at, prepared
from tests.doubles import cuda_driver
from tests.doubles.cuda_driver import CudaDouble
from tests.doubles.tensorrt_double import install
from tests.nets import ROOT

HALF = 0.02  # of the largest logit: float16 keeps 11 bits, and their rounding adds up over the layers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBoard]:
    with board_at(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture(scope="module")
def driver() -> Path:
    """The folder of the CUDA driver double, for LD_LIBRARY_PATH on the board."""
    if reason := cuda_driver.reason_unavailable():
        pytest.skip(reason)
    return cuda_driver.library_folder()


@pytest.fixture
def there(server: TestBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestBoard:
    return prepared(server, monkeypatch, tmp_path / "cache")


def test_the_true_build_on_the_board(
    driver: Path, there: TestBoard, small_onnx: Path, camvid_tiny: Path, tmp_path: Path, cuda_double: CudaDouble,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """The verb itself there, on TensorRT's double, over a line that breaks: what comes back is loaded and runs here."""
    there.program(
        f"#!/bin/sh\nexport PYTHONPATH={ROOT}:{ROOT}/tests/doubles/tensorrt_10_3 LD_LIBRARY_PATH={driver}\n"
        f'exec {sys.executable} -m pspnet "$@"\n'
    )
    there.line.cut_up_at = there.line.up_bytes + small_onnx.stat().st_size // 2
    flags = ["--precision", "fp16", "--data", str(camvid_tiny), "--images", "2", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments(small_onnx, tmp_path, there, "--route", "weak", *flags)) == 0
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.plan_sha256 == sha256_of(tmp_path / "a.engine")
    assert passport.onnx == {"name": small_onnx.name, "sha256": sha256_of(small_onnx)}
    assert passport.accuracy["source"] == "camvid11_tiny val" and passport.accuracy["images"] == 2
    assert json.loads((tmp_path / "r.json").read_text())
    assert list((tmp_path / "cache/pspnet-edge/timing-cache").glob("*.cache"))
    install(monkeypatch, "10.3.0")
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    with open_runner(tmp_path / "a.engine") as engine, open_runner(small_onnx, "ort", threads=1) as reference:
        expected = reference.infer(image)
        assert np.abs(engine.infer(image) - expected).max() < HALF * np.abs(expected).max()
    printed = capsys.readouterr()
    assert "a.engine: fp16, weakly typed, of small.onnx" in printed.out and "build fp16 weak" in printed.err
