"""Redirects of HTTP cameras: followed on the same server only; of any other the new address is named."""

from __future__ import annotations

import socket

import pytest

from runtime import frame_code
from runtime.capture import open_capture
from tests.mjpeg_servers import HEAD, LOADED_S, cause_of_opening, jpeg, part, sender, uri_of
from tests.network_doubles import request_of, serving


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 302 F\r\nLocation: http://me:pw7@elsewhere.invalid:81/v?a=b\r\n\r\n",
            "redirects to http://***@elsewhere.invalid:81/v?a=b, another scheme, host or port, which is not followed",
        ),
        (b"HTTP/1.1 301 F\r\nLocation: https://127.0.0.1/v\r\n\r\n", "to https://127.0.0.1/v, another"),
        (
            b"HTTP/1.1 302 F\r\nLocation: http://elsewhere.invalid/v?token=pw7\r\n\r\n",
            "redirects to http://elsewhere.invalid/v?token=***, another scheme",
        ),
        (b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/v\r\n\r\n", "to http://127.0.0.1:1/v, another"),
        (b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\n\r\n", "not followed"),
        (b"HTTP/1.1 302 F\r\nLocation: http://[::1/v\r\n\r\n", "'http://[::1/v', which is no address"),
        (b"HTTP/1.1 302 F\r\nLocation: http://a:99999/\r\n\r\n", "which is no address"),
        (b"HTTP/1.1 302 F\r\n\r\n", "does not say where to"),
        (b"HTTP/1.1 302 F\r\nLocation: /w\r\n\r\n", "more than 3 times, the last time from /w to /w"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_named_in_one_line(answer: bytes, words: str) -> None:
    with serving(sender(head=answer, then_wait_s=1)) as port:
        cause, message = cause_of_opening(uri_of(port))
    message = uri_of(port).scrubbed(message)  # as a camera's process sends it
    assert cause == "refused" and words in message and "\n" not in message and "pw7" not in message


@pytest.mark.parametrize("where", ["/new.mjpg?a=b", "new.mjpg?a=b", "http://127.0.0.1:{}/new.mjpg?a=b"])
def test_redirect_on_the_same_server_is_followed(where: str) -> None:
    ports: list[int] = []

    def handle(connection: socket.socket) -> None:
        first, _ = request_of(connection)
        moved = f"HTTP/1.1 307 T\r\nLocation: {where.format(*ports)}\r\n\r\n".encode()
        connection.sendall(HEAD + part(jpeg(7)) if "/new.mjpg?a=b" in first else moved)

    with serving(handle) as port:
        ports.append(port)
        assert frame_code.decode(open_capture(uri_of(port), LOADED_S).read(1).image) == 7


def test_what_a_redirect_says_cannot_add_to_the_next_request() -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def handle(connection: socket.socket) -> None:
        asked.append(request_of(connection))
        moved = b"HTTP/1.1 302 F\r\nLocation: /a b\r\n X-Own: 1\r\n\r\n"
        connection.sendall(moved if len(asked) == 1 else HEAD + part(jpeg(7)))

    with serving(handle) as port:
        open_capture(uri_of(port), LOADED_S).close()
    first, headers = asked[1]
    assert first.split(" ")[0] == "GET" and first.split(" ")[2:] == ["HTTP/1.1"] and "x-own" not in headers
