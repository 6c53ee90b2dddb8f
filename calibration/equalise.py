"""Cross-layer equalisation: channels of a map that INT8 rounds with one step are brought to one range.

Of two convolutions with nothing but a positively homogeneous activation between them, f(d x) = d f(x), output channel j
of the first can be divided by d_j > 0 and input channel j of the second multiplied by it: the network stays the same
function (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1). There the ranges are those of both weights. Ours are quantised per output channel, so the first convolution's
never suffer, and what shares a step is the map between: its channel ranges x_j are measured on the calibration images,
as in SmoothQuant (Xiao et al., ICML 2023, equation 4):

    d_j = x_j^a / r_j^(1 - a),   r_j = max over o of |W_oj| / max over k of |W_ok|

r_j is how far input channel j reaches into the steps of the second convolution's rows. a is 1/2, or 1 where the second
is depthwise: each of its rows reads one channel and has a step of its own, so there nothing speaks against equal
ranges. All d are then scaled so that the largest channel keeps its range.

A clip at b, such as ReLU6, is homogeneous only below b. A channel that comes within MARGIN of it on the calibration
images keeps d_j = 1; the others get no closer to it than that, so the function is exact wherever no such channel passes
its largest calibrated value by more than that factor. Beyond that point the INT8 range, measured on the same images,
cuts the value as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from calibration.channels import channel_ranges
from calibration.placement import place
from calibration.quantize import LARGEST
from calibration.weights import ConvolutionWeights
from pspnet.errors import PspnetError
from runtime.fp16_typing import SMALLEST_SCALE
from runtime.ort import session_from_model

MARGIN = 1.25
LARGEST_FACTOR = 256.0  # a channel that hardly ever fires must not be blown up on the word of a few images
SAME = 1e-4  # of the largest logit: float32 sums of rescaled terms; a wrong factor is far beyond it
PROOF_IMAGES = 4


@dataclass(frozen=True)
class Pair:
    """Names of two convolutions, the map between them that the second reads, and where it is clipped (infinity: not).

    groups: of the second.
    """

    first: str
    second: str
    tensor: str
    bound: float
    groups: int


def equalised(model: onnx.ModelProto, inputs: list[np.ndarray]) -> tuple[onnx.ModelProto, list[Pair]]:
    """The float graph with equalised channels, the same function, and the pairs that were changed.

    inputs: calibration images (1, H, W, 3) uint8. Ranges of maps must be measured on the result. PspnetError where the
    result is not the same function on them.
    """
    quantised = place(model).activations
    pairs = [pair for pair in pairs_of(model) if pair.tensor in quantised]
    if not pairs:
        return model, []
    ranges = channel_ranges(model, [pair.tensor for pair in pairs], inputs)
    weights = ConvolutionWeights(model)
    for pair in reversed(pairs):  # a depthwise convolution is first brought to size by the pair that it begins
        first, second = weights.weight(pair.first), weights.weight(pair.second)
        divisor = divisors(ranges[pair.tensor], first, second, pair.groups, pair.bound)
        weights.set_weight(pair.first, first / divisor.reshape(-1, *[1] * (first.ndim - 1)))
        weights.set_bias(pair.first, weights.bias(pair.first) / divisor)
        per_group = divisor.reshape(pair.groups, 1, -1, *[1] * (second.ndim - 2))
        grouped = second.reshape(pair.groups, -1, *second.shape[1:])
        weights.set_weight(pair.second, (grouped * per_group).reshape(second.shape))
    _check_same(model, weights.model, inputs)
    return weights.model, pairs


def pairs_of(model: onnx.ModelProto) -> list[Pair]:
    """Every two convolutions that alone share a map, with nothing, a Relu or a Clip from 0 between them."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.output}
    readers = {name: [onnx.NodeProto()] for name in readers}  # outside of the graph
    for node in graph.node:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    pairs = []
    for first in (node for node in graph.node if node.op_type == "Conv"):
        tensor, bound = first.output[0], math.inf
        if len(readers[tensor]) == 1 and readers[tensor][0].op_type in ("Relu", "Clip"):
            activation = readers[tensor][0]
            tensor = activation.output[0]
            if activation.op_type == "Clip":
                low, bound = _clip_bounds(activation, constants)
                if low != 0:
                    continue
        if len(readers[tensor]) == 1 and (second := readers[tensor][0]).op_type == "Conv":
            groups = next((a.i for a in second.attribute if a.name == "group"), 1)
            pairs.append(Pair(first.name, second.name, tensor, bound, groups))
    return pairs


