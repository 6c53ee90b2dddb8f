"""What a training run has reached: everything that must be stored for it to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.dataset_held_out import texts_of
from pspnet.errors import PspnetError
from pspnet.model import PSPNet
from pspnet.recipe import NOT_PART_OF_THE_RESULT, TrainConfig, changed_settings
from pspnet.spec import ModelSpec
from pspnet.wording import counted


@dataclass
class Progress:
    """Where a run is. step: optimiser steps of the current epoch that are done; the sums are over those steps.

    lr: learning rate of the backbone in the epoch's first step. history: one row per finished epoch. Random numbers
    need no entry: those of a step follow from seed, epoch and step.
    """

    step: int = 0
    lr: float = 0.0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Highest validation mIoU so far in percent; -1 before the first validation."""
        return max((row["miou"] for row in self.history), default=-1.0)

    def begin_epoch(self, row: dict[str, Any]) -> None:
        """Note a finished epoch; the next one is at its first step."""
        self.history.append(row)
        self.step, self.loss_sum, self.seconds, self.waited_seconds = 0, 0.0, 0.0, 0.0

    def stalled(self, patience: int) -> bool:
        """Whether the best mIoU is `patience` epochs old or older; never where patience is 0."""
        scores = [row["miou"] for row in self.history]
        return 0 < patience <= len(scores) - 1 - scores.index(max(scores)) if scores else False


@dataclass
class TrainState:
    """A model with its optimiser, schedule and the rest of what changes from step to step.

    pictures: `training_data.facts_of` the training split, by which a resumed run knows it again.
    """

    model: PSPNet
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    distiller: nn.Module | None = None
    progress: Progress = field(default_factory=Progress)
    pictures: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where there is one."""
        return self.ema.module if self.ema else self.model

    def parts(self) -> dict[str, Any]:
        """What has a state dict beside the model, by its name in the file."""
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return parts | ({"distiller": self.distiller} if self.distiller else {})


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, in the usual memory order."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def save_state(path: Path, spec: ModelSpec, state: TrainState) -> None:
    """Write last.pt. "model" holds the weights that are scored; with averaging, "trained" holds the others."""
    progress = dataclasses.asdict(state.progress)
    rest = {name: part.state_dict() for name, part in state.parts().items()}
    if state.ema:
        rest |= {"trained": weights_of(state.model), "averages": state.ema.n_averaged.cpu()}
    rest |= {"history": progress.pop("history"), "progress": progress, "pictures": state.pictures}
    save_checkpoint(path, spec, weights_of(state.scored), **rest)


def load_state(path: Path, spec: ModelSpec, state: TrainState) -> None:
    """Put `state` where the run that wrote `path` was; PspnetError where that run had other settings or pictures."""
    if not path.exists():
        raise PspnetError(
            f"nothing to resume: {path} does not exist. Leave out --resume, or give the run's folder with -o"
        )
    stored, raw = read_checkpoint(path)
    if "progress" not in raw:
        raise PspnetError(f"{path} holds no run to go on with: use its weights with --init {path} and a new -o")
    if changed := changes_between(stored, spec):
        raise PspnetError(f"{path} was made with other settings ({'; '.join(changed)}): repeat them, or begin a new -o")
    _check_pictures(path, raw.get("pictures", {}), state.pictures)
    state.scored.load_state_dict(raw["model"])
    if state.ema:
        state.model.load_state_dict(raw["trained"])
        state.ema.n_averaged.copy_(raw["averages"])
    for name, part in state.parts().items():
        if raw[name]:  # the loss scale is empty where the run began on a CPU
            part.load_state_dict(raw[name])
    state.progress = Progress(**raw["progress"], history=list(raw["history"]))


def _check_pictures(path: Path, stored: dict[str, Any], found: dict[str, Any]) -> None:
    """PspnetError where the training split is another one; files of earlier versions do not say which they had."""
    if not stored or stored == found:
        return
    before, now = stored["count"], found["count"]
    change = f"has {now}" if now != before else "has as many under other names or in another order"
    raise PspnetError(
        f"{path} was made with {counted(before, 'training picture')}, and the split now {change}: restore it, or begin "
        f"a new -o with --init {path}"
    )


def changes_between(stored: ModelSpec, spec: ModelSpec) -> list[str]:
    """One text for each setting and field in which two runs differ, apart from what no weight depends on.

    A setting that the version of one run could not set counts as its default.
    """
    spec = ModelSpec.from_json(spec.to_json())  # as a file holds it: without tuples
    names = [name for name in {**stored.recipe, **spec.recipe} if name not in NOT_PART_OF_THE_RESULT]
    defaults = dataclasses.asdict(TrainConfig())  # of what the version that wrote the file could not set
    recipes = [{name: s.recipe.get(name, defaults.get(name)) for name in names} for s in (stored, spec)]
    if "hold_out" in names:
        held_out = (recipe["hold_out"] or {} for recipe in recipes)
        for recipe, text in zip(recipes, texts_of(*held_out), strict=True):
            recipe["hold_out"] = text
    specs = [dataclasses.asdict(replace_spec(s, recipe={}, metrics={})) for s in (stored, spec)]
    return changed_settings(*recipes) + changed_settings(*specs)
