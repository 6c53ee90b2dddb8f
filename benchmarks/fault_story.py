"""Faults of cameras as stories: what a camera suffers, when its source is back, and what that came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fault_scene import FPS, HEALTHY, SIZE, Scene
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import Clock
from runtime.fault_script import parse

DETECTION_MS = RECOVERY_MS = 1000.0
EXIT_MS = 2000.0


@dataclass
class Measured:
    """One fault, made once. Times in ms, None where there is none to measure; limits are those that are promised.

    number: of the row in benchmarks/fault_table.py. recovered_ms: from the source's return to the first valid record,
    without the back-off, which is apart. healthy: how the others fared. stale: records published as valid that must not
    have been. found: what else is worth telling. missed: promises that were not kept.
    """

    number: int
    made: str
    detected_ms: float | None = None
    detect_limit_ms: float | None = DETECTION_MS
    recovered_ms: float | None = None
    recover_limit_ms: float | None = RECOVERY_MS
    backoff_ms: float | None = None
    exit_ms: float | None = None
    healthy: dict[str, float] | None = None
    stale: int | None = None
    found: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def judge(self) -> Measured:
        """Fill `missed` from the times, the others and the stale records; returns itself."""
        for what, value, limit in (
            ("detected", self.detected_ms, self.detect_limit_ms),
            ("recovered", self.recovered_ms, self.recover_limit_ms),
            ("exited", self.exit_ms, EXIT_MS if self.exit_ms is not None else None),
        ):
            if limit is not None and value is None:
                self.missed.append(f"not {what}")
            elif limit is not None and value is not None and value > limit:
                self.missed.append(f"{what} after {value:.0f} ms, {limit:.0f} ms are promised")
        if self.stale:
            self.missed.append(f"{self.stale} records were published as valid and must not have been")
        if self.healthy is not None and (self.healthy["invalid"] or self.healthy["stale"] or not self.healthy["valid"]):
            self.missed.append(f"the healthy camera had {self.healthy['invalid']:g} INVALID records")
        return self


Moment = Callable[[Scene, str, int], "int | None"]
"""(scene, camera, when the fault began) -> when something happened; None while it has not."""


def invalid(scene: Scene, name: str, fault_ns: int) -> int | None:
    """When the outputs were told: the first INVALID record."""
    rows = scene.rows(name, valid=False, after_ns=fault_ns)
    return rows[0].published_ns if rows else None


def state(which: CameraState, cause: str | None = None) -> Moment:
    """When the camera entered a state."""
    return lambda scene, name, fault_ns: scene.seen[name].entered(which, fault_ns, cause)


def event(kind: str) -> Moment:
    """When an event of a kind came."""
    return lambda scene, name, fault_ns: scene.seen[name].first(kind, fault_ns)


def drop(cause: str) -> Moment:
    """When the first picture was dropped for a cause."""
    return lambda scene, name, fault_ns: scene.seen[name].drops.get(cause)


@dataclass(frozen=True)
class Story:
    """One camera's fault. script: of its test:// address, whose step number `step` is the fault.

    back: when the source is there again: "over" (the step ran out), "at once", "given up" (in BACKOFF with `cause`),
    "ended" (the stuck process is gone) or "told" (by `act`); "" where nothing was lost. act: what is done from outside
    when the camera has run for 2 s; returns when it was done and when the source was back. settings: of the camera,
    uri among them. runs: whether the camera ever runs. check: what else must be true, as words of what is not. tell:
    what else is worth telling.
    """

    number: int
    name: str
    made: str
    script: str = ""
    step: int = 1
    back: str = "over"
    cause: str | None = None
    detect: Moment = invalid
    detect_limit_ms: float | None = DETECTION_MS
    recover_limit_ms: float = RECOVERY_MS
    settings: dict[str, Any] = field(default_factory=dict)
    act: Callable[[Scene, str], tuple[int, int | None]] | None = None
    runs: bool = True
    clock: Clock | None = None
    check: Callable[[Scene, str], str] = lambda scene, name: ""
    tell: Callable[[Scene, str], str] = lambda scene, name: ""

    def camera(self) -> CameraSettings:
        """Its settings."""
        settings = dict(self.settings)
        size = f"{SIZE[0]}x{SIZE[1]}"
        uri = settings.pop("uri", f"test://pattern?size={size}&fps={FPS}&script={self.script}")
        return CameraSettings(self.name, uri, **settings)

    def fault_ns(self, scene: Scene) -> int | None:
        """When the fault began; of a camera that never runs, when it was first to be opened."""
        if not self.runs:
            return scene.seen[self.name].entered(CameraState.CONNECTING)
        return next((at_ns for place, at_ns in scene.seen[self.name].steps if place == self.step), None)

    def ended(self, scene: Scene) -> bool:
        """Whether the last step of the script has begun, or 6 s have passed where it has but one."""
        steps = scene.seen[self.name].steps
        if not self.runs:
            return True
        if self.act is not None:
            return time.monotonic_ns() - steps[0][1] > 6e9
        return bool(steps) and steps[-1][0] >= len(parse(self.script)) - 1

    def back_ns(self, scene: Scene, fault_ns: int) -> int | None:
        """When the source was there again."""
        seen = scene.seen[self.name]
        if self.back == "over":
            if (seconds := parse(self.script)[self.step].seconds) is not None:
                return fault_ns + int(seconds * 1e9)
            return next((at_ns for place, at_ns in seen.steps if place == self.step + 1), None)
        if self.back == "given up":
            return seen.entered(CameraState.BACKOFF, fault_ns, self.cause)
        if self.back == "ended":
            before = [pid for pid, at_ns in seen.pids if at_ns <= fault_ns][-1]
            return next((at_ns for pid, at_ns in seen.pids if at_ns > fault_ns and pid != before), None)
        return fault_ns

    def recovered_ns(self, scene: Scene, back_ns: int, detected_ns: int) -> int | None:
        """When the first record was valid again."""
        since_ns = max(back_ns, detected_ns)
        rows = scene.rows(self.name, valid=True, after_ns=since_ns)
        return next((row.published_ns for row in rows if (row.captured_ns or 0) >= back_ns), None)


Began = Callable[[], "tuple[int | None, int | None]"]
"""When a fault began, and when its source was back as far as that was told; None while it is not known."""


def measure(stories: Sequence[Story], fps: float = FPS, patience_s: float = 30.0) -> list[Measured]:
    """Run the stories at the same time, each a camera of one run, and measure each."""
    clocks = {story.name: story.clock for story in stories if story.clock is not None}
    with Scene([story.camera() for story in stories], clocks=clocks, fps=fps) as scene:
        began = {story.name: _begun(story, scene) for story in stories}
        scene.until(lambda: all(_over(story, scene, *began[story.name]()) for story in stories), patience_s)
        time.sleep(0.2)
        healthy = scene.healthy()
    if scene.error is not None:
        raise scene.error
    return [_measured(story, scene, *began[story.name](), healthy) for story in stories]


def _begun(story: Story, scene: Scene) -> Began:
    if story.act is None:
        return lambda: (story.fault_ns(scene), None)
    scene.until(lambda: len(scene.rows(story.name, valid=True)) > 2 * FPS and scene.rows(HEALTHY, valid=True))
    times = story.act(scene, story.name)
    return lambda: times


def _over(story: Story, scene: Scene, fault_ns: int | None, told_ns: int | None) -> bool:
    if fault_ns is None or (detected_ns := story.detect(scene, story.name, fault_ns)) is None:
        return False
    if not story.back:
        return story.ended(scene)
    back_ns = told_ns or story.back_ns(scene, fault_ns)
    return back_ns is not None and story.recovered_ns(scene, back_ns, detected_ns) is not None


def _measured(
    story: Story, scene: Scene, fault_ns: int | None, told_ns: int | None, healthy: dict[str, float]
) -> Measured:
    found = Measured(story.number, story.made, detect_limit_ms=story.detect_limit_ms, healthy=healthy)
    found.recover_limit_ms = story.recover_limit_ms if story.back else None
    found.stale = scene.stale(story.name)
    detected_ns = None if fault_ns is None else story.detect(scene, story.name, fault_ns)
    if fault_ns is not None and detected_ns is not None:
        if story.detect_limit_ms is not None:
            found.detected_ms = (detected_ns - fault_ns) / 1e6
        back_ns = (told_ns or story.back_ns(scene, fault_ns)) if story.back else None
        recovered_ns = None if back_ns is None else story.recovered_ns(scene, back_ns, detected_ns)
        if back_ns is not None and recovered_ns is not None:
            begun_ns = max(back_ns, detected_ns)
            backoff_ns = scene.seen[story.name].backoff_ns(begun_ns, recovered_ns)
            found.recovered_ms, found.backoff_ms = (recovered_ns - begun_ns - backoff_ns) / 1e6, backoff_ns / 1e6
    found.judge()
    if wrong := story.check(scene, story.name):
        found.missed.append(wrong)
    if told := story.tell(scene, story.name):
        found.found.append(told)
    return found
