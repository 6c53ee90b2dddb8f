"""Arguments of the verbs that train and score."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from pspnet.recipe import RECIPES, TrainConfig, flag
from pspnet.shared_arguments import add_data, add_engine
from pspnet.spec import BACKBONES, DILATIONS, STEMS


def add_train(verbs: argparse._SubParsersAction) -> None:
    """`pspnet train`."""
    verb = verbs.add_parser("train", help="train or fine-tune a PSPNet: -o DIR/best.pt")
    add_data(verb, required=True)
    verb.add_argument(
        "--hold-out", metavar="RULE", default=None,
        help="validate on a part of the training split, by time (SHARE of each drive, or SHARE:GAP) or by DRIVE,DRIVE",
    )  # fmt: skip
    verb.add_argument(
        "-o", "--output", required=True, help="folder for best.pt, last.pt, curves and TensorBoard's events"
    )
    start = verb.add_mutually_exclusive_group()
    start.add_argument(
        "--weights", default="imagenet",
        help="imagenet (default), none, or a FILE: a backbone, or a PSPNet of hszhao/semseg or mmsegmentation",
    )  # fmt: skip
    start.add_argument(
        "--init", help="begin with a checkpoint and its network; other classes keep all but the classifiers"
    )
    _add_model(verb)
    _add_distillation(verb)
    verb.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    verb.add_argument("--json", help="write the result here too")
    verb.add_argument("--recipe", default=None, help=f"settings under a name: {', '.join(RECIPES)}; flags override it")
    for setting in dataclasses.fields(TrainConfig):
        text = f"{setting.metadata['help']} (default {setting.default})"
        kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if not isinstance(setting.default, bool):
            kind = {"type": type(setting.default)}
        verb.add_argument(flag(setting.name), default=None, help=text, **kind)


def _add_model(verb: argparse.ArgumentParser) -> None:
    """The flags of the network itself; what is not given comes from the weights or is the default."""
    group = verb.add_argument_group(
        "network", "with --init it is the checkpoint's, and only --size, --fit and --output-stride can change it"
    )
    group.add_argument(
        "--size", default=None, help="HxW of the network's input (default: the first image's; with --init, its own)"
    )
    group.add_argument("--fit", default=None, help="stretch (default), letterbox or crop (with --init, its own)")
    group.add_argument("--output-stride", type=int, default=None, help="8 (default), 16 or 32 (with --init, its own)")
    group.add_argument("--backbone", default=None, help=f"{', '.join(BACKBONES)} (default mobilenet_v2)")
    group.add_argument("--stem", default=None, help=f"of a resnet: {', '.join(STEMS)} (default {STEMS[0]})")
    group.add_argument("--dilation", default=None, help=f"{' or '.join(DILATIONS)} (default {DILATIONS[0]})")
    group.add_argument("--bins", default=None, help="of the pyramid, default 1,2,3,6; none leaves it out")
    group.add_argument("--branch-channels", type=int, default=None, help="width of each pyramid branch")
    group.add_argument("--head-channels", type=int, default=None, help="width of the 3x3 bottleneck")
    group.add_argument(
        "--aux-stages", default=None, help="stages with an aux head, for example 3,2; or none (default 3)"
    )
    group.add_argument("--align-corners", action="store_true", help="bilinear convention of semseg's own weights")


def _add_distillation(verb: argparse.ArgumentParser) -> None:
    """The flags of a teacher; docs/compression.md explains them."""
    group = verb.add_argument_group("distillation")
    group.add_argument("--teacher", default=None, help="learn from best.pt, model.onnx, ... of the same classes, too")
    group.add_argument("--distill-weight", type=float, default=None, help="of the loss on the logits (default 3)")
    group.add_argument("--distill-temperature", type=float, default=None, help="of its softmax (default 4)")
    group.add_argument(
        "--distill-features", type=float, default=None,
        help="weight of the same loss on the backbones' last maps, which the teacher's checkpoint has (default 0, off)",
    )  # fmt: skip
    group.add_argument("--unlabelled", default=None, help="folder of pictures or a clip that only the teacher labels")
    group.add_argument("--unlabelled-every", type=int, default=None, help="which frames of a clip (default each 10th)")


def add_average(verbs: argparse._SubParsersAction) -> None:
    """`pspnet average`."""
    verb = verbs.add_parser("average", help="the mean of runs that differ in their seed and began with one checkpoint")
    verb.add_argument("checkpoints", nargs="+", help="last.pt of each run")
    verb.add_argument("-o", "--output", default="averaged.pt", help="default averaged.pt")


def add_prune(verbs: argparse._SubParsersAction) -> None:
    """`pspnet prune`."""
    verb = verbs.add_parser("prune", help="remove the least important channels of a checkpoint; then train --init")
    verb.add_argument("checkpoint", help="best.pt")
    verb.add_argument("--macs", type=float, default=0.6, help="share of the multiply-adds to keep (default 0.6)")
    verb.add_argument("--method", default="magnitude", help="what is important: magnitude (default) or bn")
    verb.add_argument("-o", "--output", default="pruned.pt", help="default pruned.pt")
    verb.add_argument("--json", help="write what was removed here")


def add_evaluate(verbs: argparse._SubParsersAction) -> None:
    """`pspnet evaluate`."""
    verb = verbs.add_parser("evaluate", help="mIoU of a checkpoint or an ONNX file, on any engine")
    verb.add_argument("artefact", help="best.pt, model.onnx or model.engine")
    add_data(verb, required=True)
    verb.add_argument("--split", default=None, help="train, val (default), test or all")
    verb.add_argument(
        "--hold-out", metavar="RULE", default=None,
        help="the part of the training split that train --hold-out RULE holds out; own: the rule in the artefact",
    )  # fmt: skip
    add_engine(verb)
    verb.add_argument("--fit", default=None, help="stretch, letterbox or crop (default: the model's), for --mode whole")
    verb.add_argument(
        "--mode", default="whole", help="whole (default): the picture fitted to the network; or slide: windows"
    )
    verb.add_argument("--crop", default=None, help="HxW of the windows (default: the network's; others need a .pt)")
    verb.add_argument("--stride", type=float, default=None, help="of the windows, a share of their side (default 2/3)")
    verb.add_argument("--scales", default="1", help="for example 0.5,0.75,1,1.25,1.5,1.75: each alone, then their mean")
    verb.add_argument("--flip", action="store_true", help="the mean of the picture and its mirror image")
    verb.add_argument(
        "--corruptions", nargs="?", const="noise,blur,dark,fog,jpeg", default=None,
        help="mIoU under these too, at three severities (without a value: noise,blur,dark,fog,jpeg)",
    )  # fmt: skip
    verb.add_argument("--confusion", metavar="FILE.png", help="picture of the confusion matrix and each class's IoU")
    verb.add_argument("--save", metavar="DIR", help="new folder for the predictions, as a data set")
    verb.add_argument("--worst", type=int, default=0, help="so many of the worst pictures in DIR/worst (default 0)")
    verb.add_argument("--json", help="write the scores here")


def add_weights(verbs: argparse._SubParsersAction) -> None:
    """`pspnet weights`."""
    verb = verbs.add_parser("weights", help="the checkpoints of the repository, each checked against its model card")
    verb.add_argument("--folder", default=None, help="with the checkpoints and their cards (default: the repository's)")
    verb.add_argument("--json", help="write the list here")
