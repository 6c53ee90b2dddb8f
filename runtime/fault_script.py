"""The language in which a test:// camera is told what to suffer, and the place that it keeps in such a script.

A script is a list of steps with ; between them, for example  ok 2s; stall 3s; crash; refuse 5 auth; corrupt 3.
TIME is a number with ms, s, m or h, and 1s where it is left out; N is a whole number, 1 where it is left out.

    ok TIME                pictures as they should be
    stall TIME             the connection stays, nothing comes
    freeze TIME            the same picture again and again, at the usual rate
    still TIME             nothing moves, but the sensor's noise does: a parked car
    slow TIME TIME         each picture comes the first TIME late
    storm Nx TIME          N times as many pictures as asked
    drop N% TIME           N of 100 pictures are lost, by chance (repeatable by seed)
    dark, black, white, cover TIME        night, no light, over-exposed, something on the lens
    corrupt N              N pictures arrive damaged
    resize HxW             pictures have this size from here on
    stamps KIND TIME       the sensor's time goes backward, is zero, lies in the future, or is none
    cut                    the connection breaks
    refuse N|TIME CAUSE    N opens, or all opens for TIME, fail: refused, auth, not_found, codec, no_device, permission,
                           or timeout, where the camera accepts and never answers. An open connection breaks first
    end                    the camera says that it is at its end
    crash                  the process dies
    hang                   a read never returns, whatever its deadline
    deaf                   as hang, and SIGTERM is ignored
    leak NkB TIME          each picture loses so much memory

A step begins when the camera first comes to it, in a read or an open, so that a slow machine misses none; after the
last one all is well, or with loop=1 it begins again. The place in the script outlives a crashed process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pspnet.errors import PspnetError

TIMED = ("ok", "stall", "freeze", "still", "dark", "black", "white", "cover")
INSTANT = ("cut", "end", "crash", "hang", "deaf")
STAMPS = ("backward", "zero", "future", "none")
REFUSALS = ("refused", "auth", "not_found", "codec", "no_device", "permission", "timeout")
UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
SLOTS = 5
_TIME = r"(\d+(?:\.\d+)?)(ms|s|m|h)"


@dataclass(frozen=True)
class Step:
    """One step. seconds: how long it lasts, or count: how often it happens; amount and word: its own setting."""

    action: str
    seconds: float | None = None
    count: int | None = None
    amount: float = 0.0
    word: str = ""
    size: tuple[int, int] | None = None


def parse(text: str) -> tuple[Step, ...]:
    """The steps of a script; PspnetError with the step that is not understood."""
    return tuple(_step(part.strip()) for part in text.split(";") if part.strip())


def new_memory() -> Any:
    """Where a script's place is kept, in memory that a child process shares when it is given as Process's argument."""
    from multiprocessing.sharedctypes import RawArray

    return RawArray("q", SLOTS)


class Script:
    """A script and the place in it: step, when it began, how often it happened, pictures so far, steps so far.

    memory: of `new_memory`; times are nanoseconds of one clock that all processes share.
    """

    def __init__(self, steps: Sequence[Step], memory: Any, loop: bool = False) -> None:
        self.steps, self.loop, self._memory = steps, loop, memory

    @property
    def sequence(self) -> int:
        """Pictures since the script began, in all processes."""
        return int(self._memory[3])

    def count_pictures(self, pictures: int) -> None:
        """`pictures` more, given or lost."""
        self._memory[3] += pictures

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the last resize that was reached."""
        reached = range(min(int(self._memory[4]), len(self.steps)) - 1, -1, -1)
        past = [self.steps[(int(self._memory[0]) - 1 - back) % len(self.steps)] for back in range(len(reached))]
        return next((step.size for step in past if step.action == "resize"), None)

    def current(self, now_ns: int) -> Step:
        """The step in force; a step that ran out is left behind."""
        memory = self._memory
        for _ in range(len(self.steps) + 1):
            if memory[0] >= len(self.steps):
                if not (self.loop and self.steps):
                    break
                memory[0] = 0
            step = self.steps[memory[0]]
            if memory[1] == 0:
                memory[1], memory[2] = now_ns, 0
            timed_out = step.seconds is not None and now_ns - memory[1] >= step.seconds * 1e9
            if not timed_out and (step.count is None or memory[2] < step.count):
                return step
            self.leave()
        return Step("ok")

    def remaining_s(self, now_ns: int) -> float:
        """Seconds until the current step ends."""
        step = self.current(now_ns)
        return step.seconds - (now_ns - self._memory[1]) / 1e9 if step.seconds is not None else float("inf")

    def happened(self) -> None:
        """The current step took place once more."""
        self._memory[2] += 1

    def leave(self) -> None:
        """Go on to the next step."""
        self._memory[4] += 1
        self._memory[0], self._memory[1], self._memory[2] = self._memory[0] + 1, 0, 0


