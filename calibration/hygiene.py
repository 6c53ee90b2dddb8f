"""What makes calibration pictures unfit: shared with the evaluation, one scene, a wrong size or wrong colours.

Refused is what no honest set of pictures shows, and `--force` overrules it; what may be honest is warned of.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from calibration.images import CalibrationImages
from pspnet.dataset import is_dataset, open_pictures, open_unchecked, splits_of
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.geometry import Geometry
from pspnet.spec import IGNORE, ModelSpec

THUMBNAIL = (32, 24)  # (width, height)
SAME_SCENE, ALMOST_ONE_SCENE = 0.98, 0.95
"""Correlation of thumbnails: above the first in every pair is a parked camera or one picture many times, above the
second in the middle pair a slow drive or fog. Eight pictures of CamVid, all of a car that waits: 0.92 to 0.99."""
LARGE_ENLARGEMENT, LARGEST_ENLARGEMENT = 2.0, 4.0
LARGEST_DISTORTION = 1.5
FLATTEST_STD = 0.05  # of the spec's: three grey levels over the whole set
FAR_MEAN, FAR_STD = 2.0, 4.0
SWAPPED_DISTANCE, SWAPPED_RATIO = 1.0, 0.25

logger = logging.getLogger(__name__)


def check_pictures(images: CalibrationImages, spec: ModelSpec, data: str | Path, dataset: str, force: bool) -> None:
    """PspnetError where the pictures are unfit, unless `force`, which makes a warning of it."""
    for problem in (
        shared_with_evaluation(images, data, dataset), one_scene(images.inputs), wrong_size(images.sizes, spec),
        wrong_colours(images.inputs, spec),
    ):  # fmt: skip
        if problem and force:
            logger.warning("%s", problem)
        elif problem:
            raise PspnetError(f"{problem}, or calibrate nonetheless with --force")


def shared_with_evaluation(images: CalibrationImages, data: str | Path, dataset: str) -> str | None:
    """What is wrong where a picture's file equals one of the data set's val or test split, else None.

    Of the evaluation's files those are read whose size is that of a calibration picture's file. A folder of pictures
    inside a data set is compared with that set.
    """
    if (root := _dataset_of(Path(data))) is None or not images.paths or images.split == "all":
        return None
    name = dataset if root == Path(data) else "auto"
    sizes: dict[int, list[Path]] = {}
    for path in images.paths:
        sizes.setdefault(path.stat().st_size, []).append(path)
    for split in ("val", "test"):
        if split == images.split or split not in splits_of(name, root):
            continue
        for other in open_pictures(name, root, split):
            same_size = sizes.get(other.stat().st_size, [])
            digest = sha256_of(other) if same_size else ""
            if twin := next((path for path in same_size if sha256_of(path) == digest), None):
                return (
                    f"calibration picture {twin} is the same file as {other} of the {split} split, so a score there "
                    "would be flattered: remove one of the two"
                )
    return None


def one_scene(inputs: Sequence[np.ndarray]) -> str | None:
    """What is wrong where all pictures are nearly equal, else None; a warning is logged where many are."""
    thumbnails = [cv2.resize(image[0].mean(2), THUMBNAIL, interpolation=cv2.INTER_AREA) for image in inputs]
    flat = np.stack(thumbnails).reshape(len(inputs), -1)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.sqrt(np.square(flat).sum(1, keepdims=True)), 1e-9)
    pairs = (flat @ flat.T)[np.triu_indices(len(inputs), 1)]
    if pairs.min() > SAME_SCENE:
        return (
            f"the {len(inputs)} calibration pictures show one scene (their thumbnails correlate by {pairs.min():.3f} "
            "or more), so ranges would fit that scene alone: give pictures of several places"
        )
    if (middle := float(np.median(pairs))) > ALMOST_ONE_SCENE:
        logger.warning(
            "the calibration pictures are much alike (their thumbnails correlate by %.2f): more places make safer "
            "ranges", middle,
        )  # fmt: skip
    return None


def wrong_size(sizes: Sequence[tuple[int, int]], spec: ModelSpec) -> str | None:
    """What is wrong where pictures are much smaller than the network's input, else None; less is warned of."""
    enlargements, distortions = [], []
    for height, width in sizes:
        rows, columns = Geometry((height, width), spec.input_size, spec.fit).resized
        enlargements.append(max(rows / height, columns / width))
        distortions.append(max(rows * width / (height * columns), height * columns / (rows * width)))
    (height, width), largest = sizes[int(np.argmax(enlargements))], max(enlargements)
    seen = f"calibration pictures of {height}x{width} are enlarged {largest:.1f} times for the network's input"
    if largest > LARGEST_ENLARGEMENT:
        return f"{seen}, and blurred pictures have other activations: give pictures of the camera's size"
    if largest > LARGE_ENLARGEMENT:
        logger.warning("%s: pictures of the camera's size make better ranges", seen)
    if max(distortions) > LARGEST_DISTORTION:
        height, width = sizes[int(np.argmax(distortions))]
        logger.warning(
            "calibration pictures of %dx%d are stretched to %dx%d: is this how the camera's pictures come?",
            height, width, *spec.input_size,
        )  # fmt: skip
    return None


