"""Recipes compared on pictures that no run has learned from: the held-out part of the training split, several seeds.

python benchmarks/recipes.py --data data/camvid11 --recipes benchmarks/recipes.toml --epochs 60 --seeds 0,1,2 \\
    -o runs/recipes --json docs/results/recipes.json -- --weights mobilenet_v2.pth
python benchmarks/recipes.py --data data/camvid11 --recipes benchmarks/ablations.toml --epochs 60 --seeds 0,1,2 \\
    -o runs/ablations --json docs/results/ablations.json --curves docs/results/ablations.svg -- --weights FILE

--recipes: a TOML file of tables [NAME] whose keys are flags of `pspnet train`, or names of its --recipe with commas.
What follows -- goes to every run. Only the training split is read (--hold-out divides it), never val or test. Runs
come one after the other; interrupted with Ctrl-C, the same command goes on in the middle of the run. A recipe's figure
is the mIoU of the last epoch, since final runs train on everything and have no part to choose an epoch on.

A recipe that was changed since its runs in -o is refused before anything runs, and so is a --json file with figures of
runs that this call leaves out. Where runs fail, the others go on, the exit code is 1, and figures of --json that would
be lost are kept. Runs of unequal steps or by unequal code are noted below the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_checks import check_flags, files_of
from benchmarks.recipe_file import flags_of, recipes_of
from benchmarks.recipe_runs import Row, notes_of, one_run, runs_by_code
from benchmarks.training_parts import changes_of, finished
from pspnet.checkpoint import read_checkpoint
from pspnet.dataset import open_dataset
from pspnet.dataset_held_out import HeldOut, hold_out, other_part
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, read_json, replaceable_file
from pspnet.learning_curves import Line, learning_curves
from pspnet.wording import counted

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
    check_kept(args, recipes, seeds)
    division = hold_out(open_dataset(args.dataset, args.data, "train"), args.hold_out)
    print(division.text())
    check_flags(recipes, args.train, division.rest, args.epochs)
    check_unchanged(args, division, recipes, seeds)
    runs, failed = all_runs(args, division.rule, recipes, seeds)
    rows = [row_of(name, recipes[name], done) for name, done in runs.items() if done]
    if not rows:
        raise PspnetError(f"no run ended well; the first: {failed[0]}")
    if args.curves:
        draw(Path(args.curves), rows)
    print("\n".join([text_of(rows, division.rule), *notes_of(rows)]))
    args.failed = failed
    done = [(row["name"], run["seed"]) for row in rows for run in row["runs"]]
    if failed and args.json and (lost := _lost(Path(args.json), done)):
        print(f"{args.json} is left as it was: it has figures that this time failed ({lost})", file=sys.stderr)
        args.json = None
    return {
        "kind": "recipes", "hold_out": division.facts(), "epochs": args.epochs, "seeds": seeds,
        "train_flags": args.train, "figure": "mIoU of the last epoch on the held-out part, in percent",
        "recipes": rows, "failed": failed, "code": runs_by_code(rows),
    }  # fmt: skip


def check_kept(args: argparse.Namespace, recipes: dict[str, Row], seeds: list[int]) -> None:
    """PspnetError, before the first run, where the file of --json has figures that this call would not replace."""
    planned = [(name, seed) for name in recipes for seed in seeds]
    if args.json and (lost := _lost(Path(args.json), planned)):
        raise PspnetError(
            f"{args.json} has figures of runs that this call leaves out ({lost}): name these recipes and seeds, "
            "too, or write another file with --json"
        )


def check_unchanged(args: argparse.Namespace, division: HeldOut, recipes: dict[str, Row], seeds: list[int]) -> None:
    """PspnetError, before the first run, where a run in the output folder is of another recipe or other pictures."""
    for name, recipe in recipes.items():
        for seed in seeds:
            folder = folder_of(args, name, seed)
            if changed := changes_of(folder, *arguments_of(args, division.rule, recipe, seed)):
                raise PspnetError(
                    f"recipe {name} is not that of its runs in {args.output} ({'; '.join(changed)}): undo that, give "
                    "what was changed another name, or choose another folder with -o"
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
    return [*arguments, "--epochs", str(args.epochs), "--seed", str(seed)], files_of(words)


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
        seeds = _seed_counts(rows)
        picture = learning_curves(lines, "epoch", f"held-out mIoU in %, mean and range of {seeds}")
        temporary.write_text(picture, encoding="utf-8")


def _seed_counts(rows: list[Row]) -> str:
    """How many seeds the recipes have, in words; they differ where runs failed."""
    counts = sorted({len(row["runs"]) for row in rows})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _lost(path: Path, found: list[tuple[str, int]]) -> str:
    """Runs of the figures in `path` that are not among `found`, recipe and seed, in words; "" where there are none."""
    if not path.exists():
        return ""
    old = read_json(path, "file of figures", "Give another file with --json")
    if not isinstance(old, dict) or old.get("kind") != "recipes":
        raise PspnetError(f"{path} holds other figures than those of recipes: give another file with --json")
    known = [(row["name"], run["seed"]) for row in old.get("recipes", []) for run in row["runs"]]
    return "; ".join(f"{name}, seed {seed}" for name, seed in known if (name, seed) not in found)


def _seeds(text: str) -> list[int]:
    seeds = [int(part) if part.isdecimal() else -1 for part in text.split(",")]
    if not all(0 <= seed <= LARGEST_SEED for seed in seeds) or len(set(seeds)) != len(seeds):
        raise PspnetError(
            f"seeds are {text!r}: give whole numbers with commas, all different, for example --seeds 0,1,2"
        )
    return seeds


if __name__ == "__main__":
    sys.exit(main())
