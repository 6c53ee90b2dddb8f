"""Cameras through GStreamer: csi:// on a Jetson, rtsp:// with its hardware decoder, and raw pipelines.

The sensor's time is the source element's stamp on the pipeline's clock, which is the system's monotonic one unless a
pipeline brings its own; a time that does not lie within the last seconds is taken for none. How close that stamp comes
to the exposure with nvarguscamerasrc is not known to us and must be measured on the board. Of rtsp:// it is the stamp
that the camera gave, on our clock, as in runtime/sender_clock.py.
"""

from __future__ import annotations

import re
import threading
import time

from pspnet.doctor import is_jetson
from runtime import gstreamer
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureError, CaptureRefused, CaptureTimeout
from runtime.network_camera import remaining_s
from runtime.sender_clock import SenderClock

SINK = "appsink name=pspnet_sink max-buffers=1 drop=true sync=false"
ARGUS, NVMM, CONVERTER = (
    "nvarguscamerasrc sensor-id={sensor}",
    "video/x-raw(memory:NVMM)",
    "nvvidconv flip-method={flip}",
)
DECODER = "nvv4l2decoder enable-max-performance=1 ! nvvidconv"
WIDTH, HEIGHT, FPS, TIMEOUT_MS = 1920, 1080, 30, 2000
SLICE_NS = 50 * 10**6  # how often a wait looks for errors on the bus
OLDEST_STAMP_NS = 5 * 10**9

RESOURCE = {3: "not_found", 4: "refused", 5: "refused", 15: "auth"}
"""Codes of GST_RESOURCE_ERROR: NOT_FOUND, BUSY, OPEN_READ, NOT_AUTHORIZED."""

MISSING_PLUGIN, TYPE_ERRORS = 12, (3, 4, 5, 6, 7)  # GST_CORE_ERROR; GST_STREAM_ERROR from TYPE_NOT_FOUND to DECODE
RESTART_ARGUS = "restart its daemon with: sudo systemctl restart nvargus-daemon; if that does not help, reboot"


