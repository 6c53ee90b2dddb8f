"""What TensorRTRunner refuses before TensorRT sees a byte, and what it makes of TensorRT's own refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pspnet.errors import PspnetError
from pspnet.files import passport_path
from runtime.passport import Passport
from runtime.tensorrt_runner import TensorRTRunner
from tests.doubles.cuda_driver import CudaDouble
from tests.doubles.tensorrt_double import install
from tests.engines import write_engine

BATCH = 3
REBUILD = f"pspnet build small.onnx --precision fp32 --batch {BATCH} -o "
PICTURES = np.zeros((2, 96, 128, 3), np.uint8)


@pytest.fixture
def engine(small_engine: Path) -> Path:
    return small_engine


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(PspnetError) as error:
        TensorRTRunner(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def flip(path: Path) -> None:
    plan = bytearray(path.read_bytes())
    plan[len(plan) // 2] ^= 1
    path.write_bytes(plan)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (flip, "SHA-256"),
    "truncated plan": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes, its passport says"),
    "world-writable folder": (lambda path: path.parent.chmod(0o777), "chmod go-w"),
    "world-writable plan": (lambda path: path.chmod(0o666), "chmod go-w"),
    "world-writable passport": (lambda path: passport_path(path).chmod(0o646), "chmod go-w"),
    "no passport": (lambda path: passport_path(path).unlink(), "no passport"),
    "damaged passport": (lambda path: passport_path(path).write_text("{}"), "no passport"),
}


@pytest.fixture
def never_deserialised(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `tensorrt` is asked to deserialise fails the test, in every version of the double."""

    def fail(*_: Any) -> None:
        pytest.fail("a refused plan was deserialised", pytrace=False)

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", fail)


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_tensorrt_sees_it(
    what: str, engine: Path, never_deserialised: None, cuda_double: CudaDouble
) -> None:
    spoil, said = REFUSED[what]
    spoil(engine)
    text = refusal(engine)
    assert said in text and "pspnet build " in text
    assert cuda_double.live() == {}


def test_another_machine_is_refused_before_tensorrt_sees_it(
    engine: Path, trt: ModuleType, never_deserialised: None, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild = f"{REBUILD}{engine}"
    assert "is pinned" in refusal(engine, pinned_sha256="0" * 64)
    with monkeypatch.context() as other:
        other.setenv("CUDA_DOUBLE_NAME", "Another GPU")
        cuda_double.reset()
        text = refusal(engine)
        assert "this is Another GPU (compute capability 8.7, 8 multiprocessors)" in text and rebuild in text
    cuda_double.reset()
    with monkeypatch.context() as other:
        other.setattr("platform.machine", lambda: "m68k")
        assert "linux-m68k" in refusal(engine)
    other_trt = install(monkeypatch, "11.4.0" if trt.__version__ == "10.3.0" else "10.3.0")
    monkeypatch.setattr(other_trt.Runtime, "deserialize_cuda_engine", trt.Runtime.deserialize_cuda_engine)
    text = refusal(engine)
    assert f"and this is {other_trt.__version__}" in text and rebuild in text
    assert cuda_double.live() == {}


def test_what_tensorrt_refuses_is_told_in_its_words(engine: Path, cuda_double: CudaDouble) -> None:
    flip(engine)
    plan, passport = engine.read_bytes(), Passport.load(passport_path(engine))
    write_engine(engine, plan, passport, plan_sha256=hashlib.sha256(plan).hexdigest())
    text = refusal(engine)
    assert "TensorRT cannot load" in text and "checksum does not match" in text and "pspnet build small.onnx" in text
    assert cuda_double.live() == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": {"min": 1, "opt": 2, "max": 2}}, "image (uint8, 1-2x96x128x3"),
        ({"input_size": [128, 96]}, "logits (float, Nx11x8x6"),
        ({"class_names": ["road", "rest"], "palette": [[0, 0, 0], [1, 1, 1]], "drivable": []}, "logits (float, Nx2x"),
    ],
)
def test_a_passport_of_another_network_is_refused(
    engine: Path, changes: dict[str, Any], said: str, cuda_double: CudaDouble
) -> None:
    plan, passport = engine.read_bytes(), Passport.load(passport_path(engine))
    fields = changes if "batch" in changes else {"spec": {**passport.spec, **changes}}
    write_engine(engine, plan, passport, **fields)
    text = refusal(engine)
    assert said in text and "image (uint8, 1-3x96x128x3, linear, device) and logits (float, Nx11x6x8" in text
    assert cuda_double.live() == {}


@pytest.mark.parametrize(
    ("call", "answer", "when", "said"),
    [
        ("create_execution_context", None, "open", "prepare"),
        ("set_tensor_address", False, "open", "bind image of"),
        ("set_input_shape", False, "infer", "set 2 pictures for"),
        ("execute_async_v3", False, "infer", "run"),
    ],
)
def test_every_answer_of_tensorrt_is_looked_at(
    call: str, answer: Any, when: str, said: str, engine: Path, trt: ModuleType, cuda_double: CudaDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    owner = trt.ICudaEngine if call == "create_execution_context" else trt.IExecutionContext
    monkeypatch.setattr(owner, call, lambda *_: answer)
    with pytest.raises(PspnetError, match=rf"TensorRT cannot {said} .*: it gives no reason.*pspnet build"):
        runner = TensorRTRunner(engine)
        assert when == "infer"
        with runner:
            runner.infer(PICTURES)
    assert cuda_double.live() == {}


@pytest.mark.parametrize("short_of", ["buffers", "context"])
def test_too_little_memory_says_needed_and_free(
    short_of: str, engine: Path, trt: ModuleType, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TensorRTRunner(engine) as runner:
        context_bytes = runner._engine.device_memory_size_v2
    buffer_bytes = BATCH * (96 * 128 * 3 + 11 * 6 * 8 * 4)
    needed_bytes = buffer_bytes + context_bytes
    free_bytes = buffer_bytes // 2 if short_of == "buffers" else needed_bytes - context_bytes // 2
    cuda_double.set_memory_bytes(free_bytes)
    text = refusal(engine)
    assert f"needs {needed_bytes / 1e6:.1f} MB" in text and f"{free_bytes / 1e6:.1f} MB are free" in text
    assert "3 pictures" in text and "a smaller --batch" in text
    assert cuda_double.live() == {}
