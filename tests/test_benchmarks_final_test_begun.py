"""benchmarks/final_test.py: nothing is scored before the log says so, and a run that was stopped counts as a look."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import final_test
from benchmarks.test_log import BEGUN, read_log
from pspnet.checkpoint import replace_spec, save_checkpoint
from tests.nets import CAMVID, random_model

SIZE = (96, 128)
RECIPE = {"seed": 0, "lr": 0.01}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.pt"
    spec, model = random_model("mobilenet_v2", 16, SIZE, recipe=RECIPE)
    save_checkpoint(path, spec, model.state_dict())
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "results" / "test_log.jsonl"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was scored, in place of scoring it: the files that `pspnet evaluate --json` was asked to write."""
    return stand_in(monkeypatch, lambda: 0)


def stand_in(monkeypatch: pytest.MonkeyPatch, end: Callable[[], int]) -> list[str]:
    files: list[str] = []

    def pspnet(words: list[str]) -> int:
        assert words[0] == "evaluate" and words[words.index("--split") + 1] == "test"
        files.append(words[-1])
        Path(words[-1]).write_text(json.dumps({"miou": 12.3456}))
        return end()

    monkeypatch.setattr("benchmarks.training_parts.main", pspnet)
    return files


def final(log: Path, *words: object) -> int:
    return final_test.main([*map(str, words), "--data", str(CAMVID), "--log", str(log)])


def test_the_log_has_a_line_before_anything_is_scored(net: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    stand_in(monkeypatch, lambda: found.extend(read_log(log)) or 0)
    assert final(log, net) == 0
    [begun], [row] = found, read_log(log)
    assert begun.pop("state") == BEGUN and row == {**begun, "miou": 12.346}


@pytest.mark.parametrize("code", [130, 2, 1])
def test_a_run_that_ended_early_counts(
    code: int, net: Path, log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, lambda: code)  # after its scores were written, and perhaps seen
    assert final(log, net) == (130 if code == 130 else 2)
    assert "--again REASON" in capsys.readouterr().err
    files = stand_in(monkeypatch, lambda: 0)
    assert final(log, net) == 2 and not files
    error = capsys.readouterr().err
    assert "net.pt was begun on test before" in error and "--again REASON" in error and error.count("\n") == 1
    assert final(log, net, "--again", "it was stopped") == 0
    assert [row.get("state") for row in read_log(log)] == [BEGUN, None]
    assert [row["file"] for row in read_log(log)] == ["test-net-fp32-torch.json", "test-net-fp32-torch-2.json"]


def test_a_stop_in_the_middle_leaves_the_beginning(net: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> int:
        raise KeyboardInterrupt

    stand_in(monkeypatch, stop)
    assert final(log, net) == 130 and [row["state"] for row in read_log(log)] == [BEGUN]


def test_nothing_is_scored_without_a_log(
    net: Path, tmp_path: Path, evaluated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "log.jsonl", tmp_path):
        assert final(place, net, "--folder", tmp_path / "scores") == 2 and not evaluated
        error = capsys.readouterr().err
        assert "the test log" in error and error.count("\n") == 1
    log = tmp_path / "log.jsonl"
    for folder in (tmp_path / "file", tmp_path / "file" / "scores"):
        assert final(log, net, "--folder", folder) == 2 and not evaluated and not log.exists()
        error = capsys.readouterr().err
        assert "cannot write to" in error and "--folder" in error and error.count("\n") == 1


def test_a_disk_that_fills_up_loses_no_look(
    net: Path, log: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, room = os.fsync, iter([True])

    def fsync(file: int) -> None:
        if evaluated and next(room, False) is True:
            os.ftruncate(file, log.read_bytes().index(b"\n") + 1)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert final(log, net) == 2 and len(evaluated) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert final(log, net) == 2 and len(evaluated) == 1
    assert "was begun on test before" in capsys.readouterr().err


def test_a_setting_from_after_the_run_began_hides_no_other_epoch(
    net: Path, log: Path, evaluated: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """best.pt is of before an update, last.pt was resumed after it and states the setting that was added."""
    spec, model = random_model("mobilenet_v2", 16, SIZE, recipe=RECIPE)
    best, last = tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt"
    save_checkpoint(best, spec, {name: value * 1.01 for name, value in model.state_dict().items()})
    save_checkpoint(last, replace_spec(spec, recipe={**RECIPE, "logit_adjust": 0.0}), model.state_dict())
    assert final(log, last, best) == 2 and not evaluated
    assert "test chooses no epoch" in capsys.readouterr().err
    other = replace_spec(spec, recipe={**RECIPE, "logit_adjust": 0.5, "class_weights": "enet"})
    save_checkpoint(last, other, model.state_dict())
    assert final(log, last, best) == 0 and len(evaluated) == 2


def test_files_of_scores_have_plain_names(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = type("Args", (), {"mode": "whole", "scales": "1", "flip": False})()
    entry = {"checkpoint": "run/last.pt", "precision": "int8+fp16 (simulated)", "engine": "ort"}
    name = "test-run-last-int8-fp16-simulated-ort"
    assert final_test.new_file(tmp_path, entry, args, set()).name == f"{name}.json"
    assert final_test.new_file(tmp_path, entry, args, {f"{name}.json"}).name == f"{name}-2.json"
