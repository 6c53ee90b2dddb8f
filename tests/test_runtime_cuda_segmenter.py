"""CudaSegmenter on the doubles of CUDA and of both TensorRT generations: the CPU's labels, by whatever way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pspnet.errors import PspnetError
from runtime.cuda import CudaError, CudaOutOfMemory
from runtime.segmenter import View
from tests.doubles.cuda_driver import CudaDouble
from tests.engine_files import last_convolution, replace
from tests.engines import save_engine
from tests.segmenter_cases import (
    BATCH,
    FORMATS,
    LEAST_AGREEMENT,
    agreement,
    by_cpu,
    frame_of,
    on_gpu,
    photos,
)

pytestmark = pytest.mark.usefixtures("kernels_on_cpu")

NETWORK = 96, 128
CONFIDENCE_ATOL = 3  # levels: one of the kernel, and a grey level of the input
STAGES = ["pre", "infer", "labels"]


def test_a_picture_of_the_networks_size_has_the_cpus_labels(
    memory_kind: str, balanced_engine: Path, balanced_onnx: Path
) -> None:
    frames = [frame_of(each) for each in photos(NETWORK)]
    wanted = by_cpu(balanced_onnx, frames)
    assert len(np.unique(wanted[0].labels)) > 3
    with on_gpu(balanced_engine) as segmenter:
        assert (segmenter.batch, segmenter.runner.engine, segmenter.runner.precision) == (BATCH, "tensorrt", "fp32")
        for got, each in zip(segmenter.segment(frames), wanted, strict=True):
            assert np.array_equal(got.labels, each.labels)
            stages = STAGES if memory_kind == "integrated" else ["copy_in", *STAGES, "copy_out"]
            assert list(got.times_ms) == ["stage", *stages] and min(got.times_ms.values()) >= 0


@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_in_every_fit(layout: str, memory_kind: str, balanced_engine: Path, balanced_onnx: Path) -> None:
    views = {"b": View("letterbox"), "c": View("crop", (20, 40, 300, 420))}
    frames = [frame_of(each, layout, name) for each, name in zip(photos(), "abc", strict=True)]
    wanted = by_cpu(balanced_onnx, frames, views=views, with_confidence=True)
    with on_gpu(balanced_engine, views=views, with_confidence=True) as segmenter:
        for _ in range(3):
            results = segmenter.segment(frames)
    for got, each, frame in zip(results, wanted, frames, strict=True):
        assert got.frame is frame and got.geometry == each.geometry
        assert agreement(got, each) >= LEAST_AGREEMENT
        assert got.confidence is not None and each.confidence is not None
        difference = np.abs(got.confidence.astype(int) - each.confidence)
        assert np.quantile(difference, LEAST_AGREEMENT) <= CONFIDENCE_ATOL


def test_calls_of_any_number_are_cut_into_batches_and_overlap(balanced_engine: Path, balanced_onnx: Path) -> None:
    pictures = photos(NETWORK)
    frames = [frame_of(pictures[n % 3], FORMATS[n % 2], f"camera{n % 4}", n) for n in range(8)]
    wanted = by_cpu(balanced_onnx, frames)
    with on_gpu(balanced_engine) as segmenter:
        for count in (8, 1, 5, 0, 8, 8):
            results = segmenter.segment(frames[:count])
            assert [got.frame.sequence for got in results] == list(range(count))
            assert all(np.array_equal(got.labels, each.labels) for got, each in zip(results, wanted, strict=False))


def test_it_waits_for_the_stream(
    memory_kind: str, balanced_engine: Path, balanced_onnx: Path, cuda_double: CudaDouble
) -> None:
    cuda_double.set_deferred(True)
    frames = [frame_of(each) for each in photos(NETWORK)]
    wanted = by_cpu(balanced_onnx, frames)
    with on_gpu(balanced_engine) as segmenter:
        for _ in range(4):  # alone, captured, and from the graph, three calls under way at once
            for got, each in zip(segmenter.segment(frames * 3), wanted * 3, strict=True):
                assert np.array_equal(got.labels, each.labels)
        assert not segmenter.without_graphs


def test_the_second_call_is_a_graph_with_the_same_labels(
    memory_kind: str,
    balanced_engine: Path,
    balanced_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    cuda_double: CudaDouble,
) -> None:
    pictures = photos(NETWORK)
    with on_gpu(balanced_engine) as segmenter:
        segmenter.segment([frame_of(pictures[0])])
        assert "graph_execs" not in cuda_double.live()
        segmenter.segment([frame_of(pictures[0])])
        assert cuda_double.live()["graph_execs"] == 1
        monkeypatch.setattr(segmenter.runner, "enqueue", lambda *_: pytest.fail("a graph holds it", pytrace=False))
        for picture in pictures:
            labels = segmenter.segment([frame_of(picture)])[0].labels.copy()  # a result in use would keep the slot
            assert np.array_equal(labels, by_cpu(balanced_onnx, [frame_of(picture)])[0].labels)
    assert cuda_double.live() == {}


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"])
def test_where_a_graph_is_refused_the_reason_is_stated(
    call: str, balanced_engine: Path, balanced_onnx: Path, cuda_double: CudaDouble
) -> None:
    frames = [frame_of(photos(NETWORK)[0])]
    wanted = by_cpu(balanced_onnx, frames)[0]
    with on_gpu(balanced_engine) as segmenter:
        cuda_double.fail_call(call, 900)
        for _ in range(4):
            assert np.array_equal(segmenter.segment(frames)[0].labels, wanted.labels)
        assert f"{call} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in segmenter.without_graphs
        assert "graph_execs" not in cuda_double.live()


def test_an_engine_that_cannot_be_captured_runs_without(
    balanced_engine: Path, trt: ModuleType, balanced_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, frames = trt.IExecutionContext.execute_async_v3, [frame_of(photos(NETWORK)[0])]
    with on_gpu(balanced_engine) as segmenter:
        segmenter.segment(frames)
        answers = iter([False])
        monkeypatch.setattr(
            trt.IExecutionContext, "execute_async_v3", lambda self, stream: next(answers, True) and run(self, stream)
        )
        for _ in range(2):
            assert np.array_equal(segmenter.segment(frames)[0].labels, by_cpu(balanced_onnx, frames)[0].labels)
        assert "TensorRT cannot run" in segmenter.without_graphs


def test_nothing_grows_and_addresses_are_set_once(
    memory_kind: str, balanced_engine: Path, trt: ModuleType, monkeypatch: pytest.MonkeyPatch, cuda_double: CudaDouble
) -> None:
    calls: list[str] = []
    for name in ("set_tensor_address", "set_input_shape", "set_device_memory"):
        inner = getattr(trt.IExecutionContext, name)
        monkeypatch.setattr(
            trt.IExecutionContext, name, lambda self, *a, n=name, f=inner: (calls.append(n), f(self, *a))[1]
        )
    frames = [frame_of(each, "nv12", name) for each, name in zip(photos(NETWORK), "abc", strict=True)]
    with on_gpu(balanced_engine) as segmenter:
        before_opening = len(calls)  # of the runner's own context
        kept = [segmenter.segment(frames[:count]) for count in (1, 3, 2, 1, 3, 2, 1, 3, 2)]
        del kept
        for count in (1, 2, 3) * 4:
            segmenter.segment(frames[:count])
        live, made = cuda_double.live(), len(calls)
        for turn in range(45):  # what grows at all, grows with the first of them
            segmenter.segment(frames[: 1 + turn % 3])
        assert cuda_double.live() == live and len(calls) == made
        assert made - before_opening == 3 * 4  # each context: two addresses, a shape and its memory
    assert cuda_double.live() == {}


def test_results_in_use_are_never_written_again(balanced_engine: Path, balanced_onnx: Path) -> None:
    frames = [frame_of(each) for each in photos(NETWORK)]
    wanted = by_cpu(balanced_onnx, frames)
    with on_gpu(balanced_engine) as segmenter:
        kept = [(segmenter.segment([frames[turn % 3]])[0].labels[::2], turn % 3) for turn in range(9)]
        bases = {labels.base.ctypes.data for labels, _ in kept}
        assert len(bases) == len(kept)
        kept[0][0][:] = 7  # a consumer may do with its result what it likes
        for labels, place in kept[1:]:
            assert np.array_equal(labels, wanted[place].labels[::2])
    for labels, place in kept[1:]:  # the segmenter and its device are gone
        assert np.array_equal(labels, wanted[place].labels[::2])


def test_logits_that_are_no_numbers_are_refused(balanced_onnx: Path, trt: ModuleType, tmp_path: Path) -> None:
    broken = onnx.load(balanced_onnx)
    bias = last_convolution(broken)[1]
    values = numpy_helper.to_array(bias).copy()
    values[2] = np.nan
    replace(bias, values)
    onnx.save(broken, tmp_path / "broken.onnx")
    save_engine(tmp_path / "broken.engine", tmp_path / "broken.onnx", "strong")
    with on_gpu(tmp_path / "broken.engine") as segmenter:
        for _ in range(3):
            with pytest.raises(PspnetError, match=r"broken\.engine gives logits that are NaN or infinite \(tensorrt"):
                segmenter.segment([frame_of(photos(NETWORK)[0])])


def test_too_little_memory_says_needed_and_free(
    balanced_engine: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_INTEGRATED", "0")
    cuda_double.reset()
    with on_gpu(balanced_engine) as segmenter:
        segmenter.segment([frame_of(photos(NETWORK)[0])])
        cuda_double.set_memory_bytes(cuda_double.live()["bytes"] + 100_000)
        with pytest.raises(
            CudaOutOfMemory, match=r"front of 360x480: .* 0\.5 MiB needed, 0\.1 of .* MiB free"
        ) as short:
            segmenter.segment([frame_of(photos()[0])])
        assert "\n" not in str(short.value)
        assert segmenter.segment([frame_of(photos(NETWORK)[0])])[0].labels.shape == NETWORK
    assert cuda_double.live() == {}


def test_a_lost_device_is_told_and_can_be_closed(balanced_engine: Path, cuda_double: CudaDouble) -> None:
    with on_gpu(balanced_engine) as segmenter:
        segmenter.segment([frame_of(photos(NETWORK)[0])])
        cuda_double.break_device()
        for _ in range(2):
            with pytest.raises(CudaError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS.*[Ss]tart the command again"):
                segmenter.segment([frame_of(photos(NETWORK)[0])])


def test_what_cannot_be_is_refused(balanced_engine: Path) -> None:
    with pytest.raises(PspnetError, match=r"batch is 4: .* takes 1 to 3 pictures"), on_gpu(balanced_engine, batch=4):
        pass
    with on_gpu(balanced_engine, region=(0, 0, 200, 100)) as segmenter:
        with pytest.raises(PspnetError, match="region 200x100"):
            segmenter.segment([frame_of(photos(NETWORK)[0])])
        odd = dataclasses.replace(frame_of(photos((300, 120))[0]), image=np.zeros((300, 120, 3), np.uint8))
        assert segmenter.segment([odd])[0].labels.shape == (300, 120)
