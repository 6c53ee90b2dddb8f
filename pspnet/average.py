"""Runs that began with one checkpoint, averaged into one network: as fast as each, and usually better than most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspnet.checkpoint import model_from_state, read_checkpoint, replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from pspnet.train_state import changes_between
from pspnet.wording import counted


def average(checkpoints: Sequence[str | Path], output: str | Path) -> list[int]:
    """Write the mean of the checkpoints' weights (a uniform soup: Wortsman et al., arXiv:2203.05482); returns seeds.

    checkpoints: of runs of one recipe, apart from the seed, that began with one checkpoint (`--init`). Only then do
    their channels mean the same, so that the mean is a network at all. Statistics of batch norm are averaged, too.
    The recipe of the written file has `averaged`, the seeds, in place of `seed`. PspnetError for other runs.
    """
    if len(checkpoints) < 2:
        raise PspnetError(f"one checkpoint, {checkpoints[0]}, has no average: give two or more of one recipe")
    read = [read_checkpoint(path) for path in checkpoints]
    specs = [spec for spec, _ in read]
    for path, (spec, raw) in zip(checkpoints, read, strict=True):
        _check(path, spec, checkpoints[0], specs[0])
        _check_finished(path, spec, raw)
    seeds = [spec.recipe["seed"] for spec in specs]
    if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
        path = checkpoints[len(seeds) - 1 - seeds[::-1].index(repeated[0])]
        raise PspnetError(f"{path} is of seed {repeated[0]}, which is given twice: give one checkpoint of each run")
    pictures: dict[str, Any] = next((raw["pictures"] for _, raw in read if raw.get("pictures")), {})
    for path, (spec, raw) in zip(checkpoints, read, strict=True):
        if raw.get("pictures", pictures) != pictures:  # best.pt does not say
            raise PspnetError(f"{path} was trained on other pictures than {checkpoints[0]}: average runs on the same")
        model_from_state(spec, raw["model"], path)  # refuses weights that are damaged
        if odd := sorted(raw["model"].keys() ^ read[0][1]["model"].keys()):
            raise PspnetError(f"{path} and {checkpoints[0]} do not both hold {odd[0]}: one of them is damaged")
    recipe = {name: value for name, value in specs[0].recipe.items() if name != "seed"} | {"averaged": seeds}
    spec = replace_spec(specs[0], recipe=recipe, metrics={})
    save_checkpoint(output, spec, mean_of([raw["model"] for _, raw in read]), pictures=pictures)
    return seeds


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every tensor, summed in float64, in float32; of whole numbers, which count steps, the largest."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        if value.is_floating_point()
        else torch.stack([state[name] for state in states]).amax(0)
        for name, value in states[0].items()
    }


def _check(path: str | Path, spec: ModelSpec, first_path: str | Path, first: ModelSpec) -> None:
    """PspnetError where a checkpoint cannot be averaged with the first one."""
    if "seed" not in spec.recipe:
        what = "is an average already" if "averaged" in spec.recipe else "does not say with which seed it was trained"
        raise PspnetError(f"{path} {what}: give last.pt or best.pt of runs")
    if "init" not in spec.recipe:
        raise PspnetError(
            f"{path} began with heads of its own, so no channel of its heads means what it means in another run: "
            "average runs that began with one checkpoint, `pspnet train --init last.pt`"
        )
    hashes = {each.recipe.get("made_with", {}).get("init_sha256") for each in (first, spec)} - {None}
    if len(hashes) > 1 or spec.recipe.get("init_recipe") != first.recipe.get("init_recipe"):
        raise PspnetError(f"{path} and {first_path} did not begin with the same checkpoint: train both from one")
    if changed := changes_between(*(_without_seed(each) for each in (first, spec))):
        raise PspnetError(
            f"{path} is no other seed of {first_path} ({changed[0]}): average runs of one command with other --seed"
        )


def _without_seed(spec: ModelSpec) -> ModelSpec:
    recipe = {name: value for name, value in spec.recipe.items() if name not in ("seed", "init_recipe")}
    return replace_spec(spec, recipe=recipe)


def _check_finished(path: str | Path, spec: ModelSpec, raw: dict[str, Any]) -> None:
    """PspnetError for last.pt of a run that was stopped; one with --patience may have ended by itself."""
    wanted, done = spec.recipe.get("epochs"), len(raw.get("history", []))
    if "progress" in raw and wanted and done < wanted and not spec.recipe.get("patience"):
        raise PspnetError(
            f"{path} is after {done} of {counted(wanted, 'epoch')}: finish the run with its command and --resume"
        )
