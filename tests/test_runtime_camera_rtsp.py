"""rtsp:// through a whole camera, process and states included, against a real server (Debian's gst-rtsp-server)."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from tests.cameras import Watched
from tests.network_doubles import free_port
from tests.rtsp_streams import MISSING, has_rtsp_server, hiccuping, rtsp_server

DETECTION_S = 1.0
RECOVERY_S = 1.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 5.0
KEY_PICTURE_S = 1.0  # of this server's stream: nothing can be decoded before the next one
LOADED_S = 4.0
"""A machine under load opens a stream late: server, camera and decoder are processes and threads of their own."""

RUNNING, STALLED, BACKOFF = CameraState.RUNNING, CameraState.STALLED, CameraState.BACKOFF


@pytest.fixture(scope="module", autouse=True)
def real_server() -> None:
    if not has_rtsp_server():
        pytest.skip(MISSING)


def watched(port: int, path: str = "/pattern", who: str = "") -> Watched:
    return Watched("", uri=f"rtsp://{who}127.0.0.1:{port}{path}#decoder=ffmpeg&timeout_ms=2000", max_age_ms=5000)


def await_event(camera: Watched, state: CameraState, after_ns: int, cause: str | None = None) -> CameraEvent:
    """The first event of entering a state after a moment, waited for."""

    def found() -> list[CameraEvent]:
        return [event for event in camera.entered(state, cause) if event.at_ns >= after_ns]

    camera.until(found)
    return found()[0]


def test_a_server_that_goes_away_and_comes_back() -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(rtsp_server(port))
        camera = stack.enter_context(watched(port))
        camera.until(lambda: len(camera.arrivals_ns) > 20)
        assert camera.camera.state is RUNNING and camera.camera.status().decoder == "FFmpeg h264 (software)"
        assert camera.camera.status().size == (240, 320)
        server.kill()
        gone_ns = time.monotonic_ns()
        lost = await_event(camera, BACKOFF, gone_ns)
        assert lost.cause == "disconnected" and (lost.at_ns - gone_ns) / 1e9 < DETECTION_S
        await_event(camera, BACKOFF, lost.at_ns, "refused")
        stack.enter_context(rtsp_server(port))
        back_ns = time.monotonic_ns()
        running = await_event(camera, RUNNING, back_ns)
        assert (running.at_ns - back_ns) / 1e9 < LONGEST_DELAY_S + RECOVERY_S + LOADED_S
        first_ns = min(ns for ns in camera.arrivals_ns if ns > gone_ns + 1e9)
        assert first_ns > back_ns  # nothing of the old stream was handed out as new
        assert camera.camera.status().reconnects == 1 and camera.camera.status().crashes == 0


def test_a_connection_that_is_cut_is_opened_again() -> None:
    port = free_port()
    with rtsp_server(port), hiccuping(port) as (proxy, _, cut), watched(proxy) as camera:
        camera.until(lambda: len(camera.arrivals_ns) > 20)
        cut_ns = time.monotonic_ns()
        cut()
        lost = await_event(camera, BACKOFF, cut_ns)
        assert lost.cause == "disconnected" and (lost.at_ns - cut_ns) / 1e9 < DETECTION_S
        running = await_event(camera, RUNNING, lost.at_ns)
        assert (running.at_ns - lost.at_ns) / 1e9 < FIRST_DELAY_S + KEY_PICTURE_S + RECOVERY_S + LOADED_S
        assert camera.camera.status().reconnects == 1


def test_a_stream_that_stalls_goes_on_or_is_opened_again() -> None:
    port = free_port()
    with rtsp_server(port) as server, watched(port) as camera:
        camera.until(lambda: len(camera.arrivals_ns) > 20)
        server.send_signal(signal.SIGSTOP)
        stopped_ns = time.monotonic_ns()
        stalled = await_event(camera, STALLED, stopped_ns)
        assert (stalled.at_ns - stopped_ns) / 1e9 < DETECTION_S
        lost = await_event(camera, BACKOFF, stopped_ns)
        assert lost.cause == "timeout" and (lost.at_ns - stopped_ns) / 1e9 < 2.0 + DETECTION_S
        server.send_signal(signal.SIGCONT)
        back_ns = time.monotonic_ns()
        running = await_event(camera, RUNNING, back_ns)
        # What a stopped server accepts is not answered before it goes on, so the first try may have to end first.
        assert (running.at_ns - back_ns) / 1e9 < LONGEST_DELAY_S + RECOVERY_S + LOADED_S
        assert camera.camera.status().crashes == 0


@pytest.mark.parametrize(("path", "who", "cause"), [
    ("/pattern", "", "auth"), ("/pattern", "joe:wrong-s3cret@", "auth"), ("/none", "joe:hu:s@h@", "not_found"),
    ("/sound", "joe:hu:s@h@", "codec"),
])  # fmt: skip
def test_what_is_refused_is_told_apart_and_no_secret_is_shown(path: str, who: str, cause: str) -> None:
    port = free_port()
    with rtsp_server(port, "joe", "hu:s@h", "digest"), watched(port, path, who) as camera:
        refused = await_event(camera, BACKOFF, 0)
        status = camera.camera.status()
        assert refused.cause == cause and "RUNNING" not in camera.states
        told = repr(status) + repr(camera.events)
        assert "wrong-s3cret" not in told and "hu:s@h" not in told
        if cause == "not_found":
            return
        time.sleep(1.0)
        assert camera.camera.state is BACKOFF  # asked again after 4 to 5 s: passwords are not hammered


def test_the_right_password_gets_the_stream() -> None:
    port = free_port()
    with rtsp_server(port, "joe", "hu:s@h", "digest"), watched(port, who="joe:hu:s@h@") as camera:
        camera.until(lambda: len(camera.arrivals_ns) > 5)
        assert "hu:s@h" not in repr(camera.camera.status()) + repr(camera.events)
