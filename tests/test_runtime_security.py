"""Who is let in: tokens, cookies, Host headers, and requests that are refused whatever they show."""

from __future__ import annotations

import socket

import pytest

from pspnet.errors import PspnetError
from runtime.security import HEADERS, REQUEST_BYTES, SESSION_S, Access, check_address, is_loopback
from tests.served_run import TOKEN

HOST = (b"host", b"127.0.0.1:8080")


def cause(access: Access, *headers: tuple[bytes, bytes], method: str = "GET", public: bool = False) -> str:
    refusal = access.refusal(method, b"/", headers, public)
    return refusal.cause if refusal else ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert cause(Access(host, None), HOST) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "car.local", ""])
def test_other_addresses_need_a_token(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(PspnetError, match="give a token"):
        Access(host, None)
    Access(host, TOKEN)


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with spaces in it, long", "ünïcödé-but-long-enough", "a\nb" * 9]
)
def test_tokens_that_can_be_guessed_or_not_be_sent_are_refused_and_not_shown(token: str) -> None:
    with pytest.raises(PspnetError, match="openssl rand -hex 32") as caught:
        check_address("127.0.0.1", token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(("value", "right"), [
    (f"Bearer {TOKEN}", True), (f"bearer  {TOKEN}", True), (f"Bearer {TOKEN}x", False), (f"Bearer {TOKEN[:-1]}", False),
    ("Bearer ", False), ("Bearer", False), (f"Basic {TOKEN}", False), (TOKEN, False), ("", False),
    (f"Bearer {TOKEN.upper()}", False),
])  # fmt: skip
def test_only_the_whole_token_is_accepted(value: str, right: bool) -> None:
    access = Access("127.0.0.1", TOKEN)
    assert cause(access, HOST, (b"authorization", value.encode())) == ("" if right else "token")


def test_without_a_token_only_what_is_public_is_answered() -> None:
    access = Access("0.0.0.0", TOKEN)
    assert cause(access, HOST) == "token" and cause(access, HOST, public=True) == ""
    refusal = access.refusal("GET", b"/", [HOST], False)
    assert refusal is not None and refusal.status == 401
    assert dict(refusal.headers)[b"www-authenticate"].startswith(b"Bearer")


def test_a_cookie_stands_for_the_token_and_tells_nothing_about_it() -> None:
    seconds = [100.0]
    access = Access("127.0.0.1", TOKEN, clock=lambda: seconds[0])
    cookie = access.session_cookie()
    assert TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    pair = cookie.split(";")[0].encode()
    assert cause(access, HOST, (b"cookie", b"other=1; " + pair)) == ""
    assert cause(Access("127.0.0.1", TOKEN), HOST, (b"cookie", pair)) == "token"  # of another server
    seconds[0] += SESSION_S + 1
    assert cause(access, HOST, (b"cookie", pair)) == "token"


def test_a_cookie_cannot_be_made_to_last() -> None:
    access = Access("127.0.0.1", TOKEN, clock=lambda: 100.0)
    name, _, value = access.session_cookie().split(";")[0].partition("=")
    signature = value.partition(".")[2]
    for forged in (f"9999999999.{signature}", f".{signature}", "9999999999.", "x.y", ""):
        assert cause(access, HOST, (b"cookie", f"{name}={forged}".encode())) == "token"


@pytest.mark.parametrize(("host", "known"), [
    ("127.0.0.1:8080", True), ("127.0.0.1", True), ("localhost:9000", True), ("LOCALHOST", True), ("[::1]:8080", True),
    ("[::1]", True), ("evil.example", False), ("evil.example:8080", False), ("127.0.0.1.evil.example", False),
    ("localhost.evil.example:8080", False), ("192.168.1.5", False), ("", False), ("127.0.0.1@evil.example", False),
])  # fmt: skip
def test_on_loopback_only_its_own_names_are_answered(host: str, known: bool) -> None:
    assert cause(Access("127.0.0.1", None), (b"host", host.encode())) == ("" if known else "host")


@pytest.mark.parametrize(("host", "known"), [
    ("192.168.1.5:8080", True), ("[fe80::1]:8080", True), ("car.example", True), ("CAR.example.:443", True),
    (socket.gethostname(), True), (f"{socket.gethostname()}.local:8080", True), ("evil.example", False),
])  # fmt: skip
def test_elsewhere_addresses_and_given_names_are_answered(host: str, known: bool) -> None:
    access = Access("0.0.0.0", TOKEN, names=["car.example"])
    shown = (b"authorization", f"Bearer {TOKEN}".encode())
    assert cause(access, (b"host", host.encode()), shown) == ("" if known else "host")


def test_a_request_without_a_host_is_refused() -> None:
    assert cause(Access("127.0.0.1", None)) == "host"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "BREW", "get"])
def test_only_reading_is_answered(method: str) -> None:
    refusal = Access("127.0.0.1", None).refusal(method, b"/", [HOST], True)
    assert refusal is not None and refusal.status == 405 and dict(refusal.headers)[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize("header", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
def test_a_body_is_refused(header: tuple[bytes, bytes]) -> None:
    assert cause(Access("127.0.0.1", None), HOST, header) == "body"
    assert cause(Access("127.0.0.1", None), HOST, (b"content-length", b"0")) == ""


def test_a_request_of_more_than_8_kB_is_refused() -> None:
    access = Access("127.0.0.1", None)
    room = REQUEST_BYTES - len(b"/") - sum(map(len, HOST)) - len(b"x")
    assert cause(access, HOST, (b"x", bytes(room))) == ""
    assert cause(access, HOST, (b"x", bytes(room + 1))) == "size"
    refusal = access.refusal("GET", bytes(REQUEST_BYTES), [HOST], True)
    assert refusal is not None and refusal.status == 431


def test_pages_of_other_sites_may_link_here_and_show_nothing_of_it() -> None:
    access = Access("127.0.0.1", None)
    for site in (b"cross-site", b"same-site"):
        assert cause(access, HOST, (b"sec-fetch-site", site)) == "site"
        assert cause(access, HOST, (b"sec-fetch-site", site), public=True) == ""
    assert cause(access, HOST, (b"sec-fetch-site", b"same-origin")) == ""
    policy = dict(HEADERS)[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
