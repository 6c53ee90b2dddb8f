"""Speed and mIoU of several artefacts in one run: the same frames, code path and threads, in interleaved rounds.

Machines drift, so candidates take turns round by round, and a ratio is formed within each round. A figure is the median
over rounds; its interval is the 95 % bootstrap interval of that median.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.evaluate import check_classes, evaluate
from pspnet.image import write_image
from pspnet.metadata import artefact_sha256, stored_bytes
from runtime.device_network import DeviceNetwork
from runtime.overlay import blend
from runtime.pipeline import percentiles
from runtime.runner import Runner, open_runner, runs_on
from runtime.segmenters import AnySegmenter, segmenting
from runtime.sink import NullSink
from runtime.source import open_source

STAGES = ("capture", "pre", "infer", "labels", "sink")
FEWEST_ROUNDS = 3  # below this an interval over rounds says nothing
WARM_UP = 3  # frames; compiles the label kernel and fills the caches
RESAMPLES = 2000
PICTURE_WIDTH = 640


@dataclass
class Candidate:
    """One artefact on one engine, with its times: stages in ms of every frame, and frames per second of every round.

    service_ms: of every frame, from the picture to its labels, copies to and from a GPU and the waits with them.
    """

    path: Path
    runner: Runner | DeviceNetwork
    segmenter: AnySegmenter
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    service_ms: list[float] = field(default_factory=list)
    rounds_fps: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """File, engine and precision, as figures must state them."""
        return f"{self.path.name} ({self.runner.engine}, {self.runner.precision})"


def benchmark(candidates: Sequence[Candidate], source: str, rounds: int, frames: int, threads: int) -> dict[str, Any]:
    """Run every candidate on the first `frames` frames of `source` in each of `rounds` rounds; returns the figures.

    threads: of the resize; the runners were opened with the same number.
    """
    if rounds < FEWEST_ROUNDS or frames < 1:
        raise PspnetError(
            f"{rounds} rounds of {frames} frames: give --rounds {FEWEST_ROUNDS} or more and --frames 1 or more"
        )
    cv2.setNumThreads(threads)
    for candidate in candidates:
        _round(candidate, source, min(frames, WARM_UP))
        candidate.stages_ms, candidate.service_ms, candidate.rounds_fps = {stage: [] for stage in STAGES}, [], []
    turns = list(itertools.product(range(rounds), candidates))
    for _, candidate in tqdm(turns, desc="benchmark", unit="round", leave=False):
        _round(candidate, source, frames)
    return {
        "rounds": rounds, "frames_per_round": len(candidates[0].stages_ms["infer"]) // rounds, "threads": threads,
        "source": Path(source).name, "candidates": [_figures(candidate, candidates[0]) for candidate in candidates],
    }  # fmt: skip


def add_scores(result: dict[str, Any], candidates: Sequence[Candidate], dataset: Dataset) -> None:
    """Add to each candidate of `result` its scores on `dataset`, through the segmenter that was timed."""
    for candidate in candidates:
        check_classes(candidate.runner.spec, dataset)
    for entry, candidate in zip(result["candidates"], candidates, strict=True):
        segmenter = candidate.segmenter
        entry["scores"] = evaluate(segmenter.labels, candidate.runner.spec, dataset, segmenter.fit)


def pictures_folder(output: Path) -> Path:
    """Where the overlays of a bench file go."""
    return output.with_name(f"{output.stem}.pictures")


def add_pictures(
    result: dict[str, Any], candidates: Sequence[Candidate], source: str, count: int, output: Path
) -> None:
    """Write overlays of `count` frames spread over `source` to the pictures' folder and name them in `result`."""
    folder = pictures_folder(output)
    with open_source(source) as opened:
        length = opened.length or count
        wanted = set(np.linspace(0, length - 1, count + 2).astype(int)[1:-1].tolist())
        chosen = [(frame.sequence, frame.bgr().copy()) for frame in opened if frame.sequence in wanted]
    for place, (entry, candidate) in enumerate(zip(result["candidates"], candidates, strict=True), 1):
        entry["pictures"] = []
        for number, picture in chosen:
            overlay = blend(picture, candidate.segmenter.labels(picture), candidate.runner.spec.palette, 0.5)
            scale = min(PICTURE_WIDTH / picture.shape[1], 1.0)
            file = folder / f"{place}-{candidate.path.name}-{candidate.runner.engine}-{number:06d}.jpg"
            write_image(file, cv2.resize(overlay, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            entry["pictures"].append(f"{folder.name}/{file.name}")


def _round(candidate: Candidate, source: str, frames: int) -> None:
    with open_source(source) as opened, NullSink() as sink:
        iterator, count, start = iter(opened), 0, time.perf_counter()
        for _ in range(frames):
            before = time.perf_counter_ns()
            if (frame := next(iterator, None)) is None:
                break
            captured = time.perf_counter_ns()
            [result] = candidate.segmenter.segment([frame])
            segmented = time.perf_counter_ns()
            sink(result)
            candidate.service_ms.append((segmented - captured) / 1e6)
            times = {"capture": captured - before, "sink": time.perf_counter_ns() - segmented}
            for stage in STAGES:
                candidate.stages_ms[stage].append(times[stage] / 1e6 if stage in times else result.times_ms[stage])
            count += 1
        candidate.rounds_fps.append(count / (time.perf_counter() - start))


def _figures(candidate: Candidate, first: Candidate) -> dict[str, Any]:
    stages = candidate.stages_ms
    ratios = np.divide(candidate.rounds_fps, first.rounds_fps)
    spec = candidate.runner.spec
    return {
        "name": candidate.name, "artefact": candidate.path.name, "engine": candidate.runner.engine,
        "precision": candidate.runner.precision, "provenance": candidate.runner.provenance or None,
        "without_kernels": candidate.segmenter.without_kernels,
        "file_bytes": stored_bytes(candidate.path),
        "sha256": artefact_sha256(candidate.path), "network_size": list(spec.input_size),
        "fit": candidate.segmenter.fit, "palette": dict(zip(spec.class_names, map(list, spec.palette), strict=True)),
        "service_ms": percentiles(candidate.service_ms),
        "stages_ms": {stage: percentiles(values) for stage, values in stages.items()},
        "throughput_fps": median_interval(candidate.rounds_fps),
        "ratio_to_first": median_interval(ratios.tolist()),
        "scores": None, "pictures": [],
    }  # fmt: skip


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """Median and the 95 % bootstrap interval of the median, with a fixed seed."""
    array = np.asarray(values, np.float64)
    resampled = np.random.default_rng(0).choice(array, (RESAMPLES, len(array)))
    low, high = np.percentile(np.median(resampled, 1), [2.5, 97.5])
    return {"median": float(np.median(array)), "low": float(low), "high": float(high)}


def open_candidates(
    stack: ExitStack, artefacts: Sequence[str | Path], engines: str, threads: int | None, fit: str | None
) -> tuple[list[Candidate], int]:
    """A candidate for each artefact on each of the engines that can run it, closed with `stack`; and the thread count.

    engines: names with commas, or "auto" for the default of each artefact. An artefact without a suitable engine and
    an engine without a suitable artefact are left to `open_runner`, which refuses them by name.
    """
    threads = os.cpu_count() or 1 if threads is None else threads
    names = engines.split(",")
    paths = [Path(artefact) for artefact in artefacts]
    pairs = [(path, name) for path in paths for name in names if runs_on(path, name)]
    pairs += [(path, names[0]) for path in paths if path not in {path for path, _ in pairs}]
    pairs += [(paths[0], name) for name in names if name not in {name for _, name in pairs}]
    candidates = []
    for path, name in sorted(pairs, key=lambda pair: paths.index(pair[0])):
        runner = stack.enter_context(open_runner(path, name, threads))
        segmenter = stack.enter_context(segmenting(runner, fit))
        candidates.append(Candidate(path, segmenter.runner, segmenter))
    return candidates, threads
