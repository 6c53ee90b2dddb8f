"""A training run's checkpoint as a small file to ship, weights in float16, with its model card.

python weights/pack.py runs/mnv2/last.pt weights/NAME.pt --licence "..." --seeds runs/mnv2-seed1 runs/mnv2-seed2
python weights/pack.py weights/NAME.pt

The second line writes the card again: NAME.md, NAME.json for `pspnet weights`, and NAME.svg where the file has curves.
A checkpoint that is there already is replaced with --replace, after weights/NAME.toml was rewritten for the new one.
What only resuming needs is left out. Every reader casts the weights back to float32. The aux head stays, because
fine-tuning begins with it. weights/card.py says where a card's facts come from.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.test_log import LOG, later_defaults, recipe_hash, stage_seeds, without_seed
from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.dataset_held_out import own_rule
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, sha256_of, write_json
from pspnet.learning_curves import Line, learning_curves
from pspnet.recipe import changed_settings
from pspnet.shipped import page_sha256
from pspnet.spec import ModelSpec
from weights.card import RUN_FILES, facts_of, init_of, notes_of
from weights.card_page import page_of

LARGEST_BYTES, LARGEST_SUM = 12_000_000, 24_000_000
"""Of one shipped file and of all in its folder: a repository is cloned whole."""


def main(arguments: list[str] | None = None) -> int:
    """Write the packed checkpoint and its card, or the card alone; print sizes and hash."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", help="of a run; or, without OUTPUT, a packed one")
    options.add_argument("output", nargs="?", help="weights/NAME.pt")
    options.add_argument("--licence", help="of the training data and so of the weights")
    options.add_argument("--note", default="", help="added to the recipe in the spec")
    options.add_argument(
        "--seeds", nargs="+", default=[], metavar="RUN", help="folders of the same recipe's other seeds"
    )
    options.add_argument(
        "--replace", action="store_true", help="OUTPUT may be there; NAME.toml was rewritten for the new network"
    )
    options.add_argument("--log", default=str(LOG), help="default docs/results/test_log.jsonl")
    args = options.parse_args(arguments)
    try:
        if args.output:
            card = packed(args)
        elif args.licence or args.note or args.seeds or args.replace:
            raise PspnetError(
                "--licence, --note, --seeds and --replace are for packing: give weights/NAME.pt as the second name"
            )
        else:
            card = write_card(Path(args.checkpoint), Path(args.log))
    except PspnetError as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 2
    path = args.output or args.checkpoint
    print(f"{path}: {Path(path).stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)}; card {card}")
    return 0


def packed(args: argparse.Namespace) -> Path:
    """Write the checkpoint in float16, with the curves of its run and of the other seeds, and its card (returned).

    What was there before is kept unless all of it can be made.
    """
    if not args.licence:
        raise PspnetError("a shipped checkpoint states the licence of its data: give --licence")
    output, toml = Path(args.output), Path(args.output).with_suffix(".toml")
    notes_of(toml)  # known before anything is written
    if output.exists() and not args.replace:
        raise PspnetError(
            f"{output} is there already, and {toml.name} speaks of that network: rewrite it for the new one (recipe, "
            "limits, calibrate, labels), then repeat with --replace"
        )
    spec, raw = read_checkpoint(args.checkpoint)
    if "histories" in raw:
        raise PspnetError(
            f"{args.checkpoint} is packed already: give last.pt of its run, or that file alone to write its card again"
        )
    if rule := own_rule(spec):
        raise PspnetError(
            f"{args.checkpoint} was trained with --hold-out {rule}, to choose a recipe: ship one that was trained on "
            "everything"
        )
    recipe = {**spec.recipe, "note": args.note} if args.note else spec.recipe
    weights = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value  # batch norm stays float32
        for name, value in raw["model"].items()
    }
    for folder in args.seeds:
        check_seed(Path(folder), spec, args.checkpoint, raw.get("pictures"))
    runs = [args.checkpoint, *(str(Path(folder, "last.pt")) for folder in args.seeds)]
    histories = [history_of(run) for run in runs]
    seeds = [each["seed"] for each in histories]
    if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise PspnetError(f"seed {repeated[0]} is given twice: give each seed's run once with --seeds")
    check_parts(spec.recipe.get("averaged", []), seeds[1:], args.checkpoint)
    with atomic_path(output) as temporary:
        spec = replace_spec(spec, licence=args.licence, recipe=recipe)
        save_checkpoint(temporary, spec, weights, histories=[each for each in histories if each["rows"]])
        others = sum(path.stat().st_size for path in output.parent.glob("*.pt") if path.name != output.name)
        size = temporary.stat().st_size
        if size > LARGEST_BYTES or size + others > LARGEST_SUM:
            raise PspnetError(
                f"{output} has {size / 1e6:.1f} MB, with the others of its folder {(size + others) / 1e6:.1f} MB: at "
                f"most {LARGEST_BYTES / 1e6:g} and {LARGEST_SUM / 1e6:g} can be shipped. Ship a smaller network"
            )
        return write_card(output, Path(args.log), temporary)


