"""What is in a data set and what is wrong with it: every pair is read, every finding has its advice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pspnet.dataset import SPLITS, Dataset, open_unchecked, splits_of
from pspnet.errors import PspnetError
from pspnet.image import read_image
from pspnet.spec import IGNORE
from pspnet.wording import counted

OK, NOTE, FAULT = "ok", "note", "fault"
MOST_LISTED = 20  # broken files in the report
MUCH_VOID = 50.0  # per cent of a split's pixels without a class, from which on the ignore value is suspect
PUBLISHED = {
    "camvid11-segnet-360x480": {"train": 367, "val": 101, "test": 233},
    "camvid11-merged-720x960": {"train": 367, "val": 101, "test": 233},
    "cityscapes19-1024x2048": {"train": 2975, "val": 500, "test": 1525},
}
"""Pictures in each split of a protocol."""


@dataclass(frozen=True)
class Finding:
    """One line: mark is ok, note or fault (must be fixed); files are the lines below it."""

    mark: str
    text: str
    advice: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """What reading one pair gave: size (height, width), pixels of each class and void last, hash of the pixels.

    Of a picture without a label no pixel is counted.
    """

    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    digest: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Split:
    """A split and its pairs, or its pictures where it has no labels, as they were read, in its order."""

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
    there = splits_of(name, root) or SPLITS  # with no whole split, all of them tell what they lack
    for split in there:
        try:
            dataset = open_unchecked(name, root, split)
        except PspnetError as error:
            findings.append(Finding(FAULT, str(error)))
        else:
            splits[split] = Split(dataset, tuple(_read(dataset)))
    for split in ("train", "val"):
        if split not in there and "all" not in there:
            findings.append(Finding(NOTE, f"there is no split {split}", "pspnet train needs train and val"))
    for rule in (_pairs, _notes, _counts, _sizes, _void, _absent, _duplicates, _orphans):
        findings += rule(splits)
    return DataReport(str(root), splits, tuple(dict.fromkeys(findings)))  # what is wrong with the classes is said once


def _read(dataset: Dataset) -> Iterator[Pair]:
    # Threads, because decoding releases the interpreter's lock and only small results come back.
    with ThreadPool(min(os.cpu_count() or 1, 8)) as pool:
        pairs = pool.imap(lambda index: _pair(dataset, index), range(len(dataset)))
        yield from tqdm(pairs, desc=f"doctor {dataset.split}", unit="pair", total=len(dataset), leave=False)


def _pair(dataset: Dataset, index: int) -> Pair:
    for what, paths in (("picture", dataset.images), ("label", dataset.labels)):
        if paths and not paths[index].is_file():
            return Pair(problem=f"{what} {paths[index]} is missing")
    labels = np.empty(0, np.uint8)
    try:
        if dataset.labels:
            image, labels = dataset.read(index)
        else:
            image = read_image(dataset.images[index])
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
        yield Finding(FAULT, f"{len(problems)} of {counted(len(pairs), 'pair')} cannot be used", advice, files)
    elif labelled := sum(len(split.dataset.labels) for split in splits.values()):
        text = f"{counted(labelled, 'picture')}, each with a readable label of its size that holds known values"
        yield Finding(OK, text)


def _notes(splits: dict[str, Split]) -> Iterator[Finding]:
    for note in dict.fromkeys(split.dataset.note for split in splits.values()):
        if note:
            yield Finding(NOTE, note)


def _counts(splits: dict[str, Split]) -> Iterator[Finding]:
    for name, split in splits.items():
        published = PUBLISHED.get(split.dataset.protocol, {}).get(name, len(split.pairs))
        if len(split.pairs) != published:
            found = counted(len(split.pairs), "pair" if split.dataset.labels else "picture")
            text = f"{name} has {found}, {split.dataset.protocol} as published has {published}"
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
            advice = "Nothing can be learned or scored: check the labels and the ignore value"
            yield Finding(FAULT, f"no pixel of {name} has a class", advice)
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
            text = f"{counted(len(lines), 'picture')} {where} (equal pixels)"
            yield Finding(mark, text, advice, (*lines[:MOST_LISTED], *rest))
    if places and not between and len(splits) > 1:
        yield Finding(OK, "no picture is in two splits")


def _orphans(splits: dict[str, Split]) -> Iterator[Finding]:
    used = {path for split in splits.values() for path in split.dataset.labels}
    ends: set[tuple[Path, str]] = set()
    for split in splits.values():
        if split.dataset.labels and split.dataset.name != "list":  # a list leaves out what it wants to
            pairs = zip(split.dataset.images, split.dataset.labels, strict=True)
            ends |= {(label.parent, _end(image, label)) for image, label in pairs}
    labels = sorted(p for folder, end in ends if folder.is_dir() for p in folder.iterdir() if p.name.endswith(end))
    if orphans := [path for path in labels if path not in used and not path.name.startswith(".")]:
        text = f"{counted(len(orphans), 'label')} without a picture, such as {orphans[0]}"
        yield Finding(NOTE, text, "Not used: add what is missing, or remove what is left over")


def _end(image: Path, label: Path) -> str:
    """What a label's name has beyond its picture's: _L.png, _gtFine_labelIds.png or only .png."""
    same = sum(
        1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(image.stem, label.stem, strict=False))
    )
    return label.name[same:]
