"""HTTP cameras: real sockets, a server that obeys and ones that do not."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import frame_code, multipart
from runtime.camera_uri import camera_uri
from runtime.capture import open_capture
from runtime.capture_errors import CaptureError, CaptureTimeout
from runtime.jpeg import size_of_jpeg
from tests.mjpeg_servers import HEAD, LOADED_S, cause_of_opening, jpeg, part, sender, uri_of
from tests.network_doubles import free_port, request_of, serving


def chunked(data: bytes) -> bytes:
    return b"".join(
        b"%x\r\n%s\r\n" % (len(data[at : at + 700]), data[at : at + 700]) for at in range(0, len(data), 700)
    )


@pytest.mark.parametrize(
    ("head", "boundary", "length", "wrap"),
    [
        (HEAD, b"--frame", -1, bytes),
        (HEAD, b"--frame", None, bytes),
        (HEAD.replace(b"boundary=frame", b'boundary="--frame"'), b"--frame", -1, bytes),
        (HEAD.replace(b"boundary=frame", b"boundary=--frame"), b"--frame", -1, bytes),
        (HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), b"--frame", -1, chunked),
    ],
)
def test_pictures_come_in_order_whatever_the_dialect(
    head: bytes, boundary: bytes, length: int | None, wrap: Callable[[bytes], bytes]
) -> None:
    data = b"".join(part(jpeg(number), length, boundary) for number in range(4)) + boundary
    with serving(sender(wrap(data), then_wait_s=LOADED_S, head=head)) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        assert capture.decoder == "OpenCV JPEG (software)"
        found = [capture.read(LOADED_S) for _ in range(4)]
        assert [frame_code.decode(picture.image) for picture in found] == [0, 1, 2, 3]
        assert {(picture.format, picture.sensor_ns) for picture in found} == {("bgr", None)}
        capture.close()
        capture.close()


def test_damaged_pictures_are_corrupt_and_the_stream_goes_on() -> None:
    whole, huge = jpeg(1), bytearray(jpeg(5))
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    damaged = [whole[: len(whole) // 3], b"garbage", b"", bytes(huge), whole[:2] + b"\xff\xd9" * 30]
    blocks = [
        part(whole),
        *(part(data) for data in damaged),
        part(jpeg(2), 999),
        part(jpeg(3)),
        part(jpeg(4)),
        b"--frame",
    ]
    with serving(sender(*blocks, then_wait_s=LOADED_S)) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        seen: list[object] = []
        while 4 not in seen:
            try:
                seen.append(frame_code.decode(capture.read(LOADED_S).image))
            except CaptureError as error:
                seen.append(error.cause)
        capture.close()
    assert seen[:6] == [1, *["corrupt"] * 5] and seen[-1] == 4


def test_end_of_the_stream_and_a_broken_connection() -> None:
    with serving(sender(part(jpeg(1)), part(jpeg(2))[:300])) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        capture.read(LOADED_S)
        with pytest.raises(CaptureError) as caught:
            capture.read(LOADED_S)
        assert caught.value.cause == "ended"


def test_stall_is_a_timeout_after_which_the_stream_may_go_on() -> None:
    go_on = threading.Event()

    def handle(connection: socket.socket) -> None:
        request_of(connection)
        second = part(jpeg(2)) + b"--frame"
        connection.sendall(HEAD + part(jpeg(1)) + second[:500])
        go_on.wait(LOADED_S)
        connection.sendall(second[500:])
        go_on.wait(1)

    with serving(handle) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        capture.read(LOADED_S)
        began = time.monotonic()
        with pytest.raises(CaptureTimeout):
            capture.read(0.2)
        assert 0.2 <= time.monotonic() - began < 5
        go_on.set()
        picture = capture.read(LOADED_S)
        assert frame_code.decode(picture.image) == 2


def test_server_that_drips_is_a_timeout_in_its_head_and_in_a_picture() -> None:
    def drip(connection: socket.socket, data: bytes) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    def slow_head(connection: socket.socket) -> None:
        drip(connection, HEAD)

    def slow_picture(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(HEAD + part(jpeg(1)))
        drip(connection, part(jpeg(2)))

    began = time.monotonic()
    with serving(slow_head) as port:
        assert cause_of_opening(uri_of(port), 0.5)[0] == "timeout"
    with serving(slow_picture) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        capture.read(LOADED_S)
        with pytest.raises(CaptureTimeout):
            capture.read(0.5)
    assert time.monotonic() - began < 10


def test_server_that_accepts_and_never_answers_is_a_timeout() -> None:
    with serving(lambda connection: time.sleep(3)) as port:
        began = time.monotonic()
        assert cause_of_opening(uri_of(port), 0.3)[0] == "timeout"
        assert time.monotonic() - began < 3


def test_interruption_ends_a_blocked_read() -> None:
    with serving(sender(part(jpeg(1)), then_wait_s=LOADED_S)) as port:
        capture = open_capture(uri_of(port), LOADED_S)
        capture.read(LOADED_S)
        threading.Timer(0.1, capture.interrupt).start()
        began = time.monotonic()
        with pytest.raises(CaptureError) as caught:
            capture.read(LOADED_S)
        assert caught.value.cause == "disconnected" and time.monotonic() - began < LOADED_S / 2


@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n", "auth", "CAMERA_PASSWORD"),
        (b"HTTP/1.1 403 No\r\n\r\n", "auth", "may not see"),
        (b"HTTP/1.1 404 No\r\n\r\n", "not_found", "path"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "refused", "503"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "codec", "text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", "codec", "image/jpeg"),
        (HEAD.replace(b"; boundary=frame", b""), "codec", "'multipart/x-mixed-replace' and its boundary is missing"),
        (b"HTTP/1.1 304 N\r\n\r\n", "refused", "answers 304 and no pictures"),
        (b"RTSP/1.0 200 OK\r\n\r\n", "refused", "no HTTP server"),
        (HEAD + b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "codec", "99999999999 bytes"),
        (HEAD + b"--frame\r\n" + b"X: y\r\n" * 3000, "codec", "within 8192 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500, "refused", "no HTTP server"),
    ],
)  # fmt: skip
def test_answers_become_causes(answer: bytes, cause: str, words: str) -> None:
    with serving(sender(head=answer, then_wait_s=1)) as port:
        found = cause_of_opening(uri_of(port))
    assert found[0] == cause and words in found[1] and "\n" not in found[1]


def test_how_to_give_a_password_survives_the_redaction() -> None:
    answer = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n"
    with serving(sender(head=answer, then_wait_s=1)) as port:
        uri = uri_of(port)
        message = uri.scrubbed(cause_of_opening(uri)[1])  # as a camera's process sends it
    assert f" ${{CAMERA_USER}}:${{CAMERA_PASSWORD}}@127.0.0.1:{port} " in message and "***" not in message
    filled = camera_uri(
        f"http://${{CAMERA_USER}}:${{CAMERA_PASSWORD}}@127.0.0.1:{port}/v",
        {"CAMERA_USER": "joe", "CAMERA_PASSWORD": "x"},
    )
    assert (filled.user, filled.password) == ("joe", "x")


def test_nothing_at_the_port_is_refused() -> None:
    assert cause_of_opening(uri_of(free_port()))[0] == "refused"
    assert cause_of_opening(camera_uri("http://no-such-host.invalid/"))[0] == "no_device"


def test_part_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "MOST_PART_BYTES", 100_000)
    with serving(sender(b"--frame\r\n\r\n", *[b"x" * 50_000] * 4, then_wait_s=5)) as port:
        assert cause_of_opening(uri_of(port))[0] == "codec"


@pytest.mark.parametrize("kind", ["Digest", "Basic"])
def test_credentials_go_out_only_when_asked_and_as_asked(kind: str) -> None:
    seen: list[str] = []
    offer = {"Digest": 'Digest realm="cam", nonce="n1", qop="auth"', "Basic": 'Basic realm="cam"'}

    def handle(connection: socket.socket) -> None:
        first, headers = request_of(connection)
        seen.append(headers.get("authorization", ""))
        assert "hush" not in first
        if seen[-1].startswith(kind):
            connection.sendall(HEAD + part(jpeg(1)))
        else:
            challenges = "".join(f"WWW-Authenticate: {offer[name]}\r\n" for name in ("Basic", kind))
            connection.sendall(f"HTTP/1.1 401 No\r\n{challenges}\r\n".encode())

    with serving(handle) as port:
        open_capture(uri_of(port, who="joe:hush@"), LOADED_S).close()
        assert seen[0] == "" and seen[1].startswith(f"{kind} ") and len(seen) == 2
    with serving(sender(head=b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="a", nonce="b"\r\n\r\n')) as port:
        cause, message = cause_of_opening(uri_of(port, who="joe:hush@"))
    assert cause == "auth" and "wrong" in message and "hush" not in message


def test_encrypted_streams_are_verified(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("making a certificate needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            sender(part(jpeg(3)))(encrypted)

    with serving(handle) as port:
        address = f"https://127.0.0.1:{port}/v"
        cause, message = cause_of_opening(camera_uri(address))
        assert cause == "refused" and "certificate is not trusted" in message
        for option in (f"ca={certificate}", "tls=unverified"):
            picture = open_capture(camera_uri(f"{address}#{option}"), LOADED_S).read(1)
            assert frame_code.decode(picture.image) == 3
    with serving(
        lambda connection: connection.sendall(b"HTTP/1.1 400 Plain\r\n\r\n" * bool(connection.recv(1)))
    ) as port:
        assert "no encrypted connection" in cause_of_opening(camera_uri(f"https://127.0.0.1:{port}/v"))[1]


def test_size_is_read_from_any_kind_of_jpeg() -> None:
    image = np.zeros((33, 70, 3), np.uint8)
    for flags in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]):
        assert size_of_jpeg(cv2.imencode(".jpg", image, flags)[1].tobytes()) == (33, 70)
    assert size_of_jpeg(b"\xff\xd8\xff\xe0\x00\x00") is None and size_of_jpeg(b"\x89PNG") is None
