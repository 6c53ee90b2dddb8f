"""The epochs of a training run: steps, validation, what is written and what is printed."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pspnet import distributed
from pspnet.checkpoint import replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.loader import EpochBatches, drawn
from pspnet.recipe import TrainConfig
from pspnet.run_log import RunLog
from pspnet.spec import ModelSpec
from pspnet.train_state import TrainState, save_state, weights_of
from pspnet.train_step import TrainStep
from pspnet.wording import counted, duration

Validate = Callable[[nn.Module, ModelSpec], dict[str, Any]]
"""Model in eval mode and its spec -> scores with "miou" and "pixel_accuracy" in percent, the same in all processes."""

Draw = Callable[[nn.Module, ModelSpec], Mapping[str, np.ndarray]]
"""Model in eval mode and its spec -> pictures (H, W, 3) uint8 RGB for TensorBoard, by name."""

STARVED = 0.2
"""Share of the time spent waiting for pictures from which more loader processes are worth a hint."""


@dataclass
class TrainRun:
    """All epochs of a run. log: of process 0, None in the others."""

    state: TrainState
    step: TrainStep
    spec: ModelSpec
    config: TrainConfig
    batches: EpochBatches
    loader: DataLoader
    output: Path
    log: RunLog | None = None

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the run began."""
        return len(self.state.progress.history) * self.batches.steps + self.state.progress.step

    def finish(self, validate: Validate, draw: Draw | None) -> dict[str, Any]:
        """Run the epochs that are left; returns the result that the command line writes."""
        progress, config = self.state.progress, self.config
        if self.log:
            self.log.epoch(progress.history, self.steps_done, {})  # a killed run may have left them one epoch behind
        while len(progress.history) < config.epochs and not progress.stalled(config.patience):
            self._epoch()
            self._validate(validate, draw)
        if len(progress.history) < config.epochs:
            print(f"stopped early: no better mIoU for {counted(config.patience, 'epoch')}")
        best = self.output / "best.pt"
        return {
            "best_val_miou": progress.best, "epochs": len(progress.history),
            "checkpoint": str(best) if best.is_file() else None,
        }  # fmt: skip

    def _epoch(self) -> None:
        progress, config = self.state.progress, self.config
        epoch = self.batches.epoch = len(progress.history)
        self.batches.first_step = progress.step
        title = f"epoch {epoch + 1}/{config.epochs}"
        self.step.train_mode()
        feed = drawn(self.loader)
        bar = tqdm(
            range(progress.step, self.batches.steps), title, self.batches.steps, initial=progress.step, unit="step",
            leave=False, disable=distributed.rank() > 0,
        )  # fmt: skip
        for number in bar:
            if number == 0:
                progress.lr = self._rate
            rate, begin = self._rate, time.perf_counter()
            group = list(itertools.islice(feed, config.accumulate))
            waited = time.perf_counter() - begin
            torch.manual_seed(_step_seed(config.seed, epoch, number))  # of dropout
            loss = self.step(group, f"{title}, step {number + 1}")
            progress.step += 1
            progress.loss_sum += loss
            progress.waited_seconds += waited
            progress.seconds += time.perf_counter() - begin
            if self.log:
                self.log.step(self.steps_done, loss, rate)
                if config.save_every and progress.step % config.save_every == 0 and progress.step < self.batches.steps:
                    save_state(self.output / "last.pt", self.spec, self.state)
            bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.3f}", run_left=self._time_left())

    @property
    def _rate(self) -> float:
        return float(self.state.optimizer.param_groups[0]["lr"])

    def _time_left(self) -> str:
        """Forecast for the rest of the run without its validations."""
        progress = self.state.progress
        steps = self.batches.steps * self.config.epochs - self.steps_done
        return duration(progress.seconds / progress.step * steps)

    def _validate(self, validate: Validate, draw: Draw | None) -> None:
        state, progress, begin, best = self.state, self.state.progress, time.perf_counter(), self.state.progress.best
        distributed.share_buffers(state.scored)
        if self.log:  # whatever happens to the validation, the epoch is not lost
            save_state(self.output / "last.pt", self.spec, state)
        with _eval_mode(state.scored), self._epoch_kept():
            scores = validate(state.scored, self.spec)
            pictures = draw(state.scored, self.spec) if draw and self.log else {}
        row = {
            "epoch": len(progress.history) + 1, "loss": progress.loss_sum / progress.step, "lr": progress.lr,
            "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"],
            "seconds": progress.seconds + time.perf_counter() - begin,
            "step_ms": 1000 * progress.seconds / progress.step,
            "data_ms": 1000 * progress.waited_seconds / progress.step,
        }  # fmt: skip
        progress.begin_epoch(row)
        trained = replace_spec(self.spec, metrics={"val": scores})
        if self.log:
            if row["miou"] > best:
                save_checkpoint(self.output / "best.pt", trained, weights_of(state.scored), epoch=row["epoch"])
            save_state(self.output / "last.pt", trained, state)
            self.log.epoch(progress.history, self.steps_done, pictures)
        self._print(row)

    @contextlib.contextmanager
    def _epoch_kept(self) -> Iterator[None]:
        try:
            yield
        except PspnetError as error:
            raise PspnetError(
                f"{error}. The epoch is kept: mend this, then the same command with --resume validates it"
            ) from error

    def _print(self, row: Mapping[str, Any]) -> None:
        share = row["data_ms"] / row["step_ms"]
        print(
            f"epoch {row['epoch']}: loss {row['loss']:.3f}, val mIoU {row['miou']:.2f}, {duration(row['seconds'])} "
            f"(step {row['step_ms']:.0f} ms, {100 * share:.0f} % of it waiting for pictures)", flush=True,
        )  # fmt: skip
        if share > STARVED and row["epoch"] == min(2, self.config.epochs):  # the first epoch starts the loader
            print(f"the model waits for pictures: try more loader processes, --workers {self.loader.num_workers + 2}")


def _step_seed(seed: int, epoch: int, step: int) -> int:
    """Seed of a step's random numbers in this process: a resumed run needs no state of a generator."""
    return (((seed * 100_003 + epoch) * 1_000_003 + step) * 4099 + distributed.rank()) % 2**63


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    model.eval()
    with torch.inference_mode():
        yield
