"""What one live camera is asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from pspnet.errors import PspnetError
from runtime.camera_uri import CameraUri

NAME = r"[a-z0-9_-]{1,32}"
ROTATIONS = (0, 90, 180, 270)
SLOTS = range(3, 17)

FROZEN_AFTER_S = {"v4l2": 1.0, "csi": 1.0, "test": 1.0, "http": 3.0, "https": 3.0}
"""Scheme -> seconds of identical pictures that make a camera frozen. A sensor's noise never repeats a raw picture; JPEG
cameras that smooth at night may for a moment."""

FROZEN_AFTER_CODED_S = 10.0
"""The same for the rest, which send differences: of a scene at rest an encoder sends "no change" until its next key
picture, which cameras make every 1 to 10 s."""


@dataclass(frozen=True)
class CameraSettings:
    """One camera. Only name and uri are needed.

    name: its short name in outputs, of a-z, 0-9, _ and -. uri: its address, with credentials or ${VARIABLES}.
    fit, region, mask: what the network sees of it, as for the command line; None for the artefact's own and the whole
    picture. max_age_ms: an older picture is not handed out. fps: its rate where it is known; else it is learned.
    rotate: degrees clockwise that turn its picture upright. frozen_after_s: seconds of identical pictures that make it
    frozen, 0 for never, None for the default of its kind. restart_after_s: seconds without a picture, at least twice
    the limit of a stall, after which it is opened again. max_fps: faster is a storm, whatever the camera is known to
    do. slots: pictures in its shared memory; one is written, one waits, the rest can be lent at the same time.
    """

    name: str
    uri: str
    fit: str | None = None
    region: tuple[int, int, int, int] | None = None
    mask: Path | None = None
    max_age_ms: float = 250.0
    open_deadline_s: float = 10.0
    fps: float | None = None
    rotate: int = 0
    frozen_after_s: float | None = None
    restart_after_s: float = 2.0
    max_fps: float = 130.0
    slots: int = 4
    allow_gstreamer: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise PspnetError(f"camera name {self.name!r} is not usable: give 1 to 32 characters of a-z, 0-9, _ and -")
        if self.rotate not in ROTATIONS:
            raise self._bad("rotate", self.rotate, f"one of {', '.join(map(str, ROTATIONS))} degrees clockwise")
        if self.slots not in SLOTS:
            raise self._bad("slots", self.slots, f"{SLOTS.start} to {SLOTS.stop - 1}")
        for field, lowest, highest in (
            ("max_age_ms", 1, 60_000), ("open_deadline_s", 0.1, 120), ("restart_after_s", 0.3, 60),
            ("max_fps", 1, 1000), ("fps", 0.01, 1000), ("frozen_after_s", 0, 3600),
        ):  # fmt: skip
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
                raise self._bad(field, value, f"{lowest} to {highest}")

    def frozen_limit_s(self, uri: CameraUri) -> float:
        """Seconds of identical pictures that make the camera frozen; 0 for never."""
        if self.frozen_after_s is not None:
            return self.frozen_after_s
        return FROZEN_AFTER_S.get(uri.scheme, FROZEN_AFTER_CODED_S)

    def _bad(self, field: str, value: object, needed: str) -> PspnetError:
        return PspnetError(f"camera {self.name}: {field} is {value}: give {needed}")
