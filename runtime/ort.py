"""ONNX Runtime on the CPU: the reference for ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.fp16_simulation import SIMULATED, first_overflow, simulated
from runtime.runner import ClosingRunner, check_constants, check_images


class OrtRunner(ClosingRunner):
    """An ONNX file of ours in ONNX Runtime. An INT8 file is simulated: values are rounded, arithmetic stays float32.

    So is a float16 file, whose precision then says so; where a value overflows on the way to the logits, infer refuses.
    """

    engine = "ort"

    def __init__(self, path: str | Path, threads: int) -> None:
        model = read_model(path)
        check_constants(model, path)
        self.spec, stored = spec_from_model(model, path), str(extra(model, "precision") or "fp32")
        self.precision, self.name = SIMULATED.get(stored, stored), str(path)
        self._simulated = stored in SIMULATED
        self._session = _session(simulated(model).SerializeToString() if self._simulated else str(path), threads)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32."""
        check_images(images, self.spec)
        logits = self._session.run(["logits"], {"image": images})[0]
        if self._simulated and not np.isfinite(logits).all():
            where = first_overflow(simulated(read_model(self.name)), images) or "logits are not finite"
            raise PspnetError(f"{self.name} overflows: {where}. Use the fp32 file")
        return logits


def session_from_model(
    model: onnx.ModelProto, threads: int | None = None, in_order: bool = False
) -> onnxruntime.InferenceSession:
    """A CPU session of a graph in memory; threads: None takes every core.

    in_order: nodes run in the graph's order as far as fusing allows. Otherwise side branches may wait for the end, and
    with them every tensor that they read.
    """
    return _session(model.SerializeToString(), threads or 0, in_order)


def infer_from_file(
    path: str | Path, threads: int, input_name: str, output_name: str
) -> Callable[[np.ndarray], np.ndarray]:
    """The network of any ONNX file as a function of its one input; PspnetError where it cannot be loaded."""
    session = _session(str(path), threads)
    return lambda images: session.run([output_name], {input_name: images})[0]


def _session(source: str | bytes, threads: int, in_order: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        # The next level rewrites convolutions for another memory layout and puts the conversions back last.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Otherwise ONNX Runtime turns Conv without ReLU into QLinearConv with its own rounding, which no target repeats.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Otherwise the threads go on spinning after a run and take the cores from whatever comes next, labels above all.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises several types without a common base
        name = source if isinstance(source, str) else "the graph"
        raise PspnetError(f"ONNX Runtime cannot load {name}: {str(error).splitlines()[0]}") from error
