"""The `pspnet` command line: the parser and the exit codes. The verbs' work is in commands and artefact_commands."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pspnet.errors import PspnetError
from pspnet.files import check_outputs
from pspnet.recipe import TrainConfig

EXTRAS = {
    "torch": "train", "torchvision": "train", "matplotlib": "train", "onnxscript": "export", "onnxsim": "export",
    "openvino": "cpu", "onnxruntime": "cpu", "cv2": "opencv",
}  # fmt: skip
"""Module -> the extra that brings it."""


INPUTS = ("artefact", "artefacts", "checkpoint", "model", "sources", "source", "init", "weights", "benches")
OUTPUTS = ("output", "video", "jsonl", "json")
"""Arguments that name files which a command reads and writes."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all of ours."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"pspnet: {message}. See: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a gate was missed, 2 refused, 130 interrupted."""
    try:
        args = _parsed(arguments)
        check_outputs(_paths(args, INPUTS), _paths(args, OUTPUTS))
        from pspnet import artefact_commands, commands

        module = artefact_commands if hasattr(artefact_commands, args.command) else commands
        code = getattr(module, args.command)(args) or 0
        sys.stdout.flush()
        return code
    except PspnetError as error:
        print(f"pspnet: {error}", file=sys.stderr)
    except ImportError as error:
        if (message := explain_missing(error)) is None:
            raise
        print(f"pspnet: {message}", file=sys.stderr)
    except KeyboardInterrupt:
        print("pspnet: interrupted; unfinished files have been removed, finished ones are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of the system, not of ours: a full disk, a file that went away
        print(f"pspnet: {error}", file=sys.stderr)
    return 2


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        return parser().parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # a help text whose reader has left fails here, not at the interpreter's end
        raise


def _paths(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    values = [getattr(args, name, None) for name in names]
    return [path for value in values for path in (value if isinstance(value, list) else [value]) if path]


def explain_missing(error: ImportError) -> str | None:
    """One line that says how to install what an import lacked, or None where the cause is not a missing package."""
    if "libGL" in str(error) or "libgthread" in str(error) or "libglib" in str(error):
        return f"OpenCV needs system libraries ({error}). Install them with: apt-get install libgl1 libglib2.0-0"
    module = (error.name or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and module in EXTRAS:
        return f"this command needs {module}. Install it with: pip install 'pspnet-edge[{EXTRAS[module]}]'"
    return None


def parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    top = Parser(prog="pspnet", description="PSPNet from training to driving cameras.")
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(verbs)
    _add_evaluate(verbs)
    _add_export(verbs)
    _add_verify(verbs)
    _add_calibrate(verbs)
    _add_run(verbs)
    _add_bench(verbs)
    _add_demo(verbs)
    _add_report(verbs)
    _add_inspect(verbs)
    _add_doctor(verbs)
    return top


def _add_train(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("train", help="train or fine-tune a PSPNet: -o DIR/best.pt")
    _add_data(verb, required=True)
    verb.add_argument("-o", "--output", required=True, help="folder for best.pt, last.pt, metrics.csv and curves.png")
    start = verb.add_mutually_exclusive_group()
    start.add_argument("--weights", default="imagenet", help="of the backbone: imagenet, none or a state dict FILE")
    start.add_argument("--init", help="begin with a checkpoint; other classes keep all but the classifiers")
    verb.add_argument("--backbone", default=None, help="resnet18|34|50|101 or mobilenet_v2 (default mobilenet_v2)")
    verb.add_argument("--output-stride", type=int, default=None, help="8 (default), 16 or 32")
    verb.add_argument("--bins", default=None, help="of the pyramid, default 1,2,3,6")
    verb.add_argument("--size", default=None, help="HxW of the network's input (default: the first image's)")
    verb.add_argument("--fit", default=None, help="stretch (default), letterbox or crop")
    verb.add_argument("--align-corners", action="store_true", help="bilinear convention of semseg's own weights")
    verb.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    verb.add_argument("--json", help="write the result here too")
    for setting in dataclasses.fields(TrainConfig):
        flag = f"--{setting.name.replace('_', '-')}"
        text = f"{setting.metadata['help']} (default {setting.default})"
        if isinstance(setting.default, bool):
            verb.add_argument(flag, action=argparse.BooleanOptionalAction, default=setting.default, help=text)
        else:
            verb.add_argument(flag, type=type(setting.default), default=setting.default, help=text)


def _add_evaluate(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("evaluate", help="mIoU of a checkpoint or an ONNX file, on any engine")
    verb.add_argument("artefact", help="best.pt or model.onnx")
    _add_data(verb, required=True)
    verb.add_argument("--split", default="val", help="train, val (default), test or all")
    _add_engine(verb)
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--json", help="write the scores here")


def _add_export(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("export", help="checkpoint to ONNX with fixed-size ops, proven equal")
    verb.add_argument("checkpoint", nargs="?", default=None, help="best.pt; only --sizes goes without one")
    verb.add_argument("-o", "--output", default=None, help="default model.onnx")
    verb.add_argument("--size", default=None, help="HxW of the network's input (default: the checkpoint's)")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the checkpoint's)")
    verb.add_argument("--fp16", action="store_true", help="write NAME.fp16.onnx too, typed fp16 for TensorRT")
    verb.add_argument(
        "--head", default="folded", help="folded (default) or fixed: the form of the pyramid and bottleneck"
    )
    _add_data(verb, required=False)
    verb.add_argument("--split", default="val", help="whose images the proof uses beside seeded ones (default val)")
    verb.add_argument("--images", type=int, default=8, help="how many of them (default 8)")
    verb.add_argument(
        "--sizes", nargs="?", const="360x480,473x473,512x1024,713x713,720x960,720x1280,1024x2048", default=None,
        help="print what inputs of HxW,HxW,... cost (without a value: seven common sizes); no ONNX file is written",
    )  # fmt: skip
    verb.add_argument("--cameras", default=None, help="HxW,HxW,... for --sizes (default: four common ones)")
    verb.add_argument("--json", help="write the proof, or what --sizes prints, here too")


def _add_verify(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "verify", help="B against A on the same pictures: agreement, mIoU of both, where they differ"
    )
    verb.add_argument(
        "artefacts", nargs=2, metavar="ARTEFACT", help="A, the reference, and B: best.pt, model.onnx, ..."
    )
    verb.add_argument("--data", required=True, help="a data set, or, without mIoU, a folder of pictures or a clip")
    verb.add_argument("--dataset", default="auto", help="auto (default), camvid11 or folder, where DATA is a data set")
    verb.add_argument("--split", default="val", help="of a data set: train, val (default), test or all")
    verb.add_argument("--max-miou-drop", type=float, default=None, help="exit with 1 where B loses more points of mIoU")
    verb.add_argument("--min-agreement", type=float, default=None, help="exit with 1 where less %% of pixels agree")
    _add_engine(verb, "; two with a comma: A's and B's")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: each model's)")
    verb.add_argument("-o", "--output", default="flips.png", help="heat map of the differences (default flips.png)")
    verb.add_argument("--json", help="write the report here too")


def _add_calibrate(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("calibrate", help="ONNX to INT8 with explicit Q/DQ, and the table beside it")
    verb.add_argument("model", help="model.onnx of `pspnet export`")
    verb.add_argument("-o", "--output", default=None, help="default: the model's name with .int8.onnx")
    verb.add_argument("--data", required=True, help="a data set, a folder of pictures or a clip; labels are not used")
    verb.add_argument("--dataset", default="auto", help="auto (default), camvid11 or folder, where DATA is a data set")
    verb.add_argument("--split", default="train", help="of a data set (default train)")
    verb.add_argument("--images", type=int, default=64, help="how many, evenly spread (default 64)")
    verb.add_argument("--method", default="percentile", help="percentile (default) or minmax")
    verb.add_argument(
        "--percentile", type=float, default=99.99, help="share of values kept, in per cent (default 99.99)"
    )
    verb.add_argument("--force", action="store_true", help="allow images of a test split")
    verb.add_argument("--json", help="write the summary here too")


def _add_run(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("run", help="labels of a photo, a folder, a clip or a USB camera")
    verb.add_argument("artefact", help="best.pt or model.onnx")
    kinds = "photo, folder, clip or v4l2:///dev/video0?width=&height=&fps=&format=mjpg|yuyv"
    verb.add_argument("sources", nargs="+", metavar="SOURCE", help=kinds)
    verb.add_argument("-o", "--output", default=None, help="folder for pictures and label PNGs, a `folder` data set")
    verb.add_argument("--video", default=None, help="NAME.webm: the labels over the picture, with a legend")
    verb.add_argument("--alpha", type=float, default=0.5, help="of the colours in --video, 0 to 1 (default 0.5)")
    verb.add_argument("--jsonl", default=None, help="one JSON line per frame: times and class areas")
    _add_engine(verb)
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--region", default=None, help="HxW+TOP+LEFT in camera pixels that the network looks at")
    verb.add_argument("--realtime", action="store_true", help="play a clip at its frame rate")
    verb.add_argument("--limit", type=int, default=None, help="stop after so many frames; a camera needs it")
    verb.add_argument("--json", help="write frames, FPS and times here")


def _add_bench(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("bench", help="FPS, times per stage and mIoU of several artefacts in one interleaved run")
    verb.add_argument("artefacts", nargs="+", metavar="ARTEFACT", help="best.pt, model.onnx, model.int8.onnx, ...")
    _add_engine(verb)
    verb.add_argument(
        "--source", default=None, help="clip, folder or photo for the times (default: the split's images)"
    )
    _add_data(verb, required=False)
    verb.add_argument("--split", default="val", help="of the data set, for mIoU (default val)")
    verb.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    verb.add_argument("--frames", type=int, default=30, help="frames per round (default 30)")
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--pictures", type=int, default=0, help="overlays to write beside --json (default 0)")
    verb.add_argument("--json", help="write the figures here, for `pspnet report`")


def _add_demo(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("demo", help="the whole road on real driving images: runs/demo/report.html")
    verb.add_argument("-o", "--output", default="runs/demo", help="folder for everything (default runs/demo)")


def _add_report(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("report", help="what bench measured as one HTML page with table, plot and overlays")
    verb.add_argument("benches", nargs="+", metavar="BENCH.json", help="of `pspnet bench --json`; several are joined")
    verb.add_argument("-o", "--output", default="report.html", help="default report.html")


def _add_inspect(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("inspect", help="what an artefact says about itself")
    verb.add_argument("artefact", help="best.pt, model.onnx, a calibration table or a bench file (.json)")
    verb.add_argument("--target", help="lint an ONNX file for tensorrt-10.3, tensorrt-11, openvino or ort")
    verb.add_argument("--json", help="write it here too, with nothing left out")


def _add_doctor(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser("doctor", help="what this machine can do, and what each command lacks here")
    verb.add_argument("--json", help="write it here too")


def _add_data(verb: argparse.ArgumentParser, required: bool) -> None:
    verb.add_argument("--data", required=required, help="folder of the data set (with classes.json)")
    verb.add_argument("--dataset", default="auto", help="auto (default, by its classes), camvid11 or folder")


def _add_engine(verb: argparse.ArgumentParser, more: str = "") -> None:
    verb.add_argument("--engine", default="auto", help=f"auto (default), openvino, ort or torch{more}")
    verb.add_argument("--threads", type=int, default=None, help="CPU threads of the engine (default: every core)")


if __name__ == "__main__":
    sys.exit(main())