def divisors(ranges: np.ndarray, first: np.ndarray, second: np.ndarray, groups: int, bound: float) -> np.ndarray:
    """d (C,) of a map's channels; 1 for a channel that is not read or comes near the bound.

    ranges: (C,) largest magnitude of each channel. first: (C, ...) weights of the convolution that makes the map.
    second: (O, C / groups, ...) of the one that reads it. A channel that is always 0 has no range to equalise: where
    its weights would set the steps of the rows that read it, it gets the d that keeps them from it.
    """
    ranges = ranges.astype(np.float64)
    if not ranges.any():
        return np.ones_like(ranges)
    reach, outputs = _reach(second, groups, ranges > 0), np.abs(first.astype(np.float64)).reshape(len(first), -1).max(1)
    alive = (ranges > 0) & (reach > 0) & (outputs > 0)
    free = alive & (ranges * MARGIN < bound)
    depthwise = second.shape[1] == 1
    wanted = np.where(free, ranges if depthwise else np.sqrt(ranges / np.where(alive, reach, 1)), 1.0)
    if free.any():
        wanted[free] *= (ranges / wanted)[free].max() / ranges.max()
    low = np.maximum(1 / LARGEST_FACTOR, ranges * MARGIN / bound)
    # No weight's step may fall to the floor below which it cannot follow the weight.
    floor = LARGEST * SMALLEST_SCALE
    high = np.minimum(LARGEST_FACTOR, np.maximum(outputs / floor, 1))
    if depthwise:
        rows = np.abs(second.astype(np.float64)).reshape(len(ranges), -1, *second.shape[2:]).max((2, 3)).min(1)
        low = np.maximum(low, np.minimum(floor / np.where(rows > 0, rows, floor), 1))
    divisor = np.where(free, np.clip(wanted, np.minimum(low, high), high), 1.0)
    furthest = (reach * divisor)[alive].max(initial=0.0)
    dead = (ranges == 0) & (reach > furthest) & (furthest > 0) & (not depthwise)
    return np.where(dead, np.maximum(furthest / np.where(dead, reach, 1), 1 / LARGEST_FACTOR), divisor)


def _reach(second: np.ndarray, groups: int, alive: np.ndarray) -> np.ndarray:
    """r (C,) of the input channels; rows are measured by those that are alive, so r of another may exceed 1."""
    magnitude = np.abs(second.astype(np.float64)).reshape(groups, -1, second.shape[1], *second.shape[2:]).max((3, 4))
    rows = np.where(alive.reshape(groups, 1, -1), magnitude, 0).max(2, keepdims=True)
    relative = np.divide(magnitude, rows, out=np.zeros_like(magnitude), where=rows > 0)
    return relative.max(1).reshape(-1)


def _clip_bounds(clip: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> tuple[float, float]:
    """(least, largest) of a Clip; NaN for a bound that is not a constant."""

    def bounds() -> Iterator[float]:
        for index, none in ((1, -math.inf), (2, math.inf)):
            name = clip.input[index] if len(clip.input) > index else ""
            known = constants.get(name)
            yield none if not name else math.nan if known is None else float(numpy_helper.to_array(known))

    low, high = bounds()
    return low, high


def _check_same(before: onnx.ModelProto, after: onnx.ModelProto, inputs: list[np.ndarray]) -> None:
    old, new = session_from_model(before), session_from_model(after)
    for image in inputs[:PROOF_IMAGES]:
        a, b = (session.run(["logits"], {"image": image})[0] for session in (old, new))
        if not np.abs(a - b).max() <= SAME * np.abs(a).max():
            raise PspnetError(
                f"equalisation changed the float network by {np.abs(a - b).max() / np.abs(a).max():.1e} of its largest "
                "logit: leave out --equalise"
            )
