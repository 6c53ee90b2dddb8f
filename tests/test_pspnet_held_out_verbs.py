"""train --hold-out and evaluate --hold-out: which pictures they read, what is recorded, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pspnet import dataset as datasets
from pspnet.checkpoint import read_checkpoint
from pspnet.cli import main
from tests.drives import write_drives

RULE = ["--hold-out", "0.25:1"]
SHORT = ["--weights", "none", "--bins", "1,2", "--output-stride", "32", "--crop", "64", "--batch", "4"]
SHORT += ["--workers", "0", "--lr", "0.01"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives; there is no validation and no test split that could be read."""
    return write_drives(tmp_path_factory.mktemp("drives") / "data")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch."""
    output = tmp_path_factory.mktemp("run") / "run"
    words = ["train", "--data", str(data), *RULE, *SHORT, "--epochs", "1", "-o", str(output)]
    assert main([*words, "--json", str(output / "result.json")]) == 0
    return output


def test_the_record_says_what_was_held_out(trained: Path) -> None:
    spec, _ = read_checkpoint(trained / "best.pt")
    assert spec.dataset == "folder train, but for 0.25:1"
    held_out = spec.recipe["hold_out"]
    assert held_out["rule"] == "0.25:1" and held_out["drives"] == {"0016E5": [8, 1, 3], "A1": [8, 1, 3]}
    assert held_out["names"].keys() == {"0016E5", "A1"}
    protocol = spec.metrics["val"]["protocol"]
    assert protocol["split"] == "train, held out 0.25:1" and protocol["images"] == 6
    assert read_checkpoint(trained / "last.pt")[1]["pictures"]["count"] == 16
    made = spec.recipe["made_with"]
    assert (
        made["command"].startswith("pspnet train --data data --hold-out 0.25:1") and str(trained) not in made["command"]
    )


def test_a_run_goes_on_with_the_same_pictures_only(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(trained, tmp_path / "run"))
    words = ["train", "--data", str(data), *SHORT, "--epochs", "1", "--resume", "-o", str(output)]
    assert main([*words, *RULE]) == 0
    assert main([*words, "--hold-out", "0.25:2"]) == 2
    assert "hold_out 0.25:1 → 0.25:2" in capsys.readouterr().err
    write_drives(tmp_path / "more", splits=("train", "val"))
    assert main(["train", "--data", str(tmp_path / "more"), *words[3:]]) == 2  # without the rule
    assert "made with other settings (hold_out 0.25:1 → nothing" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["0.25:1", "own"])
def test_evaluate_scores_the_part_that_training_validated_on(
    rule: str, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained / "best.pt"), "--data", str(data), "--hold-out", rule]
    assert main([*words, "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    spec, _ = read_checkpoint(trained / "best.pt")
    assert scores["miou"] == pytest.approx(spec.metrics["val"]["miou"], abs=0.01)  # a near-tie may fall otherwise
    assert scores["protocol"]["labels_sha256"] == spec.metrics["val"]["protocol"]["labels_sha256"]
    assert scores["protocol"]["hold_out"]["own"] and scores["protocol"]["hold_out"]["rule"] == "0.25:1"
    assert "may know these pictures" not in capsys.readouterr().out


def test_evaluate_tells_of_pictures_that_may_be_known(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained / "best.pt"), "--data", str(data), "--hold-out", "A1"]
    assert main([*words, "--split", "train", "--json", str(tmp_path / "s.json")]) == 0
    assert "was not trained with --hold-out A1: it may know these pictures" in capsys.readouterr().out
    protocol = json.loads((tmp_path / "s.json").read_text())["protocol"]
    assert protocol["images"] == 12 and not protocol["hold_out"]["own"]


def test_refusals(data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(trained / "best.pt")
    for words, said in (
        (["evaluate", best, "--data", str(data), *RULE, "--split", "test"], "leave out --split test"),
        (["train", "--data", str(data), "--hold-out", "0.9:9", *SHORT, "-o", str(tmp_path / "a")], "nothing to train"),
        (["train", "--data", str(data), "--hold-out", "A1", "--init", best, "-o", str(tmp_path / "b")],
         "was trained with --hold-out 0.25:1 of folder, so it knows pictures that --hold-out A1 holds out"),
    ):  # fmt: skip
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_weights_of_the_whole_split_are_no_beginning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = write_drives(tmp_path / "data", frames=4, splits=("train", "val"))
    assert main(["train", "--data", str(everything), *SHORT, "--epochs", "1", "-o", str(tmp_path / "whole")]) == 0
    words = ["train", "--data", str(data), *RULE, "--init", str(tmp_path / "whole" / "last.pt"), "--crop", "64"]
    assert main([*words, "-o", str(tmp_path / "next")]) == 2
    assert "was trained on the whole training split of folder" in capsys.readouterr().err
    words = ["train", "--data", str(data), *RULE, *SHORT, "--teacher", str(tmp_path / "whole" / "last.pt")]
    assert main([*words, "-o", str(tmp_path / "next")]) == 2
    error = capsys.readouterr().err
    assert "was trained on the whole training split" in error and "let a teacher teach with weights" in error
    assert not (tmp_path / "next").exists()


def test_the_same_rule_on_other_pictures_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer frames the border moves: pictures that were trained on would be scored."""
    fewer, best = str(write_drives(tmp_path / "fewer", frames=8)), str(trained / "best.pt")
    for words in (
        ["evaluate", best, "--data", fewer, "--hold-out", "own"],
        ["train", "--data", fewer, *RULE, "--init", best, "--crop", "64", "-o", str(tmp_path / "next")],
        ["train", "--data", fewer, *RULE, *SHORT, "--teacher", best, "-o", str(tmp_path / "next")],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "of drive 0016E5 it had 8 to train on, 1 between and 3 held out" in error
    assert not (tmp_path / "next").exists()
    words = ["evaluate", best, "--data", fewer, *RULE, "--json", str(tmp_path / "s.json")]
    assert main(words) == 0
    assert "with --hold-out 0.25:1 on this data (of drive 0016E5" in capsys.readouterr().out
    assert not json.loads((tmp_path / "s.json").read_text())["protocol"]["hold_out"]["own"]


def test_a_teacher_and_unlabelled_pictures_know_nothing_of_the_part(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", str(data), *RULE, *SHORT, "--epochs", "1", "--teacher", str(trained / "best.pt")]
    held = tmp_path / "held"
    held.mkdir()
    for frame in (240, 270, 330):
        shutil.copy(data / "train" / "images" / f"A1_{frame}.png", held / f"A1_{frame}.png")
    assert main([*words, "--unlabelled", str(held), "-o", str(tmp_path / "a")]) == 2
    assert f"--hold-out 0.25:1 holds out every picture of {held}" in capsys.readouterr().err
    assert main([*words, "--unlabelled", str(data / "train"), "-o", str(tmp_path / "b")]) == 0
    assert "unlabelled: 8 pictures of" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "b" / "last.pt")[1]["pictures"]["count"] == 16 + 16
    (tmp_path / "A1.mp4").write_bytes(b"")
    assert main([*words, "--unlabelled", str(tmp_path / "A1.mp4"), "-o", str(tmp_path / "c")]) == 2
    assert "is named as drive A1, of which --hold-out 0.25:1 holds frames out" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_only_the_training_split_is_opened(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = datasets.open_unchecked

    def noted(name: str, root: str | Path, split: str) -> datasets.Dataset:
        opened.append(split)
        return real(name, root, split)

    monkeypatch.setattr(datasets, "open_unchecked", noted)
    assert main(["train", "--data", str(data), *RULE, *SHORT, "--epochs", "1", "-o", str(tmp_path / "run")]) == 0
    assert set(opened) == {"train"}
