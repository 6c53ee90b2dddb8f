"""Digest and Basic, against the examples of RFC 7616, RFC 2617 and RFC 7617."""

from __future__ import annotations

import re

import pytest

from runtime import authorisation

NONCE, CNONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
OFFER = (
    f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={{}}, nonce="{NONCE}", opaque="{OPAQUE}"'
)
MD5, SHA256 = OFFER.format("MD5"), OFFER.format("SHA-256")


def fields(header: str | None) -> dict[str, str]:
    assert header is not None and header.startswith("Digest ")
    return {name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', header)}


@pytest.mark.parametrize(
    ("offers", "response"),
    [
        ([MD5], "8ca523f5e9506fed4657c9700eebdbec"),
        ([SHA256], "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        (["Basic realm=x", MD5, SHA256], "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_is_that_of_rfc_7616(monkeypatch: pytest.MonkeyPatch, offers: list[str], response: str) -> None:
    monkeypatch.setattr(authorisation.secrets, "token_hex", lambda size: CNONCE)
    found = fields(authorisation.digest(offers, "Mufasa", "Circle of Life", "GET", "/dir/index.html"))
    assert found["response"] == response and found["qop"] == "auth" and found["nc"] == "00000001"
    assert found["opaque"] == OPAQUE and found["uri"] == "/dir/index.html" and found["username"] == "Mufasa"


def test_digest_without_qop_is_that_of_rfc_2069() -> None:
    # RFC 2617, section 3.5, without its qop: response of MD5(HA1:nonce:HA2), as RTSP cameras ask for it.
    offer = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    found = fields(authorisation.digest([offer], "Mufasa", "Circle Of Life", "GET", "/dir/index.html"))
    assert found["response"] == "670fd8c2df070c60b045671b8b24ff02" and "qop" not in found and "cnonce" not in found


def test_what_we_do_not_know_is_left_alone() -> None:
    unknown = [OFFER.format("MD5-sess"), 'Digest realm="a", nonce="b", qop="auth-int"', "Negotiate", "Basic realm=x"]
    assert authorisation.digest(unknown, "u", "p", "GET", "/") is None
    assert authorisation.basic(["Digest x=1"], "u", "p") is None


def test_basic_is_that_of_rfc_7617() -> None:
    assert authorisation.basic(['Basic realm="x"'], "Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_quotes_cannot_leave_their_place() -> None:
    header = authorisation.digest(['Digest realm="a", nonce="b"'], 'me", x="', "p", "GET", '/"')
    assert header is not None and r'username="me\", x=\""' in header and r'uri="/\""' in header
