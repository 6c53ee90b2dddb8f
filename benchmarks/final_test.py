"""Final checkpoints on the test split: once per checkpoint, seed, precision and protocol, each a line of the log.

python benchmarks/final_test.py weights/NAME.pt --data data/camvid11
python benchmarks/final_test.py model.onnx model.int8.onnx --checkpoint weights/NAME.pt --data data/camvid11
python benchmarks/final_test.py weights/NAME.pt --data data/camvid11 --flip --scales 0.75,1,1.25

Test is never used to choose anything, so a second run of the same is refused, and another checkpoint of the same run
(of the same recipe and seed), unless --again says what it is for: a reproduction, or another engine. The labels count:
a try on other data does not use up the test. A checkpoint that was trained with --hold-out is no final one, and is
refused. Scores go to docs/results/test-*.json, which are never overwritten, the log is docs/results/test_log.jsonl. It
has a line before anything is scored, so a run that was stopped is repeated with --again as well.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import test_log
from benchmarks.test_log import BEGUN, LOG, Row, another_of_the_run, append, earlier, read_log, with_data
from benchmarks.training_parts import INTERRUPTED, run
from pspnet.checkpoint import read_checkpoint
from pspnet.dataset import Dataset, open_dataset
from pspnet.dataset_held_out import own_rule
from pspnet.errors import PspnetError
from pspnet.evaluate import check_classes, labels_sha256
from pspnet.files import read_json, sha256_of
from pspnet.inference import Inference, Mode, mode_from_text
from pspnet.metadata import artefact_sha256
from pspnet.outputs import why_unwritable
from pspnet.provenance import ROOT, commit_of
from pspnet.spec import ModelSpec
from runtime.runner import open_runner

ONCE = "final checkpoint, once per seed, precision and protocol"


def main(arguments: list[str] | None = None) -> int:
    """Score, log and print each artefact; nothing is run where one of them is refused."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artefacts", nargs="+", help="checkpoints, or ONNX files and engines made from --checkpoint")
    options.add_argument("--data", required=True)
    options.add_argument("--dataset", default="auto")
    options.add_argument("--checkpoint", help="that the ONNX files and engines were made from")
    options.add_argument("--engine", default="auto", help="as of `pspnet evaluate`")
    options.add_argument("--mode", default="whole", help="whole (default) or slide")
    options.add_argument("--crop", default=None, help="HxW of the windows")
    options.add_argument("--stride", type=float, default=None, help="of the windows")
    options.add_argument("--scales", default="1")
    options.add_argument("--flip", action="store_true")
    options.add_argument("--reason", default=ONCE, help=f"of a first run (default: {ONCE})")
    options.add_argument("--again", metavar="REASON", help="why a run is repeated: a reproduction, another engine")
    options.add_argument("--log", default=str(LOG), help="default docs/results/test_log.jsonl")
    options.add_argument("--folder", default=None, help="for the scores (default: the log's)")
    args = options.parse_args(arguments)
    try:
        measured(args)
    except PspnetError as error:
        print(f"final_test.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("final_test.py: interrupted; what was begun is in the log: --again REASON repeats it", file=sys.stderr)
        return INTERRUPTED
    return 0


def measured(args: argparse.Namespace) -> list[Row]:
    """All lines that were added to the log, as they are after their runs."""
    log = Path(args.log)
    folder = Path(args.folder) if args.folder else log.parent
    dataset = open_dataset(args.dataset, args.data, "test")
    data = {"images": len(dataset), "labels_sha256": labels_sha256(dataset)}
    plan = [(path, entry_of(path, args, dataset) | data) for path in args.artefacts]
    before = [with_data(row, log) for row in read_log(log)]
    for path, entry in plan:
        check_first(before, entry, args.again, path)
        before.append(entry)
    if why := why_unwritable(folder):
        raise PspnetError(f"cannot write to {why}: choose another place for the scores with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    used = {Path(row["file"]).name for row in before if "file" in row}
    added = []
    for path, entry in plan:
        target = new_file(folder, entry, args, used)
        row = begun(entry, args, target)
        append(log, {"state": BEGUN, **row})  # before a score can be seen: a log that cannot be written ends it here
        added.append({**row, "miou": scored(path, args, target)})
        append(log, added[-1])
        print(f"{path}: mIoU {added[-1]['miou']:.2f}, logged in {log}")
    return added


def entry_of(path: str, args: argparse.Namespace, dataset: Dataset) -> Row:
    """What a line says before the run: the artefact, its checkpoint, and the protocol."""
    checkpoint = path if Path(path).suffix == ".pt" else args.checkpoint
    if checkpoint is None:
        raise PspnetError(f"{path} is made from a checkpoint: name it with --checkpoint weights/NAME.pt")
    spec, _ = read_checkpoint(checkpoint)
    if rule := own_rule(spec):
        raise PspnetError(
            f"{checkpoint} was trained with --hold-out {rule}, to choose a recipe: test is for final checkpoints. "
            "Train on the whole split, without --hold-out"
        )
    mode = mode_from_text(args.mode, args.scales, args.flip, args.crop, args.stride)
    with open_runner(path, args.engine) as runner:
        _check_origin(path, runner.spec, spec, checkpoint)
        check_classes(runner.spec, dataset)
        if not mode.plain:
            Inference(runner, mode)  # refuses what this network cannot do, before the log says that it was begun
        engine, precision, own = runner.engine, runner.precision, runner.spec
    return {
        "artefact": Path(path).name, "sha256": artefact_sha256(path), "checkpoint": _name_of(checkpoint),
        "checkpoint_sha256": sha256_of(checkpoint), "seed": spec.recipe.get("seed"),
        "stage_seeds": test_log.stage_seeds(spec.recipe), "recipe": test_log.recipe_hash(spec),
        "engine": engine, "precision": precision, "mode": _mode_text(mode), "network_size": list(own.input_size),
        "fit": own.fit if mode.kind == "whole" else None,
    }  # fmt: skip


def check_first(log: list[Row], entry: Row, again: str | None, path: str) -> None:
    """PspnetError where this was run before and no reason for another run is given, or the other way round."""
    before = earlier(log, entry)
    if before and not again and before.get("state") == BEGUN:
        what = f"the run of {path}" if another_of_the_run(before, entry) else path
        raise PspnetError(
            f"{what} was begun on test before ({before['checkpoint']}, {before['date']}, "
            f"{before['precision']}, {before['mode']}) and not finished, so its scores may have been seen: --again "
            "REASON says why it is run"
        )
    if before and not again and another_of_the_run(before, entry):
        raise PspnetError(
            f"{path} is another checkpoint of a run that was scored on test before ({before['checkpoint']}, seed "
            f"{entry['seed']}, {before.get('date', 'in this very command')}): test chooses no epoch. Where this is no "
            "choice: --again REASON"
        )
    if before and not again:
        miou = f"mIoU {before['miou']}, " if "miou" in before else ""
        raise PspnetError(
            f"{path} was scored on test before ({before.get('date', 'in this very command')}, {entry['precision']}, "
            f"{entry['mode']}: {miou}{before.get('reason', 'the same checkpoint')}): test is run once. For a "
            "reproduction or another engine: --again REASON"
        )
    if again and not before:
        raise PspnetError(f"{path} was never scored on test in this way, so --again has no meaning: leave it out")


def begun(entry: Row, args: argparse.Namespace, target: Path) -> Row:
    """The whole line apart from the figure."""
    place = target.resolve()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), **entry,
        "reason": args.again or args.reason, "commit": commit_of(ROOT),
        "file": place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else target.name,
    }  # fmt: skip


