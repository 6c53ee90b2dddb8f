"""Cameras that can never work as they are configured end the run, with what must be changed; no other camera does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from runtime import live
from runtime.camera_state import CameraState
from runtime.live import Unusable
from runtime.segmenter import CpuSegmenter, View
from tests.live_doubles import SIZE, FakeRunner, until
from tests.live_runs import Run, runs


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    with runs() as made:
        yield made


def misfit(runner: FakeRunner, *names: str) -> CpuSegmenter:
    """A segmenter whose regions lie outside these cameras' pictures."""
    return CpuSegmenter(runner, views={name: View(region=(0, 0, SIZE[0] + 1, 10)) for name in names})


def test_a_run_whose_cameras_can_never_work_ends_and_names_them(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "UNFIT_S", 0.1)
    runner = FakeRunner()
    run = start(runner, "front", "rear", "third", segmenter=misfit(runner, "front", "rear"))
    until(lambda: runner.tried)
    run.cameras[0].put()
    run.cameras[2].message, run.cameras[2].cause = "OpenCV has no GStreamer", "missing_backend"
    run.cameras[2].state = CameraState.FAILED
    time.sleep(0.3)
    assert run.error is None  # the second one may still be of use
    run.cameras[1].put()
    until(lambda: run.error)
    assert isinstance(run.error, Unusable) and "\n" not in str(run.error)
    for part in ("no camera can be used: front: region 73x10", "; rear: region 73x10", "; third failed: OpenCV has no"):
        assert part in str(run.error)
    assert "no camera can be used" in run.of("rear", False)[-1].reason
    run.end()


def test_a_run_goes_on_where_a_camera_worked_once_or_may_yet(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "UNFIT_S", 0.0)
    runner = FakeRunner()
    once = start(runner, "front", "rear", segmenter=misfit(runner, "front"))
    once.cameras[1].put()
    until(lambda: once.of("rear"))
    once.cameras[0].put()
    once.cameras[1].state, once.cameras[1].cause = CameraState.FAILED, "missing_backend"
    crashed = start(other := FakeRunner(), "front", "rear", segmenter=misfit(other, "front"))
    crashed.cameras[1].state, crashed.cameras[1].cause = CameraState.FAILED, "crashed"
    crashed.cameras[0].put()
    until(lambda: all(any("region" in record.reason for record in run.of("front", False)) for run in (once, crashed)))
    time.sleep(0.2)
    assert once.error is None and crashed.error is None


def test_a_clip_that_never_fitted_is_told_of_at_its_end(start: Callable[..., Run]) -> None:
    runner = FakeRunner()
    run = start(runner, "front", segmenter=misfit(runner, "front"))
    until(lambda: runner.tried)
    run.cameras[0].put()
    until(lambda: run.of("front", False) and run.cameras[0].lent == [] and run.cameras[0]._waiting is None)
    run.cameras[0].state = CameraState.STOPPED
    until(lambda: run.error)
    assert isinstance(run.error, Unusable)
    run.end()
