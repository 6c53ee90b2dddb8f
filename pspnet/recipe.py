"""Training settings and the recipes that choose them, apart from the training code: the command line needs no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pspnet.errors import PspnetError

LIMITS = {
    "epochs": (1, 100_000), "batch": (1, 4096), "crop": (32, 8192), "lr": (1e-8, 100), "head_lr": (1e-3, 1000),
    "momentum": (0, 0.9999), "weight_decay": (0, 1), "power": (0, 10), "min_lr": (0, 1), "warmup": (0, 1_000_000),
    "ohem_threshold": (0, 1), "ohem_keep": (0, 1), "focal_gamma": (0, 20),
    "logit_adjust": (0, 1), "smallest_scale": (0.05, 10),
    "largest_scale": (0.05, 10), "rotate": (0, 180), "blur": (0, 1), "flip": (0, 1), "photometric": (0, 2),
    "cat_max_ratio": (0.05, 1), "ema": (0, 0.999999), "clip": (0, 1e6), "accumulate": (1, 4096),
    "patience": (0, 100_000), "save_every": (0, 10**9), "workers": (-1, 256), "seed": (0, 2**31 - 1),
}  # fmt: skip
"""Range of every number; outside it lies a slip of the keyboard."""

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"), "schedule": ("poly", "cosine", "onecycle"),
    "loss": ("ce", "ohem", "focal", "lovasz"), "class_weights": ("none", "enet", "median"),
    "amp": ("auto", "off", "bf16", "fp16"),
}  # fmt: skip

NOT_PART_OF_THE_RESULT = ("workers", "save_every", "patience", "made_with")
"""What a resumed run may change of its record: the weights of an epoch do not depend on it."""

LARGEST_AUX_WEIGHT = 10.0


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """What a training run can vary; the command line's flags are made from these fields."""

    epochs: int = _setting(50, "passes over the training split")
    batch: int = _setting(8, "pictures per step and process")
    crop: int = _setting(320, "side of the square crop in pixels")
    lr: float = _setting(0.01, "base learning rate of the backbone")
    head_lr: float = _setting(10.0, "factor on the learning rate of head and aux heads")
    optimizer: str = _setting("sgd", "sgd, adam or adamw")
    momentum: float = _setting(0.9, "SGD momentum, and the first beta of Adam")
    weight_decay: float = _setting(1e-4, "on the weights")
    decay_norm: bool = _setting(True, "weight decay on biases and batch norm too, as in semseg")
    schedule: str = _setting("poly", "of the learning rate: poly, cosine or onecycle")
    power: float = _setting(0.9, "of the poly schedule")
    min_lr: float = _setting(0.0, "floor of the learning rate, as a factor of the base rate")
    warmup: int = _setting(0, "steps of linear warm-up")
    loss: str = _setting("ce", "ce, ohem, focal or lovasz")
    ohem_threshold: float = _setting(0.7, "probability of the right class below which a pixel counts as hard")
    ohem_keep: float = _setting(0.0625, "least share of the pixels that ohem keeps")
    focal_gamma: float = _setting(2.0, "exponent of the focal loss")
    class_weights: str = _setting("none", "none, enet: 1 / ln(1.02 + share), or median: median frequency balancing")
    logit_adjust: float = _setting(0.0, "power of the class weights that only the loss sees, for example 0.5; 0 is off")
    aux_weights: str = _setting("0.4", "weight of the aux losses: one number, or one per aux stage with commas")
    smallest_scale: float = _setting(0.5, "of the random resize")
    largest_scale: float = _setting(2.0, "of the random resize")
    rotate: float = _setting(0.0, "largest random rotation in degrees")
    blur: float = _setting(0.0, "probability of a Gaussian blur")
    flip: float = _setting(0.5, "probability of a horizontal flip")
    photometric: float = _setting(1.0, "strength of brightness, contrast, saturation and hue changes; 0 is off")
    cat_max_ratio: float = _setting(1.0, "largest share of one class in a crop, as in mmseg (0.75); 1 is off")
    ema: float = _setting(0.0, "decay of the averaged weights, for example 0.9998; 0 is off")
    amp: str = _setting("auto", "mixed precision: auto (fp16 on CUDA, off on a CPU), off, bf16 or fp16")
    channels_last: bool = _setting(True, "memory format of weights and pictures")
    compile: bool = _setting(False, "torch.compile the model")
    clip: float = _setting(0.0, "largest norm of the gradient; 0 is off")
    accumulate: int = _setting(1, "batches per optimiser step")
    freeze_bn: bool = _setting(False, "batch norm keeps its statistics, scale and shift; needed for batch 1")
    patience: int = _setting(0, "stop after so many epochs without a better mIoU; 0 is off")
    deterministic: bool = _setting(False, "only algorithms that repeat bit for bit, slower on CUDA")
    save_every: int = _setting(0, "optimiser steps between writes of last.pt; 0 writes it after each epoch")
    workers: int = _setting(-1, "loader processes; -1 chooses by the machine")
    seed: int = _setting(0, "of initialisation, order and augmentation")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise PspnetError(f"{name} is {value!r}: choose one of {', '.join(choices)} with {flag(name)}")
        for name, (low, high) in LIMITS.items():
            if not low <= (value := getattr(self, name)) <= high:  # false for NaN, too
                raise PspnetError(f"{name} is {value}: it must be {low:g} to {high:g}. Set {flag(name)}")
        if self.smallest_scale > self.largest_scale:
            raise PspnetError(f"the scales run from {self.smallest_scale} to {self.largest_scale}: set them in order")
        self.aux_weight_values()
        self._check_class_weights()

    def _check_class_weights(self) -> None:
        if self.loss == "lovasz" and (self.class_weights != "none" or self.logit_adjust):
            raise PspnetError(
                f"class weights are {self.class_weights} and logit_adjust is {self.logit_adjust:g}, but the Lovász "
                "loss already gives all classes the same weight: use --class-weights none --logit-adjust 0 with "
                "--loss lovasz"
            )
        if self.logit_adjust and self.class_weights == "none":
            raise PspnetError(
                f"logit_adjust is {self.logit_adjust:g}, but there are no class weights to take a power of: add "
                "--class-weights enet, or give --logit-adjust 0"
            )

    def aux_weight_values(self) -> tuple[float, ...]:
        """The numbers of `aux_weights`: one for all aux heads, or one per aux stage."""
        try:
            values = tuple(float(part) for part in self.aux_weights.split(","))
        except ValueError:
            values = (math.nan,)
        if not all(0 <= value <= LARGEST_AUX_WEIGHT for value in values):
            raise PspnetError(
                f"aux_weights are {self.aux_weights!r}: write numbers of 0 to {LARGEST_AUX_WEIGHT:g} with commas, "
                "for example --aux-weights 0.4"
            )
        return values


