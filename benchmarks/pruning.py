"""What pruning costs and gives: mIoU before, after, and after fine-tuning, and the speed of both in one run.

python benchmarks/pruning.py --data data/camvid11 --checkpoint runs/resnet18/best.pt --macs 0.6 --epochs 50 \\
    --json docs/results/pruning.json -- --crop 320 --batch 8 --lr 0.005

What follows -- goes to `pspnet train --init`. Both networks are exported and take turns in interleaved rounds; a ratio
is formed within each round. Each run's best epoch is chosen on val; use --split test once, at the end. Interrupted, the
same command goes on. Run it alone: the times are worth nothing beside another load.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_parts import finished, parser, pruned, run, scores, trained
from pspnet.dataset import open_dataset
from pspnet.files import sha256_of
from runtime.bench_report import print_table, stamped
from runtime.benchmark import Candidate, benchmark, median_interval, open_candidates


def main(arguments: list[str] | None = None) -> int:
    """Print a table of the speed and the three mIoU; write all to --json."""
    options = parser(__doc__, "runs/pruning")
    options.add_argument("--checkpoint", required=True, help="the network that is pruned")
    options.add_argument("--macs", default="0.6", help="share of the multiply-adds to keep")
    options.add_argument("--method", default="magnitude")
    options.add_argument("--engine", default="auto", help="of the times")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--frames", type=int, default=20)
    return finished(options.parse_args(arguments), measured, "pruning.py")


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Prune, score, fine-tune, score, time."""
    work, data = Path(args.work), ["--data", args.data, "--dataset", args.dataset]
    work.mkdir(parents=True, exist_ok=True)
    small = work / "pruned.pt"
    facts = pruned(small, ["--macs", args.macs, "--method", args.method], args.checkpoint)
    settings = [*data, "--init", str(small), "--epochs", str(args.epochs), *args.train]
    tuned = trained(work / "tuned", settings, [small])
    steps = {"before": args.checkpoint, "pruned": small, "tuned": tuned}
    miou = {name: scores(path, data, args.split, work) for name, path in steps.items()}
    speed, network = timed(args, work, args.checkpoint, tuned)
    print_table(stamped(speed))
    print(
        f"{100 * facts['share_left']:.1f} % of the multiply-adds are left: frame to labels "
        f"{speed['candidates'][1]['ratio_to_first']['median']:.2f} times faster, the network alone "
        f"{network['median']:.2f} ({network['low']:.2f} to {network['high']:.2f}); mIoU on {args.split} "
        + ", ".join(f"{name} {found['miou']:.2f}" for name, found in miou.items())
    )
    return {
        "kind": "pruning", "checkpoint": Path(args.checkpoint).name, "sha256": sha256_of(args.checkpoint),
        "pruned": facts, "epochs": args.epochs, "train_flags": args.train, "split": args.split,
        "best_epoch_chosen_on": "val", "scores": miou, "network_times_faster": network, "speed": speed,
    }  # fmt: skip


def timed(
    args: argparse.Namespace, work: Path, before: str | Path, tuned: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """The interleaved benchmark of both as ONNX files, and how many times faster the network alone is."""
    graphs = [work / "before.onnx", work / "tuned.onnx"]
    for checkpoint, graph in zip((before, tuned), graphs, strict=True):
        run(["export", str(checkpoint), "-o", str(graph)])
    source = str(open_dataset(args.dataset, args.data, args.split).images[0].parent)
    with ExitStack() as stack:
        candidates, threads = open_candidates(stack, graphs, args.engine, args.threads, None)
        result = benchmark(candidates, source, args.rounds, args.frames, threads)
        slow, fast = (_round_medians(candidate, args.rounds) for candidate in candidates)
    return result, median_interval((slow / fast).tolist())


def _round_medians(candidate: Candidate, rounds: int) -> np.ndarray:
    """(rounds,) median ms of the network alone."""
    return np.median(np.reshape(candidate.stages_ms["infer"], (rounds, -1)), 1)


if __name__ == "__main__":
    sys.exit(main())
