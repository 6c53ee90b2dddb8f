"""What a graph costs by a table of peak rates: an estimate, by which mixes of INT8 and float are ranked unmeasured.

A layer takes the longer of its arithmetic and its memory traffic (the roofline of Williams, Waterman and Patterson,
2009), and layers add up. Activations and sums are part of the layer before them, and so is a quantisation behind an
INT8 layer; behind a float layer it is a pass of its own over the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from calibration.rates import RATES, Rates
from pspnet.errors import PspnetError
from pspnet.metadata import shape_of

LAYERS = ("Conv", "MatMul", "Gemm")
FUSED = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul")


@dataclass(frozen=True)
class LayerCost:
    """multiply_adds: of one picture. traffic_bytes: read and written. int8: whether it computes in INT8."""

    multiply_adds: int
    traffic_bytes: int
    int8: bool
    seconds: float


def rates_of(device: str) -> Rates:
    """The rates of a device of the table; PspnetError for another."""
    if device not in RATES:
        raise PspnetError(f"no peak rates are known of {device!r}: choose one of {', '.join(RATES)} with --device")
    return RATES[device]


def layer_costs(model: onnx.ModelProto, rates: Rates) -> dict[str, LayerCost]:
    """The cost of every convolution, matrix product and separate quantisation of a float or Q/DQ graph, by node."""
    graph = _Graph(model)
    costs = {}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            costs[node.name] = graph.layer(node, rates)
        elif node.op_type == "QuantizeLinear" and not graph.is_constant(node.input[0]) and not graph.is_fused(node):
            traffic = graph.sizes.get(node.input[0], 0) * (rates.float_bytes + 1)
            costs[node.name] = LayerCost(0, traffic, False, traffic / rates.bytes_per_s)
    return costs


def total_ms(model: onnx.ModelProto, rates: Rates) -> float:
    """Estimated milliseconds of one picture: the sum over `layer_costs`."""
    return 1e3 * sum(cost.seconds for cost in layer_costs(model, rates).values())


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of every convolution and matrix product for one picture, by node."""
    graph = _Graph(model)
    return {node.name: graph.multiply_adds(node) for node in model.graph.node if node.op_type in LAYERS}


class _Graph:
    """Producers, readers and element counts of a graph's tensors; an unknown batch counts as 1."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.shapes = {v.name: _fixed(shape_of(v)) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def layer(self, node: onnx.NodeProto, rates: Rates) -> LayerCost:
        int8 = all(self._is_int8(name) for name in node.input[:2])
        last, extra = self._end(node)
        written = self._written(last, int8, rates)
        traffic = self._read((*node.input[:2], *extra), rates) + self.sizes.get(last, 0) * written
        count = self.multiply_adds(node)
        seconds = max(count / (rates.int8_per_s if int8 else rates.float_per_s), traffic / rates.bytes_per_s)
        return LayerCost(count, traffic, int8, seconds)

    def multiply_adds(self, node: onnx.NodeProto) -> int:
        """Every written value takes as many as a filter, or a row, has weights."""
        first, second = (self.shapes.get(name, (0,)) for name in node.input[:2])
        return self.sizes.get(node.output[0], 0) * (math.prod(second[1:]) if node.op_type == "Conv" else first[-1])

    def is_constant(self, name: str) -> bool:
        """True for an initializer, behind Q and DQ too."""
        while name in self.producers and self.producers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = self.producers[name].input[0]
        return name in self.constants

    def is_fused(self, quantize: onnx.NodeProto) -> bool:
        """Whether an INT8 layer, through its activation and sum, makes what is quantised."""
        name = quantize.input[0]
        while name in self.producers and self.producers[name].op_type in FUSED:
            paths = [n for n in self.producers[name].input if n not in self.constants and not self._is_int8(n)]
            name = paths[0] if paths else ""
        node = self.producers.get(name)
        return node is not None and node.op_type in LAYERS and all(self._is_int8(n) for n in node.input[:2])

    def _is_int8(self, name: str) -> bool:
        while name in self.producers and self.producers[name].op_type == "MaxPool":  # pools whatever it is given
            name = self.producers[name].input[0]
        return name in self.producers and self.producers[name].op_type == "DequantizeLinear"

    def _end(self, node: onnx.NodeProto) -> tuple[str, list[str]]:
        """The tensor that a layer writes, behind what is fused into it, and the other tensors that this reads."""
        name, extra = node.output[0], []
        while len(readers := self.readers.get(name, [])) == 1 and readers[0].op_type in FUSED:
            others = [n for n in readers[0].input if n != name and n not in self.constants]
            if any(self.producers[n].op_type in LAYERS for n in others if n in self.producers):
                break  # a sum of two layers: counted with neither, and small beside them
            extra += others
            name = readers[0].output[0]
        return name, extra

    def _read(self, names: Iterable[str], rates: Rates) -> int:
        return sum(self.sizes.get(name, 0) * (1 if self._is_int8(name) else rates.float_bytes) for name in names)

    def _written(self, name: str, int8: bool, rates: Rates) -> int:
        """Bytes of each value that a layer writes: INT8 for its quantiser, float for whoever else reads it, or both."""
        quantisers = sum(node.op_type == "QuantizeLinear" for node in self.readers.get(name, []))
        plain = len(self.readers.get(name, [])) - quantisers
        if not int8 or not quantisers:
            return rates.float_bytes
        return 1 + (rates.float_bytes if plain else 0)


def _fixed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else 1 for axis in shape)
