"""Which tensors of an exported PSPNet are quantised: the rules under which TensorRT and OpenVINO fuse best.

1. The input of every quantised convolution, and its weights per output channel; one Q/DQ per tensor serves all readers.
2. Nothing between Conv, activation and Add: they fuse into one INT8 kernel.
3. Of a residual Add, the shortcut only.
4. Concat carries one scale: Q/DQ follows it and none precedes it.
5. In float stay the classifier, whose logits decide near-ties, the 1x1 convolutions on the bins' few cells, and the
   pyramid's matrix products, which pool over the whole map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx


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
    convolutions = [node for node in graph.node if node.op_type == "Conv" and _is_wide(node, producers)]
    readers: dict[str, list[str]] = {}
    for node in convolutions:
        readers.setdefault(node.input[0], []).append(node.name)
    for node in graph.node:
        if node.op_type == "Add" and not constants & set(node.input) and _joins_convolutions(node, producers):
            shortcut = min(node.input, key=lambda name: depth[name])
            readers.setdefault(shortcut, []).append(node.name)
    return Placement(tuple(node.name for node in convolutions), {name: tuple(nodes) for name, nodes in readers.items()})


def _is_wide(conv: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """False for the classifier and for convolutions on pooled cells."""
    producer = producers.get(conv.input[0])
    return "logits" not in conv.output and not (producer is not None and producer.op_type == "MatMul")


def _joins_convolutions(add: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    return any(name in producers and producers[name].op_type == "Conv" for name in add.input)


def _depths(graph: onnx.GraphProto, constants: set[str]) -> dict[str, int]:
    """Longest path in nodes from the graph's input to each tensor: a shortcut is the shallower input of its Add."""
    depth = dict.fromkeys((value.name for value in graph.input), 0)
    for node in graph.node:  # ONNX stores nodes in topological order
        reach = 1 + max((depth[name] for name in _variables(node, constants)), default=0)
        depth.update(dict.fromkeys(node.output, reach))
    return depth


def _variables(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    return (name for name in node.input if name and name not in constants)
