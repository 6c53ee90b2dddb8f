"""Parameter groups, optimiser, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig

WARMUP_START = 0.01
"""Factor of the first warm-up step (torchvision references/segmentation, --lr-warmup-decay)."""

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_RISE = 0.3
"""Factor of the first step, and share of the steps until the highest rate: div_factor and pct_start of OneCycleLR."""

SECOND_BETA = 0.999
"""Of Adam and AdamW; their first beta is the momentum."""


def optimizer_from_config(model: nn.Module, config: TrainConfig) -> Optimizer:
    """SGD, Adam or AdamW: the backbone at lr, everything else at lr * head_lr (hszhao/semseg).

    model: a PSPNet, not wrapped. Each group has a name, and `param_groups[0]` is the backbone's. With decay_norm off,
    parameters of one dimension (biases, batch norm) are groups of their own without weight decay.
    """
    backbone = {id(parameter) for parameter in model.backbone.parameters()}  # type: ignore[operator, union-attr]
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        part = "backbone" if id(parameter) in backbone else "heads"
        decays = config.decay_norm or parameter.ndim > 1
        name = part if decays else f"{part} without decay"
        if name not in groups:
            rate = config.lr * (config.head_lr if part == "heads" else 1)
            decay = config.weight_decay if decays else 0.0
            groups[name] = {"name": name, "params": [], "lr": rate, "weight_decay": decay}
        groups[name]["params"].append(parameter)
    if config.optimizer == "sgd":
        return SGD(groups.values(), momentum=config.momentum)
    family = AdamW if config.optimizer == "adamw" else Adam
    return family(groups.values(), betas=(config.momentum, SECOND_BETA))


def schedule_from_config(optimizer: Optimizer, config: TrainConfig, steps: int) -> LambdaLR:
    """The learning rate of a run of `steps` optimiser steps; its `step()` is called once after each of them.

    All groups keep their ratio. The whole state is the number of the step, so a resumed run goes on exactly.
    """
    if config.warmup >= steps:
        raise PspnetError(
            f"the warm-up takes {config.warmup} steps, but the run has only {steps}: lower --warmup or raise --epochs"
        )
    return LambdaLR(optimizer, lambda step: rate_factor(config, step, steps))


def rate_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 to steps - 1 as a factor of the base rate; the floor is `min_lr`.

    poly: floor + (1 - floor) * (1 - t/T)^power (Chen et al., DeepLab; the floor as mmsegmentation's eta_min).
    cosine: half a cosine from 1 to the floor (Loshchilov and Hutter). Both begin after `warmup` linear steps.
    onecycle: a rise to 1 over `warmup` steps, or over 0.3 of all, and a fall to the floor, both half a cosine (Smith);
    momentum stays as it is.
    """
    floor = config.min_lr
    if config.schedule == "onecycle":
        return _one_cycle(step, steps, config.warmup or ONE_CYCLE_RISE * steps, floor)
    if step < config.warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / config.warmup
    progress = min((step - config.warmup) / (steps - config.warmup), 1.0)
    if config.schedule == "cosine":
        return _half_cosine(1.0, floor, progress)
    return floor + (1 - floor) * (1 - progress) ** config.power


def _one_cycle(step: int, steps: int, rise: float, floor: float) -> float:
    peak, last = max(rise - 1, 0), steps - 1  # numbers of the steps with the highest and the lowest rate
    if step < peak:
        return _half_cosine(ONE_CYCLE_START, 1.0, step / peak)
    return _half_cosine(1.0, floor, min((step - peak) / max(last - peak, 1), 1.0))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
