"""Parts of a multipart/x-mixed-replace stream (RFC 2046), as cameras send motion JPEG: loosely parsed, all bounded."""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.capture_errors import CaptureBroken

MOST_HEADER_BYTES, MOST_PART_BYTES = 8192, 32 << 20
_LENGTH = re.compile(rb"(?im)^content-length\s*:\s*(\d{1,12})\s*$")


def is_multipart(content_type: str) -> bool:
    """Whether the type is that of a stream of parts."""
    return content_type.lower().startswith("multipart/")


def boundary_of(content_type: str) -> bytes | None:
    """What begins each part, without its dashes; None where the type is no multipart stream, or does not state it."""
    if not is_multipart(content_type):
        return None
    found = re.search(r'boundary\s*=\s*(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if not found:
        return None
    # Some cameras write the leading dashes into the header, too; looking for the rest finds both.
    return (found[1] or found[2]).strip().lstrip("-").encode("latin-1", "replace") or None


class Multipart:
    """Reads parts. more: gives the next bytes of the stream, at least one; after an error of its, reading goes on."""

    def __init__(self, boundary: bytes, more: Callable[[], bytes]) -> None:
        self._boundary, self._more = boundary, more
        self._buffer = bytearray()
        self._in_headers, self._in_body = False, False
        self._length: int | None = None

    def next_part(self) -> bytes:
        """The body of the next part; CaptureBroken with cause codec where the stream breaks its own rules."""
        if not self._in_body:
            self._read_headers()
        body = self._until_boundary() if self._length is None else self._of_length(self._length)
        self._in_body = False
        return body

    def _read_headers(self) -> None:
        """Past the next boundary's line and the headers; what a wrong length left of a part before them is lost."""
        if not self._in_headers:
            self._drop(self._index(self._boundary, None, MOST_PART_BYTES))
            self._in_headers = True
        end = self._index(b"\r\n\r\n", b"\n\n", MOST_HEADER_BYTES)
        found = _LENGTH.search(self._buffer, 0, end)
        self._length = int(found[1]) if found else None
        if self._length is not None and self._length > MOST_PART_BYTES:
            raise CaptureBroken(
                f"a part of {self._length} bytes is announced: at most {MOST_PART_BYTES} are taken", "codec"
            )
        self._drop(end)
        self._in_headers, self._in_body = False, True

    def _of_length(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._buffer += self._more()
        return self._taken(length)

    def _until_boundary(self) -> bytes:
        end = self._index(b"--" + self._boundary, None, MOST_PART_BYTES)
        return self._taken(end - len(self._boundary) - 2).rstrip(b"\r\n")

    def _index(self, mark: bytes, other: bytes | None, most: int) -> int:
        """Where the first of the marks ends in the buffer, which is filled as far as needed."""
        searched = 0
        while True:
            ends = [
                at + len(one)
                for one in (mark, other)
                if one and (at := self._buffer.find(one, max(searched - len(one) + 1, 0))) >= 0
            ]
            if ends:
                return min(ends)
            searched = len(self._buffer)
            if searched > most:
                raise CaptureBroken(f"no end of a part or its header within {most} bytes", "codec")
            self._buffer += self._more()

    def _taken(self, count: int) -> bytes:
        part = bytes(self._buffer[:count])
        self._drop(count)
        return part

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
