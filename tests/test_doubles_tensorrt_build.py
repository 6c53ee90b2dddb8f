"""The TensorRT double's builder, settings, timing cache, monitor and inspector."""

from __future__ import annotations

import json
import threading
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.doubles import tensorrt_double
from tests.tensorrt_graphs import CHANNELS, SIDE, model, quantised_conv
from tests.test_doubles_tensorrt_rules import Log, parsed

HALF = TensorProto.FLOAT16
EVERY = ("10.3.0", "11.4.0")
SHAPES = [(size, CHANNELS, SIDE, SIDE) for size in (1, 2, 3)]


def prepared(version: str, built: onnx.ModelProto, strong: bool, flags: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """(trt, builder, network, config, log) of a parsed graph with a profile for 1 to 3 pictures."""
    trt = tensorrt_double.module(version)
    builder, network, parser, log = parsed(trt, built, strong)
    assert parser.num_errors == 0, log.errors
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in flags:
        config.set_flag(trt.BuilderFlag.__members__[name])
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *SHAPES)
    assert config.add_optimization_profile(profile) == 0
    return trt, builder, network, config, log


@pytest.mark.parametrize(
    ("kind", "strong", "flags", "reason"),
    [
        (TensorProto.FLOAT, True, ("FP16",), "kFP16: precision flags are not allowed"),
        (TensorProto.FLOAT, True, ("INT8", "FP16"), "kFP16, kINT8: precision flags are not allowed"),
        (TensorProto.FLOAT, False, ("FP16",), "int8 is not configured in the builder"),
        (HALF, False, ("INT8",), "fp16 is not configured in the builder"),
    ],
)
def test_10_refuses_flags_that_do_not_fit_the_types(
    kind: int, strong: bool, flags: tuple[str, ...], reason: str
) -> None:
    _, builder, network, config, log = prepared("10.3.0", quantised_conv(kind), strong, flags)
    assert builder.build_serialized_network(network, config) is None
    assert reason in log.errors
    for name in ("FP16", "INT8"):
        config.clear_flag(builder._trt.BuilderFlag.__members__[name])
    if strong:
        assert builder.build_serialized_network(network, config).nbytes > 0


@pytest.mark.parametrize("version", EVERY)
def test_a_dynamic_input_needs_a_profile_that_fits(version: str) -> None:
    _, builder, network, _, log = prepared(version, quantised_conv(), True)
    config = builder.create_builder_config()
    assert builder.build_serialized_network(network, config) is None
    assert "no optimization profile has been defined" in log.errors
    profile = builder.create_optimization_profile()
    assert config.add_optimization_profile(profile) == -1
    with pytest.raises(ValueError, match="inconsistent"):
        profile.set_shape("x", SHAPES[1], SHAPES[0], SHAPES[2])
    profile.set_shape("x", *[(1, CHANNELS, SIDE, SIDE + 1)] * 3)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is None
    assert "for dimension sizes (-1, 4, 8, 8)" in log.errors


@pytest.mark.parametrize("version", EVERY)
def test_a_network_without_outputs_and_a_small_workspace_fail(version: str) -> None:
    trt, builder, network, config, log = prepared(version, quantised_conv(), True)
    assert builder.build_serialized_network(builder.create_network(), config) is None
    assert "at least one output" in log.errors
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 16)
    assert builder.build_serialized_network(network, config) is None
    assert "insufficient workspace" in log.errors and "conv" in log.errors
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("version", EVERY)
def test_arguments_and_names_are_those_of_the_bindings(version: str) -> None:
    trt, builder, network, config, _ = prepared(version, quantised_conv(), True)
    for wrong in (
        lambda: config.set_flag(6),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1.5),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1),
        lambda: builder.create_network(flag=1),
        lambda: trt.Builder("log"),
        lambda: trt.IBuilderConfig(),
        lambda: trt.OnnxParser(network, builder.logger).parse("model.onnx"),
        lambda: 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED,
    ):
        with pytest.raises(TypeError):
            wrong()
    old = version == "10.3.0"
    assert hasattr(trt.BuilderFlag, "FP16") == hasattr(builder, "platform_has_fast_fp16") == old
    assert hasattr(trt, "TilingOptimizationLevel") == hasattr(config, "tiling_optimization_level") == (not old)
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1  # of TensorRT 8


@pytest.mark.parametrize("version", EVERY)
def test_a_logger_must_call_its_base(version: str) -> None:
    trt = tensorrt_double.module(version)

    class Careless(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"ILogger\.__init__"):
        Careless()


