"""GStreamer captures: real pipelines, with a test picture in place of the Jetson's sensor."""

from __future__ import annotations

import threading
import time
import tracemalloc

import numpy as np
import pytest

from runtime import capture_gstreamer, gstreamer
from runtime.camera_uri import CameraUri, camera_uri
from runtime.capture import Capture, open_capture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureError, CaptureTimeout
from runtime.gstreamer import GstreamerFault

LOADED_S = 30.0
AGE_MS = 1000.0
LIVE = "videotestsrc is-live=true"


@pytest.fixture
def plugins() -> None:
    try:
        found = gstreamer.has_element("videotestsrc") and gstreamer.has_element("videoconvert")
    except OSError:
        found = False
    if not found:
        pytest.skip(
            "GStreamer's test picture needs: apt-get install gstreamer1.0-plugins-base libgstreamer-plugins-base1.0-0"
        )


@pytest.fixture
def sensor(plugins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up sensor in place of the Jetson's."""
    monkeypatch.setattr(capture_gstreamer, "ARGUS", "videotestsrc is-live=true name=sensor{sensor}")
    monkeypatch.setattr(capture_gstreamer, "NVMM", "video/x-raw")
    monkeypatch.setattr(capture_gstreamer, "CONVERTER", "videoconvert name=flip{flip}")


def pipeline(text: str) -> CameraUri:
    return camera_uri(f"gst://{text}", allow_gstreamer=True)


def cause_of_opening(uri: CameraUri, deadline_s: float = LOADED_S) -> tuple[str, str]:
    with pytest.raises(CaptureError) as caught:
        open_capture(uri, deadline_s)
    assert "\n" not in str(caught.value)
    return caught.value.cause, str(caught.value)


def test_csi_gives_nv12_at_the_size_asked_with_the_sensors_time(sensor: None) -> None:
    capture = open_capture(camera_uri("csi://0?width=640&height=360&fps=30&flip=2"), LOADED_S)
    stamps = []
    for _ in range(6):
        picture = capture.read(LOADED_S)
        assert (picture.image.shape, picture.format, picture.full_range) == ((540, 640), "nv12", False)
        assert picture.sensor_ns is not None and 0 <= time.monotonic_ns() - picture.sensor_ns < AGE_MS * 1e6
        stamps.append(picture.sensor_ns)
    assert capture.decoder == "none (raw)" and stamps == sorted(set(stamps))
    capture.close()
    capture.close()


def test_launch_line_of_a_jetson() -> None:
    line = capture_gstreamer.csi_pipeline(camera_uri("csi://1?width=1280&height=720&fps=60&flip=2"))
    assert line.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60/1,format=NV12 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=NV12 ! appsink"
    )
    assert all(setting in line for setting in ("drop=true", "max-buffers=1", "sync=false"))


def test_credentials_are_no_part_of_a_launch_line() -> None:
    line = capture_gstreamer.rtsp_pipeline(camera_uri("rtsp://joe:hush@cam/secret-path#transport=udp"))
    assert all(word not in line for word in ("joe", "hush", "cam/", "secret-path")) and "protocols=udp" in line


def test_csi_without_a_jetson_names_what_is_missing_and_how_to_get_it() -> None:
    cause, message = cause_of_opening(camera_uri("csi://0"))
    assert cause == "missing_backend" and (
        "nvidia-l4t-gstreamer" in message or "apt-get install libgstreamer" in message
    )


@pytest.mark.parametrize(
    ("name", "layout", "shape"),
    [
        ("NV12", "nv12", (360, 322)), ("YUY2", "yuyv", (240, 322, 2)), ("UYVY", "uyvy", (240, 322, 2)),
        ("BGR", "bgr", (240, 322, 3)), ("RGB", "rgb", (240, 322, 3)), ("GRAY8", "grey", (240, 322)),
    ],
)  # fmt: skip
def test_padded_rows_of_every_format_are_read_right(
    plugins: None, name: str, layout: str, shape: tuple[int, ...]
) -> None:
    # 322 pixels are no multiple of 4 bytes in most formats, so GStreamer pads the rows; a plain grey has no seams.
    caps = f"video/x-raw,format={name},width=322,height=240"
    capture = open_capture(pipeline(f"{LIVE} pattern=solid-color foreground-color=0xff808080 ! {caps}"), LOADED_S)
    picture = capture.read(LOADED_S)
    assert (picture.image.shape, picture.format) == (shape, layout)
    assert np.ptp(picture.image) <= 8 and 118 <= picture.image.mean() <= 132
    capture.close()


