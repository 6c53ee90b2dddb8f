"""TensorRT's part of `pspnet doctor`: whether the installed one is new enough and can be loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from pspnet.doctor import MISSING, NOTE, OK, Check
from pspnet.errors import PspnetError
from runtime.tensorrt_library import library_version, newer_than_checked

NEEDED_BY = "build, and every command on a TensorRT engine (.engine)"


def checks() -> list[Check]:
    """One line where there is a TensorRT; that there is none is told with the other libraries."""
    if "tensorrt" not in sys.modules and find_spec("tensorrt") is None:
        return []
    try:
        version = library_version()
        if newer := newer_than_checked(version):
            return [Check("Engines", "tensorrt", NOTE, newer[0])]
        return [Check("Engines", "tensorrt", OK, f"{version} builds and runs engines")]
    except PspnetError as error:
        what, _, fix = str(error).partition(". ")
        return [Check("Engines", "tensorrt", MISSING, what, NEEDED_BY, fix)]
