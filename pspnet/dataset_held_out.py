"""A part of the training split, held out by time or by drive: what recipes are chosen on.

Neighbouring frames of a drive are nearly the same picture, so a random part would flatter: it would score pictures that
the network has all but learned. A drive is what a picture's name says before its first "_" (0016E5_07950,
aachen_000001_000019); names without one are of one drive. A drive's frames follow the numbers in their names. A rule is

    SHARE[:GAP]     of each drive the last SHARE of the frames; the GAP frames before them (5) belong to neither part
    DRIVE[,DRIVE]   whole drives

and the same rule gives the same parts on every machine, whatever the order of the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.wording import counted

GAP = 5
"""Frames between the two parts: of CamVid's one per second, five seconds, 40 to 70 m at a city's speed."""

LARGEST_GAP = 100_000
OWN = "own"
"""In place of a rule: the one that an artefact was trained with."""

EXAMPLE = "--hold-out 0.2, or 0.2:5 with the frames between both parts"


@dataclass(frozen=True)
class HeldOut:
    """A training split in two. rest: to train on; part: to choose on.

    rule: as it is written. drives: name -> how many of its frames are trained on, left out, and held out.
    between: the pictures of neither part.
    """

    rule: str
    rest: Dataset
    part: Dataset
    drives: dict[str, tuple[int, int, int]]
    between: tuple[Path, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a spec and a protocol say of it. "names": drive -> hash over the names of its held-out frames."""
        stems: dict[str, list[str]] = {name: [] for name in self.drives}
        for path in self.part.images:
            stems[drive_of(path.stem)].append(path.stem)
        return {
            "rule": self.rule, "drives": {name: list(counts) for name, counts in self.drives.items()},
            "names": {name: _sha256_of_names(each) for name, each in stems.items() if each},
        }  # fmt: skip

    def text(self) -> str:
        """One line to print."""
        trained, between, held = (sum(counts) for counts in zip(*self.drives.values(), strict=True))
        by_drive = ", ".join(f"{name or 'all'} {counts[2]}" for name, counts in self.drives.items())
        return (
            f"held out ({self.rule}): {held} of {counted(trained + between + held, 'training image')} ({by_drive}); "
            f"{trained} to train on, {between} between both in neither part"
        )


def hold_out(dataset: Dataset, rule: str) -> HeldOut:
    """`dataset`, a training split, divided by `rule`; PspnetError where that is none, or leaves a part empty."""
    drives: dict[str, list[int]] = {}
    for index in sorted(range(len(dataset)), key=lambda index: _place(dataset.images[index].stem)):
        drives.setdefault(drive_of(dataset.images[index].stem), []).append(index)
    named = [name.strip() for name in rule.split(",")]
    parts: dict[str, tuple[list[int], list[int], list[int]]]
    if set(named) <= set(drives):  # first, because drives like 0016E5 are numbers, too
        rule = ",".join(sorted(set(named)))
        parts = {name: (([], [], frames) if name in named else (frames, [], [])) for name, frames in drives.items()}
    else:
        share, gap = _share_and_gap(rule, list(drives))
        rule = f"{share:g}:{gap}"
        parts = {name: _divided(frames, share, gap) for name, frames in drives.items()}
    trained, left, held = (sorted(index for part in parts.values() for index in part[number]) for number in range(3))
    if not trained or not held:
        nothing = "hold out" if not held else "train on"
        raise PspnetError(
            f"--hold-out {rule} leaves nothing to {nothing}: {dataset.root} ({dataset.split}) has "
            f"{', '.join(f'{len(frames)} of drive {name}' for name, frames in drives.items())}. Choose another rule"
        )
    sizes = {name: (len(part[0]), len(part[1]), len(part[2])) for name, part in parts.items()}
    rest = _only(dataset, trained, f"{dataset.split}, but for {rule}")
    part = _only(dataset, held, f"{dataset.split}, held out {rule}")
    return HeldOut(rule, rest, part, sizes, tuple(dataset.images[index] for index in left))


def drive_of(stem: str) -> str:
    """The drive of a picture by its name without the suffix; "" where the name tells none."""
    before, line, _ = stem.partition("_")
    return before if line else ""


def rule_of(spec: Any, artefact: str) -> str:
    """The rule that an artefact was trained with, by its spec; PspnetError where it has none."""
    if rule := own_rule(spec):
        return rule
    raise PspnetError(f"{artefact} was trained without --hold-out, so it has no rule of its own: give {EXAMPLE}")


