"""weights/pack.py over a shipped name: all of a checkpoint and its card is replaced, or nothing is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.shipped import check, shipped
from tests.nets import random_model
from tests.score_files import NOTES, measure
from weights import pack

ROWS = [{"miou": 1.0}, {"miou": 2.0}]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with net.pt and its card, packed from a run with scores on test, and run/last.pt, a later run."""
    (tmp_path / "net.toml").write_text(NOTES)
    for lr, name in ((0.1, "first"), (0.2, "run")):
        save_run(tmp_path / name, seed=0, lr=lr)
    assert packed(tmp_path, "first") == 0
    result = measure(tmp_path / "log.jsonl", tmp_path / "net.pt", 50.0, named=False)
    (tmp_path / "net.toml").write_text(f'{NOTES}results = ["{result}"]\n')
    assert pack.main([str(tmp_path / "net.pt"), "--log", str(tmp_path / "log.jsonl")]) == 0
    return tmp_path


def save_run(folder: Path, **recipe: Any) -> Path:
    spec, model = random_model("mobilenet_v2", 16, (96, 128), recipe=recipe, licence="free")
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "last.pt", spec, model.state_dict(), history=ROWS)
    return folder


def packed(folder: Path, run: str, *words: object) -> int:
    names = [str(folder / run / "last.pt"), str(folder / "net.pt"), "--log", str(folder / "log.jsonl")]
    return pack.main([*names, "--licence", "free", "--replace", *map(str, words)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_results_of_the_network_before_are_refused_with_nothing_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    assert packed(place, "run") == 2
    error = capsys.readouterr().err
    assert "is of another checkpoint" in error and error.count("\n") == 1
    assert "remove `results = [...]` from" in error and "net.toml" in error
    assert contents(place) == before
    (place / "net.toml").write_text(NOTES)  # what the line says
    assert packed(place, "run") == 0
    check(shipped(place))
    facts = json.loads((place / "net.json").read_text())
    assert facts["sha256"] == sha256_of(place / "net.pt") and facts["test"] is None and not facts["scores"]
    assert facts["stages"][0]["settings"]["lr"] == 0.2


def test_results_of_files_made_from_the_network_before_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not say from which checkpoint they were made."""
    result = measure(place / "log.jsonl", place / "net.pt", 49.0, artefact="model.int8.onnx", named=False)
    (place / "net.toml").write_text(f'{NOTES}results = ["{result}"]\n')
    before = contents(place)
    assert packed(place, "run") == 2
    error = capsys.readouterr().err
    assert "lists no scores of the checkpoint itself" in error and error.count("\n") == 1
    assert contents(place) == before


def test_what_is_there_is_replaced_when_told_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its notes speak of the network before, and no file says whether they were rewritten."""
    (place / "net.toml").write_text(NOTES)
    before, words = contents(place), [str(place / "run" / "last.pt"), str(place / "net.pt"), "--licence", "free"]
    assert pack.main(words) == 2
    error = capsys.readouterr().err
    assert "is there already" in error and "--replace" in error and error.count("\n") == 1
    assert contents(place) == before
    assert pack.main([*words, "--replace", "--log", str(place / "log.jsonl")]) == 0


def test_a_packed_file_is_not_packed_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The curves of its seeds would be lost."""
    (place / "new.toml").write_text(NOTES)
    before = contents(place)
    assert pack.main([str(place / "net.pt"), str(place / "new.pt"), "--licence", "free"]) == 2
    assert "is packed already" in capsys.readouterr().err and contents(place) == before


def test_a_seed_on_other_pictures_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "net.toml").write_text(NOTES)
    for name, count in (("run", 9), ("fewer", 8)):
        spec, model = random_model("mobilenet_v2", 16, (96, 128), recipe={"seed": count, "lr": 0.2}, licence="free")
        (place / name).mkdir(exist_ok=True)
        save_checkpoint(place / name / "last.pt", spec, model.state_dict(), history=ROWS, pictures={"count": count})
    assert packed(place, "run", "--seeds", place / "fewer") == 2
    assert "was trained on other pictures" in capsys.readouterr().err


def test_a_file_for_a_seed_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "net.toml").write_text(NOTES)
    assert packed(place, "run", "--seeds", place / "first" / "last.pt") == 2
    assert f"give the folder of the run, --seeds {place / 'first'}" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["page_of", "learning_curves", "write_json"])
def test_a_card_that_cannot_be_made_changes_nothing(part: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "net.toml").write_text(NOTES)
    before = contents(place)

    def failing(*_: Any) -> Any:
        raise PspnetError("no card")

    monkeypatch.setattr(pack, part, failing)
    assert packed(place, "run") == 2
    assert contents(place) == before


def test_curves_of_all_stages_that_are_still_there(place: Path) -> None:
    """The run that a run began with has its rows first; where it is gone, or another is in its place, it has none."""
    (place / "net.toml").write_text(NOTES)
    stage = {"seed": 0, "lr": 0.3, "made_with": {"command": "pspnet train --data d"}}
    before = save_run(place / "before", **stage)
    command = f"pspnet train --data d --init {shlex.quote(str(before / 'last.pt'))}"
    save_run(place / "run", seed=0, lr=0.2, made_with={"command": command}, init_recipe=stage)
    assert packed(place, "run") == 0 and curve(place) == [*ROWS, *ROWS]
    save_run(before, **stage | {"lr": 0.4})
    assert packed(place, "run") == 0 and curve(place) == ROWS
    (before / "last.pt").unlink()
    assert packed(place, "run") == 0 and curve(place) == ROWS


@pytest.mark.parametrize(
    ("first", "seeds", "again"),
    [
        ((0, 0), "2 seeds of the last stage on test", "# the last one again with --seed 1, -o runs/net-seed1"),
        ((0, 1), "2 seeds on test", "# all of them again with --seed 1, in other folders, the last -o runs/net-seed1"),
    ],
)
def test_seeds_that_share_the_first_stage_are_told_as_such(
    first: tuple[int, int], seeds: str, again: str, tmp_path: Path
) -> None:
    (tmp_path / "net.toml").write_text(NOTES)
    for seed in (0, 1):
        stage = {"seed": first[seed], "lr": 0.3, "made_with": {"command": "pspnet train --data d"}}
        command = {"command": "pspnet train --data d --init runs/before/last.pt"}
        save_run(tmp_path / f"seed{seed}", seed=seed, lr=0.2, made_with=command, init_recipe=stage)
        measure(tmp_path / "log.jsonl", tmp_path / f"seed{seed}" / "last.pt", 50.0 + seed)
    assert packed(tmp_path, "seed0", "--seeds", tmp_path / "seed1") == 0
    measure(tmp_path / "log.jsonl", tmp_path / "net.pt", 50.0)
    assert pack.main([str(tmp_path / "net.pt"), "--log", str(tmp_path / "log.jsonl")]) == 0
    page = " ".join((tmp_path / "net.md").read_text().split())
    assert f" {seeds}, fp32: seed 0 50.00, seed 1 51.00; " in page and again in page
    assert ("What came before was trained once" in page) == (first == (0, 0))


def curve(folder: Path) -> list[dict[str, float]]:
    (history,) = read_checkpoint(folder / "net.pt")[1]["histories"]
    return history["rows"]


def test_the_picture_of_the_curves_goes_with_them(place: Path) -> None:
    (place / "net.toml").write_text(NOTES)
    assert (place / "net.svg").exists()
    spec, model = random_model("mobilenet_v2", 16, (96, 128), recipe={"seed": 1}, licence="free")
    save_checkpoint(place / "run" / "last.pt", spec, model.state_dict())
    assert packed(place, "run") == 0
    assert not (place / "net.svg").exists() and "net.svg" not in (place / "net.md").read_text()


def test_seeds_from_before_and_after_a_setting_was_added(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "net.toml").write_text(NOTES)
    one = save_run(place / "one", seed=1, lr=0.2, logit_adjust=0.0, processes=1)
    assert packed(place, "run", "--seeds", one) == 0
    two = save_run(place / "two", seed=2, lr=0.2, logit_adjust=0.5)
    assert packed(place, "run", "--seeds", two) == 2
    assert "(another logit_adjust 0.0 → 0.5)" in capsys.readouterr().err
    three = save_run(place / "three", seed=3, lr=0.2, processes=2)
    assert packed(place, "run", "--seeds", three) == 2
    assert "(another processes 1 → 2)" in capsys.readouterr().err


def test_seeds_whose_earlier_stage_was_before_a_setting_was_added(place: Path) -> None:
    (place / "net.toml").write_text(NOTES)
    stage = {"lr": 0.3, "seed": 0}
    save_run(place / "run", seed=0, lr=0.2, init_recipe=stage)
    one = save_run(place / "one", seed=1, lr=0.2, init_recipe=stage | {"logit_adjust": 0.0, "seed": 1})
    assert packed(place, "run", "--seeds", one) == 0
    other = save_run(place / "two", seed=2, lr=0.2, init_recipe=stage | {"logit_adjust": 0.5})
    assert packed(place, "run", "--seeds", other) == 2


def test_what_the_page_says_of_packing(place: Path) -> None:
    """The command is one that a shell reads as it was meant, with every seed and the note."""
    (place / "net.toml").write_text(NOTES)
    spec, model = random_model("mobilenet_v2", 16, (96, 128), licence="free")
    for seed in (0, 1, 2):
        folder = place / f"s{seed}"
        folder.mkdir()
        made = {"command": f"pspnet train --data d --seed {seed}"}
        run = replace_spec(spec, recipe={"seed": seed, "made_with": made})
        save_checkpoint(folder / "last.pt", run, model.state_dict(), history=ROWS)
    licence, note = 'a "b" $HOME `c` - it\'s free', "half -x 'y'"
    words = [str(place / "s0" / "last.pt"), str(place / "net.pt"), "--log", str(place / "log.jsonl"), "--replace"]
    words += ["--licence", licence, "--note", note, "--seeds", *(str(place / f"s{i}") for i in (1, 2))]
    assert pack.main(words) == 0
    page = (place / "net.md").read_text()
    lines = page.split("```bash\n")[1].split("```")[0]
    found = [shlex.split(line) for line in lines.replace(" \\\n", "").splitlines() if not line.startswith("#")]
    assert found[0] == ["pspnet", "train", "--data", "d", "--seed", "0", "-o", "runs/net"]
    assert found[1] == [
        "python", "weights/pack.py", "runs/net/last.pt", "weights/net.pt", "--licence", licence, "--replace",
        "--note", note, "--seeds", "runs/net-seed1", "runs/net-seed2",
    ]  # fmt: skip
    assert len(found) == 2 and "--seed 1, in other folders, the last -o runs/net-seed1" in lines
