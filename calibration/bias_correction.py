"""Bias correction: the mean error that rounding leaves in each convolution's channels is taken out of its bias.

Rounded weights and saturated inputs shift the mean of a channel, which no later layer can tell from a signal. The
shift is measured and subtracted (Nagel et al., ICCV 2019, section 4.2, in the empirical form of appendix D): in
topological order, each convolution's output in the quantised network, whose biases so far are corrected, against its
output in the float network, mean over pictures and pixels. Errors from above are thereby seen as they will be, and each
layer is corrected once for what is left. The quantised network runs piece by piece from one such convolution to the
next with the maps of all pictures kept in between, so that this exact order costs one pass.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper
from tqdm import tqdm

from calibration.channels import channel_means
from calibration.placement import place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from calibration.weights import ConvolutionWeights
from runtime.ort import session_from_model

MOST_PICTURES = 32
PIXELS = 16 * 512 * 1024
"""Of all pictures together, since their maps are in memory at once: resnet50 at 512x1024 takes 2 GB."""

_ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8,
}  # fmt: skip


def bias_corrected(
    model: onnx.ModelProto, table: CalibrationTable, inputs: list[np.ndarray], quiet: bool = False
) -> tuple[onnx.ModelProto, int]:
    """The float graph with biases under which its quantised form has the float graph's channel means, and how many.

    table: the ranges it is quantised with, which stay. inputs: calibration images (1, H, W, 3) uint8, of which some
    evenly spread ones are used. Corrected is every convolution that placement quantises, and the classifier, where the
    errors of the layers in float between them end.
    """
    chosen = _some(inputs)
    names = {node.name for node in model.graph.node if node.op_type == "Conv" and "logits" in node.output}
    names |= set(place(model, table.float_layers).convolutions)
    outputs = {node.output[0]: node.name for node in model.graph.node if node.name in names}
    exact = channel_means(model, list(outputs), chosen)
    weights = ConvolutionWeights(model)
    graph = quantized(model, table)
    maps: dict[str, list[np.ndarray]] = {"image": chosen}
    pieces = list(_pieces(graph.graph.node, outputs))
    for index, piece in enumerate(tqdm(pieces, desc="bias correction", unit="layer", leave=False, disable=quiet)):
        later = {name for other in pieces[index + 1 :] for node in other for name in node.input}
        maps = _advanced(graph, piece, maps, later)
        if (tensor := piece[-1].output[0]) in outputs:
            error = np.mean([m.mean((0, 2, 3), dtype=np.float64) for m in maps[tensor]], 0) - exact[tensor]
            shift = error.astype(np.float32)
            weights.set_bias(outputs[tensor], weights.bias(outputs[tensor]) - shift)
            for one in maps[tensor]:
                one -= shift[:, None, None]
    return weights.model, len(outputs)


def _some(inputs: list[np.ndarray]) -> list[np.ndarray]:
    height, width = inputs[0].shape[1:3]
    count = max(min(MOST_PICTURES, PIXELS // (height * width), len(inputs)), 1)
    return [inputs[index] for index in np.linspace(0, len(inputs) - 1, count).round().astype(int)]


def _pieces(nodes: Iterable[onnx.NodeProto], ends: Iterable[str]) -> Iterable[list[onnx.NodeProto]]:
    """The nodes in order, cut behind each that makes one of the tensors `ends`."""
    piece: list[onnx.NodeProto] = []
    for node in nodes:
        piece.append(node)
        if node.output[0] in ends:
            yield piece
            piece = []
    if piece:
        yield piece


def _advanced(
    model: onnx.ModelProto, piece: list[onnx.NodeProto], maps: dict[str, list[np.ndarray]], later: set[str]
) -> dict[str, list[np.ndarray]]:
    """The maps of all pictures that are needed behind `piece`; its last output is always among them."""
    made = {name for node in piece for name in node.output}
    read = {name for node in piece for name in node.input}
    wanted = [name for name in made if name in later or name in piece[-1].output]
    fed = [name for name in maps if name in read]
    graph = helper.make_graph(
        piece, "piece",
        [helper.make_tensor_value_info(name, _ONNX_TYPES[maps[name][0].dtype], None) for name in fed],
        [helper.make_empty_tensor_value_info(name) for name in wanted],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )  # fmt: skip
    session = session_from_model(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    )
    count = len(next(iter(maps.values())))
    rows = [session.run(wanted, {name: maps[name][index] for name in fed}) for index in range(count)]
    kept = {name: found for name, found in maps.items() if name in later}
    return kept | {name: list(column) for name, column in zip(wanted, zip(*rows, strict=True), strict=True)}