@pytest.mark.parametrize(
    ("colorimetry", "matrix", "full_range"),
    [("bt709", "709", False), ("bt601", "601", False), ("1:3:5:1", "709", True)],
)
def test_matrix_and_range_are_those_of_the_stream(
    plugins: None, colorimetry: str, matrix: str, full_range: bool
) -> None:
    caps = f"video/x-raw,format=NV12,width=64,height=48,colorimetry=(string){colorimetry}"
    capture = open_capture(pipeline(f"{LIVE} ! {caps} ! appsink drop=1 max-buffers=2"), LOADED_S)
    picture = capture.read(LOADED_S)
    capture.close()
    assert (picture.matrix, picture.full_range) == (matrix, full_range)


def test_end_of_a_pipeline_is_an_end(plugins: None) -> None:
    capture = open_capture(pipeline(f"{LIVE} num-buffers=3 ! video/x-raw,format=BGR"), LOADED_S)
    with pytest.raises(CaptureEnded):
        while True:
            capture.read(LOADED_S)
    capture.close()


def stalling() -> Capture:
    """A pipeline that gives one picture, and the next an hour later."""
    return open_capture(pipeline("videotestsrc is-live=true ! video/x-raw,format=BGR,framerate=1/3600"), LOADED_S)


def test_read_ends_by_its_deadline_and_by_interruption(plugins: None) -> None:
    capture = stalling()
    capture.read(LOADED_S)
    began = time.monotonic()
    with pytest.raises(CaptureTimeout):
        capture.read(0.2)
    assert 0.2 <= time.monotonic() - began < 5
    threading.Timer(0.1, capture.interrupt).start()
    began = time.monotonic()
    with pytest.raises(CaptureBroken):
        capture.read(LOADED_S)
    assert time.monotonic() - began < LOADED_S / 2
    capture.close()


def test_pipeline_that_gives_nothing_is_a_timeout_of_opening(plugins: None) -> None:
    began = time.monotonic()
    assert cause_of_opening(pipeline(f"{LIVE} ! valve drop=true ! video/x-raw,format=BGR"), 0.4)[0] == "timeout"
    assert 0.4 <= time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("nosuchelement ! videoconvert", "missing_backend"), ("audiotestsrc ! videoconvert", "refused"),
        ("filesrc location=/no/such/file ! decodebin ! videoconvert", "no_device"),
        (f"{LIVE} ! video/x-raw,format=I420", "codec"), ("videotestsrc ! ! x", "refused"),
    ],
)  # fmt: skip
def test_faults_of_pipelines_become_causes(plugins: None, text: str, cause: str) -> None:
    assert cause_of_opening(pipeline(text))[0] == cause


@pytest.mark.parametrize(
    ("address", "fault", "cause"),
    [
        ("csi://0", GstreamerFault("resource", 13, "No cameras available"), "no_device"),
        ("csi://9", GstreamerFault("library", 4, "Invalid camera device specified, sensor 9"), "no_device"),
        ("csi://0", GstreamerFault("resource", 13, "Failed to create CaptureSession"), "refused"),
        ("csi://0", GstreamerFault("stream", 1, "nvbufsurface: connection to nvargus-daemon lost"), "refused"),
        ("rtsp://cam/s", GstreamerFault("resource", 15, "Unauthorized"), "auth"),
        ("rtsp://cam/s", GstreamerFault("resource", 3, "Not found"), "not_found"),
        ("rtsp://cam/s", GstreamerFault("resource", 5, "Could not connect"), "refused"),
        ("rtsp://cam/s", GstreamerFault("stream", 6, "no decoder"), "codec"),
        ("rtsp://cam/s", GstreamerFault("core", 12, "plug-in missing"), "missing_backend"),
    ],
)
def test_errors_on_the_bus_become_causes(address: str, fault: GstreamerFault, cause: str) -> None:
    assert capture_gstreamer.cause_of(camera_uri(address), fault) == cause


def test_stuck_argus_comes_with_advice() -> None:
    fault = GstreamerFault("resource", 13, "Failed to create CaptureSession")
    assert "systemctl restart nvargus-daemon" in capture_gstreamer._advice(camera_uri("csi://0"), fault)


def test_hundred_reads_and_ten_openings_keep_no_picture(sensor: None) -> None:
    uri = camera_uri("csi://0?width=640&height=480&fps=200")
    open_capture(uri, LOADED_S).close()
    tracemalloc.start()
    for _ in range(10):
        capture = open_capture(uri, LOADED_S)
        for _ in range(10):
            capture.read(LOADED_S)
        capture.close()
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 640 * 480