class GstreamerCapture:
    """A pipeline that plays into an appsink."""

    def __init__(self, uri: CameraUri, pipeline: int, decoder: str) -> None:
        calls = gstreamer.library()
        self._uri, self._pipeline, self.decoder = uri, pipeline, decoder
        self._sink = calls.gst_bin_get_by_name(pipeline, b"pspnet_sink")
        self._bus = calls.gst_element_get_bus(pipeline)
        self._sample: gstreamer.Sample | None = None
        self._first: Picture | None = None
        self._clock = SenderClock() if uri.host else None
        self._running, self._interrupted, self._closed = False, False, False
        self._stopping = threading.Lock()

    def start(self, deadline_s: float) -> None:
        """Play, and wait for the first picture."""
        failed = gstreamer.library().gst_element_set_state(self._pipeline, gstreamer.PLAYING) == gstreamer.FAILURE
        if failed:
            fault = gstreamer.next_fault(self._bus) or gstreamer.GstreamerFault(
                "core", 0, "the pipeline does not start"
            )
            raise self._error(fault)
        self._first = self.read(deadline_s)
        self._running = True

    def read(self, deadline_s: float) -> Picture:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        end_ns = time.monotonic_ns() + int(deadline_s * 1e9)
        while not self._interrupted:
            left_ns = end_ns - time.monotonic_ns()
            if left_ns <= 0:
                raise CaptureTimeout(f"{self._uri}: no picture came within {deadline_s:g} s")
            if (picture := self._pulled(min(left_ns, SLICE_NS))) is not None:
                return picture
            if fault := gstreamer.next_fault(self._bus):
                raise self._error(fault)
            if not self._interrupted and gstreamer.library().gst_app_sink_is_eos(self._sink):
                raise CaptureEnded(f"{self._uri}: the stream is at its end")
        raise CaptureBroken(f"{self._uri}: the read was interrupted")

    def interrupt(self) -> None:
        """Sets the pipeline to NULL, which ends a blocked read and gives a CSI sensor back to its daemon."""
        self._interrupted = True
        with self._stopping:
            if not self._closed:
                gstreamer.library().gst_element_set_state(self._pipeline, gstreamer.NULL_STATE)

    def close(self) -> None:
        self.interrupt()
        self._release()
        with self._stopping:
            if not self._closed:
                self._closed = True
                for part in (self._sink, self._bus, self._pipeline):
                    gstreamer.library().gst_object_unref(part)

    def _pulled(self, timeout_ns: int) -> Picture | None:
        self._release()
        try:
            sample = gstreamer.pulled(self._sink, timeout_ns)
        except ValueError as error:
            raise CaptureRefused(f"{self._uri}: {error}", "codec") from error
        captured_ns = time.monotonic_ns()
        if sample is None:
            return None
        self._sample = sample
        stamp_ns = self._sensor_ns(sample.pts_ns, captured_ns)
        return Picture(sample.image, sample.layout, sample.matrix, sample.full_range, stamp_ns)

    def _sensor_ns(self, pts_ns: int | None, captured_ns: int) -> int | None:
        if pts_ns is None:
            return None
        if self._clock is not None:
            return self._clock.local_ns(pts_ns, captured_ns)
        stamp_ns = pts_ns + gstreamer.library().gst_element_get_base_time(self._pipeline)
        return stamp_ns if 0 <= captured_ns - stamp_ns <= OLDEST_STAMP_NS else None

    def _release(self) -> None:
        if self._sample is not None:
            sample, self._sample = self._sample, None
            sample.release()

    def _error(self, fault: gstreamer.GstreamerFault) -> CaptureError:
        text = self._uri.scrubbed(fault.message)
        if self._running:
            return CaptureBroken(f"{self._uri}: the pipeline broke: {text}")
        return CaptureRefused(f"{self._uri}: {text}. {_advice(self._uri, fault)}", cause_of(self._uri, fault))


def open_gstreamer(uri: CameraUri, deadline_s: float) -> GstreamerCapture:
    """The sensor of a csi:// address, or the pipeline of a gst:// one, which may leave out its appsink."""
    end_s = time.monotonic() + deadline_s
    if uri.scheme == "csi":
        _require(uri, ARGUS.split()[0], CONVERTER.split()[0])
        return _playing(uri, csi_pipeline(uri), "none (raw)", end_s)
    _require(uri)
    return _playing(uri, re.sub(r"!\s*appsink\b[^!]*$", "", uri.address).rstrip() + f" ! {SINK}", "GStreamer", end_s)


def open_rtsp_on_jetson(uri: CameraUri, deadline_s: float) -> GstreamerCapture | None:
    """An rtsp:// stream through the hardware decoder; None where there is none and the address does not insist."""
    end_s = time.monotonic() + deadline_s
    insists = uri.options.get("decoder") == "nvv4l2decoder"
    if insists:
        _require(uri, "rtspsrc", DECODER.split()[0])
    elif not is_jetson() or not _has_all("rtspsrc", DECODER.split()[0]):
        return None
    try:
        return _playing(uri, rtsp_pipeline(uri), f"{DECODER.split()[0]} (hardware)", end_s)
    except CaptureRefused as error:
        if insists or error.cause != "codec":
            raise
        return None


def csi_pipeline(uri: CameraUri) -> str:
    """The launch line of a Jetson's sensor: NV12 in main memory, at the size and rate asked."""
    source = ARGUS.format(sensor=int(uri.address))
    width, height, fps = uri.number("width", WIDTH), uri.number("height", HEIGHT), uri.number("fps", FPS)
    sensor = f"{NVMM},width={width},height={height},framerate={fps}/1,format=NV12"
    return f"{source} ! {sensor} ! {CONVERTER.format(flip=uri.number('flip', 0))} ! video/x-raw,format=NV12 ! {SINK}"


