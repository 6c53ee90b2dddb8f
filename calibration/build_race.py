"""Times of the engines that were built, taking turns, and INT8 held against fp16."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from calibration.build_candidates import Candidate
from calibration.check import WORSE
from calibration.score import AGREEMENT, MIOU
from calibration.timing import ROUNDS, taking_turns
from pspnet.errors import PspnetError
from runtime.tensorrt_runner import TensorRTRunner


def time_engines(
    candidates: Sequence[Candidate], pictures: Sequence[np.ndarray], batch: int, device: int, in_turns: bool
) -> None:
    """Fill `latency` of each candidate: a run of `batch` pictures (1, H, W, 3), with its copies, in milliseconds.

    in_turns: all are open at once and take turns, so that a drift of the machine meets all; otherwise, where memory is
    short, one after the other.
    """
    inputs = [np.concatenate([pictures[(first + index) % len(pictures)] for index in range(batch)])
              for first in range(len(pictures))]  # fmt: skip
    if in_turns and len(candidates) > 1:
        try:
            _time(candidates, inputs, batch, device)
            return
        except PspnetError:  # all at once do not fit into memory
            pass
    for candidate in candidates:
        try:
            _time([candidate], inputs, batch, device)
        except PspnetError as error:
            candidate.left_out = str(error)


def compared_with_fp16(candidates: Sequence[Candidate], chosen: Candidate) -> dict[str, Any] | None:
    """The INT8 engine `chosen` against the fastest fp16 one: how much faster, how much worse; None without one.

    "warnings": one for slower, and one for more points lost than `check.WORSE`.
    """
    halves = [each for each in candidates if each.precision == "fp16" and each.latency]
    if chosen.precision != "int8" or not halves:
        return None
    half = min(halves, key=lambda each: each.median_ms)
    facts: dict[str, Any] = {
        "name": half.name, "fp16_ms": half.median_ms, "int8_ms": chosen.median_ms,
        "faster": half.median_ms / chosen.median_ms, "warnings": [],
    }  # fmt: skip
    if chosen.median_ms > half.median_ms:
        facts["warnings"].append(
            f"INT8 is slower than fp16 here: {chosen.median_ms:.2f} ms against {half.median_ms:.2f} ms. Build "
            f"{half.source.path.name} with --precision fp16"
        )
    if chosen.accuracy and half.accuracy:
        figure = chosen.accuracy["figure"]
        facts |= {"figure": figure, "int8": chosen.accuracy["value"], "fp16": half.accuracy["value"]}
        facts["worse"] = worse = half.accuracy["value"] - chosen.accuracy["value"]
        if worse > WORSE[MIOU if figure == MIOU else AGREEMENT]:
            facts["warnings"].append(
                f"INT8 is worse than fp16: {figure} {chosen.accuracy['value']:.2f} % against "
                f"{half.accuracy['value']:.2f} %, {chosen.accuracy['images']} images of {chosen.accuracy['source']}"
            )
    return facts


def _time(group: Sequence[Candidate], inputs: Sequence[np.ndarray], batch: int, device: int) -> None:
    with ExitStack() as stack:
        runners = {}
        for each in group:
            assert each.plan
            runners[each.name] = stack.enter_context(TensorRTRunner(each.plan, device))
        times = taking_turns(runners, inputs)
    for each in group:
        found = times.ms[each.name]
        each.latency = {
            "median_ms": found["median"], "low_ms": found["low"], "high_ms": found["high"], "batch": batch,
            "rounds": ROUNDS, "frames": ROUNDS * times.frames_per_round * batch, "took_turns_with": len(group) - 1,
        }  # fmt: skip
