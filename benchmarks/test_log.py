"""docs/results/test_log.jsonl: every evaluation on a test split, one JSON object a line, with its reason.

A line says what was scored (artefact, sha256; checkpoint, checkpoint_sha256 that it was made from; seed; recipe: hash
of the settings without the seed), how (engine, precision, mode, network_size, fit), what came out (miou), why (reason),
when (date), with which code (commit) and where the scores are (file). Earlier lines lack some of these.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "docs" / "results" / "test_log.jsonl"
PLAIN = "whole image, single scale"
"""The mode of lines that name none."""

NOT_THE_RECIPE = {"seed", "made_with", "note", "workers", "save_every", "patience", "processes"}
Row = dict[str, Any]


def read_log(path: Path) -> list[Row]:
    """The lines, oldest first; PspnetError names a damaged one. A file that does not exist yet has none."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise PspnetError(f"{path} line {number} is no JSON object: mend it, nothing may be lost from this log")
        rows.append(row)
    return rows


def append(path: Path, row: Row) -> None:
    """Add one line; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def earlier(log: list[Row], row: Row) -> Row | None:
    """The latest line that scored the same checkpoint (or the very file) with this seed, precision and protocol."""
    return next((old for old in reversed(log) if _same_network(old, row) and _same_protocol(old, row)), None)


def recipe_hash(spec: ModelSpec) -> str:
    """Hex SHA-256 of the network and the settings that made a checkpoint, without its seed: equal for its seeds."""
    fields = {
        name: getattr(spec, name)
        for name in ("backbone", "output_stride", "bins", "branch_channels", "head_channels", "aux_stages", "stem",
                     "dilation", "align_corners", "input_size", "fit", "dataset", "channels")
    }  # fmt: skip
    text = json.dumps([fields, _without_seed(spec.recipe)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_seed(recipe: Any) -> Any:
    if not isinstance(recipe, dict):
        return recipe
    return {name: _without_seed(value) for name, value in recipe.items() if name not in NOT_THE_RECIPE}


def _same_network(old: Row, row: Row) -> bool:
    known = {old.get("sha256"), old.get("checkpoint_sha256")} - {None}
    return bool(known & {row["sha256"], row["checkpoint_sha256"]}) and old.get("seed", row["seed"]) == row["seed"]


def _same_protocol(old: Row, row: Row) -> bool:
    """Whether precision, mode, size and fit agree; of lines that do not state one, it counts as agreeing."""
    names = ("precision", "network_size", "fit")
    return old.get("mode", PLAIN) == row["mode"] and all(old.get(name, row[name]) == row[name] for name in names)