def scored(path: str, args: argparse.Namespace, target: Path) -> float:
    """mIoU in percent, three decimals, after `pspnet evaluate` has written the scores to `target`."""
    words = ["--engine", args.engine, "--mode", args.mode, "--scales", args.scales, *(["--flip"] if args.flip else [])]
    for name in ("crop", "stride"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", str(value)]
    command = ["evaluate", path, "--data", args.data, "--dataset", args.dataset, "--split", "test", *words]
    try:
        run([*command, "--json", str(target)])
    except PspnetError as error:
        raise PspnetError(
            f"{path} was not scored to its end (see above), and the log says that it was begun: mend the cause, then "
            "repeat it with --again REASON"
        ) from error
    return round(read_json(target, "evaluation")["miou"], 3)


def new_file(folder: Path, entry: Row, args: argparse.Namespace, used: set[str]) -> Path:
    """A name in `folder` that says what was scored and how, and that no file and no line of the log (`used`) has."""
    mode = "" if args.mode == "whole" else f"-{args.mode}"
    mode += f"-{len(args.scales.split(','))}scales" if "," in args.scales else ""
    mode += "-flip" if args.flip else ""
    name = entry["checkpoint"].removesuffix(".pt").replace("/", "-")
    precision = re.sub(r"[^\w.]+", "-", entry["precision"]).strip("-")  # "fp16 (simulated)" among them
    stem = f"test-{name}-{precision}-{entry['engine']}{mode}"
    names = (f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 1000)))
    return next(path for name in names if name not in used and not (path := folder / name).exists())


def _name_of(checkpoint: str) -> str:
    """A checkpoint's name, with its run's where every run has one of that name."""
    path = Path(checkpoint)
    return f"{path.resolve().parent.name}/{path.name}" if path.name in ("best.pt", "last.pt") else path.name


def _mode_text(mode: Mode) -> str:
    """The mode in words, the size of its windows among them."""
    return mode.text() + (f", windows {mode.crop[0]}x{mode.crop[1]}" if mode.crop else "")


def _check_origin(path: str, own: Any, spec: ModelSpec, checkpoint: str) -> None:
    """PspnetError where an artefact's spec is not that of the checkpoint that it is said to come from."""
    same = ("backbone", "output_stride", "bins", "class_names", "align_corners", "recipe", "dataset", "metrics")
    if different := [name for name in same if getattr(own, name, None) != getattr(spec, name)]:
        raise PspnetError(
            f"{path} was not made from {checkpoint}: its {different[0]} is another. Export the checkpoint again, or "
            "name the right one with --checkpoint"
        )


if __name__ == "__main__":
    sys.exit(main())
