"""Frames of low confidence with their labels, for people to correct: the next round of training begins with them."""

from __future__ import annotations

from pathlib import Path

import cv2

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.live_files import FLOOR_BYTES, Lines, check_room, stem_of, write_classes, write_whole
from runtime.outlet import Sink
from runtime.record import Record
from runtime.sink import JPEG_QUALITY

DOUBTFUL_SHARE = 0.05
"""More than in most scenes that are like those of a training set."""
PER_MINUTE = 6
MINUTE_NS = 60 * 10**9


class SelectSink(Sink):
    """DIR as a `folder` data set, images/ and labels/ with classes.json, which further runs add to.

    A frame is taken where at least `share` of the pixels that the network looked at are of low confidence (see
    `record.LOW_CONFIDENCE`), at most `per_minute` of each camera and those not in a row, while the disk keeps
    `floor_bytes` free. The labels are the network's own: correct them in place, then `pspnet train --data DIR`. Each
    pair has a line in selected.jsonl. licence: goes into classes.json.
    """

    wants = frozenset({"picture", "confidence"})
    live = False

    def __init__(
        self,
        folder: str | Path,
        spec: NetworkSpec,
        licence: str = "",
        share: float = DOUBTFUL_SHARE,
        per_minute: float = PER_MINUTE,
        floor_bytes: int = FLOOR_BYTES,
    ) -> None:
        if not 0 < share <= 1:
            raise PspnetError(f"the share of doubtful pixels is {share:g}: give a number above 0, up to 1")
        if not 0 < per_minute <= 6000:
            raise PspnetError(f"{per_minute:g} selected frames a minute: give a number above 0, up to 6000")
        self._folder, self._share, self._floor_bytes = Path(folder), share, floor_bytes
        self._pause_ns = int(MINUTE_NS / per_minute)
        self._taken_ns: dict[str, int] = {}
        write_classes(self._folder, spec, licence)
        self._lines = Lines(self._folder / "selected.jsonl")

    def __call__(self, record: Record) -> None:
        """Keep the frame if it is one of those that are looked for."""
        if record.labels is None or record.frame is None or record.captured_ns is None:
            return
        if record.low_confidence is None:
            raise PspnetError("results have no confidence to select frames by: this artefact gives labels only")
        if record.low_confidence < self._share or not self._may(record.camera, record.captured_ns):
            return
        check_room(self._folder, self._floor_bytes)
        stem = stem_of(record)
        # The picture comes last: a data set's pairs are found by their pictures.
        write_whole(self._folder / "labels" / f"{stem}.png", record.labels)
        write_whole(self._folder / "images" / f"{stem}.jpg", record.frame.bgr(), cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        self._lines.append({"name": stem, "labels": "predicted", **record.as_json()})
        self._taken_ns[record.camera] = record.captured_ns

    def close(self) -> None:
        """Give the list back."""
        self._lines.close()

    def _may(self, camera: str, captured_ns: int) -> bool:
        last_ns = self._taken_ns.get(camera)
        return last_ns is None or captured_ns - last_ns >= self._pause_ns
