"""OnnxParser: reads an ONNX, refuses what TensorRT refuses, fills the network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from .marks import create, only, report
from .network import fill_network
from .onnx_graph import Graph, model_from_bytes, model_from_file
from .refusal import Mode, Refusal
from .rules_operators import SUPPORTED, operator_refusals
from .rules_quantise import quantise_refusals
from .rules_types import type_refusals

PUBLIC = ("OnnxParser", "ParserError", "get_nv_onnx_parser_version")


class ParserError:
    """Why a node was refused."""

    __slots__ = ("_state",)

    def code(self) -> Any:
        return self._state.code

    def desc(self) -> str:
        return self._state.desc

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 0

    def func(self) -> str:
        return "parseNode"

    def node(self) -> int:
        return self._state.node

    def node_name(self) -> str:
        return self._state.node_name

    def node_operator(self) -> str:
        return self._state.node_operator

    def local_function_stack(self) -> list:
        return []

    def local_function_stack_size(self) -> int:
        return 0

    def __str__(self) -> str:
        where = f"In node {self.node()} with name: {self.node_name()} and operator: {self.node_operator()} (parseNode)"
        return f"{where}: {self.code().name}: {self.desc()}"

    __repr__ = __str__


class OnnxParser:
    """Fills one network from one ONNX."""

    __slots__ = ("_state",)

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:  # noqa: F821
        self._state = SimpleNamespace(network=network, logger=logger, errors=[], flags=0)

    def parse(self, model: Buffer, path: str = None) -> bool:  # type: ignore # noqa: F821, RUF013
        folder = None if path is None else str(path).rpartition("/")[0] or "."
        return self._parsed(lambda: model_from_bytes(bytes(memoryview(model)), folder))

    def parse_from_file(self, model: str) -> bool:
        return self._parsed(lambda: model_from_file(model))

    def supports_model_v2(self, model: Buffer, path: str = None) -> bool:  # type: ignore # noqa: F821, RUF013
        folder = None if path is None else str(path).rpartition("/")[0] or "."
        graph = self._read(lambda: model_from_bytes(bytes(memoryview(model)), folder))
        return graph is not None and not self._refused(graph)

    @property
    def num_errors(self) -> int:
        return len(self._state.errors)

    def get_error(self, index: int) -> Any:
        return self._state.errors[index]

    def clear_errors(self) -> None:
        self._state.errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        return op_name in SUPPORTED

    @property
    def flags(self) -> int:
        return self._state.flags

    def set_flag(self, flag: OnnxParserFlag) -> None:  # noqa: F821
        self._state.flags |= 1 << int(flag)

    def clear_flag(self, flag: OnnxParserFlag) -> None:  # noqa: F821
        self._state.flags &= ~(1 << int(flag))

    def get_flag(self, flag: OnnxParserFlag) -> bool:  # noqa: F821
        return bool(self._state.flags >> int(flag) & 1)

    def get_used_vc_plugin_libraries(self) -> list:
        return []

    @only(11)
    def set_builder_config(self, builder_config: IBuilderConfig) -> bool:  # noqa: F821
        return True

    def _parsed(self, load: Any) -> bool:
        graph = self._read(load)
        if graph is None or self._refused(graph):
            return False
        fill_network(self._state.network, graph)
        return True

    def _read(self, load: Any) -> Graph | None:
        try:
            return Graph(load())
        except (DecodeError, OSError, ValueError, onnx.shape_inference.InferenceError) as error:
            self._add("MODEL_DESERIALIZE_FAILED", f"Failed to parse the ONNX model: {error}", -1, "", "")
            return None

    def _refused(self, graph: Graph) -> bool:
        """Run every rule; keep and log what they find, in the order of the nodes."""
        network, trt = self._state.network, self._trt  # type: ignore[attr-defined]
        mode = Mode(int(trt.__version__.split(".")[0]), network._state.strong)
        found: list[Refusal] = []
        for rules in (operator_refusals, quantise_refusals, type_refusals):
            found += rules(graph, mode)
        for refusal in sorted(found, key=lambda refusal: graph.index(refusal.node)):
            node = refusal.node
            self._add(refusal.code, refusal.reason, graph.index(node), node.name, node.op_type)
        return bool(found)

    def _add(self, code: str, desc: str, index: int, name: str, operator: str) -> None:
        trt = self._trt  # type: ignore[attr-defined]
        error = create(
            trt,
            "ParserError",
            code=trt.ErrorCode.__members__[code],
            desc=desc,
            node=index,
            node_name=name,
            node_operator=operator,
        )
        self._state.errors.append(error)
        report(self._state.logger, "ERROR", str(error))


def get_nv_onnx_parser_version() -> int:
    """Number of the parser's version."""
    return 0
