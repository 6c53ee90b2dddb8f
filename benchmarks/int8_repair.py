"""What each repair gives back where plain post-training quantisation loses more than a point of mIoU.

python benchmarks/int8_repair.py --data data/camvid11 --json docs/results/int8_repair.json

The network is the repository's checkpoint made hard on purpose, without a change of its function in float
(benchmarks/uneven.py): channels between convolutions differ in size by up to 2^--octaves at random, as they do in
depthwise networks (Nagel et al., ICCV 2019, figure 2). "pairs" does that where equalisation reaches, "streams" on the
residual streams, where it does not. Ranges from the training split; scored on --split, which may not be test. mIoU as
--engine computes it.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_parts import finished
from benchmarks.uneven import uneven_pairs, uneven_streams
from calibration.choose import with_ranges
from calibration.collect import measured, total
from calibration.images import CalibrationImages, calibration_images
from calibration.placement import place
from calibration.repair import Finetune, Repairs, repaired, text_of
from calibration.score import Judge, judge_from_data
from calibration.table import CalibrationTable
from calibration.tuning_pictures import tuning_pictures
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.metadata import attach_spec
from pspnet.spec import ModelSpec, size_from_text

ROOT = Path(__file__).resolve().parents[1]
CASES = ("plain", "pairs", "streams")
SAME = 1e-4  # of the largest logit: what float32 sums of rescaled terms may differ by


def main(arguments: list[str] | None = None) -> int:
    """Print a table for every case; write all to --json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True)
    options.add_argument("--dataset", default="auto")
    options.add_argument("--checkpoint", default=str(ROOT / "weights" / "pspnet_mobilenet_v2_camvid11.pt"))
    options.add_argument("--size", default=None, help="HxW of the network's input (default: the checkpoint's)")
    options.add_argument("--cases", default=",".join(CASES[1:]), help=f"some of {','.join(CASES)}")
    options.add_argument("--octaves", type=float, default=6.0, help="by how many powers of two channels differ")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--method", default="minmax", help="of the ranges")
    options.add_argument("--images", type=int, default=32, help="calibration images")
    options.add_argument("--split", default="val", help="that is scored: val, or train for its other images")
    options.add_argument("--held-out", type=int, default=101, help="how many of its images")
    options.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0 leaves it out")
    options.add_argument("--lr", type=float, default=1e-4)
    options.add_argument("--engine", default="auto")
    options.add_argument("--json", help="write the figures here")
    return finished(options.parse_args(arguments), compared, "int8_repair.py")


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """Every case with every repair alone and, from equalisation on, all in a row."""
    if args.split not in ("val", "train"):
        raise PspnetError(f"split is {args.split!r}: what is chosen here must not be chosen on test. Use --split val")
    if unknown := [name for name in args.cases.split(",") if name not in CASES]:
        raise PspnetError(f"unknown case {unknown[0]!r}: choose some of {','.join(CASES)} with --cases")
    spec, model = _exported(args)
    images = calibration_images(args.data, args.dataset, "train", args.images, spec)
    judge = judge_from_data(model, args.data, args.dataset, args.split, images.hashes, args.held_out, args.engine)
    cases = {name: _case(name, args, spec, model, images, judge) for name in args.cases.split(",")}
    return {
        "kind": "int8 repair", "checkpoint": Path(args.checkpoint).name, "sha256": sha256_of(args.checkpoint),
        "size": list(spec.input_size), "method": args.method, "octaves": args.octaves, "seed": args.seed,
        "calibration_images": len(images.inputs), **judge.facts(), "split": args.split, "cases": cases,
    }  # fmt: skip


def _exported(args: argparse.Namespace) -> tuple[ModelSpec, onnx.ModelProto]:
    from export.exporter import onnx_from_model
    from pspnet.checkpoint import load_model, replace_spec

    spec, network = load_model(args.checkpoint)
    spec = replace_spec(spec, input_size=size_from_text(args.size) if args.size else spec.input_size)
    model = onnx_from_model(network, spec)
    attach_spec(model, spec, precision="fp32")
    return spec, model


def _case(
    name: str, args: argparse.Namespace, spec: ModelSpec, model: onnx.ModelProto, images: CalibrationImages,
    judge: Judge,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of figures: without repair, equalised, bias-corrected, both, and fine-tuned behind both."""
    if name == "pairs":
        seen = [*images.inputs, *judge.pictures.inputs]  # so that it is the same function on what is scored
        model = uneven_pairs(model, seen, args.octaves, args.seed)
    elif name == "streams":
        model = uneven_streams(model, args.octaves, args.seed)
    _check_same(judge, model)
    method = (args.method, 99.99)
    table = CalibrationTable("", args.method, images.source, images.hashes, {})
    (found,) = total(measured(model, list(place(model).activations), images.inputs, images.names), [[1] * args.images])
    table = with_ranges(table, found, *method)
    hidden = judge.pictures.hashes
    pictures = functools.partial(tuning_pictures, args.data, args.dataset, "train", hidden, spec, images.inputs)
    finetune = Finetune(args.epochs, args.lr) if args.epochs else None
    alone = repaired(model, table, images, method, Repairs(bias_correction=True), pictures, judge).rows
    chain = repaired(model, table, images, method, Repairs(True, True, finetune), pictures, judge).rows
    rows = [*alone, *(row | {"repair": f"{row['repair']}{' after it' * (i > 0)}"} for i, row in enumerate(chain[1:]))]
    print(f"{name}: float {judge.baseline.value:.2f}\n{text_of(rows, judge.figure)}", flush=True)
    return rows


def _check_same(judge: Judge, model: onnx.ModelProto) -> None:
    """PspnetError where a case is not the same function in float."""
    if (found := judge.score(model, "float")).sqnr_db < -20 * np.log10(SAME):
        raise PspnetError(f"the case changed the float network: SQNR {found.sqnr_db:.1f} dB. Choose fewer --octaves")


if __name__ == "__main__":
    sys.exit(main())
