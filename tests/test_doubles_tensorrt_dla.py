"""The double's DLA: which layers it takes, what a build and a runtime refuse, and INT8 by a calibration cache."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.doubles import tensorrt_double
from tests.doubles.tensorrt_double.dla import CORES_VARIABLE
from tests.tensorrt_graphs import CHANNELS, SIDE, model, one_node, quantised_conv
from tests.test_doubles_tensorrt_rules import Log, parsed

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
EVERY = ("10.3.0", "11.4.0")
SHAPE = [1, CHANNELS, SIDE, SIDE]
INFERENCE_ATOL = 1e-5


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES_VARIABLE, "2")


def prepared(version: str, built: onnx.ModelProto, *flags: str) -> tuple[Any, ...]:
    """(trt, builder, network, config, log), strongly typed in 11, every layer on DLA core 0 where it can run there."""
    trt = tensorrt_double.module(version)
    builder, network, parser, log = parsed(trt, built, version.startswith("11"))
    assert parser.num_errors == 0, log.errors
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.DLA_core = 0
    for name in flags:
        config.set_flag(trt.BuilderFlag.__members__[name])
    for index in range(network.num_layers):
        if config.can_run_on_DLA(network.get_layer(index)):
            config.set_device_type(network.get_layer(index), trt.DeviceType.DLA)
    return trt, builder, network, config, log


def conv(size: int = 3, outputs: int = CHANNELS, kind: int = FLOAT, **attributes: Any) -> onnx.ModelProto:
    weights = np.ones((outputs, CHANNELS, size, size), np.float16 if kind == HALF else np.float32)
    side = 64
    node = helper.make_node("Conv", ["x", "w"], ["y"], "node", **{"pads": [1] * 4, **attributes})
    return model([node], {"w": weights}, {"x": (kind, [1, CHANNELS, side, side])}, {"y": (kind, None)})  # type: ignore


def pool(window: int, **attributes: Any) -> onnx.ModelProto:
    return one_node("MaxPool", kernel_shape=[window, window], **attributes)


def resize(mode: str, coordinates: str, factor: float) -> onnx.ModelProto:
    scales = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, factor, factor], np.float32)}
    return one_node("Resize", scales, mode=mode, coordinate_transformation_mode=coordinates)


# What stands beside each limit on either side of it.
LIMITS: dict[str, tuple[onnx.ModelProto, bool]] = {
    "conv": (conv(), True), "kernel 32": (conv(32), True), "kernel 33": (conv(33), False),
    "stride 8": (conv(strides=[8, 8]), True), "stride 9": (conv(strides=[9, 9]), False),
    "dilation 16": (conv(dilations=[16, 16]), True), "dilation 33": (conv(dilations=[33, 33], pads=[31] * 4), False),
    "padding 31": (conv(pads=[31] * 4), True), "padding 32": (conv(pads=[32] * 4), False),
    "8192 channels": (conv(1, 8192), True), "8193 channels": (conv(1, 8193), False),
    "window 8": (pool(8), True), "window 9": (pool(9, pads=[4] * 4), False),
    "pool stride 17": (pool(2, strides=[17, 17]), False),
    "relu": (one_node("Relu"), True), "softmax": (one_node("Softmax"), False), "clip at 0": (
        one_node("Clip", {"low": np.float32(0), "high": np.float32(6)}), True),
    "clip at -1": (one_node("Clip", {"low": np.float32(-1), "high": np.float32(1)}), False),
    "twice": (resize("linear", "half_pixel", 2), True), "five times": (resize("linear", "half_pixel", 5), False),
    "nearest five times": (resize("nearest", "asymmetric", 5), True),
    "align corners": (resize("linear", "align_corners", 2), False),
    "by a half": (resize("linear", "half_pixel", 1.5), False),
    "transpose": (one_node("Transpose", perm=[0, 2, 3, 1]), False),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_layers_at_the_documented_limits(case: str) -> None:
    built, runs = LIMITS[case]
    _, _, network, config, _ = prepared("10.3.0", built, "FP16")
    assert config.can_run_on_DLA(network.get_layer(network.num_layers - 1)) == runs


def test_precisions_of_a_dla(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 only where flags let it be lowered; Q/DQ from 11 on; nothing without cores."""
    for version, built, flags, runs in (
        ("10.3.0", conv(), (), False), ("10.3.0", conv(), ("FP16",), True),
        ("10.3.0", conv(kind=HALF), ("FP16",), True),
        ("11.4.0", conv(), (), False), ("11.4.0", conv(kind=HALF), (), True),
    ):  # fmt: skip
        _, _, network, config, _ = prepared(version, built, *flags)
        assert config.can_run_on_DLA(network.get_layer(0)) == runs, (version, flags)
    for version, runs in (("10.3.0", False), ("11.4.0", True)):
        built = quantised_conv(HALF)
        built.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        flags = ("FP16", "INT8") if version == "10.3.0" else ()
        _, _, network, config, _ = prepared(version, built, *flags)
        assert config.can_run_on_DLA(network.get_layer(0)) == runs  # a QuantizeLinear
    monkeypatch.setenv(CORES_VARIABLE, "0")
    trt, builder, network, config, _ = prepared("10.3.0", conv(), "FP16")
    assert builder.num_DLA_cores == trt.Runtime(builder.logger).num_DLA_cores == 0
    assert not config.can_run_on_DLA(network.get_layer(0))


