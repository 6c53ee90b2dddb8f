"""Which tensors of an exported PSPNet are quantised: the rules under which TensorRT and OpenVINO fuse best.

1. The input of every quantised convolution, and its weights per output channel; one Q/DQ per tensor serves all readers.
2. Nothing between Conv, activation and Add: they fuse into one INT8 kernel.
3. Of a residual Add, the shortcut only, and only where the other branch ends in an INT8 convolution and the sum is
   quantised again.
4. Concat carries one scale: Q/DQ follows it and none precedes it. Q/DQ precedes a MaxPool, which commutes with it.
5. In float stay the classifier, whose logits decide near-ties, convolutions on a single cell, as in a
   squeeze-and-excitation, the pyramid's matrix products, which pool over the whole map, their sum with the bottleneck,
   and convolutions too narrow for INT8 kernels.

docs/calibration.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from pspnet.errors import PspnetError
from pspnet.metadata import OUTPUT, shape_of

NARROW = 16  # channels below which INT8 kernels pad more than they save
STEP = 8
ACTIVATIONS = {"Relu", "Clip", "HardSwish"}


@dataclass(frozen=True)
class Placement:
    """convolutions: names of nodes that become INT8. activations: tensor -> nodes that read it through Q/DQ."""

    convolutions: tuple[str, ...]
    activations: dict[str, tuple[str, ...]]


def place(model: onnx.ModelProto, float_layers: Collection[str] = ()) -> Placement:
    """The placement for a float graph of the exporter; every node must have a name.

    float_layers: convolutions that stay in float besides those that the rules leave there; Q/DQ that then feeds no
    INT8 kernel is left out. PspnetError where the graph has no such convolution.
    """
    graph = model.graph
    names = {node.name for node in graph.node if node.op_type == "Conv"}
    if unknown := sorted(set(float_layers) - names):
        raise PspnetError(
            f"{unknown[0]} is no convolution of this network, so it cannot be left in float: names are like "
            f"{min(names, default='those in the ONNX file')}, as the calibration table lists them"
        )
    sizes, weights = _map_sizes(model), {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolutions = [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and node.name not in float_layers
        and OUTPUT not in node.output
        and sizes[node.output[0]] != (1, 1)
        and is_wide_enough(weights[node.input[1]], _groups(node))
    ]
    readers: dict[str, list[str]] = {}
    for node in convolutions:
        readers.setdefault(node.input[0], []).append(node.name)
    for add, shortcut in _shortcuts(graph, {node.name for node in convolutions}, set(readers)):
        readers.setdefault(shortcut, []).append(add)
    _move_before_pools(graph, readers)
    return Placement(tuple(node.name for node in convolutions), {name: tuple(nodes) for name, nodes in readers.items()})


def is_wide_enough(weight: tuple[int, ...], groups: int) -> bool:
    """Whether INT8 pays for a convolution with weights (outputs, inputs per group, ...), as NVIDIA's Model-Optimizer
    decides it: a depthwise one with a kernel of 3 or more does, and so does the first, which reads 3 channels.
    """
    outputs, inputs, *kernel = weight
    if groups > 1:
        return outputs % STEP == 0 and min(kernel) >= 3
    square = len(set(kernel)) == 1
    return min(inputs, outputs) >= NARROW or (
        square and max(inputs, outputs) >= NARROW and inputs * outputs % STEP == 0
    )


def _groups(conv: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in conv.attribute if attribute.name == "group"), 1)


def _shortcuts(graph: onnx.GraphProto, convolutions: set[str], quantised: set[str]) -> Iterator[tuple[str, str]]:
    """Each residual Add that ends an INT8 kernel, and its shortcut: the shallower of its inputs.

    quantised: tensors that INT8 convolutions read; shortcuts join them on the way from the last Add to the first.
    """
    constants = {tensor.name for tensor in graph.initializer}
    depth = _depths(graph, constants)
    for node in graph.node:
        if node.op_type == "Concat" and node.output[0] in quantised:
            quantised.update(node.input)  # TensorRT moves Q from behind a Concat to each of its inputs
    producers = {output: node for node in graph.node for output in node.output}
    activated = {node.input[0]: node.output[0] for node in graph.node if node.op_type in ACTIVATIONS}
    for node in reversed(graph.node):
        if node.op_type != "Add" or constants & set(node.input):
            continue
        shortcut, branch = sorted(node.input, key=depth.__getitem__)
        made_in_int8 = branch in producers and producers[branch].name in convolutions
        if made_in_int8 and quantised & {node.output[0], activated.get(node.output[0])}:
            quantised.add(shortcut)
            yield node.name, shortcut


def _move_before_pools(graph: onnx.GraphProto, readers: dict[str, list[str]]) -> None:
    """Quantise the input of a MaxPool in place of its output, so that its producer writes INT8 and it pools INT8.

    Rounding and clamping never change an order, so the result is the same. Only where nothing reads the output as it is
    and nothing else reads the input.
    """
    for pool in graph.node:
        if pool.op_type != "MaxPool" or pool.output[0] not in readers:
            continue
        source, pooled = pool.input[0], pool.output[0]
        if set(readers[pooled]) == _readers_of(graph, pooled) and _readers_of(graph, source) == {pool.name}:
            del readers[pooled]
            readers[source] = [pool.name]


def _readers_of(graph: onnx.GraphProto, tensor: str) -> set[str]:
    return {node.name for node in graph.node if tensor in node.input}


def _map_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """(h, w) of each map (N, C, h, w)."""
    stated = _stated_sizes(model.graph)
    if all(node.output[0] in stated for node in model.graph.node if node.op_type == "Conv"):
        return stated  # inference copies all weights, a second for a large network
    return _stated_sizes(onnx.shape_inference.infer_shapes(model).graph)


def _stated_sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, int]]:
    shapes = {value.name: shape_of(value) for value in [*graph.value_info, *graph.output]}
    return {name: (int(s[2]), int(s[3])) for name, s in shapes.items() if len(s) == 4 and "?" not in s[2:]}


def _depths(graph: onnx.GraphProto, constants: set[str]) -> dict[str, int]:
    """Longest path in nodes from the graph's input to each tensor."""
    depth = dict.fromkeys((value.name for value in graph.input), 0)
    for node in graph.node:  # ONNX stores nodes in topological order
        variables = (name for name in node.input if name and name not in constants)
        depth.update(dict.fromkeys(node.output, 1 + max((depth[name] for name in variables), default=0)))
    return depth
