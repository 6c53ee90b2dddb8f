"""`pspnet average`: the mean of runs of one recipe that began with one checkpoint, and its way into a shipped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pspnet.checkpoint import load_model, read_checkpoint, replace_spec, save_checkpoint
from pspnet.cli import main
from tests.nets import random_model
from tests.score_files import NOTES, measure
from weights import pack

SIZE = (96, 128)
START: dict[str, Any] = {"lr": 0.3, "seed": 0, "made_with": {"command": "pspnet train --data d"}}
COMMAND = {"command": "pspnet train --data d --init runs/before/last.pt --seed 0", "init_sha256": "a"}
ONE_ULP = 1.2e-7  # the mean is summed in float64 and rounded to float32 once


def save_run(path: Path, number: int, noise: float = 1.0, pictures: int = 9, **changes: Any) -> Path:
    """A run's last.pt: the same network with its own weights, statistics of batch norm and number of steps.

    changes: of its recipe, whose seed is `number`; None leaves a setting out.
    """
    settings = {"init": "last.pt", "init_recipe": START, "lr": 0.2, "seed": number, "made_with": COMMAND} | changes
    recipe = {name: value for name, value in settings.items() if value is not None}
    spec, model = random_model("mobilenet_v2", 16, SIZE, recipe=recipe, licence="free")
    generator = torch.Generator().manual_seed(number)
    state = {
        name: value + (noise * torch.rand(value.shape, generator=generator) if value.is_floating_point() else number)
        for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    history = [{"miou": 1.0 + number}, {"miou": 2.0}]
    save_checkpoint(path, spec, state, history=history, pictures={"count": pictures})
    return path


def averaged(*words: object) -> int:
    return main(["average", *map(str, words)])


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [save_run(tmp_path / f"seed{seed}" / "last.pt", seed) for seed in (0, 1, 2)]


def test_it_is_the_mean_of_every_tensor(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert averaged(*runs, "-o", tmp_path / "mean.pt") == 0
    assert "the mean of 3 runs, seeds 0, 1, 2" in capsys.readouterr().out
    spec, raw = read_checkpoint(tmp_path / "mean.pt")
    states = [read_checkpoint(path)[1]["model"] for path in runs]
    for name, value in raw["model"].items():
        found = np.stack([state[name].numpy() for state in states])
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), found.astype(np.float64).mean(0), rtol=ONE_ULP)
            assert value.dtype == torch.float32
        else:
            assert value == found.max()
    assert spec.recipe["averaged"] == [0, 1, 2] and "seed" not in spec.recipe and spec.recipe["lr"] == 0.2
    load_model(tmp_path / "mean.pt")


def test_halves_are_summed_wider(runs: list[Path], tmp_path: Path) -> None:
    for path in runs:
        spec, raw = read_checkpoint(path)
        save_checkpoint(path, spec, {k: v.half() if v.ndim > 1 else v for k, v in raw["model"].items()})
    assert averaged(*runs, "-o", tmp_path / "mean.pt") == 0
    states = [read_checkpoint(path)[1]["model"]["head.classifier.weight"].numpy() for path in runs]
    mean = read_checkpoint(tmp_path / "mean.pt")[1]["model"]["head.classifier.weight"].numpy()
    np.testing.assert_allclose(mean, np.mean(np.stack(states).astype(np.float64), axis=0), rtol=ONE_ULP)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init": None, "init_recipe": None}, "began with heads of its own"),
        ({"init_recipe": START | {"seed": 1}}, "did not begin with the same checkpoint"),
        ({"lr": 0.1}, "is no other seed of"),
        ({"made_with": COMMAND | {"init_sha256": "b"}}, "did not begin with the same checkpoint"),
        ({"averaged": [0, 1], "seed": None}, "is an average already"),
        ({"seed": 0}, "is of seed 0, which is given twice"),
        ({"seed": None}, "does not say with which seed"),
        ({"noise": float("nan")}, "holds NaN or infinity"),
        ({"pictures": 8}, "was trained on other pictures"),
    ],
)
def test_what_has_no_mean(
    change: dict[str, Any], said: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_run(tmp_path / "other" / "last.pt", 3, **change)
    assert averaged(runs[0], other, "-o", tmp_path / "mean.pt") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "mean.pt").exists()


def test_a_run_that_was_stopped_is_no_part_unless_it_may_end_by_itself(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for patience, code in ((0, 2), (5, 0)):
        for path in runs:
            spec, raw = read_checkpoint(path)
            spec = replace_spec(spec, recipe={**spec.recipe, "epochs": 3, "patience": patience})
            save_checkpoint(path, spec, raw["model"], history=raw["history"], progress={"step": 0})
        assert averaged(*runs, "-o", tmp_path / "mean.pt") == code
    assert "last.pt is after 2 of 3 epochs: finish the run" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_tensor_that_is_gone(
    damaged: int, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, raw = read_checkpoint(runs[damaged])
    gone = "backbone.early.0.1.num_batches_tracked"
    save_checkpoint(runs[damaged], spec, {k: v for k, v in raw["model"].items() if k != gone})
    assert averaged(*runs, "-o", tmp_path / "mean.pt") == 2
    assert f"do not both hold {gone}" in capsys.readouterr().err


def test_the_output_is_named_as_a_checkpoint(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.md").write_text("kept")
    assert averaged(*runs, "-o", tmp_path / "notes.md") == 2
    assert main(["prune", str(runs[0]), "-o", str(tmp_path / "notes.md")]) == 2
    assert capsys.readouterr().err.count("must end in .pt") == 2
    assert (tmp_path / "notes.md").read_text() == "kept"


def test_an_average_is_packed_with_its_own_parts(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.toml").write_text(NOTES)
    assert averaged(*runs[:2], "-o", tmp_path / "mean.pt") == 0
    words = [str(tmp_path / "mean.pt"), str(tmp_path / "net.pt"), "--licence", "free"]
    folders = [str(run.parent) for run in runs]
    for seeds in ([], ["--seeds", folders[0]], ["--seeds", *folders]):
        assert pack.main([*words, *seeds]) == 2
        assert "is the mean of the runs of seeds 0, 1, and --seeds gives" in capsys.readouterr().err
    assert averaged(*runs, "-o", tmp_path / "other" / "last.pt") == 0
    assert pack.main([str(runs[0]), *words[1:], "--seeds", str(tmp_path / "other")]) == 2
    assert "which is no seed" in capsys.readouterr().err
    assert not (tmp_path / "net.pt").exists()


def test_one_checkpoint_and_the_input_as_output(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert averaged(runs[0], "-o", tmp_path / "mean.pt") == 2
    assert "has no average" in capsys.readouterr().err
    before = runs[0].read_bytes()
    assert averaged(*runs, "-o", runs[0]) == 2
    assert runs[0].read_bytes() == before


def test_the_card_of_an_average(runs: list[Path], tmp_path: Path) -> None:
    """It tells the seeds' scores as those of the averaged runs, and commands that make the file from the data."""
    (tmp_path / "net.toml").write_text(NOTES)
    log = tmp_path / "log.jsonl"
    for number, run in enumerate(runs):
        measure(log, run, 50.0 + number)
    stranger = save_run(tmp_path / "seed7" / "last.pt", 7)
    measure(log, stranger, 70.0)
    assert averaged(*runs, "-o", tmp_path / "mean.pt") == 0
    words = [str(tmp_path / "mean.pt"), str(tmp_path / "net.pt"), "--licence", "free", "--log", str(log), "--seeds"]
    assert pack.main([*words, *(str(run.parent) for run in runs)]) == 0
    measure(log, tmp_path / "net.pt", 53.0)
    assert pack.main([str(tmp_path / "net.pt"), "--log", str(log)]) == 0
    text = (tmp_path / "net.md").read_text()
    page = " ".join(text.split())
    assert "The weights are the mean of 3 runs. Alone, these 3 seeds of the last stage on test, fp32:" in page
    assert "seed 0 50.00, seed 1 51.00, seed 2 52.00; mean 51.00, standard deviation 1.00" in page
    assert "70.00" not in page and "| 53.00 |" in page and "averaged [0, 1, 2]" in page
    lines = text.split("```bash\n")[1].split("```")[0].replace(" \\\n ", "").splitlines()
    assert lines[1] == "pspnet train --data d --init runs/before/last.pt --seed 0 -o runs/net-seed0"
    assert lines[2:4] == [f"# the last one again with --seed {seed}, -o runs/net-seed{seed}" for seed in (1, 2)]
    names = " ".join(f"runs/net-seed{seed}/last.pt" for seed in (0, 1, 2))
    assert lines[4] == f"pspnet average {names} -o runs/net.pt"
    assert lines[5].startswith(
        "python weights/pack.py runs/net.pt weights/net.pt --licence free --replace --seeds runs/net-seed0"
    )
    curves = [each["seed"] for each in read_checkpoint(tmp_path / "net.pt")[1]["histories"]]
    assert curves == [0, 1, 2]
