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
    target = Path(target)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise PspnetError(f"cannot write {target}: {error.strerror or error}. Choose another place with -o") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place on success and is deleted on any failure.

    An existing `target` must be absent or empty: results of an earlier run are never mixed with or lost to a new one.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PspnetError(f"{target} exists and is not an empty folder. Choose another one with -o, or remove it first")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except OSError as error:
        raise PspnetError(f"cannot write {target}: {error.strerror or error}. Choose another place with -o") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def read_json(path: str | Path, what: str) -> Any:
    """Parsed JSON of `path`; `what` names the kind of file in the error."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PspnetError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise PspnetError(f"{what} {path} is not valid JSON: {error}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
