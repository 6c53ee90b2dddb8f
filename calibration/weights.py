"""Weights and biases of a float graph's convolutions, to read and to replace."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper


class ConvolutionWeights:
    """A copy of a float graph whose convolutions can be given other weights and biases.

    model: the copy, up to date after every call. Constants that several nodes read are stored once more before one of
    them changes, so that the other nodes keep theirs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._nodes = {node.name: node for node in self.model.graph.node if node.op_type == "Conv"}
        self._readers = Counter(name for node in self.model.graph.node for name in node.input)

    def weight(self, convolution: str) -> np.ndarray:
        """(O, I / groups, ...) float32 of the node of that name."""
        return numpy_helper.to_array(self._tensors[self._nodes[convolution].input[1]])

    def bias(self, convolution: str) -> np.ndarray:
        """(O,) float32; zeros where the node has none."""
        node = self._nodes[convolution]
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(len(self.weight(convolution)), np.float32)
        return numpy_helper.to_array(self._tensors[node.input[2]])

    def set_weight(self, convolution: str, values: np.ndarray) -> None:
        """Replace the weight, which keeps its shape."""
        self._set(self._nodes[convolution], 1, values, f"{convolution}.weight")

    def set_bias(self, convolution: str, values: np.ndarray) -> None:
        """Replace the bias, or add one."""
        node = self._nodes[convolution]
        if len(node.input) < 3:
            node.input.append("")
        self._set(node, 2, values, f"{convolution}.bias")

    def _set(self, node: onnx.NodeProto, index: int, values: np.ndarray, new_name: str) -> None:
        name = node.input[index]
        if not name or self._readers[name] > 1:
            self._readers[name] -= 1
            while new_name in self._tensors:
                new_name += "_"
            name = node.input[index] = new_name
            self._readers[name] = 1
            self._tensors[name] = self.model.graph.initializer.add()
        self._tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
