"""What can go wrong with a camera, as exceptions with a cause that decides how to go on."""

from __future__ import annotations

from pspnet.errors import PspnetError

CAUSES = {
    "timeout": "nothing came within the deadline",
    "refused": "the camera or its server is there and does not serve now: busy, in use, or it refuses the connection",
    "auth": "user or password are missing or wrong",
    "not_found": "the server is there and has no such stream",
    "codec": "the stream or mode is one that cannot be read here",
    "disconnected": "the connection broke, or the device went away, after pictures had come",
    "ended": "the source said that it is at its end",
    "corrupt": "one picture arrived damaged; the capture goes on",
    "missing_backend": "a library or element that this kind of camera needs is not installed",
    "no_device": "no such device or host here now",
    "permission": "the device or file is there and closed to this user",
}
"""Cause -> what it means. After timeout and corrupt a capture may be read again; after any other it must be closed."""

PERMANENT = frozenset({"missing_backend"})
"""Causes that no further try can cure."""


class CaptureError(PspnetError):
    """A camera that cannot be opened or read. cause: one of CAUSES. It survives pickling, so workers can send it."""

    cause = "disconnected"

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or type(self).cause
        assert self.cause in CAUSES, self.cause

    def __reduce__(self) -> tuple[type[CaptureError], tuple[str, str]]:
        return type(self), (str(self), self.cause)


class CaptureRefused(CaptureError):
    """The camera could not be opened."""

    cause = "refused"


class CaptureTimeout(CaptureError):
    """Nothing came within the deadline, while opening or reading."""

    cause = "timeout"


class CaptureEnded(CaptureError):
    """The source is at its end and said so: a clip, or a stream that its server closed in good order."""

    cause = "ended"


class CaptureBroken(CaptureError):
    """A read failed: disconnected, or corrupt, after which the capture may be read again."""
