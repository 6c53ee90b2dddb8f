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
import math
import re
from dataclasses import dataclass
from typing import Any

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
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
    """

    rule: str
    rest: Dataset
    part: Dataset
    drives: dict[str, tuple[int, int, int]]

    def facts(self) -> dict[str, Any]:
        """What a spec and a protocol say of it."""
        return {"rule": self.rule, "drives": {name: list(counts) for name, counts in self.drives.items()}}

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
    named = rule.split(",")
    parts: dict[str, tuple[list[int], list[int], list[int]]]
    if set(named) <= set(drives):  # first, because drives like 0016E5 are numbers, too
        rule = ",".join(sorted(set(named)))
        parts = {name: (([], [], frames) if name in named else (frames, [], [])) for name, frames in drives.items()}
    else:
        share, gap = _share_and_gap(rule, list(drives))
        rule = f"{share:g}:{gap}"
        parts = {name: _divided(frames, share, gap) for name, frames in drives.items()}
    trained, held = (sorted(index for part in parts.values() for index in part[number]) for number in (0, 2))
    if not trained or not held:
        nothing = "hold out" if not held else "train on"
        raise PspnetError(
            f"--hold-out {rule} leaves nothing to {nothing}: {dataset.root} ({dataset.split}) has "
            f"{', '.join(f'{len(frames)} of drive {name}' for name, frames in drives.items())}. Choose another rule"
        )
    sizes = {name: (len(part[0]), len(part[1]), len(part[2])) for name, part in parts.items()}
    rest = _only(dataset, trained, f"{dataset.split}, but for {rule}")
    return HeldOut(rule, rest, _only(dataset, held, f"{dataset.split}, held out {rule}"), sizes)


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
    held_out = getattr(spec, "recipe", {}).get("hold_out", {})
    return str(held_out.get("rule", "")) if isinstance(held_out, dict) else ""


def _divided(frames: list[int], share: float, gap: int) -> tuple[list[int], list[int], list[int]]:
    held = math.floor(share * len(frames) + 0.5)
    first = len(frames) - held
    last = max(first - gap, 0) if held else first
    return frames[:last], frames[last:first], frames[first:]


def _share_and_gap(rule: str, drives: list[str]) -> tuple[float, int]:
    share_text, colon, gap_text = rule.partition(":")
    try:
        share, gap = float(share_text), int(gap_text) if colon else GAP
    except ValueError:
        known = ", ".join(sorted(name for name in drives if name)) or "none by their names"
        raise PspnetError(
            f"--hold-out is {rule[:60]!r}, neither a share nor drives of this data (they are {known}): give {EXAMPLE}"
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
