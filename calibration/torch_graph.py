"""An exported graph, with Q/DQ or without, as a PyTorch module that can be trained: its operators, and rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from calibration.quantize import LARGEST
from pspnet.errors import PspnetError
from runtime.fp16_typing import SMALLEST_SCALE

Attributes = dict[str, Any]


class TorchGraph(nn.Module):
    """The network of an exported graph: pictures (N, H, W, 3) uint8 RGB -> logits (N, C, h, w).

    Weights and biases of convolutions and the scales of Q/DQ are parameters; every other constant is fixed. Q rounds
    as ONNX does and lets gradients through: `fake_quantised`. A parameter is its value divided by a power of two near
    its size, of weights one per output channel, so that a step of an optimiser means the same everywhere.
    PspnetError for an operator that the exporter does not write.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = list(model.graph.node)
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        quantisers = [node for node in self.nodes if node.op_type == "QuantizeLinear"]
        self.scales = list(dict.fromkeys(node.input[1] for node in quantisers))
        behind = {node.output[0]: node.input[0] for node in self.nodes if node.op_type in QDQ}
        _check(self.nodes, arrays, behind)
        convolutions = [node for node in self.nodes if node.op_type == "Conv"]
        self.weights = {node.name: _root(node.input[1], behind) for node in convolutions}
        self.biases = {node.name: node.input[2] for node in convolutions if len(node.input) > 2}
        self.activations = {node.input[0]: node.input[1] for node in quantisers if node.input[0] not in arrays}
        self.weight_scales = {node.input[0]: node.input[1] for node in quantisers if node.input[0] in arrays}
        trained = [*dict.fromkeys([*self.weights.values(), *self.biases.values()]), *self.scales]
        self._index = {name: index for index, name in enumerate(trained)}
        units = [_unit(arrays[name], per_channel=name not in self.biases.values()) for name in trained]
        self.relative = nn.ParameterList(
            nn.Parameter(torch.tensor(arrays[name] / unit)) for name, unit in zip(trained, units, strict=True)
        )
        for index, unit in enumerate(units):
            self.register_buffer(f"unit{index}", torch.tensor(unit))
        self._constants = {}
        for index, (name, array) in enumerate(item for item in arrays.items() if item[0] not in self._index):
            self.register_buffer(f"constant{index}", torch.from_numpy(np.array(array)))
            self._constants[name] = f"constant{index}"
        self._last = {name: index for index, node in enumerate(self.nodes) for name in node.input}

    def forward(self, images: Tensor) -> Tensor:
        values = {"image": images}
        for index, node in enumerate(self.nodes):
            inputs = [self._value(name, values) for name in node.input]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = OPERATORS[node.op_type](inputs, attributes)
            for name in node.input:
                if self._last[name] == index:
                    values.pop(name, None)
        return values["logits"]

    def value(self, name: str) -> Tensor:
        """A trained constant in its own units; a scale as the file will hold it."""
        index = self._index[name]
        value = self.relative[index] * getattr(self, f"unit{index}")
        return stored_scale(value) if name in self.scales else value

    def set_value(self, name: str, values: np.ndarray) -> None:
        """Give a weight or bias other values in its own units."""
        index = self._index[name]
        with torch.no_grad():
            self.relative[index].copy_(torch.from_numpy(np.array(values)) / getattr(self, f"unit{index}"))

    def keep_scales_above(self, share: float) -> None:
        """Raise every scale that fell below `share` of the unit it began in, which is at most twice its first value."""
        with torch.no_grad():
            for name in self.scales:
                self.relative[self._index[name]].clamp_(min=share)

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        if name in values:
            return values[name]
        return self.value(name) if name in self._index else getattr(self, self._constants[name])


