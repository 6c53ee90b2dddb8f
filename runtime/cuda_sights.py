"""How the network looks at the pictures of each camera: the geometry, and its tables on the GPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from pspnet.geometry import Geometry
from pspnet.spec import NetworkSpec
from runtime.cuda import Device
from runtime.cuda_pictures import BYTES_PER_PIXEL, DevicePicture
from runtime.cuda_tables import CameraTables, InputTables
from runtime.frame import Frame

MOST_SIGHTS = 32
"""Kinds of pictures that are known at a time: cameras, and sizes of the pictures in a folder."""


class Kind(NamedTuple):
    """All pictures of one kind are handled alike."""

    source: str
    format: str
    size: tuple[int, int]
    matrix: str
    full_range: bool


class Sight:
    """Pictures of one kind. picture_bytes and label_bytes: of one of them."""

    def __init__(
        self, device: Device, kind: Kind, geometry: Geometry, spec: NetworkSpec, cells: tuple[int, int],
        with_confidence: bool,
    ) -> None:  # fmt: skip
        self.kind, self.geometry = kind, geometry
        self.label_bytes = math.prod(kind.size)
        rows = kind.size[0] * 3 // 2 if kind.format == "nv12" else kind.size[0]
        self.picture_bytes = rows * kind.size[1] * BYTES_PER_PIXEL[kind.format]
        self.picture(0)  # sides that the format cannot have are refused before anything is allocated
        self.into = InputTables(device, geometry, spec.mean)
        self.back = CameraTables(device, geometry, cells, spec.align_corners, with_confidence)

    def picture(self, address: int) -> DevicePicture:
        """A picture of this kind at an address."""
        kind = self.kind
        return DevicePicture(
            address, kind.format, kind.size, matrix=kind.matrix, full_range=kind.full_range
        )  # fmt: skip

    def free(self) -> None:
        """Give the tables back."""
        self.into.free()
        self.back.free()


class Sights:
    """The newest MOST_SIGHTS kinds of pictures.

    geometry: of a (height, width) and a camera's name. before_free: called before tables are freed; afterwards nothing
    may use any that were given out before.
    """

    def __init__(
        self, device: Device, spec: NetworkSpec, cells: tuple[int, int], with_confidence: bool,
        geometry: Callable[[tuple[int, int], str], Geometry], before_free: Callable[[], None],
    ) -> None:  # fmt: skip
        self._make = lambda kind: Sight(
            device, kind, geometry(kind.size, kind.source), spec, cells, with_confidence
        )  # fmt: skip
        self._before_free = before_free
        self._known: OrderedDict[Kind, Sight] = OrderedDict()

    def of(self, frames: list[Frame]) -> list[Sight]:
        """The sight of each frame; PspnetError where its size does not go with the camera's region."""
        kinds = [Kind(f.source, f.format, f.size, f.matrix, f.full_range) for f in frames]
        for kind in kinds:
            if kind not in self._known:
                self._known[kind] = self._make(kind)
            self._known.move_to_end(kind)
        found = [self._known[kind] for kind in kinds]
        if len(self._known) > max(MOST_SIGHTS, len(frames)):
            self._before_free()
            while len(self._known) > max(MOST_SIGHTS, len(frames)):
                self._known.popitem(last=False)[1].free()
        return found

    def free(self) -> None:
        """Give all tables back."""
        while self._known:
            self._known.popitem()[1].free()
