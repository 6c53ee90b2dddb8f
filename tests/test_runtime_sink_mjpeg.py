"""MJPEG: drawn once for all viewers and only for viewers; a number drawn by the camera comes out at the other end."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from benchmarks.glass_to_glass import jpegs_of
from pspnet.errors import PspnetError
from runtime import frame_code
from runtime.board import Board
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.jpeg import bgr_from_jpeg
from runtime.live import LiveSettings, run_live
from runtime.live_view import SILENT_NS
from runtime.outlet import Outlet, Sink
from runtime.publisher import Publisher
from runtime.record import Record, no_signal
from runtime.segmenter import CpuSegmenter
from runtime.server import Server
from runtime.sink_mjpeg import MjpegSink
from runtime.telemetry import Telemetry
from tests.live_doubles import SPEC as LIVE_SPEC
from tests.live_doubles import FakeCamera, FakeRunner
from tests.live_records import PATIENCE_S, SPEC, record_of, result_of, until

JPEG_LEVELS = 8.0  # mean error of an overlay of even fields at quality 80
CODES = 20


def drawings(sink: MjpegSink, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Camera and sequence of each picture that is drawn from now on."""
    drawn: list[tuple[str, int]] = []
    draw = sink._view.draw

    def noted(record: Record, now_ns: int) -> np.ndarray:
        drawn.append((record.camera, record.sequence))
        return draw(record, now_ns)

    monkeypatch.setattr(sink._view, "draw", noted)
    return drawn


def watched(*cameras: str) -> MjpegSink:
    """A sink with somebody who watches these cameras."""
    sink = MjpegSink(SPEC)
    for camera in cameras:
        sink.watch(camera, lambda: None)
    return sink


def test_nothing_is_drawn_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MjpegSink(SPEC)
    drawn = drawings(sink, monkeypatch)
    for sequence in range(3):
        sink(record_of(sequence))
        assert sink.latest_jpeg("front") is None  # a glance that waits for nothing is no watching
    assert drawn == [] and sink.wants == frozenset()
    end = sink.watch("front", lambda: None)
    assert sink.wants == {"picture"}
    sink(record_of(3))
    sink(record_of(4, camera="rear"))
    for _ in range(5):  # many viewers, one picture
        jpeg = sink.latest_jpeg("front")
        assert jpeg is not None and (jpeg.number, jpeg.sequence, jpeg.valid) == (1, 3, True)
    assert drawn == [("front", 3)]
    end()
    assert sink.wants == frozenset()
    sink(record_of(5))
    assert drawn == [("front", 3)]
    assert sink.latest_jpeg("front") is None  # whoever comes next must not get an old one


def test_a_run_that_nobody_watches_copies_no_pictures() -> None:
    camera, sink = FakeCamera("front"), MjpegSink(SPEC)
    with Publisher([camera], [Outlet(sink, "page")], SPEC) as publisher:
        assert publisher.result(camera, result_of(0)).frame is None
        end = sink.watch("front", lambda: None)
        assert publisher.result(camera, result_of(1)).frame is not None
        end()
        assert publisher.result(camera, result_of(2)).frame is None
    camera.close()


def test_a_record_from_before_anybody_watched_is_not_shown_as_no_signal() -> None:
    sink = watched("front")
    sink(dataclasses.replace(record_of(1), frame=None))
    assert sink.latest_jpeg("front") is None
    sink(record_of(2))
    jpeg = sink.latest_jpeg("front")
    assert jpeg is not None and (jpeg.sequence, jpeg.valid) == (2, True)


def test_the_picture_is_the_overlay() -> None:
    sink = watched("front")
    record = record_of(3, (240, 320))
    assert record.captured_ns is not None
    record = dataclasses.replace(record, sensor_ns=record.captured_ns - 1000)
    sink(record)
    jpeg = sink.latest_jpeg("front")
    assert jpeg is not None and (jpeg.number, jpeg.sequence, jpeg.valid) == (1, 3, True)
    assert jpeg.born_ns == record.sensor_ns
    picture = bgr_from_jpeg(jpeg.data)
    colours = np.array([(b, g, r) for r, g, b in SPEC.palette], np.float64)
    assert record.labels is not None
    inside = slice(60, 200)  # below the unlabelled quarter, above the caption
    expected = 45 + colours[record.labels[inside]] / 2
    assert np.abs(picture[inside] - expected).mean() <= JPEG_LEVELS


def test_an_invalid_record_makes_an_invalid_picture() -> None:
    sink = watched("front")
    record = record_of(3)
    sink(record.invalidated("the camera is frozen", record.published_ns))
    jpeg = sink.latest_jpeg("front")
    assert jpeg is not None and (jpeg.valid, jpeg.reason) == (False, "the camera is frozen")
    sink(no_signal("front", SPEC, "the camera is stalled", record))
    again = sink.latest_jpeg("front", after=jpeg.number)
    assert again is not None and (again.valid, again.sequence) == (False, 3)


