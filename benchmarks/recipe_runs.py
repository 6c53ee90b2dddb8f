"""One run of a recipe, and what its files say: figures per epoch, steps, and the code that made it."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_parts import trained
from pspnet.checkpoint import read_checkpoint
from pspnet.errors import PspnetError

Row = dict[str, Any]

COLUMNS = ("miou", "loss", "seconds", "step_ms")
"""Of metrics.csv, those that are read."""

SHOWN_COMMIT = 12


def one_run(folder: Path, arguments: list[str], files: list[str]) -> Row:
    """Train, or go on, or find it done; what the command prints goes to train.log in the run's folder.

    PspnetError where the training fails, or where a file of a finished run is missing or not of such a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        best = trained(folder, arguments, files)
    spec, _ = read_checkpoint(best)
    epochs = _epochs(folder)
    curve = [row["miou"] for row in epochs]
    return {
        "last": curve[-1], "best": max(curve), "best_epoch": 1 + int(np.argmax(curve)), "miou": curve,
        "loss": [row["loss"] for row in epochs], "seconds": sum(row["seconds"] for row in epochs),
        "step_ms": float(np.median([row["step_ms"] for row in epochs])), "steps": _steps(folder),
        "per_class_of_best": _per_class(best, spec.metrics), "made_with": spec.recipe.get("made_with"),
    }  # fmt: skip


def code_of(run: Row) -> str:
    """The commit of the code that made a run, or its version where that was no checkout."""
    made = run.get("made_with") or {}
    return made.get("commit") or (f"version {made['version']}" if made.get("version") else "not stated")


def runs_by_code(rows: list[Row]) -> dict[str, list[str]]:
    """Code, as `code_of` tells it -> the runs that it made, each as "recipe, seed N"."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for run in row["runs"]:
            found.setdefault(code_of(run), []).append(f"{row['name']}, seed {run['seed']}")
    return found


def notes_of(rows: list[Row]) -> list[str]:
    """Why figures may differ for other reasons than the recipe: unequal numbers of steps, and unequal code."""
    notes = []
    steps = {row["name"]: sorted({run["steps"] for run in row["runs"]}) for row in rows}
    if len({count for counts in steps.values() for count in counts}) > 1:
        text = ", ".join(f"{name} {' or '.join(map(str, counts))}" for name, counts in steps.items())
        notes.append(f"note: unequal steps: {text}")
    codes = runs_by_code(rows)
    if len(codes) > 1:
        text = "; ".join(f"{_short(code)} made {' and '.join(runs)}" for code, runs in codes.items())
        notes.append(f"note: unequal code: {text}")
    return notes


def _short(code: str) -> str:
    commit, plus, changes = code.partition("+")
    return code if " " in commit else f"{commit[:SHOWN_COMMIT]}{plus}{changes}"


def _epochs(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            epochs = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
        if not epochs:
            raise ValueError("it has no epoch")
    except OSError as error:
        raise PspnetError(f"cannot read {path} of a finished run: {error.strerror}. {_advice(folder)}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise PspnetError(f"{path} holds no figures of a run ({error}). {_advice(folder)}") from error
    return epochs


def _steps(folder: Path) -> int:
    """Optimiser steps of the whole run."""
    path = folder / "last.pt"
    _, raw = read_checkpoint(path)
    try:
        return int(raw["schedule"]["last_epoch"])
    except (KeyError, TypeError) as error:
        raise PspnetError(f"{path} does not say how many steps its run took. {_advice(folder)}") from error


def _per_class(path: Path, metrics: Row) -> dict[str, Any]:
    try:
        return {name: row["iou"] for name, row in metrics["val"]["per_class"].items()}
    except (KeyError, TypeError) as error:
        raise PspnetError(f"{path} holds no scores of the held-out part. {_advice(path.parent)}") from error


def _advice(folder: Path) -> str:
    return f"Bring it back, or delete {folder}: the same command then makes the run again"
