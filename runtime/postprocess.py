"""What is done to labels before anybody sees them: a bonnet masked, doubtful pixels unlabelled, classes merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.image import read_image
from pspnet.spec import IGNORE, NetworkSpec
from runtime.confidence import level_from_share
from runtime.frame import Segmentation

UNLABELLED = "unlabelled"
"""The merge whose classes become 255."""


class Postprocess:
    """Changes results in place; `spec` describes the classes of the changed labels.

    merges: name of a new class -> names of the classes that it is made of; their pixels of "unlabelled" become 255. New
    classes come first, in the order given, then those in no merge, as they are. A new class has the colour of its first
    part, and is drivable where all of its parts are. min_confidence: 0..1, pixels below it become 255, for which
    results need `confidence`. masks: camera name -> PNG of the camera's size, in which pixels other than 0 are not
    looked at; they become 255 with confidence 0. PspnetError where a class or file is not what it should be.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        merges: Mapping[str, Sequence[str]] | None = None,
        min_confidence: float | None = None,
        masks: Mapping[str, str | Path | None] | None = None,
    ) -> None:
        self.spec, self._table = spec, np.arange(256, dtype=np.uint8)
        if merges:
            self.spec, self._table = merged(spec, merges)
        self._merges = bool(merges)
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise PspnetError(f"min_confidence is {min_confidence:g}: give a share of 0 to 1 with --min-confidence")
        self.needs_confidence = bool(min_confidence)
        self._level = level_from_share(min_confidence or 0.0)
        self._masks = {camera: read_mask(path) for camera, path in (masks or {}).items() if path is not None}
        self._doubtful: dict[str, np.ndarray] = {}

    def check(self, camera: str, size: tuple[int, int]) -> None:
        """PspnetError where pictures (height, width) of the camera do not fit its mask."""
        mask = self._masks.get(camera)
        if mask is not None and mask.shape != size:
            raise PspnetError(
                f"camera {camera}: its mask is {mask.shape[0]}x{mask.shape[1]}, its pictures {size[0]}x{size[1]}: draw "
                "the mask at the size of the pictures"
            )

    def __call__(self, result: Segmentation) -> None:
        """Change the labels, and the confidence under the mask."""
        camera, labels = result.frame.source, result.labels
        if self.needs_confidence:
            if result.confidence is None:
                raise PspnetError("min_confidence needs results with confidence: open the segmenter with it")
            doubtful = self._doubtful.get(camera)
            if doubtful is None or doubtful.shape != labels.shape:
                doubtful = self._doubtful[camera] = np.empty(labels.shape, np.uint8)
            cv2.threshold(result.confidence, self._level - 1, IGNORE, cv2.THRESH_BINARY_INV, dst=doubtful)
            cv2.bitwise_or(labels, doubtful, dst=labels)
        if self._merges:
            cv2.LUT(labels, self._table, dst=labels)
        if (mask := self._masks.get(camera)) is not None:
            self.check(camera, (labels.shape[0], labels.shape[1]))
            cv2.bitwise_or(labels, mask, dst=labels)
            if result.confidence is not None:
                cv2.subtract(result.confidence, mask, dst=result.confidence)


def merged(spec: NetworkSpec, merges: Mapping[str, Sequence[str]]) -> tuple[NetworkSpec, np.ndarray]:
    """The spec of merged classes, and the table (256,) uint8 that makes their labels of the spec's."""
    known = {name: index for index, name in enumerate(spec.class_names)}
    parts = {name: [_index(known, name, part) for part in names] for name, names in merges.items()}
    if empty := [name for name, indices in parts.items() if not indices]:
        raise PspnetError(f"merge {empty[0]!r} has no classes: name at least one of {', '.join(known)}")
    used = [index for indices in parts.values() for index in indices]
    if twice := [name for name, index in known.items() if used.count(index) > 1]:
        raise PspnetError(f"class {twice[0]!r} is in two merges: leave it in one")
    dropped = set(parts.pop(UNLABELLED, []))
    groups = list(parts.items())
    groups += [(name, [index]) for name, index in known.items() if index not in used]
    names = [name for name, _ in groups]
    if clash := [name for name in names if names.count(name) > 1]:
        raise PspnetError(f"merge {clash[0]!r} has the name of a class that is in no merge: choose another name")
    if not groups:
        raise PspnetError(f"the merges leave no class: keep at least one of {', '.join(known)}")
    table = np.full(256, IGNORE, np.uint8)
    for label, (_, indices) in enumerate(groups):
        table[indices] = label
    table[sorted(dropped)] = IGNORE
    drivable = [label for label, (_, indices) in enumerate(groups) if set(indices) <= set(spec.drivable)]
    colours = [spec.palette[indices[0]] for _, indices in groups]
    return _replaced(spec, class_names=tuple(names), palette=tuple(colours), drivable=tuple(drivable)), table


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) uint8 of a PNG: 255 where a pixel of it is not 0, else 0."""
    if Path(path).suffix.lower() != ".png":
        raise PspnetError(f"mask {path} is no PNG: other formats change pixels. Save it as PNG")
    shown = read_image(path).max(axis=2)
    return np.where(shown > 0, IGNORE, 0).astype(np.uint8)


def _index(known: Mapping[str, int], merge: str, part: str) -> int:
    if part not in known:
        raise PspnetError(f"merge {merge!r} names {part!r}, which is no class of this artefact: {', '.join(known)}")
    return known[part]


def _replaced(spec: Any, **fields: Any) -> NetworkSpec:
    return dataclasses.replace(spec, **fields)