def test_a_loop_that_hangs_shows_as_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.live_view.SILENT_NS", SILENT_NS // 20)
    outlet = Outlet(sink := MjpegSink(SPEC, ["front"]), "page")
    sink.watch("front", lambda: None)
    outlet.start()
    try:
        until(lambda: (jpeg := sink.latest_jpeg("front")) is not None and jpeg.reason == "no picture yet")
        outlet.offer(record_of(1))
        until(lambda: (jpeg := sink.latest_jpeg("front")) is not None and jpeg.valid)
        until(lambda: (jpeg := sink.latest_jpeg("front")) is not None and "nothing published" in jpeg.reason)
    finally:
        outlet.stop(PATIENCE_S)


def test_a_silent_camera_shows_while_another_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = watched("front", "rear")
    for camera in ("front", "rear"):
        sink(record_of(1, camera=camera))
    monkeypatch.setattr("runtime.live_view.SILENT_NS", -1)
    monkeypatch.setattr("runtime.live_view.SHOWN_AGAIN_NS", -1)
    sink(record_of(2, camera="front"))
    jpeg = sink.latest_jpeg("rear")
    assert jpeg is not None and not jpeg.valid and "nothing published" in jpeg.reason


def test_waiting_and_watching() -> None:
    sink = MjpegSink(SPEC)
    begun_s = time.monotonic()
    assert sink.latest_jpeg("front", wait_s=0.05) is None and time.monotonic() - begun_s >= 0.05
    timer = threading.Timer(0.05, lambda: sink(record_of(1)))
    timer.start()
    first = sink.latest_jpeg("front", wait_s=PATIENCE_S)  # whoever waits watches
    assert first is not None and sink.latest_jpeg("front", after=first.number) is None
    timer.join()
    heard: list[int] = []
    end, other = sink.watch("front", lambda: heard.append(1)), sink.watch("rear", lambda: heard.append(2))
    sink(record_of(2))
    second = sink.latest_jpeg("front", after=first.number)
    assert second is not None and second.number == 2 and heard == [1]
    end()
    sink(record_of(3))
    assert heard == [1]
    other()
    assert sink.wants == frozenset()


def test_wrong_quality_is_refused() -> None:
    with pytest.raises(PspnetError, match="quality is 0"):
        MjpegSink(SPEC, quality=0)


class Codes(Sink):
    """The number that each picture carries, by sequence, read before anything is drawn over it."""

    wants = frozenset({"picture"})

    def __init__(self) -> None:
        self.codes: dict[int, int | None] = {}

    def __call__(self, record: Record) -> None:
        if record.frame is not None and record.labels is not None:
            self.codes[record.sequence] = frame_code.decode(record.frame.bgr())


@contextlib.contextmanager
def running() -> Iterator[tuple[Server, Codes]]:
    """A live run over a test camera, with labels of a network that sees five classes, and its page."""
    camera = Camera(CameraSettings("front", "test://pattern?size=240x320&fps=20", max_age_ms=5000))
    telemetry, board = Telemetry(), Board({"front": 5000.0})
    pictures, codes, stop = MjpegSink(LIVE_SPEC, ["front"]), Codes(), threading.Event()
    outlets = [Outlet(pictures, "page"), Outlet(codes, "codes")]
    arguments = (
        [camera], CpuSegmenter(FakeRunner()), outlets, LiveSettings(), stop, None, telemetry, board
    )  # fmt: skip
    thread = threading.Thread(target=run_live, args=arguments)
    with Server(telemetry, board, port=0, pictures=pictures) as server:
        thread.start()
        try:
            yield server, codes
        finally:
            stop.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def deaf_client(server: Server) -> socket.socket:
    """A viewer that asks for the stream and never reads a byte of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    address = urlsplit(server.url)
    client.connect((address.hostname, address.port))
    client.sendall(f"GET /stream/front.mjpg HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    return client


def test_the_frame_code_goes_all_the_way_to_the_viewer_past_one_who_reads_nothing() -> None:
    seen: dict[int, int] = {}
    with (
        running() as (server, codes),
        contextlib.closing(deaf_client(server)),
        urllib.request.urlopen(server.url + "stream/front.mjpg", timeout=PATIENCE_S) as stream,
    ):
        for sequence, data in jpegs_of(stream):
            if (code := frame_code.decode(cv2.imdecode(np.frombuffer(data, np.uint8), 1))) is not None:
                seen[sequence] = code
            if len(seen) >= CODES:
                break
    common = {sequence: code for sequence, code in seen.items() if sequence in codes.codes}
    assert len(common) >= CODES // 4 and common == {sequence: codes.codes[sequence] for sequence in common}
    numbers = list(seen.values())
    assert numbers == sorted(set(numbers))  # no picture twice, none out of order: gaps are the drops
