"""Magnitudes of activations over calibration images, measured in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from tqdm import tqdm

from pspnet.errors import PspnetError
from runtime.ort import session_from_model

BINS = 4096


@dataclass
class Histogram:
    """counts: (BINS,) occurrences of |activation| in equal bins over [0, largest]."""

    largest: float
    counts: np.ndarray


def histograms(
    model: onnx.ModelProto, tensors: list[str], inputs: list[np.ndarray], quiet: bool = False
) -> dict[str, Histogram]:
    """A histogram of each named tensor of a float graph over all inputs (1, H, W, 3) uint8.

    Two passes: the first finds the largest magnitudes, the second counts in bins that are the same for every image, so
    the result does not depend on the order of the images or on how they are divided. PspnetError where a value is NaN
    or infinite.
    """
    session = session_from_model(_with_outputs(model, tensors))
    found = {name: Histogram(0.0, np.zeros(BINS, np.int64)) for name in tensors}
    for counting in (False, True):
        title = "histograms" if counting else "ranges"
        for image in tqdm(inputs, desc=title, unit="image", leave=False, disable=quiet):
            for name, value in zip(tensors, session.run(tensors, {"image": image}), strict=True):
                _add(name, found[name], np.abs(value), counting)
    return found


def _add(name: str, histogram: Histogram, magnitude: np.ndarray, counting: bool) -> None:
    if counting:
        edge = histogram.largest or 1.0
        histogram.counts += np.histogram(magnitude, bins=BINS, range=(0.0, edge))[0]
        return
    largest = float(magnitude.max())
    if not np.isfinite(largest):
        raise PspnetError(f"activation {name} is {largest} on a calibration image: the float model is broken there")
    histogram.largest = max(histogram.largest, largest)


def _with_outputs(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.ClearField("output")
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return watched
