"""Record: what is published of one frame, valid or not, and read by outlets, board and consumers."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pspnet.geometry import Geometry
from pspnet.spec import IGNORE, NetworkSpec
from runtime.confidence import level_from_share
from runtime.frame import Frame, Segmentation

LOW_CONFIDENCE = 0.5
"""Pixels whose winner has a smaller probability count as of low confidence."""


@dataclass(frozen=True, eq=False)
class Record:
    """What is published of one frame of one camera. Whoever keeps it keeps its memory; nobody may write there.

    spec: the classes of the labels. captured_ns, published_ns: monotonic clock; None where no picture ever came.
    wall_ns: system clock at the capture; sensor_ns: the sensor's own time, None where the backend does not give it.
    valid: whether the labels may be used; reason says why not. frame: the picture, None where there is none to show.
    labels: (H, W) uint8 at the camera's size, 255 unlabelled; confidence: (H, W) uint8, 255 for a probability of 1 and
    0 where the network did not look. Both are None in a record that is not valid. max_age_ms: how old the picture may
    be when its labels are used. health: what is wrong with picture or labels, in short words.

    Of the pixels that the network looked at: class_shares, one per class, 0..1; unlabelled, the share without a class;
    mean_confidence and low_confidence, 0..1, the mean probability of the winners and the share of pixels in which it is
    below LOW_CONFIDENCE, None without confidence. seen: their share of the picture.
    """

    camera: str
    spec: NetworkSpec
    sequence: int
    captured_ns: int | None
    published_ns: int
    valid: bool
    reason: str = ""
    wall_ns: int | None = None
    sensor_ns: int | None = None
    max_age_ms: float | None = None
    frame: Frame | None = None
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    geometry: Geometry | None = None
    times_ms: dict[str, float] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    class_shares: tuple[float, ...] = ()
    unlabelled: float | None = None
    seen: float | None = None
    mean_confidence: float | None = None
    low_confidence: float | None = None

    @property
    def age_ms(self) -> float | None:
        """How old the picture was when this was published."""
        return self.age_at_ms(self.published_ns)

    @property
    def born_ns(self) -> int | None:
        """The moment of the monotonic clock from which the picture's age counts."""
        return self.captured_ns if self.sensor_ns is None else self.sensor_ns

    def age_at_ms(self, now_ns: int) -> float | None:
        """How old the picture is at a moment of the monotonic clock, from the sensor's own time where that is known."""
        return None if self.born_ns is None else (now_ns - self.born_ns) / 1e6

    def expired(self, now_ns: int) -> bool:
        """Whether the labels are too old at a moment of the monotonic clock to be used."""
        age_ms = self.age_at_ms(now_ns)
        return self.valid and self.max_age_ms is not None and age_ms is not None and age_ms > self.max_age_ms

    @property
    def drivable(self) -> float | None:
        """Share of the seen pixels that are of a class to drive on; None where the spec marks none."""
        if not self.spec.drivable or not self.class_shares:
            return None
        return sum(self.class_shares[index] for index in self.spec.drivable)

    def drivable_mask(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """(H, W) uint8, 255 where the pixel is of a class to drive on, else 0; None where the spec marks no class.

        Made when asked for, in `out` where given.
        """
        if self.labels is None or not self.spec.drivable:
            return None
        table = np.zeros(IGNORE + 1, np.uint8)
        table[list(self.spec.drivable)] = 255
        return cv2.LUT(self.labels, table, dst=out)

    def invalidated(self, reason: str, published_ns: int) -> Record:
        """The same frame as an INVALID record: without labels and what was made of them."""
        return dataclasses.replace(
            self, valid=False, reason=reason, published_ns=published_ns, labels=None, confidence=None, class_shares=(),
            unlabelled=None, seen=None, mean_confidence=None, low_confidence=None,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Everything but pictures, for JSON: shares by class name, times in milliseconds, the geometry's map."""
        size = self.frame.size if self.frame is not None else self.geometry.camera_size if self.geometry else None
        return {
            "camera": self.camera,
            "sequence": self.sequence,
            "valid": self.valid,
            "reason": self.reason,
            "captured_ns": self.captured_ns,
            "wall_ns": self.wall_ns,
            "sensor_ns": self.sensor_ns,
            "published_ns": self.published_ns,
            "age_ms": _rounded(self.age_ms, 3),
            "max_age_ms": self.max_age_ms,
            "size": list(size) if size else None,
            "class_shares": {
                name: _rounded(share, 6) for name, share in zip(self.spec.class_names, self.class_shares, strict=False)
            },
            "unlabelled": _rounded(self.unlabelled, 6),
            "seen": _rounded(self.seen, 6),
            "drivable": _rounded(self.drivable, 6),
            "mean_confidence": _rounded(self.mean_confidence, 4),
            "low_confidence": _rounded(self.low_confidence, 6),
            "health": list(self.health),
            "times_ms": {stage: _rounded(value, 3) for stage, value in self.times_ms.items()},
            "geometry": json_from_geometry(self.geometry) if self.geometry else None,
        }


def record_from(
    result: Segmentation,
    spec: NetworkSpec,
    max_age_ms: float | None = None,
    health: tuple[str, ...] = (),
    published_ns: int | None = None,
) -> Record:
    """The record of a result. spec: the classes of its labels, after merges. published_ns: now where not given.

    A result that is not valid, or too old already, becomes an INVALID record.
    """
    now_ns = time.monotonic_ns() if published_ns is None else published_ns
    frame = result.frame
    record = Record(
        frame.source, spec, frame.sequence, frame.captured_ns, now_ns, result.valid, result.reason, frame.wall_ns,
        frame.sensor_ns, max_age_ms, frame, None, None, result.geometry, result.times_ms, health,
    )  # fmt: skip
    if not result.valid:
        return record
    if record.expired(now_ns):
        return record.invalidated(stale_reason(record, now_ns), now_ns)
    return dataclasses.replace(
        record, labels=result.labels, confidence=result.confidence,
        **figures(result.labels, result.confidence, spec.classes),
    )  # fmt: skip


def no_signal(
    camera: str,
    spec: NetworkSpec,
    reason: str,
    last: Record | None = None,
    health: tuple[str, ...] = (),
    published_ns: int | None = None,
) -> Record:
    """The INVALID record of a camera from which no picture comes; last: the last record of it, for the stamps."""
    now_ns = time.monotonic_ns() if published_ns is None else published_ns
    if last is None:
        return Record(camera, spec, -1, None, now_ns, False, reason, health=health)
    return Record(
        camera, spec, last.sequence, last.captured_ns, now_ns, False, reason, last.wall_ns, last.sensor_ns,
        last.max_age_ms, None, None, None, last.geometry, health=health,
    )  # fmt: skip


def stale_reason(record: Record, now_ns: int) -> str:
    """Why a record that has expired is not valid."""
    return f"the picture is {record.age_at_ms(now_ns):.0f} ms old, at most {record.max_age_ms:g} ms are allowed"


def figures(labels: np.ndarray, confidence: np.ndarray | None, classes: int) -> dict[str, Any]:
    """class_shares, unlabelled, seen, mean_confidence and low_confidence of a `Record`, without frame-sized memory.

    Pixels that the network looked at have a confidence above 0; without confidence, those with a class count.
    """
    counts = _counts(labels)
    if confidence is None:
        mean = low = None
        seen = labels.size - counts[IGNORE]
    else:
        sure = _counts(confidence)
        seen = labels.size - sure[0]
        mean = float(np.arange(256) @ sure) / 255 / max(seen, 1)
        low = float(sure[1 : level_from_share(LOW_CONFIDENCE)].sum()) / max(seen, 1)
    shares = counts[:classes] / max(seen, 1)
    return {
        "class_shares": tuple(shares.tolist()),
        "unlabelled": max(1.0 - float(shares.sum()), 0.0) if seen else 0.0,
        "seen": float(seen) / labels.size,
        "mean_confidence": mean if seen else None,
        "low_confidence": low if seen else None,
    }


def json_from_geometry(geometry: Geometry) -> dict[str, Any]:
    """The map between camera and network as JSON, on each axis  network = camera * scale + shift.

    Rows come before columns; pixel edges are integers, so that the centre of pixel i is i + 0.5.
    """
    (row_scale, row_shift), (column_scale, column_shift) = geometry.axis_maps
    return {
        "camera_size": list(geometry.camera_size),
        "network_size": list(geometry.network_size),
        "fit": geometry.fit,
        "region": list(geometry.region) if geometry.region else None,
        "scale": [row_scale, column_scale],
        "shift": [row_shift, column_shift],
    }


def _counts(image: np.ndarray) -> np.ndarray:
    """(256,) float64: how many pixels have each value; exact up to 2**24 equal ones."""
    return cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(np.float64)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)
