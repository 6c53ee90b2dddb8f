"""Answers to a server that asks who we are: Digest (RFC 7616) where it is offered, Basic (RFC 7617) where it is not.

Basic sends the password in a form that anyone on the way can read, unless the connection is encrypted.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence

ALGORITHMS = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_PARAMETER = re.compile(r'([a-zA-Z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def digest(challenges: Sequence[str], user: str, password: str, method: str, target: str) -> str | None:
    """The value of Authorization for one request; None where no challenge is a Digest that we know.

    challenges: values of WWW-Authenticate; target: the request's URI as its first line has it.
    """
    offers = [_parameters(challenge) for challenge in challenges if challenge.lower().startswith("digest ")]
    known = [offer for offer in offers if offer.get("algorithm", "MD5").upper() in ALGORITHMS and _plain(offer)]
    if not known:
        return None
    offer = max(known, key=lambda offer: offer.get("algorithm", "MD5").upper() == "SHA-256")
    algorithm = offer.get("algorithm", "MD5").upper()

    def hashed(*parts: str) -> str:
        return ALGORITHMS[algorithm](":".join(parts).encode()).hexdigest()

    realm, nonce = offer.get("realm", ""), offer.get("nonce", "")
    who, what = hashed(user, realm, password), hashed(method, target)
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": target}
    bare = ""
    if "qop" in offer:
        client = secrets.token_hex(8)
        fields["response"] = hashed(who, nonce, "00000001", client, "auth", what)
        fields["cnonce"] = client
        bare = ", qop=auth, nc=00000001"
    else:
        fields["response"] = hashed(who, nonce, what)
    if "opaque" in offer:
        fields["opaque"] = offer["opaque"]
    bare += f", algorithm={algorithm}" if "algorithm" in offer else ""
    quoted = ", ".join(f'{name}="{_escaped(value)}"' for name, value in fields.items())
    return f"Digest {quoted}{bare}"


def basic(challenges: Sequence[str], user: str, password: str) -> str | None:
    """The value of Authorization; None where no challenge is Basic."""
    if not any(challenge.lower().split()[:1] == ["basic"] for challenge in challenges):
        return None
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _parameters(challenge: str) -> dict[str, str]:
    found = _PARAMETER.finditer(challenge.partition(" ")[2])
    return {match[1].lower(): re.sub(r"\\(.)", r"\1", match[2] or "") or match[3] or "" for match in found}


def _plain(offer: dict[str, str]) -> bool:
    """Whether the body need not be part of the hash."""
    return "qop" not in offer or "auth" in [word.strip() for word in offer["qop"].split(",")]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
