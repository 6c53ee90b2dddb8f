"""How much of an INT8 file really runs in INT8: asked of the engine that compiled it, not of the file."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from calibration.cost import multiply_adds
from pspnet.errors import PspnetError
from pspnet.metadata import read_model

ENGINES = {"openvino": "OpenVINO", "ort": "ONNX Runtime"}
INTEGERS = ("i8", "u8")
NAMED = 3  # of the layers in float, the largest, when printed
ORT_INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat")
ORT_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_quant)+$")
"""What ONNX Runtime appends to the names of nodes that it rewrites."""


@dataclass(frozen=True)
class Share:
    """Multiply-adds of convolutions and matrix products for one picture.

    int8: those that the engine computes in INT8, of total. in_float: node -> multiply-adds of each that it does not,
    the largest first.
    """

    engine: str
    int8: int
    total: int
    in_float: dict[str, int]

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.int8 / max(self.total, 1)

    def facts(self) -> dict[str, Any]:
        """The share for JSON."""
        return {"fraction": self.fraction, "multiply_adds": self.total, "in_float": self.in_float}


def int8_share(path: str | Path, engine: str, threads: int = 1) -> Share:
    """What `engine` ("openvino" or "ort") computes in INT8 of an ONNX file of ours, once it has compiled it.

    OpenVINO as our runner compiles it. ONNX Runtime with its own defaults: `OrtRunner` forbids it to compute in
    integers, because they would be rounded in its own way, and simulates them.
    """
    if engine not in ENGINES:
        raise PspnetError(f"the INT8 share is read from {' and '.join(ENGINES)}, not {engine!r}: give one of them")
    model = read_model(path)
    running = set(_in_openvino(path, threads) if engine == "openvino" else _in_ort(model))
    counts = multiply_adds(model)
    layers = (node for node in model.graph.node if node.name in counts)
    left = {node.name: counts[node.name] for node in layers if not running & {node.name, *node.output}}
    in_float = dict(sorted(left.items(), key=lambda item: -item[1]))
    total = sum(counts.values())
    return Share(engine, total - sum(left.values()), total, in_float)


def installed_shares(path: str | Path, threads: int = 1) -> list[Share]:
    """The share on each engine that is installed here, OpenVINO first."""
    return [
        int8_share(path, engine, threads)
        for engine, module in (("openvino", "openvino"), ("ort", "onnxruntime"))
        if importlib.util.find_spec(module)
    ]


def text_of(engine: str, facts: dict[str, Any]) -> str:
    """`Share.facts` of an engine as one line to print."""
    line = f"{ENGINES[engine]} computes {100 * facts['fraction']:.1f} % of the multiply-adds in INT8"
    if engine == "ort":
        return f"{line} when left alone; --engine ort simulates INT8 in float"
    left = [f"{name} {100 * count / facts['multiply_adds']:.1f} %" for name, count in facts["in_float"].items()]
    return f"{line}; in float: {', '.join(left[:NAMED])}" + (f" and {len(left) - NAMED} more" if left[NAMED:] else "")


def _in_openvino(path: str | Path, threads: int) -> Iterator[str]:
    """Names of the ONNX nodes whose kernel reads integers, data and weights."""
    from runtime.openvino_runner import OpenVinoRunner

    with OpenVinoRunner(path, threads) as runner:
        for kernel in runner.compiled.get_runtime_model().get_ops():
            types = [value.get_element_type().get_type_name() for value in kernel.inputs()[:2]]
            if len(types) == 2 and all(kind in INTEGERS for kind in types):
                # The names of everything that was fused into the kernel; those of nodes are their outputs'.
                yield from str(kernel.get_rt_info()["originalLayersNames"].astype(str)).split(",")


def _in_ort(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the nodes that ONNX Runtime's optimiser turns into integer operators, as it renames them."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    for node in optimised.graph.node:
        if node.op_type in ORT_INTEGER_OPS:
            yield ORT_SUFFIX.sub("", node.name)
