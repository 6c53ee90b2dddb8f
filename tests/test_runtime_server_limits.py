"""Clients that are slow, silent, too many or malicious, over raw sockets; and how the server ends."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from runtime.server import MOST_CONNECTIONS, MOST_STREAMS
from tests.served_run import Repeating, Run, picture, until

BIG = picture(128, (60, 80)) + bytes(300_000)  # more than the socket buffers of a slow viewer hold
REQUEST = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n"


@pytest.fixture
def run() -> Iterator[Run]:
    with Run() as served:
        served.go()
        yield served


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """A run for tests that change nothing in it."""
    with Run() as served:
        served.go()
        yield served


def connect(run: Run, path: bytes = b"", headers: bytes = b"", receive_bytes: int = 0) -> socket.socket:
    """A connection, with a request where a path is given."""
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(20)
    connection.connect(run.address)
    if path:
        connection.sendall(REQUEST % (path, headers))
    return connection


def answer(run: Run, sent: bytes) -> bytes:
    """The head of what the server says to some bytes, and what comes along with it."""
    with connect(run) as connection:
        with contextlib.suppress(OSError):  # it may close before it has read all
            connection.sendall(sent)
        said = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in said and (data := connection.recv(65536)):
                said += data
        return said


def numbers(text: bytes) -> list[int]:
    """Sequence numbers of the pictures in a part of a stream."""
    return [int(number) for number in re.findall(rb"X-Pspnet-Sequence: (\d+)", text)]


def read_until(connection: socket.socket, wanted: bytes, seconds: float = 20.0) -> bytes:
    """What comes until `wanted` is in it."""
    end, text = time.monotonic() + seconds, b""
    while wanted not in text:
        assert time.monotonic() < end, text[-300:]
        data = connection.recv(65536)
        assert data, f"closed after {text[-300:]!r}"
        text += data
    return text


def alive(run: Run) -> bool:
    return run.ask("/healthz")[0] == 200


def test_a_stream_sends_each_new_picture_at_once(run: Run) -> None:
    run.pictures.show(picture(10))
    with connect(run, b"/stream/front.mjpg") as viewer:
        text = read_until(viewer, b"X-Pspnet-Sequence: 101")
        assert b"200 OK" in text and b"multipart/x-mixed-replace" in text and b"X-Pspnet-Stale: 0" in text
        for number in (102, 103):
            run.pictures.show(picture(10), valid=False)
            text = read_until(viewer, b"X-Pspnet-Sequence: %d" % number)
            assert b"X-Pspnet-Stale: 1" in text
    assert until(lambda: run.pictures.listeners == 0 and run.json("/api/status")["streams"] == 0)


def test_head_of_a_stream_ends_at_once(run: Run) -> None:
    code, headers, body = run.ask("/stream/front.mjpg", "HEAD")
    assert (code, body) == (200, b"") and headers["content-type"].startswith("multipart/")
    assert run.pictures.listeners == 0


def test_a_stream_without_pictures_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.server_stream.SILENT_S", 0.2)
    run.pictures.show(picture(10))
    with connect(run, b"/stream/front.mjpg") as viewer:
        assert read_until(viewer, b"\r\n0\r\n\r\n").count(b"X-Pspnet-Sequence") == 1


# Pictures that a viewer sees late, behind the one under way when it paused: what fits into the kernel's 250 kB.
@pytest.mark.parametrize(("picture_bytes", "late"), [(60_000, 8), (400_000, 0)])
def test_a_viewer_who_pauses_goes_on_with_the_newest_picture(run: Run, picture_bytes: int, late: int) -> None:
    data = picture(128) + bytes(picture_bytes)
    with connect(run, b"/stream/front.mjpg", receive_bytes=4096) as viewer, \
            Repeating(lambda: run.pictures.show(data), 0.02):  # fmt: skip
        read_until(viewer, b"X-Pspnet-Sequence: 10")
        time.sleep(1.2)
        resumed = run.pictures.show(data) + 100
        seen, text = set[int](), b""
        while not seen or max(seen) < resumed:
            text = text[-100:] + viewer.recv(65536)
            seen.update(numbers(text))
    assert sum(number < resumed for number in seen) <= late


def test_a_viewer_of_one_byte_per_second_is_dropped_and_delays_nobody() -> None:
    with Run(patience_s=1.0) as run, Repeating(lambda: run.pictures.show(BIG), 0.05):
        run.go()
        with connect(run, b"/stream/front.mjpg", receive_bytes=2048) as slow:
            assert until(lambda: run.json("/api/status")["streams"] == 1)
            stop = threading.Event()

            def sip() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(1.0) and slow.recv(1):
                        pass

            sipping = threading.Thread(target=sip)
            sipping.start()
            with connect(run, b"/stream/front.mjpg") as fast:
                # The other one sees pictures all the while.
                first = max(numbers(read_until(fast, b"X-Pspnet-Sequence")))
                assert until(lambda: run.json("/api/status")["streams"] == 1, 30), "the slow viewer was not dropped"
                read_until(fast, b"X-Pspnet-Sequence: %d" % (first + 10))
            stop.set()
            sipping.join()
        assert until(lambda: run.pictures.listeners == 0)


def test_whoever_does_not_take_an_answer_is_dropped() -> None:
    with Run(patience_s=0.5) as run:
        run.pictures.show(bytes(np.random.default_rng(0).integers(0, 255, 20_000_000, np.uint8)))
        with connect(run, b"/snapshot/front.jpg", receive_bytes=2048) as connection:
            time.sleep(3.0)
            taken = 0
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(1 << 16):
                    taken += len(data)
        assert taken < 20_000_000 and alive(run)


def test_whoever_does_not_finish_a_request_is_dropped() -> None:
    with Run(patience_s=0.5) as run:
        with connect(run) as silent, connect(run) as trickling:
            began = time.monotonic()
            trickling.sendall(REQUEST % (b"/healthz", b""))
            read_until(trickling, b"ok\n")
            with contextlib.suppress(OSError):  # the second request on a connection has no more time than the first
                for byte in REQUEST % (b"/healthz", b"X: " + b"x" * 400):
                    trickling.sendall(bytes([byte]))
                    time.sleep(0.05)
                pytest.fail("a request of 20 s was waited for")
            assert time.monotonic() - began < 15
            with contextlib.suppress(ConnectionError):
                assert silent.recv(1) == b""
        assert alive(run)


def test_an_eleventh_stream_is_refused_and_a_place_becomes_free(run: Run) -> None:
    run.pictures.show(picture(10))
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(connect(run, b"/stream/front.mjpg")) for _ in range(MOST_STREAMS)]
        for viewer in viewers:
            read_until(viewer, b"X-Pspnet-Sequence")
        code, headers, body = run.ask("/stream/front.mjpg")
        assert code == 503 and headers["retry-after"] == "5" and b"10 streams" in body
        assert run.ask("/snapshot/front.jpg")[0] == 200 and run.telemetry.refusals() == {"streams": 1}
        viewers[0].close()
        assert until(lambda: run.json("/api/status")["streams"] == MOST_STREAMS - 1)
        read_until(stack.enter_context(connect(run, b"/stream/front.mjpg")), b"X-Pspnet-Sequence")


def test_two_hundred_connections_are_served_and_a_257th_is_refused(run: Run) -> None:
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(run, b"/healthz")) for _ in range(200)]
        for connection in crowd:
            assert b"200 OK" in read_until(connection, b"ok\n")
        assert alive(run)
        crowd += [stack.enter_context(connect(run)) for _ in range(MOST_CONNECTIONS - len(crowd) + 1)]
        assert b"503" in crowd[-1].recv(1000)
    if descriptors is not None:
        assert until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 1)
    assert alive(run)


@pytest.mark.parametrize(("sent", "said"), [
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"4"),  # 400 where it comes in parts
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"4"),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", b"400"),
    (b"nonsense\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
    (b"GET / HTTP/1.0\r\n\r\n", b"421"),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
    (b"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello", b"405"),
    (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"405"),
    (b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"405"),
    (b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"405"),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000, b"413"),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"413"),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"404"),
    (b"GET /snapshot/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"404"),
    (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n\r\n", b"403"),
    (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"200"),
])  # fmt: skip
def test_odd_requests_are_answered_and_survived(shared: Run, sent: bytes, said: bytes) -> None:
    found = answer(shared, sent)
    assert found.startswith(b"HTTP/1.1 " + said), found[:200]
    assert said != b"4" or found[9:12] in (b"400", b"431")
    assert b"Traceback" not in found and b"root:" not in found
    assert alive(shared)


def test_nothing_is_written_to_the_terminal_about_bad_requests(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    answer(run, b"nonsense\r\n\r\n")
    run.ask("/api/status?token=secret-in-an-address")
    assert capfd.readouterr() == ("", "")


def test_the_end_waits_for_no_viewer() -> None:
    run = Run()
    run.server.start()
    before = threading.active_count()
    with Repeating(lambda: run.pictures.show(BIG), 0.02), connect(run, b"/stream/front.mjpg", receive_bytes=2048), \
            connect(run, b"/stream/front.mjpg") as reading, connect(run):  # fmt: skip
        read_until(reading, b"X-Pspnet-Sequence")
        address, began = run.address, time.monotonic()
        assert run.server.stop(10.0)
        took_s = time.monotonic() - began
        with contextlib.suppress(ConnectionError):
            while reading.recv(1 << 16):
                pass
    assert took_s < 2.0  # the contract's limit for the whole run; about 0.5 s here
    assert run.pictures.listeners == 0 and until(lambda: threading.active_count() < before)
    with socket.socket() as connection:
        assert connection.connect_ex(address) != 0
    assert run.server.stop()


def test_the_same_port_can_be_had_again_at_once(run: Run) -> None:
    assert run.server.stop(10.0)
    run.server.start()
    assert alive(run)
