"""What a checkpoint says of the command and the code that made it."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
from pathlib import Path

import pytest

from pspnet.cli import parser
from pspnet.provenance import command_of, commit_of, made_with

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]


def command(*words: str) -> str:
    return command_of(argparse.Namespace(words=list(words)))


def test_a_command_is_kept_without_its_place() -> None:
    assert command("train", "--data", "data/x", "-o", "runs/a", "--resume", "--lr", "0.1", "--json", "r.json") == (
        "pspnet train --data data/x --lr 0.1"
    )
    assert command("train", "--output=runs/a", "-oruns/b", "--bins", "none") == "pspnet train --bins none"
    assert command_of(argparse.Namespace()) == ""


def test_folders_of_a_machine_are_not_handed_around() -> None:
    kept = command("train", "--data", "/home/me/data/camvid11", "--weights=../w/net.pth", "--init", "runs/a b/last.pt")
    assert kept == "pspnet train --data camvid11 --weights=net.pth --init 'runs/a b/last.pt'"
    assert (
        parser().parse_args([*shlex.split(kept.replace(" --init 'runs/a b/last.pt'", ""))[1:], "-o", "x"]).weights
        == "net.pth"
    )


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    if subprocess.run(["git", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no git")
    assert commit_of(tmp_path) == ""
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*GIT, "-C", str(tmp_path), *words], check=True, capture_output=True)
    commit = commit_of(tmp_path)
    assert len(commit) == 40 and int(commit, 16)
    (tmp_path / "a.py").write_text("1\n")
    assert commit_of(tmp_path) == commit  # not a file of the checkout yet
    subprocess.run([*GIT, "-C", str(tmp_path), "add", "a.py"], check=True)
    assert commit_of(tmp_path) == f"{commit}+changes"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) == ""  # a damaged one
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) == ""
    facts = made_with(argparse.Namespace(words=["train", "--data", "d"]))
    assert facts["command"] == "pspnet train --data d" and facts["version"]


def test_the_start_is_kept_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"weights")
    known = hashlib.sha256(b"weights").hexdigest()
    assert made_with(argparse.Namespace(init=str(tmp_path / "last.pt")))["init_sha256"] == known
    assert "init_sha256" not in made_with(argparse.Namespace(init=None))
