"""What is in a data set and what is wrong with it: every pair is read, every finding has its advice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.dataset import SPLITS, Dataset, open_unchecked, splits_of
from pspnet.errors import PspnetError
from pspnet.spec import IGNORE

OK, NOTE, FAULT = "ok", "note", "fault"
MOST_LISTED = 20  # broken files in the report
MUCH_VOID = 50.0  # per cent of a split's pixels without a class, from which on the ignore value is suspect
PUBLISHED = {
    "camvid11-segnet-360x480": {"train": 367, "val": 101, "test": 233},
    "camvid11-merged-720x960": {"train": 367, "val": 101, "test": 233},
    "cityscapes19-1024x2048": {"train": 2975, "val": 500, "test": 1525},
}
"""Pairs in each split of a protocol."""


@dataclass(frozen=True)
class Finding:
    """One line: mark is ok, note or fault (must be fixed); files are the lines below it."""

    mark: str
    text: str
    advice: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """What reading one pair gave: size (height, width), pixels of each class and void last, hash of the pixels."""

    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    digest: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Split:
    """A split and its pairs as they were read, in its order."""

    dataset: Dataset
    pairs: tuple[Pair, ...]

    def readable(self) -> list[int]:
        """Indices of the pairs without a problem."""
        return [index for index, pair in enumerate(self.pairs) if not pair.problem]

    def counts(self) -> np.ndarray:
        """(pairs, classes + 1) pixels of every readable pair; void is the last column."""
        rows = [self.pairs[index].counts for index in self.readable()]
        return np.array(rows, np.int64).reshape(len(rows), len(self.dataset.classes.names) + 1)

    def void_percent(self) -> float:
        """Share of pixels without a class, 0 where nothing can be read."""
        total = self.counts().sum(0)
        return float(100 * total[-1] / max(total.sum(), 1))

    def sizes(self) -> Counter[str]:
        """Pictures of each HxW."""
        return Counter(f"{h}x{w}" for h, w in (self.pairs[index].size for index in self.readable()))


@dataclass(frozen=True)
class DataReport:
    """Everything that `pspnet doctor --data` knows."""

    root: str
    splits: dict[str, Split]
    findings: tuple[Finding, ...]

    def faults(self) -> int:
        """How many findings must be fixed."""
        return sum(finding.mark == FAULT for finding in self.findings)


def examine(name: str, root: str | Path) -> DataReport:
    """Read every pair of every split; what cannot be read is a finding. PspnetError where no layout is recognised."""
    splits, findings = {}, []
    for split in splits_of(name, root) or SPLITS:  # with no whole split, all of them tell what they lack
        try:
            dataset = open_unchecked(name, root, split)
        except PspnetError as error:
            findings.append(Finding(FAULT, str(error)))
        else:
            splits[split] = Split(dataset, tuple(_read(dataset)))
    for rule in (_pairs, _notes, _counts, _sizes, _void, _absent, _duplicates, _orphans):
        findings += rule(splits)
    return DataReport(str(root), splits, tuple(findings))


def _read(dataset: Dataset) -> Iterator[Pair]:
    # Threads, because decoding releases the interpreter's lock and only small results come back.
    with ThreadPool(min(os.cpu_count() or 1, 8)) as pool:
        pairs = pool.imap(lambda index: _pair(dataset, index), range(len(dataset)))
        yield from tqdm(pairs, desc=f"doctor {dataset.split}", unit="pair", total=len(dataset), leave=False)


def _pair(dataset: Dataset, index: int) -> Pair:
    for what, path in (("picture", dataset.images[index]), ("label", dataset.labels[index])):
        if not path.is_file():
            return Pair(problem=f"{what} {path} is missing")
    try:
        image, labels = dataset.read(index)
    except PspnetError as error:
        return Pair(problem=str(error))
    counts = np.bincount(labels.ravel(), minlength=256)
    digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data).hexdigest()
    return Pair(image.shape[:2], np.append(counts[: len(dataset.classes.names)], counts[IGNORE]), digest)


def _pairs(splits: dict[str, Split]) -> Iterator[Finding]:
    pairs = [pair for split in splits.values() for pair in split.pairs]
    if problems := [pair.problem for pair in pairs if pair.problem]:
        rest = len(problems) - MOST_LISTED
        files = (*problems[:MOST_LISTED], *([f"and {rest} more"] if rest > 0 else []))
        advice = "Replace or repair these files, or remove the pairs"
        yield Finding(FAULT, f"{len(problems)} of {len(pairs)} pairs cannot be used", advice, files)
    elif pairs:
        yield Finding(OK, f"all {len(pairs)} pictures have a readable label of their size with known values")
    for split in ("train", "val"):
        if split not in splits and "all" not in splits:
            yield Finding(NOTE, f"there is no split {split}", "pspnet train needs train and val")


def _notes(splits: dict[str, Split]) -> Iterator[Finding]:
    for note in dict.fromkeys(split.dataset.note for split in splits.values()):
        if note:
            yield Finding(NOTE, note)


def _counts(splits: dict[str, Split]) -> Iterator[Finding]:
    for name, split in splits.items():
        published = PUBLISHED.get(split.dataset.protocol, {}).get(name, len(split.pairs))
        if len(split.pairs) != published:
            text = f"{name} has {len(split.pairs)} pairs, {split.dataset.protocol} as published has {published}"
            yield Finding(NOTE, text, "Do not compare figures of this part with published ones")


def _sizes(splits: dict[str, Split]) -> Iterator[Finding]:
    sizes = sum((split.sizes() for split in splits.values()), Counter[str]())
    text = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(8))
    if len(sizes) > 1:
        more = ", ..." if len(sizes) > 8 else ""
        advice = "Give pspnet train --size HxW and --fit; by default the first picture decides"
        yield Finding(NOTE, f"pictures have {len(sizes)} sizes: {text}{more}", advice)
    elif sizes:
        yield Finding(OK, f"every picture has the size {next(iter(sizes))}")


def _void(splits: dict[str, Split]) -> Iterator[Finding]:
    for name, split in splits.items():
        counts, share = split.counts().sum(0), split.void_percent()
        if counts.sum() and not counts[:-1].any():
            mark = NOTE if split.dataset.note else FAULT  # a withheld test split says so
            advice = "Nothing can be learned or scored: check the labels and the ignore value"
            yield Finding(mark, f"no pixel of {name} has a class", advice)
        elif share > MUCH_VOID:
            advice = "Check the labels and the ignore value"
            yield Finding(NOTE, f"{share:.1f} % of {name}'s pixels have no class", advice)


def _absent(splits: dict[str, Split]) -> Iterator[Finding]:
    for name, split in splits.items():
        totals = split.counts().sum(0)[:-1]
        absent = [c for c, count in zip(split.dataset.classes.names, totals, strict=True) if not count]
        if absent and len(absent) < len(totals):
            advice = "They cannot be learned" if name == "train" else "Nothing is measured for them there"
            yield Finding(NOTE, f"no pixel of {name} is {', '.join(absent)}", advice)


def _duplicates(splits: dict[str, Split]) -> Iterator[Finding]:
    places: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for name, split in splits.items():
        for index in split.readable():
            places[split.pairs[index].digest].append((name, split.dataset.images[index]))
    between: list[str] = []
    within: list[str] = []
    for found in places.values():
        if len(found) > 1:
            line = " = ".join(f"{split} {path.name}" for split, path in found)
            (between if len({split for split, _ in found}) > 1 else within).append(line)
    for lines, mark, where, advice in (
        (between, FAULT, "in more than one split", "Keep each in one split: a score on pictures of train flatters"),
        (within, NOTE, "more than once in a split", "Each counts as often as it is there"),
    ):
        if lines:
            rest = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
            text = f"{len(lines)} pictures are {where} (equal pixels)"
            yield Finding(mark, text, advice, (*lines[:MOST_LISTED], *rest))
    if places and not between and len(splits) > 1:
        yield Finding(OK, "no picture is in two splits")


def _orphans(splits: dict[str, Split]) -> Iterator[Finding]:
    used = {path for split in splits.values() for path in split.dataset.labels}
    ends: set[tuple[Path, str]] = set()
    for split in splits.values():
        if split.dataset.name != "list":  # a list leaves out what it wants to
            pairs = zip(split.dataset.images, split.dataset.labels, strict=True)
            ends |= {(label.parent, _end(image, label)) for image, label in pairs}
    labels = sorted(p for folder, end in ends if folder.is_dir() for p in folder.iterdir() if p.name.endswith(end))
    if orphans := [path for path in labels if path not in used and not path.name.startswith(".")]:
        text = f"{len(orphans)} labels have no picture, such as {orphans[0]}"
        yield Finding(NOTE, text, "They are not used; add their pictures or remove them")


def _end(image: Path, label: Path) -> str:
    """What a label's name has beyond its picture's: _L.png, _gtFine_labelIds.png or only .png."""
    same = sum(
        1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(image.stem, label.stem, strict=False))
    )
    return label.name[same:]


def text_of(report: DataReport) -> str:
    """The report as lines for a terminal."""
    lines = [f"{'data':<8}{report.root}"]
    if report.splits:
        first = next(iter(report.splits.values())).dataset
        lines += [f"{'layout':<8}{first.name}" + (f", protocol {first.protocol}" if first.protocol else "")]
        lines += [f"{'licence':<8}{first.classes.licence or 'not stated'}", ""]
        lines += [
            f"{name:<8}{len(split.pairs)} pairs, {', '.join(split.sizes()) or 'none readable'}, "
            f"{split.void_percent():.2f} % void"
            for name, split in report.splits.items()
        ]
        lines += ["", *_class_table(report.splits)]
    for finding in report.findings:
        lines.append(f"{finding.mark:<8}{finding.text}" + (f". {finding.advice}" if finding.advice else ""))
        lines += [f"{'':<8}  {file}" for file in finding.files]
    return "\n".join(lines)


def _class_table(splits: dict[str, Split]) -> Iterator[str]:
    names = next(iter(splits.values())).dataset.classes.names
    width = max(len(name) for name in (*names, "class")) + 2
    yield f"{'class':<{width}}" + "".join(f"{name:>9} %  pictures" for name in splits)
    figures = [_class_figures(split) for split in splits.values()]
    for name in names:
        yield f"{name:<{width}}" + "".join(f"{f[name]['percent']:>11.3f}{f[name]['images']:>10}" for f in figures)
    yield ""


def _class_figures(split: Split) -> dict[str, dict[str, Any]]:
    """Per class: share of the labelled pixels in per cent, and pictures that show it."""
    counts = split.counts()[:, :-1]
    share = 100 * counts.sum(0) / max(counts.sum(), 1)
    images = (counts > 0).sum(0)
    names = split.dataset.classes.names
    return {name: {"percent": float(share[i]), "images": int(images[i])} for i, name in enumerate(names)}


def facts_of(report: DataReport) -> dict[str, Any]:
    """The report for a JSON file."""
    splits = {
        name: {
            "dataset": split.dataset.name, "protocol": split.dataset.protocol, "pairs": len(split.pairs),
            "broken": len(split.pairs) - len(split.readable()), "sizes": dict(split.sizes()),
            "void_percent": split.void_percent(), "classes": _class_figures(split),
        }
        for name, split in report.splits.items()
    }  # fmt: skip
    findings = [asdict(finding) for finding in report.findings]
    return {"data": report.root, "usable": not report.faults(), "splits": splits, "findings": findings}
