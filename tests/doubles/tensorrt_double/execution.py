"""One inference: ONNX Runtime on the memory at the bound addresses, in the order of a stream."""

from __future__ import annotations

import ctypes
import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .device import driver
from .marks import report
from .onnx_graph import Graph

ILLEGAL_ADDRESS = 700  # CUDA_ERROR_ILLEGAL_ADDRESS
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NUMPY_TYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What one `execute_async_v3` was asked to do: shapes and addresses as they were then, as a graph keeps them."""

    engine: Any
    shapes: dict[str, tuple[int, ...]]
    addresses: dict[str, int]
    consumed_event: int
    profiler: Any


# Jobs that wait in a stream, and those of captured graphs, which may run as long as the process lives.
JOBS: dict[int, tuple[Job, bool]] = {}
COUNTER = itertools.count(1)


def enqueue(job: Job, stream: int) -> str | None:
    """Put the job into the stream; what failed, or None."""
    library = driver()
    if library is None:
        return "no CUDA driver double is loaded in this process, so there is no device to run on"
    if misplaced(job):
        library.double_break(ILLEGAL_ADDRESS)  # on a GPU, too, the call returns, and the next that waits tells
        return None
    number = next(COUNTER)
    JOBS[number] = (job, is_capturing(stream))
    launch = library.cuLaunchHostFunc
    launch.argtypes = [ctypes.c_void_p, HOST_FUNCTION, ctypes.c_void_p]
    status = launch(stream, run_numbered, number)
    if status == 0 and job.consumed_event:
        status = library.cuEventRecord(ctypes.c_void_p(job.consumed_event), ctypes.c_void_p(stream))
    if status != 0:
        JOBS.pop(number, None)
        return f"Cuda Runtime (CUDA error {status} while the work was put into the stream)"
    return None


def is_capturing(stream: int) -> bool:
    """Whether what is put into the stream is recorded for a graph."""
    library, status = driver(), ctypes.c_int()
    if library is None:
        return False
    library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
    return bool(status.value)


@HOST_FUNCTION
def run_numbered(number: int) -> None:
    """Called by the driver in the order of the stream."""
    job, captured = JOBS[number]
    try:
        run(job)
    except Exception as error:
        report(job.engine._state.logger, "ERROR", f"IExecutionContext::enqueueV3: Error Code 1: {error!r}")
    if not captured:
        del JOBS[number]


def run(job: Job) -> None:
    """Read the inputs at their addresses, run the network, write the outputs at theirs."""
    engine, begin = job.engine, time.perf_counter()
    session = session_of(engine)
    feeds = {name: memory(engine, name, shape, job.addresses[name]) for name, shape in job.shapes.items()}
    names = [name for name in engine._state.io if name not in engine._state.inputs]
    for name, values in zip(names, session.run(names, feeds), strict=True):
        memory(engine, name, values.shape, job.addresses[name])[...] = values
    if job.profiler is not None:
        layers = engine._state.header["layers"]
        share_ms = (time.perf_counter() - begin) * 1e3 / max(1, len(layers))
        for layer in layers:
            job.profiler.report_layer_time(layer["Name"], share_ms)


def memory(engine: Any, name: str, shape: tuple[int, ...], address: int) -> np.ndarray:
    """The memory of one I/O tensor as an array; device addresses of the driver double are host pointers."""
    kind = np.dtype(NUMPY_TYPES[engine._state.graph.member(name)])
    buffer = (ctypes.c_ubyte * (math.prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(buffer, kind).reshape(shape)


def misplaced(job: Job) -> bool:
    """Whether a tensor does not lie, as a whole, in device or pinned memory."""
    for name, address in job.addresses.items():
        shape = job.shapes.get(name) or output_shape(job.engine, name, job.shapes)
        if bytes_at(address) < math.prod(shape) * np.dtype(NUMPY_TYPES[job.engine._state.graph.member(name)]).itemsize:
            return True
    return False


def bytes_at(address: int) -> float:
    """Bytes from an address to its allocation's end: 0 for none, infinite in pinned memory, whose end is hidden."""
    library, start, size = driver(), ctypes.c_uint64(), ctypes.c_size_t()
    assert library is not None
    if library.cuMemGetAddressRange_v2(ctypes.byref(start), ctypes.byref(size), ctypes.c_uint64(address)) == 0:
        return start.value + size.value - address
    pinned = library.cuMemHostGetFlags(ctypes.byref(ctypes.c_uint()), ctypes.c_void_p(address)) == 0
    return math.inf if pinned else 0


def session_of(engine: Any) -> Any:
    """The engine's ONNX Runtime session, made at the first use.

    Q/DQ pairs are computed as they stand: fused into QLinearConv they would round differently from TensorRT.
    """
    import onnxruntime

    state = engine._state
    if not hasattr(state, "session"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        state.session = onnxruntime.InferenceSession(state.onnx_bytes, options, providers=["CPUExecutionProvider"])
    return state.session


def output_shape(engine: Any, name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of a tensor for these input shapes, -1 for sizes that they leave open."""
    state = engine._state
    declared = state.graph.shapes[name]
    if -1 not in declared:
        return declared
    known = state.__dict__.setdefault("output_shapes", {})
    key = (name, *sorted(shapes.items()))
    if key not in known:
        model = onnx.load_model_from_string(state.onnx_bytes)
        for value in model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
                dim.dim_value = size
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        known[key] = Graph(model).shapes[name]
    return known[key]
