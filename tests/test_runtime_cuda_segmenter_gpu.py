"""CudaSegmenter on a real GPU over PyTorch, and over TensorRT where it is installed: pytest -m gpu."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.cuda_backend import BACKENDS, backend_failures
from runtime.cuda_segmenter import CudaSegmenter
from runtime.frame import Frame
from runtime.frame_ring import Ring
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.segmenters import segmenting
from tests.engine_files import balanced
from tests.engines import save_engine
from tests.segmenter_cases import FORMATS, by_cpu, frame_of, photos

pytestmark = pytest.mark.gpu

LEAST_AGREEMENT = 0.97  # float16 against float32, on a network that was never trained
GROWTH_BYTES = 2 * 2**20  # what the driver may keep by itself
FRAMES = 10_000


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each CUDA package that this machine has."""
    if reason := backend_failures()[request.param]:
        pytest.skip(reason)
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", request.param)
    return request.param


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """`small_checkpoint`, where PyTorch sees the GPU; a board has it without, or none."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no NVIDIA GPU on this machine")
    return request.getfixturevalue("small_checkpoint")


@pytest.fixture
def segmenter(backend: str, checkpoint: Path) -> Iterator[CudaSegmenter]:
    """Over PyTorch, with confidence."""
    with open_runner(checkpoint) as runner, segmenting(runner, with_confidence=True) as made:
        assert isinstance(made, CudaSegmenter) and made.runner.engine == "torch-cuda"
        yield made


def test_labels_in_every_format_are_those_of_float32(segmenter: CudaSegmenter, checkpoint: Path) -> None:
    frames = [frame_of(photos()[place % 3], layout, layout) for place, layout in enumerate(FORMATS)]
    with open_runner(checkpoint) as runner:
        wanted = CpuSegmenter(runner).segment(frames)
    for _ in range(4):
        for got, each in zip(segmenter.segment(frames), wanted, strict=True):
            assert (got.labels == each.labels).mean() >= LEAST_AGREEMENT, got.frame.format
    assert segmenter.without_graphs == ""


def test_a_graph_gives_what_single_launches_give(segmenter: CudaSegmenter) -> None:
    pictures = photos()
    alone = [segmenter.segment([frame_of(pictures[0], source=f"alone{n}")])[0].labels.copy() for n in range(2)]
    for n, picture in enumerate([pictures[0], pictures[1], pictures[0]]):
        got = segmenter.segment([frame_of(picture, source="alone0")])[0]
        assert set(got.times_ms) >= {"pre", "infer", "labels"} and min(got.times_ms.values()) >= 0
        if n != 1:
            assert (got.labels == alone[0]).mean() > 0.999  # cuDNN may take another kernel in another run
    assert (alone[0] == alone[1]).mean() > 0.999 and segmenter.without_graphs == ""


def test_pictures_in_shared_memory_are_taken_from_there(segmenter: CudaSegmenter) -> None:
    ring = Ring.reserve("front", 1, 3 * 360 * 480, 3)
    try:
        for turn in range(6):
            image = ring.picture(turn % 3, (360, 480, 3))
            image[:] = photos()[turn % 3]
            shared = segmenter.segment([Frame(image, "bgr", "shared", turn, 0, 0)])[0]
            copied = segmenter.segment([frame_of(photos()[turn % 3], source="copied")])[0]
            assert "stage" in copied.times_ms and (shared.labels == copied.labels).mean() > 0.999
            if "shared" not in segmenter.picture_refusals:
                assert "stage" not in shared.times_ms
    finally:
        segmenter.close()
        ring.close()


def test_device_memory_does_not_grow(segmenter: CudaSegmenter) -> None:
    frames = [frame_of(each, "nv12", name) for each, name in zip(photos(), "abc", strict=True)]
    for turn in range(60):
        segmenter.segment(frames[: 1 + turn % 3])
    device = segmenter.runner.device
    before = device.memory_bytes()[0]
    for turn in range(FRAMES // 2):
        segmenter.segment(frames[: 1 + turn % 3])
    assert before - device.memory_bytes()[0] <= GROWTH_BYTES


@pytest.mark.parametrize("batch", [1, 3])
def test_an_engine_of_tensorrt(backend: str, batch: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for module in ("tensorrt", "torch", "onnxsim"):  # of the export, which is asked for only here
        pytest.importorskip(module, reason=f"{module} is not installed")
    model = balanced(request.getfixturevalue("small_onnx"), tmp_path / "net.onnx")
    save_engine(tmp_path / "net.engine", model, "strong", batch=batch)
    frames = [frame_of(each, source=name) for each, name in zip(photos(), "abc", strict=True)]
    wanted = by_cpu(model, frames)
    with open_runner(tmp_path / "net.engine") as runner, segmenting(runner) as made:
        assert isinstance(made, CudaSegmenter)
        for _ in range(4):
            for got, each in zip(made.segment(frames), wanted, strict=True):
                assert (got.labels == each.labels).mean() >= LEAST_AGREEMENT
        assert made.without_graphs == "" and np.asarray(got.labels).dtype == np.uint8
