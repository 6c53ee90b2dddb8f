"""What `pspnet train` would refuse of a recipe, found before the first run of a comparison."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.recipe_file import FIXED, flags_of
from pspnet.cli import parser
from pspnet.compression_commands import check_distillation
from pspnet.dataset import Dataset
from pspnet.distributed import device
from pspnet.errors import PspnetError
from pspnet.losses import criterion_from_config
from pspnet.recipe import TrainConfig, config_from_recipe, flag
from pspnet.schedule import schedule_from_config
from pspnet.spec import ModelSpec
from pspnet.train import epoch_batches
from pspnet.train_step import autocast_dtype
from pspnet.training_commands import model_to_train

FILES = ("weights", "init", "teacher")
"""Flags of which the file decides the result."""

NO_FILES = ("imagenet", "none")
"""Values of --weights that name no file."""

OURS = {name: "-1" if name in ("epochs", "seed") else "\0" for name in FIXED if name != "resume"}
"""Values of the flags in FIXED that no recipe can have given."""

SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))


def check_flags(recipes: dict[str, dict[str, Any]], more: Sequence[str], data: Dataset, epochs: int) -> None:
    """PspnetError for a recipe of which flags, settings, network or number of steps would be refused by `pspnet train`.

    more: flags of every run. data: what is trained on. The network is made once for this, with ImageNet weights left
    out. Not checked: the memory that a run takes, what the data sets of --init and --teacher were, what --unlabelled
    names (nor the number of steps with it), and whether the label maps are good for class weights.
    """
    specs: dict[str, ModelSpec] = {}
    for name, recipe in recipes.items():
        try:
            _check(_parsed([*flags_of(recipe), *more]), data, epochs, specs)
        except PspnetError as error:
            raise PspnetError(f"recipe {name}: {error}") from error


def files_of(words: Sequence[str]) -> list[str]:
    """Files that the flags of a run name, of those whose contents decide its result; missing ones are left out."""
    return [path for _, path in _named_files(_parsed(words)) if Path(path).is_file()]


def _named_files(args: argparse.Namespace) -> list[tuple[str, str]]:
    named = [(name, getattr(args, name)) for name in FILES]
    return [(name, path) for name, path in named if path is not None and path not in NO_FILES]


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """What `pspnet train` makes of the words; PspnetError where one of them sets what this script sets itself.

    Only the parsed values tell, since argparse takes any unambiguous beginning of a flag for the flag.
    """
    ours = [f"--{name}={value}" for name, value in OURS.items()]
    try:
        args = parser().parse_args(["train", *ours, *words])
    except SystemExit:
        raise PspnetError("these are no flags that `pspnet train` takes: see the line above") from None
    for name in FIXED:
        if str(getattr(args, name.replace("-", "_"))) != OURS.get(name, "False"):
            raise PspnetError(
                f"--{name} is this script's own, abbreviated or not: leave it out of the recipe and behind --"
            )
    return args


def _check(args: argparse.Namespace, data: Dataset, epochs: int, specs: dict[str, ModelSpec]) -> None:
    for name, path in _named_files(args):
        if not Path(path).is_file():
            raise PspnetError(f"{flag(name)} {path} is no file: correct the path, or bring the file back")
    check_distillation(args)
    given = {name: value for name in SETTINGS if name not in FIXED and (value := getattr(args, name)) is not None}
    config = config_from_recipe(args.recipe, data.read(0)[0].shape[:2], {**given, "epochs": epochs})
    autocast_dtype(config.amp, device().type)
    network = repr([(name, value) for name, value in sorted(vars(args).items()) if name not in SETTINGS])
    if network not in specs:
        specs[network] = _spec_of(args, data)
    # Class weights are left out, since all label maps are read for them.
    unweighted = dataclasses.replace(config, class_weights="none", logit_adjust=0.0)
    criterion_from_config(unweighted, specs[network], data)
    if not args.unlabelled:  # whose pictures make the epochs longer
        steps = epoch_batches(data, config).steps * epochs
        schedule_from_config(torch.optim.SGD([torch.zeros(1)], lr=config.lr), config, steps)


def _spec_of(args: argparse.Namespace, data: Dataset) -> ModelSpec:
    changed = {"weights": "none"} if args.weights == "imagenet" else {}  # which may have to be downloaded
    with contextlib.redirect_stdout(io.StringIO()):
        spec, _ = model_to_train(argparse.Namespace(**vars(args) | changed), data, 0)
    return spec  # type: ignore[no-any-return]
