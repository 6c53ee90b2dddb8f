"""pspnet weights: every shipped checkpoint is the file of its card, and what is damaged, missing or absent is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.test_log import LOG, PLAIN, read_log
from pspnet import shipped
from pspnet.cli import main
from tests.nets import ROOT

NAME = "pspnet_mobilenet_v2_camvid11"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of weights/ that a test may break."""
    return Path(shutil.copytree(ROOT / "weights", tmp_path / "weights"))


def listed(folder: Path | None, capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """What `pspnet weights` prints, and its error line."""
    capsys.readouterr()
    assert main(["weights", *(["--folder", str(folder)] if folder else [])]) == code
    said = capsys.readouterr()
    assert said.err.count("\n") == (1 if code else 0)
    return said.out, said.err


def test_what_is_shipped_fits_its_cards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = listed(None, capsys)
    page = (ROOT / "weights" / f"{NAME}.md").read_text()
    digest = hashlib.sha256((ROOT / "weights" / f"{NAME}.pt").read_bytes()).hexdigest()
    lines = [row for row in read_log(LOG) if row.get("sha256") == digest and row.get("mode", PLAIN) == PLAIN]
    scores = json.loads((ROOT / lines[0]["file"]).read_text())
    assert digest in page and f"sha256    {digest}, as its card says" in out
    assert f"mIoU {scores['miou']:.2f} (torch, fp32" in out
    assert "233 images of camvid11-segnet-360x480 test, whole image, single scale" in out
    assert "mobilenet_v2 at output stride 8, 360x480, 11 classes" in out and "CC BY-NC 4.0" in out
    assert str(ROOT / "weights") in out.splitlines()[-1]
    assert main(["weights", "--json", str(tmp_path / "list.json")]) == 0
    [row] = [
        row
        for row in json.loads((tmp_path / "list.json").read_text())["checkpoints"]
        if Path(row["file"]).name == f"{NAME}.pt"
    ]
    assert row["sha256"] == digest and row["bytes"] == (ROOT / "weights" / f"{NAME}.pt").stat().st_size
    assert row["test"]["miou"] == scores["miou"] and len(row["classes"]) == 11 and row["fault"] == ""


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from pspnet.cli import main; sys.exit(main(['weights']))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120).returncode == 0


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / f"{NAME}.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / f"{NAME}.pt").write_bytes(data)


def change_card(folder: Path, **changes: Any) -> None:
    card = folder / f"{NAME}.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def edit_page(folder: Path, before: str, after: str) -> None:
    page = folder / f"{NAME}.md"
    page.write_text(page.read_text().replace(before, after, 1))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip_a_byte, "is not the file of its card"),
        (lambda f: (f / f"{NAME}.pt").write_bytes((f / f"{NAME}.pt").read_bytes()[:-1]), "is not the file of its card"),
        (lambda f: (f / f"{NAME}.json").unlink(), "is missing, so nothing says what the file should be"),
        (lambda f: (f / f"{NAME}.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / f"{NAME}.json").write_text('{"kind": "bench"}'), "is no model card"),
        (lambda f: change_card(f, sha256="0" * 64), "is not the file of its card"),
        (lambda f: (f / f"{NAME}.pt").unlink(), f"{NAME}.pt is missing, its card is there"),
        (lambda f: (f / f"{NAME}.md").unlink(), f"{NAME}.md is missing or speaks of another file"),
        (lambda f: (f / f"{NAME}.md").write_text("# nothing"), f"{NAME}.md is missing or speaks of another file"),
        (lambda f: edit_page(f, "mIoU", "MIoU"), f"{NAME}.md is not the page of {NAME}.json"),
        (lambda f: change_card(f, precisions={"fp32": 99.25}), f"says mIoU 99.25, which {NAME}.md does not"),
        (lambda f: (f / f"{NAME}.svg").unlink(), f"{NAME}.svg, a picture of {NAME}.md, is missing"),
        (lambda f: change_card(f, input_size=[1, 2, 3]), f"{NAME}.json is damaged: a fact has the wrong type"),
        (lambda f: change_card(f, test={"miou": 1.0}), f"{NAME}.json is damaged: a fact has the wrong type"),
        (lambda f: change_card(f, parameters=None), f"{NAME}.json is damaged: a fact has the wrong type"),
    ],
)
def test_faults_are_named(harm: Any, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(folder, capsys)
    harm(folder)
    out, error = listed(folder, capsys, code=2)
    assert said in error and "fault     " in out
    assert "clone the repository again" in error.lower() or "python weights/pack.py" in error


def test_a_card_that_lacks_a_fact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = folder / f"{NAME}.json"
    facts = json.loads(card.read_text())
    del facts["classes"]
    card.write_text(json.dumps(facts))
    assert "is damaged: it lacks classes" in listed(folder, capsys, code=2)[1]


def test_two_checkpoints_are_two_blocks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("pt", "md", "json", "svg"):
        shutil.copy(folder / f"{NAME}.{suffix}", folder / f"another.{suffix}")
    out, _ = listed(folder, capsys)
    assert out.index("another\n") < out.index(f"{NAME}\n") and f"2 checkpoints in {folder}" in out
    flip_a_byte(folder)
    (folder / "another.json").unlink()
    assert "(2 files have faults)" in listed(folder, capsys, code=2)[1]


@pytest.mark.parametrize("exists", [True, False])
def test_without_any_it_is_said_where_they_are(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed package has no weights/ beside it."""
    place = tmp_path / "site-packages" / "weights"
    if exists:
        place.mkdir(parents=True)
    monkeypatch.setattr(shipped, "FOLDER", place)
    out, error = listed(None, capsys, code=2)
    assert out == "" and f"no shipped checkpoints in {place}" in error
    assert "no part of the installed package: clone the repository" in error and "--folder DIR" in error


def test_the_list_never_replaces_a_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = folder / f"{NAME}.json"
    before = card.read_bytes()
    assert main(["weights", "--folder", str(folder), "--json", str(card)]) == 2
    assert card.read_bytes() == before and "give another output" in capsys.readouterr().err


def test_only_model_cards_are_cards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--folder", str(folder), "--json", str(folder / "list.json")]) == 0
    (folder / "broken.json").write_text("{")
    (folder / "numbers.json").write_text("[1]")
    out, _ = listed(folder, capsys)
    assert f"1 checkpoint in {folder}" in out and "list\n" not in out


def test_a_file_in_place_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, error = listed(folder / f"{NAME}.pt", capsys, code=2)
    assert f"{NAME}.pt is a file: give the folder that it is in, --folder {folder}" in error


def test_a_broken_card_has_one_advice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / f"{NAME}.json").write_text("{")
    _, error = listed(folder, capsys, code=2)
    assert "Write it with: python weights/pack.py" in error and "Give the path" not in error
