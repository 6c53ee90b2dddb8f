"""A whole deployment in one file, drive.toml: network, cameras, limits, outputs, merged classes and the web page.

    [model]
    artefact = "model.engine"            # paths are relative to the file's folder
    [[camera]]
    name = "front"
    url = "rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@192.0.2.7/stream"
    [limits]
    max_age_ms = 250                     # of every camera that says nothing else
    [output]
    jsonl = "drive.jsonl"
    [merge]
    drivable = ["road", "lane marking"]
    [serve]
    address = "127.0.0.1:8080"

Every key is in KEYS; others are refused. What a key means is in the docstring of the class that it fills. ${NAME} is a
variable of the environment, or of `secrets_file`, a file of NAME=value lines that only its owner may read.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.geometry import region_from_text
from pspnet.spec import FITS
from runtime.camera_settings import CameraSettings
from runtime.drive_secrets import check_private, expanded, holds_literal, read_secrets, token_from_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CAMERA_KEYS: dict[str, type] = {
    "name": str, "url": str, "fit": str, "region": str, "mask": str, "max_age_ms": float, "open_deadline_s": float,
    "fps": float, "rotate": int, "frozen_after_s": float, "restart_after_s": float, "max_fps": float, "slots": int,
    "allow_gstreamer": bool,
}  # fmt: skip
KEYS: dict[str, dict[str, type]] = {
    "model": {"artefact": str, "engine": str, "threads": int, "pin": str},
    "camera": CAMERA_KEYS,
    "limits": {"max_age_ms": float, "min_confidence": float, "sync_ms": float, "seconds": float},
    "output": {
        "folder": str, "video": str, "jsonl": str, "json": str, "window": bool, "shared_labels": str, "select": str,
        "select_share": float, "callback": str, "alpha": float, "keep_free_mib": int,
    },
    "merge": {},
    "serve": {"address": str, "token": str, "token_file": str, "names": list},
}  # fmt: skip
"""Section -> key -> type. [merge] takes any key: the name of a new class."""
TOP = ("secrets_file", *KEYS)
WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
DEFAULT_PORT = 8080


@dataclass(frozen=True)
class ModelConfig:
    """The network, as in `open_runner`. pin: the SHA-256 that an engine must have."""

    artefact: Path
    engine: str = "auto"
    threads: int | None = None
    pin: str | None = None


@dataclass(frozen=True)
class LimitsConfig:
    """min_confidence: 0 to 1, a pixel of less is 255. sync_ms: cameras are taken together where their pictures are not
    further apart. seconds: the run ends by itself after so long. None for neither."""

    min_confidence: float = 0.0
    sync_ms: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, lowest, highest, flag in (
            ("min_confidence", 0, 1, "--min-confidence"), ("sync_ms", 1, 10_000, "--sync"),
            ("seconds", 0.1, 1e9, "--seconds"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
                raise PspnetError(f"{name} is {value:g}: give {lowest:g} to {highest:g} ({flag} on the command line)")


@dataclass(frozen=True)
class OutputConfig:
    """Where records go.

    folder: for label PNGs; video: folder for WebM files of ten minutes; jsonl: one line per record, added at its end;
    json: figures of the whole run; window: on this machine's screen; shared_labels: shared memory NAME-CAMERA for other
    programs; select: folder for doubtful frames with labels; select_share: of their pixels that are of low confidence
    at least, above 0 to 1; callback: MODULE:FUNCTION of Python that gets every record; alpha: of the colours over the
    picture, 0 to 1; keep_free_mib: room on a disk that no output takes.
    """

    folder: Path | None = None
    video: Path | None = None
    jsonl: Path | None = None
    json: Path | None = None
    window: bool = False
    shared_labels: str | None = None
    select: Path | None = None
    callback: str | None = None
    alpha: float = 0.5
    keep_free_mib: int = 1024
    select_share: float | None = None

    def __post_init__(self) -> None:
        if self.select_share is not None and not 0 < self.select_share <= 1:
            raise PspnetError(
                f"select_share is {self.select_share:g}: give more than 0, up to 1 (--select-share on the command line)"
            )
        if self.select_share is not None and self.select is None:
            raise PspnetError("select_share is of the frames that select keeps: give select, or --select DIR, too")
        if not 0 <= self.alpha <= 1:
            raise PspnetError(f"alpha is {self.alpha:g}: give 0 (picture) to 1 (colours) (--alpha on the command line)")
        if self.keep_free_mib < 0:
            raise PspnetError(
                f"keep_free_mib is {self.keep_free_mib}: give 0 or more (--keep-free on the command line)"
            )


@dataclass(frozen=True)
class ServeConfig:
    """The web page. token: asked of every visitor; needed where host is not this machine's own address. names: further
    host names under which visitors come, as that of a proxy."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriveConfig:
    """One run over cameras. merge: new class -> the classes of the network that become it.

    secrets: variables of `secrets_file`, which cameras' addresses may name. source: of what it was read, for messages.
    """

    model: ModelConfig
    cameras: tuple[CameraSettings, ...]
    limits: LimitsConfig = LimitsConfig()
    output: OutputConfig = OutputConfig()
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    serve: ServeConfig | None = None
    secrets: Mapping[str, str] = field(repr=False, default_factory=dict)
    source: str = "the command line"


