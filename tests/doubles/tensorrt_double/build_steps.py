"""The build itself: phases that a monitor follows and can cancel, and the plan at the end."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from typing import Any

from . import plan as plans
from .build_checks import Refused, flag_set
from .device import device_identity, free_bytes
from .dla import placed_nodes
from .implicit import quantised_graph, scales_from_cache
from .inspector import stored_layer
from .layers import Layer, layers_from_graph
from .onnx_graph import Graph

BUILD_PHASE, TIMING_PHASE = "Building engine from network", "Timing graph nodes"
# How long one step of the build takes, in milliseconds; a test that cancels sets more.
STEP_VARIABLE = "TENSORRT_DOUBLE_STEP_MS"
WORKSPACE_SHARE = 8  # of a kernel's output, in scratch memory: small enough for every real limit
BYTES = {"Float": 4, "Half": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}


class Cancelled(Exception):
    """A progress monitor's `step_complete` returned False."""


def plan_from_network(trt: Any, network: Any, config: Any, progress: Progress) -> bytes:
    """Time every layer, then put the plan together."""
    graph, state = network._state.graph, config._state
    half = flag_set(trt, config, "FP16")
    placed = placed_nodes(trt, network, config, Refused)
    on_dla = {node.name for node in graph.nodes if id(node) in placed}
    if state.int8_calibrator is not None and flag_set(trt, config, "INT8"):
        made = {name for node in graph.nodes if id(node) in placed for name in node.output}
        on_dla |= {f"{name}.calib.{operator}" for name in made for operator in ("Q", "DQ")}
        scales = scales_from_cache(trt, state.int8_calibrator)
        graph = quantised_graph(graph, scales, constrained_nodes(trt, network, config), placed)
    layers = layers_from_graph(graph, half, on_dla)
    progress.start(BUILD_PHASE, None, 3)
    progress.step(BUILD_PHASE, 0)
    in_worker_thread(lambda: timed(config, layers, progress))
    progress.step(BUILD_PHASE, 1)
    check_memory(trt, config, layers, graph)
    sizes = [tensor_bytes(graph, name, largest_batch(config)) for layer in layers for name in layer.outputs]
    header = {
        "tensorrt": trt.__version__,
        **device_identity(),
        "name": network.name,
        "strong": network._state.strong,
        "dla": bool(on_dla),
        "profiles": state.profiles,
        "verbosity": state.profiling_verbosity.name,
        "hardware_compatibility_level": state.hardware_compatibility_level.name,
        "max_aux_streams": state.max_aux_streams,
        "device_memory_bytes": -(-2 * max(sizes, default=0) // 512) * 512,
        "layers": [stored_layer(layer, graph, half) for layer in layers],
    }
    progress.step(BUILD_PHASE, 2)
    progress.finish(BUILD_PHASE)
    return plans.plan_from_parts(header, graph.model.SerializeToString())


def constrained_nodes(trt: Any, network: Any, config: Any) -> set[int]:
    """Ids of the nodes that must run in half precision."""
    if not flag_set(trt, config, "OBEY_PRECISION_CONSTRAINTS"):
        return set()
    return {id(each._state.node) for each in network._state.layers if each.precision == trt.DataType.HALF}


def check_memory(trt: Any, config: Any, layers: list[Layer], graph: Graph) -> None:
    """Raise Refused where kernels get too little scratch memory, or the device has too little left for the weights."""
    batch = largest_batch(config)
    outputs = [(tensor_bytes(graph, name, batch), layer) for layer in layers if layer.weights for name in layer.outputs]
    largest, layer = max(outputs, key=lambda pair: pair[0], default=(0, None))
    workspace, needed = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE), largest // WORKSPACE_SHARE
    if layer is not None and workspace < needed:
        raise Refused(
            f"Error Code 10: Internal Error (Could not find any implementation for node {{{layer.name}}} due to "
            f"insufficient workspace: the limit is {workspace} bytes, {needed} are requested.)"
        )
    wanted = graph.model.ByteSize() + largest
    if wanted > free_bytes():
        raise Refused(f"Error Code 2: OutOfMemory (Requested size was {wanted} bytes.)")


def largest_batch(config: Any) -> int:
    """Largest first size of any input in any profile."""
    profiles = config._state.profiles
    return max((shapes[2][0] for profile in profiles for shapes in profile.values()), default=1)


def timed(config: Any, layers: list[Layer], progress: Progress) -> None:
    """Time one kernel after another, the cache's ones at once."""
    trt, state = config._trt, config._state
    if state.timing_cache is None and not config.get_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE):
        state.timing_cache = config.create_timing_cache(b"")
    times = {} if state.timing_cache is None else state.timing_cache._state.times
    wait_ms = float(os.environ.get(STEP_VARIABLE, "0.2"))
    progress.start(TIMING_PHASE, BUILD_PHASE, len(layers))
    try:
        for index, layer in enumerate(layers):
            key = f"{layer.kind} {layer.precision} {layer.name}"
            if key not in times:
                time.sleep(wait_ms / 1e3)
                times[key] = 0.01
            progress.step(TIMING_PHASE, index)
    finally:
        progress.finish(TIMING_PHASE)


def tensor_bytes(graph: Graph, name: str, batch: int) -> int:
    """Bytes of a tensor at this batch."""
    shape = graph.shapes.get(name) or ()
    return math.prod(batch if size == -1 else size for size in shape) * BYTES.get(graph.type_name(name), 4)


def in_worker_thread(work: Any) -> None:
    """Run it in another thread, as TensorRT calls a monitor from several.

    The call waits as C++ does: Ctrl-C is not seen until it returns. What the work raises is raised here.
    """
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, name="TensorRT double")
    thread.start()
    interrupted = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            interrupted = error
    if raised:
        raise raised[0]
    if interrupted is not None:
        raise interrupted


class Progress:
    """Calls a monitor as C++ does: what its methods raise goes to stderr, and a step that raises is a cancellation."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        if self.monitor is not None:
            self._call(self.monitor.phase_start, phase, parent, steps)

    def step(self, phase: str, index: int) -> None:
        if self.monitor is not None and not self._call(self.monitor.step_complete, phase, index):
            raise Cancelled

    def finish(self, phase: str) -> None:
        if self.monitor is not None:
            self._call(self.monitor.phase_finish, phase)

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BaseException as error:
            print(f"[ERROR] Exception caught in {method.__name__}(): {error!r}", file=sys.stderr)
            return False