def rtsp_pipeline(uri: CameraUri) -> str:
    """The launch line of a stream; address and credentials are set as properties and are no part of it."""
    transport = uri.options.get("transport", "tcp")
    latency_ms = 0 if transport == "tcp" else 100
    timeout_us = 1000 * uri.number("timeout_ms", TIMEOUT_MS)
    trust = " tls-validation-flags=0" if uri.options.get("tls") == "unverified" else ""
    source = (
        f"rtspsrc name=source protocols={transport} latency={latency_ms} drop-on-latency=true "
        f"tcp-timeout={timeout_us}{trust} ! application/x-rtp,media=video"
    )
    return f"{source} ! parsebin ! {DECODER} ! video/x-raw,format=NV12 ! {SINK}"


def cause_of(uri: CameraUri, fault: gstreamer.GstreamerFault) -> str:
    """The cause, as in CAUSES, of an error while a pipeline starts."""
    if uri.scheme == "csi":
        return (
            "no_device"
            if re.search(r"(?i)no cameras? available|invalid.*sensor|sensor.*invalid", fault.message)
            else "refused"
        )
    if fault.domain == "resource":
        cause = RESOURCE.get(fault.code, "refused")
        return "no_device" if cause == "not_found" and uri.scheme == "gst" else cause
    if fault.domain == "core" and fault.code == MISSING_PLUGIN:
        return "missing_backend"
    return "codec" if fault.domain == "stream" and fault.code in TYPE_ERRORS else "refused"


def _advice(uri: CameraUri, fault: gstreamer.GstreamerFault) -> str:
    if uri.scheme != "csi":
        return "Try the pipeline with gst-launch-1.0" if uri.scheme == "gst" else "Try #decoder=ffmpeg"
    if cause_of(uri, fault) == "no_device":
        return (
            "Check the ribbon cable and that the device tree names the sensor (sudo /opt/nvidia/jetson-io/jetson-io.py)"
        )
    return f"Another program may hold the sensor, or Argus is stuck: {RESTART_ARGUS}"


def _playing(uri: CameraUri, description: str, decoder: str, end_s: float) -> GstreamerCapture:
    try:
        pipeline = gstreamer.parsed(description)
    except ValueError as error:
        missing = "no element" in str(error)
        cause = "missing_backend" if missing else "refused"
        raise CaptureRefused(f"{uri}: {uri.scrubbed(str(error))}. Try it with gst-launch-1.0", cause) from error
    if uri.scheme in ("rtsp", "rtsps"):
        gstreamer.set_text(pipeline, "source", location=uri.address, user_id=uri.user, user_pw=uri.password)
    capture = GstreamerCapture(uri, pipeline, decoder)
    try:
        capture.start(remaining_s(uri, end_s))
    except BaseException:
        capture.close()
        raise
    return capture


def _has_all(*elements: str) -> bool:
    try:
        return all(gstreamer.has_element(name) for name in elements)
    except (OSError, StopIteration):
        return False


def _require(uri: CameraUri, *elements: str) -> None:
    """CaptureRefused with cause missing_backend, and how to get what is missing."""
    try:
        missing = [name for name in elements if not gstreamer.has_element(name)]
    except OSError as error:
        raise CaptureRefused(
            f"{uri} needs GStreamer, which is not installed ({error}): apt-get install libgstreamer-plugins-base1.0-0 "
            "gstreamer1.0-plugins-good",
            "missing_backend",
        ) from error
    if not missing:
        return
    if missing[0].startswith("nv"):
        how = (
            "it comes with JetPack: apt-get install nvidia-l4t-gstreamer; a container needs --runtime nvidia and the "
            "socket of the host's nvargus-daemon"
        )
    else:
        how = "apt-get install gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
    raise CaptureRefused(f"{uri} needs GStreamer's {missing[0]}, which is not installed: {how}", "missing_backend")
