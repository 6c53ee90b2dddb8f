"""What each convolution alone costs: every other one in float, the loss of the figure and the noise in the logits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from tqdm import tqdm

from calibration.cost import multiply_adds
from calibration.placement import place
from calibration.quantize import quantized
from calibration.score import Judge
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, read_json, write_json

KIND = "sensitivity"
IMAGES = 8  # pictures that suffice to rank layers: every one counts some hundred thousand labels


@dataclass(frozen=True)
class Sensitivity:
    """One convolution in INT8 and all others in float.

    loss: points of the judge's figure; a few hundredths of mIoU, of either sign, are chance. disagreement: per cent of
    the labels that differ from the float network's. sqnr_db: of the logits.
    """

    layer: str
    loss: float
    disagreement: float
    sqnr_db: float
    multiply_adds: int


def mixed(model: onnx.ModelProto, table: CalibrationTable, float_layers: Collection[str]) -> onnx.ModelProto:
    """The Q/DQ graph of the table with exactly `float_layers` of its convolutions in float."""
    return quantized(model, dataclasses.replace(table, float_layers=sorted(float_layers)))


def sensitivities(
    model: onnx.ModelProto, table: CalibrationTable, judge: Judge, output: str | Path | None = None, quiet: bool = False
) -> list[Sensitivity]:
    """A row for each convolution that `table` has in INT8, in the graph's order.

    output: a JSON file that is written after every row, so that an interrupted run goes on where it was: rows of the
    same network, ranges and pictures are taken from it, others are replaced.
    """
    layers = place(model, table.float_layers).convolutions
    facts = {**judge.facts(), "of": _identity(model, table, judge)}
    done = _done(output, facts["of"]) if output else {}
    counts = multiply_adds(model)
    for layer in tqdm(layers, desc=KIND, unit="layer", leave=False, disable=quiet):
        if layer in done:
            continue
        others = {*table.float_layers, *layers} - {layer}
        score = judge.score(mixed(model, table, others), None)
        done[layer] = Sensitivity(
            layer, judge.loss(score), 100 - score.agreement, score.sqnr_db, counts.get(layer, 0)
        )  # fmt: skip
        if output:
            rows = [dataclasses.asdict(done[name]) for name in layers if name in done]
            write_json(output, {"kind": KIND, **facts, "measured": len(rows), "of_layers": len(layers), "layers": rows})
    return [done[layer] for layer in layers]


def text_of(rows: Sequence[Sensitivity], facts: Mapping[str, Any]) -> str:
    """The rows as a table to print, the most sensitive first; facts: of the judge."""
    width = max(len(row.layer) for row in rows)
    lines = [f"{'INT8 alone':{width}}  {'loss':>7}  {'labels':>7}  {'SQNR':>6}  {'10^6 MAC':>8}"]
    for row in sorted(rows, key=lambda row: -row.disagreement):
        lines.append(
            f"{row.layer:{width}}  {row.loss:7.3f}  {row.disagreement:6.2f}%  {row.sqnr_db:6.1f}  "
            f"{row.multiply_adds / 1e6:8.1f}"
        )
    lines.append(
        f"loss in points of {facts['figure']}, labels that differ from FP32's, SQNR of the logits in dB; "
        f"{facts['images']} held-out images of {facts['source']} on {facts['engine']}"
    )
    return "\n".join(lines)


def write_bars(path: str | Path, rows: Sequence[Sensitivity], facts: Mapping[str, Any]) -> None:
    """Loss, differing labels and SQNR of every layer as one PNG, in the graph's order from top to bottom."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [row.layer for row in rows]
    panels = {
        f"loss, points of {facts['figure']}": [row.loss for row in rows],
        "labels that differ from FP32's, %": [row.disagreement for row in rows],
        "SQNR of the logits, dB": [row.sqnr_db if math.isfinite(row.sqnr_db) else 0 for row in rows],
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 1.5 + 0.19 * len(rows)), layout="constrained", sharey=True)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        axis.barh(names, values, color="#3b6ea5")
        axis.set(xlabel=title)
        axis.grid(alpha=0.3, axis="x")
    axes[0].invert_yaxis()
    axes[0].tick_params(axis="y", labelsize=7)
    axes[0].margins(y=0.01)
    figure.suptitle(f"One convolution in INT8 at a time, {facts['images']} images of {facts['source']}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def network_sha256(model: onnx.ModelProto) -> str:
    """Hex SHA-256 of a graph's nodes, their wires and its weights, whatever else the file says."""
    digest = hashlib.sha256()
    for node in model.graph.node:
        digest.update(repr((node.name, node.op_type, list(node.input), list(node.output))).encode())
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode() + numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


def _identity(model: onnx.ModelProto, table: CalibrationTable, judge: Judge) -> str:
    """Hex SHA-256 of everything that rows depend on: network, ranges, pictures and engine."""
    parts = network_sha256(model), dataclasses.asdict(table), judge.pictures.hashes, judge.engine
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _done(path: str | Path, identity: str) -> dict[str, Sensitivity]:
    """Rows of an earlier run on the same things; PspnetError where the file is no such run's."""
    if not Path(path).exists():
        return {}
    raw = read_json(path, "sensitivities", "Give another name with --sensitivity")
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise PspnetError(f"{path} holds no sensitivities and would be overwritten: give another --sensitivity")
    if raw.get("of") != identity:
        return {}
    return {row["layer"]: row_from_json(row) for row in raw["layers"]}


def row_from_json(row: Mapping[str, Any]) -> Sensitivity:
    """A row that was stored as JSON, where an infinite SQNR is null."""
    return Sensitivity(**{**row, "sqnr_db": math.inf if row["sqnr_db"] is None else row["sqnr_db"]})