@dataclass(frozen=True)
class Recipe:
    """Settings under a name. large_crop: the crop for pictures at least that high; expects: what it takes and gives."""

    config: TrainConfig
    expects: str
    large_crop: int | None = None


RECIPES = {
    "paper": Recipe(
        TrainConfig(epochs=200, batch=16, crop=473, rotate=10.0, blur=0.5, photometric=0.0),
        "hszhao/semseg's settings: 200 epochs of batch 16 (semseg: Cityscapes 200, ADE20K 100, VOC 50 epochs). "
        "Time and mIoU: not measured here",
        large_crop=713,
    ),
    "fast": Recipe(
        TrainConfig(
            epochs=100, batch=8, crop=512, weight_decay=5e-4, head_lr=1.0, min_lr=0.01, warmup=500, cat_max_ratio=0.75,
            ema=0.9998, amp="auto",
        ),
        "mmsegmentation's settings with averaged weights, mixed precision on CUDA and warm-up; --loss ohem where "
        "rare classes matter. Time and mIoU: not measured here",
        large_crop=768,
    ),
    "laptop": Recipe(
        TrainConfig(
            epochs=80, batch=8, crop=320, optimizer="adamw", lr=5e-4, head_lr=2.0, weight_decay=0.01, schedule="cosine",
            warmup=100, class_weights="enet", logit_adjust=0.5,
        ),
        "for two CPU cores or a small GPU; --amp bf16 where the CPU has avx512_bf16. Measured on two CPU cores, CamVid "
        "360x480, mobilenet_v2: 80 epochs at --output-stride 16, then 15 at stride 8 with --init and --lr 0.0002: "
        "61.9 mIoU on test, the mean of three seeds, after about 70 minutes in bf16",
    ),
}  # fmt: skip
"""paper: hszhao/semseg config/*; fast: mmsegmentation configs/_base_ (no ten-fold head, weight decay 5e-4)."""


def flag(name: str) -> str:
    """The command line's flag of a field."""
    return f"--{name.replace('_', '-')}"


def config_from_recipe(name: str | None, image_size: tuple[int, int], given: Mapping[str, Any]) -> TrainConfig:
    """The settings of a recipe (None: TrainConfig's defaults) with the `given` values in their place.

    image_size: (height, width) in pixels of the training pictures; it chooses the recipe's crop.
    """
    if name is None:
        return TrainConfig(**given)
    if name not in RECIPES:
        raise PspnetError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)} with --recipe")
    recipe = RECIPES[name]
    large = recipe.large_crop is not None and min(image_size) >= recipe.large_crop
    crop = {"crop": recipe.large_crop} if large else {}
    return dataclasses.replace(recipe.config, **{**crop, **given})


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One text "name before → after" for each setting that differs."""
    return [f"{name} {before.get(name)} → {after[name]}" for name in after if before.get(name) != after[name]]
