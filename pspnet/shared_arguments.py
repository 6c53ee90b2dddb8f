"""Arguments that several verbs of the command line share."""

from __future__ import annotations

import argparse

DATASETS = "auto (default), cityscapes, camvid11, bdd100k, list or folder"


def add_data(verb: argparse.ArgumentParser, required: bool) -> None:
    """The arguments that name a data set."""
    verb.add_argument("--data", required=required, help="folder of the data set, or a list file (see docs/datasets.md)")
    verb.add_argument("--dataset", default="auto", help=DATASETS)


def add_engine(verb: argparse.ArgumentParser, more: str = "") -> None:
    """The arguments that choose an engine; `more` ends its help text."""
    verb.add_argument("--engine", default="auto", help=f"auto (default), openvino, ort or torch{more}")
    verb.add_argument("--threads", type=int, default=None, help="CPU threads of the engine (default: every core)")
