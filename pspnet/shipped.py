"""The checkpoints that come with the repository, and whether each is the file that its model card speaks of.

A card is two files beside NAME.pt: NAME.md to read, and NAME.json with the same facts; weights/pack.py writes both.
Nothing here needs torch: a checkpoint is hashed, not loaded.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import read_json, sha256_of
from pspnet.wording import counted

FOLDER = Path(__file__).resolve().parents[1] / "weights"
"""Where they are in a clone of the repository. An installed package has no such folder beside it."""

KIND = "model card"
WHERE = (
    "they are no part of the installed package: clone the repository, which has them in weights/, or copy that folder, "
    "and give it with --folder DIR"
)
NEEDED = ("backbone", "output_stride", "input_size", "classes", "parameters", "licence", "test", "precisions")
SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")

Row = dict[str, Any]


def shipped(folder: str | Path | None = None) -> list[Row]:
    """One row per checkpoint of `folder` (default: the repository's), by name; PspnetError where there is none.

    Keys: file, bytes, sha256 (of the file as it is), fault ("" where the card fits), and from the card, else None:
    backbone, output_stride, input_size, classes (their names), parameters, licence, test (miou, mode, engine,
    precision, images, name of the published protocol) and precisions (mIoU by precision).
    """
    place = Path(folder) if folder is not None else FOLDER
    if place.is_file():
        raise PspnetError(f"{place} is a file: give the folder that it is in, --folder {place.parent}")
    names = {path.stem for path in place.glob("*.pt") if path.is_file()}
    names |= {path.stem for path in place.glob("*.json") if _is_card(path)}
    if not names:
        raise PspnetError(f"no shipped checkpoints in {place}: {WHERE}")
    return [_row(place, name) for name in sorted(names)]


def _row(folder: Path, name: str) -> Row:
    path, card = folder / f"{name}.pt", folder / f"{name}.json"
    facts, fault = _card(card)
    row: Row = {"file": str(path), "bytes": None, "sha256": None, "fault": fault}
    row |= {key: facts.get(key) for key in NEEDED}
    if not path.is_file():
        return row | {"fault": f"{path} is missing, its card is there: clone the repository again"}
    row |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return row | {"fault": fault or _difference(row, facts, card)}


def _is_card(path: Path) -> bool:
    """Whether a JSON file without a checkpoint speaks of one that is missing: lists and scores may lie here, too."""
    try:
        facts = read_json(path, "model card")
    except PspnetError:
        return False
    return isinstance(facts, dict) and facts.get("kind") == KIND


def _card(path: Path) -> tuple[Row, str]:
    """The facts of a card and "", or nothing and what is wrong with it."""
    rewrite = f"Write it with: python weights/pack.py {path.with_suffix('.pt')}"
    if not path.is_file():
        return {}, f"{path} is missing, so nothing says what the file should be. {rewrite}"
    try:
        facts = read_json(path, "model card", rewrite)
    except PspnetError as error:
        return {}, str(error)
    if not isinstance(facts, dict) or facts.get("kind") != KIND or not SHA256.fullmatch(str(facts.get("sha256"))):
        return {}, f"{path} is no model card. {rewrite}"
    if missing := [name for name in NEEDED if name not in facts]:
        return {}, f"{path} is damaged: it lacks {missing[0]}. {rewrite}"
    try:
        _block({"file": path, "bytes": None, "fault": "", **{name: facts[name] for name in NEEDED}})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, f"{path} is damaged: a fact has the wrong type ({type(error).__name__}: {error}). {rewrite}"
    return facts, ""


def page_sha256(text: str) -> str:
    """Hex SHA-256 of a page, equal for every kind of line end, since a checkout may change them."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()


def _difference(row: Row, facts: Row, card: Path) -> str:
    """What is wrong with a file whose card can be read, "" where nothing is."""
    if row["sha256"] != facts["sha256"]:
        return (
            f"{row['file']} is not the file of its card (SHA-256 {row['sha256'][:16]}…, {row['bytes']} bytes; the card "
            f"says {facts['sha256'][:16]}…, {facts.get('bytes')} bytes): it is damaged or another one. Clone the "
            "repository again"
        )
    page, write = card.with_suffix(".md"), f"write it with: python weights/pack.py {row['file']}"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if facts["sha256"] not in SHA256.findall(text):
        return f"{page} is missing or speaks of another file: {write}"
    if page_sha256(text) != facts.get("page_sha256", page_sha256(text)):
        return f"{page} is not the page of {card.name}, one of them was changed: {write}"
    figures = [facts["test"]["miou"], *facts["precisions"].values()] if facts["test"] else []
    if absent := [f"{miou:.2f}" for miou in figures if f"| {miou:.2f} |" not in text]:
        return f"{card} says mIoU {absent[0]}, which {page.name} does not: {write}"
    if missing := [name for name in PICTURE.findall(text) if not page.with_name(name).is_file()]:
        return f"{page.with_name(missing[0])}, a picture of {page.name}, is missing: {write}"
    return ""


def text_of(rows: list[Row], folder: Path) -> str:
    """The list to print: a block per checkpoint, then where they were looked for."""
    blocks = [_block(row) for row in rows]
    return "\n\n".join([*blocks, f"{counted(len(rows), 'checkpoint')} in {folder}"])


def check(rows: list[Row]) -> None:
    """PspnetError that names the first fault of the list."""
    if faults := [row["fault"] for row in rows if row["fault"]]:
        raise PspnetError(f"{faults[0]}{f' ({len(faults)} files have faults)' if len(faults) > 1 else ''}")


def _block(row: Row) -> str:
    lines = [Path(row["file"]).stem]
    if row["backbone"] is not None:
        height, width = row["input_size"]
        lines.append(
            f"  network   {row['backbone']} at output stride {row['output_stride']}, {height}x{width}, "
            f"{counted(len(row['classes']), 'class')}, {row['parameters'] / 1e6:.1f} million parameters"
        )
        lines += [f"  test      {_scores(row)}", f"  licence   {row['licence'] or 'of the data: not stated'}"]
    if row["bytes"] is not None:
        lines.append(f"  file      {row['file']}, {row['bytes']:,} bytes")
        lines.append(f"  sha256    {row['sha256']}{'' if row['fault'] else ', as its card says'}")
    return "\n".join([*lines, *([f"  fault     {row['fault']}"] if row["fault"] else [])])


def _scores(row: Row) -> str:
    test = row["test"]
    if not test:
        return "not measured"
    data = f"{counted(test['images'], 'image')} of {test['name'] or test['dataset']} {test['split']}"
    others = [f"{name} {miou:.2f}" for name, miou in (row["precisions"] or {}).items() if name != test["precision"]]
    more = f"; {', '.join(others)}" if others else ""
    return f"mIoU {test['miou']:.2f} ({test['engine']}, {test['precision']}{more}): {data}, {test['mode']}"
