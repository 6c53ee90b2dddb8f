"""Addresses of cameras: parsed strictly, and shown without their credentials.

    v4l2:///dev/video0?width=1280&height=720&fps=30&format=yuyv     better /dev/v4l/by-id/… than /dev/video0
    csi://0?width=1920&height=1080&fps=30&flip=2                    a Jetson's MIPI camera
    rtsp://USER:PASSWORD@host:554/path?for=the+camera#transport=udp&decoder=ffmpeg
    http://USER:PASSWORD@host/video.mjpg#timeout_ms=1000            https too
    clip:///data/drive.mp4?loop=1                                   a clip in real time
    test://pattern?size=360x480&fps=30&script=ok 2s; stall 3s       see runtime/fault_script.py
    gst://PIPELINE                                                  only where raw pipelines are allowed

Ours are the options behind ? of devices, clips and tests, and behind # of network cameras, whose own ? goes to the
camera. ${NAME} stands for an environment variable anywhere, and the whole address may be one. A password may hold @ and
: as they are; what it has of / ? # must be percent-encoded or come from a variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

from pspnet.errors import PspnetError
from runtime import fault_script

MOST_CHARACTERS = 4096
NUMBER = r"[1-9]\d{0,5}"
COLOUR = {"matrix": r"601|709", "range": r"limited|full"}
MODE = {"width": NUMBER, "height": NUMBER, "fps": NUMBER}
NETWORK = {"timeout_ms": r"[1-9]\d{2,4}", "tls": r"verified|unverified", "ca": r"[^;|]+"}
OPTIONS: dict[str, dict[str, str]] = {
    "v4l2": {**MODE, **COLOUR, "format": r"mjpg|yuyv|uyvy|nv12"},
    "csi": {**MODE, "flip": r"[0-7]"},
    "rtsp": {**NETWORK, "transport": r"tcp|udp", "decoder": r"auto|ffmpeg|nvv4l2decoder", "threads": r"[1-9]|1\d"},
    "http": NETWORK,
    "clip": {"loop": r"0|1", "fps": NUMBER},
    "test": {
        "size": r"[1-9]\d{1,3}x[1-9]\d{0,3}", "fps": NUMBER, "script": r".*", "seed": r"\d{1,9}", "loop": r"0|1",
        "code": r"0|1", "format": r"bgr|nv12|yuyv|uyvy", **COLOUR,
    },
    "gst": {},
}  # fmt: skip
"""Scheme -> option -> what its value must look like."""
NEEDED = {
    NUMBER: "a whole number from 1 to 999999", r"[1-9]\d{2,4}": "whole milliseconds from 100 to 99999",
    r"0|1": "0 or 1", r"[1-9]\d{1,3}x[1-9]\d{0,3}": "HEIGHTxWIDTH in pixels, as 360x480",
    r"\d{1,9}": "a whole number of at most nine digits", r"[1-9]|1\d": "1 to 19", r"[0-7]": "0 to 7",
    r"[^;|]+": "a path without ; and |",
}  # fmt: skip
"""What such a value looks like, in words; the other patterns are lists of words."""
SECURE = {"rtsps": "rtsp", "https": "http"}
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PARTS = "pas|pwd|pw|psw|token|secret|key|cred|session|auth|sig"
SECRET_NAME = rf"(?<![\w.%-])(?=[\w.%-]*(?:{_PARTS}))[\w.%-]+"
"""Names of settings that hold a credential, in any case. Too many are hidden rather than too few."""

_HIDDEN = r"\*{3}(?=[,.:;)'\"]*(?:\s|$))"  # in a text that was made safe before, whose punctuation is to stay
_SECRET_SETTING = re.compile(rf"(?i)({SECRET_NAME}=)({_HIDDEN}|\"[^\"]*\"|[^&;/?#\s]*)")
names_expanded: set[str] = set()
"""Variables that addresses and configurations of this process name as ${NAME}: other programs must not get them."""

LEAST_SECRET = 3
"""Characters of a setting's value that is looked for in other texts; a shorter one, such as 1, is part of too many."""

_USER_IN_URL = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^\s\"']*@(?=[^@\s\"']*)")


