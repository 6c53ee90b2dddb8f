"""How a checkpoint came about: the command, the version and the commit of the code, kept in its spec."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path
from typing import Any

from pspnet.files import sha256_of
from pspnet.wording import own_version

ROOT = Path(__file__).resolve().parents[1]
NOT_REPEATED = {"-o": 1, "--output": 1, "--json": 1, "--resume": 0}
"""Words of a command that do not change what is made, with the number of values after them."""

ANSWER_S = 20.0


def made_with(args: argparse.Namespace) -> dict[str, Any]:
    """What a run notes of itself: its command, version and commit of the code, and the SHA-256 of --init's file.

    args: of a verb, as `cli.main` parsed it. The command is without the output's place, and names a file of another
    folder by its name alone: a checkpoint is handed around.
    """
    init = getattr(args, "init", None)
    begun = {"init_sha256": sha256_of(init)} if init else {}
    return {"command": command_of(args), "version": own_version(), "commit": commit_of(ROOT), **begun}


def command_of(args: argparse.Namespace) -> str:
    """The command line behind `args`; "" where the verb was not called through the command line."""
    words, left = list(getattr(args, "words", [])), 0
    kept = []
    for word in words:
        name, equals, value = word.partition("=")
        if left:
            left -= 1
        elif word.startswith("-o") and word != "-o":  # its value sticks to it
            continue
        elif name in NOT_REPEATED:
            left = 0 if equals else NOT_REPEATED[name]
        elif equals and name.startswith("--"):
            kept.append(f"{name}={_handed_around(value)}")
        else:
            kept.append(_handed_around(word))
    return f"pspnet {shlex.join(kept)}" if kept else ""


def commit_of(folder: Path) -> str:
    """The commit of the checkout in `folder`, with "+changes" where files differ from it; "" where it is none."""
    if not (folder / ".git").exists():
        return ""
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changes else commit


def _handed_around(word: str) -> str:
    path = Path(word)
    return path.name if path.is_absolute() or path.parts[:1] == ("..",) else word
