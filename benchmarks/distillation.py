"""A student with and without its teacher: the same settings, steps and seeds, scored on the same split.

python benchmarks/distillation.py --data data/camvid11 --teacher runs/resnet50/best.pt --weights resnet18.pth \\
    --epochs 100 --json docs/results/distillation.json -- --crop 320 --batch 8

What follows -- goes to both `pspnet train` commands. Each run's best epoch is chosen on val; choose everything else
there, too, and use --split test once, at the end. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_parts import finished, parser, scores, trained
from pspnet.files import sha256_of


def main(arguments: list[str] | None = None) -> int:
    """Print the mIoU of teacher and students; write all scores to --json."""
    options = parser(__doc__, "runs/distillation")
    options.add_argument("--teacher", required=True, help="best.pt or model.onnx")
    options.add_argument("--backbone", default="resnet18", help="of the student")
    options.add_argument("--weights", default="imagenet", help="of the student's backbone: a FILE, imagenet or none")
    options.add_argument("--seeds", default="0", help="with commas; each gives one student of either kind")
    options.add_argument("--distill-weight", default="3")
    options.add_argument("--distill-temperature", default="4")
    options.add_argument("--distill-features", default="0")
    return finished(options.parse_args(arguments), measured, "distillation.py")


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Scores of the teacher and of every student."""
    work, data = Path(args.work), ["--data", args.data, "--dataset", args.dataset]
    work.mkdir(parents=True, exist_ok=True)
    distillation = [
        "--teacher", args.teacher, "--distill-weight", args.distill_weight, "--distill-temperature",
        args.distill_temperature, "--distill-features", args.distill_features,
    ]  # fmt: skip
    files = [path for path in (args.weights,) if Path(path).is_file()]
    runs = []
    for seed in args.seeds.split(","):
        settings = ["--backbone", args.backbone, "--weights", args.weights, "--epochs", str(args.epochs)]
        settings = [*data, *settings, "--seed", seed, *args.train]
        entry: dict[str, Any] = {"seed": int(seed)}
        for name, flags, inputs in (("plain", [], files), ("taught", distillation, [*files, args.teacher])):
            best = trained(work / f"{name}-seed{seed}", [*settings, *flags], inputs)
            entry[name] = scores(best, data, args.split, work)
        runs.append(entry)
    teacher = scores(args.teacher, data, args.split, work)
    gains = [entry["taught"]["miou"] - entry["plain"]["miou"] for entry in runs]
    for entry, gain in zip(runs, gains, strict=True):
        print(
            f"seed {entry['seed']}: mIoU {entry['plain']['miou']:.2f} alone, {entry['taught']['miou']:.2f} taught, "
            f"{gain:+.2f}"
        )
    print(f"teacher {teacher['miou']:.2f}; mean gain {np.mean(gains):+.2f} over {len(runs)} seeds, {args.split}")
    return {
        "kind": "distillation", "student": args.backbone, "epochs": args.epochs, "train_flags": args.train,
        "distillation": {"weight": args.distill_weight, "temperature": args.distill_temperature,
                         "features": args.distill_features},
        "teacher": {"file": Path(args.teacher).name, "sha256": sha256_of(args.teacher), **teacher},
        "split": args.split, "best_epoch_chosen_on": "val", "runs": runs, "mean_gain": float(np.mean(gains)),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
