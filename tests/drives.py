"""A small data set of two drives on disk, in the `folder` layout: plain pictures whose classes a network can learn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("sky", "road", "car")
COLOURS = ((180, 130, 70), (128, 64, 128), (30, 30, 200))
DRIVES = ("A1", "0016E5")
"""The second one is a number to float(), as one of CamVid's is."""

SIZE = (64, 96)


def write_drives(root: Path, frames: int = 12, splits: tuple[str, ...] = ("train",)) -> Path:
    """`frames` pictures of each drive in every split; each has all three classes, and noise of its own."""
    root.mkdir(parents=True, exist_ok=True)
    colours = {name: list(colour[::-1]) for name, colour in zip(CLASSES, COLOURS, strict=True)}
    listed = {"classes": [*CLASSES, "void"], "ignore_index": 3, "colours_rgb": {**colours, "void": [0, 0, 0]}}
    (root / "classes.json").write_text(json.dumps(listed | {"licence": "free test pictures"}))
    for split in splits:
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True, exist_ok=True)
        for drive in DRIVES:
            for frame in range(frames):
                _write_pair(root / split, f"{drive}_{30 * frame}", frame)
    return root


def _write_pair(folder: Path, name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros(SIZE, np.uint8)
    labels[SIZE[0] // 2 :] = 1
    left = int(random.integers(0, SIZE[1] - 24))
    labels[24:40, left : left + 24] = 2
    picture = np.array(COLOURS, np.uint8)[labels] + random.integers(0, 30, (*SIZE, 1), np.uint8)
    cv2.imwrite(str(folder / "images" / f"{name}.png"), picture)
    cv2.imwrite(str(folder / "labels" / f"{name}.png"), labels)
