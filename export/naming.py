"""Readable names: every tensor and node of an exported graph is called after the module that it comes from.

Calibration tables, lints, engine inspectors and failed proofs speak of `backbone.last.17.conv.2`, not of conv2d_50.
"""

from __future__ import annotations

from collections.abc import Set

import onnx

KEPT = ("image", "features", "logits")
"""Names that other code relies on."""


def name_after_modules(model: onnx.ModelProto) -> None:
    """Rename in place: a convolution's result takes its module's path, any other's the path it works on and its op."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    paths = {value.name: value.name for value in graph.input}  # of the tensors so far, by their new name, oldest first
    new: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = new.get(name, name)
        own = next((name for name in node.input if name in weights and "." in name), None)
        latest = max((list(paths).index(name), name) for name in node.input if name in paths)[1]
        path = own.removesuffix(".weight") if own else paths[latest]
        node.name = _free(path if node.op_type == "Conv" else f"{path}.{node.op_type.lower()}", paths.keys() | weights)
        paths[node.name] = path
        for index, name in enumerate(node.output):
            node.output[index] = new[name] = name if name in KEPT else node.name
            paths[node.output[index]] = path
    for value in graph.value_info:
        value.name = new.get(value.name, value.name)


def _free(wanted: str, taken: Set[str]) -> str:
    number, name = 2, wanted
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name