def own_rule(spec: Any) -> str:
    """The rule in a spec's recipe, or "" where it was trained on the whole split; a guest's is not known."""
    return str(_own_facts(spec).get("rule", ""))


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which drive's held-out frames are others in `now` than in `before`, in words; "" where none are.

    Both are `HeldOut.facts()`; those of earlier versions lack "names" and go by the counts. Drives of which nothing is
    held out do not matter: a rule of whole drives says the same beside any others.
    """
    old, new = (facts.get("drives", {}) for facts in (before, now))
    for name in sorted({*old, *new}):
        counts = [tuple(drives.get(name, (0, 0, 0))) for drives in (old, new)]
        if not counts[0][2] and not counts[1][2]:
            continue
        drive = f"drive {name}" if name else "the one drive"
        if counts[0] != counts[1]:
            then, today = (f"{c[0]} to train on, {c[1]} between and {c[2]} held out" for c in counts)
            return f"of {drive} it had {then}, and here are {today}"
        if "names" in before and "names" in now and before["names"].get(name) != now["names"].get(name):
            return f"of {drive} it had as many frames, but others"
    return ""


def texts_of(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, str]:
    """Two `HeldOut.facts()` as short texts, which are equal where both hold out the same."""
    rules = [str(facts.get("rule") or "nothing") for facts in (before, now)]
    if rules[0] == rules[1] and (why := difference(before, now)):
        return rules[0], f"{rules[1]} of other pictures: {why}"
    return rules[0], rules[1]


def other_part(spec: Any, division: HeldOut) -> str:
    """Why the part of `division` is not the one that an artefact was trained without, in words; "" where it is."""
    if not (rule := own_rule(spec)):
        return "it was trained without --hold-out"
    if rule != division.rule:
        return f"it was trained with --hold-out {rule}"
    return difference(_own_facts(spec), division.facts())


def check_own_part(spec: Any, artefact: str, division: HeldOut) -> None:
    """PspnetError where the artefact's own rule holds out other pictures of this data than of its own."""
    if why := other_part(spec, division):
        raise PspnetError(
            f"{artefact} was trained on other pictures: {why}. So --hold-out {division.rule} may score pictures that "
            "it learned from: give the data that it was trained on with --data"
        )


def check_unseen(spec: Any, artefact: str, division: HeldOut, use: str) -> None:
    """PspnetError where an artefact was trained on what is held out of this data set now. use: what to do instead."""
    data, rule = division.part.name, division.rule
    if not str(getattr(spec, "dataset", "")).startswith(f"{data} ") or not (why := other_part(spec, division)):
        return
    before = own_rule(spec)
    seen = f"with --hold-out {before}" if before else "on the whole training split"
    more = f" ({why})" if before == rule else ""
    raise PspnetError(
        f"{artefact} was trained {seen} of {data}{more}, so it knows pictures that --hold-out {rule} holds out: "
        f"{use} weights that were trained with --hold-out {rule} on this data, too"
    )


def not_held_out(pictures: Iterable[Path], division: HeldOut) -> list[Path]:
    """`pictures` without those that no training may see: of the held-out part, or between both parts.

    They are told by their contents, by their names, and, of drives that the names tell, by lying behind the last frame
    that is trained on, since a frame between two held-out ones shows the same street.
    """
    hidden = (*division.part.images, *division.between)
    names, sizes = {path.stem for path in hidden}, {path.stat().st_size for path in hidden}
    contents = {sha256_of(path) for path in hidden}
    drives = {drive_of(stem) for stem in names} - {""}
    last: dict[str, Any] = {}
    for path in division.rest.images:
        drive, place = drive_of(path.stem), _place(path.stem)
        last[drive] = max(last.get(drive, place), place)

    def behind(stem: str) -> bool:
        drive = drive_of(stem)
        return drive in drives and (drive not in last or _place(stem) > last[drive])

    def seen(path: Path) -> bool:
        same = path.stat().st_size in sizes and sha256_of(path) in contents
        return same or path.stem in names or behind(path.stem)

    return [path for path in pictures if not seen(path)]


def _own_facts(spec: Any) -> dict[str, Any]:
    held_out = getattr(spec, "recipe", {}).get("hold_out", {})
    return held_out if isinstance(held_out, dict) else {}


def _sha256_of_names(stems: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(stems)).encode()).hexdigest()[:16]


def _divided(frames: list[int], share: float, gap: int) -> tuple[list[int], list[int], list[int]]:
    held = math.floor(share * len(frames) + 0.5)
    first = len(frames) - held
    last = max(first - gap, 0) if held else first
    return frames[:last], frames[last:first], frames[first:]


def _share_and_gap(rule: str, drives: list[str]) -> tuple[float, int]:
    share_text, colon, gap_text = rule.partition(":")
    try:
        share, gap = float(f"{float(share_text):g}"), int(gap_text) if colon else GAP  # as the rule will be written
    except ValueError:
        known = ", ".join(sorted(name for name in drives if name)) or "none by their names"
        unknown = [name.strip() for name in rule.split(",") if name.strip() not in drives]
        which = f", of which {unknown[0][:60]!r} is no drive here" if 0 < len(unknown) <= rule.count(",") else ""
        raise PspnetError(
            f"--hold-out is {rule[:60]!r}, neither a share nor drives of this data (they are {known}){which}: "
            f"give {EXAMPLE}"
        ) from None
    if not 0 < share < 1 or not 0 <= gap <= LARGEST_GAP:  # false for NaN, too
        raise PspnetError(
            f"--hold-out is {rule[:60]}: the share must be above 0 and below 1, the gap 0 to {LARGEST_GAP}. "
            f"Give {EXAMPLE}"
        )
    return share, gap


def _place(stem: str) -> tuple[str, list[tuple[int, str]], str]:
    """Sorts the frames of a drive by the numbers in their names: f00930 before f01020, and 9 before 10."""
    words = re.findall(r"\d+|\D+", stem.partition("_")[2] or stem)
    return drive_of(stem), [(int(word), "") if word.isdecimal() else (-1, word) for word in words], stem


def _only(dataset: Dataset, indices: list[int], split: str) -> Dataset:
    images, labels = (tuple(paths[index] for index in indices) for paths in (dataset.images, dataset.labels))
    return dataclasses.replace(dataset, images=images, labels=labels, split=split)