class _FakeQuantise(torch.autograd.Function):
    """Rounding to `low` .. 127 steps of a scale, with the gradients of LSQ."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, low: int, factor: float) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.low, ctx.factor = low, factor
        return (values / scale).round_().clamp_(low, LARGEST).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        values, scale = ctx.saved_tensors
        steps = values / scale
        inside = (steps > ctx.low) & (steps < LARGEST)
        of_scale = (steps.round().clamp_(ctx.low, LARGEST) - steps * inside).mul_(gradient)
        return gradient * inside, of_scale.sum_to_size(scale.shape) * ctx.factor, None, None


def fake_quantised(values: Tensor, scale: Tensor, axis: int | None, low: int) -> Tensor:
    """Values rounded, half to even, to whole steps of `scale` from `low` to 127, as Q and DQ do one after the other.

    scale: one, or one per index of `axis`. Gradients are those of learned step sizes (Esser et al., "Learned Step Size
    Quantization", ICLR 2020): to the values 1 inside the range and 0 outside (equation 5), to the scale
    round(v / s) - v / s inside and the bound outside (equation 3), times 1 / sqrt(values per scale * 127) (section 2.2;
    values per picture where the scale is one).
    """
    if axis is not None:
        scale = scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    count = values.numel() // (scale.numel() if axis is not None else len(values))
    return _FakeQuantise.apply(values, scale, low, 1 / math.sqrt(count * LARGEST))  # type: ignore[no-any-return]


def stored_scale(scale: Tensor) -> Tensor:
    """What `scale_from_amax(127 * scale)` makes of a float32 scale, with a gradient of 1."""
    exact = scale.detach()
    nearest = exact.half()
    above = (nearest.view(torch.int16) + 1).view(torch.half)  # the next larger: scales are positive
    stored = torch.where(nearest.float() < exact, above, nearest).float().clamp_min(SMALLEST_SCALE)
    return scale + (stored - exact)


def _convolution(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    pads, groups = attributes.get("pads", [0] * 4), attributes.get("group", 1)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, strides, pads[:2], dilations, groups)


def _max_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    pads, ceil = attributes.get("pads", [0] * 4), bool(attributes.get("ceil_mode", 0))
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.max_pool2d(inputs[0], attributes["kernel_shape"], strides, pads[:2], dilations, ceil)


def _reshape(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs
    keep = not attributes.get("allowzero", 0)
    return x.reshape([x.shape[i] if keep and size == 0 else size for i, size in enumerate(shape.tolist())])


def _reduce_mean(inputs: list[Any], attributes: Attributes) -> Tensor:
    return inputs[0].mean(inputs[1].tolist(), keepdim=bool(attributes.get("keepdims", 1)))


def _quantise(inputs: list[Any], attributes: Attributes) -> Tensor:
    values, scale, _ = inputs
    weights = scale.ndim > 0
    return fake_quantised(values, scale, attributes["axis"] if weights else None, -LARGEST if weights else -LARGEST - 1)


def _hard_sigmoid(inputs: list[Any], attributes: Attributes) -> Tensor:
    return (inputs[0] * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)).clamp(0, 1)


QDQ = ("QuantizeLinear", "DequantizeLinear")
OPERATORS: dict[str, Callable[[list[Any], Attributes], Tensor]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Cast": lambda inputs, _: inputs[0].float(),
    "Clip": lambda inputs, _: torch.clamp(*inputs),
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Conv": _convolution,
    "DequantizeLinear": lambda inputs, _: inputs[0],  # the rounded values are real numbers already
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda inputs, _: F.hardswish(inputs[0]),
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "MaxPool": _max_pool,
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "QuantizeLinear": _quantise,
    "ReduceMean": _reduce_mean,
    "Relu": lambda inputs, _: inputs[0].relu(),
    "Reshape": _reshape,
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
}
"""What the exporter writes for every backbone and head."""


def _check(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], behind: dict[str, str]) -> None:
    """PspnetError where a node's meaning is not one of those in OPERATORS. behind: output of a Q or DQ -> its input."""
    for node in nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        wrong = node.op_type not in OPERATORS or (
            attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
            or attributes.get("pads", [0] * 4)[:2] != attributes.get("pads", [0] * 4)[2:]
            or (node.op_type == "Cast" and attributes["to"] != TensorProto.FLOAT)
            or (node.op_type == "Conv" and arrays.get(_root(node.input[1], behind), np.zeros(0)).ndim != 4)
            or (node.op_type == QDQ[0] and arrays[node.input[2]].any())
            or (node.op_type == QDQ[1] and node.input[0] not in behind)
        )
        if wrong:
            raise PspnetError(
                f"{node.op_type} of node {node.name} cannot be fine-tuned: `pspnet export` writes none like it. Export "
                "the checkpoint again, or leave out --finetune"
            )


def _root(name: str, behind: dict[str, str]) -> str:
    while name in behind:
        name = behind[name]
    return name


def _unit(values: np.ndarray, per_channel: bool) -> np.ndarray:
    """Powers of two not below the largest magnitude; per_channel: one for each index of the first axis."""
    magnitude = np.abs(values)
    if per_channel and values.ndim:
        largest = magnitude.reshape(len(values), -1).max(1).reshape(-1, *[1] * (values.ndim - 1))
    else:
        largest = magnitude.max(keepdims=True) if values.ndim else magnitude
    return np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1)))).astype(np.float32)
