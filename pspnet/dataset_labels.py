"""What the pixels of a stored label map mean: numbers by a table, or colours by a table."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pspnet.dataset_classes import Classes, Colour
from pspnet.errors import PspnetError
from pspnet.image import read_image, read_labels
from pspnet.spec import IGNORE

UNKNOWN = 254  # in the colour table: no class has this index, because 254 classes would be needed


class LabelReader(Protocol):
    """How one family of data sets stores its labels."""

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 class indices, 255 where a pixel has none; PspnetError names an unexpected value."""


@dataclass(frozen=True)
class IndexLabels:
    """Label maps that hold a number a pixel.

    meaning: stored value to class index (255: no class). allowed: the stored values in words, for the error line.
    """

    meaning: Mapping[int, int]
    allowed: str

    def read(self, path: Path) -> np.ndarray:
        """See `LabelReader`."""
        stored = read_labels(path)
        table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
        for value, index in self.meaning.items():
            table[value], known[value] = index, True
        counts = np.bincount(stored.ravel(), minlength=256)
        if (wrong := np.flatnonzero((counts > 0) & ~known)).size:
            raise PspnetError(
                f"{path} holds the value {wrong[0]} ({counts[wrong[0]]} pixels): labels must be {self.allowed}"
            )
        return table[stored]


@dataclass(frozen=True)
class ColourLabels:
    """Label maps that hold a colour a pixel.

    meaning: (red, green, blue) to class index (255: no class). stray: file stem to the number of pixels of unknown
    colours that are known to be in the published file; as many of them have no class.
    """

    meaning: Mapping[Colour, int]
    stray: Mapping[str, int] = field(default_factory=dict)

    def read(self, path: Path) -> np.ndarray:
        """See `LabelReader`."""
        bgr = read_image(path)
        codes = bgr[..., 0] | bgr[..., 1].astype(np.uint32) << 8 | bgr[..., 2].astype(np.uint32) << 16
        labels = _table(tuple(self.meaning.items()))[codes]
        unknown = labels == UNKNOWN
        count = int(np.count_nonzero(unknown))
        if count > self.stray.get(path.stem, 0):
            colours, counts = np.unique(codes[unknown], return_counts=True)
            code, most = int(colours[counts.argmax()]), int(counts.max())
            more = f"; {len(colours) - 1} more such colours, {count - most} pixels" if len(colours) > 1 else ""
            raise PspnetError(
                f"{path} holds the colour {(code >> 16, code >> 8 & 255, code & 255)} ({most} pixels{more}), which "
                f"is of no class: paint it as one of the {len(self.meaning)} label colours, or black for void"
            )
        labels[unknown] = IGNORE
        return labels


def index_labels(classes: Classes, source: str) -> IndexLabels:
    """Labels stored as the class index, or as `classes.ignore_value` for no class; source: where that is defined."""
    meaning = {index: index for index in range(len(classes.names))} | {classes.ignore_value: IGNORE}
    return IndexLabels(meaning, f"0 to {len(classes.names) - 1} or {classes.ignore_value} (ignored), see {source}")


@functools.lru_cache(maxsize=2)  # 16 MB each; a lookup is ten times faster than a search among 32 colours
def _table(meaning: tuple[tuple[Colour, int], ...]) -> np.ndarray:
    """(2^24,) uint8 class index of the colour red * 65536 + green * 256 + blue."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for (red, green, blue), index in meaning:
        table[red << 16 | green << 8 | blue] = index
    return table