def wrong_colours(inputs: Sequence[np.ndarray], spec: ModelSpec) -> str | None:
    """What is wrong where the first layer, the normalisation, gives values that its mean and std do not foresee.

    Over all pictures each band should come out with a mean near 0 and a standard deviation near 1. Night, fog and
    tinted light move both by less than the limits; a wrong range of values or swapped bands can move them further.
    """
    mean, std = normalised_statistics(inputs, spec)
    seen = f"mean {_listed(mean)}, std {_listed(std)} in the spec's units where 0 and 1 are expected"
    if std.max() < FLATTEST_STD:
        return f"calibration pictures are all but uniform ({seen}): give 8-bit pictures that use the range 0 to 255"
    swapped = ((mean * spec.std + spec.mean)[::-1] - spec.mean) / spec.std
    given, other = (float(np.sqrt(np.square(each).mean())) for each in (mean, swapped))
    if given > SWAPPED_DISTANCE and other < SWAPPED_RATIO * given:
        return (
            f"red and blue of the calibration pictures seem to be swapped ({seen}; with them exchanged the means are "
            f"{_listed(swapped)}): write the pictures with their bands in the right order"
        )
    if np.abs(mean).max() > FAR_MEAN or not 1 / FAR_STD < std.min() <= std.max() < FAR_STD:
        logger.warning("calibration pictures are unusual (%s): is this how the camera sees?", seen)
    elif all((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all() for image in inputs):
        logger.warning("calibration pictures are grey: ranges will not fit a colour camera")
    return None


def normalised_statistics(inputs: Sequence[np.ndarray], spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (3,) of each normalised band over all inputs (1, H, W, 3) uint8 RGB."""
    sums = sum(image.sum((0, 1, 2), dtype=np.float64) for image in inputs)
    squares = sum(np.square(image, dtype=np.float64).sum((0, 1, 2)) for image in inputs)
    number = sum(image.size // 3 for image in inputs)
    mean = np.asarray(sums) / number
    std = np.sqrt(np.maximum(np.asarray(squares) / number - mean**2, 0))
    return (mean - spec.mean) / spec.std, std / spec.std


def coverage(images: CalibrationImages, data: str | Path, dataset: str) -> dict[str, float] | None:
    """The share of each class in the labelled pixels of the pictures, in percent; None without labels."""
    if not is_dataset(data):
        return None
    pairs = open_unchecked(dataset, data, images.split)
    chosen, names = set(images.paths), pairs.classes.names
    labels = [label for image, label in zip(pairs.images, pairs.labels, strict=False) if image in chosen]
    counts = np.zeros(len(names), np.int64)
    for label in labels:
        if label.is_file():
            counts += np.bincount(pairs.reader.read(label).ravel(), minlength=IGNORE + 1)[: len(names)]
    return dict(zip(names, (100 * counts / counts.sum()).tolist(), strict=True)) if counts.any() else None


def _dataset_of(data: Path) -> Path | None:
    """The data set that `data` is, or lies in."""
    return next((folder for folder in (data, *data.resolve().parents[:3]) if is_dataset(folder)), None)


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
