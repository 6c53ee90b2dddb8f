"""Times what the live loop adds to the engine, from a camera's mailbox to a sink that does nothing.

python benchmarks/live_overhead.py model.onnx                 an exported network on the CPU
python benchmarks/live_overhead.py --backbone resnet18        the same with random weights, output stride 8
python benchmarks/live_overhead.py --engine-ms 30             an engine that only takes this long, 19 classes at 1/8

One test:// camera in its own process, one outlet. Per frame, in ms: service, from the picture being taken to the sink
being called; engine, the runner's part of it; overhead, the rest, with conversion, resize, labels, health, record and
the outlet's hand-over. Figures are medians over rounds of the rounds' percentiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.spec import ModelSpec, size_from_text
from runtime.bench_report import stamped
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.frame import Frame, Segmentation
from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet, Sink
from runtime.pipeline import percentiles
from runtime.postprocess import Postprocess
from runtime.record import Record
from runtime.runner import ClosingRunner, Runner, open_runner
from runtime.segmenter import CpuSegmenter

CLASSES, STRIDE = 19, 8
WARM_UP = 10
MOST_SHARE, MOST_MS = 0.05, 5.0
"""The goal: overhead below this share of the service time, or below so many milliseconds where that is more."""


def main() -> int:
    """Print the table; write it to --json too."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artefact", nargs="?", help="checkpoint or ONNX file; without it --engine-ms")
    options.add_argument("--engine-ms", type=float, help="an engine that takes so long, in place of an artefact")
    options.add_argument("--backbone", help="a network with random weights, in place of an artefact")
    options.add_argument("--size", default="512x1024", help="HxW of the pictures, and of the network of --engine-ms")
    options.add_argument("--format", default="bgr", help="bgr, nv12, yuyv or uyvy")
    options.add_argument("--fps", type=float, default=30.0)
    options.add_argument("--confidence", action="store_true", help="with confidence and --min-confidence 0.5")
    options.add_argument("--engine", default="auto", help="openvino, ort or torch")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--frames", type=int, default=100, help="of a round")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--json", help="write the figures here")
    args = options.parse_args()
    if sum(choice is not None for choice in (args.artefact, args.engine_ms, args.backbone)) != 1:
        options.error("give an artefact, --backbone or --engine-ms")
    try:
        result = stamped(measured(args), "python benchmarks/live_overhead.py")
        if args.json:
            write_json(args.json, result)
    except PspnetError as error:
        print(f"benchmarks/live_overhead.py: {error}", file=sys.stderr)
        return 2
    show(result)
    return 0


class FixedRunner(ClosingRunner):
    """Takes a given time for a picture, asleep, and gives the same smooth logits for each."""

    engine, precision = "none", "none"

    def __init__(self, size: tuple[int, int], engine_ms: float) -> None:
        names = tuple(f"class {index}" for index in range(CLASSES))
        self.name, self._seconds = f"an engine of {engine_ms:g} ms", engine_ms / 1000
        self.spec = ModelSpec("resnet18", STRIDE, (1, 2, 3, 6), 8, 8, 8, names, ((0, 0, 0),) * CLASSES, size)
        noise = np.random.default_rng(0).standard_normal((CLASSES, *self.spec.map_size)).astype(np.float32)
        self._logits = 20 * np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in noise])[None]

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(1, C, h, w) float32."""
        time.sleep(self._seconds)
        return self._logits


class EndingSegmenter(CpuSegmenter):
    """Calls `done` inside of its last call, so that no call of a slow engine is under way when everything stops."""

    def __init__(self, runner: Runner, with_confidence: bool, calls: int, done: Callable[[], None]) -> None:
        super().__init__(runner, with_confidence=with_confidence)
        self._left, self._done = calls, done

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """As CpuSegmenter's."""
        made = super().segment(frames)
        self._left -= 1
        if self._left == 0:
            self._done()
        return made


