"""The demo's bookkeeping: what is reused, what is run again, what it says of TensorRT. The road itself is long."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pspnet import demo
from pspnet.errors import PspnetError


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs that the demo ran; each writes its outputs."""
    verbs: list[str] = []

    def run(step: demo.Step, resume: bool) -> None:
        verbs.append(step.arguments[0])
        for path in step.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(step.arguments))

    monkeypatch.setattr(demo, "_run", run)
    return verbs


ROAD = ["train", "export", "calibrate", "run", "bench", "report"]


def test_a_second_run_reuses_everything(ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    demo.demo(tmp_path)
    assert ran == ROAD
    demo.demo(tmp_path)
    assert ran == ROAD
    assert capsys.readouterr().out.count("reused") == len(ROAD)


def test_a_changed_artefact_makes_what_follows_run_again(ran: list[str], tmp_path: Path) -> None:
    demo.demo(tmp_path)
    (tmp_path / "model.int8.onnx").write_text("another")
    ran.clear()
    demo.demo(tmp_path)
    assert ran == ["run", "bench"]  # the figures that the report draws came out the same


def test_a_deleted_output_is_made_again(ran: list[str], tmp_path: Path) -> None:
    demo.demo(tmp_path)
    (tmp_path / "overlay.webm").unlink()
    ran.clear()
    demo.demo(tmp_path)
    assert ran == ["run"]


def test_a_failed_step_is_run_again_and_what_was_done_stays(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = demo._run

    def fails_at_run(step: demo.Step, resume: bool) -> None:
        if step.arguments[0] == "run":
            raise PspnetError("out of disk")
        good(step, resume)

    monkeypatch.setattr(demo, "_run", fails_at_run)
    with pytest.raises(PspnetError):
        demo.demo(tmp_path)
    monkeypatch.setattr(demo, "_run", good)
    ran.clear()
    demo.demo(tmp_path)
    assert ran == ["run", "bench", "report"]


def test_a_failing_command_is_reported(tmp_path: Path) -> None:
    step = demo.Step("inspect nothing", ("inspect", str(tmp_path / "absent.onnx")), (), ())
    with pytest.raises(PspnetError, match="exit code 2"):
        demo._run(step, resume=False)


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CLIP", tmp_path / "absent.mp4")
    with pytest.raises(PspnetError, match=r"absent\.mp4 is missing"):
        demo.demo(tmp_path / "out")


def test_tensorrt_line_says_what_is_missing_or_how_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    line = demo.tensorrt_line(Path("m.int8.onnx"))
    assert "tensorrt" in line and "NVIDIA GPU" in line and "\n" not in line
    monkeypatch.setattr(demo, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert "pspnet build m.int8.onnx --data" in demo.tensorrt_line(Path("m.int8.onnx"))
