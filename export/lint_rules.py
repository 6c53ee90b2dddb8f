"""Rules on operators and shapes; each yields what a target refuses or runs slowly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto

from export.lint_graph import Finding, Graph, at_node, at_tensor, attribute
from export.lint_targets import EVERYWHERE, LARGEST_IR, OPENVINO, ORT, TENSORRT, Target

STORM = 100  # Gather nodes; the dynamo exporter writes 156 for one pool of 64 pixels to 6 cells, others use a few
WIDE_WINDOW = 900  # pixels of a 30x30 window, from which on a matrix product is likely faster
PRODUCT_STEP = 8  # tensor cores take fp16 in steps of 8
WASTE = 0.1  # share of padding below which a product is left alone
DEFAULT_DOMAINS = ("", "ai.onnx")
SHAPE_OPERATORS = ("Shape", "Size", "ConstantOfShape", "Range", "Expand", "Where")
TO_OUTPUT = ("ArgMax", "Softmax", "LogSoftmax", "Sigmoid", "Cast", "Identity", "Transpose", "Squeeze", "Reshape")
FIXED = "export with fixed axes, or fold it with onnxsim"


def opset(graph: Graph, target: Target) -> Iterator[Finding]:
    """An opset outside what the target reads; OpenVINO takes later ones by the last rules that it knows."""
    first, last = target.opsets
    nearest = min(max(graph.opset, first), last)
    text = f"opset {graph.opset}, but {target.title} reads {first} to {last}: export again at opset {nearest}"
    if graph.opset > last:
        yield at_tensor("note" if target.family == OPENVINO else "refused", "opset", "", text)
    elif graph.opset < first:
        yield at_tensor("note", "opset", "", text)


def ir_version(graph: Graph, target: Target) -> Iterator[Finding]:
    """ONNX Runtime checks the file format's version."""
    if graph.ir_version > LARGEST_IR:
        text = (
            f"ONNX Runtime 1.31 reads IR versions to {LARGEST_IR}, this is {graph.ir_version}: save it with a lower one"
        )
        yield at_tensor("refused", "ir-version", "", text)


def operators(graph: Graph, target: Target) -> Iterator[Finding]:
    """Operators that the target has no code for: custom domains, and those missing in its list."""
    plugin = " or load a plugin of that name" if target.family == TENSORRT else ""
    for node in graph.nodes:
        if node.domain not in DEFAULT_DOMAINS:
            if node.domain not in target.domains:
                text = f"{target.title} has no {node.domain} operators: replace it by standard ones{plugin}"
                yield at_node("refused", "operator", node, text)
            elif target.family == OPENVINO:
                text = f"OpenVINO reads only some operators of {node.domain}: try the file with --engine openvino"
                yield at_node("note", "operator", node, text)
        elif target.family == TENSORRT and _is_qoperator(node):
            text = "TensorRT takes INT8 as Q/DQ around float operators only, as `pspnet calibrate` writes it"
            yield at_node("refused", "qoperator", node, text)
        elif _is_missing(node, graph, target):
            yield at_node("refused", "operator", node, f"{target.title} has no {node.op_type}: replace it{plugin}")


def _is_qoperator(node: NodeProto) -> bool:
    return node.op_type.startswith("QLinear") or node.op_type in (
        "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
    )  # fmt: skip


def _is_missing(node: NodeProto, graph: Graph, target: Target) -> bool:
    if target.operators is not None:
        return node.op_type not in target.operators
    newer = not 1 <= graph.opset <= onnx.defs.onnx_opset_version()
    known = newer or onnx.defs.has(node.op_type, graph.opset)
    return node.op_type in target.missing or (target.family == ORT and not known)


def malformed(graph: Graph, target: Target) -> Iterator[Finding]:
    """Nodes that ONNX itself does not allow."""
    for node in graph.malformed:
        yield at_node("refused", "malformed", node, "an input or output that ONNX requires is missing: export again")


