"""Soak: test cameras that fail by chance, and what the process that reads them loses over time.

The live loop, cameras, outlets and telemetry are those of `pspnet run`. The first camera never fails, and shows whether
the others' faults reach it. Growth is measured from the end of the warm-up, because libraries keep what they first
allocate: the difference between the medians of the second and the last eighth of the samples.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from pspnet.wording import duration
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.fault_script import random_script
from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet, Sink
from runtime.record import Record
from runtime.runner import ClosingRunner, Runner, open_runner
from runtime.segmenters import segmenting
from runtime.service import Progress
from runtime.telemetry import AGE, Telemetry

SIZE, FPS = (360, 480), 15
STAND_IN_S = 0.02
SAMPLE_S = 1.0
SHARE = 8  # of the samples, as a divisor: a part to skip while everything is warming up, and parts to compare
MOST_CAMERAS = 16
BOUNDS = {"rss_mib": 16.0, "descriptors": 8.0, "threads": 1.0, "shared_mib": 0.5, "processes": 1.0}
"""What may be gained from the second to the last eighth, of this process: memory but for the pictures that it shares
with cameras' processes (its allocator keeps some of what was freed), open files, threads, that shared memory, and child
processes, of which one may be under way at either end, with its descriptors."""
MAPPED = "/memfd:pspnet-"


@dataclass(frozen=True)
class SoakSettings:
    """How long, over how many cameras, and the seed of their faults."""

    minutes: float = 10.0
    cameras: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.05 <= self.minutes <= 60 * 24 * 14:
            raise PspnetError(f"minutes are {self.minutes:g}: give --minutes 0.05 (3 seconds) to 20160 (two weeks)")
        if not 1 <= self.cameras <= MOST_CAMERAS:
            raise PspnetError(f"cameras are {self.cameras}: give --cameras 1 to {MOST_CAMERAS}")


class StandIn(ClosingRunner):
    """In place of a network: takes STAND_IN_S for a picture, and gives the same logits for each."""

    name, engine, precision = "stand-in", "stand-in", "none"

    def __init__(self) -> None:
        names = ("road", "sky", "other")
        colours = ((128, 64, 128), (70, 130, 180), (220, 220, 0))
        self.spec = ModelSpec("resnet18", 8, (1, 2, 3, 6), 8, 8, 8, names, colours, (96, 128), drivable=(0,))
        self._logits = np.random.default_rng(0).standard_normal((1, len(names), 12, 16)).astype(np.float32)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(1, 3, 12, 16) float32."""
        time.sleep(STAND_IN_S)
        return self._logits


@dataclass
class StaleWatch(Sink):
    """Counts records that were published as valid and were older than they may be."""

    wants = frozenset({"picture"})
    stale: int = 0
    records: int = 0

    def __call__(self, record: Record) -> None:
        """Look at one record."""
        self.records += 1
        age_ms = record.age_ms
        if record.valid and record.max_age_ms is not None and (age_ms is None or age_ms > record.max_age_ms):
            self.stale += 1


@dataclass
class Samples:
    """What was measured, one value per SAMPLE_S."""

    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BOUNDS})

    def take(self) -> None:
        """One more of each."""
        for name, value in measured().items():
            self.values[name].append(value)

    def growth(self) -> dict[str, float]:
        """The last eighth against the second, medians, by name; nothing where there are fewer samples than eighths."""
        found = {}
        for name, values in self.values.items():
            part = len(values) // SHARE
            if part:
                found[name] = float(np.median(values[-part:]) - np.median(values[part : 2 * part]))
        return found


