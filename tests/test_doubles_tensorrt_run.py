"""The TensorRT double's runtime on the driver double: plans, shapes, addresses, execution in the order of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from runtime.cuda import Device, open_device
from tests.doubles import tensorrt_double
from tests.doubles.cuda_driver import CudaDouble
from tests.tensorrt_graphs import CHANNELS, SIDE, quantised_conv
from tests.test_doubles_tensorrt_build import SHAPES, prepared
from tests.test_doubles_tensorrt_rules import Log

ATOL = 1e-3  # 37 float32 terms of up to 100, summed in another order: 37 * 100 * 2**-24, rounded up
STEP = 0.1  # scale of the quantised input


@dataclass
class Bench:
    """A plan with all that is needed to run it."""

    trt: ModuleType
    device: Device
    log: Log
    plan: bytes
    engine: Any
    context: Any

    def bind(self, pictures: int) -> tuple[Any, Any]:
        """Buffers for so many pictures, bound to x and y."""
        sizes = pictures * CHANNELS * SIDE * SIDE * 4
        buffers = self.device.allocate(sizes), self.device.allocate(sizes)
        for name, buffer in zip(("x", "y"), buffers, strict=True):
            assert self.context.set_tensor_address(name, buffer.address)
        assert self.context.set_input_shape("x", (pictures, CHANNELS, SIDE, SIDE))
        return buffers


@pytest.fixture(params=tensorrt_double.VERSIONS)
def bench(request: pytest.FixtureRequest, cuda_double: CudaDouble) -> Iterator[Bench]:
    trt, builder, network, config, log = prepared(request.param, quantised_conv(), True)
    plan = bytes(builder.build_serialized_network(network, config))
    with open_device() as device, device.current():
        engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
        made = Bench(trt, device, log, plan, engine, engine.create_execution_context())
        yield made
        made.context = made.engine = None


def pictures(count: int, seed: int) -> np.ndarray:
    """Values in the middle of quantisation steps, which every implementation rounds alike."""
    steps = np.random.default_rng(seed).integers(-100, 100, (count, CHANNELS, SIDE, SIDE))
    return (steps * STEP).astype(np.float32)


def expected(data: np.ndarray) -> np.ndarray:
    """By onnx's own evaluator, which is written in numpy."""
    return ReferenceEvaluator(quantised_conv()).run(None, {"x": data})[0]


def test_the_output_is_that_of_the_graph(bench: Bench) -> None:
    stream = bench.device.stream()
    x, y = bench.bind(2)
    data, found = pictures(2, 0), np.empty((2, CHANNELS, SIDE, SIDE), np.float32)
    bench.device.copy_to_device(x, data, stream)
    assert bench.context.execute_async_v3(stream.handle)
    bench.device.copy_to_host(found, y, stream)
    stream.synchronize()
    np.testing.assert_allclose(found, expected(data), rtol=0, atol=ATOL)
    assert np.abs(found).max() > 1 and bench.log.errors == ""


def test_the_work_waits_for_its_turn_in_the_stream(bench: Bench, cuda_double: CudaDouble) -> None:
    cuda_double.set_deferred(True)
    stream = bench.device.stream()
    x, y = bench.bind(1)
    data = pictures(1, 1)
    found = bench.device.allocate_pinned(data.shape, np.float32).array  # a copy to other memory would wait by itself
    found[...] = 0
    bench.device.copy_to_device(x, data, stream)
    assert bench.context.execute_async_v3(stream.handle)
    bench.device.copy_to_host(found, y, stream)
    assert not found.any()
    stream.synchronize()
    np.testing.assert_allclose(found, expected(data), rtol=0, atol=ATOL)


def test_a_captured_run_keeps_its_shapes_and_addresses(bench: Bench) -> None:
    stream, found = bench.device.stream(), np.empty((1, CHANNELS, SIDE, SIDE), np.float32)
    x, y = bench.bind(1)
    with bench.device.capture(stream) as graph:
        assert not bench.context.execute_async_v3(stream.handle)
    assert "enqueue once before" in bench.log.errors
    graph.close()
    assert bench.context.execute_async_v3(stream.handle)
    with bench.device.capture(stream) as graph:
        assert bench.context.execute_async_v3(stream.handle)
    bench.bind(3)  # the context moves on, the graph does not
    for seed in (2, 3):
        data = pictures(1, seed)
        bench.device.copy_to_device(x, data, stream)
        graph.launch(stream)
        bench.device.copy_to_host(found, y, stream)
        stream.synchronize()
        np.testing.assert_allclose(found, expected(data), rtol=0, atol=ATOL)
    graph.close()


def test_what_the_engine_tells(bench: Bench) -> None:
    engine, context = bench.engine, bench.context
    assert [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)] == ["x", "y"]
    assert [engine.get_tensor_mode(name).name for name in ("x", "y", "z")] == ["INPUT", "OUTPUT", "NONE"]
    assert tuple(engine.get_tensor_shape("y")) == (-1, CHANNELS, SIDE, SIDE)
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == SHAPES
    assert engine.get_tensor_dtype("x") == bench.trt.float32 and engine.device_memory_size_v2 > 0
    assert context.infer_shapes() == ["x"] and context.get_tensor_shape("y")[0] == -1
    bench.bind(3)
    assert context.infer_shapes() == [] and tuple(context.get_tensor_shape("y")) == SHAPES[2]
    assert hasattr(engine, "device_memory_size") == (bench.trt.__version__ == "10.3.0")