def test_a_build_refuses_what_tensorrt_refuses() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["m"], "conv"), helper.make_node("Softmax", ["m"], ["y"], "softmax")]
    weights = {"w": np.ones((CHANNELS, CHANNELS, 1, 1), np.float32)}
    built = model(nodes, weights, {"x": (FLOAT, SHAPE)}, {"y": (FLOAT, SHAPE)})
    trt, builder, network, config, log = prepared("10.3.0", built, "FP16")
    config.set_device_type(network.get_layer(1), trt.DeviceType.DLA)
    assert builder.build_serialized_network(network, config) is None
    assert "softmax is not supported on DLA, and GPU fallback is not enabled" in log.errors
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    assert builder.build_serialized_network(network, config) is not None
    config.DLA_core = 2
    assert builder.build_serialized_network(network, config) is None and "DLA core 2" in log.errors


def test_q_and_dq_are_refused_up_to_10() -> None:
    built = quantised_conv()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    trt, builder, network, config, log = prepared("10.3.0", built, "FP16", "INT8", "GPU_FALLBACK")
    config.set_device_type(network.get_layer(4), trt.DeviceType.DLA)
    assert builder.build_serialized_network(network, config) is None
    assert "DLA does not support explicit quantization" in log.errors


def engine_layers(trt: Any, builder: Any, network: Any, config: Any, log: Any) -> list[str]:
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.errors
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    return [layer["LayerType"] for layer in engine._state.header["layers"]]


def test_a_batch_that_is_not_fixed_falls_back() -> None:
    built = conv()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for most, layers in ((1, ["DLA"]), (2, ["CaskConvolution"])):
        trt, builder, network, config, log = prepared("10.3.0", built, "FP16", "GPU_FALLBACK")
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(size, CHANNELS, 64, 64) for size in (1, most, most)])
        config.add_optimization_profile(profile)
        found = engine_layers(trt, builder, network, config, log)
        assert [each for each in found if each != "Reformat"] == layers


def test_an_engine_runs_on_core_0_unless_another_is_named() -> None:
    trt, builder, network, config, log = prepared("10.3.0", conv(), "FP16")
    config.DLA_core = 1
    plan = builder.build_serialized_network(network, config)
    runtime = trt.Runtime(log.logger)
    assert runtime.deserialize_cuda_engine(plan)._state.dla_core == 0
    runtime.DLA_core = 1
    assert runtime.deserialize_cuda_engine(plan)._state.dla_core == 1
    runtime.DLA_core = 2
    assert runtime.deserialize_cuda_engine(plan) is None and "no DLA core 2" in log.errors


def calibrator(trt: Any, text: str | None) -> Any:
    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.asked = 0

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list) -> None:
            self.asked += 1

        def read_calibration_cache(self) -> bytes | None:
            return None if text is None else text.encode()

        def write_calibration_cache(self, cache: Any) -> None:
            return None

    return Calibrator()


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("TRT-100300-EntropyCalibration2\nx: 3d000000\ny: 3d000000\n", True),
        ("TRT-8600-EntropyCalibration2\nx: 3d000000\ny: 3d000000\n", False), (None, False), ("", False),
    ],
)  # fmt: skip
def test_a_cache_is_taken_where_its_first_line_is_this_versions(text: str | None, taken: bool) -> None:
    trt, builder, network, config, log = prepared("10.3.0", conv(), "FP16", "INT8")
    config.int8_calibrator = own = calibrator(trt, text)
    plan = builder.build_serialized_network(network, config)
    assert (plan is not None) == taken and own.asked == (not taken)
    assert taken or "no scaling factors detected" in log.errors


@pytest.mark.parametrize("constrained", [False, True])
def test_scales_decide_what_is_computed_in_int8(constrained: bool) -> None:
    """The rewritten network against numpy: x and the weights rounded to their steps, then summed."""
    noise = np.random.default_rng(2)
    weights = noise.normal(size=(CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    built = model([node], {"w": weights}, {"x": (FLOAT, SHAPE)}, {"y": (FLOAT, SHAPE)})
    trt, builder, network, config, log = prepared("10.3.0", built, "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")
    bits = struct.pack("!f", 1 / 32).hex()
    config.int8_calibrator = calibrator(trt, f"TRT-100300-EntropyCalibration2\nx: {bits}\ny: {bits}\n")
    if constrained:
        network.get_layer(0).precision = trt.DataType.HALF
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    from tests.doubles.tensorrt_double.execution import session_of

    x = noise.normal(size=SHAPE).astype(np.float32)
    (found,) = session_of(engine).run(["y"], {"x": x})
    steps = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    rounded = np.clip(np.rint(x * 32), -128, 127) / 32, np.rint(weights / steps) * steps
    sides = (x, weights) if constrained else rounded
    wanted = np.einsum("oi,nihw->nohw", sides[1][:, :, 0, 0], sides[0])
    assert np.allclose(found, wanted, atol=INFERENCE_ATOL)
    assert (
        not np.allclose(found, np.einsum("oi,nihw->nohw", weights[:, :, 0, 0], x), atol=INFERENCE_ATOL) or constrained
    )


@pytest.mark.parametrize("version", EVERY)
def test_calibrators_and_precisions_are_of_10_alone(version: str) -> None:
    trt, _, network, config, _ = prepared(version, conv(kind=HALF), *(("FP16",) if version == "10.3.0" else ()))
    old = version == "10.3.0"
    assert hasattr(trt, "IInt8EntropyCalibrator2") == hasattr(config, "int8_calibrator") == old
    assert hasattr(network.get_layer(0), "precision") == old
    assert not Log(trt).errors
