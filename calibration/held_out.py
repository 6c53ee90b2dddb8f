"""Pictures that calibration has not seen, with labels where there are any, on which INT8 is compared with float."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.images import spread
from pspnet.dataset import is_dataset, list_images, open_unchecked
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.image import read_image
from pspnet.spec import NetworkSpec
from pspnet.wording import counted
from runtime.source import open_source

FEWEST = 2  # below this one picture decides


class TooFewPictures(PspnetError):
    """Fewer than FEWEST pictures are left. count: how many."""

    def __init__(self, count: int, source: str) -> None:
        super().__init__(
            f"{counted(count, 'picture')} of {source} left to score INT8 on, {FEWEST} are needed: calibrate on fewer "
            "with --images, or give more data"
        )
        self.count = count


@dataclass(frozen=True)
class HeldOut:
    """Network inputs (1, H, W, 3) uint8 RGB, where each lies in its picture, and label maps (H, W) uint8 or none.

    hashes: SHA-256 of each original picture's pixels by its name.
    """

    source: str
    inputs: list[np.ndarray]
    geometries: list[Geometry]
    targets: list[np.ndarray] | None
    hashes: dict[str, str]

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, count: int) -> tuple[HeldOut, list[int]]:
        """`count` of the pictures, evenly spread, and their indices."""
        chosen = sorted(evenly_spread(len(self), count)[:count])
        return self.part(chosen), chosen

    def part(self, chosen: Sequence[int]) -> HeldOut:
        """The pictures of these indices."""
        names = [list(self.hashes)[index] for index in chosen]
        return HeldOut(
            self.source, [self.inputs[index] for index in chosen], [self.geometries[index] for index in chosen],
            [self.targets[index] for index in chosen] if self.targets else None,
            {name: self.hashes[name] for name in names},
        )  # fmt: skip


def held_out_pictures(
    data: str | Path, dataset: str, split: str | None, exclude: Mapping[str, str], count: int, spec: NetworkSpec
) -> HeldOut:
    """Up to `count` pictures of `data`, evenly spread, of which none is a calibration picture by its pixels.

    data, dataset, split: as of `calibration_images`. Labels are read where the data set has them and its classes are
    the network's. exclude: name -> SHA-256 of the pixels of every calibration picture. PspnetError where fewer than
    FEWEST are left.
    """
    data, split = Path(data), split or "train"
    targets = []
    source = f"{data.name} {split}" if is_dataset(data) else data.name
    found = HeldOut(source, [], [], None, {})
    for name, digest, picture, labels in unseen_pictures(data, dataset, split, exclude, count, spec):
        geometry = Geometry((picture.shape[0], picture.shape[1]), spec.input_size, spec.fit)
        found.inputs.append(network_input(picture, geometry, spec)[None])
        found.geometries.append(geometry)
        found.hashes[name] = digest
        if labels is not None:
            targets.append(labels)
    if len(found) < FEWEST:
        raise TooFewPictures(len(found), source)
    return dataclasses.replace(found, targets=targets or None)


def unseen_pictures(
    data: Path, dataset: str, split: str, exclude: Mapping[str, str], count: int, spec: NetworkSpec
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """Name, SHA-256 of the pixels, picture (H, W, 3) uint8 BGR and labels (H, W) or None of what `held_out_pictures`
    takes, at the pictures' own sizes."""
    seen = set(exclude.values())
    left = count
    for name, picture, labels in _pictures(data, dataset, split, spec, set(exclude), count):
        digest = hashlib.sha256(picture.tobytes()).hexdigest()
        if digest in seen:  # a copy under another name
            continue
        seen.add(digest)
        yield name, digest, picture, labels
        left -= 1
        if not left:
            break


def evenly_spread(length: int, count: int) -> list[int]:
    """`count` indices below `length`, evenly spread, then all others in order."""
    first = sorted(spread(length, count))
    return first + sorted(set(range(length)) - set(first))


def _pictures(
    data: Path, dataset: str, split: str, spec: NetworkSpec, names: set[str], count: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, picture (H, W, 3) uint8 BGR and labels (H, W) of those not in `names`, the evenly spread ones first."""
    if is_dataset(data):
        pairs = open_unchecked(dataset, data, split)
        labelled = bool(pairs.labels) and pairs.classes.names == spec.class_names
        rest = [index for index, path in enumerate(pairs.images) if path.name not in names]
        for index in (rest[place] for place in evenly_spread(len(rest), count)):
            picture, labels = pairs.read(index) if labelled else (read_image(pairs.images[index]), None)
            yield pairs.images[index].name, picture, labels
    elif data.is_dir():
        paths = [path for path in list_images(data) if path.name not in names]
        for place in evenly_spread(len(paths), count):
            yield paths[place].name, read_image(paths[place]), None
    else:
        with open_source(str(data)) as source:
            free = [i for i in range(source.length or 10 * count) if f"{data.name}#{i}" not in names]
            wanted = {free[place] for place in evenly_spread(len(free), count)[:count]}
            for frame in source:
                if frame.sequence in wanted:
                    yield f"{data.name}#{frame.sequence}", frame.bgr().copy(), None
