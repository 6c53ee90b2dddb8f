"""Arguments of the verb that builds TensorRT engines."""

from __future__ import annotations

import argparse

from pspnet.shared_arguments import DATASETS


def add_build(verbs: argparse._SubParsersAction) -> None:
    """`pspnet build`."""
    verb = verbs.add_parser("build", help="ONNX to a TensorRT engine on the GPU that runs it, checked and timed")
    verb.add_argument("model", help="model.onnx of `pspnet export` or model.int8.onnx of `pspnet calibrate`")
    verb.add_argument("-o", "--output", default=None, help="default: the model's name with .engine")
    verb.add_argument(
        "--precision", default=None,
        help="fp32 (without TF32), fp16, int8 or best, the fastest (default: int8 of an INT8 file, otherwise fp16)",
    )  # fmt: skip
    verb.add_argument("--batch", type=int, default=1, help="most pictures at once (default 1)")
    verb.add_argument(
        "--route", default="auto", help="typing of the network: strong, weak or auto, the faster one (default)"
    )
    verb.add_argument(
        "--dla", type=int, default=None, metavar="CORE",
        help="run the backbone on that DLA core of an AGX Orin or Orin NX in fp16 or int8, the rest on the GPU; "
        "TensorRT 10.3 to 10.7, and 11.4.1 or later; not verified on a board (default: all on the GPU)",
    )  # fmt: skip
    verb.add_argument(
        "--compare", action=argparse.BooleanOptionalAction, default=True,
        help="build fp16 beside int8, to tell whether int8 is faster and as good (default)",
    )  # fmt: skip
    _add_settings(verb)
    verb.add_argument("--data", default=None, help="compare on this data set, folder of pictures or clip")
    verb.add_argument("--dataset", default="auto", help=f"{DATASETS}, where DATA is a data set")
    verb.add_argument("--split", default=None, help="of a data set (default val)")
    verb.add_argument("--images", type=int, default=None, help="how many pictures of DATA, evenly spread (default 24)")
    verb.add_argument(
        "--max-miou-drop", type=float, default=None, metavar="POINTS",
        help="of mIoU that the engine may lose against the float network; otherwise exit 1, no file",
    )  # fmt: skip
    verb.add_argument(
        "--min-agreement", type=float, default=None, metavar="PERCENT",
        help="of labels that must equal the float network's; otherwise exit 1, no file",
    )  # fmt: skip
    verb.add_argument("--device", type=int, default=0, help="number of the GPU (default 0)")
    verb.add_argument(
        "--on", default=None, metavar="ssh://USER@HOST[:PORT]", help="build on that board and fetch the engine"
    )
    verb.add_argument("--json", help="write the report here too")


def _add_settings(verb: argparse.ArgumentParser) -> None:
    """How TensorRT builds."""
    verb.add_argument(
        "--workspace", type=int, default=None, metavar="MIB",
        help="scratch memory of a layer (default: a quarter of what is free, 4096 at most)",
    )  # fmt: skip
    verb.add_argument(
        "--optimisation-level", type=int, default=None,
        help="0 to 5: how long TensorRT searches (default: TensorRT's own, 3)",
    )  # fmt: skip
    verb.add_argument("--aux-streams", type=int, default=0, help="CUDA streams beside the main one (default 0)")
    verb.add_argument("--tiling", default=None, help="none, fast, moderate or full, of TensorRT 10.8 and later")
    verb.add_argument(
        "--timing-cache", default=None, metavar="FILE",
        help="timings of kernels to read and write (default: one per TensorRT and GPU in your cache folder)",
    )  # fmt: skip
    verb.add_argument("--low-memory", action="store_true", help="settings with which boards of 4 and 8 GB can build")
