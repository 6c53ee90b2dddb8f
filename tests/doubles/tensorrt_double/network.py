"""The network that a parser fills: tensors, layers, and what the builder reads from it."""

from __future__ import annotations

from typing import Any

from .marks import create, value_property

PUBLIC = ("ITensor", "ILayer", "INetworkDefinition")

LAYER_TYPES = {
    "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "Relu": "ACTIVATION", "Clip": "ACTIVATION",
    "Sigmoid": "ACTIVATION", "AveragePool": "POOLING", "MaxPool": "POOLING", "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY", "Concat": "CONCATENATION", "Resize": "RESIZE", "Transpose": "SHUFFLE",
    "Reshape": "SHUFFLE", "Flatten": "SHUFFLE", "Unsqueeze": "SHUFFLE", "Squeeze": "SHUFFLE", "Cast": "CAST",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Constant": "CONSTANT", "Softmax": "SOFTMAX",
    "ArgMax": "TOPK", "Gather": "GATHER", "Slice": "SLICE", "Shape": "SHAPE", "Identity": "IDENTITY",
    "ReduceMean": "REDUCE", "GlobalAveragePool": "REDUCE", "ReduceSum": "REDUCE", "Pad": "SLICE",
}  # fmt: skip


class ITensor:
    """A tensor of a network that is being built."""

    __slots__ = ("_state",)

    name = value_property("name", "str")
    location = value_property("location", "TensorLocation")
    allowed_formats = value_property("allowed_formats", "int")
    is_network_input = value_property("is_input", "bool", read_only=True)
    is_network_output = value_property("is_output", "bool", read_only=True)

    @property
    def shape(self) -> Any:
        return self._trt.Dims(self._state.shape)

    @property
    def dtype(self) -> Any:
        return self._state.dtype

    @property
    def is_shape_tensor(self) -> bool:
        return False

    @property
    def is_execution_tensor(self) -> bool:
        return True

    def get_dimension_name(self, index: int) -> str:
        return self._state.dimension_names[index]


class ILayer:
    """A layer, one for each node of the ONNX."""

    __slots__ = ("_state",)

    name = value_property("name", "str")
    metadata = value_property("metadata", "str")
    type = value_property("type", "LayerType", read_only=True)
    precision = value_property("precision", "DataType", (10,))

    @property
    def num_inputs(self) -> int:
        return len(self._state.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._state.outputs)

    def get_input(self, index: int) -> Any:
        return self._state.inputs[index]

    def get_output(self, index: int) -> Any:
        return self._state.outputs[index]

    def get_output_type(self, index: int) -> Any:
        return self._state.outputs[index].dtype


class INetworkDefinition:
    """What `Builder.create_network` gives; the ONNX parser fills it. Layers cannot be added by hand here."""

    __slots__ = ("_state",)

    name = value_property("name", "str")
    builder = value_property("builder", "Builder", read_only=True)

    @property
    def flags(self) -> int:
        return self._state.flags

    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:  # noqa: F821
        return bool(self._state.flags >> int(flag) & 1)

    @property
    def num_inputs(self) -> int:
        return len(self._state.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._state.outputs)

    @property
    def num_layers(self) -> int:
        return len(self._state.layers)

    def get_input(self, index: int) -> Any:
        return self._state.inputs[index]

    def get_output(self, index: int) -> Any:
        return self._state.outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._state.layers[index]

    def __len__(self) -> int:
        return len(self._state.layers)

    def __getitem__(self, index: int) -> Any:
        return self._state.layers[index]


def fill_network(network: Any, graph: Any) -> None:
    """Put the tensors and layers of a parsed ONNX into the network."""
    trt, state = network._trt, network._state
    tensors: dict[str, Any] = {}
    input_names = {value.name for value in graph.inputs}

    def tensor(name: str) -> Any:
        if name not in tensors:
            member = graph.member(name)
            tensors[name] = create(
                trt,
                "ITensor",
                name=name,
                shape=graph.shapes.get(name) or (),
                dtype=trt.DataType.__members__[member],
                location=trt.TensorLocation.DEVICE,
                allowed_formats=(1 << 13) - 1,
                is_input=name in input_names,
                is_output=graph.is_output(name),
                dimension_names=graph.dimension_names(name),
            )
        return tensors[name]

    state.graph = graph
    state.inputs = [tensor(value.name) for value in graph.inputs]
    state.outputs = [tensor(value.name) for value in graph.outputs]
    state.layers = [
        create(
            trt,
            "ILayer",
            name=node.name or f"(Unnamed Layer* {index})",
            metadata=f"[ONNX Layer: {node.name}]",
            type=trt.LayerType.__members__[LAYER_TYPES.get(node.op_type, "ELEMENTWISE")],
            inputs=[tensor(name) for name in node.input if name and name not in graph.constants],
            outputs=[tensor(name) for name in node.output if name],
            precision=trt.DataType.FLOAT,
            graph=graph,
            node=node,
            strong=state.strong,
        )
        for index, node in enumerate(graph.nodes)
    ]
