"""Arguments that several verbs of the command line share."""

from __future__ import annotations

import argparse

ENGINES = "auto (default), openvino, ort, torch, tensorrt, ort-cuda or ort-tensorrt"
ENGINES_OF_ONNX = "auto (default), openvino or ort"
DATASETS = "auto (default), cityscapes, camvid11, bdd100k, list or folder"


def add_data(verb: argparse.ArgumentParser, required: bool) -> None:
    """The arguments that name a data set."""
    verb.add_argument("--data", required=required, help="folder of the data set, or a list file (see docs/datasets.md)")
    verb.add_argument("--dataset", default="auto", help=DATASETS)


def add_engine(verb: argparse.ArgumentParser, more: str = "", engines: str = ENGINES) -> None:
    """The arguments that choose one of `engines`; `more` ends its help text."""
    verb.add_argument("--engine", default="auto", help=f"{engines}{more}")
    verb.add_argument("--threads", type=int, default=None, help="CPU threads of the engine (default: every core)")
