"""Recipes compared on pictures that no run has learned from: the held-out part of the training split, several seeds.

python benchmarks/recipes.py --data data/camvid11 --recipes benchmarks/recipes.toml --epochs 60 --seeds 0,1,2 \\
    -o runs/recipes --json docs/results/recipes.json -- --weights mobilenet_v2.pth
python benchmarks/recipes.py --data data/camvid11 --recipes benchmarks/ablations.toml --epochs 60 --seeds 0,1,2 \\
    -o runs/ablations --json docs/results/ablations.json --curves docs/results/ablations.svg -- --weights FILE

--recipes: a TOML file of tables [NAME] whose keys are flags of `pspnet train`, or names of its --recipe with commas.
What follows -- goes to every run. Only the training split is read (--hold-out divides it), never val or test. Runs
come one after the other; interrupted with Ctrl-C, the same command goes on in the middle of the run. A recipe's figure
is the mIoU of the last epoch, since final runs train on everything and have no part to choose an epoch on.

A recipe that was changed since its runs in -o is refused before anything runs. Where runs fail, the others go on, the
exit code is 1, and figures of --json that would be lost are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_file import FIXED, flags_of, recipes_of
from benchmarks.training_parts import changes_of, finished, trained
from pspnet.checkpoint import read_checkpoint
from pspnet.cli import parser
from pspnet.dataset import open_dataset
from pspnet.dataset_held_out import HeldOut, hold_out, other_part
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, read_json, replaceable_file
from pspnet.learning_curves import Line, learning_curves
from pspnet.recipe import TrainConfig, config_from_recipe
from pspnet.wording import counted

Row = dict[str, Any]
FILES = ("weights", "init", "teacher")
"""Flags of which the file decides the result."""

LARGEST_SEED = 2**31 - 1


def main(arguments: list[str] | None = None) -> int:
    """Print a row per recipe, the best first; write all runs to --json and their curves to --curves; 1: some failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True)
    options.add_argument("--dataset", default="auto")
    options.add_argument(
        "--hold-out", default="0.2", help="what runs are scored on, as of `pspnet train` (default 0.2)"
    )
    options.add_argument("--recipes", required=True, help="FILE.toml, or names of --recipe with commas")
    options.add_argument("--only", help="names of the file's recipes, with commas (default: all)")
    options.add_argument("--epochs", type=int, default=40, help="of every run (default 40)")
    options.add_argument("--seeds", default="0,1,2", help="with commas (default 0,1,2)")
    options.add_argument("-o", "--output", default="runs/recipes", help="folder for the runs (default runs/recipes)")
    options.add_argument("--json", help="write the figures here")
    options.add_argument("--curves", metavar="FILE.svg", help="draw held-out mIoU over the epochs here")
    options.add_argument("train", nargs="*", help="after --: more flags of `pspnet train`")
    args = options.parse_args(arguments)
    args.failed = []
    code = finished(args, measured, "recipes.py")
    for line in args.failed:
        print(f"recipes.py: failed: {line}", file=sys.stderr)
    return code or (1 if args.failed else 0)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Every recipe with every seed; finished runs are read, not repeated."""
    if args.curves and Path(args.curves).suffix != ".svg":
        raise PspnetError(f"curves {args.curves} must end in .svg. Change --curves")
    if args.curves:
        replaceable_file(args.curves)
    recipes, seeds = recipes_of(args.recipes, args.only), _seeds(args.seeds)
    if given := [word for word in args.train if word.partition("=")[0].removeprefix("--") in FIXED]:
        raise PspnetError(f"{given[0]} is this script's own: leave it out behind --")
    division = hold_out(open_dataset(args.dataset, args.data, "train"), args.hold_out)
    print(division.text())
    check_flags(recipes, args.train, division.rest.read(0)[0].shape[:2])
    check_unchanged(args, division, recipes, seeds)
    runs, failed = all_runs(args, division.rule, recipes, seeds)
    rows = [row_of(name, recipes[name], done) for name, done in runs.items() if done]
    if not rows:
        raise PspnetError(f"no run ended well; the first: {failed[0]}")
    _check_equal(rows)
    if args.curves:
        draw(Path(args.curves), rows)
    print(text_of(rows, division.rule))
    args.failed = failed
    if failed and args.json and (lost := _lost(Path(args.json), rows)):
        print(f"{args.json} is left as it was: it has figures that this time failed ({lost})", file=sys.stderr)
        args.json = None
    return {
        "kind": "recipes", "hold_out": division.facts(), "epochs": args.epochs, "seeds": seeds,
        "train_flags": args.train, "figure": "mIoU of the last epoch on the held-out part, in percent",
        "recipes": rows, "failed": failed,
    }  # fmt: skip


def check_flags(recipes: dict[str, Row], more: list[str], picture_size: tuple[int, int]) -> None:
    """PspnetError for a recipe that `pspnet train` would refuse, before the first run; parser errors name the flag."""
    for name, recipe in recipes.items():
        words = ["train", "--data", "DATA", "-o", "RUN", *flags_of(recipe), *more]
        try:
            args = parser().parse_args(words)
        except SystemExit:
            raise PspnetError(f"recipe {name} is none that `pspnet train` takes: see the line above") from None
        given = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainConfig)}
        try:
            config_from_recipe(args.recipe, picture_size, {key: v for key, v in given.items() if v is not None})
        except PspnetError as error:
            raise PspnetError(f"recipe {name}: {error}") from error


def check_unchanged(args: argparse.Namespace, division: HeldOut, recipes: dict[str, Row], seeds: list[int]) -> None:
    """PspnetError, before the first run, where a run in the output folder is of another recipe or other pictures."""
    for name, recipe in recipes.items():
        for seed in seeds:
            folder = folder_of(args, name, seed)
            if changed := changes_of(folder, *arguments_of(args, division.rule, recipe, seed)):
                raise PspnetError(
                    f"recipe {name} is not that of its runs in {args.output} ({'; '.join(changed)}): give what was "
                    "changed another name, or choose another folder with -o"
                )
            if not (folder / "result.json").exists() or not (folder / "best.pt").exists():
                continue
            if why := other_part(read_checkpoint(folder / "best.pt")[0], division):
                raise PspnetError(
                    f"recipe {name} was trained on other pictures than {args.data} has now ({why}): restore them, or "
                    "choose another folder with -o"
                )


def folder_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where the run of a recipe and seed is."""
    return Path(args.output) / f"{name}-seed{seed}"


