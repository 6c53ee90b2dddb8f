"""What held-out pictures chose is scored on others: the best of many is flattered by the pictures that chose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calibration.score import Judge
from pspnet.wording import counted

NEEDED = 16  # held-out pictures; with fewer, a half of them is too few to choose by and too few to confirm


@dataclass(frozen=True)
class Judges:
    """chooser: scores what is chosen among. final: scores what is handed out, on pictures that chose nothing.

    choices: what is chosen, "method" or "mix". Both judges are one where nothing is, or where pictures are too few.
    """

    chooser: Judge
    final: Judge
    choices: tuple[str, ...] = ()

    @property
    def confirms(self) -> bool:
        """Whether something was chosen, and `final` has pictures of its own."""
        return self.final is not self.chooser

    def facts(self) -> dict[str, Any]:
        """ "choices", the number of pictures they are made by and of those "unseen"; "not_confirmed": why none is."""
        chosen_by = len(self.chooser.pictures) if self.choices else 0
        reason = f"{counted(chosen_by, 'picture')} held out, {NEEDED} are needed to keep half of them from the choice"
        return {
            "choices": list(self.choices), "chosen_by": chosen_by,
            "unseen": len(self.final.pictures) if self.confirms else 0,
            "unseen_float": self.final.baseline.value if self.confirms else None,
            "not_confirmed": reason if self.choices and not self.confirms else None,
        }  # fmt: skip


def judges_of(judge: Judge, choices: tuple[str, ...] = ()) -> Judges:
    """Every second of the judge's pictures to choose by, the others to confirm; all for both where they are too few."""
    count = len(judge.pictures)
    if not choices or count < NEEDED:
        return Judges(judge, judge, choices)
    return Judges(judge.part(range(0, count, 2)), judge.part(range(1, count, 2)), choices)


def text_of(facts: dict[str, Any]) -> str:
    """`Judges.facts` as a line to print; empty where nothing was chosen."""
    if not facts["choices"]:
        return ""
    choices = " and ".join(facts["choices"])
    if facts["not_confirmed"]:
        return f"{choices} not confirmed: {facts['not_confirmed']}. Give more with --held-out, or more data"
    return (
        f"{choices} chosen by {facts['chosen_by']} held-out images, scored on {facts['unseen']} others, unseen by then"
    )
