"""The loop from source to sinks, and its times."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.errors import PspnetError
from runtime.frame import Frame
from runtime.runner import Segmenter
from runtime.sink import Sink
from runtime.source import Source


def segment_stream(
    source: Source, segmenter: Segmenter, sinks: Sequence[Sink], progress: bool = True, limit: int | None = None
) -> dict[str, Any]:
    """Give every frame of `source` to every sink, in order; returns frames, seconds, throughput_fps and times.

    service_ms: a frame in, its labels out, without capture and sinks. stages_ms: capture (with the wait for a live or
    paced source), pre, infer, labels, sink. Both as p50, p90 and p99; a frame before the first warms up uncounted.
    limit: stop after so many frames; a live source needs it. Outputs appear when the last frame is through.
    """
    if limit is not None and limit < 1:
        raise PspnetError(f"limit is {limit}: give --limit 1 or more")
    if source.live and limit is None:
        raise PspnetError(f"{source.name} is a camera and never ends: say how many frames to take with --limit N")
    total = source.length if limit is None else min(limit, source.length or limit)
    stages: dict[str, list[float]] = {}
    service: list[float] = []
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        if source.size:
            segmenter.segment([Frame(np.zeros((*source.size, 3), np.uint8), "bgr", source.name, 0, 0, 0)])
        bar = stack.enter_context(tqdm(total=total, desc="run", unit="frame", leave=False, disable=not progress))
        frames, start = iter(source), time.perf_counter()
        while limit is None or len(service) < limit:
            asked = time.perf_counter_ns()
            if (frame := next(frames, None)) is None:
                break
            captured = time.perf_counter_ns()
            [result] = segmenter.segment([frame])
            segmented = time.perf_counter_ns()
            result.times_ms = {"capture": (captured - asked) / 1e6, **result.times_ms}
            for sink in sinks:
                sink(result)
            result.times_ms["sink"] = (time.perf_counter_ns() - segmented) / 1e6
            service.append((segmented - captured) / 1e6)
            for stage, value in result.times_ms.items():
                stages.setdefault(stage, []).append(value)
            bar.update()
        seconds = time.perf_counter() - start
    return {
        "frames": len(service),
        "seconds": seconds,
        "throughput_fps": len(service) / seconds,
        "service_ms": percentiles(service),
        "stages_ms": {stage: percentiles(values) for stage, values in stages.items()},
    }


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 of at least one value, linear between neighbours."""
    p50, p90, p99 = np.percentile(np.asarray(values_ms, np.float64), [50, 90, 99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}
