"""Who may read the live page: nobody but this machine by default, and elsewhere only who shows the token.

The token comes as `Authorization: Bearer TOKEN`. A browser sends it once in that way, to /api/session, and gets a
cookie that stands for it; so it is in no address, no form and no log, and every route stays read-only. Requests are
refused that name another host (a page elsewhere whose name was pointed at this machine: DNS rebinding), that another
site's page makes, that carry a body, and that only write.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pspnet.errors import PspnetError

METHODS = ("GET", "HEAD")
REQUEST_BYTES = 8192
"""Of a request's target and headers; browsers send a quarter of that."""

LEAST_TOKEN = 16
SESSION_S = 12 * 3600
HEADERS = (
    (b"content-security-policy",
     b"default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)  # fmt: skip
"""Sent with every answer. Without the fifth, a page elsewhere could show a camera in an <img>."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered. cause: one word, for counting; text: one line for whoever sent it."""

    status: int
    cause: str
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Access:
    """The rules for one server. token: None only where host is a loopback address.

    names: further host names under which visitors reach it, as that of a proxy. clock: seconds, monotonic.
    """

    def __init__(
        self, host: str, token: str | None, names: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_address(host, token)
        self._token, self._clock, self._key = token, clock, secrets.token_bytes(32)
        self._loopback = is_loopback(host)
        own = () if self._loopback else (socket.gethostname(), f"{socket.gethostname()}.local", host)
        self._names = {name.lower().rstrip(".") for name in ("localhost", *own, *names)}
        self.cookie = f"pspnet_{secrets.token_hex(4)}"  # browsers share cookies between the ports of one host

    def refusal(
        self, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], public: bool
    ) -> Refusal | None:
        """Why a request must not be answered; None where it may be.

        headers: with lower-case names. public: whether the target needs no token, and may be linked to.
        """
        fields = {name: value.decode("latin-1") for name, value in headers}
        if method not in METHODS:
            return Refusal(405, "method", "only GET and HEAD are answered here", ((b"allow", b"GET, HEAD"),))
        if len(target) + sum(len(name) + len(value) for name, value in headers) > REQUEST_BYTES:
            return Refusal(
                431, "size", f"a request has at most {REQUEST_BYTES} bytes here", ((b"connection", b"close"),)
            )
        if fields.get(b"content-length", "0").strip("0 ") or b"transfer-encoding" in fields:
            return Refusal(413, "body", "requests have no body here", ((b"connection", b"close"),))
        if not self.knows(fields.get(b"host", "")):
            return Refusal(421, "host", "this is not the host that was asked for: use its address, or name it in the "
                           "configuration")  # fmt: skip
        if fields.get(b"sec-fetch-site") in ("cross-site", "same-site") and not public:
            return Refusal(403, "site", "pages of other sites may not read this")
        if not public and not self.admits(headers):
            return Refusal(401, "token", "a token is needed", ((b"www-authenticate", b'Bearer realm="pspnet"'),))
        return None

    def admits(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a request shows the token, or the cookie for it; always where no token is set."""
        if self._token is None:
            return True
        return any(
            (name == b"authorization" and self.has_token(value)) or (name == b"cookie" and self._has_session(value))
            for name, value in headers
        )

    def has_token(self, authorization: bytes) -> bool:
        """Whether the value of an Authorization header is the token; takes equally long for every wrong one."""
        scheme, _, given = authorization.partition(b" ")
        return self._token is not None and scheme.lower() == b"bearer" and _same(given.strip(), self._token.encode())

    def session_cookie(self) -> str:
        """The value of Set-Cookie for a visitor who has shown the token. It holds until the server ends, at most
        twelve hours, and nobody can work out the token from it."""
        expires = str(int(self._clock() + SESSION_S))
        return f"{self.cookie}={expires}.{self._signed(expires)}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, host: str) -> bool:
        """Whether the value of a Host header names this server. An address cannot be rebound; a name can."""
        name = host[: host.rfind(":")] if host.rpartition(":")[2].isdecimal() else host
        name = name.removesuffix(":").strip("[]").lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback

    def _has_session(self, cookies: bytes) -> bool:
        for cookie in cookies.decode("latin-1").split(";"):
            name, _, value = cookie.strip().partition("=")
            expires, _, signature = value.partition(".")
            if name == self.cookie and _same(signature.encode("latin-1"), self._signed(expires).encode()):
                return self._clock() < int(expires)
        return False

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode("latin-1"), hashlib.sha256).hexdigest()


def check_address(host: str, token: str | None) -> None:
    """PspnetError where others could reach `host` without a token, or the token could be guessed."""
    if token is None:
        if not is_loopback(host):
            raise PspnetError(
                f"serving on {host} lets others see the cameras: give a token, with --token-file FILE on the command "
                'line, or as token_file or token = "${NAME}" under [serve] in drive.toml, or serve on 127.0.0.1'
            )
    elif len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise PspnetError(
            f"the token is not usable: {LEAST_TOKEN} or more letters, digits and signs without spaces are needed. "
            "Make one with: openssl rand -hex 32"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address: 127.x.x.x, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same(given: bytes, right: bytes) -> bool:
    # Of the digests, because the comparison takes longer for inputs of equal length than of different ones.
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(right).digest())
