"""Engines that fail or hang end the run and the process; real cameras with scripted faults do not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.board import Board
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.cuda import CudaError
from runtime.live import FatalEngine, LiveSettings, run_live
from runtime.outlet import Outlet
from runtime.record import Record
from runtime.segmenter import CpuSegmenter
from runtime.watchdog import ENGINE_EXIT, FLUSH_S, STOPPED_EXIT, Watchdog
from tests.live_doubles import SPEC, FakeCamera, FakeRunner, ListSink, until

ROOT = Path(__file__).parents[1]
LOADED_MACHINE_S = 10.0  # what a process start and an exit may take where other tests run beside this one


def raises(error: Exception) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


def run_into(error: Exception, sink: ListSink, board: Board) -> None:
    """A loop whose engine raises at the second picture. The error that the loop makes of it goes on."""
    camera, runner = FakeCamera("front"), FakeRunner()

    def feed() -> None:
        until(lambda: runner.tried)
        camera.put()
        until(lambda: any(record.valid for record in sink.records))
        runner.before_infer = raises(error)
        camera.put()

    threading.Thread(target=feed).start()
    try:
        run_live([camera], CpuSegmenter(runner), [Outlet(sink, "list")], LiveSettings(), threading.Event(), board=board)
    finally:
        assert sink.closed and camera.stopped and camera.lent == []
        camera.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CudaError("cuStreamSynchronize failed: an illegal memory access was encountered"), "illegal memory access"),
        (MemoryError("Unable to allocate 12 MiB"), "memory ran out (Unable to allocate 12 MiB): free memory"),
        (RuntimeError("bad_alloc"), "memory ran out (bad_alloc)"),
    ],
)
def test_an_engine_that_fails_ends_the_run(error: Exception, text: str) -> None:
    sink, board = ListSink(), Board({"front": 60_000})
    with pytest.raises(FatalEngine) as caught:
        run_into(error, sink, board)
    assert text in str(caught.value) and caught.value.exit_code == ENGINE_EXIT and "\n" not in str(caught.value)
    assert not sink.records[-1].valid and "the engine failed" in sink.records[-1].reason
    assert "the engine failed" in board.unready()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_end_the_run(bad: float) -> None:
    logits = np.zeros((SPEC.classes, 12, 16), np.float32)
    runner = FakeRunner(logits)
    camera, stop = FakeCamera("front"), threading.Event()

    def spoil() -> None:
        until(lambda: runner.tried)
        runner._logits[0, 2, 3, 4] = bad
        camera.put()

    threading.Thread(target=spoil).start()
    with pytest.raises(FatalEngine, match="NaN or infinite"):
        run_live([camera], CpuSegmenter(runner), [], LiveSettings(), stop)
    camera.close()


def test_a_mistake_of_ours_is_not_made_an_engine_error() -> None:
    with pytest.raises(ZeroDivisionError):
        run_into(ZeroDivisionError("a bug"), ListSink(), Board({"front": 60_000}))


HANGING = """
    import sys, threading, time
    from runtime.live import LiveSettings, run_live
    from runtime.outlet import Outlet
    from runtime.segmenter import CpuSegmenter
    from tests.live_doubles import FakeCamera, FakeRunner, ListSink, until

    class Told(ListSink):
        def __call__(self, record):
            print(record.valid, record.reason, flush=True)
        def close(self):
            print("closed", flush=True)

    runner, camera, stop = FakeRunner(), FakeCamera("front"), threading.Event()
    def hang():
        until(lambda: runner.tried)
        runner.before_infer = lambda: time.sleep(600)
        camera.put()
        until(lambda: camera.lent)
        print("hangs", time.monotonic(), flush=True)
        if sys.argv[1] == "stop":
            stop.set()
    threading.Thread(target=hang).start()
    settings = LiveSettings(engine_deadline_s=float(sys.argv[2]))
    run_live([camera], CpuSegmenter(runner), [Outlet(Told(), "told")], settings, stop)