def restrictions(graph: Graph, target: Target) -> Iterator[Finding]:
    """What onnx-tensorrt's operators.md excludes within operators that it lists."""
    for node in graph.by_op("MaxPool", "AveragePool", "LpPool"):
        if set(attribute(node, "dilations", [1])) != {1}:
            yield at_node("refused", "pooling", node, "TensorRT pools with dilation 1 only")
        if len(attribute(node, "kernel_shape", [1, 1])) == 1:
            yield at_node("refused", "pooling", node, "TensorRT pools in two or three dimensions only")
        if len(node.output) > 1 and node.output[1]:
            yield at_node("refused", "pooling", node, "TensorRT has no indices of MaxPool: drop the second output")
    for node in graph.by_op("Dropout"):
        training = graph.array(node.input[2]) if len(node.input) > 2 else None
        if training is not None and training.any():
            yield at_node("refused", "dropout", node, "TensorRT takes Dropout for inference only: export in eval mode")
    for node in graph.by_op("ScatterND"):
        if attribute(node, "reduction", "none") != "none":
            yield at_node("refused", "scatter", node, "TensorRT's ScatterND has no reduction")


def resize(graph: Graph, target: Target) -> Iterator[Finding]:
    """Modes of Resize that TensorRT or OpenVINO lack, and forms that TensorRT rounds or builds differently."""
    for node in graph.by_op("Resize"):
        mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if target.resize is not None and mode not in target.resize:
            text = f"{target.title} has no {mode}: it reads {', '.join(sorted(target.resize))}"
            yield at_node("refused", "resize-mode", node, text)
        if target.family != TENSORRT:
            continue
        if attribute(node, "mode", "nearest") not in ("nearest", "linear"):
            yield at_node("refused", "resize-mode", node, "TensorRT resizes nearest or linear: export with one of them")
        if attribute(node, "antialias", 0):
            yield at_node("refused", "resize-antialias", node, "TensorRT has no antialias: export with antialias=False")
        if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            yield at_node("refused", "resize-mode", node, "TensorRT resizes with the policy stretch only")
        by_sizes = len(node.input) > 3 and bool(node.input[3])
        if mode == "align_corners" and not by_sizes and len(node.input) > 2 and node.input[2]:
            text = "align_corners by scales rounds differently from tool to tool: give `sizes` as a constant"
            yield at_node("note", "resize-scales", node, text)
        if not all(graph.is_constant(name) for name in node.input[1:] if name):
            text = f"sizes are computed at run time: {FIXED}"
            yield at_node("slow", "resize-dynamic", node, text)


def full_size_logits(graph: Graph, target: Target) -> Iterator[Finding]:
    """Logits enlarged to the input's size: written and read once more, 159 MB per frame at 1024x2048x19."""
    sizes = {axes for value in graph.inputs for axes in _image_sizes(graph.shapes.get(value.name, ()))}
    for node in graph.by_op("Resize", "Upsample"):
        shape = graph.shapes.get(node.output[0], ())
        if len(shape) == 4 and shape[2:] in sizes and shape[1] != 1 and _ends_the_graph(graph, node.output[0]):
            text = "logits are enlarged inside the graph: stop at the head's resolution, the runtime finds the labels"
            yield at_node("slow", "full-size-logits", node, text)


def _image_sizes(shape: tuple) -> list[tuple]:
    return [axes for axes in (shape[2:], shape[1:3]) if None not in axes] if len(shape) == 4 else []


def _ends_the_graph(graph: Graph, name: str) -> bool:
    outputs = {value.name for value in graph.outputs}
    for _ in graph.nodes:
        readers = graph.read_by(name, *TO_OUTPUT)
        if name in outputs or not readers:
            break
        name = readers[0].output[0]
    return name in outputs


def arg_max(graph: Graph, target: Target) -> Iterator[Finding]:
    """ArgMax becomes TopK and a Cast to int64."""
    for node in graph.by_op("ArgMax", "TopK"):
        text = "TensorRT runs it as TopK with int64 indices: give the logits out, the runtime finds the labels"
        yield at_node("slow", "arg-max", node, text)


def control_flow(graph: Graph, target: Target) -> Iterator[Finding]:
    """Loops, branches and outputs whose shape depends on the data."""
    for node in graph.by_op("Loop", "If", "Scan", "NonZero", "NonMaxSuppression"):
        text = "control flow or a shape that depends on the data: no CUDA graph takes it, and fusion ends there"
        yield at_node("slow", "control-flow", node, text)