def monitor(trt: ModuleType, answer: Any) -> Any:
    """A progress monitor that notes (call, phase, thread); `answer(phase, step)` decides what a step returns."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.calls: list[tuple[str, str, str]] = []

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.calls.append(("start", phase_name, threading.current_thread().name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return answer(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            self.calls.append(("finish", phase_name, threading.current_thread().name))

    return Monitor()


@pytest.mark.parametrize("version", EVERY)
def test_a_monitor_sees_nested_phases_from_two_threads_and_can_cancel(version: str) -> None:
    trt, builder, network, config, log = prepared(version, quantised_conv(), True)
    config.progress_monitor = seen = monitor(trt, lambda phase, step: True)
    assert builder.build_serialized_network(network, config) is not None
    order = [call[:2] for call in seen.calls]
    outer, inner = order[0][1], order[1][1]
    assert order == [("start", outer), ("start", inner), ("finish", inner), ("finish", outer)]
    assert len({thread for *_, thread in seen.calls}) == 2
    config.progress_monitor = monitor(trt, lambda phase, step: phase != inner)
    assert builder.build_serialized_network(network, config) is None
    assert "cancelled" in log.errors


@pytest.mark.parametrize("version", EVERY)
def test_an_error_in_a_monitor_reaches_no_caller(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(phase: str, step: int) -> bool:
        raise KeyboardInterrupt

    trt, builder, network, config, _ = prepared(version, quantised_conv(), True)
    config.progress_monitor = monitor(trt, fail)
    assert builder.build_serialized_network(network, config) is None
    assert "Exception caught in step_complete()" in capsys.readouterr().err


@pytest.mark.parametrize("version", EVERY)
def test_the_timing_cache_fits_one_tensorrt_and_one_gpu(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, builder, network, config, log = prepared(version, quantised_conv(), True)
    assert config.set_timing_cache(config.create_timing_cache(b""), False)
    builder.build_serialized_network(network, config)
    stored = bytes(config.get_timing_cache().serialize())
    fresh = builder.create_builder_config()
    assert fresh.set_timing_cache(fresh.create_timing_cache(stored), False)
    assert bytes(fresh.get_timing_cache().serialize()) == stored
    assert fresh.create_timing_cache(stored[1:]) is None and "damaged" in log.errors
    other = tensorrt_double.module(next(each for each in EVERY if each != version))
    foreign = other.Builder(Log(other).logger).create_builder_config()
    cache = foreign.create_timing_cache(stored)
    assert not foreign.set_timing_cache(cache, False) and foreign.set_timing_cache(cache, True)
    here = {"gpu": "another GPU", "compute_capability": "8.9"}
    monkeypatch.setattr(tensorrt_double.config, "device_identity", lambda: here)
    assert not fresh.set_timing_cache(fresh.create_timing_cache(stored), False)
    assert "does not fit" in log.errors


def information(version: str, built: onnx.ModelProto, strong: bool, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    """The inspector's JSON of the built graph, for two pictures."""
    trt, builder, network, config, log = prepared(version, built, strong, flags)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.errors
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    blind = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    key = "Format/Datatype" if version == "10.3.0" else "Format"
    assert {tensor[key] for layer in blind["Layers"] for tensor in layer["Inputs"]} == {"N/A due to dynamic shapes"}
    inspector.execution_context = context = engine.create_execution_context()
    assert context.set_input_shape("x", SHAPES[1])
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, HALF])
def test_a_convolution_between_q_and_dq_is_one_int8_layer(version: str, kind: int) -> None:
    found = information(version, quantised_conv(kind), True)
    layers = [(layer["LayerType"], layer.get("Origin"), layer.get("Weights")) for layer in found["Layers"]]
    weights = {"Type": "Int8", "Count": CHANNELS * CHANNELS * 9}
    assert layers == [("Reformat", "QDQ", None), ("CaskConvolution", None, weights)]
    conv = found["Layers"][1]
    assert conv["Name"] == "conv + relu" and conv["HasReLU"] == 1 and conv["Inputs"][0]["Dimensions"] == [2, 4, 8, 8]
    if version == "10.3.0":
        assert found["Bindings"] == ["x", "y"] and "Int8" in conv["Inputs"][0]["Format/Datatype"]
    else:
        assert conv["Inputs"][0]["DataType"] == "Int8"
        assert [(io["Name"], io["IOMode"]) for io in found["I/O Tensors"]] == [("x", "Input"), ("y", "Output")]
        assert found["I/O Tensors"][0]["ProfileInfo"][0]["MaxShape"] == list(SHAPES[2])


@pytest.mark.parametrize("version", EVERY)
def test_q_between_convolution_and_relu_leaves_a_dq_alone(version: str) -> None:
    """Misplaced: the DQ after the convolution's Q cannot go into a Relu."""
    built = quantised_conv()
    built.graph.node[4].output[0] = "raw"
    for operator, source, target in (("QuantizeLinear", "raw", "raw_q"), ("DequantizeLinear", "raw_q", "sum")):
        node = helper.make_node(operator, [source, "x_scale", "x_zero"], [target], f"raw.{operator[0].lower()}")
        built.graph.node.insert(len(built.graph.node) - 1, node)
    layers = information(version, built, True)["Layers"]
    alone = [layer["Name"] for layer in layers if layer.get("Origin") == "QDQ"]
    assert alone == ["x.q", "raw.d"]


def test_the_weak_route_runs_float_convolutions_in_half() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])
    weights = {"w": np.ones((CHANNELS, CHANNELS, 3, 3), np.float32)}
    shape = (TensorProto.FLOAT, ["N", CHANNELS, SIDE, SIDE])
    built = model([node], weights, {"x": shape}, {"y": shape})
    found = {flags: information("10.3.0", built, False, flags)["Layers"] for flags in ((), ("FP16",))}
    kinds = {
        flags: [(layer["LayerType"], layer.get("Weights", {}).get("Type")) for layer in found[flags]] for flags in found
    }
    assert kinds == {
        (): [("CaskConvolution", "Float")],
        ("FP16",): [("Reformat", None), ("CaskConvolution", "Half")],
    }