def arguments_of(args: argparse.Namespace, rule: str, recipe: Row, seed: int) -> tuple[list[str], list[str]]:
    """Words of `pspnet train` for a run, and the files that decide its result."""
    words = [*flags_of(recipe), *args.train]
    arguments = ["--data", args.data, "--dataset", args.dataset, "--hold-out", rule, *words]
    return [*arguments, "--epochs", str(args.epochs), "--seed", str(seed)], _files_of(words)


def all_runs(
    args: argparse.Namespace, rule: str, recipes: dict[str, Row], seeds: list[int]
) -> tuple[dict[str, list[Row]], list[str]]:
    """The runs of every recipe, and a line for each that failed: one that diverges does not end the search."""
    runs: dict[str, list[Row]] = {name: [] for name in recipes}
    failed = []
    with tqdm([(name, seed) for name in recipes for seed in seeds], "recipes", unit="run") as bar:
        for name, seed in bar:
            bar.set_description(f"{name}, seed {seed}")
            try:
                arguments = arguments_of(args, rule, recipes[name], seed)
                runs[name].append({"seed": seed, **one_run(folder_of(args, name, seed), *arguments)})
            except PspnetError as error:
                failed.append(f"{name}, seed {seed}: {error}")
    return runs, failed


def one_run(folder: Path, arguments: list[str], files: list[str]) -> Row:
    """Train, or go on, or find it done; what the command prints goes to train.log in the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        best = trained(folder, arguments, files)
    spec, _ = read_checkpoint(best)
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    curve = [row["miou"] for row in epochs]
    return {
        "last": curve[-1], "best": max(curve), "best_epoch": 1 + int(np.argmax(curve)), "miou": curve,
        "loss": [row["loss"] for row in epochs], "seconds": sum(row["seconds"] for row in epochs),
        "step_ms": float(np.median([row["step_ms"] for row in epochs])), "steps": _steps(epochs, best.parent),
        "per_class_of_best": {name: row["iou"] for name, row in spec.metrics["val"]["per_class"].items()},
        "made_with": spec.recipe.get("made_with"),
    }  # fmt: skip


def row_of(name: str, recipe: Row, runs: list[Row]) -> Row:
    """A recipe with mean and spread of its runs; spread: the sample standard deviation, None for one seed."""
    last = [run["last"] for run in runs]
    return {
        "name": name, "flags": recipe, "mean": float(np.mean(last)), "lowest": min(last), "highest": max(last),
        "spread": float(np.std(last, ddof=1)) if len(last) > 1 else None,
        "best_mean": float(np.mean([run["best"] for run in runs])), "runs": runs,
    }  # fmt: skip


def text_of(rows: list[Row], rule: str) -> str:
    """The table, the best recipe first."""
    width = max(len("recipe"), *(len(row["name"]) for row in rows))
    lines = [f"{'recipe':{width}}  seeds  mean mIoU  spread  lowest  highest  best epochs' mean     time"]
    for row in sorted(rows, key=lambda row: -row["mean"]):
        spread = "     -" if row["spread"] is None else f"{row['spread']:6.2f}"
        minutes = sum(run["seconds"] for run in row["runs"]) / 60
        lines.append(
            f"{row['name']:{width}}  {len(row['runs']):5}  {row['mean']:9.2f}  {spread}  {row['lowest']:6.2f}  "
            f"{row['highest']:7.2f}  {row['best_mean']:17.2f}  {minutes:5.0f} min"
        )
    return "\n".join(
        [*lines, f"mIoU of the last epoch, in percent, on the held-out part ({rule}) of the training split"]
    )


def draw(path: Path, rows: list[Row]) -> None:
    """Mean and range over the seeds of each recipe's held-out mIoU, epoch by epoch, as one SVG."""
    lines = [Line(row["name"], tuple(tuple(run["miou"]) for run in row["runs"])) for row in rows]
    with atomic_path(path) as temporary:
        seeds = counted(len(rows[0]["runs"]), "seed")
        temporary.write_text(learning_curves(lines, "epoch", f"held-out mIoU in %, mean and range of {seeds}"))


