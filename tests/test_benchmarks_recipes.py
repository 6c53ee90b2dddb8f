"""benchmarks/recipes.py: every recipe and seed on the held-out part, resumed and never repeated, and test untouched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import training_parts
from benchmarks.recipe_file import flags_of, recipes_of
from benchmarks.recipe_runs import code_of, notes_of, one_run, runs_by_code
from benchmarks.recipes import draw, main, row_of, text_of
from pspnet import dataset as datasets
from pspnet import train_run
from pspnet.checkpoint import read_checkpoint
from pspnet.errors import PspnetError
from pspnet.wording import own_version
from tests.drives import write_drives
from tests.nets import ROOT

FILES = [ROOT / "benchmarks" / "recipes.toml", ROOT / "benchmarks" / "ablations.toml"]
TOML = """
[common]
bins = "1,2"
output-stride = 32
crop = 64
batch = 4
workers = 0
weights = "none"

[plain]

[enet]
class_weights = "enet"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drives(tmp_path_factory.mktemp("drives") / "data", splits=("train", "val", "test"))


@pytest.fixture
def command(data: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "r.toml").write_text(TOML)
    words = ["--data", str(data), "--hold-out", "0.25:1", "--recipes", str(tmp_path / "r.toml"), "--epochs", "2"]
    return [*words, "--seeds", "3,4", "-o", str(tmp_path / "runs"), "--json", str(tmp_path / "r.json")]