def dynamic_size(graph: Graph, target: Target) -> Iterator[Finding]:
    """A picture input without a fixed height or width, in any network."""
    for value in graph.inputs:
        shape = graph.shapes.get(value.name, ())
        spatial = shape[1:3] if len(shape) == 4 and shape[3] in (1, 3, 4) else shape[2:]
        if len(shape) == 4 and None in spatial:
            text = f"height or width is not fixed, so {_COST_OF_OPEN_AXES[target.family]}: fix both in the exporter"
            yield at_tensor("note", "dynamic-size", value.name, text)


_COST_OF_OPEN_AXES = {
    TENSORRT: "TensorRT needs an optimisation profile and builds for a range of sizes",
    OPENVINO: "OpenVINO plans memory and kernels anew for every size",
    ORT: "ONNX Runtime cannot plan memory ahead, and shapes are computed at run time",
}


def leftovers(graph: Graph, target: Target) -> Iterator[Finding]:
    """What an export in eval mode with constants folded does not contain."""
    for node in graph.by_op("BatchNormalization"):
        if graph.made_by(node.input[0], "Conv", "ConvTranspose"):
            text = "batch norm is not folded into its convolution, so every engine has to do that: export in eval mode"
            yield at_node("note", "batch-norm", node, text)
    for node in graph.by_op("Dropout"):
        yield at_node("note", "dropout", node, "Dropout is left in the graph: export in eval mode")
    for node in graph.by_op(*SHAPE_OPERATORS):
        yield at_node("note", "shape-chain", node, f"a shape is computed at run time: {FIXED}")


def pooling(graph: Graph, target: Target) -> Iterator[Finding]:
    """Adaptive pooling written out pixel by pixel, and windows as wide as a map."""
    if (count := len(graph.by_op("Gather"))) >= STORM:
        text = (
            f"{count} Gather, {len(graph.by_op('Add'))} Add and {len(graph.by_op('Slice'))} Slice nodes, as the "
            "exporter of PyTorch writes adaptive pooling: for a PSPNet, `pspnet export` writes a few products instead"
        )
        yield at_tensor("note", "gather-storm", "", text)
    for node in graph.by_op("AveragePool"):
        if np.prod(attribute(node, "kernel_shape", [1])) >= WIDE_WINDOW:
            text = "a window this wide is likely slower than a matrix product, which `pspnet export` writes (measure)"
            yield at_node("note", "wide-window", node, text)


def products(graph: Graph, target: Target) -> Iterator[Finding]:
    """Matrix products with a constant whose K or N does not fill tensor cores, where that costs more than a little.

    The products of a folded head have the map's own sides as K and N, such as 45 and 60: padding those to 48 and 64
    adds less than WASTE, in products that are small beside the convolutions.
    """
    for node in graph.by_op("MatMul", "Gemm"):
        shapes = [graph.shapes.get(name, ()) for name in node.input[:2] if graph.is_constant(name)]
        for axis in sorted({axis for shape in shapes for axis in shape[-2:] if axis}):
            full = -(-axis // PRODUCT_STEP) * PRODUCT_STEP
            if full > axis * (1 + WASTE):
                text = f"K or N is {axis}, which fp16 tensor cores pad to {full}: make it a multiple of {PRODUCT_STEP}"
                yield at_node("note", "matmul-step", node, text)


RULES = (
    (opset, EVERYWHERE), (ir_version, (ORT,)), (operators, EVERYWHERE), (malformed, EVERYWHERE),
    (restrictions, (TENSORRT,)), (resize, (TENSORRT, OPENVINO)), (full_size_logits, EVERYWHERE), (arg_max, (TENSORRT,)),
    (control_flow, (TENSORRT,)), (dynamic_size, EVERYWHERE), (leftovers, EVERYWHERE), (pooling, EVERYWHERE),
    (products, (TENSORRT,)),
)  # fmt: skip
"""Each rule, and the families of targets that it is about."""