def _steps(epochs: list[Row], folder: Path) -> int:
    """Optimiser steps of the whole run."""
    _, raw = read_checkpoint(folder / "last.pt")
    return int(raw["schedule"]["last_epoch"])


def _check_equal(rows: list[Row]) -> None:
    """A note where recipes took unequal numbers of steps, since their figures then differ for that alone."""
    steps = {row["name"]: row["runs"][0]["steps"] for row in rows}
    if len(set(steps.values())) > 1:
        tqdm.write("note: unequal steps: " + ", ".join(f"{name} {count}" for name, count in steps.items()))


def _lost(path: Path, rows: list[Row]) -> str:
    """Runs of the figures in `path` that `rows` lack, in words; "" where there are none."""
    if not path.exists():
        return ""
    old = read_json(path, "file of figures")
    before = old.get("recipes", []) if isinstance(old, dict) and old.get("kind") == "recipes" else []
    known, found = ([(row["name"], run["seed"]) for row in each for run in row["runs"]] for each in (before, rows))
    return "; ".join(f"{name}, seed {seed}" for name, seed in known if (name, seed) not in found)


def _files_of(words: list[str]) -> list[str]:
    """Files that the flags of a run name, of those whose contents decide its result."""
    pairs = [(word[2:], value) for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")]
    pairs += [(name[2:], value) for name, equals, value in (word.partition("=") for word in words) if equals]
    return [value for name, value in pairs if name in FILES and Path(value).is_file()]


def _seeds(text: str) -> list[int]:
    seeds = [int(part) if part.isdecimal() else -1 for part in text.split(",")]
    if not all(0 <= seed <= LARGEST_SEED for seed in seeds) or len(set(seeds)) != len(seeds):
        raise PspnetError(
            f"seeds are {text!r}: give whole numbers with commas, all different, for example --seeds 0,1,2"
        )
    return seeds


if __name__ == "__main__":
    sys.exit(main())
