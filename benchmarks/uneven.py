"""The same function with channels of uneven size: what makes depthwise networks hard to quantise, in a known dose."""

from __future__ import annotations

import math

import numpy as np
import onnx

from calibration.channels import channel_ranges
from calibration.equalise import MARGIN, pairs_of
from calibration.weights import ConvolutionWeights


def uneven_pairs(model: onnx.ModelProto, inputs: list[np.ndarray], octaves: float, seed: int) -> onnx.ModelProto:
    """Every map between two convolutions with its channels divided by 2^u, u even in 0 to `octaves`.

    The convolution that reads it makes up for that, so the function stays. Channels that come near a clip stay, too.
    inputs: images (1, H, W, 3) uint8 on which that is seen.
    """
    random, weights, pairs = np.random.default_rng(seed), ConvolutionWeights(model), pairs_of(model)
    ranges = channel_ranges(model, [pair.tensor for pair in pairs], inputs)
    for pair in pairs:
        largest = ranges[pair.tensor]
        divisor = np.where(largest * MARGIN < pair.bound, np.exp2(random.uniform(0, octaves, len(largest))), 1)
        _divide_outputs(weights, pair.first, divisor)
        _multiply_inputs(weights, pair.second, divisor, pair.groups)
    return weights.model


def uneven_streams(model: onnx.ModelProto, octaves: float, seed: int) -> onnx.ModelProto:
    """The channels of every residual stream divided by 2^u, as above: maps that Add ties together take the same u.

    No pair of convolutions has such a map for itself, so cross-layer equalisation leaves it alone.
    """
    random, weights = np.random.default_rng(seed), ConvolutionWeights(model)
    for makers, readers in _streams(model):
        divisor = np.exp2(random.uniform(0, octaves, len(weights.weight(makers[0]))))
        for name in makers:
            _divide_outputs(weights, name, divisor)
        for name in readers:
            _multiply_inputs(weights, name, divisor, 1)
    return weights.model


def _streams(model: onnx.ModelProto) -> list[tuple[list[str], list[str]]]:
    """Of each set of maps that Adds tie together, the convolutions that make and those that read them.

    Sets that anything else makes or reads are left out.
    """
    stream: dict[str, set[str]] = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    sums = [node for node in model.graph.node if node.op_type == "Add" and not constants & set(node.input)]
    for add in sums:
        tied = set().union(*(stream.get(name, {name}) for name in (*add.input, *add.output)))
        stream.update(dict.fromkeys(tied, tied))
    found = []
    for tied in {id(tied): tied for tied in stream.values()}.values():
        others = [node for node in model.graph.node if node not in sums]
        makers = [node for node in others if tied & set(node.output)]
        readers = [node for node in others if tied & set(node.input)]
        convolutions = all(node.op_type == "Conv" for node in (*makers, *readers))
        if convolutions and not tied & {value.name for value in model.graph.output}:
            found.append(([node.name for node in makers], [node.name for node in readers]))
    return found


def _divide_outputs(weights: ConvolutionWeights, convolution: str, divisor: np.ndarray) -> None:
    weight = weights.weight(convolution)
    weights.set_weight(convolution, weight / divisor.reshape(-1, *[1] * (weight.ndim - 1)))
    weights.set_bias(convolution, weights.bias(convolution) / divisor)


def _multiply_inputs(weights: ConvolutionWeights, convolution: str, factor: np.ndarray, groups: int) -> None:
    weight = weights.weight(convolution)
    per_row = np.repeat(factor.reshape(groups, -1), math.ceil(len(weight) / groups), 0)  # (O, I / groups)
    weights.set_weight(convolution, weight * per_row.reshape(*per_row.shape, *[1] * (weight.ndim - 2)))
