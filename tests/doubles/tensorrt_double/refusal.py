"""What a rule of the parser finds."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Refusal:
    """One node that TensorRT does not take, with a member of ErrorCode and the reason."""

    node: onnx.NodeProto
    code: str
    reason: str


@dataclass(frozen=True)
class Mode:
    """What the rules depend on beside the graph: the major version, and whether types are taken literally."""

    generation: int
    strong: bool