"""


@pytest.mark.parametrize(("how", "deadline_s", "status"), [("wait", 0.5, ENGINE_EXIT), ("stop", 60.0, STOPPED_EXIT)])
def test_an_engine_that_hangs_ends_the_process_with_everything_flushed(
    how: str, deadline_s: float, status: int
) -> None:
    """By itself after its deadline, and soon after a stop, for which 2 s are promised in all."""
    arguments = [sys.executable, "-c", textwrap.dedent(HANGING), how, str(deadline_s)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    ended_s = time.monotonic()
    lines = done.stdout.splitlines()
    hung_s = float(next(line for line in lines if line.startswith("hangs")).split()[1])
    assert done.returncode == status, done.stderr
    assert "False the engine hangs" in lines and lines[-1] == "closed"
    assert "the engine has not returned" in done.stderr and "Traceback" not in done.stderr
    assert ended_s - hung_s < deadline_s * (how == "wait") + 2 + LOADED_MACHINE_S


def test_the_watchdog_leaves_though_flushing_hangs_and_lets_short_calls_be() -> None:
    left, never = [], threading.Event()
    with Watchdog(threading.Event(), flush=lambda: never.wait(60) and None, leave=left.append) as watchdog:
        with watchdog.watching(60):
            time.sleep(0.2)
        time.sleep(0.2)
        assert not left
        started_s = time.monotonic()
        with watchdog.watching(0.1):
            until(lambda: left)
        assert left == [ENGINE_EXIT] and FLUSH_S < time.monotonic() - started_s < FLUSH_S + LOADED_MACHINE_S
    never.set()


def test_an_engine_that_is_always_slow_does_not_count_as_hung() -> None:
    """It took longer than the deadline already when it was tried."""
    runner, camera, stop, left, sink = FakeRunner(), FakeCamera("front"), threading.Event(), [], ListSink()
    runner.before_infer = lambda: time.sleep(0.2)

    def feed() -> None:
        until(lambda: runner.tried)
        camera.put()
        until(lambda: any(record.valid for record in sink.records))
        stop.set()

    threading.Thread(target=feed).start()
    settings = LiveSettings(engine_deadline_s=0.05)
    run_live([camera], CpuSegmenter(runner), [Outlet(sink, "list")], settings, stop, leave=left.append)
    assert left == []
    camera.close()


def test_real_cameras_with_faults_are_told_apart_and_a_healthy_one_goes_on() -> None:
    """One camera stalls, freezes, dies and returns in another size, one is covered, one is well all the time."""
    script = "ok 1s; stall 1s; ok 500ms; freeze 2s; crash; resize 96x128; ok 60s"
    uris = {"bad": f"test://pattern?size=72x96&fps=30&script={script}", "good": "test://pattern?size=120x160&fps=20"}
    uris["muddy"] = "test://pattern?size=120x160&fps=10&script=ok 1s; cover 60s"
    cameras = [Camera(CameraSettings(name, uri, max_age_ms=5_000)) for name, uri in uris.items()]
    sink, stop, seen = ListSink(), threading.Event(), set()

    def of(name: str, valid: bool) -> list[Record]:
        return [record for record in list(sink.records) if record.camera == name and record.valid == valid]

    def end_when_done() -> None:
        try:
            until(lambda: any(record.labels.shape == (96, 128) for record in of("bad", True)), 60)
            until(lambda: of("muddy", True)[-1].health == ("covered",), 60)
        finally:
            seen.update(camera.state for camera in cameras)
            stop.set()

    ender = threading.Thread(target=end_when_done)
    ender.start()
    result = run_live(cameras, CpuSegmenter(FakeRunner()), [Outlet(sink, "list")], LiveSettings(), stop)
    ender.join()
    reasons = [record.reason for record in of("bad", False)]
    for state in ("connecting", "stalled: no picture for", "frozen: all pictures are the same", "backoff: its process"):
        assert any(f"the camera is {state}" in reason for reason in reasons), (state, reasons)
    assert {record.labels.shape for record in of("bad", True)} == {(72, 96), (96, 128)}
    bad, good = result["cameras"]["bad"], result["cameras"]["good"]
    assert of("muddy", True)[0].health == () and not any(record.health for record in of("good", True))
    assert good["valid"] > bad["valid"] > 0 and good["drops"].get("state", 0) == 0
    assert seen == {CameraState.RUNNING} and all(camera.state is CameraState.STOPPED for camera in cameras)
    for name in uris:  # order and once only
        sequences = [record.sequence for record in of(name, True)]
        assert sequences == sorted(set(sequences))
