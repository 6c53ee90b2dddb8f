"""rtsp:// captures against a real server (Debian's gst-rtsp-server): opened, stopped, refused, cut and stalled."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import capture_ffmpeg, capture_gstreamer, gstreamer
from runtime.camera_uri import camera_uri
from runtime.capture import Capture, open_capture
from runtime.capture_errors import CaptureBroken, CaptureError
from runtime.sender_clock import WINDOW_NS, SenderClock
from tests.network_doubles import free_port
from tests.rtsp_streams import CLIP, LOADED_S, MISSING, has_rtsp_server, hiccuping, rtsp_server


@pytest.fixture(scope="module")
def system_gstreamer() -> None:
    if not has_rtsp_server():
        pytest.skip(MISSING)


def uri_of(port: int, path: str = "/pattern", who: str = "", options: str = "decoder=ffmpeg"):  # type: ignore[no-untyped-def]
    return camera_uri(f"rtsp://{who}127.0.0.1:{port}{path}#{options}")


def cause_of_opening(uri) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(CaptureError) as caught:
        open_capture(uri, LOADED_S)
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.cause


def read_until_failure(capture: Capture) -> CaptureError:
    with pytest.raises(CaptureError) as caught:
        while True:
            capture.read(LOADED_S)
    return caught.value


def test_stream_opens_stops_restarts(system_gstreamer: None, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with rtsp_server(port) as server:
        capture = open_capture(uri_of(port), LOADED_S)
        assert capture.decoder == "FFmpeg h264 (software)"
        pictures = [capture.read(LOADED_S) for _ in range(10)]
        assert {(picture.image.shape, picture.format) for picture in pictures} == {((240, 320, 3), "bgr")}
        assert all(picture.sensor_ns is not None for picture in pictures[2:])
        assert cause_of_opening(uri_of(port, "/none")) == "not_found"
        assert cause_of_opening(uri_of(port, "/sound")) == "codec"
        server.kill()
        assert read_until_failure(capture).cause == "disconnected"
        assert isinstance(read_until_failure(capture), CaptureBroken)
        capture.close()
        capture.close()
    assert cause_of_opening(uri_of(port)) == "refused"
    with rtsp_server(port):
        for path, codec in (("/pattern", "h264"), ("/jpeg", "mjpeg")):
            capture = open_capture(uri_of(port, path), LOADED_S)
            assert codec in capture.decoder and capture.read(LOADED_S).image.any()
            capture.close()
    assert capfd.readouterr().err == ""  # FFmpeg's own words hold addresses with passwords


def test_clip_over_rtsp_is_the_clip(system_gstreamer: None) -> None:
    port = free_port()
    with rtsp_server(port):
        capture = open_capture(uri_of(port, "/clip"), LOADED_S)
        picture = capture.read(LOADED_S).image
        capture.close()
    original = cv2.VideoCapture(str(CLIP))
    frames = [original.read()[1] for _ in range(30)]
    # The server may begin a few pictures into the clip; H.264 itself is passed on untouched.
    assert min(float(np.abs(frame.astype(int) - picture).mean()) for frame in frames) < 1.0


@pytest.mark.parametrize("method", ["digest", "basic"])
def test_credentials_are_taken_and_their_lack_told(system_gstreamer: None, method: str) -> None:
    port = free_port()
    with rtsp_server(port, "joe", "hu:s@h", method):
        capture = open_capture(uri_of(port, who="joe:hu:s@h@"), LOADED_S)
        assert capture.read(LOADED_S).image.any()
        capture.close()
        assert cause_of_opening(uri_of(port)) == "auth"
        assert cause_of_opening(uri_of(port, who="joe:hush@")) == "auth"
        if method == "digest":
            assert cause_of_opening(uri_of(port, "/none", who="joe:hu:s@h@")) == "not_found"


def test_stall_ends_by_the_addresss_timeout(system_gstreamer: None) -> None:
    port = free_port()
    with rtsp_server(port) as server:
        capture = open_capture(uri_of(port, options="decoder=ffmpeg&timeout_ms=700"), LOADED_S)
        capture.read(LOADED_S)
        server.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        error = read_until_failure(capture)
        assert error.cause == "timeout" and 0.5 < time.monotonic() - began < 10
        assert read_until_failure(capture).cause == "disconnected"
        capture.close()


def test_pictures_that_waited_in_the_network_are_known_to_be_old(system_gstreamer: None) -> None:
    port = free_port()
    with rtsp_server(port), hiccuping(port) as (proxy, flowing, _):
        capture = open_capture(uri_of(proxy, options="decoder=ffmpeg&timeout_ms=20000"), LOADED_S)
        for _ in range(20):
            capture.read(LOADED_S)
        flowing.clear()
        threading.Timer(1.0, flowing.set).start()
        ages_ms = []
        for _ in range(30):
            picture = capture.read(LOADED_S)
            assert picture.sensor_ns is not None
            ages_ms.append((time.monotonic_ns() - picture.sensor_ns) / 1e6)
        capture.close()
    assert max(ages_ms) > 500  # the first after the hiccup, of which all but a few pictures came late
    assert ages_ms[-1] < max(ages_ms) / 2  # and the queue drained


def test_connection_that_is_cut_is_a_disconnection(system_gstreamer: None) -> None:
    port = free_port()
    with rtsp_server(port):
        with hiccuping(port) as (proxy, _, _):
            capture = open_capture(uri_of(proxy), LOADED_S)
            capture.read(LOADED_S)
        assert read_until_failure(capture).cause in ("disconnected", "timeout")
        capture.close()


def test_hardware_decoders_pipeline_with_a_software_decoder_in_its_place(
    system_gstreamer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        has_decoder = gstreamer.has_element("avdec_h264") and gstreamer.has_element("rtspsrc")
    except OSError:
        has_decoder = False
    if not has_decoder:
        pytest.skip("a software decoder for GStreamer needs: apt-get install gstreamer1.0-libav")
    monkeypatch.setattr(capture_gstreamer, "DECODER", "avdec_h264 ! videoconvert")
    monkeypatch.setattr(capture_gstreamer, "is_jetson", lambda: True)
    port = free_port()
    with rtsp_server(port, "joe", "hu:s@h", "digest") as server:
        capture = open_capture(uri_of(port, who="joe:hu:s@h@", options="decoder=auto"), LOADED_S)
        pictures = [capture.read(LOADED_S) for _ in range(5)]
        assert capture.decoder == "avdec_h264 (hardware)"
        assert {(picture.image.shape, picture.format) for picture in pictures} == {((360, 320), "nv12")}
        server.kill()
        assert read_until_failure(capture).cause in ("disconnected", "ended")
        capture.close()


def test_hardware_decoder_that_is_absent_is_named() -> None:
    with pytest.raises(CaptureError, match=r"nvv4l2decoder|GStreamer") as caught:
        open_capture(camera_uri("rtsp://127.0.0.1/s#decoder=nvv4l2decoder"), 1)
    assert caught.value.cause == "missing_backend"


def test_options_are_those_of_this_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uri = camera_uri("rtsp://cam/s#transport=udp&timeout_ms=1500")
    for version, name in ((58, "stimeout"), (59, "timeout"), (62, "timeout")):
        monkeypatch.setattr(capture_ffmpeg, "libavformat", lambda version=version: version)
        assert capture_ffmpeg.capture_options(uri).split("|")[:2] == ["rtsp_transport;udp", f"{name};1500000"]
    secure = capture_ffmpeg.capture_options(camera_uri(f"rtsps://cam/s#ca={tmp_path}/a.pem"))
    assert f"tls_verify;1|ca_file;{tmp_path}/a.pem" in secure
    assert "tls_verify" not in capture_ffmpeg.capture_options(camera_uri("rtsps://cam/s#tls=unverified"))


def test_the_environment_is_as_it_was_after_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capture_ffmpeg.OPTIONS_VARIABLE, raising=False)
    with capture_ffmpeg._options(camera_uri("rtsp://cam/s")):
        assert os.environ[capture_ffmpeg.OPTIONS_VARIABLE].startswith("rtsp_transport;tcp")
    assert capture_ffmpeg.OPTIONS_VARIABLE not in os.environ


def test_sender_clock_finds_delays_and_forgives_drift() -> None:
    clock, second = SenderClock(), 10**9
    delays = [5, 3, 400, 4, 250]  # milliseconds on the way, from a camera whose clock began 1000 s before ours
    for index, delay in enumerate(delays):
        sender, captured = (1000 + index) * second, index * second + delay * 10**6
        found_ms = (captured - clock.local_ns(sender, captured)) / 1e6
        assert found_ms == delay - min(delays[: index + 1])
    later = 3 * WINDOW_NS  # our clocks drifted by a second since: only the last pictures count
    assert clock.local_ns((1000 * second) + later - second, later) == later
