"""http:// and https:// cameras that send motion JPEG as multipart/x-mixed-replace.

Every wait has a deadline, every length a bound. A redirect is followed on the same host only, and never from https to
http. User and password go out when the server asks for them: as a Digest where it is offered, in clear (Basic) else.
The pictures carry no time of the sensor.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from runtime import authorisation, jpeg
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureRefused, CaptureTimeout
from runtime.multipart import Multipart, boundary_of
from runtime.network_camera import TimedReader, connected, remaining_s

MOST_REDIRECTS, BLOCK_BYTES = 3, 65_536


@dataclass
class Answer:
    """A connection and the head of what came through it."""

    connection: socket.socket
    reader: TimedReader
    response: http.client.HTTPResponse

    def close(self) -> None:
        """Both directions at once, so that a read in another thread ends."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.connection.close()


class MjpegCapture:
    """An open stream of parts."""

    decoder = jpeg.DECODER

    def __init__(self, uri: CameraUri, answer: Answer) -> None:
        boundary = boundary_of(answer.response.headers.get("Content-Type", ""))
        if boundary is None:
            kind = answer.response.headers.get("Content-Type", "nothing")[:60]
            raise CaptureRefused(
                f"{uri} sends {kind!r} and no motion JPEG (multipart/x-mixed-replace): find the path of its MJPEG "
                "stream in the camera's manual, or use its rtsp:// stream",
                "codec",
            )
        self._uri, self._answer = uri, answer
        self._parts = Multipart(boundary, self._more)
        self._first: Picture | None = None
        self._interrupted = False

    def start(self, deadline_s: float) -> None:
        """Wait for the first sound picture."""
        end_s = time.monotonic() + deadline_s
        while self._first is None:
            try:
                self._first = self.read(end_s - time.monotonic())
            except CaptureBroken as error:
                if error.cause != "corrupt":
                    raise CaptureRefused(str(error), error.cause) from error

    def read(self, deadline_s: float) -> Picture:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._answer.reader.end_s = time.monotonic() + deadline_s
        return Picture(jpeg.bgr_from_jpeg(self._parts.next_part()))

    def interrupt(self) -> None:
        self._interrupted = True
        with contextlib.suppress(OSError):  # it is closed already
            self._answer.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._interrupted = True
        self._answer.close()

    def _more(self) -> bytes:
        try:
            block = self._answer.response.read1(BLOCK_BYTES)
        except TimeoutError as error:
            raise CaptureTimeout(f"{self._uri}: no whole picture came within the deadline") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CaptureBroken(f"{self._uri}: the connection broke") from error
        if not block:
            if self._interrupted:
                raise CaptureBroken(f"{self._uri}: the read was interrupted")
            raise CaptureEnded(f"{self._uri}: the server ended the stream")
        return block


def open_mjpeg(uri: CameraUri, deadline_s: float) -> MjpegCapture:
    """The stream of an http:// or https:// address."""
    end_s = time.monotonic() + deadline_s
    target, proof = _target(uri.address), ""
    for _ in range(MOST_REDIRECTS + 2):
        answer = _answer(uri, target, proof, end_s)
        capture = None
        try:
            if answer.response.status == 401 and not proof:
                proof = _proof(uri, answer.response, target)
                continue
            if answer.response.status in (301, 302, 303, 307, 308):
                target, proof = _redirected(uri, target, answer.response), ""
                continue
            _check_status(uri, answer.response)
            capture = MjpegCapture(uri, answer)
            capture.start(remaining_s(uri, end_s))
            return capture
        except BaseException:
            capture = None
            raise
        finally:
            if capture is None:
                answer.close()
    raise CaptureRefused(f"{uri}: the server redirects again and again. Give the address that it ends at")


def _answer(uri: CameraUri, target: str, proof: str, end_s: float) -> Answer:
    """The head of the server's answer."""
    connection = connected(uri, end_s)
    reader = TimedReader(connection, end_s)
    response = http.client.HTTPResponse(reader, method="GET")  # type: ignore[arg-type]
    answer = Answer(connection, reader, response)
    host = uri.address.partition("://")[2].partition("/")[0].partition("?")[0]
    authorisation_line = f"Authorization: {proof}\r\n" if proof else ""
    try:
        connection.settimeout(remaining_s(uri, end_s))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pspnet-edge\r\nAccept: multipart/x-mixed-replace\r\n"
            f"{authorisation_line}Connection: close\r\n\r\n".encode()
        )
        response.begin()
    except TimeoutError as error:
        answer.close()
        raise CaptureTimeout(f"{uri}: the server accepts connections and does not answer. Restart it") from error
    except (OSError, http.client.HTTPException) as error:
        answer.close()
        raise CaptureRefused(f"{uri}: what answers is no HTTP server: check the port, or try https://") from error
    except BaseException:
        answer.close()
        raise
    return answer


def _proof(uri: CameraUri, response: http.client.HTTPResponse, target: str) -> str:
    if not uri.user and not uri.password:
        raise CaptureRefused(
            f"{uri} wants user and password: write {uri.scheme}://USER:${{CAMERA_PASSWORD}}@{uri.host}/… and export "
            "CAMERA_PASSWORD",
            "auth",
        )
    challenges = response.headers.get_all("WWW-Authenticate") or []
    proof = authorisation.digest(challenges, uri.user, uri.password, "GET", target)
    proof = proof or authorisation.basic(challenges, uri.user, uri.password)
    if proof is None:
        raise CaptureRefused(f"{uri}: the server wants neither Digest nor Basic credentials, but another kind", "auth")
    return proof


def _redirected(uri: CameraUri, target: str, response: http.client.HTTPResponse) -> str:
    """The target of a redirect on the same host, port and scheme."""
    here = urlsplit(uri.address)
    there = urlsplit(urljoin(f"{here.scheme}://{here.netloc}{target}", response.headers.get("Location", "")))
    if (there.scheme, there.netloc) != (here.scheme, here.netloc):
        raise CaptureRefused(
            f"{uri}: the server redirects to {there.scheme}://{there.hostname}, which is not followed. Give that "
            "address if you trust it"
        )
    return (there.path or "/") + (f"?{there.query}" if there.query else "")


def _check_status(uri: CameraUri, response: http.client.HTTPResponse) -> None:
    if response.status in (401, 403):
        raise CaptureRefused(f"{uri}: user or password are wrong, or may not see this stream", "auth")
    if response.status in (404, 410):
        raise CaptureRefused(
            f"{uri}: the server has no such stream: check the path in the camera's manual", "not_found"
        )
    if response.status != 200:
        raise CaptureRefused(f"{uri}: the server answers {response.status}: it may have too many viewers. Close others")


def _target(address: str) -> str:
    parts = urlsplit(address)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
