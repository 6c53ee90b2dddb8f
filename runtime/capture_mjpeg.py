"""http:// and https:// cameras that send motion JPEG as multipart/x-mixed-replace.

Every wait has a deadline, every length a bound. A redirect is followed on the same server only: same scheme, host and
port. Anything else is refused with the address that it names, because whoever answers in a camera's name must not
choose what this machine connects to, nor take https away. User and password go out when the server asks for them: as a
Digest where it is offered, in clear (Basic) else.
The pictures carry no time of the sensor.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from pspnet.wording import counted
from runtime import authorisation, jpeg
from runtime.camera_uri import PORTS, CameraUri, without_credentials
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureRefused, CaptureTimeout
from runtime.multipart import Multipart, boundary_of, is_multipart
from runtime.network_camera import TimedReader, connected, no_credentials, remaining_s

MOST_REDIRECTS, BLOCK_BYTES = 3, 65_536
REDIRECTS = (301, 302, 303, 307, 308)
SAFE = "/%:@!$&'()*+,;=~?"  # of a path or query that comes encoded already
LONGEST_SHOWN = 200  # characters of an address that a server sends


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
            if is_multipart(kind):
                raise CaptureRefused(
                    f"{uri} sends {kind!r} and its boundary is missing, the line between two pictures: a server must "
                    "state it as boundary=…; update the camera's firmware, or use its rtsp:// stream",
                    "codec",
                )
            raise CaptureRefused(
                f"{uri} sends {kind!r} and no motion JPEG (multipart/x-mixed-replace): find the path of its MJPEG "
                "stream in the camera's manual, or use its rtsp:// stream",
                "codec",
            )
        self._uri, self._answer = uri, answer
        self._parts = Multipart(boundary, self._more)
        self._first: Picture | None = None
        self._interrupted = False

    def start(self, deadline_s: float, on_damaged: Callable[[], object]) -> None:
        """Wait for the first sound picture; on_damaged is called for each that is none."""
        end_s, damaged = time.monotonic() + deadline_s, 0
        while self._first is None:
            try:
                self._first = self.read(end_s - time.monotonic())
            except CaptureTimeout as error:
                if not damaged:
                    raise
                raise CaptureRefused(
                    f"{self._uri}: {counted(damaged, 'picture')} came and none is a whole JPEG: look at the stream in "
                    "a browser, and restart the camera",
                    "corrupt",
                ) from error
            except CaptureBroken as error:
                if error.cause != "corrupt":
                    raise CaptureRefused(str(error), error.cause) from error
                damaged += 1
                on_damaged()

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


def open_mjpeg(uri: CameraUri, deadline_s: float, on_damaged: Callable[[], object] = lambda: None) -> MjpegCapture:
    """The stream of an http:// or https:// address. on_damaged: called for each damaged picture before the first."""
    end_s = time.monotonic() + deadline_s
    target, proof, redirects = _target(uri.address), "", 0
    while True:
        answer = _answer(uri, target, proof, end_s)
        capture = None
        try:
            if answer.response.status == 401 and not proof:
                proof = _proof(uri, answer.response, target)
                continue
            if answer.response.status in REDIRECTS:
                if (redirects := redirects + 1) > MOST_REDIRECTS:
                    raise CaptureRefused(
                        f"{uri}: the server redirects more than {MOST_REDIRECTS} times, the last time from "
                        f"{without_credentials(target)} to "
                        f"{_location(answer.response)}: check the path in the camera's manual"
                    )
                target, proof = _redirected(uri, target, answer.response), ""
                continue
            _check_status(uri, answer.response)
            capture = MjpegCapture(uri, answer)
            capture.start(remaining_s(uri, end_s), on_damaged)
            return capture
        except BaseException:
            capture = None
            raise
        finally:
            if capture is None:
                answer.close()


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
        raise no_credentials(uri)
    challenges = response.headers.get_all("WWW-Authenticate") or []
    proof = authorisation.digest(challenges, uri.user, uri.password, "GET", target)
    proof = proof or authorisation.basic(challenges, uri.user, uri.password)
    if proof is None:
        raise CaptureRefused(f"{uri}: the server wants neither Digest nor Basic credentials, but another kind", "auth")
    return proof


def _redirected(uri: CameraUri, target: str, response: http.client.HTTPResponse) -> str:
    """The target of a redirect on the same server; CaptureRefused, which names the new address, for any other."""
    where, here = _location(response), urlsplit(uri.address)
    if not where:
        raise CaptureRefused(
            f"{uri}: the server answers {response.status}, a redirect, and does not say where to: check the path in "
            "the camera's manual"
        )
    try:
        there = urlsplit(urljoin(f"{here.scheme}://{here.netloc}{target}", response.headers["Location"].strip()))
        same = (there.scheme, there.hostname, there.port or PORTS.get(there.scheme)) == (
            here.scheme, here.hostname, here.port or PORTS[here.scheme]
        )  # fmt: skip
    except ValueError as error:
        raise CaptureRefused(
            f"{uri}: the server redirects to {where!r}, which is no address: check the path in the camera's manual"
        ) from error
    if not same:
        raise CaptureRefused(
            f"{uri}: the server redirects to {where}, another scheme, host or port, which is not followed: give that "
            "address in place of this one if it is your camera's"
        )
    return quote(there.path or "/", safe=SAFE) + (f"?{quote(there.query, safe=SAFE)}" if there.query else "")


def _location(response: http.client.HTTPResponse) -> str:
    """Where a redirect leads, as it may be shown: one line, not too long, without credentials."""
    where = without_credentials("".join((response.headers.get("Location") or "").split()))
    return "".join(letter if letter.isprintable() else "?" for letter in where)[:LONGEST_SHOWN]


def _check_status(uri: CameraUri, response: http.client.HTTPResponse) -> None:
    if response.status in (401, 403):
        raise CaptureRefused(f"{uri}: user or password are wrong, or may not see this stream", "auth")
    if response.status in (404, 410):
        raise CaptureRefused(
            f"{uri}: the server has no such stream: check the path in the camera's manual", "not_found"
        )
    if response.status in (429, 503):
        raise CaptureRefused(f"{uri}: the server answers {response.status}: it may have too many viewers. Close others")
    if response.status != 200:
        raise CaptureRefused(f"{uri}: the server answers {response.status} and no pictures: look at its own web page")


def _target(address: str) -> str:
    parts = urlsplit(address)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
