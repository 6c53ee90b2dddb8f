"""Kernel arguments as the bytes that C has for them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

ADDRESS = np.dtype(np.uint64)
KINDS = "biufV"
"""numpy's letters for bool, signed, unsigned, float and structure."""


def packed_arguments(arguments: Sequence[Any]) -> tuple[bytes, list[int]]:
    """The arguments of a kernel one behind the other, each at a multiple of its alignment, and where each begins.

    What may be an argument, so that its size in C is never guessed:

    - a DeviceBuffer, or a PinnedArray that the GPU sees: its address, 8 bytes; so is a Python int;
    - a numpy scalar of bool, integer or float: its own size, np.int32(3) for `int` and np.float32(0.5) for `float`;
    - a ctypes number, structure or array; a structured numpy scalar, whose dtype must be made with align=True.

    TypeError for everything else, a Python float or bool among them.
    """
    data, offsets = bytearray(), []
    for place, argument in enumerate(arguments):
        value, alignment = _bytes_and_alignment(argument, place)
        data += bytes(-len(data) % alignment)
        offsets.append(len(data))
        data += value
    return bytes(data), offsets


def _bytes_and_alignment(argument: Any, place: int) -> tuple[bytes, int]:
    if hasattr(argument, "device_address"):
        argument = argument.device_address
    if isinstance(argument, int) and not isinstance(argument, bool):
        if not 0 <= argument < 2**64:
            raise TypeError(f"kernel argument {place} is {argument}, no address: give a number as np.int32({argument})")
        return ADDRESS.type(argument).tobytes(), ADDRESS.itemsize
    if isinstance(argument, np.generic) and argument.dtype.kind in KINDS:
        return argument.tobytes(), argument.dtype.alignment
    if isinstance(argument, ctypes._SimpleCData | ctypes.Structure | ctypes.Union | ctypes.Array):
        return bytes(argument), ctypes.alignment(argument)
    raise TypeError(
        f"kernel argument {place} is a {type(argument).__name__}, whose size in C is not known: give a buffer, an int "
        "for an address, or a number with its size, such as np.int32(3) or np.float32(0.5)"
    )