def read_drive(path: str | Path) -> DriveConfig:
    """The DriveConfig of a drive.toml; PspnetError, which names section and key, where something in it is not right."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PspnetError(f"cannot read {path}: {error.strerror or error}. Give --config FILE.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PspnetError(f"{path} is not valid TOML: {error}. packaging/drive.toml is an example") from error
    try:
        return _drive(raw, path)
    except PspnetError as error:
        raise PspnetError(f"{path}: {error}") from error


def address_from_text(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT, HOST or :PORT; an IPv6 host stands in brackets."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(DEFAULT_PORT)
    number = int(port) if port.isascii() and port.isdecimal() else -1
    bracketed = host.startswith("[") and host.endswith("]")
    if not 0 <= number <= 65535 or (":" in host and not bracketed) or any(letter in host for letter in " /@"):
        raise PspnetError(f"address {text!r} is not understood: write HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}")
    return host.strip("[]") or "127.0.0.1", number


def _drive(raw: dict[str, Any], path: Path) -> DriveConfig:
    for name in raw:
        if name not in TOP:
            raise PspnetError(f"there is no section [{name}]{_nearest(name, TOP)}")
    folder = path.resolve().parent
    secrets_file = _value(raw, "", "secrets_file", str)
    secrets = read_secrets(folder / secrets_file) if secrets_file else {}
    environment = {**os.environ, **secrets}
    sections = {name: _section(raw.get(name, {}), name) for name in KEYS if name not in ("camera", "merge")}
    model, limits = sections["model"], sections["limits"]
    if "artefact" not in model:
        raise PspnetError('[model] has no artefact: say which network runs, for example artefact = "model.onnx"')
    shared_age = {"max_age_ms": limits.pop("max_age_ms")} if "max_age_ms" in limits else {}
    cameras = raw.get("camera")
    if not isinstance(cameras, list) or not cameras:
        raise PspnetError("there is no camera: begin each with a line [[camera]], with name and url below it")
    return DriveConfig(
        ModelConfig(**{**model, "artefact": folder / model["artefact"]}),
        tuple(_camera(camera, place, shared_age, folder, path) for place, camera in enumerate(cameras, 1)),
        LimitsConfig(**limits),
        _output(sections["output"], folder),
        _merge(raw.get("merge", {})),
        _serve(sections["serve"], folder, path, environment) if "serve" in raw else None,
        secrets,
        str(path),
    )


def _section(raw: Any, name: str, shown: str = "") -> dict[str, Any]:
    """The values of a section, each of its type; PspnetError for a key that it does not have."""
    shown = shown or f"[{name}]"
    if not isinstance(raw, dict):
        raise PspnetError(f"{name} is no section: write {shown} on a line of its own, and its keys below it")
    for key in raw:
        if key not in KEYS[name]:
            raise PspnetError(f"{shown} has no key {key}{_nearest(key, KEYS[name])}")
    return {key: _value(raw, shown, key, kind) for key, kind in KEYS[name].items() if key in raw}


def _value(raw: Mapping[str, Any], shown: str, key: str, kind: type) -> Any:
    value = raw.get(key)
    if type(value) is int and kind is float:
        return float(value)
    if value is None or type(value) is kind:
        return value
    place = f"{shown} {key}".strip()
    raise PspnetError(f"{place} is {str(value)[:60]!r}: give {WORDS[kind]}")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f": did you mean {close[0]}?" if close else f": give one of {', '.join(known)}"


def _camera(raw: Any, place: int, shared: Mapping[str, float], folder: Path, path: Path) -> CameraSettings:
    name = raw.get("name") if isinstance(raw, dict) else None
    values = _section(raw, "camera", f"[[camera]] {name if isinstance(name, str) else place}")
    for needed in ("name", "url"):
        if needed not in values:
            raise PspnetError(f'[[camera]] {name or place} has no {needed}: give {needed} = "…"')
    if holds_literal(values["url"]):
        check_private(path, f"camera {name}")
    values = {**shared, **values, "uri": values["url"]}
    del values["url"]
    if "region" in values:
        values["region"] = region_from_text(values["region"])
    if values.get("fit", FITS[0]) not in FITS:
        raise PspnetError(f"camera {name}: fit is {values['fit']!r}: give one of {', '.join(FITS)}")
    if "mask" in values:
        values["mask"] = folder / values["mask"]
    return CameraSettings(**values)


def _output(values: dict[str, Any], folder: Path) -> OutputConfig:
    paths = {each.name for each in dataclasses.fields(OutputConfig) if "Path" in str(each.type)}
    return OutputConfig(**{key: folder / value if key in paths else value for key, value in values.items()})


def _merge(raw: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise PspnetError('merge is no section: write [merge] on a line of its own, and below it new = ["old", …]')
    for name, parts in raw.items():
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            raise PspnetError(f'[merge] {name} must be a list of the network\'s class names: {name} = ["road", …]')
    return {name: tuple(parts) for name, parts in raw.items()}


def _serve(values: dict[str, Any], folder: Path, path: Path, environment: Mapping[str, str]) -> ServeConfig:
    host, port = address_from_text(values.get("address", f"127.0.0.1:{DEFAULT_PORT}"))
    if "token" in values and "token_file" in values:
        raise PspnetError("[serve] has both token and token_file: leave one out")
    token = values.get("token")
    if token is not None:
        if "${" not in token:
            check_private(path, "[serve]")
        token = expanded(token, "[serve] token", environment)
    elif "token_file" in values:
        token = token_from_file(folder / values["token_file"])
    names = values.get("names", [])
    if not all(isinstance(name, str) for name in names):
        raise PspnetError('[serve] names must be a list of host names: names = ["car.local"]')
    return ServeConfig(host, port, token, tuple(names))
