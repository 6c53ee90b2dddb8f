"""Secrets of a run over cameras: from the environment, or from files that only their owner can read."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pspnet.errors import PspnetError
from runtime.camera_uri import SECRET_NAME, names_expanded

OTHERS = stat.S_IRWXG | stat.S_IRWXO
LITERAL = re.compile(rf"(?i)://[^/?#\s]*:(?!\$\{{)[^@\s]+@|{SECRET_NAME}=(?!\$\{{)[^&;\s]")
_LINE = re.compile(r"([A-Za-z_]\w*)=(.*)")


def read_secrets(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines, as systemd's EnvironmentFile: # begins a comment line.

    PspnetError where anybody but its owner may read or write it.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_private_text(path, "secrets_file").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line)):
            raise PspnetError(f"secrets_file {path}, line {number} is not NAME=value: correct it")
        value = match[2].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        names_expanded.add(match[1])
        found[match[1]] = value[1:-1] if quoted else value
    return found


def token_from_file(path: Path) -> str:
    """The token in a file's first line; PspnetError where others may read the file, or it is empty."""
    token = _private_text(path, "token file").strip()
    if not token or "\n" in token:
        raise PspnetError(f"token file {path} must hold one line: head -c 32 /dev/urandom | base64 > {path}")
    return token


def holds_literal(address: str) -> bool:
    """Whether a camera's address holds a credential itself, and not only the name of a variable."""
    return LITERAL.search(address) is not None


def check_private(path: Path, where: str) -> None:
    """PspnetError where others may read the file `path`, in which `where` has a literal credential."""
    if path.stat().st_mode & OTHERS:
        raise PspnetError(
            f"{where} holds a credential, and others may read the file: write ${{NAME}} in its place and set NAME in "
            f"the environment or in secrets_file, or: chmod 600 {path}"
        )


def expanded(text: str, where: str, environment: Mapping[str, str]) -> str:
    """`text` with each ${NAME} replaced; PspnetError where a variable is not set."""

    def variable(found: re.Match[str]) -> str:
        names_expanded.add(found[1])
        if not environment.get(found[1]):
            raise PspnetError(f"{where}: the variable {found[1]} is not set: export it, or put it into secrets_file")
        return environment[found[1]].rstrip("\r\n")

    return re.sub(r"\$\{(\w+)\}", variable, text)


def _private_text(path: Path, what: str) -> str:
    try:
        mode = path.stat().st_mode
        if mode & OTHERS:
            raise PspnetError(f"{what} {path} can be read or written by others: chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PspnetError(f"cannot read {what} {path}: {reason}. Make it, with mode 0600") from error