class Stopwatch(Sink):
    """Notes the times of every valid record when it arrives."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __call__(self, record: Record) -> None:
        """One frame is through."""
        now_ns, times = time.monotonic_ns(), record.times_ms
        if not record.valid or record.captured_ns is None:
            return
        age_ms = (now_ns - record.captured_ns) / 1e6
        service_ms = age_ms - times["wait"]
        rest = {f"stage {stage}": value for stage, value in times.items() if stage not in ("wait", "infer")}
        rest["stage between"] = service_ms - sum(value for stage, value in times.items() if stage != "wait")
        self.rows.append(
            {"service": service_ms, "engine": times["infer"], "overhead": service_ms - times["infer"], "age": age_ms}
            | rest
        )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Percentiles of every quantity, and whether the goal is met."""
    size = size_from_text(args.size)
    runner, network = opened(args, size)
    with runner:
        rounds = [one_round(runner, size, args) for _ in range(args.rounds)]
        facts = {"network": network, "engine": runner.engine, "precision": runner.precision}
    figures = {
        quantity: {mark: median(each[quantity][mark] for each in rounds) for mark in ("p50", "p90", "p99")}
        for quantity in rounds[0]
    }
    overhead_ms, service_ms = figures["overhead"]["p50"], figures["service"]["p50"]
    return {
        "kind": "live overhead", **facts, "size": size, "format": args.format, "fps": args.fps,
        "confidence": args.confidence, "threads": args.threads, "rounds": args.rounds, "frames_per_round": args.frames,
        "times_ms": figures, "overhead_share": overhead_ms / service_ms,
        "goal_ms": max(MOST_SHARE * service_ms, MOST_MS), "met": overhead_ms < max(MOST_SHARE * service_ms, MOST_MS),
    }  # fmt: skip


def opened(args: argparse.Namespace, size: tuple[int, int]) -> tuple[Runner, str]:
    """What is to be timed, and its name."""
    if args.engine_ms is not None:
        runner: Runner = FixedRunner(size, args.engine_ms)
        return runner, runner.name
    if args.artefact is not None:
        return open_runner(args.artefact, args.engine, args.threads), Path(args.artefact).name
    from benchmarks.int8_speed import random_checkpoint
    from export.exporter import export

    wanted = argparse.Namespace(size=args.size, output_stride=STRIDE)
    with tempfile.TemporaryDirectory() as folder:
        artefact = Path(folder) / f"{args.backbone}.onnx"
        export(random_checkpoint(args.backbone, wanted, Path(folder)), artefact)
        return open_runner(str(artefact), args.engine, args.threads), f"{args.backbone}, random weights"


def one_round(runner: Runner, size: tuple[int, int], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Percentiles of one run of the live loop, the first frames left out."""
    uri = f"test://pattern?size={size[0]}x{size[1]}&fps={args.fps:g}&format={args.format}&code=0"
    stop = threading.Event()
    watch = Stopwatch()
    segmenter = EndingSegmenter(runner, args.confidence, WARM_UP + args.frames, stop.set)
    post = Postprocess(runner.spec, min_confidence=0.5 if args.confidence else None)
    camera = Camera(dataclasses.replace(CameraSettings("camera", uri), max_age_ms=10_000, frozen_after_s=0))
    run_live([camera], segmenter, [Outlet(watch, "stopwatch")], LiveSettings(), stop, post)
    rows = watch.rows[WARM_UP:]
    return {quantity: percentiles([row[quantity] for row in rows]) for quantity in rows[0]}


def show(result: dict[str, Any]) -> None:
    """Print one row per quantity."""
    height, width = result["size"]
    print(f"{result['network']} ({result['engine']}, {result['precision']}) on {height}x{width} {result['format']}")
    for quantity, marks in result["times_ms"].items():
        print(f"{quantity:>14}  p50 {marks['p50']:8.3f}   p90 {marks['p90']:8.3f}   p99 {marks['p99']:8.3f} ms")
    met = "met" if result["met"] else "not met"
    print(f"overhead is {100 * result['overhead_share']:.1f} % of service; goal {result['goal_ms']:.1f} ms: {met}")


if __name__ == "__main__":
    sys.exit(main())
