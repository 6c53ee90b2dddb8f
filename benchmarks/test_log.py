"""docs/results/test_log.jsonl: every evaluation on a test split, one JSON object a line, with its reason.

A line says what was scored (artefact, sha256; checkpoint, checkpoint_sha256 that it was made from; seed; recipe: hash
of the settings without the seed), on what (images: how many; labels_sha256: of their labels, as in every protocol), how
(engine, precision, mode, network_size, fit), what came out (miou), why (reason), when (date), with which code (commit)
and where the scores are (file). Earlier lines lack some of these.

A line is written twice: before anything is scored, with state "begun" and no miou, and with what came out. So a run
that was stopped, or whose second line found no room, counts as a look too: nobody knows what was seen of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.recipe import NOT_PART_OF_THE_RESULT, TrainConfig
from pspnet.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "docs" / "results" / "test_log.jsonl"
PLAIN = "whole image, single scale"
"""The mode of lines that name none."""

BEGUN = "begun"
"""The state of a line that was written before its run; lines of finished runs have none."""

NOT_THE_RECIPE = {"seed", "averaged", "note", *NOT_PART_OF_THE_RESULT}
FIRST_SETTINGS = {
    "epochs", "batch", "crop", "lr", "head_lr", "optimizer", "momentum", "weight_decay", "decay_norm", "schedule",
    "power", "min_lr", "warmup", "loss", "ohem_threshold", "ohem_keep", "focal_gamma", "class_weights",
    "aux_weights", "smallest_scale", "largest_scale", "rotate", "blur", "flip", "photometric", "cat_max_ratio",
    "ema", "amp", "channels_last", "compile", "clip", "accumulate", "freeze_bn", "patience", "deterministic",
    "save_every", "workers", "seed",
}  # fmt: skip
"""Settings that there were when the first recipe was hashed. Never add to them: see `later_defaults`."""

Row = dict[str, Any]


def read_log(path: Path) -> list[Row]:
    """The lines, oldest first, without those of a beginning that a later line completes.

    A file that does not exist yet has none. PspnetError where it cannot be read, or names a damaged line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise PspnetError(f"cannot read the test log {path}: {error}. Nothing is scored without it: mend it") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise PspnetError(f"{path} line {number} is no JSON object: mend it, nothing may be lost from this log")
        rows.append(row)
    finished = [{**row, "miou": None} for row in rows if "miou" in row]
    return [row for row in rows if row.get("state") != BEGUN or _completed(row) not in finished]


def _completed(row: Row) -> Row:
    """What a beginning becomes, apart from the figure."""
    return {**{name: value for name, value in row.items() if name != "state"}, "miou": None}


def append(path: Path, row: Row) -> None:
    """Add one line; it is on the disk when this returns. PspnetError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with open(path, "a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PspnetError(
            f"cannot write the test log {path}: {error.strerror or error}. Every run on test is a line of it: make it "
            "writable, with room on its disk"
        ) from error


def with_data(row: Row, log: Path) -> Row:
    """A line with images and labels_sha256 from its file of scores, where it lacks them and the file has them."""
    if "labels_sha256" in row or "file" not in row:
        return row
    try:
        protocol = read_json(located(row["file"], log), "file of scores")["protocol"]
        return {"images": protocol["images"], "labels_sha256": protocol["labels_sha256"], **row}
    except (PspnetError, KeyError, TypeError):
        return row


def located(name: str, log: Path) -> Path:
    """Where a file of scores is that a line of `log` names."""
    path = ROOT / name
    return path if path.is_file() else log.parent / Path(name).name


def earlier(log: list[Row], row: Row) -> Row | None:
    """The latest line, on the same labels, after which `row` is no first look at them; None where there is none.

    It scored the same checkpoint (or the very file) with this seed, precision and protocol, or in any way another
    checkpoint of the same run, since test chooses no epoch either. A run is known by its recipe and the seeds of its
    stages.
    """
    return next(
        (
            old for old in reversed(log)
            if _same_labels(old, row)
            and (another_of_the_run(old, row) or (_same_network(old, row) and _same_protocol(old, row)))
        ),
        None,
    )  # fmt: skip


def another_of_the_run(old: Row, row: Row) -> bool:
    """Whether a line is of another checkpoint of the same run; False where a line or a checkpoint does not say."""
    keys = ("recipe", "seed", "checkpoint_sha256")
    if any(each.get(key) is None for each in (old, row) for key in keys):
        return False
    stages = [each.get("stage_seeds") for each in (old, row)]
    same = all(old[key] == row[key] for key in keys[:2]) and (None in stages or stages[0] == stages[1])
    return same and old[keys[2]] != row[keys[2]]


def stage_seeds(recipe: Any) -> list[int | None]:
    """The seed of every training that led to a checkpoint with this recipe, the first one first."""
    before = recipe.get("init_recipe")
    return [*(stage_seeds(before) if isinstance(before, dict) else []), recipe.get("seed")]


def recipe_hash(spec: ModelSpec) -> str:
    """Hex SHA-256 of the network and the settings that made a checkpoint, without its seed: equal for its seeds.

    It stays what it is when settings are added: see `later_defaults`.
    """
    fields = {
        name: getattr(spec, name)
        for name in ("backbone", "output_stride", "bins", "branch_channels", "head_channels", "aux_stages", "stem",
                     "dilation", "align_corners", "input_size", "fit", "dataset", "channels")
    }  # fmt: skip
    text = json.dumps([fields, without_seed(spec.recipe)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def without_seed(recipe: Any) -> Any:
    """A recipe, and those of the stages before it, without what may differ between seeds and without later defaults."""
    if not isinstance(recipe, dict):
        return recipe
    later = later_defaults()
    return {
        name: without_seed(value) for name, value in recipe.items()
        if name not in NOT_THE_RECIPE and not (name in later and value == later[name])
    }  # fmt: skip


def later_defaults() -> dict[str, Any]:
    """What a recipe means that does not state a setting: of those added after the first hash, and of `processes`.

    A run from before a setting and the same run resumed after it are one recipe, so a default is never hashed. As
    `pspnet train --resume` does, this takes a new setting's default to be what was done before there was one.
    """
    added = {each.name: each.default for each in dataclasses.fields(TrainConfig) if each.name not in FIRST_SETTINGS}
    return {**added, "processes": 1}


def _same_network(old: Row, row: Row) -> bool:
    known = {old.get("sha256"), old.get("checkpoint_sha256")} - {None}
    return bool(known & {row["sha256"], row["checkpoint_sha256"]}) and old.get("seed", row["seed"]) == row["seed"]


def _same_labels(old: Row, row: Row) -> bool:
    """Whether two lines are of the same data; one that does not state it counts as agreeing."""
    return old.get("labels_sha256", row.get("labels_sha256")) == row.get("labels_sha256", old.get("labels_sha256"))


def _same_protocol(old: Row, row: Row) -> bool:
    """Whether precision, mode, size and fit agree; of lines that do not state one, it counts as agreeing."""
    names = ("precision", "network_size", "fit")
    return old.get("mode", PLAIN) == row["mode"] and all(old.get(name, row[name]) == row[name] for name in names)