@dataclass(frozen=True)
class CameraUri:
    """One camera. redacted: the address as it may be shown and stored; everything else may hold secrets.

    scheme: a key of OPTIONS, or rtsps or https. address: the device's path, the sensor's number, the URL without
    credentials, the clip, the pattern or the pipeline. host and port: of network cameras. literal_password: it stood
    in the address itself, and not in a variable. memory: where a test:// camera keeps its place in the script; it goes
    to a child process with the object, as an argument of multiprocessing's Process.
    """

    scheme: str
    address: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False, default_factory=dict)
    redacted: str = ""
    user: str = field(repr=False, default="")
    password: str = field(repr=False, default="")
    host: str = ""
    port: int = 0
    literal_password: bool = False
    memory: Any = field(repr=False, compare=False, default=None)

    def __str__(self) -> str:
        return self.redacted

    @property
    def secret(self) -> tuple[str, ...]:
        """Texts that must be shown nowhere, plain and percent-encoded."""
        parts = {self.password, quote(self.password, safe="")} | set(_long_secrets(self.address))
        return tuple(sorted((part for part in parts if part), key=len, reverse=True))

    def scrubbed(self, text: str) -> str:
        """`text` of a library, such as its error, without this camera's credentials."""
        for part in self.secret:
            text = text.replace(part, "***")
        return without_credentials(text)

    def number(self, option: str, default: int) -> int:
        """An option that is a whole number."""
        return int(self.options.get(option, default))

    @property
    def url(self) -> str:
        """The URL with its credentials, percent-encoded, for a library that takes them in no other way."""
        if not self.user and not self.password:
            return self.address
        scheme, _, rest = self.address.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"


def is_camera(text: str) -> bool:
    """Whether `text` is the address of a camera, and not the path of a clip, a folder or a photo."""
    scheme, separator, _ = text.partition("://")
    known = scheme.lower() in OPTIONS or scheme.lower() in SECURE
    return bool(separator and known) or re.fullmatch(r"\$\{\w+\}", text) is not None


def camera_uri(text: str, environment: Mapping[str, str] | None = None, allow_gstreamer: bool = False) -> CameraUri:
    """The camera that `text` names; PspnetError, which shows no credentials, where it is odd.

    environment: where ${NAME} is looked up, the process's own by default. allow_gstreamer: whether raw pipelines
    (gst://) may be run, which can open any file and connection.
    """
    environment = os.environ if environment is None else environment
    if re.fullmatch(r"\$\{\w+\}", text):
        whole = camera_uri(_expanded(text, text, environment), {}, allow_gstreamer)
        return replace(whole, literal_password=False)
    _check_characters(text)
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    kind = SECURE.get(scheme, scheme)
    if not separator or kind not in OPTIONS:
        raise PspnetError(
            f"{without_credentials(text)} is no camera: give one of "
            f"{', '.join(f'{name}://' for name in (*OPTIONS, *SECURE))}"
        )
    if kind in ("rtsp", "http"):
        return _network(scheme, rest, environment)
    if scheme == "gst":
        if not allow_gstreamer:
            raise PspnetError(
                "gst:// runs a raw GStreamer pipeline, which can open any file and connection: allow it with "
                "--allow-gstreamer"
            )
        return CameraUri(scheme, _expanded(rest, rest, environment), redacted=without_credentials(text))
    place, _, query = rest.partition("?")
    place = _expanded(place, text, environment)
    _check_place(scheme, place, text)
    options = _options(kind, query, text, environment)
    memory = fault_script.new_memory() if scheme == "test" else None
    return CameraUri(scheme, place, options, without_credentials(text), memory=memory)


def without_credentials(text: str) -> str:
    """`text` with *** in place of user and password of any URL in it, and of settings such as password=…"""
    return _SECRET_SETTING.sub(r"\1***", _USER_IN_URL.sub(r"\1***@", text))


def _long_secrets(address: str) -> list[str]:
    return [found[2] for found in _SECRET_SETTING.finditer(address) if len(found[2]) >= LEAST_SECRET]