def test_a_search(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    opened: set[str] = set()
    real = datasets.open_unchecked
    monkeypatch.setattr(datasets, "open_unchecked", lambda n, r, split: opened.add(split) or real(n, r, split))
    assert main([*command, "--curves", str(tmp_path / "c.svg")]) == 0
    assert opened == {"train"}
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["hold_out"]["rule"] == "0.25:1" and found["seeds"] == [3, 4] and not found["failed"]
    runs = [f"{name}, seed {seed}" for name in ("plain", "enet") for seed in (3, 4)]
    made_with = {
        run["made_with"]["commit"] or f"version {own_version()}" for row in found["recipes"] for run in row["runs"]
    }
    assert found["code"] == dict.fromkeys(made_with, runs)
    assert [row["name"] for row in found["recipes"]] == ["plain", "enet"]
    for row in found["recipes"]:
        assert [run["seed"] for run in row["runs"]] == [3, 4]
        last = []
        for run in row["runs"]:
            spec, raw = read_checkpoint(tmp_path / "runs" / f"{row['name']}-seed{run['seed']}" / "last.pt")
            assert spec.recipe["seed"] == run["seed"] and spec.recipe["hold_out"]["rule"] == "0.25:1"
            assert spec.recipe["class_weights"] == ("enet" if row["name"] == "enet" else "none")
            assert run["miou"] == pytest.approx([epoch["miou"] for epoch in raw["history"]])
            assert run["steps"] == 2 * (16 // 4) and run["best"] == max(run["miou"])
            last.append(raw["history"][-1]["miou"])
        assert row["mean"] == pytest.approx(np.mean(last)) and row["spread"] == pytest.approx(np.std(last, ddof=1))
        assert re.search(rf"^{row['name']} +2 +{row['mean']:.2f} ", table, re.MULTILINE)
    assert (tmp_path / "c.svg").read_text().count("<polyline") == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")} == before
    again = json.loads((tmp_path / "r.json").read_text())["recipes"]
    assert [row["runs"] for row in again] == [row["runs"] for row in found["recipes"]]


def test_ctrl_c_and_the_same_command_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = [*command, "--only", "plain"]
    real, calls = train_run.TrainRun._validate, []

    def interrupted(self: Any, *rest: Any) -> None:
        calls.append(len(self.state.progress.history))
        if len(calls) == 2:  # seed 3 has an epoch, and is in its second
            raise KeyboardInterrupt
        real(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train_run.TrainRun, "_validate", interrupted)
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
    assert main(command) == 0
    log = (tmp_path / "runs" / "plain-seed3" / "train.log").read_text()
    assert "resumed" in log and "after epoch 1 " in log
    rows = json.loads((tmp_path / "r.json").read_text())["recipes"]
    assert [len(run["miou"]) for run in rows[0]["runs"]] == [2, 2]


def test_a_run_that_fails_does_not_end_the_search(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = training_parts.run

    def diverges(arguments: list[str]) -> None:
        if "enet" in arguments and "3" in arguments:
            raise PspnetError("the loss is nan")
        real(arguments)

    monkeypatch.setattr(training_parts, "run", diverges)
    assert main([*command, "--", "--lr", "0.001"]) == 1
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["failed"] == ["enet, seed 3: the loss is nan"]
    assert capsys.readouterr().err.splitlines()[-1] == "recipes.py: failed: enet, seed 3: the loss is nan"
    assert [[run["seed"] for run in row["runs"]] for row in found["recipes"]] == [[3, 4], [4]]
    assert found["recipes"][1]["spread"] is None
    before = (tmp_path / "r.json").read_bytes()
    folder = tmp_path / "runs" / "plain-seed4"
    kept = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").unlink()
    assert main([*command, "--", "--lr", "0.001"]) == 1
    said = capsys.readouterr()
    assert "is left as it was: it has figures that this time failed (plain, seed 4)" in said.err
    assert f"plain, seed 4: cannot read {folder / 'metrics.csv'} of a finished run: No such file" in said.err
    assert f"delete {folder}: the same command then makes the run again" in said.err
    assert re.search("^plain +1 ", said.out, re.MULTILINE) and re.search("^enet +1 ", said.out, re.MULTILINE)
    assert (tmp_path / "r.json").read_bytes() == before
    arguments = json.loads((folder / "run.json").read_text())["arguments"]
    for text in ("epoch,loss\n1,0.5\n", kept.splitlines()[0] + "\n", kept + "3\n", kept.replace("1", "one")):
        (folder / "metrics.csv").write_text(text)
        with pytest.raises(PspnetError, match=r"metrics\.csv holds no figures of a run .* Bring it back, or delete"):
            one_run(folder, arguments, [])
    (folder / "metrics.csv").write_text(kept)
    assert len(one_run(folder, arguments, [])["miou"]) == 2


def test_figures_of_other_runs_are_not_replaced(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(training_parts, "run", started.append)
    known = [{"name": name, "runs": [{"seed": 3}, {"seed": 4}]} for name in ("plain", "enet")]
    text = json.dumps({"kind": "recipes", "recipes": known})
    (tmp_path / "r.json").write_text(text)
    assert main([*command, "--only", "plain"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'r.json'} has figures of runs that this call leaves out (enet, seed 3; enet, seed 4)" in error
    assert "or write another file with --json" in error and error.count("\n") == 1
    assert main([*command, "--seeds", "4,5"]) == 2 and "(plain, seed 3; enet, seed 3)" in capsys.readouterr().err
    assert not started and (tmp_path / "r.json").read_text() == text and not (tmp_path / "runs").exists()
    (tmp_path / "r.json").write_text('{"kind": "bench"}')
    assert main(command) == 2 and "r.json holds other figures than those of recipes" in capsys.readouterr().err


def test_an_edited_recipe_is_refused_before_anything_runs(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    started: list[list[str]] = []

    def fails(arguments: list[str]) -> None:
        started.append(arguments)
        raise PspnetError("no")

    command = [*command, "--seeds", "3", "--only"]
    assert main([*command, "enet"]) == 0
    before = (tmp_path / "r.json").read_bytes()
    monkeypatch.setattr(training_parts, "run", fails)
    capsys.readouterr()
    (tmp_path / "r.toml").write_text(TOML.replace('"enet"', '"median"') + "lr = 0.02\n")
    assert main([*command, "plain,enet"]) == 2
    error = capsys.readouterr().err
    said = f"recipe enet is not that of its runs in {tmp_path / 'runs'} "
    said += "(class-weights enet → median; lr not given → 0.02)"
    assert said in error and "choose another folder with -o" in error and error.count("\n") == 1
    assert not started and (tmp_path / "r.json").read_bytes() == before
    assert not (tmp_path / "runs" / "plain-seed3").exists()
    (tmp_path / "runs" / "enet-seed3" / "result.json").unlink()  # now it was only begun
    assert main([*command, "enet", "--epochs", "3"]) == 2 and "epochs 2 → 3" in capsys.readouterr().err
    (tmp_path / "runs" / "enet-seed3" / "last.pt").unlink()  # now it failed before its first epoch
    assert main([*command, "enet"]) == 2 and len(started) == 1
    assert json.loads((tmp_path / "runs" / "enet-seed3" / "run.json").read_text())["arguments"].count("median") == 1


def test_finished_runs_on_other_pictures_are_not_compared(command: list[str], tmp_path: Path, capsys: Any) -> None:
    data = write_drives(tmp_path / "own", splits=("train",))
    command = [*command, "--data", str(data), "--only", "plain", "--seeds", "3"]
    assert main([*command, "--epochs", "1"]) == 0
    write_drives(data, frames=14, splits=("train",))
    assert main([*command, "--epochs", "1"]) == 2
    assert "recipe plain was trained on other pictures than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "1,1"], "all different"), (["--seeds", "-1"], "whole numbers"), (["--curves", "c.png"], ".svg"),
        (["--only", "none"], "no recipe 'none'"), (["--recipes", "quick"], "unknown recipe 'quick'"),
        (["--recipes", "laptop", "--only", "laptop"], "--only chooses recipes of a file"),
        (["--recipes", "missing.toml"], "cannot read recipes"), (["--hold-out", "2"], "share must be above 0"),
        (["--", "--epochs", "3"], "--epochs is this script's own"), (["--", "--lr", "999"], "lr is 999"),
        (["--", "--nonsense"], "no flags that `pspnet train` takes"), (["--json", "."], "it is a folder"),
        (["--", "--hold", "0.5"], "--hold-out is this script's own, abbreviated or not"),
        (["--", "--weights", "gone.pth"], "recipe plain: --weights gone.pth is no file"),
        (["--epochs", "1", "--", "--warmup", "4"], "takes 4 steps, but the run has only 4"),
    ],
)  # fmt: skip
def test_refusals_before_the_first_run(
    words: list[str], said: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr = 1\n", "outside of a table"), ("[a]\nepochs = 3\n", "the same for every recipe"),
        ("[a]\nhold_out = '0.2'\n", "the same for every recipe"), ("[a]\nlr = [1]\n", "must be a number"),
        ("[common]\nlr = 1\n", "holds no recipe"), ("[a", "is no TOML file"),
        ("['../x']\nlr = 1\n", r"recipe '\.\./x' cannot be"),
        ('["a b"]\nlr = 1\n', "letters, digits"),
    ],
)  # fmt: skip
def test_files_that_hold_no_recipes(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(PspnetError, match=said):
        recipes_of(str(tmp_path / "r.toml"))


def test_flags_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[common]\nlr = 0.1\n[a]\nlr = 0.2\nchannels-last = false\ncompile = true\n")
    found = recipes_of(str(tmp_path / "r.toml"))
    assert flags_of(found["a"]) == ["--lr", "0.2", "--no-channels-last", "--compile"]
    assert recipes_of("fast,laptop") == {"fast": {"recipe": "fast"}, "laptop": {"recipe": "laptop"}}


def test_the_ablations_are_two_by_two() -> None:
    found = recipes_of(str(FILES[1]))
    switched = {(recipe.get("bins"), recipe.get("aux-weights")) for recipe in found.values()}
    assert switched == {(None, None), (None, "0"), ("none", None), ("none", "0")}
    rest = [{k: v for k, v in recipe.items() if k not in ("bins", "aux-weights")} for recipe in found.values()]
    assert all(recipe == rest[0] for recipe in rest)


def test_the_best_recipe_comes_first() -> None:
    def runs(*values: float) -> list[dict[str, Any]]:
        return [{"last": v, "best": v + 1, "seconds": 60.0} for v in values]

    rows = [row_of("low", {}, runs(10.0, 12.0)), row_of("high", {}, runs(40.0))]
    lines = text_of(rows, "0.2:5").splitlines()
    assert lines[1].split() == ["high", "1", "40.00", "-", "40.00", "40.00", "41.00", "1", "min"]
    assert lines[2].split() == ["low", "2", "11.00", "1.41", "10.00", "12.00", "12.00", "2", "min"]


def row(name: str, *runs: tuple[int, int, Any]) -> dict[str, Any]:
    """A row with (seed, steps, made_with) of each run."""
    return {"name": name, "runs": [{"seed": s, "steps": n, "made_with": m} for s, n, m in runs]}


def test_unequal_steps_and_code_are_noted() -> None:
    old, new = ({"commit": letter * 40 + more, "version": "0.1"} for letter, more in (("a", ""), ("b", "+changes")))
    rows = [row("plain", (0, 8, old), (1, 8, old)), row("enet", (0, 8, old), (1, 8, new))]
    assert notes_of(rows[:1]) == []
    assert runs_by_code(rows) == {
        "a" * 40: ["plain, seed 0", "plain, seed 1", "enet, seed 0"],
        "b" * 40 + "+changes": ["enet, seed 1"],
    }
    said = "plain, seed 0 and plain, seed 1 and enet, seed 0"
    assert notes_of(rows) == [f"note: unequal code: aaaaaaaaaaaa made {said}; bbbbbbbbbbbb+changes made enet, seed 1"]
    unequal = [row("plain", (0, 8, old)), row("half", (0, 8, old), (1, 4, old))]
    assert notes_of(unequal) == ["note: unequal steps: plain 8, half 4 or 8"]
    assert [code_of({"made_with": made}) for made in (None, {"commit": "", "version": "0.1"})] == [
        "not stated",
        "version 0.1",
    ]


def test_the_curves_say_how_many_seeds_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_text
    # Without one, the encoding would be the machine's: a TypeError here.
    monkeypatch.setattr(Path, "write_text", lambda path, text, *, encoding: real(path, text, encoding=encoding))

    def curves(*counts: int) -> str:
        draw(tmp_path / "c.svg", [{"name": f"r{n}", "runs": [{"miou": [1.0, 2.0]}] * n} for n in counts])
        return (tmp_path / "c.svg").read_text(encoding="utf-8")

    assert "range of 1 to 3 seeds" in curves(3, 1) and "range of 2 seeds" in curves(2, 2)
