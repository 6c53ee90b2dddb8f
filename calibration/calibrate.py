"""The verb `calibrate`: images, ranges, table and the INT8 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from calibration.collect import histograms
from calibration.images import calibration_images
from calibration.placement import place
from calibration.quantize import quantized
from calibration.ranges import METHODS, amax_from_histogram
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, sha256_of
from pspnet.metadata import attach_spec, extra, read_model, spec_from_model
from runtime.runner import check_constants


def calibrate(
    model_path: str | Path, output: str | Path, data: str | Path, dataset: str = "camvid11", split: str = "train",
    count: int = 64, method: str = "percentile", percentile: float = 99.99, force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the Q/DQ graph to `output` and the table beside it with the suffix .json; returns a summary."""
    if method not in METHODS:
        raise PspnetError(f"unknown method {method!r}: choose one of {', '.join(METHODS)} with --method")
    if not 50 < percentile <= 100:
        raise PspnetError(f"percentile is {percentile:g}: it must be above 50 and at most 100, for example 99.99")
    model = read_model(model_path)
    spec = spec_from_model(model, model_path)
    check_constants(model, model_path)
    if (precision := extra(model, "precision") or "fp32") != "fp32":
        raise PspnetError(f"{model_path} is {precision} already: calibrate the fp32 file that `pspnet export` wrote")
    table_path = Path(output).with_suffix(".json")
    if table_path.exists():
        _check_is_table(table_path)
    placement = place(model)
    images = calibration_images(data, dataset, split, count, spec, force)
    found = histograms(model, list(placement.activations), images.inputs)
    label = method if method == "minmax" else f"percentile {percentile:g}"
    table = CalibrationTable(
        sha256_of(model_path), label, images.source, images.hashes,
        {name: amax_from_histogram(h.counts, h.largest, method, percentile) for name, h in found.items()},
    )  # fmt: skip
    summary = {
        "method": label, "source": images.source, "images": len(images.hashes), "onnx_sha256": table.onnx_sha256,
        "int8_convolutions": len(placement.convolutions),
        "convolutions": sum(node.op_type == "Conv" for node in model.graph.node),
    }  # fmt: skip
    result = quantized(model, table)
    attach_spec(result, spec, precision="int8", calibration=summary)
    onnx.checker.check_model(result, full_check=True)
    with atomic_path(output) as temporary:
        onnx.save(result, temporary)
        table.save(table_path)
    return summary


def _check_is_table(path: Path) -> None:
    """The table takes the place of an earlier one, and of nothing else."""
    try:
        CalibrationTable.load(path)
    except PspnetError as error:
        raise PspnetError(f"{path} is not a calibration table and would be overwritten: choose another -o") from error
