"""A float32 graph as an explicitly typed float16 graph, for strongly typed TensorRT, which lowers nothing by itself.

Typed float16 throughout, except for averages over the map, which would lose their last bits, and the logits at the end,
so that every artefact has the same interface.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pspnet.errors import PspnetError
from pspnet.metadata import OUTPUT, attach_spec, extra, spec_from_model
from runtime.fp16_simulation import FP16_LARGEST

OPSET = 19  # the first in which Q/DQ take float16 and float16 scales
OLDEST_OPSET = 18  # of every operator below, version 19 only adds attributes and types to 18: a new label is enough
SMALLEST_SCALE = 2.0**-14  # the smallest normal float16: scales below it are coarse, and TensorRT refuses 0
TYPED = {"fp32": "fp16", "int8": "int8.fp16"}
"""Stored precision of a graph -> that of its float16-typed twin."""

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
SUFFIX: dict[int, str] = {FLOAT: "fp32", HALF: "fp16"}
IN_HALF = {
    "Add", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "HardSigmoid", "HardSwish", "MatMul", "MaxPool", "Mul",
    "QuantizeLinear", "Relu", "Resize", "Sub",
}  # fmt: skip
IN_FLOAT = {"AveragePool", "ReduceMean"}
MOVING = {"Reshape", "Transpose"}  # of the type that they are given
FLOAT_INPUTS = {"Resize": (1, 2)}  # region and scales: sizes of maps, float32 in every opset


def fp16_from_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float16-typed twin of an exported float32 graph, or of its INT8 Q/DQ graph; `model` stays as it is.

    Input `image` stays uint8 and goes straight into a Cast to float16; `logits` are cast to float32. The metadata is
    kept, with precision "fp16" or "int8.fp16" and, as "fp16", how many scales were raised to 2^-14 and which nodes
    stay float32. PspnetError for an unknown operator, or a constant that float16 cannot hold.
    """
    spec, stored = spec_from_model(model), str(extra(model, "precision") or "fp32")
    if stored not in TYPED:
        raise PspnetError(f"the graph's precision is {stored}: give the fp32 or int8 file that it was made from")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _raise_opset(result)
    raised = _raise_scales(result.graph)
    typed = _TypedGraph(result.graph)
    for node in result.graph.node:
        typed.add(node)
    typed.end_in_float(OUTPUT)
    for value in result.graph.value_info:
        value.type.tensor_type.elem_type = typed.types.get(value.name, value.type.tensor_type.elem_type)
    for field, content in (("node", typed.nodes), ("initializer", typed.constants.values())):
        result.graph.ClearField(field)  # type: ignore[arg-type]
        getattr(result.graph, field).extend(content)
    attach_spec(result, spec, precision=TYPED[stored], fp16={"raised_scales": raised, "fp32_nodes": typed.in_float})
    # Strict inference refuses a tensor whose stated type is not the one that its node makes.
    result = onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(result, full_check=True)
    return result


def half_path(output: str | Path) -> Path:
    """Where the float16-typed twin of `output` lies: model.fp16.onnx beside model.onnx."""
    return Path(output).with_suffix(".fp16.onnx")


