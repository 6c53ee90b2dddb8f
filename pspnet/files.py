"""Files that are whole or absent: atomic writes, hashes and JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary file path beside `target` that takes its place on success and is deleted on any failure.

    The temporary name keeps the suffix, because image, video and ONNX writers choose their format by it.
    """
    target = replaceable_file(target)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise PspnetError(f"cannot write {target}: {error.strerror or error}. Choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place on success and is deleted on any failure.

    An existing `target` must be absent or empty: results of an earlier run are never mixed with or lost to a new one.
    """
    target = new_folder(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except OSError as error:
        raise PspnetError(f"cannot write {target}: {error.strerror or error}. Choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_folder(target: str | Path, flag: str = "") -> Path:
    """The folder behind any link; PspnetError unless it is absent or empty. flag: names it on the command line."""
    real = Path(os.path.realpath(target))
    if real == Path.cwd():
        example = f", for example {flag} out" if flag else ""
        raise PspnetError(f"the folder you are in cannot become the output: give a new folder{example}")
    if real.exists() and (not real.is_dir() or any(real.iterdir())):
        other = f"with {flag}, " if flag else ""
        raise PspnetError(f"{target} exists and is not an empty folder. Choose another one {other}or remove it first")
    return real


def replaceable_file(target: str | Path) -> Path:
    """The file behind any link; PspnetError for what must not be replaced by a file."""
    real = Path(os.path.realpath(target))
    if real.is_dir():
        raise PspnetError(f"cannot write {target}: it is a folder. Give the name of a file in it")
    if real.exists() and not real.is_file():
        raise PspnetError(f"cannot write {target}: it is a device, not an ordinary file. Choose another place")
    return real


def passport_path(engine: str | Path) -> Path:
    """Where the passport of the TensorRT engine at `engine` is: beside it, as NAME.engine.json."""
    return Path(f"{engine}.json")


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON; NaN and infinity become null, so that browsers and strict parsers read the file."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=1) + "\n", encoding="utf-8")


def read_json(path: str | Path, what: str, advice: str = "Give the path of a JSON file") -> Any:
    """Parsed JSON of `path`, in UTF-8 with or without a byte order mark.

    what: the kind of file, advice: how to come to a right one, both for the error.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PspnetError(f"cannot read {what} {path}: {error.strerror or error}. {advice}") from error
    except (ValueError, RecursionError) as error:
        raise PspnetError(f"{what} {path} is not valid JSON: {error}. {advice}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
