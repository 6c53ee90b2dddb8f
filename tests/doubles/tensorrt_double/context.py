"""Execution context: shapes, addresses, one inference."""

from __future__ import annotations

from typing import Any

from .device import DeviceMemory
from .execution import Job, enqueue, is_capturing, output_shape
from .marks import create, report, value_property

PUBLIC = ("IExecutionContext",)
ALIGNMENT_BYTES = 256


def new_context(engine: Any, strategy: Any) -> Any:
    """A context of the engine, or None where its device memory cannot be had."""
    own = strategy is None or strategy.name != "USER_MANAGED"
    memory = DeviceMemory(engine.device_memory_size_v2 if own else 0)
    if not memory.taken:
        need = f"{memory.size_bytes} bytes of device memory for the execution context"
        report(engine._state.logger, "ERROR", f"Error Code 2: OutOfMemory (no further information: {need})")
        return None
    shapes = {name: engine._state.graph.shapes[name] for name in engine._state.inputs}
    return create(
        engine._trt,
        "IExecutionContext",
        engine=engine,
        name="",
        shapes={name: shape for name, shape in shapes.items() if -1 not in shape},
        addresses={},
        profile=0,
        memory=memory,
        needs_memory=not own,
        resolved=None,
        consumed_event=0,
        profiler=None,
        enqueue_emits_profile=True,
        debug_sync=False,
        nvtx_verbosity=engine.profiling_verbosity,
        persistent_cache_limit=0,
    )


