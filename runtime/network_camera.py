"""Connections to network cameras: a deadline for each step, and a typed error that says which one failed."""

from __future__ import annotations

import io
import socket
import ssl
import time
from typing import Any

from runtime.camera_uri import CameraUri
from runtime.capture_errors import CaptureRefused, CaptureTimeout

SECURE = ("rtsps", "https")


def connected(uri: CameraUri, end_s: float) -> socket.socket:
    """A socket to the camera's host, encrypted where the scheme says so; end_s: on the monotonic clock."""
    try:
        plain = socket.create_connection((uri.host, uri.port), remaining_s(uri, end_s))
    except OSError as error:
        raise _named(uri, error) from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if uri.scheme not in SECURE:
        return plain
    try:
        plain.settimeout(remaining_s(uri, end_s))
        return tls_context(uri).wrap_socket(plain, server_hostname=uri.host)
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        raise _named(uri, error) from error


class TimedReader(io.RawIOBase):
    """What http.client reads from: a socket whose reads all end at `end_s`, on the monotonic clock, with TimeoutError.

    Unlike the socket's own file it can be read again after that.
    """

    def __init__(self, connection: socket.socket, end_s: float) -> None:
        self._connection, self.end_s = connection, end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        """As a socket's; for http.client."""
        return io.BufferedReader(self, 65_536)


def tls_context(uri: CameraUri) -> ssl.SSLContext:
    """Trust as the address states it: the system's authorities, those of #ca=FILE, or none with #tls=unverified."""
    try:
        context = ssl.create_default_context(cafile=uri.options.get("ca"))
    except OSError as error:
        raise CaptureRefused(
            f"{uri}: cannot read certificates of {uri.options['ca']}: {error}", "permission"
        ) from error
    if uri.options.get("tls") == "unverified":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def remaining_s(uri: CameraUri, end_s: float) -> float:
    """Seconds left; CaptureTimeout where there are none."""
    left = end_s - time.monotonic()
    if left <= 0:
        raise CaptureTimeout(f"{uri}: {uri.host} did not answer within the deadline. Is the camera's web page there?")
    return left


def no_credentials(uri: CameraUri) -> CaptureRefused:
    """Of a camera that asks for user and password, and whose address has neither.

    The fix is no whole URL, because what is shown of a camera has no user and password in its URLs.
    """
    place = f"[{uri.host}]:{uri.port}" if ":" in uri.host else f"{uri.host}:{uri.port}"
    return CaptureRefused(
        f"{uri} wants user and password: export CAMERA_USER and CAMERA_PASSWORD, and put "
        f"${{CAMERA_USER}}:${{CAMERA_PASSWORD}}@{place} in place of the host in its address, in single quotes",
        "auth",
    )


def _named(uri: CameraUri, error: OSError) -> CaptureRefused | CaptureTimeout:
    """The OSError of a connection as one of ours."""
    if isinstance(error, TimeoutError):
        return CaptureTimeout(f"{uri}: {uri.host}:{uri.port} did not answer within the deadline. Is the camera on?")
    if isinstance(error, ssl.SSLCertVerificationError):
        return CaptureRefused(
            f"{uri}: the certificate is not trusted ({error.verify_message}): give the camera's own with "
            "#ca=FILE.pem, or trust any with #tls=unverified"
        )
    if isinstance(error, ssl.SSLError):
        plain = {"rtsps": "rtsp", "https": "http"}[uri.scheme]
        return CaptureRefused(f"{uri}: no encrypted connection ({error.reason}): try {plain}://, or another port")
    if isinstance(error, ConnectionRefusedError):
        return CaptureRefused(f"{uri}: {uri.host} refuses port {uri.port}: check the port and that its server runs")
    if isinstance(error, socket.gaierror):
        return CaptureRefused(f"{uri}: no host {uri.host} is known: check the name, or give its number", "no_device")
    reason = error.strerror or type(error).__name__
    return CaptureRefused(f"{uri}: {uri.host} cannot be reached: {reason}. Check cable, switch and route", "no_device")
