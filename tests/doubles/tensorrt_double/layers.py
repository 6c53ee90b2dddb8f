"""Layers as TensorRT's optimiser would fuse the nodes of an ONNX: what the engine inspector lists.

Modelled on what NVIDIA's guide says about Q/DQ: DQ -> Conv (+ residual Add) (+ activation) -> Q is one INT8 kernel, a
pool between DQ and Q runs in INT8, and a Q or DQ that no kernel takes up stays as a layer of its own. It is no
forecast of a real engine: real ones fuse more.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
import onnx

from .onnx_graph import Graph

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish")
POOLS = ("AveragePool", "MaxPool", "GlobalAveragePool")
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Concat")


@dataclass
class Layer:
    """One layer: the nodes in it, its tensors, its kind and the type that it computes in (Int8, Half, Float)."""

    nodes: list[onnx.NodeProto]
    inputs: list[str]
    outputs: list[str]
    kind: str
    precision: str
    origin: str = ""
    weights: int = 0
    has_relu: bool = False
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " + ".join(node.name or node.output[0] for node in self.nodes)


class Fuser:
    """Walks the nodes once, in order; `half` says that float32 layers may run in half (the weak mode's FP16 flag).

    on_dla: names of nodes that run on a DLA; no kernel is of both.
    """

    def __init__(self, graph: Graph, half: bool, on_dla: Set[str]) -> None:
        self.graph, self.half, self.on_dla = graph, half, on_dla
        self.taken: set[int] = set()
        self.layers: list[Layer] = []

    def fused(self) -> list[Layer]:
        live = [node for node in self.graph.nodes if not self._constant(node)]
        for group in (WEIGHTED, POOLS):
            for node in live:
                if node.op_type in group and id(node) not in self.taken:
                    self.layers.append(self._kernel(node))
        for node in live:
            if id(node) in self.taken:
                continue
            if node.op_type == "DequantizeLinear" and self._all_readers_take(node):
                continue
            self.layers.append(self._single(node))
        order = {id(node): index for index, node in enumerate(self.graph.nodes)}
        return sorted(self.layers, key=lambda layer: order[id(layer.nodes[-1])])

    def _constant(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Constant" or all(self.graph.is_constant(name) for name in node.input if name)

    def _kernel(self, node: onnx.NodeProto) -> Layer:
        """A weighted op or pool, with what follows it in the same kernel."""
        graph = self.graph
        data = [name for name in node.input if name and not graph.is_constant(name)]
        sources = [self._dequantised(name) for name in data]
        weights = [name for name in node.input[1:2] if graph.is_constant(name)]
        int8 = bool(data) and all(sources)
        if node.op_type in WEIGHTED:
            int8 = int8 and all(self._quantised_weights(name) for name in weights)
        nodes, inputs = [node], [source or name for source, name in zip(sources, data, strict=True)]
        self.taken.add(id(node))
        tail, relu = node, False
        while (follower := self._only_reader(tail)) is not None:
            if follower.op_type == "Add" and node.op_type == "Conv" and len(nodes) == 1:
                inputs += [self._dequantised(n) or n for n in follower.input if n != tail.output[0]]
                inputs = [name for name in inputs if not graph.is_constant(name)]
            elif follower.op_type in ACTIVATIONS and node.op_type in WEIGHTED and not relu:
                relu = True
            elif follower.op_type == "QuantizeLinear" and int8:
                nodes.append(follower)
                self.taken.add(id(follower))
                tail = follower
                break
            else:
                break
            nodes.append(follower)
            self.taken.add(id(follower))
            tail = follower
        if node.op_type in POOLS and node.op_type != "MaxPool" and tail is node:
            int8, inputs = False, data  # an average runs in INT8 between a DQ and a Q only
        kind = {"Conv": "CaskConvolution", "ConvTranspose": "CaskDeconvolutionV2"}.get(node.op_type, "MatrixMultiply")
        if node.op_type in POOLS:
            kind = "CaskPooling"
        count = sum(int(np.prod(graph.shapes.get(name) or (0,))) for name in weights)
        precision = "Int8" if int8 else self._precision(data[0] if data else node.output[0])
        return Layer(nodes, inputs, list(tail.output), kind, precision, weights=count, has_relu=relu)

    def _single(self, node: onnx.NodeProto) -> Layer:
        """A node that is a layer of its own."""
        graph = self.graph
        data = [name for name in node.input if name and not graph.is_constant(name)]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return Layer([node], data, list(node.output), "Reformat", "Int8", origin="QDQ")
        kind = {"Resize": "Resize", "Cast": "Cast"}.get(node.op_type, "PointWiseV2")
        if node.op_type in MOVES:
            kind = "Shuffle" if node.op_type != "Concat" else "Concat"
        precision = self._precision(node.output[0])
        return Layer([node], data, list(node.output), kind, precision)

    def _precision(self, name: str) -> str:
        kind = self.graph.type_name(name)
        return "Half" if kind == "Float" and self.half else kind

    def _dequantised(self, name: str) -> str | None:
        """The quantised tensor behind a tensor that a DQ made, or a MaxPool after one: the two change places."""
        node = self.graph.producer.get(name)
        if node is None or node.op_type not in ("DequantizeLinear", "MaxPool"):
            return None
        if node.op_type == "MaxPool":
            return name if self._dequantised(node.input[0]) else None
        return node.input[0]

    def _quantised_weights(self, name: str) -> bool:
        """Whether weights come from a DQ, also through a transposition of theirs."""
        node = self.graph.producer.get(name)
        while node is not None and node.op_type in ("Transpose", "Reshape", "Cast"):
            node = self.graph.producer.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def _only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node that reads this one's output, where nothing else does and it is no output of the network."""
        name = node.output[0]
        readers = self.graph.consumers.get(name, [])
        if len(readers) != 1 or self.graph.is_output(name) or id(readers[0]) in self.taken:
            return None
        if (node.name in self.on_dla) != (readers[0].name in self.on_dla):
            return None
        return readers[0]

    def _all_readers_take(self, node: onnx.NodeProto) -> bool:
        """Whether every reader of a DQ works on the quantised tensor itself."""
        name = node.output[0]
        readers = self.graph.consumers.get(name, [])
        inside = {id(part): layer for layer in self.layers for part in layer.nodes}
        return bool(readers) and all(
            id(reader) in inside and inside[id(reader)].precision == "Int8" for reader in readers
        )


def loadables(graph: Graph, layers: list[Layer], on_dla: Set[str]) -> list[Layer]:
    """The same with each run of layers on a DLA as one, as an engine has it."""
    out: list[Layer] = []
    run: list[Layer] = []
    for layer in [*layers, None]:
        if layer is not None and all(node.name in on_dla for node in layer.nodes):
            run.append(layer)
            continue
        if run:
            nodes = [node for each in run for node in each.nodes]
            inside = {id(node) for node in nodes}
            made = {name for each in run for name in each.outputs}
            read = [name for each in run for name in each.inputs if name not in made]
            given = [
                name
                for each in run
                for name in each.outputs
                if graph.is_output(name) or any(id(reader) not in inside for reader in graph.consumers.get(name, []))
            ]
            int8 = any(each.precision == "Int8" for each in run)
            part = Layer(nodes, list(dict.fromkeys(read)), given, "DLA", "Int8" if int8 else "Half")
            part.extra["Name"] = f"{{ForeignNode[{nodes[0].name}...{nodes[-1].name}]}}"
            out.append(part)
            run = []
        if layer is not None:
            out.append(layer)
    return out


def layers_from_graph(graph: Graph, half: bool, on_dla: Set[str] = frozenset()) -> list[Layer]:
    """Layers in the order of the network, with copies between formats where kernels need them."""
    layers = loadables(graph, Fuser(graph, half, on_dla).fused(), on_dla)
    made: dict[str, str] = {}
    out: list[Layer] = []
    for layer in layers:
        first = layer.inputs[0] if layer.inputs else ""
        needs_copy = (
            layer.kind == "CaskConvolution" and layer.precision == "Half" and made.get(first, "Float") == "Float"
        )
        if needs_copy:
            copy = f"Reformatted Input Tensor 0 to {layer.name}"
            reformat = Layer(layer.nodes[:1], [first], [copy], "Reformat", "Half", origin="REFORMAT")
            reformat.extra["Name"] = f"Reformatting CopyNode for Input Tensor 0 to {layer.name}"
            out.append(reformat)
            layer.inputs[0] = copy
        for name in layer.outputs:
            made[name] = "Int8" if layer.nodes[-1].op_type == "QuantizeLinear" else layer.precision
        out.append(layer)
    return out
