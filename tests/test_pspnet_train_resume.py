"""A run that was killed at any step ends, after --resume, with the very weights of a run that was not."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pspnet.checkpoint import read_checkpoint, save_checkpoint
from pspnet.cli import main
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.train import train
from pspnet.train_step import TrainStep
from tests.nets import CAMVID, ROOT
from tests.training_runs import CONFIG, fresh, no_validation

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")
PATIENCE_S = 120
KEPT = ("model", "history", "progress", "optimizer", "schedule", "scaler")
KILLED_IN = """
import os, signal, sys
from pspnet import train_step
real, left = train_step.TrainStep._update, [int(sys.argv[1])]
def dying(self):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self)
train_step.TrainStep._update = dying
from pspnet.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""A `pspnet` command that is killed between the gradients and the optimiser of its step number argv[1], from 0."""


def assert_same(first: Path, second: Path) -> None:
    """Weights, averages and optimiser of two last.pt are equal in every bit."""
    one, two = (read_checkpoint(path)[1] for path in (first, second))
    for part in ("model", "trained"):
        assert one.get(part, {}).keys() == two.get(part, {}).keys()
        assert all(torch.equal(value, two[part][name]) for name, value in one.get(part, {}).items())
    for number, entry in one["optimizer"]["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(two["optimizer"]["state"][number][name]))
    for row, other in zip(one["history"], two["history"], strict=True):
        assert all(row[name] == other[name] for name in ("epoch", "loss", "lr", "miou"))


def test_killed_at_random_steps_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "train", "--data", str(CAMVID), "--weights", "none", "--output-stride", "32", "--bins", "1,2",
        "--size", "64x96", "--crop", "64", "--batch", "2", "--epochs", "2", "--workers", "0", "--save-every", "1",
        "--ema", "0.9", "--optimizer", "adamw", "--lr", "0.001", "--schedule", "cosine", "--warmup", "2", "--clip", "1",
        "--deterministic",
    ]  # fmt: skip
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    first, second = sorted(random.Random(1).sample(range(1, 8), 2))  # of 8 steps
    arguments = [str(first), *command, "-o", str(tmp_path / "killed")]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    real, left = TrainStep._update, [second - first]

    def interrupted(step: TrainStep) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "_update", interrupted)
        assert main([*command, "-o", str(tmp_path / "killed"), "--resume"]) == 130
    assert read_checkpoint(tmp_path / "killed" / "last.pt")[1]["progress"]["step"] == second % 4
    (tmp_path / "killed" / ".last.1.tmp.pt").touch()  # as a kill in the middle of a write leaves it
    assert main([*command, "-o", str(tmp_path / "killed"), "--resume"]) == 0
    assert_same(tmp_path / "whole" / "last.pt", tmp_path / "killed" / "last.pt")
    assert_same_best(tmp_path / "whole" / "best.pt", tmp_path / "killed" / "best.pt")
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("whole", "killed")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert not list((tmp_path / "killed").glob(".*"))


def assert_same_best(first: Path, second: Path) -> None:
    """The same epoch was the best, with the same weights."""
    one, two = (read_checkpoint(path)[1] for path in (first, second))
    assert one["epoch"] == two["epoch"]
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        ({"batch": 2, "save_every": 1, "schedule": "onecycle"}, 6),
        ({"batch": 2, "accumulate": 2, "save_every": 3, "optimizer": "adam", "ema": 0.99}, 3),
        ({"batch": 4}, 2),  # begins again with the second epoch
    ],
)
def test_interrupted_and_resumed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], stop: int
) -> None:
    config = dataclasses.replace(CONFIG, **changes)

    def run(output: Path, resume: bool) -> None:
        spec, model = fresh(dataset)
        torch.manual_seed(99 + resume)  # the state of the generator must not matter
        train(model, spec, dataset, config, output, no_validation, resume)

    run(tmp_path / "whole", False)
    real, done = TrainStep.__call__, [0]

    def interrupted(self: TrainStep, batches: Any, where: str) -> float:
        if done[0] == stop:
            raise KeyboardInterrupt
        done[0] += 1
        return real(self, batches, where)

    monkeypatch.setattr(TrainStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", False)
    monkeypatch.setattr(TrainStep, "__call__", real)
    run(tmp_path / "cut", True)
    assert_same(tmp_path / "whole" / "last.pt", tmp_path / "cut" / "last.pt")


def test_a_failed_validation_costs_no_step(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, ema=0.9, batch=8)
    steps, validated, real = [0], [], TrainStep.__call__

    def counted(self: TrainStep, batches: Any, where: str) -> float:
        steps[0] += 1
        return real(self, batches, where)

    monkeypatch.setattr(TrainStep, "__call__", counted)

    def run(output: Path, resume: bool, fails: bool) -> None:
        def validate(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
            validated.append(output.name)
            if fails:
                raise PspnetError("val/a.png is corrupt")
            return no_validation(model, spec)

        spec, model = fresh(dataset)
        train(model, spec, dataset, config, output, validate, resume)

    run(tmp_path / "whole", False, False)
    with pytest.raises(PspnetError, match=r"^val/a\.png is corrupt\. The epoch is kept: .* --resume validates it$"):
        run(tmp_path / "cut", False, True)
    assert not (tmp_path / "cut" / "best.pt").exists()
    run(tmp_path / "cut", True, False)
    assert steps == [2 + 2] and validated == ["whole"] * 2 + ["cut"] * 3
    assert_same(tmp_path / "whole" / "last.pt", tmp_path / "cut" / "last.pt")
    assert_same_best(tmp_path / "whole" / "best.pt", tmp_path / "cut" / "best.pt")


def test_another_training_split_is_refused(dataset: Dataset, tmp_path: Path, camvid_tiny: Path) -> None:
    once = dataclasses.replace(CONFIG, epochs=1)
    spec, model = fresh(dataset)
    train(model, spec, dataset, once, tmp_path, no_validation, resume=False)
    images, labels = dataset.images, dataset.labels
    for change, message in (
        ({"images": images[:7], "labels": labels[:7]}, "with 8 training pictures, and the split now has 7: restore it"),
        ({"images": images[::-1], "labels": labels[::-1]}, "has as many under other names or in another order"),
    ):
        with pytest.raises(PspnetError, match=message):
            resumed_with(dataclasses.replace(dataset, **change), tmp_path, once)
    shutil.copytree(camvid_tiny, tmp_path / "moved")
    resumed_with(open_dataset("camvid11", tmp_path / "moved", "train"), tmp_path, once)
    stored, raw = read_checkpoint(tmp_path / "last.pt")  # as earlier versions wrote it
    (tmp_path / "old").mkdir()
    save_checkpoint(tmp_path / "old" / "last.pt", stored, **{k: v for k, v in raw.items() if k in KEPT})
    fewer = dataclasses.replace(dataset, images=images[:7], labels=labels[:7])
    resumed_with(fewer, tmp_path / "old", dataclasses.replace(once))


def test_a_run_that_is_cut_short_is_refused(dataset: Dataset, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "last.pt").write_bytes(tiny_checkpoint.read_bytes()[:50_000])
    with pytest.raises(
        PspnetError, match=r"last\.pt is not a whole checkpoint \(it is damaged or cut short\)\. [^\n]+$"
    ):
        resumed_with(dataset, tmp_path, CONFIG)


def resumed_with(dataset: Dataset, folder: Path, config: TrainConfig, **spec_changes: Any) -> None:
    """Resume the run of `folder` with other settings."""
    spec, model = fresh(dataset)
    train(model, dataclasses.replace(spec, **spec_changes), dataset, config, folder, no_validation, resume=True)


def test_changed_settings_are_refused_but_for_those_that_change_nothing(dataset: Dataset, tmp_path: Path) -> None:
    spec, model = fresh(dataset)
    once = dataclasses.replace(CONFIG, epochs=1)
    train(model, spec, dataset, once, tmp_path, no_validation, resume=False)
    with pytest.raises(PspnetError, match=r"epochs 1 → 2; ema 0.0 → 0.5"):
        resumed_with(dataset, tmp_path, dataclasses.replace(CONFIG, ema=0.5))
    with pytest.raises(PspnetError, match=r"fit stretch → letterbox"):
        resumed_with(dataset, tmp_path, once, fit="letterbox")
    with pytest.raises(PspnetError, match=r"teacher big\.pt → None"):
        stored, raw = read_checkpoint(tmp_path / "last.pt")
        taught = dataclasses.replace(stored, recipe={**stored.recipe, "teacher": "big.pt"})
        (tmp_path / "other").mkdir()
        save_checkpoint(tmp_path / "other" / "last.pt", taught, **{k: v for k, v in raw.items() if k in KEPT})
        resumed_with(dataset, tmp_path / "other", once)
    resumed_with(dataset, tmp_path, dataclasses.replace(once, workers=1, save_every=5, patience=3))
    before = {name: value for name, value in stored.recipe.items() if name != "logit_adjust"}  # of an earlier version
    (tmp_path / "earlier").mkdir()
    kept = {k: v for k, v in raw.items() if k in KEPT}
    save_checkpoint(tmp_path / "earlier" / "last.pt", dataclasses.replace(stored, recipe=before), **kept)
    with pytest.raises(PspnetError, match=r"\(class_weights none → enet; logit_adjust 0\.0 → 0\.5\)"):
        resumed_with(dataset, tmp_path / "earlier", dataclasses.replace(once, class_weights="enet", logit_adjust=0.5))
    resumed_with(dataset, tmp_path / "earlier", once)


def test_a_checkpoint_without_a_run_is_refused(dataset: Dataset, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "last.pt").write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(PspnetError, match=r"holds no run to go on with: .* --init"):
        resumed_with(dataset, tmp_path, CONFIG)


def test_the_spec_of_a_half_finished_epoch_claims_no_scores(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        raise KeyboardInterrupt

    spec, model = fresh(dataset)
    with pytest.raises(KeyboardInterrupt):
        config = dataclasses.replace(CONFIG, batch=2, save_every=3)
        train(model, spec, dataset, config, tmp_path, never, resume=False)
    spec, raw = read_checkpoint(tmp_path / "last.pt")
    assert spec.metrics == {} and raw["progress"]["step"] == 4 and raw["history"] == []
