"""The files of one calibration: the float32-typed Q/DQ graph, its float16-typed twin and the table, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.placement import place
from calibration.quantize import quantized
from calibration.share import installed_shares
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from pspnet.metadata import artefact_sha256, attach_spec, spec_from_model
from runtime.fp16_simulation import first_overflow, simulated
from runtime.fp16_typing import fp16_from_fp32, half_path


def table_path(output: str | Path) -> Path:
    """Where the table of `output` lies: model.int8.json beside model.int8.onnx."""
    return Path(output).with_suffix(".json")


def check_replaced(output: str | Path) -> None:
    """PspnetError where the table of `output` would take the place of anything but an earlier table."""
    if (path := table_path(output)).exists():
        try:
            CalibrationTable.load(path)
        except PspnetError as error:
            raise PspnetError(f"{path} is no calibration table and would be overwritten: choose another -o") from error


def facts_of(model: onnx.ModelProto, table: CalibrationTable) -> dict[str, Any]:
    """What every summary says of a float graph and its table."""
    return {
        "method": table.method, "source": table.source, "images": len(table.images), "onnx_sha256": table.onnx_sha256,
        "int8_convolutions": len(place(model, table.float_layers).convolutions),
        "convolutions": sum(node.op_type == "Conv" for node in model.graph.node),
    }  # fmt: skip


def write_artefacts(
    model: onnx.ModelProto, table: CalibrationTable, output: str | Path, summary: dict[str, Any], fp16: bool = False,
    pictures: Sequence[np.ndarray] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write the INT8 graph of the float graph `model` to `output` and the table beside it; all files, or none.

    summary: what the metadata says of the calibration. Returned is a copy with "int8_share", the share of multiply-adds
    that each engine installed here computes in INT8. fp16: write the float16-typed twin to `half_path(output)` too, as
    long as no value of `pictures` (1, H, W, 3) uint8 overflows in it; PspnetError otherwise.
    """
    spec, summary = spec_from_model(model), {**summary, "fp16": fp16}
    result = quantized(model, table)
    attach_spec(result, spec, precision="int8", calibration=summary)
    onnx.checker.check_model(result, full_check=True)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(output))
        if fp16:
            onnx.save(_half(result, pictures), stack.enter_context(atomic_path(half_path(output))))
        onnx.save(result, temporary)
        summary["int8_share"] = {share.engine: share.facts() for share in installed_shares(temporary)}
        attach_spec(result, spec, calibration=summary)
        onnx.save(result, temporary)
        table.save(table_path(output))
    return summary


def table_for(model_path: str | Path, path: str | Path) -> CalibrationTable:
    """The stored table at `path`, once it is certain that its ranges are those of the ONNX file at `model_path`."""
    table, digest = CalibrationTable.load(path), artefact_sha256(model_path)
    if table.onnx_sha256 != digest:
        raise PspnetError(
            f"table {path} belongs to the ONNX file with SHA-256 {table.onnx_sha256[:12]}, {model_path} has "
            f"{digest[:12]}: calibrate it with --data in place of --table"
        )
    if table.repairs:
        raise PspnetError(
            f"table {path} belongs to weights that were changed ({', '.join(table.repairs)}), which {model_path} does "
            "not hold: calibrate it with --data and the same flags"
        )
    return table


def _half(int8: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    half = fp16_from_fp32(int8)
    if len(pictures) and (overflow := first_overflow(simulated(half), np.concatenate(pictures))):
        raise PspnetError(f"this network overflows in fp16: {overflow}. Leave out --fp16")
    return half
