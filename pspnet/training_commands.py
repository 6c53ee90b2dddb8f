"""What the verbs do that train and score; everything heavy is imported inside the verb."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.recipe import TrainConfig
from pspnet.spec import size_from_text


def train(args: argparse.Namespace) -> None:
    """Train or fine-tune; writes best.pt and its company to the output folder."""
    from pspnet.dataset import open_dataset
    from pspnet.evaluate import evaluate as score
    from pspnet.initialise import model_from_checkpoint, new_model
    from pspnet.train import train as run
    from runtime.segmenter import CpuSegmenter
    from runtime.torch_runner import TorchRunner

    config = TrainConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig)})
    dataset = open_dataset(args.dataset, args.data, "train")
    held_out = open_dataset(args.dataset, args.data, "val")
    output = Path(args.output)
    if any((output / name).exists() for name in ("best.pt", "last.pt")) and not args.resume:
        raise PspnetError(f"{output} holds a run: go on with --resume, or choose another folder with -o")
    size = size_from_text(args.size) if args.size else None
    if args.init:
        changes = {"output_stride": args.output_stride, "input_size": size, "fit": args.fit}
        changes = {name: value for name, value in changes.items() if value is not None}
        if args.backbone or args.bins or args.align_corners:
            raise PspnetError(
                "--init takes backbone, bins and align-corners from the checkpoint: leave those flags out"
            )
        spec, model = model_from_checkpoint(dataset, args.init, config.seed, **changes)
    else:
        spec, model = new_model(
            dataset, args.backbone or "mobilenet_v2", args.output_stride or 8, _bins(args.bins or "1,2,3,6"),
            size or dataset.read(0)[0].shape[:2], args.fit or "stretch", args.align_corners, args.weights, config.seed,
        )  # fmt: skip

    def validate(model: Any, spec: Any) -> dict[str, Any]:
        return score(CpuSegmenter(TorchRunner(model, spec)).labels, spec, held_out)

    try:
        result = run(model, spec, dataset, config, output, validate, args.resume)
    except KeyboardInterrupt:
        if (output / "last.pt").exists():
            print(f"every finished epoch is in {output}: go on with the same command and --resume", file=sys.stderr)
        raise
    print(f"best validation mIoU {result['best_val_miou']:.2f}: {result['checkpoint']}")
    if args.json:
        write_json(args.json, result)


def evaluate(args: argparse.Namespace) -> None:
    """Print and store the scores of one artefact on one split."""
    from pspnet.dataset import open_dataset
    from pspnet.evaluate import evaluate as score
    from pspnet.files import sha256_of
    from runtime.runner import open_runner
    from runtime.segmenter import CpuSegmenter

    dataset = open_dataset(args.dataset, args.data, args.split)
    with open_runner(args.artefact, args.engine, args.threads) as runner:
        scores = score(CpuSegmenter(runner, args.fit).labels, runner.spec, dataset, args.fit)
        scores["protocol"] |= {"engine": runner.engine, "precision": runner.precision}
        scores["protocol"] |= {"artefact": Path(args.artefact).name, "sha256": sha256_of(args.artefact)}
    for name, row in scores["per_class"].items():
        print(f"{name:>16}  IoU {row['iou']:6.2f}  precision {row['precision']:6.2f}  recall {row['recall']:6.2f}")
    print(
        f"mIoU {scores['miou']:.2f}  mAcc {scores['macc']:.2f}  pixel accuracy {scores['pixel_accuracy']:.2f}  "
        f"F1 {scores['f1']:.2f}  on {len(dataset)} images of {args.split} ({runner.engine}, {runner.precision})"
    )
    if args.json:
        write_json(args.json, scores)


def _bins(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PspnetError(f"bins are {text!r}: write whole numbers with commas, for example 1,2,3,6") from None
