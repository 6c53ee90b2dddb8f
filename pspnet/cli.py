"""The `pspnet` command line: the parser and the exit codes. Each verb's work is in pspnet.commands."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig

EXTRAS = {
    "torch": "train", "torchvision": "train", "matplotlib": "train", "onnxscript": "export", "onnxsim": "export",
    "openvino": "cpu", "onnxruntime": "cpu", "cv2": "opencv",
}  # fmt: skip
"""Module -> the extra that brings it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a gate was missed, 2 refused, 130 interrupted."""
    args = parser().parse_args(arguments)
    try:
        from pspnet import commands

        return getattr(commands, args.command)(args) or 0
    except PspnetError as error:
        print(f"pspnet: {error}", file=sys.stderr)
    except ImportError as error:
        if (message := explain_missing(error)) is None:
            raise
        print(f"pspnet: {message}", file=sys.stderr)
    except KeyboardInterrupt:
        print("pspnet: interrupted; files that were being written have been removed", file=sys.stderr)
        return 130
    return 2


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
    top = argparse.ArgumentParser(prog="pspnet", description="PSPNet from training to driving cameras.")
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(verbs)
    _add_evaluate(verbs)
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


def _add_data(verb: argparse.ArgumentParser, required: bool) -> None:
    verb.add_argument("--data", required=required, help="folder of the data set (with classes.json)")
    verb.add_argument("--dataset", default="camvid11", help="camvid11 (default) or folder")


def _add_engine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--engine", default="auto", help="auto (default), openvino, ort or torch")
    verb.add_argument("--threads", type=int, default=None, help="CPU threads of the engine (default: every core)")


if __name__ == "__main__":
    sys.exit(main())