class IExecutionContext:
    """Runs an engine on the memory at the bound addresses."""

    __slots__ = ("__weakref__", "_state")

    engine = value_property("engine", "ICudaEngine", read_only=True)
    name = value_property("name", "str")
    profiler = value_property("profiler", "IProfiler | None")
    enqueue_emits_profile = value_property("enqueue_emits_profile", "bool")
    debug_sync = value_property("debug_sync", "bool")
    nvtx_verbosity = value_property("nvtx_verbosity", "ProfilingVerbosity")
    persistent_cache_limit = value_property("persistent_cache_limit", "int")

    @property
    def active_optimization_profile(self) -> int:
        return self._state.profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._state.engine.num_optimization_profiles:
            return self._refuse("setOptimizationProfileAsync", f"there is no optimization profile {profile_index}")
        self._state.profile = int(profile_index)
        return True

    def set_input_shape(self, name: str, shape: tuple | list | Dims) -> bool:  # noqa: F821
        engine, asked = self._state.engine, tuple(int(size) for size in shape)
        if name not in engine._state.inputs:
            return self._refuse("setInputShape", f"{name} is not an input")
        declared = engine._state.graph.shapes[name]
        if len(asked) != len(declared) or any(d not in (-1, a) for a, d in zip(asked, declared, strict=True)):
            text = f"Static dimension mismatch while setting input shape for {name}. Set dimensions are {asked}."
            return self._refuse("setInputShape", f"{text} Expected dimensions are {declared}.")
        least, _, most = (tuple(s) for s in engine.get_tensor_profile_shape(name, self._state.profile))
        if not all(low <= size <= high for low, size, high in zip(least, asked, most, strict=True)):
            text = f"Set dimension {asked} for tensor {name} does not satisfy any optimization profiles."
            return self._refuse("setInputShape", f"{text} Valid range for profile: {least}..{most}.")
        self._state.shapes[name] = asked
        return True

    def infer_shapes(self) -> list:
        return [name for name in self._state.engine._state.inputs if name not in self._state.shapes]

    def get_tensor_shape(self, name: str) -> Any:
        state = self._state
        if name in state.engine._state.inputs:
            shape = state.shapes.get(name, state.engine._state.graph.shapes[name])
        else:
            shape = output_shape(state.engine, name, state.shapes)
        return self._trt.Dims(shape)  # type: ignore[attr-defined]

    def get_tensor_strides(self, name: str) -> Any:
        shape, strides = tuple(self.get_tensor_shape(name)), []
        for axis in range(len(shape)):
            step = 1
            for size in shape[axis + 1 :]:
                step *= size
            strides.append(step)
        return self._trt.Dims(strides)  # type: ignore[attr-defined]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._state.engine._state.io:
            return self._refuse("setTensorAddress", f"{name} is not an I/O tensor")
        if int(memory) % ALIGNMENT_BYTES:
            text = f"address {int(memory):#x} of {name} is not aligned to {ALIGNMENT_BYTES} bytes"
            return self._refuse("setTensorAddress", text)
        self._state.addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._state.addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        needed = self._state.engine.device_memory_size_v2
        if int(size) < needed or int(memory) % ALIGNMENT_BYTES:
            self._refuse("setDeviceMemoryV2", f"{needed} bytes, aligned to {ALIGNMENT_BYTES}, are needed, got {size}")
            return
        self._state.needs_memory = False

    def update_device_memory_size_for_shapes(self) -> int:
        return self._state.engine.device_memory_size_v2

    def set_input_consumed_event(self, event: int) -> bool:
        self._state.consumed_event = int(event)
        return True

    def get_input_consumed_event(self) -> int:
        return self._state.consumed_event

    def set_aux_streams(self, aux_streams: Sequence[int]) -> None:  # noqa: F821
        return None

    def get_max_output_size(self, name: str) -> int:
        return output_bytes(self, name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        state = self._state
        missing = self.infer_shapes()
        if missing:
            return self._refuse("enqueueV3", f"the shapes of the inputs {', '.join(missing)} are not set")
        unbound = [name for name in state.engine._state.io if not state.addresses.get(name)]
        if unbound:
            text = f"Address is not set for tensor {unbound[0]}. Call setTensorAddress before enqueueV3"
            return self._refuse("enqueueV3", text)
        if state.needs_memory:
            return self._refuse("enqueueV3", "no device memory: call setDeviceMemoryV2 before enqueueV3")
        if is_capturing(int(stream_handle)) and state.engine._state.dla_core is not None:
            return self._refuse("enqueueV3", "operation not permitted when stream is capturing: DLA layers")
        if is_capturing(int(stream_handle)) and state.resolved != state.shapes:
            # What depends on shapes is worked out in the first run, with calls that cannot be captured.
            return self._refuse("enqueueV3", "operation not permitted when stream is capturing: enqueue once before")
        state.resolved = dict(state.shapes)
        if not int(stream_handle):
            text = "Using default stream in enqueueV3() may lead to performance issues"
            report(state.engine._state.logger, "WARNING", text)
        job = Job(state.engine, dict(state.shapes), dict(state.addresses), state.consumed_event, state.profiler)
        failure = enqueue(job, int(stream_handle))
        return True if failure is None else self._refuse("enqueueV3", failure)

    def execute_v2(self, bindings: Sequence[int]) -> bool:  # noqa: F821
        names = self._state.engine._state.io
        if len(bindings) != len(names):
            return self._refuse("executeV2", f"{len(names)} bindings are needed, got {len(bindings)}")
        placed = all(self.set_tensor_address(name, address) for name, address in zip(names, bindings, strict=True))
        return placed and self.execute_async_v3(0)

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self._state.memory.free()

    def _refuse(self, call: str, reason: str) -> bool:
        logger = self._state.engine._state.logger
        report(logger, "ERROR", f"IExecutionContext::{call}: Error Code 3: API Usage Error ({reason})")
        return False


def output_bytes(context: Any, name: str) -> int:
    """Bytes of an output at the greatest shapes of the active profile, rounded up to whole alignments."""
    engine = context._state.engine
    most = {n: tuple(engine.get_tensor_profile_shape(n, context._state.profile)[2]) for n in engine._state.inputs}
    size = engine.get_tensor_bytes_per_component(name)
    for side in output_shape(engine, name, most):
        size *= side
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