class _TypedGraph:
    """The nodes, constants and types of the new graph, grown node by node in the old order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.in_float: list[str] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._source = {tensor.name: tensor for tensor in graph.initializer}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def add(self, source: onnx.NodeProto) -> None:
        """The node with every float input read in the type that it computes in, behind the Casts that this takes."""
        node = onnx.NodeProto()
        node.CopyFrom(source)
        wanted = self._type_of(node)
        if wanted == FLOAT:
            self.in_float.append(node.name or node.output[0])
        for index, name in enumerate(node.input):
            if node.op_type != "Cast" or name in self._source:
                node.input[index] = self._read(name, FLOAT if index in FLOAT_INPUTS.get(node.op_type, ()) else wanted)
        made = wanted
        if node.op_type == "Cast":
            to = next(attribute for attribute in node.attribute if attribute.name == "to")
            to.i = made = HALF if to.i == FLOAT else to.i
        elif node.op_type == "QuantizeLinear":
            made = self.types[node.input[2]]  # of the zero point
        self.types.update(dict.fromkeys(node.output, made))
        self.nodes.append(node)

    def end_in_float(self, name: str) -> None:
        """Tensor `name` as float32, at the end of the graph."""
        if self.types[name] == FLOAT:
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                for index in (index for index, old in enumerate(names) if old == name):
                    names[index] = f"{name}_fp16"
        self.types |= {f"{name}_fp16": HALF, name: FLOAT}
        self.nodes.append(helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_to_fp32", to=FLOAT))

    def _type_of(self, node: onnx.NodeProto) -> int:
        """The type of a node's float inputs and outputs."""
        if node.op_type in MOVING and node.input[0] not in self._source:
            return self.types[node.input[0]]
        if node.op_type in IN_FLOAT or (node.op_type == "MatMul" and self._pools(node)):
            return FLOAT
        if node.domain not in ("", "ai.onnx") or node.op_type not in IN_HALF | MOVING:
            raise PspnetError(
                f"node {node.name or node.output[0]} is {node.op_type}, which has no float16 form here: use a file of "
                "`pspnet export` or `pspnet calibrate`"
            )
        return HALF

    def _pools(self, product: onnx.NodeProto) -> bool:
        """Whether a matrix product averages over the map: a constant "pool_…", or one whose windows sum to 1.

        Names alone would not do: of two equal constants graph optimisers keep either.
        """
        for name, summed in zip(product.input, (-1, -2), strict=True):
            if (tensor := self._source.get(name)) is None:
                continue
            if name.rpartition(".")[2].startswith("pool_"):
                return True
            matrix = numpy_helper.to_array(tensor).astype(np.float64)
            if matrix.ndim >= 2 and matrix.shape[summed] >= matrix.shape[-3 - summed] and matrix.min() >= 0:
                sums = matrix.sum(summed)
                return bool(np.all((np.abs(sums - 1) < 1e-5) | (sums == 0)) and sums.any())  # padding has rows of 0
        return False

    def _read(self, name: str, wanted: int) -> str:
        """The name under which a tensor can be read as `wanted`; what is no float is left alone."""
        given = self.types.get(name)
        if name in self._source:
            return self._constant(name, wanted if given in (FLOAT, HALF) else None)
        if given not in (FLOAT, HALF) or given == wanted:
            return name
        new = f"{name}_{SUFFIX[wanted]}"
        if new not in self.types:
            self.nodes.append(helper.make_node("Cast", [name], [new], f"{name}_to_{SUFFIX[wanted]}", to=wanted))
            self.types[new] = wanted
        return new

    def _constant(self, name: str, wanted: int | None) -> str:
        """The name of a constant as `wanted`, or as it is; one that is read in both types is stored twice."""
        taken, new = self.constants.get(name), name
        if wanted and taken is not None and taken.data_type != wanted:
            new = f"{name}_{SUFFIX[wanted]}"
        if new not in self.constants:
            self.constants[new] = _half(self._source[name], new) if wanted == HALF else self._source[name]
        return new


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A float32 constant as float16, rounded to nearest even."""
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_LARGEST:
        raise PspnetError(
            f"constant {tensor.name} reaches {largest:g}, float16 ends at {FP16_LARGEST:g}: use the fp32 file, or "
            "train again with weight decay"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _raise_opset(model: onnx.ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            if entry.version < OLDEST_OPSET:
                raise PspnetError(
                    f"the graph has opset {entry.version}, {OLDEST_OPSET} or later is needed: write it again with "
                    "`pspnet export`"
                )
            entry.version = max(entry.version, OPSET)


def _raise_scales(graph: onnx.GraphProto) -> int:
    """Raise the scales of Q/DQ that float16 would hold coarsely or as 0; returns how many there were."""
    scales = {node.input[1]: node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    raised = 0
    for tensor in graph.initializer:
        if tensor.name in scales:
            values = numpy_helper.to_array(tensor)
            if not (values > 0).all():  # NaN too
                node = scales[tensor.name]
                raise PspnetError(
                    f"node {node.name or node.output[0]} ({node.op_type}) has the scale {float(values.min()):g}, and a "
                    "scale must be above 0: calibrate the file again with `pspnet calibrate`"
                )
            raised += int((values < SMALLEST_SCALE).sum())
            tensor.CopyFrom(numpy_helper.from_array(np.maximum(values, np.float32(SMALLEST_SCALE)), tensor.name))
    return raised
