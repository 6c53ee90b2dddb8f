"""benchmarks/test_log.py: what a recipe's hash holds, and lines of runs that were begun."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import test_log
from benchmarks.test_log import BEGUN, FIRST_SETTINGS, append, earlier, read_log, recipe_hash
from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig
from tests.nets import random_model

SIZE = (96, 128)
SHIPPED = "f8941cd035c6efe5931dc221f2cfb098ba48c59ba1de95d601966853dbd62491"
FIRST = "ed99c407ba46bd145acf1835d1c35079e88653b77763386c29e78c55d92f7903"
"""Hashes as the first version of the log made them: of the settings of the checkpoint shipped then, and of its
default settings."""


def hash_of(**recipe: Any) -> str:
    spec, _ = random_model("mobilenet_v2", 16, SIZE, recipe=recipe)
    return recipe_hash(spec)


def first_recipe() -> dict[str, Any]:
    """What a run of the first version recorded, with its defaults written out."""
    return {
        "weights": "net.pth", "epochs": 50, "batch": 8, "crop": 320, "lr": 0.01, "head_lr": 10.0, "optimizer": "sgd",
        "momentum": 0.9, "weight_decay": 1e-4, "decay_norm": True, "schedule": "poly", "power": 0.9, "min_lr": 0.0,
        "warmup": 0, "loss": "ce", "ohem_threshold": 0.7, "ohem_keep": 0.0625, "focal_gamma": 2.0,
        "class_weights": "none", "aux_weights": "0.4", "smallest_scale": 0.5, "largest_scale": 2.0, "rotate": 0.0,
        "blur": 0.0, "flip": 0.5, "photometric": 1.0, "cat_max_ratio": 1.0, "ema": 0.0, "amp": "auto",
        "channels_last": True, "compile": False, "clip": 0.0, "accumulate": 1, "freeze_bn": False, "patience": 0,
        "deterministic": False, "save_every": 0, "workers": -1, "seed": 0, "processes": 1,
    }  # fmt: skip


def test_hashes_stay_what_they_were() -> None:
    old = {
        "epochs": 40, "batch": 8, "crop": 320, "lr": 0.01, "head_lr": 10.0, "momentum": 0.9, "weight_decay": 0.0001,
        "power": 0.9, "aux_weight": 0.4, "smallest_scale": 0.5, "largest_scale": 2.0, "photometric": True,
        "class_weights": "enet", "workers": -1, "seed": 0,
    }  # fmt: skip
    before = {"weights": "mobilenet_v2_imagenet_features_fp16conv.pth", **old}
    recipe = {"init": "last.pt", "init_recipe": before, **old, "epochs": 7, "lr": 0.004}
    spec, _ = random_model("mobilenet_v2", 8, (360, 480), recipe=recipe, dataset="camvid11 train")
    assert recipe_hash(spec) == SHIPPED
    assert hash_of(**first_recipe()) == FIRST
    assert first_recipe().keys() - {"weights", "processes"} == FIRST_SETTINGS
    assert {each.name for each in dataclasses.fields(TrainConfig)} >= FIRST_SETTINGS


def test_a_run_of_today_at_its_defaults_has_the_hash_of_the_first_version() -> None:
    """All that was added since is left out where it does nothing."""
    added = {name: value for name, value in dataclasses.asdict(TrainConfig()).items() if name not in FIRST_SETTINGS}
    assert "logit_adjust" in added
    assert hash_of(**first_recipe(), **added) == FIRST
    before = {"lr": 0.02, "init_recipe": first_recipe()}
    assert hash_of(**before) == hash_of(**before | {"init_recipe": first_recipe() | added}, **added)
    adjusted = {"logit_adjust": 0.5}
    hashes = {
        FIRST, hash_of(**first_recipe(), **adjusted), hash_of(**before), hash_of(**before, **adjusted),
        hash_of(**before | {"init_recipe": first_recipe() | adjusted}),
    }  # fmt: skip
    assert len(hashes) == 5


def test_a_setting_that_is_still_to_come_changes_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = dataclasses.make_dataclass(
        "Coming", [("mixing", str, dataclasses.field(default="none"))], bases=(TrainConfig,), frozen=True
    )
    monkeypatch.setattr(test_log, "TrainConfig", coming)
    assert hash_of(**first_recipe(), mixing="none") == FIRST
    assert hash_of(**first_recipe(), mixing="cut") != FIRST


def test_processes_change_the_batch() -> None:
    recipe = first_recipe()
    del recipe["processes"]
    assert hash_of(**recipe) == hash_of(**recipe, processes=1) == FIRST
    assert hash_of(**recipe, processes=2) not in (FIRST, hash_of(**recipe, processes=4))


def test_a_beginning_counts_until_it_is_completed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    row = {"date": "2026-01-01", "sha256": "a", "checkpoint_sha256": "a", "seed": 0, "precision": "fp32",
           "mode": test_log.PLAIN, "network_size": [1, 1], "fit": "stretch", "file": "x.json"}  # fmt: skip
    append(log, {"state": BEGUN, **row})
    assert read_log(log) == [{"state": BEGUN, **row}] and earlier(read_log(log), row) is not None
    append(log, {**row, "miou": 5.0})
    assert read_log(log) == [{**row, "miou": 5.0}]
    append(log, {"state": BEGUN, **row, "reason": "again"})
    assert [each.get("state") for each in read_log(log)] == [None, BEGUN]
    assert len(log.read_text().splitlines()) == 3


def test_a_log_that_cannot_be_written_or_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log.jsonl", tmp_path):
        with pytest.raises(PspnetError, match="cannot write the test log") as error:
            append(path, {"a": 1})
        assert "\n" not in str(error.value)
    with pytest.raises(PspnetError, match="cannot read the test log"):
        read_log(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PspnetError, match="No space left on device"):
        append(tmp_path / "log.jsonl", {"a": 1})