def _network(scheme: str, rest: str, environment: Mapping[str, str]) -> CameraUri:
    shown = without_credentials(f"{scheme}://{rest}")
    before, _, fragment = rest.partition("#")
    end = min((before.index(mark) for mark in "/?" if mark in before), default=len(before))
    authority, path = before[:end], before[end:]
    credentials, at, place = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    host, port = _host_and_port(scheme, _expanded(place, shown, environment), shown, "@" in rest and not at)
    path = _expanded(path, shown, environment)
    if re.search(r"[\"<>\\^`{}|\s@]", path):  # an @ would rather be one of a password with / in it
        raise PspnetError(
            f"{shown}: the path holds a character that must be percent-encoded, or the password holds a /"
        )
    named = f"[{host}]" if ":" in host else host
    standard = port == PORTS[scheme]
    address = f"{scheme}://{named}{'' if standard else f':{port}'}{path}"
    options = _options(SECURE.get(scheme, scheme), fragment, shown, environment)
    return CameraUri(
        scheme, address, options, shown, _credential(user, shown, environment),
        _credential(password, shown, environment), host, port, bool(colon and password and "${" not in password),
    )  # fmt: skip


def _host_and_port(scheme: str, place: str, shown: str, hint: bool) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+(?:%\w+)?\]|[\w.-]+)(?::(\d{1,5}))?", place, re.ASCII)
    port = int(found[2]) if found and found[2] else PORTS[scheme]
    if not found or not 1 <= port <= 65535 or found[1].startswith((".", "-")):
        advice = " A / ? or # in the password must be percent-encoded, as %2F %3F %23." if hint else ""
        raise PspnetError(
            f"{shown}: host or port are not understood: write {scheme}://USER:PASSWORD@HOST:PORT/PATH.{advice}"
        )
    return found[1].strip("[]"), port


def _credential(text: str, shown: str, environment: Mapping[str, str]) -> str:
    """A variable's value is taken as it is; what stands in the address is percent-decoded."""
    if "${" in text:
        return _expanded(text, shown, environment)
    return unquote(text)


def _options(kind: str, query: str, text: str, environment: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        value = unquote(_expanded(value, text, environment))
        expected = OPTIONS[kind].get(name)
        shown = without_credentials(part)
        if expected is None:
            known = ", ".join(OPTIONS[kind]) or "none"
            raise PspnetError(
                f"{without_credentials(text)}: option {shown} is not understood; the options of {kind}:// are {known} "
                "(see docs/cameras.md)"
            )
        if name in options:
            raise PspnetError(f"{without_credentials(text)}: {name} is given twice: leave one out")
        if not re.fullmatch(expected, value):
            needed = NEEDED.get(expected) or f"one of {expected.replace('|', ', ')}"
            raise PspnetError(f"{without_credentials(text)}: {shown} is not possible: {name} is {needed}")
        options[name] = value
    if kind == "test":
        fault_script.parse(options.get("script", ""))
    return options


def _check_place(scheme: str, place: str, text: str) -> None:
    expected, example = {
        "v4l2": (r"/dev/[^\s\"'\\]+", "v4l2:///dev/video0"),
        "csi": (r"\d{1,2}", "csi://0"),
        "clip": (r".+", "clip:///data/drive.mp4"),
        "test": (r".+", "test://pattern"),
    }[scheme]
    if not re.fullmatch(expected, place) or "/../" in place:
        raise PspnetError(f"{without_credentials(text)}: {place!r} is not understood: write for example {example}")


def _check_characters(text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise PspnetError(f"an address of {len(text)} characters is no camera: at most {MOST_CHARACTERS} are taken")
    if not text.isprintable():
        raise PspnetError(f"{without_credentials(repr(text))}: an address has no control characters")


def _expanded(value: str, shown: str, environment: Mapping[str, str]) -> str:
    """`value` with each ${NAME} replaced; what replaces it is not searched again."""

    def variable(found: re.Match[str]) -> str:
        name = found[1]
        names_expanded.add(name)
        if name not in environment:
            raise PspnetError(
                f"{without_credentials(shown)}: the environment variable {name} is not set: export {name}=… first"
            )
        inserted = environment[name].rstrip("\r\n")  # files and shells end a secret with a line
        if not inserted.isprintable():
            raise PspnetError(f"the environment variable {name} holds control characters: set it to one line of text")
        return inserted

    return re.sub(r"\$\{(\w+)\}", variable, value)
