"""ONNX Runtime on the CPU: the reference for ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.runner import ClosingRunner, check_images


class OrtRunner(ClosingRunner):
    """An ONNX file of ours in ONNX Runtime. An INT8 file is simulated: values are rounded, arithmetic stays float32."""

    engine = "ort"

    def __init__(self, path: str | Path, threads: int) -> None:
        model = read_model(path)
        self.spec, self.precision = spec_from_model(model, path), extra(model, "precision") or "fp32"
        self._session = _session(str(path), threads)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32."""
        check_images(images, self.spec)
        return self._session.run(["logits"], {"image": images})[0]


def session_from_model(model: onnx.ModelProto, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A CPU session of a graph in memory; threads: None takes every core."""
    return _session(model.SerializeToString(), threads or 0)


def _session(source: str | bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Otherwise ONNX Runtime turns Conv without ReLU into QLinearConv with its own rounding, which no target repeats.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises several types without a common base
        name = source if isinstance(source, str) else "the graph"
        raise PspnetError(f"ONNX Runtime cannot load {name}: {str(error).splitlines()[0]}") from error
