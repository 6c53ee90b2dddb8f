"""A live camera in its own process: pictures, status and events where all goes well."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.pattern import Pattern
from tests.cameras import PATIENCE_S, Watched

ROOT = Path(__file__).parents[1]


def test_pictures_come_in_order_stamped_and_as_they_were_drawn() -> None:
    before_ns = time.monotonic_ns()
    with Watched("ok") as watched:
        watched.until(lambda: len(watched.codes) >= 10)
        select.select([watched.camera.wakeup], [], [], PATIENCE_S)
        frame = watched.camera.take()
        assert frame is not None
        now_ns = time.monotonic_ns()
        expected = Pattern((96, 128)).draw(int(watched.codes[0] or 0))
        assert frame.image.shape == expected.shape and frame.format == "bgr" and frame.size == (96, 128)
        assert (frame.source, frame.name) == ("front", f"front_{frame.sequence:06d}")
        assert before_ns < frame.captured_ns <= now_ns
        assert frame.sensor_ns is not None and before_ns < frame.sensor_ns <= frame.captured_ns
        assert abs(frame.wall_ns - frame.captured_ns - (time.time_ns() - time.monotonic_ns())) < 50e6
        with pytest.raises(ValueError, match="read-only"):
            frame.image[0, 0, 0] = 0
        status = watched.camera.status()
    assert watched.arrivals_ns == sorted(set(watched.arrivals_ns))
    codes = [code for code in watched.codes if code is not None]
    assert len(codes) == len(watched.codes) and codes == sorted(set(codes))
    assert status.state is CameraState.RUNNING and status.size == (96, 128) and status.pid
    assert status.decoder == "none (test pattern)" and status.cause == "" and status.reconnects == 0
    assert 10 < status.fps < 30 and status.last_frame_age_ms is not None and status.last_frame_age_ms < 2000
    assert watched.states[0] == "RUNNING" and watched.states[-1] == "STOPPED"
    assert watched.camera.state is CameraState.STOPPED


def test_every_picture_is_taken_or_counted_with_its_cause() -> None:
    script = "ok 500ms; corrupt 3; storm 12x 500ms; ok 500ms; refuse 60s"
    with Watched(script, fps=20.0) as watched:
        watched.until(lambda: watched.entered(CameraState.BACKOFF) or len(watched.codes) > 7)
        while not watched.entered(CameraState.BACKOFF):  # a consumer that is busy for 150 ms at a time
            time.sleep(0.15)
            watched.take()
        watched.take()
        status = watched.camera.status()
    drops = dict(status.drops)
    assert drops.pop("corrupt") == 3 and drops["storm"] > 0 and drops["busy"] > 0
    assert status.frames == len(watched.codes) + sum(drops.values())


def test_a_slow_consumer_gets_the_newest_picture() -> None:
    with Watched("ok", max_age_ms=1000) as watched:
        watched.until(lambda: watched.codes)
        ages_ms = []
        for _ in range(5):
            time.sleep(0.4)
            frame = watched.camera.take()
            assert frame is not None
            ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
            watched.camera.release(frame)
        # One period of 50 ms, with room for a machine that is busy otherwise; a queue would hold what is 400 ms old.
        assert min(ages_ms) < 150
        assert watched.camera.status().drops["busy"] >= 5


def test_what_is_too_old_is_dropped_as_stale() -> None:
    with Watched("ok 500ms; stall 60s", max_age_ms=100) as watched:
        watched.until(lambda: watched.codes)
        select.select([watched.camera], [], [], PATIENCE_S)
        waiting = watched.camera.status().frames
        while watched.camera.status().state is not CameraState.STALLED:
            time.sleep(0.02)
        assert watched.camera.status().frames >= waiting
        assert watched.camera.take() is None and watched.camera.status().drops["stale"] == 1


def test_lent_pictures_keep_and_are_counted_when_none_is_left() -> None:
    with Watched("ok") as watched:
        lent = []
        while len(lent) < 4:
            select.select([watched.camera], [], [], PATIENCE_S)
            frame = watched.camera.take()
            if frame is not None:
                lent.append((frame, frame.image.copy()))
        while watched.camera.status().drops["held"] < 3:
            time.sleep(0.02)
        assert all(np.array_equal(frame.image, copy) for frame, copy in lent)
        assert watched.camera.take() is None
        watched.camera.release(lent[0][0])
        watched.until(lambda: watched.codes)
    assert all(np.array_equal(frame.image, copy) for frame, copy in lent[1:])  # after the end, too


def test_larger_pictures_get_new_memory_and_the_size_is_told() -> None:
    with Watched("ok 300ms; resize 60x80; ok 300ms; resize 240x320") as watched:
        watched.until(lambda: watched.camera.buffers())
        [small] = watched.camera.buffers()
        watched.until(lambda: watched.camera.status().size == (240, 320) and watched.codes[-1] is not None)
        watched.until(lambda: len(watched.camera.buffers()) == 1)
        [large] = watched.camera.buffers()
        watched.until(lambda: any(event.values == {"height": 240, "width": 320} for event in watched.events))
    page = 4096
    assert small.size == 4 * 9 * page and large.size == 4 * 57 * page  # 36,864 and 230,400 bytes in whole pages
    assert small.ctypes.data % page == large.ctypes.data % page == 0
    kinds = [event.kind for event in watched.events]
    assert kinds.count("memory") == 2 and watched.camera.status().reconnects == 0


@pytest.mark.parametrize(("rotate", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_rotation_is_clockwise(rotate: int, turns: int) -> None:
    with Watched("ok", rotate=rotate) as watched:
        select.select([watched.camera], [], [], PATIENCE_S)
        frame = watched.camera.take()
        assert frame is not None
        candidates = [np.rot90(Pattern((96, 128)).draw(number), turns) for number in range(40)]
        assert any(np.array_equal(frame.image, candidate) for candidate in candidates)


def test_yuv_comes_through_and_is_turned_as_bgr() -> None:
    uri = "test://pattern?size=96x128&fps=20&format=nv12&matrix=709&range=full"
    for rotate, expected in ((0, ("nv12", (144, 128))), (90, ("bgr", (128, 96, 3)))):
        with Watched("", uri=uri, rotate=rotate) as watched:
            select.select([watched.camera], [], [], PATIENCE_S)
            frame = watched.camera.take()
            assert frame is not None and (frame.format, frame.image.shape) == expected
            if not rotate:
                assert (frame.matrix, frame.full_range, frame.size) == ("709", True, (96, 128))


class SteppedClock:
    """The system's clocks, the wall's shifted by what a test says."""

    shift_ns = 0

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns() + self.shift_ns


def test_a_clock_step_is_told_once_and_is_no_stall() -> None:
    clock = SteppedClock()
    with Watched("ok", clock=clock) as watched:
        watched.until(lambda: len(watched.codes) > 5)
        before = watched.states
        clock.shift_ns = -3600 * 10**9
        watched.until(lambda: watched.camera.status().clock_steps)
        [step] = [event for event in watched.events if event.kind == "clock_step"]
        assert step.values["step_ms"] == pytest.approx(-3.6e6, abs=50)
        frame = None
        while frame is None:
            frame = watched.camera.take()
        assert abs(frame.wall_ns - clock.wall_ns() - (frame.captured_ns - clock.monotonic_ns())) < 50e6
        assert watched.camera.status().clock_steps == 1 and watched.states == before


def test_a_clip_that_ends_stops_its_camera(tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "road.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (128, 96))  # type: ignore[attr-defined]
    for number in range(10):
        video.write(Pattern((96, 128)).draw(number))
    video.release()
    with Watched("", uri=f"clip://{path}") as watched:
        watched.until(lambda: watched.camera.state is CameraState.STOPPED)
        assert watched.camera.status().cause == "ended" and watched.camera.status().frames == 10


def test_an_address_that_is_none_is_refused_at_once_and_credentials_are_shown_nowhere() -> None:
    with pytest.raises(PspnetError, match="ftp://"):
        Camera(CameraSettings("a", "ftp://host/a"))
    uri = "http://admin:geheim7@127.0.0.1:9/video.mjpg"  # the port discard, where nobody listens
    with Watched("", uri=uri) as watched:
        watched.until(lambda: watched.entered(CameraState.BACKOFF))
        command = Path(f"/proc/{watched.camera.status().pid}/cmdline").read_bytes()
        told = repr(watched.camera.status()) + repr(watched.events) + command.decode()
    assert "geheim7" not in told and "127.0.0.1" in told


def test_the_worker_imports_what_it_needs_and_no_more() -> None:
    report = "import sys, runtime.camera_worker; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "cv2"} <= loaded
    assert not loaded & {"torch", "onnx", "onnxruntime", "openvino", "numba", "tqdm", "starlette", "multiprocessing"}
