"""TensorRTRunner on the doubles of both generations: the logits of ONNX Runtime, from any thread, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from pspnet.errors import PspnetError
from runtime.cuda_backend import open_backend
from runtime.cuda_resources import DeviceBuffer, PinnedArray, Stream
from runtime.fp16_typing import fp16_from_fp32
from runtime.runner import open_runner
from runtime.tensorrt_runner import TensorRTRunner
from tests.doubles.cuda_driver import CudaDouble
from tests.engines import logits_by_onnx_runtime, save_engine, with_half_logits
from tests.nets import ROOT

LOGITS_ATOL = (
    1e-4  # the same kernels of ONNX Runtime, which may split sums otherwise for another batch; logits reach 10
)
HALF_ATOL = 1e-2  # the last bit of float16 at 10


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 96, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(small_onnx: Path, images: np.ndarray) -> np.ndarray:
    return logits_by_onnx_runtime(small_onnx, images)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(PspnetError) as error:
        TensorRTRunner(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_logits_are_those_of_onnx_runtime(
    small_engine: Path, images: np.ndarray, expected: np.ndarray, cuda_double: CudaDouble
) -> None:
    with TensorRTRunner(small_engine) as runner:
        assert (runner.engine, runner.precision, runner.gives) == ("tensorrt", "fp32", "logits")
        assert runner.spec.input_size == (96, 128) and runner.provenance["gpu"]["name"] == "CPU double"
        kept = []
        for count in (5, 1, 3, 2, 4, 0, 1):
            logits = runner.infer(images[-count:] if count else images[:0])
            assert logits.shape == (count, 11, 6, 8) and logits.dtype == np.float32
            kept.append((logits, expected[-count:] if count else expected[:0]))
        for logits, wanted in kept:  # the results are the caller's, whatever ran after
            np.testing.assert_allclose(logits, wanted, rtol=0, atol=LOGITS_ATOL)
        assert cuda_double.live()
        runner.close()
        assert cuda_double.live() == {}


def test_float16_logits_become_float32(
    trt: ModuleType, small_onnx: Path, images: np.ndarray, tmp_path: Path, cuda_double: CudaDouble
) -> None:
    model = tmp_path / "half.onnx"
    onnx.save(fp16_from_fp32(onnx.load(small_onnx)), model)
    with_half_logits(model, model)
    save_engine(tmp_path / "half.engine", model, "strong", "fp16", 2)
    with open_runner(tmp_path / "half.engine") as runner:
        logits = runner.infer(images[:3])
    assert runner.precision == "fp16" and logits.dtype == np.float32
    assert np.array_equal(logits, logits.astype(np.float16))
    np.testing.assert_allclose(logits, logits_by_onnx_runtime(model, images[:3]), rtol=0, atol=HALF_ATOL)
    assert cuda_double.live() == {}


def test_it_waits_for_the_stream(
    small_engine: Path, images: np.ndarray, expected: np.ndarray, cuda_double: CudaDouble
) -> None:
    cuda_double.set_deferred(True)
    with TensorRTRunner(small_engine) as runner:
        np.testing.assert_allclose(runner.infer(images), expected, rtol=0, atol=LOGITS_ATOL)


def test_addresses_are_set_once_and_shapes_when_they_change(
    small_engine: Path, trt: ModuleType, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("set_tensor_address", "set_input_shape", "execute_async_v3"):
        monkeypatch.setattr(trt.IExecutionContext, name, recorded(getattr(trt.IExecutionContext, name), calls, name))
    with TensorRTRunner(small_engine) as runner:
        for count in (3, 3, 1, 1, 3):
            runner.infer(images[:count])
    counts = [calls.count(name) for name in ("set_tensor_address", "set_input_shape", "execute_async_v3")]
    assert counts == [2, 3, 5]


def recorded(function: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    return call


def test_any_thread_may_use_and_close_it(
    small_engine: Path, images: np.ndarray, expected: np.ndarray, cuda_double: CudaDouble
) -> None:
    runner, wrong = TensorRTRunner(small_engine), []

    def work(count: int) -> None:
        for _ in range(5):
            try:
                np.testing.assert_allclose(runner.infer(images[:count]), expected[:count], rtol=0, atol=LOGITS_ATOL)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=[count]) for count in (1, 2, 5, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    closing = threading.Thread(target=runner.close)
    closing.start()
    closing.join()
    runner.close()
    assert not wrong and cuda_double.live() == {}


def test_everything_goes_in_order(small_engine: Path, trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    for owner, what in ((trt.IExecutionContext, "context"), (trt.ICudaEngine, "engine"), (trt.Runtime, "runtime")):
        inner = getattr(owner, "__del__", lambda self: None)
        monkeypatch.setattr(owner, "__del__", recorded(inner, gone, what), raising=False)
    for owner, what in ((DeviceBuffer, "buffer"), (PinnedArray, "buffer"), (Stream, "stream")):
        monkeypatch.setattr(owner, "free", recorded(owner.free, gone, what))
    backend = type(open_backend())
    monkeypatch.setattr(backend, "release_context", recorded(backend.release_context, gone, "device"))
    with TensorRTRunner(small_engine):
        assert gone == []
    assert gone == ["context", "engine", "runtime", *["buffer"] * 4, "stream", "device"]


def test_pictures_of_another_size(small_engine: Path) -> None:
    with TensorRTRunner(small_engine) as runner:
        with pytest.raises(PspnetError, match="uint8"):
            runner.infer(np.zeros((1, 96, 96, 3), np.uint8))
        with pytest.raises(PspnetError, match="96x128 only"):
            runner.at_size((96, 96))


def test_a_lost_device_is_told_and_can_be_closed(
    small_engine: Path, images: np.ndarray, cuda_double: CudaDouble
) -> None:
    runner = TensorRTRunner(small_engine)
    cuda_double.break_device()
    for _ in range(2):
        with pytest.raises(PspnetError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS.*[Ss]tart the command again"):
            runner.infer(images[:1])
    runner.close()


LEFT_OPEN = """
import atexit
from tests.doubles import cuda_driver
double = cuda_driver.load()
atexit.register(lambda: print('left', double.live()))
import numpy as np
import tensorrt
from runtime.cuda_backend import open_backend
from runtime.runner import open_runner

def told(function, what):
    return lambda *arguments: (print(what), function(*arguments))[1]

tensorrt.IExecutionContext.__del__ = told(tensorrt.IExecutionContext.__del__, 'context')
backend = type(open_backend())
backend.release_context = told(backend.release_context, 'device')
runner = open_runner({engine!r}, 'tensorrt')
print(runner.infer(np.zeros((2, 96, 128, 3), np.uint8)).shape)
"""


def test_what_is_left_open_is_closed_at_the_end_of_the_process(small_engine: Path, trt: ModuleType) -> None:
    code = LEFT_OPEN.format(engine=str(small_engine))
    folder = ROOT / "tests" / "doubles" / "tensorrt_{}_{}".format(*trt.__version__.split(".")[:2])
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["(2, 11, 6, 8)", "context", "device", "left {}"]
