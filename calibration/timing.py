"""Times of a few variants of one network on the engine at hand, taking turns: the network alone, picture by picture."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from pspnet.doctor import machine
from runtime.benchmark import median_interval
from runtime.runner import Runner, open_runner

ROUNDS = 7
WARM_UP = 2  # pictures; the first runs allocate
NOT_MEASURED = "not measured"
SIMULATION = "ort"
"""The engine that rounds to INT8 and computes in float32, so that its times say nothing about INT8."""


@dataclass(frozen=True)
class Times:
    """Of each variant its milliseconds and its ratio to the first variant, medians of rounds with 95 % intervals."""

    engine: str
    ms: dict[str, dict[str, float]]
    ratio_to_first: dict[str, dict[str, float]]
    frames_per_round: int

    def facts(self) -> dict[str, Any]:
        """What a figure of these times must state."""
        return {
            "engine": self.engine, "rounds": ROUNDS, "frames_per_round": self.frames_per_round, "machine": machine(),
        }  # fmt: skip


def interleaved(
    variants: Mapping[str, str | Path | onnx.ModelProto], inputs: Sequence[np.ndarray], engine: str = "auto",
    threads: int | None = None, seconds: float = 4.0, quiet: bool = False,
) -> Times:  # fmt: skip
    """The times of `variants` on `inputs` (1, H, W, 3) uint8 RGB, in ROUNDS rounds that last about `seconds` together.

    Machines drift, so the variants take turns, and a ratio is formed within each round.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runners = {}
        for number, (name, model) in enumerate(variants.items()):
            path = folder / f"{number}.onnx"
            if isinstance(model, onnx.ModelProto):
                onnx.save(model, path)
            runners[name] = stack.enter_context(
                open_runner(path if isinstance(model, onnx.ModelProto) else model, engine, threads)
            )
        return taking_turns(runners, inputs, seconds, quiet)


def taking_turns(
    runners: Mapping[str, Runner], inputs: Sequence[np.ndarray], seconds: float = 4.0, quiet: bool = False
) -> Times:
    """`interleaved` for networks that are open already; inputs (N, H, W, 3), each of which is one run."""
    once_ms = sum(_mean_ms(runner, inputs, WARM_UP) for runner in runners.values())
    frames = max(int(1e3 * seconds / (ROUNDS * once_ms)), 1)
    rounds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in tqdm(range(ROUNDS), desc="time", unit="round", leave=False, disable=quiet):
        for name, runner in runners.items():
            rounds[name].append(_mean_ms(runner, inputs, frames))
    first = rounds[next(iter(rounds))]
    return Times(
        next(iter(runners.values())).engine,
        {name: median_interval(values) for name, values in rounds.items()},
        {name: median_interval(np.divide(values, first).tolist()) for name, values in rounds.items()},
        frames,
    )


def _mean_ms(runner: Runner, inputs: Sequence[np.ndarray], frames: int) -> float:
    start = time.perf_counter_ns()
    for index in range(frames):
        runner.infer(inputs[index % len(inputs)])
    return (time.perf_counter_ns() - start) / frames / 1e6
