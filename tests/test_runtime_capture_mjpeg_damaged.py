"""HTTP cameras none of whose pictures is sound: counted, and named as the cause."""

from __future__ import annotations

import random
import socket
import time

from runtime import frame_code
from runtime.capture import open_capture
from runtime.capture_errors import CaptureRefused
from tests.cameras import Watched
from tests.mjpeg_servers import HEAD, LOADED_S, jpeg, part, sender, uri_of
from tests.network_doubles import request_of, serving

NOISE = random.Random(0).randbytes(3000)


def garbage(connection: socket.socket) -> None:
    """Right parts, twenty a second, of random bytes."""
    request_of(connection)
    connection.sendall(HEAD)
    while True:
        connection.sendall(part(NOISE))
        time.sleep(0.05)


def test_each_damaged_picture_before_the_first_sound_one_is_counted() -> None:
    damaged: list[int] = []
    with serving(sender(*[part(NOISE)] * 7, part(jpeg(3)), b"--frame", then_wait_s=LOADED_S)) as port:
        capture = open_capture(uri_of(port), LOADED_S, lambda: damaged.append(1))
        assert frame_code.decode(capture.read(LOADED_S).image) == 3 and len(damaged) == 7
        capture.close()


def test_a_stream_without_a_sound_picture_has_the_cause_corrupt() -> None:
    damaged: list[int] = []
    with serving(garbage) as port:
        try:
            open_capture(uri_of(port), 1.0, lambda: damaged.append(1))
            raise AssertionError("it was opened")
        except CaptureRefused as error:
            cause, message = error.cause, str(error)
    assert cause == "corrupt" and len(damaged) >= 3
    assert f"{len(damaged)} pictures came and none is a whole JPEG" in message and "\n" not in message


def test_a_camera_counts_them_while_it_is_being_opened() -> None:
    with serving(garbage) as port, Watched("", uri=str(uri_of(port)), open_deadline_s=30.0) as watched:
        watched.until(lambda: watched.camera.status().drops["corrupt"] >= 10)
        assert watched.states == [] and watched.camera.status().frames == 0
