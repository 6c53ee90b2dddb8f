"""Small training runs for tests; as a program, the same run under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from pspnet import distributed, run_log, train_run
from pspnet.dataset import Dataset, open_dataset
from pspnet.initialise import new_model
from pspnet.loader import Batch
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.train import train
from pspnet.training_commands import _validation
from tests.nets import CAMVID

CONFIG = TrainConfig(epochs=2, batch=4, crop=64, lr=0.01, workers=0, seed=3)


def fresh(dataset: Dataset) -> tuple[ModelSpec, PSPNet]:
    """A small new model with bins for a 64-pixel crop at output stride 32."""
    return new_model(dataset, "mobilenet_v2", 32, (1, 2), (64, 96), "stretch", False, "none", CONFIG.seed)


def no_validation(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Scores that cost nothing."""
    assert not model.training
    return {"miou": 1.0, "pixel_accuracy": 1.0}


def recorded_run(config: TrainConfig, output: Path, distiller: Any = None) -> list[float]:
    """A run without dropout on the repository's pictures, with true validation; the loss of every step."""
    dataset = open_dataset("camvid11", CAMVID, "train")
    spec, model = fresh(dataset)
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    losses: list[float] = []

    class Recorded(train_run.TrainStep):
        def __call__(self, batches: list[Batch], where: str) -> float:
            losses.append(super().__call__(batches, where))
            return losses[-1]

    validate, _ = _validation(open_dataset("camvid11", CAMVID, "val"))
    without_curves = mock.patch.object(run_log, "write_curves")
    with mock.patch.object(sys.modules["pspnet.train"], "TrainStep", Recorded), without_curves:
        train(model, spec, dataset, config, output, validate, resume=False, distiller=distiller)
    return losses


if __name__ == "__main__":  # OUTPUT and a TrainConfig as JSON
    torch.set_num_threads(1)
    with distributed.joined():
        folder = Path(sys.argv[1])
        steps = recorded_run(TrainConfig(**json.loads(sys.argv[2])), folder)
        if distributed.rank() == 0:
            (folder / "losses.json").write_text(json.dumps(steps))
