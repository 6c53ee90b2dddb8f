"""Magnitudes of activations over calibration pictures, measured in ONNX Runtime in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from tqdm import tqdm

from calibration.histogram import Histogram, added, histogram_of
from pspnet.errors import PspnetError
from pspnet.metadata import OUTPUT
from runtime.fp16_simulation import largest_magnitudes
from runtime.ort import session_from_model

Histograms = dict[str, Histogram]
"""Tensor name -> histogram of its magnitudes."""


def measured(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Sequence[np.ndarray], names: Sequence[str],
    quiet: bool = False,
) -> Iterator[Histograms]:  # fmt: skip
    """For each input (N, H, W, 3) uint8 of a float graph in turn, the histogram of every named tensor.

    names: of the inputs, for errors. PspnetError where an activation or a logit is NaN or infinite; it names the
    picture and the first layer where that happens.
    """
    watched = list(dict.fromkeys([*tensors, OUTPUT]))
    _check_finite(model, inputs[0][:1], names[0])
    session = session_from_model(_with_outputs(model, watched))
    bar = tqdm(inputs, desc="ranges", unit="image", leave=False, disable=quiet)
    for image, name in zip(bar, names, strict=True):
        found = dict(zip(watched, map(histogram_of, session.run(watched, {"image": image})), strict=True))
        if not all(np.isfinite(histogram.largest) for histogram in found.values()):
            _check_finite(model, image, name)
        yield {tensor: found[tensor] for tensor in tensors}


def total(parts: Iterable[Histograms], times: Sequence[Sequence[int]]) -> list[Histograms]:
    """Sums of parts, one for each row of `times`, which says how often each part counts.

    Exact: however the pictures are divided and ordered, equal multisets of them give equal histograms.
    """
    sums: list[Histograms] = [{} for _ in times]
    for index, part in enumerate(parts):
        for row, result in zip(times, sums, strict=True):
            for name, histogram in part.items():
                result[name] = added([(1, result.get(name, Histogram())), (row[index], histogram)])
    return sums


def _check_finite(model: onnx.ModelProto, image: np.ndarray, name: str) -> None:
    """PspnetError with the first tensor in the graph's order that is not finite on `image`.

    Every tensor is looked at: a Clip or a Relu behind an infinity makes a number of it.
    """
    layers = {tensor: node.name or tensor for node in model.graph.node for tensor in node.output}
    for tensor, value in largest_magnitudes(model, image).items():
        if np.isfinite(value) or tensor not in layers:  # an infinite constant may be meant, as a Clip's bound
            continue
        what = "NaN" if np.isnan(value) else "infinity"
        raise PspnetError(
            f"layer {layers[tensor]} gives {what} (tensor {tensor}) on calibration picture {name}: the float model is "
            "broken there. Remove the picture, or export a sound checkpoint"
        )


def _with_outputs(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.ClearField("output")
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return watched
