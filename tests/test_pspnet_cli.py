"""Exit codes, messages and the start-up of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pspnet import artefact_commands, commands, training_commands
from pspnet.cli import explain_missing, main, parser
from tests.nets import ROOT

VERBS = ["train", "evaluate", "export", "verify", "calibrate", "run", "bench", "report", "inspect", "doctor", "demo"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_handler(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        parser().parse_args([verb, "--help"])
    assert exit.value.code == 0 and verb in capsys.readouterr().out
    modules = (commands, artefact_commands, training_commands)
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