def check_parts(averaged: list[int], given: list[int], checkpoint: str) -> None:
    """PspnetError where an average is not packed with the very runs that it is the mean of."""
    if averaged and sorted(given) != sorted(averaged):
        raise PspnetError(
            f"{checkpoint} is the mean of the runs of seeds {', '.join(map(str, averaged))}, and --seeds gives "
            f"{', '.join(map(str, given)) or 'none'}: give the folders of all of these, and of no other"
        )


def check_seed(folder: Path, spec: ModelSpec, checkpoint: str, pictures: Any = None) -> None:
    """PspnetError where a run is no other seed of the recipe that made a checkpoint of `spec` from `pictures`."""
    if folder.is_file():
        raise PspnetError(f"{folder} is a file: give the folder of the run, --seeds {folder.parent}")
    other, raw = read_checkpoint(folder / "last.pt")
    if "averaged" in other.recipe:
        raise PspnetError(f"{folder} holds an average of several runs, which is no seed: leave it out of --seeds")
    if rule := own_rule(other):
        raise PspnetError(
            f"{folder} was trained with --hold-out {rule}, to choose a recipe: give runs that were trained on "
            "everything with --seeds"
        )
    if pictures and raw.get("pictures", pictures) != pictures:  # runs from before these were kept do not say
        raise PspnetError(
            f"{folder} was trained on other pictures than {checkpoint}: give runs on the same with --seeds"
        )
    if recipe_hash(other) == recipe_hash(spec):
        return
    recipes = [without_seed(each.recipe) for each in (spec, other)]
    names = sorted({*recipes[0], *recipes[1]} - {"init_recipe"})
    stated = [{**later_defaults(), **recipe} for recipe in recipes]
    changed = changed_settings(*({name: recipe.get(name, "not stated") for name in names} for recipe in stated))
    what = changed[0] if changed else "network, data or earlier stage"
    raise PspnetError(
        f"{folder} is no other seed of {checkpoint} (another {what}): give runs of the same command with another --seed"
    )


def history_of(checkpoint: str | Path) -> dict[str, Any]:
    """Seed, seed of every stage and rows of metrics.csv of a run, from a checkpoint in its folder; no rows where none
    were kept, none for an average of several runs."""
    spec, raw = read_checkpoint(checkpoint)
    rows = _rows(Path(checkpoint), spec, raw)
    return {"seed": spec.recipe.get("seed"), "stage_seeds": stage_seeds(spec.recipe), "rows": rows}


def _rows(checkpoint: Path, spec: ModelSpec, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the run of a checkpoint that was read, behind those of the training that it began with, where that is
    still in its place."""
    if "averaged" in spec.recipe:
        return []
    beside = checkpoint.with_name("last.pt")
    if "history" not in raw and beside.is_file():
        _, raw = read_checkpoint(beside)
    rows = raw.get("history", [])
    return [*_rows_before(spec), *rows] if rows else []


def _rows_before(spec: ModelSpec) -> list[dict[str, Any]]:
    """Rows of the run whose checkpoint this one began with; [] where its command names none that is there."""
    init = Path(init_of(shlex.split(spec.recipe.get("made_with", {}).get("command", ""))))
    if init.name not in RUN_FILES or not init.is_file():
        return []
    before, raw = read_checkpoint(init)
    return _rows(init, before, raw) if before.recipe == spec.recipe.get("init_recipe") else []


def write_card(checkpoint: Path, log: Path, file: Path | None = None) -> Path:
    """NAME.md, NAME.json and, where there are curves, NAME.svg beside the checkpoint; returns the page's path.

    Either all are replaced or, where one cannot be made, none; a picture of curves that are gone goes too. file: see
    `packed` of `facts_of`.
    """
    facts = facts_of(checkpoint, log, file)
    histories, picture = facts.pop("histories"), checkpoint.with_suffix(".svg")
    own = facts["stages"][-1]["settings"].get("seed")
    others = [each["seed"] for each in histories if each["seed"] != own]
    page = checkpoint.with_suffix(".md")
    texts = {page: page_of(facts, picture.name if histories else "", others)}
    if histories:
        lines = [
            Line(f"seed {each['seed']}", (tuple(float(row["miou"]) for row in each["rows"]),)) for each in histories
        ]
        texts[picture] = learning_curves(lines, "epoch", "validation mIoU in %")
    with contextlib.ExitStack() as stack:  # on success, each temporary file takes its place when all are written
        for path, text in texts.items():
            stack.enter_context(atomic_path(path)).write_text(text, encoding="utf-8")
        facts["page_sha256"] = page_sha256(texts[page])
        write_json(stack.enter_context(atomic_path(checkpoint.with_suffix(".json"))), facts)
    if not histories:
        picture.unlink(missing_ok=True)
    return page


if __name__ == "__main__":
    sys.exit(main())
