"""Classes that users subclass or hold: loggers, monitors, profiles, memory, dimensions."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from .enums import enumeration
from .marks import only, value_property

PUBLIC = (
    "ILogger", "Logger", "IProgressMonitor", "IInt8Calibrator", "IInt8EntropyCalibrator2", "IProfiler", "Profiler",
    "IHostMemory", "Dims", "IOptimizationProfile", "init_libnvinfer_plugins", "volume", "nptype",
)  # fmt: skip


class ILogger:
    """Base class of loggers; `log` is to be overridden."""

    __slots__ = ("__weakref__", "_state")
    Severity = enumeration("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity.__members__.values()

    def __init__(self) -> None:
        self._state = SimpleNamespace(min_severity=None)

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::ILogger::log"')


class Logger(ILogger):
    """Logger that prints to stderr what is at least as severe as `min_severity`."""

    __slots__ = ()

    def __init__(self, min_severity: ILogger.Severity = ILogger.WARNING) -> None:
        self._state = SimpleNamespace(min_severity=min_severity)

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        if severity <= self._state.min_severity:
            stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
            print(f"[{stamp}] [TRT] [{severity.name.replace('INTERNAL_ERROR', 'F')[0]}] {msg}", file=sys.stderr)

    min_severity = value_property("min_severity", "ILogger.Severity")


class IProgressMonitor:
    """Told of the build's phases, from several threads; `step_complete` that returns False cancels the build."""

    __slots__ = ("__weakref__", "_state")

    def __init__(self) -> None:
        self._state = SimpleNamespace()

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::IProgressMonitor::phase_finish"')


@only(10)
class IInt8Calibrator:
    """Base class of calibrators."""

    __slots__ = ("__weakref__", "_state")

    def __init__(self) -> None:
        self._state = SimpleNamespace()


@only(10)
class IInt8EntropyCalibrator2(IInt8Calibrator):
    """Asked for a cache of scales, then for pictures; all four methods are to be overridden."""

    __slots__ = ()

    def __init__(self) -> None:
        self._state = SimpleNamespace()

    def get_batch_size(self) -> int:
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::get_batch_size"')

    def get_batch(self, names: list) -> Any:
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::get_batch"')

    def read_calibration_cache(self) -> Any:
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::read_calibration_cache"')

    def write_calibration_cache(self, cache: Buffer) -> None:  # noqa: F821
        raise RuntimeError('Tried to call pure virtual function "IInt8EntropyCalibrator2::write_calibration_cache"')


class IProfiler:
    """Told of each layer's time."""

    __slots__ = ("__weakref__", "_state")

    def __init__(self) -> None:
        self._state = SimpleNamespace()

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise RuntimeError('Tried to call pure virtual function "nvinfer1::IProfiler::report_layer_time"')


class Profiler(IProfiler):
    """Profiler that prints to stdout."""

    __slots__ = ()

    def __init__(self) -> None:
        self._state = SimpleNamespace()

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        print(f"{layer_name}: {ms}ms")


class IHostMemory(bytes):
    """Bytes that TensorRT owns, to be read through the buffer protocol; no length, no items, no methods of bytes.

    A subclass of bytes because a class in Python gives a buffer only from 3.12 on.
    """

    @property
    def dtype(self) -> Any:
        return self._trt.DataType.INT8  # type: ignore[attr-defined]

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    def __getattribute__(self, name: str) -> Any:
        if hasattr(bytes, name) and not name.startswith("__"):
            raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute {name!r}")
        return bytes.__getattribute__(self, name)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len()")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("'tensorrt.IHostMemory' object is not subscriptable")

    def __iter__(self) -> Any:
        raise TypeError("'tensorrt.IHostMemory' object is not iterable")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Dims:
    """A shape: a sequence of at most 8 integers, equal to any sequence with the same ones."""

    __slots__ = ("_state",)
    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] = ()) -> None:  # noqa: F821
        if len(tuple(shape)) > self.MAX_DIMS:
            raise ValueError(f"The {len(tuple(shape))} dimensions exceed the maximum of {self.MAX_DIMS}")
        self._state = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._state)

    def __getitem__(self, index: Any) -> Any:
        return self._state[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and tuple(other) == self._state

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(self._state)


class IOptimizationProfile:
    """Least, best and greatest shape of each dynamic input."""

    __slots__ = ("_state",)

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        shapes = [tuple(shape) for shape in (min, opt, max)]
        ranks = {len(shape) for shape in shapes}
        if len(ranks) != 1 or not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self._state.shapes[input] = shapes

    def get_shape(self, input: str) -> list:
        return [self._trt.Dims(shape) for shape in self._state.shapes.get(input, [])]  # type: ignore[attr-defined]

    extra_memory_target = value_property("extra_memory_target", "float")
    profile_stream = value_property("profile_stream", "int", generations=(11,))

    def __bool__(self) -> bool:
        return bool(self._state.shapes)


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    """Register TensorRT's plugins; there are none here, and none is needed."""
    return True


def volume(iterable: Any) -> int:
    """Product of the sizes; 1 for none."""
    return math.prod(iterable)


def nptype(trt_type: Any) -> Any:
    """The numpy type of a DataType; TypeError where numpy has none."""
    import numpy as np

    names = {
        "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
        "BOOL": np.bool_, "UINT8": np.uint8,
    }  # fmt: skip
    if trt_type.name not in names:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return names[trt_type.name]
