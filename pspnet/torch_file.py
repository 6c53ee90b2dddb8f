"""Files of torch.save, read without executing what they hold."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

ZIP, PICKLE = b"PK", b"\x80"
"""How files of torch.save begin: today's, and those from before 2020."""


def contents_of(path: Path) -> Any:
    """Tensors and plain values of a file, on the CPU. torch raises many types for a damaged one, OSError among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on pickles of other kinds, which are refused anyway
        return torch.load(path, map_location="cpu", weights_only=True)


def reason_of_refusal(path: Path, error: Exception) -> str:
    """Why torch refused a file, in a few words: its own texts are long, and advise to execute what the file holds.

    OSError where the file cannot be read at all.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    if not start.startswith((ZIP, PICKLE)):
        return "it is no file of PyTorch"
    return "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else "it is damaged or cut short"
