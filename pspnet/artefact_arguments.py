"""Arguments of the verbs that export, calibrate, compare and report."""

from __future__ import annotations

import argparse

from pspnet.shared_arguments import DATASETS, ENGINES_OF_ONNX, add_data, add_engine

OF_PICTURES = (
    "data", "dataset", "split", "images", "method", "percentile", "held_out", "check", "resamples", "sensitivity",
    "max_miou_drop", "class_floor", "device", "finetune", "finetune_lr", "finetune_batch", "equalise",
    "bias_correction", "force",
)  # fmt: skip
"""Arguments of calibrate that are about pictures, and so are left out beside --table and --rerank."""
NOT_OF_TABLE = (*OF_PICTURES, "front", "engine", "threads", "rerank")
NOT_OF_RERANK = (*OF_PICTURES, "table")


def add_export(verbs: argparse._SubParsersAction) -> None:
    """`pspnet export`."""
    verb = verbs.add_parser("export", help="checkpoint to ONNX with fixed-size ops, proven equal")
    verb.add_argument("checkpoint", nargs="?", default=None, help="best.pt; only --sizes goes without one")
    verb.add_argument("-o", "--output", default=None, help="default model.onnx")
    verb.add_argument("--size", default=None, help="HxW of the network's input (default: the checkpoint's)")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the checkpoint's)")
    verb.add_argument("--fp16", action="store_true", help="write NAME.fp16.onnx too, typed fp16 for TensorRT")
    verb.add_argument("--head", default=None, help="folded (default) or fixed: the form of the pyramid and bottleneck")
    add_data(verb, required=False)
    verb.add_argument("--split", default=None, help="whose images the proof uses beside seeded ones (default val)")
    verb.add_argument("--images", type=int, default=None, help="how many of them (default 8)")
    verb.add_argument(
        "--sizes", nargs="?", const="360x480,473x473,512x1024,713x713,720x960,720x1280,1024x2048", default=None,
        help="print what inputs of HxW,HxW,... cost (without a value: seven common sizes); no ONNX file is written",
    )  # fmt: skip
    verb.add_argument("--cameras", default=None, help="HxW,HxW,... for --sizes (default: four common ones)")
    verb.add_argument("--json", help="write the proof, or what --sizes prints, here too")


def add_verify(verbs: argparse._SubParsersAction) -> None:
    """`pspnet verify`."""
    verb = verbs.add_parser(
        "verify", help="B against A on the same pictures: agreement, mIoU of both, where they differ"
    )
    verb.add_argument(
        "artefacts", nargs=2, metavar="ARTEFACT", help="A, the reference, and B: best.pt, model.onnx, model.engine"
    )
    verb.add_argument("--data", required=True, help="a data set, or, without mIoU, a folder of pictures or a clip")
    verb.add_argument("--dataset", default="auto", help=f"{DATASETS}, where DATA is a data set")
    verb.add_argument("--split", default=None, help="of a data set: train, val (default), test or all")
    verb.add_argument("--max-miou-drop", type=float, default=None, help="exit with 1 where B loses more points of mIoU")
    verb.add_argument("--min-agreement", type=float, default=None, help="exit with 1 where less %% of pixels agree")
    add_engine(verb, "; two with a comma: A's and B's")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: each model's)")
    verb.add_argument("-o", "--output", default="flips.png", help="heat map of the differences (default flips.png)")
    verb.add_argument("--json", help="write the report here too")


def add_calibrate(verbs: argparse._SubParsersAction) -> None:
    """`pspnet calibrate`."""
    verb = verbs.add_parser("calibrate", help="ONNX to INT8 with explicit Q/DQ, and the table beside it")
    verb.add_argument("model", help="model.onnx of `pspnet export`")
    verb.add_argument("-o", "--output", default=None, help="default: the model's name with .int8.onnx")
    verb.add_argument("--fp16", action="store_true", help="write NAME.fp16.onnx too, the same typed fp16 for TensorRT")
    verb.add_argument("--data", default=None, help="a data set, a folder of pictures or a clip; labels only score")
    verb.add_argument(
        "--table", default=None, metavar="TABLE.json", help="in place of DATA: write the graph of a stored table again"
    )
    verb.add_argument("--dataset", default="auto", help=f"{DATASETS}, where DATA is a data set")
    verb.add_argument("--split", default=None, help="of a data set (default train)")
    verb.add_argument(
        "--images", type=int, default=None, help="how many, evenly spread (default 64, or 3/4 of fewer than 86)"
    )
    verb.add_argument(
        "--method", default="percentile",
        help="of the ranges: percentile (default), minmax, entropy, mse, or auto, the best on held-out images",
    )  # fmt: skip
    verb.add_argument(
        "--percentile", type=float, default=None, help="share of values kept, in per cent (default 99.99)"
    )
    verb.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=None,
        help="compare INT8 with float on held-out images (default: where there are any)",
    )  # fmt: skip
    verb.add_argument(
        "--held-out", type=int, default=None,
        help="how many of the same split (default 24); of 16 or more, half choose and half score what was chosen",
    )  # fmt: skip
    verb.add_argument("--resamples", type=int, default=None, help="bootstrap samples that show the spread (default 0)")
    add_engine(verb, "; of what is compared", ENGINES_OF_ONNX)
    _add_repairs(verb)
    _add_search(verb)
    verb.add_argument("--force", action="store_true", help="allow images of a test split, and other unfit ones")
    verb.add_argument("--json", help="write the summary here too")
    verb.set_defaults(unset={name: verb.get_default(name) for name in {*NOT_OF_TABLE, *NOT_OF_RERANK}})


