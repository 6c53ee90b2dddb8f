"""Exit codes, messages and the start-up of the command line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pspnet import artefact_commands, commands, live_commands, training_commands
from pspnet.cli import explain_missing, main, parser
from pspnet.errors import PspnetError
from tests.nets import CAMVID, ROOT

VERBS = [
    "train", "evaluate", "export", "verify", "calibrate", "run", "soak", "bench", "report", "inspect", "doctor", "demo",
    "weights",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_handler(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        parser().parse_args([verb, "--help"])
    assert exit.value.code == 0 and verb in capsys.readouterr().out
    modules = (commands, artefact_commands, live_commands, training_commands)
    assert [callable(getattr(module, verb, None)) for module in modules].count(True) == 1


def test_user_errors_are_one_line_and_exit_2(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "nowhere.onnx"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("pspnet: ") and message.count("\n") == 1


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "doctor", broken)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def raised(error: Exception, cause: Exception | None = None) -> Callable[[object], None]:
    """A verb that fails."""

    def verb(_: object) -> None:
        raise error from cause

    return verb


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), None), (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), None),
        (ValueError("the exporter failed"), RuntimeError("std::bad_alloc")),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), None),
        (PspnetError("m.onnx cannot be loaded"), RuntimeError("Failed to allocate 68157440 bytes of memory")),
        (ImportError("libtorch.so: failed to map segment from shared object"), None),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_line(
    error: Exception, cause: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(artefact_commands, "export", raised(error, cause))
    assert main(["export", "m.pt", "--size", "4096x8192"]) == 2
    message = capsys.readouterr().err
    assert message == (
        "pspnet: not enough memory for export at 4096x8192: try --size 2048x4096, or end other programs\n"
    )
    assert main(["export", "m.pt"]) == 2 and "a smaller --size" in capsys.readouterr().err


def test_advice_that_a_verb_gives_itself_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(commands, "doctor", raised(PspnetError("out of memory at batch 8: try --batch 4")))
    assert main(["doctor"]) == 2 and "--batch 4" in capsys.readouterr().err


def test_the_system_s_errors_name_a_fix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "n" * 300 + ".onnx"]) == 2
    message = capsys.readouterr().err
    assert "Give it a shorter name" in message and message.count("\n") == 1 and len(message) < 200
    monkeypatch.setattr(commands, "doctor", raised(OSError(errno.ENOSPC, "No space left on device")))
    assert main(["doctor"]) == 2 and "df -h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["export", "m.pt", "-o", ""], "output is empty"), (["inspect", "m.onnx", "--target", ""], "target is empty"),
        (["inspect", ""], "artefact is empty"), (["run", "m.onnx", "a.png", "", "-o", "x"], "sources is empty"),
        (["verify", "a.onnx", "b.onnx", "--data", "d", "--fit", "foo"], "fit is 'foo': choose one of stretch"),
        (["train", "--data", "d", "-o", "r", "--fit", "foo"], "fit is 'foo': choose one of stretch"),
        (["export", "m.pt", "--size", "-8x8"], "size is '-8x8': write HEIGHTxWIDTH"),
        (["export", "m.pt", "--images", "1"], "--images chooses pictures of a data set: give --data DIR"),
        (["export", "m.pt", "--split", "test"], "--split chooses pictures of a data set: give --data DIR"),
        (["export", "m.pt", "--dataset", "list"], "--dataset chooses pictures of a data set: give --data DIR"),
        (
            ["verify", "a.pt", "b.onnx", "--data", "{data}", "--engine", "ort"],
            "a.pt is a checkpoint, which runs on torch, not ort: give --engine torch,ort",
        ),
        (["verify", "a.onnx", "b.pt", "--data", "{data}", "--engine", "openvino"], "give --engine openvino,torch"),
    ],
)  # fmt: skip
def test_slips_are_refused_before_any_work(command: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert main([part.format(data=CAMVID) for part in command]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m pspnet --help | true; {sys.executable} -m pspnet doctor | head -n 1"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr


def test_missing_packages_name_their_extra() -> None:
    assert "pspnet-edge[cpu]" in str(explain_missing(ModuleNotFoundError("no", name="openvino")))
    assert "pspnet-edge[train]" in str(explain_missing(ModuleNotFoundError("no", name="torch.nn")))
    assert "apt-get install libgl1" in str(explain_missing(ImportError("libGL.so.1: cannot open shared object file")))
    assert explain_missing(ModuleNotFoundError("no", name="pspnet.typo")) is None


def test_no_repository_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".json", ".jsonl", ""} and path.is_file() and name != "LICENSE":
            text = path.read_text(encoding="utf-8")
            assert "/" + "work/" not in text and "/" + "root/" not in text, name


def test_output_below_a_file_is_refused(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["export", str(small_checkpoint), "-o", str(tmp_path / "file" / "m.onnx")]) == 2
    assert "cannot write" in capsys.readouterr().err
