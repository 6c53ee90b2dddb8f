"""benchmarks/training_parts.py: which parts of a benchmark are found done, and which were of something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training_parts
from benchmarks.training_parts import changes_of, pruned, scores, trained
from pspnet.errors import PspnetError

WORDS = ["--data", "d", "--lr", "0.1", "--crop", "64", "--channels-last"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of `pspnet`, none of which runs: each writes its --json."""
    found: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        found.append(list(arguments))
        values = {"miou": float(len(found)), "macc": 0.0, "pixel_accuracy": 0.0, "protocol": {}}
        Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(values))

    monkeypatch.setattr(training_parts, "run", run)
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in ("weights.pth", "teacher.pt"):
        (tmp_path / name).write_text(name)
    return [str(tmp_path / "weights.pth"), str(tmp_path / "teacher.pt")]


@pytest.mark.parametrize(
    "same",
    [
        ["--crop", "64", "--lr", "0.1", "--channels-last", "--data", "d"],
        ["--data=d", "--lr=0.1", "--crop=64", "--channels-last"],
        ["--lr", "0.5", *WORDS],
        ["--no-channels-last", *WORDS],
    ],
)
def test_the_same_flags_written_otherwise_are_the_same_run(
    same: list[str], started: list[list[str]], files: list[str], tmp_path: Path
) -> None:
    trained(tmp_path / "run", WORDS, files)
    assert changes_of(tmp_path / "run", same, files[::-1]) == []
    trained(tmp_path / "run", same, files[::-1])
    assert len(started) == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([*WORDS, "--lr", "0.2"], "lr 0.1 → 0.2"), (WORDS[2:], "data d → not given"),
        ([*WORDS, "--no-channels-last"], "channels-last given → no"), ([*WORDS, "--ema=0.5"], "ema not given → 0.5"),
    ],
)  # fmt: skip
def test_other_flags_are_named(
    other: list[str], said: str, started: list[list[str]], files: list[str], tmp_path: Path
) -> None:
    trained(tmp_path / "run", WORDS, files)
    assert changes_of(tmp_path / "run", other, files) == [said]
    with pytest.raises(PspnetError, match="other settings") as error:
        trained(tmp_path / "run", other, files)
    assert f"({said}): choose another folder" in str(error.value) and len(started) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"] == WORDS


def test_files_that_changed_came_or_went(started: list[list[str]], files: list[str], tmp_path: Path) -> None:
    trained(tmp_path / "run", WORDS, files[:1])
    assert changes_of(tmp_path / "run", WORDS, files[1:]) == ["the contents of a file that it names"]
    assert changes_of(tmp_path / "run", WORDS, []) == ["a file that it names is gone"]
    assert changes_of(tmp_path / "run", WORDS, files) == ["a file that it names was not there before"]
    Path(files[0]).unlink()
    with pytest.raises(PspnetError, match=r"cannot read .*weights\.pth, on which the result depends: No such file"):
        trained(tmp_path / "run", WORDS, files[:1])


def test_a_pruned_network_is_of_its_flags_and_its_checkpoint(
    started: list[list[str]], files: list[str], tmp_path: Path
) -> None:
    small = tmp_path / "small.pt"
    small.write_text("pruned")
    pruned(small, ["--macs", "0.6", "--method", "bn"], files[0])
    pruned(small, ["--method=bn", "--macs=0.6"], files[0])
    assert len(started) == 1
    with pytest.raises(PspnetError, match=r"\(macs 0\.6 → 0\.5\)"):
        pruned(small, ["--macs", "0.5", "--method", "bn"], files[0])
    with pytest.raises(PspnetError, match=r"\(the contents of a file that it names\)"):
        pruned(small, ["--macs", "0.6", "--method", "bn"], files[1])


def test_scores_are_of_an_artefact_a_split_and_the_data(
    started: list[list[str]], files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miou(artefact: str, data: str, split: str, dataset: str = "auto") -> Any:
        return scores(artefact, ["--data", data, "--dataset", dataset], split, tmp_path)["miou"]

    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    first = miou(files[0], "one", "val")
    assert miou(files[0], "one", "val") == miou(files[0], str(tmp_path / "one"), "val") == first
    others = [
        miou(files[0], "two", "val"), miou(files[0], "one", "test"), miou(files[1], "one", "val"),
        miou(files[0], "one", "val", "folder"),
    ]  # fmt: skip
    assert len({first, *others}) == 5
    assert miou(files[0], "one", "val") == first and len(started) == 5
