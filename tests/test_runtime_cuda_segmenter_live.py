"""CudaSegmenter in the live loop, with cameras' shared memory, and chosen for a runner."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.api import open_segmenter
from runtime.cuda_segmenter import CudaSegmenter
from runtime.cuda_shared_pictures import mapped_owner
from runtime.frame import Frame
from runtime.frame_ring import Ring
from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.segmenters import segmenting
from tests.doubles.cuda_driver import CudaDouble
from tests.live_doubles import FakeCamera, ListSink, until
from tests.segmenter_cases import by_cpu, frame_of, on_gpu, photos

pytestmark = pytest.mark.usefixtures("kernels_on_cpu")

NETWORK = 96, 128


@pytest.fixture
def rings() -> Iterator[list[Ring]]:
    """Shared memory as a camera has it: for pictures of the network's size, and for larger ones."""
    made = [Ring.reserve("front", 1 + place, 3 * 96 * 128 * (1 + place), 3) for place in range(2)]
    yield made
    for ring in made:
        ring.close()


def in_ring(ring: Ring, slot: int, bgr: np.ndarray, layout: str, sequence: int) -> Frame:
    """A frame as `Camera.take` gives it, in a slot of the ring, read-only."""
    frame = frame_of(bgr, layout, "front", sequence)
    image = ring.picture(slot, frame.image.shape)
    image[:] = frame.image
    image.flags.writeable = False
    return Frame(image, layout, "front", sequence, 0, 0, matrix="709")


def registered_of(segmenter: CudaSegmenter, double: CudaDouble, rings: list[Ring]) -> list[bool]:
    """Whether CUDA has page-locked the memory of each ring."""
    known = double.library.cuMemHostGetDevicePointer_v2
    seen = ctypes.byref(ctypes.c_uint64())
    addresses = [ctypes.c_void_p(ring.data.ctypes.data) for ring in rings]
    with segmenter.runner.device.current():
        return [known(seen, address, 0) == 0 for address in addresses]


