"""The spec in an ONNX file: written by the exporter, read by everything that runs, measures or rewrites the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec

KEY = "pspnet."
"""What every metadata key of ours begins with."""

INPUT = "image"
OUTPUT = "logits"


def read_model(path: str | Path) -> onnx.ModelProto:
    """The whole ONNX file, without a check of its spec; PspnetError where it is no ONNX file or is cut short."""
    try:
        model = onnx.load(path)
    except OSError as error:
        raise PspnetError(f"cannot read ONNX file {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf has a decode error per implementation, and none of them is public
        raise PspnetError(f"{path} is no ONNX file, or is cut short. Write it again with `pspnet export`") from error
    if not (model.ir_version and model.opset_import and model.graph.node):
        raise PspnetError(f"{path} is no ONNX file, or is cut short. Write it again with `pspnet export`")
    return model


def read_spec(path: str | Path) -> ModelSpec:
    """The spec of an ONNX file, checked against its graph; PspnetError as in `read_model` and `spec_from_model`."""
    return spec_from_model(read_model(path), path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Every entry of the file's metadata_props, those of other tools included."""
    return {entry.key: entry.value for entry in read_model(path).metadata_props}


def spec_from_model(model: onnx.ModelProto, name: str | Path = "the ONNX model") -> ModelSpec:
    """The spec in a loaded model; `name` stands for the file in errors.

    PspnetError where there is none, or where the graph's input or output is not the one that the spec describes.
    """
    text = _text(model, "spec")
    if text is None:
        raise PspnetError(
            f"{name} carries no spec: it was exported by another tool. Export the checkpoint with `pspnet export`"
        )
    spec = ModelSpec.from_json(text)
    _check_graph(model, spec, name)
    return spec


def attach_spec(model: onnx.ModelProto, spec: ModelSpec, **extra_json: Any) -> None:
    """Write the spec, and each extra as JSON under "pspnet.<name>", into the model; entries that exist are replaced.

    Other entries stay. PspnetError where the graph is not the one that the spec describes.
    """
    _check_graph(model, spec, "the ONNX model")
    new = {f"{KEY}spec": spec.to_json()} | {f"{KEY}{name}": json.dumps(value) for name, value in extra_json.items()}
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | new)


def extra(source: str | Path | onnx.ModelProto, name: str) -> Any:
    """The JSON value that `attach_spec` stored as `name` (proof, calibration, precision), or None where there is none.

    source: a loaded model, or a file, which is then read whole.
    """
    model = source if isinstance(source, onnx.ModelProto) else read_model(source)
    text = _text(model, name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise PspnetError(f"the metadata entry {KEY}{name} is damaged ({error}). Export the model again") from error


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Shape of a graph's input or output: a number where the axis is fixed, otherwise its name ("?" without one)."""
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in axes)


def type_of(value: onnx.ValueInfoProto) -> str:
    """Element type of a graph's input or output in lower case, for example "uint8"."""
    return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()


def _text(model: onnx.ModelProto, name: str) -> str | None:
    return next((entry.value for entry in model.metadata_props if entry.key == KEY + name), None)


def _check_graph(model: onnx.ModelProto, spec: ModelSpec, name: str | Path) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}  # before IR version 4 these were listed as inputs too
    _check([value for value in model.graph.input if value.name not in weights], INPUT, (*spec.input_size, 3), name)
    _check(list(model.graph.output), OUTPUT, (spec.classes, *spec.map_size), name)
    if (got := next(type_of(value) for value in model.graph.input if value.name == INPUT)) != "uint8":
        raise PspnetError(
            f"spec mismatch in {name}: the graph's input {INPUT} is {got}, the spec describes uint8. "
            "Export the checkpoint again with `pspnet export`"
        )


def _check(values: list[onnx.ValueInfoProto], wanted: str, sizes: tuple[int, ...], name: str | Path) -> None:
    if len(values) != 1 or values[0].name != wanted or shape_of(values[0])[1:] != sizes:
        got = ", ".join(f"{value.name} ({_by(shape_of(value))})" for value in values) or "nothing"
        raise PspnetError(
            f"spec mismatch in {name}: the graph has {got}, the spec describes {wanted} (N x {_by(sizes)}). "
            "Export the checkpoint again with `pspnet export`"
        )


def _by(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape))