def random_script(seed: int, seconds: float, deadly: bool = True) -> str:
    """A script of faults by chance, about `seconds` long, repeatable. deadly: with crash and hang among them."""
    generator = np.random.default_rng(seed)
    harmless = (
        "stall 1s", "stall 3s", "freeze 3s", "corrupt 3", "cut", "refuse 2", "refuse 1s timeout", "storm 10x 2s",
        "slow 200ms 2s", "drop 30% 2s", "dark 2s", "black 2s", "white 2s", "stamps backward 1s", "resize 240x320",
        "resize 360x480", "end",
    )  # fmt: skip
    faults = (*harmless, "crash", "hang") if deadly else harmless
    steps: list[str] = []
    length = 0.0
    while length < seconds:
        well, fault = float(generator.uniform(1, 5)), str(generator.choice(faults))
        steps += [f"ok {well:.1f}s", fault]
        length += well + (_step(fault).seconds or 1.0)
    return "; ".join(steps)


def _step(text: str) -> Step:
    action, *words = text.split()
    try:
        step = _known(action, words)
    except (ValueError, IndexError):
        step = None
    if step is None:
        raise PspnetError(
            f"step {text!r} of the test camera's script is not understood: write steps such as ok 2s; stall 500ms; "
            "storm 10x 3s; refuse 5 auth; resize 240x320; crash (all are in docs/cameras.md)"
        )
    return step


def _known(action: str, words: list[str]) -> Step | None:
    """The step; None, ValueError or IndexError where its words are not its own."""
    if action in TIMED:
        return Step(action, _only_time(words))
    if action in INSTANT and not words:
        return Step(action, count=1)
    if action == "corrupt":
        return Step(action, count=_count(words[0]) if words else 1) if len(words) < 2 else None
    if action == "resize" and len(words) == 1:
        height, width = (_count(side) for side in words[0].split("x"))
        return Step(action, count=1, size=(height, width))
    if action == "stamps" and words[0] in STAMPS:
        return Step(action, _only_time(words[1:]), word=words[0])
    if action == "slow":
        return Step(action, _only_time(words[1:]), amount=_seconds(words[0]))
    measured = {"storm": r"(\d+)x", "drop": r"(\d{1,2}|100)%", "leak": r"(\d+)kB"}
    if action in measured and (found := re.fullmatch(measured[action], words[0])):
        return Step(action, _only_time(words[1:]), amount=float(_count(found[1])))
    if action == "refuse":
        cause = words.pop() if words and words[-1] in REFUSALS else "refused"
        if words and words[0].isdecimal():
            return Step(action, count=_count(words[0]), word=cause) if len(words) == 1 else None
        return Step(action, _only_time(words), word=cause) if words else Step(action, count=1, word=cause)
    return None


def _only_time(words: list[str]) -> float:
    if len(words) > 1:
        raise ValueError(words)
    return _seconds(words[0]) if words else 1.0


def _seconds(word: str) -> float:
    found = re.fullmatch(_TIME, word)
    if not found:
        raise ValueError(word)
    return float(found[1]) * UNITS_S[found[2]]


def _count(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 10_000:
        raise ValueError(word)
    return int(word)
