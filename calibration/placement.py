"""Which tensors of an exported PSPNet are quantised: the rules under which TensorRT and OpenVINO fuse best.

1. The input of every quantised convolution, and its weights per output channel; one Q/DQ per tensor serves all readers.
2. Nothing between Conv, activation and Add: they fuse into one INT8 kernel.
3. Of a residual Add, the shortcut only.
4. Concat carries one scale: Q/DQ follows it and none precedes it.
5. In float stay the classifier, whose logits decide near-ties, the 1x1 convolutions on the bins' few cells and on the
   one cell of a squeeze-and-excitation, the pyramid's matrix products, which pool over the whole map, and their sum
   with the bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from pspnet.metadata import shape_of


@dataclass(frozen=True)
class Placement:
    """convolutions: names of nodes that become INT8. activations: tensor -> nodes that read it through Q/DQ."""

    convolutions: tuple[str, ...]
    activations: dict[str, tuple[str, ...]]


def place(model: onnx.ModelProto) -> Placement:
    """The placement for a float graph of the exporter; every node must have a name."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    depth = _depths(graph, constants)
    sizes = _map_sizes(model)
    convolutions = [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and "logits" not in node.output
        and not _is_cells(sizes[node.output[0]], sizes["logits"])
    ]
    readers: dict[str, list[str]] = {}
    for node in convolutions:
        readers.setdefault(node.input[0], []).append(node.name)
    for node in graph.node:
        if node.op_type == "Add" and not constants & set(node.input) and _joins_convolutions(node, producers):
            shortcut = min(node.input, key=lambda name: depth[name])
            readers.setdefault(shortcut, []).append(node.name)
    return Placement(tuple(node.name for node in convolutions), {name: tuple(nodes) for name, nodes in readers.items()})


def _joins_convolutions(add: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """True for a residual Add; a sum with a matrix product, the folded context, is left in float."""
    kinds = [producers[name].op_type for name in add.input if name in producers]
    return "Conv" in kinds and "MatMul" not in kinds


def _is_cells(size: tuple[int, int], logits_size: tuple[int, int]) -> bool:
    """True for the pyramid's cells: one row of them in the folded head, b x b of a smaller map in the fixed one."""
    return size[0] == 1 or size[0] * size[1] < logits_size[0] * logits_size[1]


def _map_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """(h, w) of each map (N, C, h, w)."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: shape_of(value) for value in [*graph.value_info, *graph.output]}
    return {name: (int(s[2]), int(s[3])) for name, s in shapes.items() if len(s) == 4 and "?" not in s[2:]}


def _depths(graph: onnx.GraphProto, constants: set[str]) -> dict[str, int]:
    """Longest path in nodes from the graph's input to each tensor: a shortcut is the shallower input of its Add."""
    depth = dict.fromkeys((value.name for value in graph.input), 0)
    for node in graph.node:  # ONNX stores nodes in topological order
        reach = 1 + max((depth[name] for name in _variables(node, constants)), default=0)
        depth.update(dict.fromkeys(node.output, reach))
    return depth


def _variables(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    return (name for name in node.input if name and name not in constants)
