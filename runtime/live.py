"""The live loop: newest pictures of several cameras through one segmenter to the outlets, until it is told to stop.

    cameras --Scheduler--> segment --health, post-processing--> Publisher --> outlets, board, telemetry

Nothing that is older than its camera's `max_age_ms` when it is published is ever valid. A camera or an outlet that is
slow or dead holds up nothing here. An engine that fails or hangs ends the process: what it said last cannot be trusted,
and a supervisor starts it anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pspnet.errors import PspnetError, is_out_of_memory
from pspnet.geometry import Geometry
from runtime.board import Board
from runtime.camera_state import FINAL, CameraState
from runtime.capture_errors import PERMANENT
from runtime.frame import Frame, Segmentation
from runtime.health import HealthWatch
from runtime.outlet import Outlet, stop_outlets
from runtime.postprocess import Postprocess
from runtime.publisher import Publisher
from runtime.runner import Segmenter
from runtime.scheduler import LiveCamera, Scheduler, Taken
from runtime.telemetry import Telemetry
from runtime.watchdog import ENGINE_EXIT, Stop, Watchdog

LOOK_S = 0.05
OUTLET_SHARE = 0.6
TRIED_TIMES = 8
UNFIT_S = 1.0
"""So long pictures of a wrong size may come before others."""


class LiveSegmenter(Segmenter, Protocol):
    """What the live loop asks of a segmenter beside `segment`; batch: most frames that it takes at once."""

    batch: int

    def geometry(self, camera_size: tuple[int, int], source: str = "") -> Geometry:
        """As `CpuSegmenter.geometry`; PspnetError where pictures of that size cannot be taken."""
        ...


@dataclass(frozen=True)
class LiveSettings:
    """How pictures are chosen, and how long things may take.

    sync_ms: None, or how far apart the pictures of a set may be. engine_deadline_s: of one call of the engine,
    or TRIED_TIMES as long as it took when it was tried; start_deadline_s: of the first calls, which may have to
    compile. stop_deadline_s: for outlets and cameras together to end.
    """

    sync_ms: float | None = None
    engine_deadline_s: float = 5.0
    start_deadline_s: float = 180.0
    stop_deadline_s: float = 1.2

    def __post_init__(self) -> None:
        if self.sync_ms is not None and not 0 < self.sync_ms <= 10_000:
            raise PspnetError(f"sync is {self.sync_ms:g} ms: give more than 0 and at most 10000 with --sync")


class FatalEngine(PspnetError):
    """The engine failed while it ran; only a new process can be trusted. exit_code: what this one should end with."""

    exit_code = ENGINE_EXIT


class Unusable(PspnetError):
    """No camera can work as it is configured: whoever configured it must change something, and a new process would end
    alike."""


def run_live(
    cameras: Sequence[LiveCamera],
    segmenter: LiveSegmenter,
    outlets: Sequence[Outlet],
    settings: LiveSettings,
    stop: Stop,
    postprocess: Postprocess | None = None,
    telemetry: Telemetry | None = None,
    board: Board | None = None,
    leave: Callable[[int], object] = os._exit,
) -> dict[str, Any]:
    """Run until `stop` is set or every camera is at its end; cameras and outlets are started here, and stopped.

    leave: what ends the process where the engine hangs, as `Watchdog` says. Returns seconds, results, valid and invalid
    records and drops by camera. FatalEngine where the engine fails; Unusable where no camera can work as configured;
    PspnetError where all cameras are at their end and one has failed.
    """
    postprocess = postprocess or Postprocess(segmenter.spec)
    publisher = Publisher(cameras, outlets, postprocess.spec, telemetry, board)
    on_drop = None if telemetry is None else lambda camera, cause: telemetry.drop(camera.name, cause)
    scheduler = Scheduler(cameras, segmenter.batch, settings.sync_ms, on_drop)
    started_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(_stop_all, cameras, outlets, settings.stop_deadline_s)
        stack.callback(scheduler.close)
        for outlet in outlets:
            outlet.start()
        for camera in cameras:
            camera.start()
        stack.enter_context(publisher)
        flush = _flusher(publisher, cameras, outlets)
        watchdog = stack.enter_context(Watchdog(stop, flush, leave=leave))
        loop = _Loop(scheduler, segmenter, postprocess, publisher, watchdog, settings)
        try:
            loop.warm_up()
            while not stop.is_set() and not _all_ended(cameras):
                publisher.check()
                loop.check_use()
                if not loop.turn():
                    scheduler.wait(LOOK_S)
            if not stop.is_set():
                loop.check_use()
        except Exception as error:
            what = "engine" if isinstance(error, FatalEngine) else "run"
            publisher.fail(f"the {what} failed: {error}")
            raise
        failed = [camera for camera in cameras if camera.state is CameraState.FAILED]
    if failed and not stop.is_set():
        raise PspnetError(f"no camera is left: {failed[0].name} failed: {failed[0].status().message}")
    return {
        "seconds": time.monotonic() - started_s, "results": loop.results,
        "cameras": {
            name: {**counts, "drops": {cause: n for (camera, cause), n in scheduler.drops.items() if camera == name}}
            for name, counts in publisher.counts.items()
        },
    }  # fmt: skip


class _Loop:
    """One turn: pictures of the scheduler through the segmenter to the publisher. results: how many so far."""

    def __init__(
        self,
        scheduler: Scheduler,
        segmenter: LiveSegmenter,
        postprocess: Postprocess,
        publisher: Publisher,
        watchdog: Watchdog,
        settings: LiveSettings,
    ) -> None:
        self._scheduler, self._segmenter, self._postprocess = scheduler, segmenter, postprocess
        self._publisher, self._watchdog, self._settings = publisher, watchdog, settings
        self._health = {camera.name: HealthWatch(segmenter.spec.classes) for camera in scheduler.cameras}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._unfit: dict[str, tuple[str, float]] = {}
        self._deadline_s = settings.engine_deadline_s
        self.results = 0

    def warm_up(self) -> None:
        """Let the engine compile and allocate what its first calls need; errors are those of `segment`."""
        picture = Frame(np.zeros((*self._segmenter.spec.input_size, 3), np.uint8), "bgr", "", 0, 0, 0)
        with self._watchdog.watching(self._settings.start_deadline_s):
            for count in (1, self._segmenter.batch):
                started_s = time.monotonic()
                self._segmenter.segment([picture] * count)
        tried_s = time.monotonic() - started_s
        self._deadline_s = max(self._settings.engine_deadline_s, TRIED_TIMES * tried_s)

    def check_use(self) -> None:
        """Unusable where no picture of any camera could ever be used, and nothing but another configuration helps."""
        if self._sizes:
            return
        reasons = [self._useless(camera) for camera in self._scheduler.cameras]
        if all(reasons):
            raise Unusable(f"no camera can be used: {'; '.join(reasons)}")

    def _useless(self, camera: LiveCamera) -> str:
        """Why a camera that gave no fit picture never will; "" where it may."""
        status = camera.status()
        if status.state is CameraState.FAILED:
            return f"{camera.name} failed: {status.message}" if status.cause in PERMANENT else ""
        reason, since_s = self._unfit.get(camera.name, ("", 0.0))
        if not reason or (status.state not in FINAL and time.monotonic() - since_s < UNFIT_S):
            return ""
        return f"{camera.name}: {reason.removeprefix(f'camera {camera.name}: ')}"

    def turn(self) -> bool:
        """Whether there was something to do."""
        waiting = self._scheduler.next()
        if not waiting:
            return False
        try:
            if ready := [taken for taken in waiting if self._fits(taken)]:
                for taken, result in zip(ready, self._segment(ready), strict=True):
                    self._publish(taken, result)
        finally:
            for taken in waiting:
                taken.camera.release(taken.frame)
        return True

    def _fits(self, taken: Taken) -> bool:
        """Whether a picture can be segmented; a camera whose picture has a wrong size says so, and the others go on."""
        camera, frame = taken.camera, taken.frame
        try:
            size = frame.size
            if self._sizes.get(camera.name) != size:
                self._segmenter.geometry(size, camera.name)
                self._postprocess.check(camera.name, size)
                self._sizes[camera.name] = size
        except PspnetError as error:
            self._unfit.setdefault(camera.name, (str(error), time.monotonic()))
            self._publisher.trouble(camera, str(error))
            return False
        return True

    def _segment(self, ready: list[Taken]) -> list[Segmentation]:
        calls = -(-len(ready) // self._segmenter.batch)
        with _fatal(), self._watchdog.watching(calls * self._deadline_s):
            results = self._segmenter.segment([taken.frame for taken in ready])
        self.results += len(results)
        return results

    def _publish(self, taken: Taken, result: Segmentation) -> None:
        started_ns = time.perf_counter_ns()
        health = self._health[taken.camera.name].see(taken.frame, result.labels)
        self._postprocess(result)
        wait_ms = (taken.taken_ns - taken.frame.captured_ns) / 1e6
        post_ms = (time.perf_counter_ns() - started_ns) / 1e6
        result.times_ms = {"wait": wait_ms, **result.times_ms, "post": post_ms}
        self._publisher.result(taken.camera, result, health)


@contextlib.contextmanager
def _fatal() -> Iterator[None]:
    """Turns what an engine says when it cannot go on into a FatalEngine."""
    try:
        yield
    except PspnetError as error:
        raise FatalEngine(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise FatalEngine(f"memory ran out ({error}): free memory, or choose a smaller network or batch") from error


def _all_ended(cameras: Sequence[LiveCamera]) -> bool:
    return all(camera.state in FINAL for camera in cameras)


def _flusher(publisher: Publisher, cameras: Sequence[LiveCamera], outlets: Sequence[Outlet]) -> Callable[[], None]:
    """What is done when the engine hangs, before the process is left."""

    def flush() -> None:
        publisher.fail("the engine hangs")
        _stop_all(cameras, outlets, deadline_s=1.0)

    return flush


def _stop_all(cameras: Sequence[LiveCamera], outlets: Sequence[Outlet], deadline_s: float) -> None:
    """Stop cameras and outlets at the same time."""
    end_s = time.monotonic() + deadline_s
    for camera in cameras:
        camera.request_stop(deadline_s)
    stop_outlets(outlets, deadline_s * OUTLET_SHARE)
    for camera in cameras:
        camera.stop(max(end_s - time.monotonic(), 0.0))
