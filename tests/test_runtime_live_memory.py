"""The hot loop allocates no memory of a picture's size, and memory in use is never written again."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.array_pool import KEPT, ArrayPool
from runtime.frame import Frame
from runtime.outlet import Outlet
from runtime.pattern import packed_from_bgr
from runtime.postprocess import Postprocess
from runtime.publisher import Publisher
from runtime.record import Record
from runtime.segmenter import CpuSegmenter, View
from runtime.telemetry import Telemetry
from tests.live_doubles import SPEC, FakeCamera, FakeRunner, ListSink

HEIGHT, WIDTH = 540, 720
SMALLEST_PICTURE_BYTES = HEIGHT * WIDTH // 2  # half of a label map, which is the smallest picture here
TURNS = 12
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
LAYOUTS = {
    "bgr": IMAGE, "rgb": IMAGE, "grey": IMAGE[:, :, 0].copy(),
    **{layout: packed_from_bgr(IMAGE, layout, "709", False) for layout in ("nv12", "yuyv", "uyvy")},
}  # fmt: skip


class PictureSink(ListSink):
    """Wants pictures, and keeps them while `keeps` is set."""

    def __init__(self) -> None:
        super().__init__(frozenset({"picture", "confidence"}))
        self.keeps, self.got = True, threading.Semaphore(0)

    def __call__(self, record: Record) -> None:
        assert record.valid and record.labels is not None and record.frame is not None
        if self.keeps:
            super().__call__(record)
        self.got.release()


def peak_bytes(layout: str, view: View, post: Postprocess) -> int:
    """Most memory that was in use above what was at the start, over some turns of the loop after the first."""
    from runtime.live import LiveSettings, _Loop
    from runtime.scheduler import Scheduler
    from runtime.watchdog import Watchdog

    camera, sink = FakeCamera("front"), PictureSink()
    segmenter = CpuSegmenter(FakeRunner(), views={"front": view}, with_confidence=True)
    outlet, scheduler = Outlet(sink, "sink"), Scheduler([camera])
    publisher = Publisher([camera], [outlet], post.spec, Telemetry())
    loop = _Loop(scheduler, segmenter, post, publisher, Watchdog(threading.Event(), lambda: None), LiveSettings())
    outlet.start()

    def turn() -> None:
        camera.put(LAYOUTS[layout], layout)
        assert loop.turn() and sink.got.acquire(timeout=30)

    for _ in range(4):  # kept, so that from now on there is memory enough however slow the outlet's thread is
        turn()
    sink.keeps = False
    sink.records.clear()
    gc.collect()
    tracemalloc.start()
    try:
        turn()
        tracemalloc.reset_peak()
        before_bytes = tracemalloc.get_traced_memory()[0]
        for _ in range(TURNS):
            turn()
        return tracemalloc.get_traced_memory()[1] - before_bytes
    finally:
        tracemalloc.stop()
        outlet.stop()
        camera.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_no_memory_of_a_pictures_size_is_allocated(layout: str, fit: str, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[500:] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    post = Postprocess(SPEC, {"ground": ["road", "lane"]}, 0.4, {"front": tmp_path / "mask.png"})
    assert peak_bytes(layout, View(fit, (40, 20, 480, 660)), post) < SMALLEST_PICTURE_BYTES


def test_the_measurement_sees_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the memory for conversions the same loop allocates pictures, by numpy and by OpenCV."""
    before = Frame.bgr
    monkeypatch.setattr(Frame, "bgr", lambda self, out=None, scratch=None: before(self))
    assert peak_bytes("nv12", View(), Postprocess(SPEC)) > 3 * HEIGHT * WIDTH


def test_memory_is_used_again_when_nobody_refers_to_it() -> None:
    pool = ArrayPool()
    first = pool.take((4, 6))
    address = first.ctypes.data
    del first
    assert pool.take((4, 6)).ctypes.data == address and pool.made == 1


def test_a_view_keeps_the_memory() -> None:
    pool = ArrayPool()
    row = pool.copy(np.full((4, 6), 7, np.uint8))[2, 1:]
    others = [pool.copy(np.full((4, 6), 9, np.uint8)) for _ in range(3)]
    assert (row == 7).all() and pool.made == 4 and all((other == 9).all() for other in others)


def test_another_shape_frees_the_memory_of_the_old_one_and_little_is_kept() -> None:
    pool = ArrayPool()
    many = [pool.take((4, 6)) for _ in range(KEPT + 5)]
    many.clear()
    assert len(pool._free) == KEPT
    old = pool.take((4, 6))
    new = pool.take((3, 5))
    assert pool._free == []
    del old
    assert pool._free == [] and new.shape == (3, 5) and new.flags.writeable and new.flags.c_contiguous
    pool._free.append(np.empty((4, 6), np.uint8))  # as a thread does that looked at the shape before it changed
    assert pool.take((3, 5)).shape == (3, 5)


def test_arrays_outlive_their_pool() -> None:
    pool = ArrayPool()
    array = pool.copy(np.full((4, 6), 7, np.uint8))
    del pool
    assert (array == 7).all()


def test_results_that_are_kept_do_not_change() -> None:
    """As offline consumers keep them: more results than the pool keeps."""
    random = np.random.default_rng(1)
    segmenter = CpuSegmenter(FakeRunner(), with_confidence=True)
    results = []
    for count in range(2 * KEPT):
        segmenter.runner._logits[:] = random.standard_normal(segmenter.runner._logits.shape)  # type: ignore[attr-defined]
        [result] = segmenter.segment([Frame(IMAGE, "bgr", "clip", count, 0, 0)])
        results.append((result, result.labels.copy(), result.confidence.copy()))
    for result, labels, confidence in results:
        assert np.array_equal(result.labels, labels) and np.array_equal(result.confidence, confidence)