def test_shared_memory_is_registered_once_and_copied_by_nobody(
    memory_kind: str, balanced_engine: Path, balanced_onnx: Path, rings: list[Ring], cuda_double: CudaDouble
) -> None:
    pictures = photos(NETWORK)
    with on_gpu(balanced_engine) as segmenter:
        for turn in range(9):
            frame = in_ring(
                rings[0], turn % 3, pictures[(turn + turn // 3) % 3], ("bgr", "yuyv", "nv12")[turn // 3], turn
            )
            (got,) = segmenter.segment([frame])
            assert "stage" not in got.times_ms and ("copy_in" in got.times_ms) == (memory_kind == "card")
            assert (got.labels == by_cpu(balanced_onnx, [frame])[0].labels).mean() > (0.99 if turn > 2 else 0.9999999)
        assert not segmenter.without_graphs and cuda_double.live()["graph_execs"] >= 1
        assert registered_of(segmenter, cuda_double, rings) == [True, False]
        larger = in_ring(rings[1], 2, pictures[0], "bgr", 9)
        assert np.array_equal(segmenter.segment([larger])[0].labels, by_cpu(balanced_onnx, [larger])[0].labels)
        assert registered_of(segmenter, cuda_double, rings) == [False, True]
    assert cuda_double.live() == {}


def test_a_set_of_cameras_with_and_without_shared_memory(
    memory_kind: str, balanced_engine: Path, balanced_onnx: Path, rings: list[Ring], cuda_double: CudaDouble
) -> None:
    cuda_double.set_deferred(True)
    pictures = photos(NETWORK)
    with on_gpu(balanced_engine) as segmenter:
        for turn in range(4):
            frames = [
                in_ring(rings[0], turn % 3, pictures[turn % 3], "bgr", turn),
                frame_of(pictures[2], source="rear"),
            ]
            for got, wanted in zip(segmenter.segment(frames), by_cpu(balanced_onnx, frames), strict=True):
                assert np.array_equal(got.labels, wanted.labels)


def test_memory_that_cannot_be_registered_is_copied_and_the_reason_kept(
    balanced_engine: Path, balanced_onnx: Path, rings: list[Ring], cuda_double: CudaDouble
) -> None:
    frame = in_ring(rings[0], 1, photos(NETWORK)[0], "bgr", 0)
    with on_gpu(balanced_engine) as segmenter:
        cuda_double.fail_call("cuMemHostRegister_v2", 801)
        (got,) = segmenter.segment([frame])
        assert "stage" in got.times_ms and "CUDA_ERROR_NOT_SUPPORTED" in segmenter.picture_refusals["front"]
        assert np.array_equal(got.labels, by_cpu(balanced_onnx, [frame])[0].labels)


def test_only_whole_maps_are_registered(rings: list[Ring]) -> None:
    assert mapped_owner(rings[0].picture(1, (96, 128, 3))) is rings[0].data
    part = np.frombuffer(mmap.mmap(-1, 8192), np.uint8, 4096)
    read_only = np.frombuffer(mmap.mmap(-1, 4096, prot=mmap.PROT_READ), np.uint8)
    for array in (part, read_only, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)[1:]):
        assert mapped_owner(array) is None


def test_the_live_loop_takes_it_unchanged(balanced_engine: Path, balanced_onnx: Path, cuda_double: CudaDouble) -> None:
    cameras, sink, stop = [FakeCamera("front"), FakeCamera("rear")], ListSink(frozenset({"picture"})), threading.Event()
    pictures, found = photos(NETWORK), {}
    with open_runner(balanced_engine) as runner, segmenting(runner, with_confidence=True) as segmenter:
        assert isinstance(segmenter, CudaSegmenter)
        outlets = [Outlet(sink, "list")]
        loop = threading.Thread(
            target=lambda: found.update(run_live(cameras, segmenter, outlets, LiveSettings(), stop)), daemon=True
        )
        loop.start()
        until(lambda: all(camera.started for camera in cameras))
        for turn in range(6):
            for camera in cameras:
                camera.put(pictures[turn % 3])
            until(lambda turn=turn: all(len(camera.released) == turn + 1 for camera in cameras))
        stop.set()
        loop.join(20)
        assert not loop.is_alive() and found["results"] == 12
    assert cuda_double.live() == {}
    valid = [record for record in sink.records if record.valid]
    assert valid
    for record in valid:
        assert record.labels is not None and record.frame is not None  # the engine is closed, its results are not
        wanted = by_cpu(balanced_onnx, [record.frame])[0].labels
        assert np.array_equal(record.labels, wanted)
        assert {"wait", "stage", "pre", "infer", "labels", "post", "publish"} <= set(record.times_ms)
    for camera in cameras:
        camera.close()


def test_each_runner_gets_its_segmenter(balanced_engine: Path, balanced_onnx: Path, cuda_double: CudaDouble) -> None:
    frame = frame_of(photos(NETWORK)[0])
    with open_runner(balanced_onnx, "ort", 1) as runner, segmenting(runner) as segmenter:
        assert isinstance(segmenter, CpuSegmenter)
        wanted = segmenter.segment([frame])[0].labels
    with open_runner(balanced_engine) as runner:
        logits = runner.infer(np.zeros((1, *NETWORK, 3), np.uint8))
        for _ in range(2):
            with segmenting(runner, "stretch", batch=2) as segmenter:
                assert segmenter.batch == 2 and np.array_equal(segmenter.segment([frame])[0].labels, wanted)
        assert np.array_equal(runner.infer(np.zeros((1, *NETWORK, 3), np.uint8)), logits)
    with open_segmenter(balanced_engine) as segment:
        result = segment(frame)
    assert np.array_equal(result.labels, wanted) and cuda_double.live() == {}
