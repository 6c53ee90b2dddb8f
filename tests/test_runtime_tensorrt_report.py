"""What doctor says of TensorRT: absent, too old, broken, fine."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from pspnet import cli, doctor
from runtime import tensorrt_report
from tests.doubles.tensorrt_double import install


def test_where_there_is_none_the_libraries_tell() -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed on this machine")
    assert tensorrt_report.checks() == []
    (line,) = [line for line in doctor.checks() if line.name == "tensorrt"]
    assert line.topic == "Libraries" and line.detail.startswith("not installed") and line.lacks.startswith("build")


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
def test_one_that_is_new_enough(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version)
    (line,) = tensorrt_report.checks()
    assert line.mark == doctor.OK and line.detail.startswith(version) and "builds and runs engines" in line.detail


@pytest.mark.parametrize("version", ["11.5.0", "12.0.0"])
def test_one_that_is_newer_than_what_was_checked(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    new = ModuleType("tensorrt")
    new.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", new)
    (line,) = tensorrt_report.checks()
    assert line.mark == doctor.NOTE
    assert line.detail == f"TensorRT {version} is newer than what was checked here (11.4)"


def test_one_that_is_too_old_names_the_jetpack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    (line,) = tensorrt_report.checks()
    assert line.mark == doctor.MISSING and line.detail == "TensorRT 8.6.2 is too old: 10.3 or newer is needed"
    assert line.fix.startswith("On a Jetson it comes with JetPack 6.1") and "build" in line.lacks
    assert cli.main(["doctor"]) == 0
    assert "TensorRT 8.6.2 is too old" in capsys.readouterr().out


def test_one_whose_libraries_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = tensorrt_report.checks()
    assert line.mark == doctor.MISSING and line.detail.startswith("TensorRT cannot be loaded: libnvinfer.so.10")
    assert "apt-get install nvidia-jetpack" in line.fix
