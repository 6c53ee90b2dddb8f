"""Runtime and engine."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import onnx

from . import plan as plans
from .context import new_context
from .device import device_identity
from .dla import core_count
from .inspector import engine_information, layer_information
from .marks import create, host_memory, only, report, value_property
from .onnx_graph import Graph

PUBLIC = ("Runtime", "ICudaEngine", "EngineInspector", "ISerializationConfig")


class Runtime:
    """Makes engines of plans."""

    __slots__ = ("_state",)

    def __init__(self, logger: ILogger) -> None:  # noqa: F821
        self._state = SimpleNamespace(
            logger=logger, max_threads=1, DLA_core=-1, engine_host_code_allowed=False, temporary_directory=""
        )

    logger = value_property("logger", "ILogger", read_only=True)
    max_threads = value_property("max_threads", "int")
    DLA_core = value_property("DLA_core", "int")
    engine_host_code_allowed = value_property("engine_host_code_allowed", "bool")
    temporary_directory = value_property("temporary_directory", "str")

    @property
    def num_DLA_cores(self) -> int:
        return core_count()

    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> Any:  # noqa: F821
        plan = bytes(memoryview(serialized_engine))
        trt, logger = self._trt, self._state.logger  # type: ignore[attr-defined]
        try:
            header, onnx_bytes = plans.parts_from_plan(plan)
            check_origin(header, trt.__version__)
            core = chosen_core(header, self.DLA_core)
        except ValueError as error:
            report(logger, "ERROR", f"IRuntime::deserializeCudaEngine: Error Code 1: {error}")
            return None
        return new_engine(trt, logger, header, onnx_bytes, plan, core)


def chosen_core(header: dict[str, Any], asked: int) -> int | None:
    """The DLA core that an engine runs on: core 0 where none was asked for, whatever it was built for, as in TensorRT.

    ValueError where there is no such core; None for an engine that needs none.
    """
    if not header["dla"]:
        return None
    core = max(asked, 0)
    if core >= core_count():
        raise ValueError(f"the engine has DLA layers, and there is no DLA core {core}")
    return core


def check_origin(header: dict[str, Any], version: str) -> None:
    """ValueError where a plan comes from another TensorRT or another kind of GPU."""
    if header["tensorrt"] != version:
        text = f"expecting library version {version} got {header['tensorrt']}"
        raise ValueError(
            f"The engine plan file is not compatible with this version of TensorRT, {text}, please rebuild."
        )
    here = device_identity()["compute_capability"]
    if header["compute_capability"] != here:
        text = f"expecting compute {here} got compute {header['compute_capability']}"
        raise ValueError(f"The engine plan file is generated on an incompatible device, {text}, please rebuild.")


def new_engine(
    trt: Any, logger: Any, header: dict[str, Any], onnx_bytes: bytes, plan: bytes, core: int | None = None
) -> Any:
    graph = Graph(onnx.load_model_from_string(onnx_bytes))
    io = [value.name for value in (*graph.inputs, *graph.outputs)]
    return create(
        trt,
        "ICudaEngine",
        logger=logger,
        header=header,
        onnx_bytes=onnx_bytes,
        plan=plan,
        graph=graph,
        io=io,
        inputs=[value.name for value in graph.inputs],
        dla_core=core,
    )


class ICudaEngine:
    """A plan that is ready to run."""

    __slots__ = ("__weakref__", "_state")

    @property
    def name(self) -> str:
        return self._state.header["name"]

    @property
    def num_io_tensors(self) -> int:
        return len(self._state.io)

    @property
    def num_layers(self) -> int:
        return len(self._state.header["layers"])

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._state.header["profiles"]))

    @property
    def num_aux_streams(self) -> int:
        return max(0, self._state.header["max_aux_streams"])

    @property
    def refittable(self) -> bool:
        return False

    @property
    def profiling_verbosity(self) -> Any:
        return self._trt.ProfilingVerbosity.__members__[self._state.header["verbosity"]]  # type: ignore[attr-defined]

    @property
    def hardware_compatibility_level(self) -> Any:
        level = self._state.header["hardware_compatibility_level"]
        return self._trt.HardwareCompatibilityLevel.__members__[level]  # type: ignore[attr-defined]

    @property
    def engine_capability(self) -> Any:
        return self._trt.EngineCapability.STANDARD  # type: ignore[attr-defined]

    @property
    def device_memory_size_v2(self) -> int:
        return self._state.header["device_memory_bytes"]

    @property
    @only(10)
    def device_memory_size(self) -> int:
        return self._state.header["device_memory_bytes"]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._state.header["device_memory_bytes"]

    def get_tensor_name(self, index: int) -> str:
        return self._state.io[index]

    def __getitem__(self, index: int) -> str:
        return self._state.io[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode  # type: ignore[attr-defined]
        if name not in self._state.io:
            return modes.NONE
        return modes.INPUT if name in self._state.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        self._known(name, "getTensorDataType")
        return self._trt.DataType.__members__[self._state.graph.member(name)]  # type: ignore[attr-defined]

    def get_tensor_shape(self, name: str) -> Any:
        shape = self._state.graph.shapes[name] if self._known(name, "getTensorShape") else ()
        return self._trt.Dims(shape)  # type: ignore[attr-defined]

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE  # type: ignore[attr-defined]

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return self._trt.TensorFormat.LINEAR  # type: ignore[attr-defined]

    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        kinds = {"FLOAT": "FP32", "HALF": "FP16", "UINT8": "UInt8", "INT8": "INT8"}
        kind = self._state.graph.member(name)
        return f"Row major linear {kinds.get(kind, kind)} format (kLINEAR)"

    def get_tensor_vectorized_dim(self, name: str, profile_index: int = 0) -> int:
        return -1

    def get_tensor_components_per_element(self, name: str, profile_index: int = 0) -> int:
        return -1

    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        return math.ceil(self.get_tensor_dtype(name).itemsize)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list:
        profiles = self._state.header["profiles"]
        shapes = profiles[profile_index].get(name) if profiles else [self._state.graph.shapes[name]] * 3
        return [self._trt.Dims(shape) for shape in shapes or []]  # type: ignore[attr-defined]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def serialize(self) -> Any:
        return host_memory(self._trt, self._state.plan)  # type: ignore[attr-defined]

    def create_engine_inspector(self) -> Any:
        return create(self._trt, "EngineInspector", engine=self, execution_context=None)  # type: ignore[attr-defined]

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = None,  # type: ignore # noqa: F821
    ) -> Any:
        return new_context(self, strategy)

    def _known(self, name: str, call: str) -> bool:
        if name not in self._state.io:
            report(self._state.logger, "ERROR", f"ICudaEngine::{call}: Error Code 3: {name} is not an I/O tensor")
        return name in self._state.io


class EngineInspector:
    """What an engine's layers became."""

    __slots__ = ("_state",)

    execution_context = value_property("execution_context", "IExecutionContext | None")

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: F821
        return engine_information(self._state.engine, self._state.execution_context, format.name == "JSON")

    def get_layer_information(self, layer_index: int, format: LayerInformationFormat) -> str:  # noqa: F821
        context = self._state.execution_context
        return layer_information(self._state.engine, context, int(layer_index), format.name == "JSON")


class ISerializationConfig:
    """Settings of a serialisation; none of them changes a plan here."""

    __slots__ = ("_state",)

    flags = value_property("flags", "int")