def _add_repairs(verb: argparse.ArgumentParser) -> None:
    """What `pspnet calibrate` may do about weights that lose by rounding."""
    verb.add_argument("--equalise", action="store_true", help="cross-layer equalisation: channels of maps to one range")
    verb.add_argument("--bias-correction", action="store_true", help="take the mean error of rounding out of biases")
    verb.add_argument(
        "--finetune", type=int, metavar="EPOCHS", default=None,
        help="train weights and ranges under rounding, with labels where there are any (needs torch)",
    )  # fmt: skip
    verb.add_argument("--finetune-lr", type=float, default=None, help="relative to each weight's size (default 0.0001)")
    verb.add_argument("--finetune-batch", type=int, default=None, help="pictures per step (default 4)")


def _add_search(verb: argparse.ArgumentParser) -> None:
    """The search of `pspnet calibrate` for layers that stay in float."""
    verb.add_argument(
        "--sensitivity", default=None, metavar="FILE",
        help="what each convolution loses alone, as NAME.json and NAME.png; an interrupted run goes on there",
    )  # fmt: skip
    verb.add_argument(
        "--max-miou-drop", type=float, default=None, metavar="POINTS",
        help="search the fastest mix of INT8 and float that loses no more (without labels: of equal labels)",
    )  # fmt: skip
    verb.add_argument(
        "--class-floor", action="append", default=[], metavar="CLASS=POINTS",
        help="of the search: IoU that a class may lose; can be repeated",
    )  # fmt: skip
    verb.add_argument(
        "--front", default=None, metavar="FILE", help="of the search: every mix, as NAME.json and NAME.png"
    )
    verb.add_argument("--device", default=None, help="of the search: estimate by its peak rates, time nothing")
    verb.add_argument(
        "--rerank", default=None, metavar="FRONT.json",
        help="in place of DATA: time the mixes of a front on this machine's engine, and write the fastest",
    )  # fmt: skip


def add_bench(verbs: argparse._SubParsersAction) -> None:
    """`pspnet bench`."""
    verb = verbs.add_parser("bench", help="FPS, times per stage and mIoU of several artefacts in one interleaved run")
    verb.add_argument(
        "artefacts", nargs="+", metavar="ARTEFACT", help="best.pt, model.onnx, model.int8.onnx, model.engine"
    )
    add_engine(verb)
    verb.add_argument(
        "--source", default=None, help="clip, folder or photo for the times (default: the split's images)"
    )
    add_data(verb, required=False)
    verb.add_argument("--split", default="val", help="of the data set, for mIoU (default val)")
    verb.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    verb.add_argument("--frames", type=int, default=30, help="frames per round (default 30)")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--pictures", type=int, default=0, help="overlays to write beside --json (default 0)")
    verb.add_argument("--json", help="write the figures here, for `pspnet report`")


def add_demo(verbs: argparse._SubParsersAction) -> None:
    """`pspnet demo`."""
    verb = verbs.add_parser("demo", help="the whole road on real driving images: runs/demo/report.html")
    verb.add_argument("-o", "--output", default="runs/demo", help="folder for everything (default runs/demo)")


def add_report(verbs: argparse._SubParsersAction) -> None:
    """`pspnet report`."""
    verb = verbs.add_parser("report", help="what bench measured as one HTML page with table, plot and overlays")
    verb.add_argument("benches", nargs="+", metavar="BENCH.json", help="of `pspnet bench --json`; several are joined")
    verb.add_argument("-o", "--output", default="report.html", help="default report.html")


def add_inspect(verbs: argparse._SubParsersAction) -> None:
    """`pspnet inspect`."""
    verb = verbs.add_parser("inspect", help="what an artefact says about itself")
    verb.add_argument("artefact", help="best.pt, model.onnx, model.engine, or a .json of any verb")
    verb.add_argument(
        "--target",
        help="what tensorrt-10.3, tensorrt-11, openvino or ort runs slowly in an ONNX file or refuses (exit 1)",
    )
    verb.add_argument("--json", help="write it here too, with nothing left out")


def add_doctor(verbs: argparse._SubParsersAction) -> None:
    """`pspnet doctor`."""
    verb = verbs.add_parser("doctor", help="what this machine can do; with --data, what a data set holds")
    add_data(verb, required=False)
    verb.add_argument("-o", "--output", default=None, help="overlays of DATA: a PNG or its folder (default doctor.png)")
    verb.add_argument("--pictures", type=int, default=12, help="how many overlays (default 12)")
    verb.add_argument("--json", help="write it here too")
