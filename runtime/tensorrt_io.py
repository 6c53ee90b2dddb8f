"""What an engine takes and gives, held against its passport, which no hash covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pspnet.errors import PspnetError
from pspnet.metadata import INPUT, OUTPUT
from runtime.passport import Passport, rebuild_command

LOGITS_TYPES: dict[str, np.dtype] = {"FLOAT": np.dtype(np.float32), "HALF": np.dtype(np.float16)}
"""TensorRT's names of the types that logits may have."""


class PlanTensor(NamedTuple):
    """An input or output by TensorRT's names; its shape without N; of an input, the smallest and the largest N."""

    mode: str
    kind: str
    shape: tuple[int, ...]
    layout: str
    place: str
    batches: tuple[int, int] | None = None


@dataclass(frozen=True)
class PlanIO:
    """smallest_batch, largest_batch: pictures of one run, the same where that is fixed, as for a DLA; map_shape:
    (C, h, w) of the logits; logits_type: how the engine has them."""

    smallest_batch: int
    largest_batch: int
    map_shape: tuple[int, int, int]
    logits_type: np.dtype


def tensors_of(engine: Any) -> dict[str, PlanTensor]:
    """The inputs and outputs of a deserialised engine, by name."""
    tensors = {}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        mode, shape = engine.get_tensor_mode(name).name, tuple(engine.get_tensor_shape(name))
        batches = None
        if mode == "INPUT":
            ends = (shape, shape) if -1 not in shape else engine.get_tensor_profile_shape(name, 0)
            batches = (ends[0][0], ends[-1][0])
        tensors[name] = PlanTensor(
            mode, engine.get_tensor_dtype(name).name, shape[1:], engine.get_tensor_format(name).name,
            engine.get_tensor_location(name).name, batches,
        )  # fmt: skip
    return tensors


def checked_io(tensors: dict[str, PlanTensor], passport: Passport, name: str) -> PlanIO:
    """What a runner needs of them; `name` is the engine's in errors.

    PspnetError where they are not image, uint8 (N, H, W, 3), and logits, float32 or float16 (N, C, h, w), in plain
    layout in device memory, with the sizes and the batches in the passport.
    """
    spec, batches = passport.model_spec, (passport.batch["min"], passport.batch["max"])
    kind = tensors[OUTPUT].kind if OUTPUT in tensors else ""
    kind = kind if kind in LOGITS_TYPES else "FLOAT"
    map_shape = (spec.classes, *spec.map_size)
    wanted = {
        INPUT: PlanTensor("INPUT", "UINT8", (*spec.input_size, 3), "LINEAR", "DEVICE", batches),
        OUTPUT: PlanTensor("OUTPUT", kind, map_shape, "LINEAR", "DEVICE"),
    }
    if tensors != wanted:
        raise PspnetError(
            f"{name} has {_text(tensors)}, its passport describes {_text(wanted)}: the passport is of another engine. "
            f"Copy both files again, or build the engine again: {rebuild_command(name, passport)}"
        )
    return PlanIO(*batches, map_shape, LOGITS_TYPES[kind])


def _text(tensors: dict[str, PlanTensor]) -> str:
    listed = []
    for name, tensor in tensors.items():
        batches = "{}-{}".format(*tensor.batches) if tensor.batches else "N"
        place = f"{tensor.layout}, {tensor.place}".lower()
        listed.append(f"{name} ({tensor.kind.lower()}, {'x'.join(map(str, (batches, *tensor.shape)))}, {place})")
    return " and ".join(listed) or "no inputs and outputs"
