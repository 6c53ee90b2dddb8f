"""Where our kernels cannot be had, the network stays on the GPU and the CPU does the rest, with the reason stated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from runtime import cuda_segmenter, segmenters
from runtime.cuda import CudaError, Device
from runtime.cuda_segmenter import CudaSegmenter
from runtime.gpu_watch import GpuWatch
from runtime.nvrtc import CannotCompile
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.segmenters import segmenting
from runtime.telemetry import Telemetry
from runtime.tensorrt_runner import TensorRTRunner
from runtime.torch_runner import TorchRunner
from tests import cpu_kernels
from tests.doubles.cuda_driver import CudaDouble
from tests.nets import CAMVID
from tests.segmenter_cases import BATCH, by_cpu, frame_of, on_gpu, photos
from tests.torch_double import network_of

NETWORK = 96, 128


@pytest.fixture(autouse=True)
def told_anew() -> Iterator[None]:
    """What one test was told, the next is told as well."""
    segmenters._tell.cache_clear()
    yield
    segmenters._tell.cache_clear()


@pytest.fixture
def no_nvrtc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No NVRTC; the empty folder of its cache."""
    cpu_kernels.without_nvrtc(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache" / "pspnet-edge" / "kernels"


def test_an_engine_runs_with_the_cpus_kernels_and_says_why_once(
    no_nvrtc: Path, balanced_engine: Path, balanced_onnx: Path, cuda_double: CudaDouble, capsys: pytest.CaptureFixture
) -> None:
    frames = [frame_of(each) for each in photos(NETWORK)]
    wanted = by_cpu(balanced_onnx, frames, with_confidence=True)
    with open_runner(balanced_engine) as runner:
        alone = cuda_double.live()
        for _ in range(2):
            with segmenting(runner, with_confidence=True) as segmenter:
                assert isinstance(segmenter, CpuSegmenter) and segmenter.runner is runner
                assert (segmenter.batch, runner.engine, runner.precision) == (BATCH, "tensorrt", "fp32")
                for got, each in zip(segmenter.segment(frames), wanted, strict=True):
                    assert np.array_equal(got.labels, each.labels) and got.confidence is not None
                assert cuda_double.live() == alone  # the network has given its memory back
                reason = segmenter.without_kernels
                facts = GpuWatch(segmenter, Telemetry()).facts()
    assert cuda_double.live() == {}
    said = capsys.readouterr().err
    assert said == f"pspnet: only the network runs on the GPU, resizing and labels on the CPU: {reason}\n"
    assert "NVRTC" in reason and "apt-get install nvidia-jetpack" in reason and "\n" not in reason
    assert "pip install nvidia-cuda-nvrtc," in reason
    assert facts == {"name": "CPU double", "power": None, "without_kernels": reason}


def test_a_segmenter_of_the_gpu_is_refused_in_one_line(
    no_nvrtc: Path, balanced_engine: Path, cuda_double: CudaDouble
) -> None:
    """Who asks for it by name gets it, or the reason."""
    with TensorRTRunner(balanced_engine) as runner, pytest.raises(CannotCompile, match="NVRTC") as refused:
        CudaSegmenter(runner.network())
    assert isinstance(refused.value, PspnetError) and "\n" not in str(refused.value)
    assert cuda_double.live() == {}


def test_kernels_that_were_kept_need_no_compiler(
    no_nvrtc: Path, balanced_engine: Path, balanced_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    cpu_kernels.keep_in(no_nvrtc, (12, 6))  # by an older NVRTC than the driver's CUDA, which is 13.0
    frame = frame_of(photos(NETWORK)[0])
    with open_runner(balanced_engine) as runner, segmenting(runner) as segmenter:
        assert isinstance(segmenter, CudaSegmenter) and segmenter.without_kernels == ""
        assert np.array_equal(segmenter.segment([frame])[0].labels, by_cpu(balanced_onnx, [frame])[0].labels)
        watch = GpuWatch(segmenter, Telemetry())
        facts = watch.facts()
        watch.tell()
    assert facts == {"name": "CPU double", "power": None, "without_kernels": "", "without_graphs": "", "copied": {}}
    assert capsys.readouterr() == ("", "")


def test_a_checkpoint_stays_on_pytorch_in_float32(
    no_nvrtc: Path, small_checkpoint: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(TorchRunner, "network", lambda self: network_of(small_checkpoint))
    frame = frame_of(photos(NETWORK)[0])
    with open_runner(small_checkpoint, threads=1) as runner:
        wanted = CpuSegmenter(runner).segment([frame])[0].labels
        with segmenting(runner) as segmenter:
            assert (segmenter.runner.engine, segmenter.runner.precision) == ("torch", "fp32")
            assert np.array_equal(segmenter.segment([frame])[0].labels, wanted)
    assert cuda_double.live() == {} and "NVRTC" in capsys.readouterr().err


def test_another_error_is_no_reason_to_go_on(
    balanced_engine: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(device: Device) -> None:
        raise CudaError("the GPU is lost")

    monkeypatch.setattr(cuda_segmenter, "Kernels", lost)
    with open_runner(balanced_engine) as runner, pytest.raises(CudaError, match="is lost"), segmenting(runner):
        pass
    assert cuda_double.live() == {}


def test_the_figures_of_a_run_and_of_a_bench_say_it(no_nvrtc: Path, balanced_engine: Path, tmp_path: Path) -> None:
    photo = min((CAMVID / "val" / "images").iterdir())
    output, figures = tmp_path / "run.json", tmp_path / "bench.json"
    assert main(["run", str(balanced_engine), str(photo), "--json", str(output)]) == 0
    assert "NVRTC" in json.loads(output.read_text())["without_kernels"]
    program = ["bench", str(balanced_engine), "--source", str(photo), "--rounds", "3", "--frames", "1"]
    assert main([*program, "--json", str(figures)]) == 0
    assert "NVRTC" in json.loads(figures.read_text())["candidates"][0]["without_kernels"]


def test_on_the_gpu_no_figure_says_it(
    kernels_on_cpu: None, balanced_engine: Path, trt: ModuleType, tmp_path: Path
) -> None:
    photo, output = min((CAMVID / "val" / "images").iterdir()), tmp_path / "run.json"
    with on_gpu(balanced_engine) as segmenter:
        assert segmenter.without_kernels == ""
    assert main(["run", str(balanced_engine), str(photo), "--json", str(output)]) == 0
    assert "without_kernels" not in json.loads(output.read_text())
