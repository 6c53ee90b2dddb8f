"""ONNX Runtime on an NVIDIA GPU, by its CUDA or its TensorRT provider: plain, with logits on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.runner import ORT_PROVIDERS, ClosingRunner, check_constants, check_images

INSTALL = (
    "pip install onnxruntime-gpu in place of onnxruntime, on a Jetson NVIDIA's wheel for your JetPack "
    "(pypi.jetson-ai-lab.io)"
)


class OrtGpuRunner(ClosingRunner):
    """An ONNX file of ours; float16 files are computed in float16, and INT8 by TensorRT only, else simulated.

    engine: ort-cuda or ort-tensorrt. PspnetError where this ONNX Runtime has no such provider, or it does not start.
    """

    def __init__(self, path: str | Path, engine: str) -> None:
        self.engine, self.name = engine, str(path)
        provider = ORT_PROVIDERS[engine]
        if provider not in (there := onnxruntime.get_available_providers()):
            raise PspnetError(
                f"this ONNX Runtime {onnxruntime.__version__} has no {provider}, only {', '.join(there)}: {INSTALL}, "
                "or leave out --engine"
            )
        model = read_model(path)
        check_constants(model, path)
        self.spec, stored = spec_from_model(model, path), str(extra(model, "precision") or "fp32")
        simulated = engine == "ort-cuda" and "int8" in stored
        self.precision = f"{stored} (simulated)" if simulated else stored
        if engine == "ort-tensorrt" and stored == "fp32":
            self.precision = "fp32 (TF32)"  # TensorRT's default on GPUs that have it, and no option of the provider
        self._session = _session(str(path), provider, _options(engine, stored))

    @property
    def provenance(self) -> dict[str, Any]:
        """The ONNX Runtime."""
        return {"onnxruntime": onnxruntime.__version__, "provider": ORT_PROVIDERS[self.engine]}

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32."""
        check_images(images, self.spec)
        return self._session.run(["logits"], {"image": images})[0].astype(np.float32, copy=False)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _options(engine: str, stored: str) -> dict[str, str]:
    if engine == "ort-cuda":
        return {"use_tf32": "0"}  # TF32 keeps ten bits
    return {"trt_fp16_enable": str(int("fp16" in stored)), "trt_int8_enable": str(int("int8" in stored))}


def _session(path: str, provider: str, provider_options: dict[str, str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "0" if provider.startswith("Tensorrt") else "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, provider_options)])
    except Exception as error:  # ONNX Runtime raises several types without a common base
        raise PspnetError(f"ONNX Runtime cannot load {path} on {provider}: {str(error).splitlines()[0]}") from error
    if provider not in session.get_providers():  # it falls back to the CPU without a word
        raise PspnetError(
            f"ONNX Runtime's {provider} does not start here: its CUDA and cuDNN libraries are missing or of another "
            f"version. {INSTALL}"
        )
    return session
