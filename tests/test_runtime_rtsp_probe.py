"""What the RTSP probe makes of answers: servers of a few lines that answer as cameras do, or not at all."""

from __future__ import annotations

import hashlib
import re
import socket
import time

import pytest

from runtime.camera_uri import camera_uri, without_credentials
from runtime.capture_errors import CaptureError
from runtime.rtsp_probe import BASIC, video_codec
from tests.network_doubles import free_port, request_of, serving

LOADED_S = 30.0
H264 = "v=0\r\nm=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def codec_of(port: int, who: str = "", deadline_s: float = LOADED_S) -> str:
    return video_codec(camera_uri(f"rtsp://{who}127.0.0.1:{port}/s?x=1"), time.monotonic() + deadline_s)


def answer(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"RTSP/1.0 {status}", "CSeq: 1", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def answering(*answers: bytes, seen: list[str] | None = None):  # type: ignore[no-untyped-def]
    """Each connection gets the next answer; the last one again and again."""
    left = list(answers)

    def handle(connection: socket.socket) -> None:
        first, headers = request_of(connection)
        if seen is not None:
            seen.append(first + " | " + headers.get("authorization", ""))
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return serving(handle)


def cause_of(*answers: bytes, who: str = "") -> tuple[str, str]:
    with answering(*answers) as port, pytest.raises(CaptureError) as caught:
        codec_of(port, who)
    assert "\n" not in str(caught.value) and "hush" not in str(caught.value)
    return caught.value.cause, str(caught.value)


def test_codec_is_that_of_the_video() -> None:
    seen: list[str] = []
    with answering(answer("200 OK", H264), seen=seen) as port:
        assert codec_of(port, "joe:hush@") == "H264"
    assert seen == [f"DESCRIBE rtsp://127.0.0.1:{port}/s?x=1 RTSP/1.0 | "]
    with answering(answer("200 OK", "v=0\r\nm=video 0 RTP/AVP 26\r\n")) as port:
        assert codec_of(port) == "JPEG"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ("401 Unauthorized", "auth"), ("403 Forbidden", "auth"), ("404 Not Found", "not_found"),
        ("453 Bandwidth", "refused"), ("503 Busy", "refused"), ("454 Session", "not_found"),
    ],
)  # fmt: skip
def test_status_becomes_a_cause(status: str, cause: str) -> None:
    assert cause_of(answer(status))[0] == cause


def test_stream_without_video_is_a_codec_error() -> None:
    assert cause_of(answer("200 OK", "v=0\r\nm=audio 0 RTP/AVP 8\r\n"))[0] == "codec"


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad\r\n\r\n", b"\x00\xff" * 20000, b"", b"RTSP/1.0 200 OK\r\n" + b"a: b\r\n" * 5000,
        b"RTSP/1.0 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)  # fmt: skip
def test_noise_is_refused(noise: bytes) -> None:
    assert cause_of(noise)[0] == "refused"


def test_digest_is_computed_and_the_password_never_sent() -> None:
    seen: list[str] = []
    challenge = 'WWW-Authenticate: Digest realm="cam", nonce="n7"'
    with answering(
        answer("401 No", "", 'WWW-Authenticate: Basic realm="cam"', challenge), answer("200 OK", H264), seen=seen
    ) as port:
        assert codec_of(port, "joe:hush@") == "H264"
    assert len(seen) == 2 and seen[0].endswith("| ")
    response = re.search(r'response="([0-9a-f]{32})"', seen[1])
    parts = [
        hashlib.md5(text.encode()).hexdigest() for text in ("joe:cam:hush", f"DESCRIBE:rtsp://127.0.0.1:{port}/s?x=1")
    ]
    assert response is not None
    assert response[1] == hashlib.md5(f"{parts[0]}:n7:{parts[1]}".encode()).hexdigest()


def test_wrong_and_missing_credentials_are_told_apart() -> None:
    challenge = 'WWW-Authenticate: Digest realm="cam", nonce="n7"'
    assert "wrong" in cause_of(answer("401 No", "", challenge), who="joe:hush@")[1]
    missing = cause_of(answer("401 No", "", challenge))[1]
    assert "wants user and password" in missing
    assert "${CAMERA_USER}:${CAMERA_PASSWORD}@127.0.0.1:" in without_credentials(missing)


def test_clear_password_is_not_sent_by_the_probe() -> None:
    seen: list[str] = []
    with answering(answer("401 No", "", 'WWW-Authenticate: Basic realm="cam"'), seen=seen) as port:
        assert codec_of(port, "joe:hush@") == BASIC
    assert len(seen) == 1


def test_server_that_accepts_and_never_answers_is_a_timeout() -> None:
    began = time.monotonic()
    with serving(lambda connection: time.sleep(3)) as port, pytest.raises(CaptureError) as caught:
        codec_of(port, deadline_s=0.3)
    assert caught.value.cause == "timeout" and time.monotonic() - began < 2.9


def test_server_that_drips_is_a_timeout() -> None:
    def drip(connection: socket.socket) -> None:
        for byte in answer("200 OK", H264):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with serving(drip) as port, pytest.raises(CaptureError) as caught:
        codec_of(port, deadline_s=0.5)
    assert caught.value.cause == "timeout"


def test_nothing_at_the_port_or_no_such_host() -> None:
    with pytest.raises(CaptureError) as caught:
        codec_of(free_port())
    assert caught.value.cause == "refused"
    with pytest.raises(CaptureError) as caught:
        video_codec(camera_uri("rtsp://no-such-host.invalid/s"), time.monotonic() + LOADED_S)
    assert caught.value.cause == "no_device"
