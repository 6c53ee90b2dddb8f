"""The spec in an ONNX file: written by the exporter, read by everything that runs, measures or rewrites the network."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.spec import ModelSpec

KEY = "pspnet."
"""What every metadata key of ours begins with."""

INPUT = "image"
OUTPUT = "logits"

_BYTES = {
    getattr(onnx.TensorProto, name): size
    for names, size in (
        ("BOOL INT8 UINT8", 1), ("FLOAT16 BFLOAT16 INT16 UINT16", 2), ("FLOAT INT32 UINT32", 4),
        ("DOUBLE INT64 UINT64", 8),
    )
    for name in names.split()
}  # fmt: skip
"""Bytes of one element of each type; types that share bytes, such as INT4, are left to the engine."""


def read_model(path: str | Path) -> onnx.ModelProto:
    """The whole ONNX file with its external data, without a check of its spec.

    PspnetError where it is no ONNX file or is cut short, and where external data is missing, is shorter than the file
    says or lies outside the model's folder: a downloaded file must not read what else is on the machine.
    """
    model = _parsed(path)
    for tensor in tensors_of(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _load_external(tensor, Path(path))
    return model


def carries_spec(path: str | Path) -> bool:
    """Whether an ONNX file has a spec of ours, so is no guest; PspnetError where it is no ONNX file."""
    return _text(_parsed(path), "spec") is not None


def stored_bytes(path: str | Path) -> int:
    """Size of an artefact: that of its file, and for ONNX also of the files with its external data."""
    path = Path(path)
    return path.stat().st_size + sum(
        file.stat().st_size for file in (external_files(path) if path.suffix == ".onnx" else ())
    )


def external_files(path: str | Path) -> set[Path]:
    """Real paths of the files with the external data of an ONNX file."""
    return {_beside(Path(path), location) for location in _locations(path)}


def artefact_sha256(path: str | Path) -> str:
    """Hex SHA-256 of an artefact: that of its file, or for ONNX with external data one that covers those files too.

    Otherwise two networks with other weights would have the same. It is then the SHA-256 of the hashes of the file and
    of the external ones in the order of their names, in hex, each with a line feed.
    """
    digest, path = sha256_of(path), Path(path)
    if path.suffix != ".onnx" or not (locations := _locations(path)):
        return digest
    hashes = [digest, *(sha256_of(_beside(path, location)) for location in sorted(locations))]
    return hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers and those in attributes, of subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


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
            f"{name} carries no spec: it was exported by another tool, and a network of `pspnet export` is needed "
            "here. evaluate, verify, bench, run and inspect take it as a guest (docs/guests.md)"
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


def _parsed(path: str | Path) -> onnx.ModelProto:
    """The file as it is, external data left where it is."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        reason = error.strerror or error
        raise PspnetError(f"cannot read ONNX file {path}: {reason}. Write one with `pspnet export`") from error
    except Exception as error:  # protobuf has a decode error per implementation, and none of them is public
        raise PspnetError(f"{path} is no ONNX file, or is cut short. Write it again with `pspnet export`") from error
    if model.ir_version and model.opset_import and not model.graph.node:
        raise PspnetError(f"{path} is an ONNX file without nodes, so there is no network in it. Export it again")
    if not (model.ir_version and model.opset_import):
        raise PspnetError(f"{path} is no ONNX file, or is cut short. Write it again with `pspnet export`")
    return model


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graph_tensors(graph)


def _load_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Read a tensor's bytes from the file that it names beside the model at `path`, and keep them in the tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, numbers = entries.get("location", ""), (entries.get("offset", "0"), entries.get("length", "0"))
    if not all(number.isdecimal() and len(number) < 19 for number in numbers):
        raise PspnetError(
            f"{path} is damaged: offset and length of {tensor.name!r} are {', '.join(map(repr, numbers))}. Export "
            "it again"
        )
    file = _beside(path, location)
    offset, size = int(numbers[0]), file.stat().st_size
    stored = math.prod(tensor.dims) * _BYTES[tensor.data_type] if tensor.data_type in _BYTES else None
    length = int(numbers[1]) if "length" in entries else size - offset if stored is None else stored
    if offset + length > size:
        raise PspnetError(
            f"{path} needs bytes {offset} to {offset + length} of {location}, which has {size}: it is cut short. Copy "
            "that file again"
        )
    if stored is not None and length != stored:
        raise PspnetError(
            f"{path} is damaged: {tensor.name!r} has {stored} bytes, its external data {length}. Export it again"
        )
    with open(file, "rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _beside(path: Path, location: str) -> Path:
    """The file at `location` in the folder of the model at `path`; PspnetError where it is not there, or elsewhere."""
    folder, inside = Path(os.path.realpath(path.parent)), location.replace("\0", "/")
    file = Path(os.path.realpath(path.parent / inside))
    if inside != location or os.path.isabs(location) or folder not in file.parents:
        raise PspnetError(
            f"{path} keeps weights in {location!r}, which is no file inside its folder: copy that file beside the "
            "model and save the model again, or save it with its weights as one file"
        )
    if not file.is_file():
        raise PspnetError(f"{path} keeps weights in {location!r}, which is missing: copy that file to {path.parent}")
    return file


def _locations(path: str | Path) -> set[str]:
    tensors = tensors_of(_parsed(path))
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


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