def test_shapes_and_addresses_that_do_not_fit_are_refused(bench: Bench) -> None:
    context, log = bench.context, bench.log
    stream = bench.device.stream()
    refused = [
        (lambda: context.set_input_shape("x", SHAPES[2][:3]), "Static dimension mismatch"),
        (lambda: context.set_input_shape("x", (1, CHANNELS, SIDE, SIDE + 1)), "Static dimension mismatch"),
        (lambda: context.set_input_shape("x", (4, CHANNELS, SIDE, SIDE)), "does not satisfy any optimization profiles"),
        (lambda: context.set_input_shape("y", SHAPES[0]), "y is not an input"),
        (lambda: context.execute_async_v3(stream.handle), "shapes of the inputs x are not set"),
        (lambda: context.set_input_shape("x", SHAPES[0]) and context.execute_async_v3(stream.handle),
         "Address is not set for tensor x"),
        (lambda: context.set_tensor_address("x", 4096 + 128), "is not aligned to 256 bytes"),
        (lambda: context.set_tensor_address("z", 4096), "z is not an I/O tensor"),
        (lambda: context.set_optimization_profile_async(1, stream.handle), "no optimization profile 1"),
    ]  # fmt: skip
    for call, reason in refused:
        log.lines.clear()
        assert call() is False
        assert reason in log.errors


def test_memory_that_is_too_small_or_not_there_loses_the_device(bench: Bench, cuda_double: CudaDouble) -> None:
    stream = bench.device.stream()
    bench.bind(1)
    assert bench.context.set_input_shape("x", SHAPES[2])  # three pictures where there is room for one
    assert bench.context.execute_async_v3(stream.handle)
    with pytest.raises(Exception, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        stream.synchronize()


def test_a_context_needs_device_memory(bench: Bench, cuda_double: CudaDouble) -> None:
    cuda_double.set_memory_bytes(1 << 10)
    assert bench.engine.create_execution_context() is None
    assert "OutOfMemory" in bench.log.errors
    managed = bench.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert bench.engine.create_execution_context(managed) is not None


def test_a_build_needs_device_memory(cuda_double: CudaDouble) -> None:
    _, builder, network, config, log = prepared("11.4.0", quantised_conv(), True)
    with open_device() as device, device.current():
        cuda_double.set_memory_bytes(1 << 10)
        assert builder.build_serialized_network(network, config) is None
    assert "OutOfMemory" in log.errors


def test_a_context_gives_its_memory_back(bench: Bench, cuda_double: CudaDouble) -> None:
    before = cuda_double.live()["allocations"]
    second = bench.engine.create_execution_context()
    assert cuda_double.live()["allocations"] == before + 1
    del second
    assert cuda_double.live()["allocations"] == before


@pytest.mark.parametrize("spoil", ["byte", "tail", "head", "empty"])
def test_a_damaged_plan_is_refused(bench: Bench, spoil: str) -> None:
    plan = bytearray(bench.plan)
    plan[len(plan) // 2] ^= 1
    spoilt = {"byte": bytes(plan), "tail": bench.plan[:-1], "head": bench.plan[1:], "empty": b""}[spoil]
    assert bench.trt.Runtime(bench.log.logger).deserialize_cuda_engine(spoilt) is None
    assert "Serialization assertion" in bench.log.errors


def test_a_plan_of_another_tensorrt_is_refused(bench: Bench) -> None:
    other = tensorrt_double.module("11.4.0" if bench.trt.__version__ == "10.3.0" else "10.3.0")
    log = Log(other)
    assert other.Runtime(log.logger).deserialize_cuda_engine(bench.plan) is None
    assert f"expecting library version {other.__version__} got {bench.trt.__version__}" in log.errors


def test_a_plan_of_another_gpu_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_COMPUTE_CAPABILITY", "8.9")
    assert bench.trt.Runtime(bench.log.logger).deserialize_cuda_engine(bench.plan) is None
    assert "expecting compute 8.9 got compute 8.7" in bench.log.errors


def test_without_a_driver_double_nothing_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.bind(1)
    monkeypatch.setattr("tests.doubles.tensorrt_double.execution.driver", lambda: None)
    assert bench.context.execute_async_v3(0) is False
    assert "no CUDA driver double is loaded" in bench.log.errors


def test_a_profiler_hears_of_every_layer(bench: Bench) -> None:
    class Profiler(bench.trt.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            type(self).__mro__[1].__init__(self)
            self.names: list[str] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.names.append(layer_name)

    bench.bind(1)
    bench.context.profiler = heard = Profiler()
    stream = bench.device.stream()
    assert bench.context.execute_async_v3(stream.handle)
    stream.synchronize()
    assert heard.names == ["x.q", "conv + relu"]
