"""Settings: names, ranges, recipes, and flags that go before them."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from typing import Any

import pytest

from pspnet.cli import parser
from pspnet.errors import PspnetError
from pspnet.model import default_widths
from pspnet.recipe import CHOICES, LIMITS, RECIPES, TrainConfig, changed_settings, config_from_recipe, flag
from pspnet.spec import BACKBONES
from tests.nets import ROOT

FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}


def test_every_setting_has_a_flag_and_every_number_a_range() -> None:
    command_line = parser()
    for name, setting in FIELDS.items():
        value = "--no-" + flag(name)[2:] if isinstance(setting.default, bool) else f"{flag(name)}={setting.default}"
        args = command_line.parse_args(["train", "--data", "d", "-o", "o", value])
        assert getattr(args, name) == (False if isinstance(setting.default, bool) else setting.default)
        number = isinstance(setting.default, int | float) and not isinstance(setting.default, bool)
        assert number == (name in LIMITS), name
        assert isinstance(setting.default, str) == (name in CHOICES or name == "aux_weights"), name
    assert {*LIMITS, *CHOICES} <= FIELDS.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_out_of_range_are_refused(name: str) -> None:
    low, high = LIMITS[name]
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(PspnetError, match=f"{name} is {value}.* Set {flag(name)}"):
            TrainConfig(**{name: value})


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choices_are_refused(name: str) -> None:
    for choice in CHOICES[name]:
        TrainConfig(**{name: choice})  # type: ignore[arg-type]
    with pytest.raises(PspnetError, match=f"choose one of {', '.join(CHOICES[name])} with {flag(name)}"):
        TrainConfig(**{name: "other"})  # type: ignore[arg-type]


def test_scales_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(PspnetError, match=r"2\.0 to 0\.5"):
        TrainConfig(smallest_scale=2.0, largest_scale=0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "lovasz", "class_weights": "median"}, "class weights are median.* use --class-weights none --logit"),
        ({"loss": "lovasz", "logit_adjust": 0.5}, r"logit_adjust is 0\.5.* --logit-adjust 0 with --loss lovasz"),
        ({"logit_adjust": 0.5}, r"logit_adjust is 0\.5.* add --class-weights enet, or give --logit-adjust 0"),
        ({"logit_adjust": 0.5, "loss": "ohem"}, "no class weights to take a power of"),
    ],
)
def test_class_weights_must_fit_the_loss(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(PspnetError, match=said):
        TrainConfig(**settings)
    TrainConfig(loss="lovasz")
    for loss in ("ce", "ohem", "focal"):
        TrainConfig(loss=loss, class_weights="median", logit_adjust=0.5)


def test_a_loss_that_does_not_fit_its_recipe_is_refused() -> None:
    said = r"class weights are enet and .* use --class-weights none --logit-adjust 0 with --loss lovasz"
    with pytest.raises(PspnetError, match=said):
        config_from_recipe("laptop", (360, 480), {"loss": "lovasz"})
    given = {"loss": "lovasz", "class_weights": "none", "logit_adjust": 0.0}
    assert config_from_recipe("laptop", (360, 480), given).loss == "lovasz"


def test_aux_weights() -> None:
    assert TrainConfig().aux_weight_values() == (0.4,)
    assert TrainConfig(aux_weights="0.4,.2").aux_weight_values() == (0.4, 0.2)
    for text in ("", "a", "0.4,", "-1", "nan", "11"):
        with pytest.raises(PspnetError, match="for example --aux-weights"):
            TrainConfig(aux_weights=text)


def test_the_paper_recipe_is_that_of_semseg() -> None:
    """hszhao/semseg config/cityscapes/cityscapes_pspnet50.yaml and tool/train.py."""
    semseg: dict[str, Any] = {
        "lr": 0.01, "head_lr": 10.0, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "decay_norm": True,
        "schedule": "poly", "power": 0.9, "warmup": 0, "batch": 16, "smallest_scale": 0.5, "largest_scale": 2.0,
        "rotate": 10.0, "blur": 0.5, "flip": 0.5, "photometric": 0.0, "loss": "ce", "class_weights": "none",
        "aux_weights": "0.4", "epochs": 200, "ema": 0.0, "cat_max_ratio": 1.0,
    }  # fmt: skip
    for size, crop in (((1024, 2048), 713), ((512, 683), 473)):
        config = dataclasses.asdict(config_from_recipe("paper", size, {}))
        assert {name: config[name] for name in semseg} == semseg and config["crop"] == crop


@pytest.mark.parametrize("name", RECIPES)
def test_flags_go_before_the_recipe(name: str) -> None:
    given = {"epochs": 3, "crop": 64, "photometric": 0.5}
    config = config_from_recipe(name, (1024, 2048), given)
    assert (config.epochs, config.crop, config.photometric) == (3, 64, 0.5)
    expects = RECIPES[name].expects
    assert "not measured" in expects or ("two CPU cores" in expects and "61.9" in expects)


def test_without_a_recipe_the_defaults_hold() -> None:
    assert config_from_recipe(None, (360, 480), {}) == TrainConfig()
    with pytest.raises(PspnetError, match="unknown recipe 'quick'"):
        config_from_recipe("quick", (360, 480), {})


def test_changed_settings() -> None:
    assert changed_settings({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b 2 → 3", "c None → 4"]


def table(first_cell: str) -> list[list[str]]:
    """The cells of the table of docs/training.md that begins so, without its two head lines."""
    lines = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_cell}"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_widths_of_the_docs() -> None:
    listed = {name: tuple(map(int, row[1:])) for row in table("| pyramid branch") for name in row[0].split(", ")}
    assert listed == {name: default_widths(name) for name in BACKBONES}


def test_the_columns_of_the_docs() -> None:
    listed = [name for row in table("column") for name in re.findall(r"`(\w+)`", row[0])]
    # as test_pspnet_train finds them in the file
    assert listed == ["epoch", "loss", "lr", "miou", "pixel_accuracy", "seconds", "step_ms", "data_ms"]


def test_fast_needs_as_many_pictures_as_the_docs_say() -> None:
    fast = RECIPES["fast"].config
    assert (fast.warmup, fast.batch, fast.epochs, fast.ema) == (500, 8, 100, 0.9998)
    assert fast.epochs * (47 // fast.batch) <= fast.warmup < fast.epochs * (48 // fast.batch)
    assert round(fast.warmup / (367 // fast.batch)) == 11


def test_the_torchrun_lines_of_the_docs_are_taken_by_the_parser() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^torchrun .*?-m pspnet (.*)$", page, re.MULTILINE)
    assert lines
    for line in lines:
        assert parser().parse_args(shlex.split(line)).command == "train"
