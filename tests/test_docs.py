"""What the pages promise: every `pspnet ...` line is one that the parser takes, and every file they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pspnet.cli import parser
from tests.nets import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "weights").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Lines of fenced blocks and inline code that begin with `pspnet` and a verb."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(pspnet [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.sub(r"^\S*python3? -m ", "", line) for line in lines] + inline
    return [line.split("#")[0].strip() for line in found if line.startswith("pspnet ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken_by_the_parser(page: Path) -> None:
    for line in commands(page):
        verb = shlex.split(line)[1:]
        if len(verb) == 1 and verb[0] in (
            "train",
            "average",
            "export",
            "calibrate",
            "build",
            "run",
            "bench",
            "report",
            "evaluate",
            "inspect",
        ):
            continue  # the verb by its name, not a command line
        try:
            parser().parse_args(verb)
        except SystemExit:
            pytest.fail(f"{page.name}: {line}")


def test_the_readme_shows_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
