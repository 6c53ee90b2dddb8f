"""Everything that our exporter and quantiser write passes TensorRT's rules, in the modes that it is meant for."""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest

from calibration.placement import place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from export.exporter import onnx_from_model
from pspnet.metadata import attach_spec
from runtime.fp16_typing import fp16_from_fp32
from tests.doubles import tensorrt_double
from tests.nets import random_model
from tests.test_doubles_tensorrt_rules import parsed

# name: (backbone, output stride, (height, width), head, align_corners)
NETS: dict[str, tuple[str, int, tuple[int, int], str, bool]] = {
    "mobilenet folded": ("mobilenet_v2", 16, (96, 128), "folded", False),
    "mobilenet fixed, align_corners": ("mobilenet_v2", 16, (96, 96), "fixed", True),
    "resnet18 folded, align_corners, odd size": ("resnet18", 16, (89, 113), "folded", True),
}
KINDS = ("fp32", "fp16", "int8", "int8.fp16")
# (version, strongly typed, flags) in which each file is meant to be built.
STRONG = (("10.3.0", True, ()), ("11.4.0", True, ()))
MODES: dict[str, tuple[tuple[str, bool, tuple[str, ...]], ...]] = {
    "fp32": (*STRONG, ("10.3.0", False, ()), ("10.3.0", False, ("FP16",))),
    "fp16": STRONG,
    "int8": (*STRONG, ("10.3.0", False, ("INT8",)), ("10.3.0", False, ("FP16", "INT8"))),
    "int8.fp16": STRONG,
}


@pytest.fixture(scope="module", params=NETS)
def files(request: pytest.FixtureRequest) -> dict[str, onnx.ModelProto]:
    """The four graphs of one network, as `pspnet export --fp16` and `pspnet calibrate --fp16` write them.

    Every range is 3: what the parser refuses does not depend on the pictures.
    """
    backbone, stride, size, head, align_corners = NETS[request.param]
    spec, network = random_model(backbone, stride, size, align_corners=align_corners)
    model = onnx_from_model(network, spec, head)
    attach_spec(model, spec, precision="fp32")
    int8 = quantized(model, CalibrationTable("", "minmax", "", {}, dict.fromkeys(place(model).activations, 3.0)))
    return {"fp32": model, "fp16": fp16_from_fp32(model), "int8": int8, "int8.fp16": fp16_from_fp32(int8)}


def built(model: onnx.ModelProto, version: str, strong: bool, flags: tuple[str, ...]) -> dict[str, Any]:
    """The inspector's JSON of the engine for 1 to 2 pictures; the parser's and builder's words where there is none."""
    trt = tensorrt_double.module(version)
    builder, network, parser, log = parsed(trt, model, strong)
    assert parser.num_errors == 0, log.errors
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for flag in flags:
        config.set_flag(trt.BuilderFlag.__members__[flag])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    size = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("image", (1, *size), (2, *size), (2, *size))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.errors
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    return json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


@pytest.mark.parametrize("kind", KINDS)
def test_every_artefact_is_parsed_and_built(files: dict[str, onnx.ModelProto], kind: str) -> None:
    graph = files[kind].graph
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    fed: set[str] = set()
    for node in graph.node:  # max pooling and dequantising may change places
        if node.op_type == "DequantizeLinear" or (node.op_type == "MaxPool" and node.input[0] in fed):
            fed |= set(node.output)
    quantised = sum(node.op_type == "Conv" and set(node.input[:2]) <= fed for node in graph.node)
    assert (quantised > 0) == kind.startswith("int8")
    for version, strong, flags in MODES[kind]:
        layers = built(files[kind], version, strong, flags)["Layers"]
        found = [layer["Weights"]["Type"] for layer in layers if layer["LayerType"] == "CaskConvolution"]
        assert len(found) == convolutions and found.count("Int8") == quantised
        assert names_of_lone_dq(layers) == []  # a DQ that no kernel takes up is misplaced


def names_of_lone_dq(layers: list[dict[str, Any]]) -> list[str]:
    return [layer["Name"] for layer in layers if layer.get("Origin") == "QDQ" and layer["Name"].endswith("_DQ")]
