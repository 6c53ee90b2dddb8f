"""Arguments of the verbs that train and score."""

from __future__ import annotations

import argparse
import dataclasses

from pspnet.recipe import TrainConfig
from pspnet.shared_arguments import add_data, add_engine


def add_train(verbs: argparse._SubParsersAction) -> None:
    """`pspnet train`."""
    verb = verbs.add_parser("train", help="train or fine-tune a PSPNet: -o DIR/best.pt")
    add_data(verb, required=True)
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


def add_evaluate(verbs: argparse._SubParsersAction) -> None:
    """`pspnet evaluate`."""
    verb = verbs.add_parser("evaluate", help="mIoU of a checkpoint or an ONNX file, on any engine")
    verb.add_argument("artefact", help="best.pt or model.onnx")
    add_data(verb, required=True)
    verb.add_argument("--split", default="val", help="train, val (default), test or all")
    add_engine(verb)
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's)")
    verb.add_argument("--json", help="write the scores here")
