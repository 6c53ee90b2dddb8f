"""Whether a build fits into memory, and the settings with which it fits boards of 4 and 8 GB.

An estimate, from what a build holds at the same time: it cannot know which kernels TensorRT tries.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from calibration.builder import MEBIBYTE, BuildSettings
from pspnet.errors import PspnetError
from pspnet.metadata import INPUT, tensors_of
from runtime.cuda import Device

BASE_BYTES = 600 * MEBIBYTE
"""Of the CUDA context and of TensorRT's own kernels, about what both take before there is a network."""
WEIGHT_COPIES = 4  # the file, TensorRT's network, the layers in the precision that is tried, the plan
LARGEST_TENSORS = (
    4  # alive at once, of the largest: a block's input and output and its shortcut, and what a kernel pads
)
TUNING = 2  # kernels are tried on inputs and outputs of their own
FLOAT_BYTES = 4
WORKSPACE_MIB = 4096
"""Largest scratch memory without --workspace, and LOW_WORKSPACE_MIB the one of the low-memory profile."""
LOW_WORKSPACE_MIB = 256
LOW_TACTIC_MIB = 1024
LOW_LEVEL = 3  # not less: levels up to 2 crash on Orin with TensorRT 10.16.2
FREE_PARTS = 4  # the default workspace is one part of what is free


@dataclass(frozen=True)
class Free:
    """Bytes that are free: on the GPU, and on the host, None where the system does not say."""

    device: int
    host: int | None


@dataclass(frozen=True)
class Estimate:
    """Bytes that a build needs on the GPU and on the host; a board that shares its memory needs the sum."""

    device: int
    host: int

    def shortage(self, free: Free, integrated: bool) -> tuple[int, int] | None:
        """Needed and free bytes of the memory that is too small, None where all is large enough."""
        if integrated:
            available = max(free.device, free.host or 0)  # the GPU's figure leaves out what the system would give back
            pairs = [(self.device + self.host, available)]
        else:
            pairs = [(self.device, free.device), *([(self.host, free.host)] if free.host is not None else [])]
        return next(((needed, there) for needed, there in pairs if needed > there), None)


def free_memory(device: Device) -> Free:
    """What is free now."""
    return Free(device.memory_bytes()[0], _available_bytes())


def fitted(settings: BuildSettings, free: Free, low_memory: bool) -> BuildSettings:
    """The settings with the low-memory profile, or with a workspace that suits what is free; a flag's value stays."""
    changes: dict[str, Any] = {}
    if settings.workspace_mib is None:
        part = free.device // FREE_PARTS // MEBIBYTE
        changes["workspace_mib"] = max(min(part, LOW_WORKSPACE_MIB if low_memory else WORKSPACE_MIB), 1)
    if low_memory:
        changes["tactic_dram_mib"] = LOW_TACTIC_MIB
        if settings.optimisation_level is None:
            changes["optimisation_level"] = LOW_LEVEL
    return dataclasses.replace(settings, **changes)


def estimate(model: onnx.ModelProto, settings: BuildSettings) -> Estimate:
    """What a build of `model` needs with `settings`, whose workspace is set."""
    weights = sum(len(tensor.raw_data) or FLOAT_BYTES * math.prod(tensor.dims) for tensor in tensors_of(model))
    sizes = sorted(_tensor_bytes(model, settings.batch), reverse=True)[:LARGEST_TENSORS]
    workspace = (settings.workspace_mib or 0) * MEBIBYTE
    return Estimate(weights + TUNING * sum(sizes) + workspace, BASE_BYTES + (WEIGHT_COPIES - 1) * weights)


def check_memory(
    model: onnx.ModelProto, settings: BuildSettings, free: Free, integrated: bool, low_memory: bool
) -> Estimate:
    """The estimate; PspnetError where less is free."""
    needed = estimate(model, settings)
    if short := needed.shortage(free, integrated):
        pictures = f" for --batch {settings.batch}" if settings.batch > 1 else ""
        raise PspnetError(
            f"the build needs about {_size(short[0])} of memory{pictures} with a workspace of "
            f"{settings.workspace_mib} MiB, {_size(short[1])} is free: try "
            f"{_advice(model, settings, free, integrated, low_memory)}"
        )
    return needed


def _advice(model: onnx.ModelProto, settings: BuildSettings, free: Free, integrated: bool, low_memory: bool) -> str:
    """What asks for less, that which alone is enough first."""
    ways = ["end other programs"] if low_memory else ["--low-memory", "a smaller --workspace"]
    if settings.batch > 1:
        one = dataclasses.replace(settings, batch=1)
        alone = estimate(model, one).shortage(free, integrated) is None
        ways.insert(0 if alone else len(ways), "a smaller --batch (1 fits)" if alone else "a smaller --batch")
    elif low_memory:
        ways.insert(0, "a network that is exported for a smaller --size")
    return ", or ".join(ways)


def _tensor_bytes(model: onnx.ModelProto, batch: int) -> list[int]:
    """Bytes of every tensor between nodes whose shape is known, as float32, for the largest batch."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name == INPUT:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    fixed.graph.ClearField("value_info")  # noted for any N
    for value in fixed.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info]
    return [FLOAT_BYTES * math.prod(shape) for shape in shapes if shape and all(shape)]


def _available_bytes() -> int | None:
    """What Linux would give a program before it swaps."""
    try:
        listed = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
    except OSError:
        return None
    return int(listed[1]) * 1024 if listed else None


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.0f} MiB"
