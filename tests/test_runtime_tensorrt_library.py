"""The installed TensorRT: absent, broken, too old, of both generations; and its log."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pspnet.errors import PspnetError
from runtime import tensorrt_library
from runtime.tensorrt_library import engine_log, library_version, tensorrt_module
from tests.doubles.tensorrt_double import install

VERSIONS = ["10.3.0", "11.4.0"]


def module(version: str | None) -> ModuleType:
    made = ModuleType("tensorrt")
    if version is not None:
        made.__version__ = version  # type: ignore[attr-defined]
    return made


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(PspnetError, match=r"not installed.*JetPack.*--system-site-packages.*pip install") as error:
        tensorrt_module()
    assert "\n" not in str(error.value)


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "libnvinfer.so.10: cannot open shared object file:\\n No such file or directory"
    (tmp_path / "tensorrt.py").write_text(f"raise ImportError('{text}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(PspnetError, match=r"cannot be loaded: libnvinfer.so.10.*pip install") as error:
        tensorrt_module()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["8.5.2", "8.6.2.3", "10.0.1", "10.2.0.post1", "9.3.0", None])
def test_too_old(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module(version))
    with pytest.raises(PspnetError, match=r"too old: 10\.3 or newer.*JetPack 6\.1 or later"):
        library_version()


@pytest.mark.parametrize("version", ["10.3.0", "10.16.2.10", "11.0.0", "11.4.0.106", "12.0"])
def test_new_enough(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module(version))
    assert library_version() == version and tensorrt_module() is sys.modules["tensorrt"]


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch, request.param)


def test_the_log_keeps_errors_only_as_one_line_each(trt: Any, capfd: pytest.CaptureFixture[str]) -> None:
    log, severity = engine_log(trt), trt.ILogger.Severity
    assert log.reason() == "it gives no reason"
    log.log(severity.WARNING, "slow")
    log.log(severity.VERBOSE, "and much more")
    log.log(severity.ERROR, "first\n  of two lines.")
    log.log(severity.INTERNAL_ERROR, "second.")
    assert log.errors == ["first of two lines.", "second."]
    assert log.reason() == "second"
    assert capfd.readouterr() == ("", "")


def test_the_log_forgets_the_oldest(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "KEPT_ERRORS", 3)
    log = engine_log(trt)
    for number in range(5):
        log.log(trt.ILogger.Severity.ERROR, f"error {number}")
    assert log.errors == ["error 2", "error 3", "error 4"]


def test_the_log_is_one_that_tensorrt_takes_and_calls(trt: Any) -> None:
    log = engine_log(trt)
    runtime = trt.Runtime(log)
    thread = threading.Thread(target=lambda: runtime.deserialize_cuda_engine(b"no plan"))
    thread.start()
    thread.join()
    assert len(log.errors) == 1 and "magic tag" in log.reason().lower()