def soak(
    settings: SoakSettings,
    stop: threading.Event,
    progress: Progress,
    artefact: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Run until the minutes are over or `stop` is set; returns the report, whose `exceeded` says what grew too much."""
    telemetry, samples, watch = Telemetry(), Samples(), StaleWatch()
    events: list[CameraEvent] = []
    with _opened(artefact, engine, threads) as runner, segmenting(runner) as segmenter:
        cameras = [Camera(each, events.append) for each in camera_settings(settings)]
        done = threading.Event()
        timer = threading.Timer(settings.minutes * 60, stop.set)
        sampler = threading.Thread(target=_sample, args=(samples, done), name="sampler", daemon=True)
        progress.ready(lambda: watch.records, lambda: "soak")
        timer.start()
        sampler.start()
        try:
            outlet = Outlet(watch, "stale watch")
            result = run_live(cameras, segmenter, [outlet], LiveSettings(), stop, None, telemetry)
        finally:
            timer.cancel()
            done.set()
            sampler.join()
        named = f"{segmenter.runner.engine}, {segmenter.runner.precision}"
    growth = samples.growth()
    return {
        "minutes": result["seconds"] / 60, "seed": settings.seed, "artefact": artefact or "stand-in", "engine": named,
        "cameras": {camera.name: _facts(camera, events, result, telemetry) for camera in cameras},
        "growth": growth, "bounds": BOUNDS, "samples": samples.values, "published_stale": watch.stale,
        "exceeded": _exceeded(growth, watch.stale),
    }  # fmt: skip


def camera_settings(settings: SoakSettings) -> list[CameraSettings]:
    """One camera that never fails, and others that do, each in its own way, again and again."""
    height, width = SIZE
    found = []
    for place in range(settings.cameras):
        script = random_script(settings.seed * MOST_CAMERAS + place, 120.0).replace("; end", "; cut")
        faults = f"&loop=1&script={script}" if place else ""
        uri = f"test://pattern?size={height}x{width}&fps={FPS}&seed={place}{faults}"
        found.append(CameraSettings(f"camera{place}", uri, fps=FPS))
    return found


def measured() -> dict[str, float]:
    """What BOUNDS names, of this process at this moment."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    rss_kib, shared_kib = (float(words.get(name, "0").split()[0]) for name in ("VmRSS", "RssShmem"))
    ours = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if MAPPED in line]
    mapped = [int(end, 16) - int(start, 16) for start, end in (each.split("-") for each in ours)]
    return {
        "rss_mib": (rss_kib - shared_kib) / 1024,
        "descriptors": float(len(os.listdir("/proc/self/fd"))),
        "threads": float(words["Threads"]),
        "shared_mib": sum(mapped) / 2**20,
        "processes": float(_children()),
    }


def outages_s(events: Sequence[CameraEvent], camera: str) -> tuple[list[float], bool]:
    """How long each time was in which a camera had run before and did not run, in seconds; and whether one lasts."""
    found: list[float] = []
    ran, lost_ns = False, 0
    for event in events:
        if event.camera != camera or event.kind != "state" or event.state is CameraState.STOPPED:
            continue
        if event.state is CameraState.RUNNING:
            found += [(event.at_ns - lost_ns) / 1e9] if lost_ns else []
            ran, lost_ns = True, 0
        elif ran and not lost_ns:
            lost_ns = event.at_ns
    return found, bool(lost_ns)


def text_of(report: dict[str, Any]) -> str:
    """The report as people read it."""
    lines = [f"{duration(report['minutes'] * 60)} over {len(report['cameras'])} cameras, {report['engine']}"]
    for name, facts in report["cameras"].items():
        age = facts["age_ms"]
        shown = f"p50 {age['p50']:.0f} ms, p90 {age['p90']:.0f} ms, p99 {age['p99']:.0f} ms" if age else "none"
        longest = f", the longest {facts['longest_outage_s']:.1f} s" if facts["longest_outage_s"] else ""
        lines.append(
            f"  {name}: {facts['valid']} valid, {facts['invalid']} invalid, frame age {shown}; recovered "
            f"{facts['recovered']} of {facts['outages']} times{longest}; {facts['crashes']} crashes"
        )
    for name, gained in report["growth"].items():
        lines.append(f"  {name.replace('_', ' ')}: {gained:+.1f} (bound {report['bounds'][name]:g})")
    if not report["growth"]:
        lines.append(f"  growth is not known: {SHARE} samples and so {SHARE} seconds are needed")
    return "\n".join(lines)


@contextlib.contextmanager
def _opened(artefact: str | None, engine: str, threads: int | None) -> Iterator[Runner]:
    with open_runner(artefact, engine, threads) if artefact else StandIn() as runner:
        yield runner


def _sample(samples: Samples, done: threading.Event) -> None:
    while not done.wait(SAMPLE_S):
        samples.take()


def _children() -> int:
    """Processes that this one has started and that are still there."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended in between
            found += path.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    return found


def _facts(
    camera: Camera, events: Sequence[CameraEvent], result: dict[str, Any], telemetry: Telemetry
) -> dict[str, Any]:
    status, counts = camera.status(), result["cameras"][camera.name]
    outages, lasts = outages_s(events, camera.name)
    failures = [event for event in events if event.camera == camera.name and event.state is CameraState.FAILED]
    return {
        "source": status.uri, "valid": counts["valid"], "invalid": counts["invalid"],
        "drops": {**status.drops, **counts["drops"]}, "reconnects": status.reconnects, "crashes": status.crashes,
        "outages": len(outages) + lasts, "recovered": len(outages),
        "longest_outage_s": max(outages) if outages else None,
        "failed": failures[0].message if failures else "",
        "age_ms": telemetry.percentiles(camera.name).get(AGE),
    }  # fmt: skip


def _exceeded(growth: dict[str, float], stale: int) -> list[str]:
    found = [
        f"{name.replace('_', ' ')} grew by {gained:.1f}, {BOUNDS[name]:g} is the bound"
        for name, gained in growth.items()
        if gained > BOUNDS[name]
    ]
    return found + ([f"{stale} records were published as valid and were too old"] if stale else [])
