"""Rules on the file as a whole: whether its nodes fit together, and what ONNX's own checks have against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from export.lint_graph import Finding, Graph, at_node, at_tensor, attribute, nested_graphs
from export.lint_targets import EVERYWHERE, ORT, Target
from pspnet.errors import is_out_of_memory
from pspnet.metadata import tensors_of

LONGEST = 300  # characters of a message of another library
UNSORTED = "topologically sorted"
UNKNOWN = "No Op registered"


def wiring(graph: Graph, target: Target) -> Iterator[Finding]:
    """Tensors that are read but made nowhere, and nodes that wait for their own result."""
    for node, name in _unmade(graph.source.graph, frozenset()):
        text = f"{name!r} is read, but nothing makes it: the file was cut or edited; export again"
        yield at_node("refused", "wiring", node, text)
    for inner in _graphs(graph.source.graph):
        if circle := _circle(inner):
            text = f"the graph runs in a circle, {' -> '.join(map(str, circle))}: the file was edited; export again"
            yield at_tensor("refused", "wiring", circle[0], text)


def _unmade(graph: GraphProto, outer: frozenset[str]) -> Iterator[tuple[NodeProto, str]]:
    made = outer.union(
        (value.name for value in graph.input), (tensor.name for tensor in graph.initializer),
        (tensor.values.name for tensor in graph.sparse_initializer), *(node.output for node in graph.node),
    )  # fmt: skip
    for node in graph.node:
        yield from ((node, name) for name in node.input if name and name not in made)
        for inner in nested_graphs(node):
            yield from _unmade(inner, made)


def _circle(graph: GraphProto) -> list[str]:
    """Tensors each of which is computed from the one before, the last being the first; empty where there is none."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for node in graph.node:
        for name in node.output:
            sorter.add(name, *_reads(node))
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _reads(node: NodeProto) -> set[str]:
    inner = (name for graph in nested_graphs(node) for child in graph.node for name in _reads(child))
    return {*node.input, *inner} - {""}


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in nested_graphs(node):
            yield from _graphs(inner)


def channels(graph: Graph, target: Target) -> Iterator[Finding]:
    """Convolutions that are given another number of channels than they have weights for, which ONNX does not check."""
    for node in graph.by_op("Conv", "ConvTranspose"):
        given, weight = (graph.shapes.get(name, ()) for name in node.input[:2])
        if len(given) < 3 or len(weight) < 3 or given[1] is None:
            continue
        wanted = weight[0] if node.op_type == "ConvTranspose" else (weight[1] or 0) * attribute(node, "group", 1)
        if wanted and given[1] != wanted:
            text = f"{node.input[0]!r} has {given[1]} channels, the weights are for {wanted}: export again"
            yield at_node("refused", "shapes", node, text)


def node_names(graph: Graph, target: Target) -> Iterator[Finding]:
    """ONNX Runtime wants each name of a node once within a graph."""
    for inner in _graphs(graph.source.graph):
        for name, count in Counter(node.name for node in inner.node if node.name).items():
            if count > 1:
                text = f"{count} nodes are called {name!r}, which ONNX Runtime refuses: rename all but one"
                yield at_tensor("refused", "node-name", name, text)


def consistency(graph: Graph, target: Target) -> Iterator[Finding]:
    """What onnx.checker, or else a strict inference of types and shapes, has against the file."""
    model = graph.source
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors_of(model)):
        return  # rule `external` says so
    if why := _beyond_the_checks(model):
        yield at_tensor("note", "consistency", "", f"{why}: onnx's checks of the whole file were left out")
        return
    bare = ModelProto()
    bare.CopyFrom(model)
    shapeless = [kind for kind in _tensor_types(bare.graph.input, bare.graph.output) if not kind.HasField("shape")]
    for kind in shapeless:
        kind.shape.SetInParent()  # the checker insists on a shape, which no engine needs
    message = _complaint(onnx.checker.check_model, bare)
    if UNSORTED in message:
        if not any(wiring(graph, target)):  # which names these faults better
            text = "nodes stand before those that they read: engines sort them, onnx.checker refuses the file"
            yield at_tensor("note", "consistency", "", text)
        return
    listed = UNKNOWN in message and target.operators is not None  # rule `operators` knows what this target takes
    if message and not listed:
        yield at_tensor("refused", "consistency", "", f"onnx.checker: {message}")
        return
    for kind in [*shapeless, *_tensor_types(bare.graph.value_info, bare.graph.output)]:
        kind.ClearField("shape")  # engines infer shapes anew, so stale ones do no harm
    if message := _complaint(partial(onnx.shape_inference.infer_shapes, check_type=True, strict_mode=True), bare):
        yield at_tensor("refused", "shapes", "", f"types and shapes do not fit: {message}")


def _beyond_the_checks(model: ModelProto) -> str:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if model.ir_version > onnx.IR_VERSION or opset > onnx.defs.onnx_opset_version():
        return f"IR version {model.ir_version}, opset {opset} is newer than onnx {onnx.__version__} on this machine"
    return "more than 2 GB" if model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF else ""


def _tensor_types(*values: Iterable[onnx.ValueInfoProto]) -> list[onnx.TypeProto.Tensor]:
    types = [value.type for several in values for value in several]
    return [kind.tensor_type for kind in types if kind.HasField("tensor_type")]


def _complaint(check: Callable[[ModelProto], object], model: ModelProto) -> str:
    """The error of a check in one line, "" where it has none."""
    try:
        check(model)
    except Exception as error:  # onnx raises several types, of its C++ part too
        if is_out_of_memory(error):
            raise
        return one_line(str(error))
    return ""


def one_line(text: str, longest: int = LONGEST) -> str:
    """A message of several lines as one, cut off where it is longer than `longest` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


RULES = ((wiring, EVERYWHERE), (channels, EVERYWHERE), (node_names, (ORT,)), (consistency, EVERYWHERE))
"""Each rule, and the families of targets that it is about."""
