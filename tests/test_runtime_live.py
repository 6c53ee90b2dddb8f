"""The live loop: what is published of which picture, when, and what a camera or an outlet cannot do to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime.board import Board
from runtime.camera_state import CameraState
from runtime.live import LiveSettings
from runtime.outlet import Outlet
from runtime.postprocess import Postprocess
from runtime.record import Record
from runtime.segmenter import CpuSegmenter, View
from runtime.telemetry import Telemetry
from tests.live_doubles import SIZE, SPEC, FakeRunner, ListSink, until
from tests.live_runs import Run, runs

STAGES = {"wait", "pre", "infer", "labels", "post", "publish"}


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    with runs() as made:
        yield made


def test_results_are_those_of_the_segmenter_with_stamps_and_times(start: Callable[..., Run]) -> None:
    run = start(FakeRunner(), "front", "rear", telemetry=Telemetry(), sink=ListSink(frozenset({"picture"})))
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    frame = run.cameras[0].put(image)
    until(lambda: run.of("front"))
    [record] = run.of("front")
    assert (record.sequence, record.captured_ns, record.reason) == (frame.sequence, frame.captured_ns, "")
    assert np.array_equal(record.labels, CpuSegmenter(FakeRunner()).labels(image))
    assert set(record.times_ms) == STAGES and min(record.times_ms.values()) >= 0
    assert record.age_ms >= sum(record.times_ms.values()) - 0.01  # rounding of the stages' clocks
    assert record.frame is not None and np.array_equal(record.frame.image, image)
    assert not np.shares_memory(record.frame.image, image)
    result = run.end()
    assert (
        result["results"] == 1 and result["cameras"]["front"]["valid"] == 1 and result["cameras"]["rear"]["drops"] == {}
    )


def test_without_anybody_who_wants_it_the_picture_is_not_kept(start: Callable[..., Run]) -> None:
    run = start(FakeRunner(), "front")
    run.cameras[0].put()
    until(lambda: run.of("front"))
    assert run.of("front")[0].frame is None and run.of("front")[0].geometry.camera_size == SIZE


def test_a_picture_that_became_too_old_is_published_as_invalid(start: Callable[..., Run]) -> None:
    """The engine takes longer than the picture may be old."""
    runner = FakeRunner()
    run = start(runner, "front", max_age_ms=400)
    until(lambda: runner.tried)
    runner.before_infer = lambda: time.sleep(0.5)
    run.cameras[0].put()
    until(lambda: any("old" in record.reason for record in run.of("front", False)))
    record = next(record for record in run.of("front", False) if "old" in record.reason)
    assert record.labels is None and record.confidence is None and record.class_shares == () and record.age_ms > 400
    assert not run.of("front")


def test_the_age_counts_from_the_sensors_own_time(start: Callable[..., Run]) -> None:
    """The picture arrived lately, but it had been on its way for long."""
    runner = FakeRunner()
    run = start(runner, "front", max_age_ms=2000)
    until(lambda: runner.tried)
    runner.before_infer = lambda: time.sleep(0.6)

    def published() -> list[Record]:
        if run.cameras[0]._waiting is None:
            run.cameras[0].put(sensor_ago_ms=1500)
        return [record for record in run.of("front", False) if record.times_ms]

    until(published)
    assert published()[0].reason.endswith("ms old, at most 2000 ms are allowed") and not run.of("front")


@pytest.mark.parametrize("state", [CameraState.FROZEN, CameraState.BACKOFF, CameraState.STALLED])
def test_a_camera_that_does_not_run_is_invalid_at_once_and_every_second(
    state: CameraState, start: Callable[..., Run]
) -> None:
    run = start(FakeRunner(), "front", "rear")
    run.cameras[0].put()
    until(lambda: run.of("front"))
    run.cameras[0].message, run.cameras[0].state = "something happened", state
    changed_ns = time.monotonic_ns()
    reason = f"the camera is {state.value}: something happened"
    until(lambda: len([r for r in run.of("front", False) if r.reason == reason]) >= 3)
    records = [record for record in run.of("front", False) if record.reason == reason]
    gaps_ms = np.diff([changed_ns] + [record.published_ns for record in records]) / 1e6
    assert gaps_ms[0] < 900 and (gaps_ms[1:] >= 999).all() and all(record.labels is None for record in records)
    assert all(record.sequence == 0 for record in records)  # the last picture there was
    assert not any(reason in record.reason for record in run.of("rear", False))


def test_a_result_of_a_camera_that_failed_meanwhile_is_invalid(start: Callable[..., Run]) -> None:
    runner = FakeRunner()
    run = start(runner, "front")
    until(lambda: runner.tried)
    runner.before_infer = lambda: setattr(run.cameras[0], "state", CameraState.FROZEN)
    run.cameras[0].put()
    until(lambda: any(record.times_ms for record in run.of("front", False)))  # states alone have no times
    assert not run.of("front")


def test_a_running_camera_without_results_says_so(start: Callable[..., Run]) -> None:
    run = start(FakeRunner(), "front")
    until(lambda: any("no result for" in record.reason for record in run.of("front", False)))


def test_a_camera_with_a_wrong_region_or_mask_does_not_hold_up_the_others(start: Callable[..., Run]) -> None:
    runner = FakeRunner()
    views = {"front": View(region=(0, 0, SIZE[0] + 1, 10))}
    board = Board({"front": 60_000, "rear": 60_000})
    run = start(runner, "front", "rear", segmenter=CpuSegmenter(runner, views=views), board=board)
    for _ in range(3):
        run.cameras[0].put()
        run.cameras[1].put()
        until(lambda: run.cameras[0]._waiting is None and run.cameras[1]._waiting is None)
    until(lambda: len(run.of("rear")) >= 1 and run.of("front", False))
    assert any(record.reason.startswith("region 73x10") for record in run.of("front", False)) and not run.of("front")
    [told] = [noted.event for noted in board.events() if noted.event.kind == "trouble"]
    assert told.camera == "front" and told.message.startswith("region 73x10")


def test_batches_hold_pictures_of_several_cameras_of_any_size(start: Callable[..., Run]) -> None:
    runner = FakeRunner()
    gate = threading.Event()
    run = start(runner, "a", "b", "c", segmenter=CpuSegmenter(runner, batch=2))
    until(lambda: runner.tried)
    runner.before_infer = lambda: gate.wait(20)
    run.cameras[0].put()
    until(lambda: run.cameras[0].lent)  # it is in the engine; the next two arrive meanwhile
    run.cameras[1].put(np.zeros((48, 64, 3), np.uint8))
    run.cameras[2].put()
    gate.set()
    until(lambda: run.of("b") and run.of("c"))
    assert runner.batches == [1, 2, 1, 2]
    assert run.of("b")[0].labels.shape == (48, 64) and run.of("c")[0].labels.shape == SIZE


def test_sets_of_equal_time_are_published_together(start: Callable[..., Run]) -> None:
    runner = FakeRunner()
    run = start(runner, "a", "b", settings=LiveSettings(sync_ms=2000))
    until(lambda: runner.tried)
    run.cameras[0].put()
    time.sleep(0.1)
    assert not run.of("a")
    run.cameras[1].put()
    until(lambda: run.of("a") and run.of("b"))
    assert run.end()["cameras"]["a"]["drops"] == {}


def test_an_outlet_that_hangs_does_not_hold_up_the_loop(start: Callable[..., Run]) -> None:
    gate = threading.Event()

    class Hanging(ListSink):
        def __call__(self, record: Record) -> None:
            gate.wait(60)

    run = start(FakeRunner(), "front", more_outlets=[Outlet(Hanging(), "hanging")])
    for count in range(1, 6):
        run.cameras[0].put()
        until(lambda count=count: len(run.of("front")) == count)
    started_s = time.monotonic()
    run.end()
    gate.set()
    assert time.monotonic() - started_s < 10  # the hanging outlet was left behind


def test_labels_are_merged_for_outlets_and_telemetry_and_board_are_told(start: Callable[..., Run]) -> None:
    post = Postprocess(SPEC, {"ground": ["road", "lane"]})
    telemetry, board = Telemetry(), Board({"front": 60_000})
    run = start(FakeRunner(), "front", postprocess=post, telemetry=telemetry, board=board)
    run.cameras[0].put()
    until(lambda: run.of("front"))
    [record] = run.of("front")
    plain = CpuSegmenter(FakeRunner()).labels(np.zeros((*SIZE, 3), np.uint8))
    assert record.spec.class_names == ("ground", "car", "sky", "tree")
    assert np.array_equal(record.labels == 0, plain <= 1)
    run.cameras[0].state = CameraState.FROZEN
    until(lambda: run.of("front", False))
    run.cameras[0].put()
    until(lambda: telemetry.drops())
    assert set(telemetry.percentiles("front")) == STAGES | {"age"} and telemetry.drops() == {"front": {"state": 1}}
    status, record = board.status("front"), board.record("front")
    assert status is not None and status.state is CameraState.FROZEN and record is not None and not record.valid
    assert telemetry.results()["front"]["valid"] == 1 and board.outlets[0]["name"] == "list"


def test_the_loop_ends_when_all_cameras_have_and_says_whether_one_failed(start: Callable[..., Run]) -> None:
    run = start(FakeRunner(), "a", "b")
    run.cameras[0].state = CameraState.STOPPED
    run.cameras[1].message, run.cameras[1].state = "its library is missing", CameraState.FAILED
    until(lambda: run.error)
    assert isinstance(run.error, PspnetError) and "b failed: its library is missing" in str(run.error)
    run.end()


@pytest.mark.parametrize("sync_ms", [0, float("nan"), 20_000])
def test_settings_without_sense_are_refused(sync_ms: float) -> None:
    with pytest.raises(PspnetError, match="sync is"):
        LiveSettings(sync_ms=sync_ms)
