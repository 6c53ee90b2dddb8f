"""What an RTSP server says of a stream, asked when FFmpeg could not open it, because OpenCV hides why.

One DESCRIBE (RFC 2326) without credentials, and where the server wants some, one more with a Digest of them. The
password itself is never sent; a server that wants it in clear (Basic) is left to FFmpeg.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

from runtime import authorisation
from runtime.camera_uri import CameraUri
from runtime.capture_errors import CaptureRefused, CaptureTimeout
from runtime.network_camera import SECURE, connected, no_credentials, remaining_s

MOST_HEADER_BYTES, MOST_BODY_BYTES = 16_384, 65_536
BASIC = "unknown until a password is sent"


@dataclass(frozen=True)
class Answer:
    """status: RTSP's; headers: (lower-case name, value) in order; body: the session description."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str

    def all_of(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for key, value in self.headers if key == name]


def video_codec(uri: CameraUri, end_s: float) -> str:
    """The stream's codec as RTP names it, such as H264; BASIC where the server asks for a clear password first.

    CaptureRefused says which of auth, not_found, codec, refused and no_device it is; end_s: on the monotonic clock.
    """
    answer = _describe(uri, "", end_s)
    if answer.status == 401:
        if not uri.user and not uri.password:
            raise no_credentials(uri)
        challenges = answer.all_of("www-authenticate")
        proof = authorisation.digest(challenges, uri.user, uri.password, "DESCRIBE", uri.address)
        if proof is None and uri.scheme in SECURE:
            proof = authorisation.basic(challenges, uri.user, uri.password)
        if proof is None:
            return BASIC
        answer = _describe(uri, f"Authorization: {proof}\r\n", end_s)
    _check_status(uri, answer)
    return _codec(uri, answer)


def _check_status(uri: CameraUri, answer: Answer) -> None:
    if answer.status in (401, 403):
        raise CaptureRefused(f"{uri}: user or password are wrong, or may not see this stream", "auth")
    if answer.status in (404, 454):
        raise CaptureRefused(
            f"{uri}: the server has no such stream: check the path in the camera's manual", "not_found"
        )
    if answer.status >= 400:
        raise CaptureRefused(f"{uri}: the server answers {answer.status}: it may have too many viewers. Close others")


def _codec(uri: CameraUri, answer: Answer) -> str:
    if answer.status >= 300:
        return "as its other address says"
    video = re.search(r"^m=video (.*?)(?=^m=|\Z)", answer.body, re.MULTILINE | re.DOTALL)
    if not video:
        raise CaptureRefused(f"{uri}: the stream has no video. Give the path of the camera's video stream", "codec")
    named = re.search(r"^a=rtpmap:\d+ ([\w.-]+)/", video[1], re.MULTILINE)
    return named[1].upper() if named else "JPEG"  # RTP's own numbers have one video codec that cameras use, 26


def _describe(uri: CameraUri, authorisation_line: str, end_s: float) -> Answer:
    request = (
        f"DESCRIBE {uri.address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\nUser-Agent: pspnet-edge\r\n"
        f"{authorisation_line}\r\n"
    )
    with connected(uri, end_s) as connection:
        received = b""
        try:
            connection.settimeout(remaining_s(uri, end_s))
            connection.sendall(request.encode())
            while b"\r\n\r\n" not in received and len(received) <= MOST_HEADER_BYTES:
                received += _more(uri, connection, end_s)
            head, complete, body = received.partition(b"\r\n\r\n")
            if not complete:
                raise _no_server(uri)
            answer = _parsed(uri, head)
            length = int((answer.all_of("content-length") or ["0"])[0])
            while len(body) < min(length, MOST_BODY_BYTES):
                body += _more(uri, connection, end_s)
        except TimeoutError as error:
            raise CaptureTimeout(f"{uri}: the server accepts connections and does not answer. Restart it") from error
        except OSError as error:
            raise CaptureRefused(f"{uri}: the server broke the connection: {error.strerror or error}") from error
        except ValueError as error:
            raise _no_server(uri) from error
    return Answer(answer.status, answer.headers, body.decode("utf-8", "replace"))


def _more(uri: CameraUri, connection: socket.socket, end_s: float) -> bytes:
    connection.settimeout(max(end_s - time.monotonic(), 1e-3))
    if not (block := connection.recv(4096)):
        raise CaptureRefused(f"{uri}: the server closed the connection without an answer: it may have too many viewers")
    return block


def _parsed(uri: CameraUri, head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    status = re.match(r"RTSP/\d\.\d (\d{3})", first)
    if not status:
        raise _no_server(uri)
    pairs = (line.partition(":") for line in lines if ":" in line)
    return Answer(int(status[1]), tuple((name.strip().lower(), value.strip()) for name, _, value in pairs), "")


def _no_server(uri: CameraUri) -> CaptureRefused:
    return CaptureRefused(f"{uri}: what answers at port {uri.port} is no RTSP server: check the port")
