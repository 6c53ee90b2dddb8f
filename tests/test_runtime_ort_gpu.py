"""ONNX Runtime's providers for GPUs: refusals by name, and what a session is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from pspnet.errors import PspnetError
from runtime import ort_gpu
from runtime.ort import OrtRunner
from runtime.runner import ORT_PROVIDERS, open_runner, runs_on
from tests.guests import graph, save

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
LOGITS_ATOL = 1e-2  # of a GPU's sums in another order; logits reach 10


@pytest.mark.parametrize("engine", ORT_PROVIDERS)
def test_a_provider_that_is_not_there_is_named(engine: str, small_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(PspnetError) as refused:
        open_runner(small_onnx, engine)
    text = str(refused.value)
    assert f"has no {ORT_PROVIDERS[engine]}, only CPUExecutionProvider: pip install onnxruntime-gpu" in text


@pytest.mark.parametrize("engine", ORT_PROVIDERS)
def test_only_onnx_files_of_ours_run_there(engine: str, tmp_path: Path, small_checkpoint: Path) -> None:
    assert runs_on("model.onnx", engine) and not runs_on("model.pt", engine) and not runs_on("model.engine", engine)
    with pytest.raises(PspnetError, match=f"checkpoint, which runs on torch, not {engine}"):
        open_runner(small_checkpoint, engine)
    save(tmp_path, graph("uint8", "NHWC", "logits", size=(96, 128)), "guest.onnx", class_names=list("abc"))
    with pytest.raises(PspnetError, match=f"is a guest.* leave out --engine {engine}"):
        open_runner(tmp_path / "guest.onnx", engine)


@pytest.mark.parametrize(
    ("engine", "precision", "options"),
    [
        ("ort-cuda", "fp32", {"use_tf32": "0"}),
        ("ort-tensorrt", "fp32 (TF32)", {"trt_fp16_enable": "0", "trt_int8_enable": "0"}),
    ],
)
def test_the_provider_alone_is_asked_and_must_have_started(
    engine: str, precision: str, options: dict[str, str], small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, provider = onnxruntime.InferenceSession, ORT_PROVIDERS[engine]
    asked: list[Any] = []

    class Session:
        """The CPU's session that says it runs on the GPU."""

        def __init__(self, path: str, session_options: Any, providers: list[Any]) -> None:
            asked.append(providers)
            self._inner = made(path, session_options, providers=["CPUExecutionProvider"])
            self.run = self._inner.run

        def get_providers(self) -> list[str]:
            return [provider, "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(ort_gpu.onnxruntime, "InferenceSession", Session)
        with open_runner(small_onnx, engine) as runner:
            logits = runner.infer(IMAGES)
        assert (runner.engine, runner.precision) == (engine, precision) and asked == [[(provider, options)]]
    with OrtRunner(small_onnx, 1) as reference:
        np.testing.assert_allclose(logits, reference.infer(IMAGES), rtol=0, atol=LOGITS_ATOL)
    fallen_back = lambda path, options, providers: made(path, options, providers=["CPUExecutionProvider"])  # noqa: E731
    monkeypatch.setattr(ort_gpu.onnxruntime, "InferenceSession", fallen_back)
    with pytest.raises(PspnetError, match=f"{provider} does not start here"):
        open_runner(small_onnx, engine)


@pytest.mark.gpu
def test_logits_on_a_gpu(request: pytest.FixtureRequest) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    for module in ("torch", "onnxsim"):  # of the export, which is asked for only here
        pytest.importorskip(module, reason=f"{module} is not installed")
    small_onnx = request.getfixturevalue("small_onnx")
    with open_runner(small_onnx, "ort-cuda") as runner, OrtRunner(small_onnx, 1) as reference:
        np.testing.assert_allclose(runner.infer(IMAGES), reference.infer(IMAGES), rtol=0, atol=LOGITS_ATOL)
