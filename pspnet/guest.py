"""GuestSpec: what a segmentation network of another tool says about itself in the JSON file beside it.

docs/guests.md lists the fields. What the graph says itself is read from the graph, and the two must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.metadata import shape_of, type_of
from pspnet.spec import FITS, IGNORE, IMAGENET_MEAN, IMAGENET_STD, LARGEST_SIDE, size_from_text

PAGE = "docs/guests.md"
LAYOUTS = ("NCHW", "NHWC")
OUTPUT_KINDS = ("logits", "probabilities", "labels")
FLOATS = ("float", "float16")
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class GuestSpec:
    """A network of another tool: its classes, and how pictures go in and classes come out.

    mean, std: RGB, in grey levels 0..255; not used where input_type is uint8, except that the border of a letterbox has
    the colour `mean`. output_kind: logits or probabilities (N, C, h, w), or labels (N, h, w) or (N, 1, h, w). With two
    classes, C may be 1: class 1 is where a logit is above 0, or a probability above one half.
    """

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    input_size: tuple[int, int]
    input: str
    input_type: str
    layout: str
    output: str
    output_kind: str
    channel_order: str = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    align_corners: bool = False
    fit: str = "stretch"
    drivable: tuple[int, ...] = ()
    licence: str = ""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


def spec_file(path: str | Path) -> Path:
    """Where the JSON file of a guest at `path` is: beside it, with its name."""
    return Path(path).with_suffix(".json")


def guest_spec(model: onnx.ModelProto, path: str | Path) -> GuestSpec:
    """The spec of the guest `model`, loaded from `path`, out of the JSON file beside it and the graph.

    PspnetError where that file is missing, has an unknown or wrong field, leaves open what the graph does not say, or
    contradicts the graph.
    """
    json_path = spec_file(path)
    if not json_path.is_file():
        raise PspnetError(
            f"{path} carries no spec: it was exported by another tool. Export the checkpoint with `pspnet export`, or "
            f"describe the network in {json_path.name} beside it: {_minimal(model)} ({PAGE} has every field)"
        )
    raw = _checked(read_json(json_path, "guest spec", f"Correct it: {PAGE} has every field"), json_path)
    classes = len(raw["class_names"])
    if len(raw.setdefault("palette", palette(classes))) != classes:
        raise PspnetError(
            f"{json_path}: palette has {len(raw['palette'])} colours for {classes} classes: give each one"
        )
    if unknown := [name for name in raw.get("drivable", ()) if name not in raw["class_names"]]:
        raise PspnetError(f"{json_path}: drivable names {unknown[0]!r}, which is not among class_names: correct it")
    raw["drivable"] = tuple(raw["class_names"].index(name) for name in raw.get("drivable", ()))
    return GuestSpec(**raw | _input_facts(model, raw, json_path) | _output_facts(model, raw, json_path))


def palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """An RGB colour for each class, all different: those of PASCAL VOC without its black.

    The bits of the index, lowest first, go to red, green and blue in turn, from the highest bit of each band down.
    """
    colours = []
    for index in range(1, classes + 1):
        bands = [sum((index >> 3 * step + band & 1) << 7 - step for step in range(3)) for band in range(3)]
        colours.append((bands[0], bands[1], bands[2]))
    return tuple(colours)


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller must give: before IR version 4, weights were listed among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _input_facts(model: onnx.ModelProto, raw: dict[str, Any], json_path: Path) -> dict[str, Any]:
    """input, input_type, layout and input_size."""
    value = _chosen(graph_inputs(model), raw, "input", json_path)
    if len(graph_inputs(model)) > 1:
        names = ", ".join(other.name for other in graph_inputs(model))
        raise PspnetError(f"{json_path}: the graph needs {names}, but a guest is given one picture: export it with one")
    kind, shape = type_of(value), _axes(value)
    described = f"input {value.name} is {kind} ({_by(shape)})"
    if kind not in (*FLOATS, "uint8") or len(shape) != 4:
        raise PspnetError(f"{json_path}: {described}: float, float16 or uint8 of four axes is needed. Export it again")
    layout = raw.get("layout") or _layout(kind, shape)
    channels, *sides = (shape[layout.index(letter)] for letter in "CHW")
    if isinstance(shape[0], int) and shape[0] > 1:
        raise PspnetError(
            f"{json_path}: {described}: pictures come one by one. Export it for a batch of 1 or any batch"
        )
    if isinstance(channels, int) and channels != 3:
        fix = "correct layout" if "layout" in raw else "export the network for RGB pictures"
        raise PspnetError(f"{json_path}: {described}, which as {layout} has {channels} channels, not 3: {fix}")
    given = raw.get("input_size")
    if given is None and not all(isinstance(side, int) for side in sides):
        raise PspnetError(f'{json_path}: {described}, which leaves the size open: add "input_size": "HEIGHTxWIDTH"')
    size = given or (sides[0], sides[1])
    if any(isinstance(side, int) and side != wanted for side, wanted in zip(sides, size, strict=True)):
        raise PspnetError(f"{json_path}: input_size is {size[0]}x{size[1]}, but {described}: leave input_size out")
    if kind == "uint8" and "mean" in raw:
        raise PspnetError(f"{json_path}: {described}, which the network normalises itself: leave out mean and std")
    return {"input": value.name, "input_type": kind, "layout": layout, "input_size": size}


def _layout(kind: str, shape: Shape) -> str:
    """The layout in which three channels fit; where the graph leaves them open, the one that is usual for `kind`."""
    if 3 in (shape[1], shape[3]):
        return "NCHW" if shape[1] == 3 else "NHWC"
    return "NHWC" if kind == "uint8" else "NCHW"


def _output_facts(model: onnx.ModelProto, raw: dict[str, Any], json_path: Path) -> dict[str, Any]:
    """output and output_kind."""
    value = _chosen(list(model.graph.output), raw, "output", json_path)
    kind, shape, classes = type_of(value), _axes(value), len(raw["class_names"])
    described = f"output {value.name} is {kind} ({_by(shape)})"
    one_plane = len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)
    stated = raw.get("output_kind")
    if stated is None:
        if kind in INTEGERS and one_plane:
            stated = "labels"
        elif kind in FLOATS and len(shape) == 4 and isinstance(shape[1], int) and shape[1] > 1:
            stated = "logits"
        else:
            raise PspnetError(
                f'{json_path}: {described}, which can mean several things: add "output_kind": "logits", '
                '"probabilities" or "labels"'
            )
    if kind not in ((*FLOATS, *INTEGERS) if stated == "labels" else FLOATS):
        raise PspnetError(f"{json_path}: {described}: {stated} of that type are not taken. Correct output_kind")
    if shape and len(shape) not in ((3, 4) if stated == "labels" else (4,)):
        needed = "(N, h, w) or (N, 1, h, w)" if stated == "labels" else "(N, C, h, w)"
        raise PspnetError(f"{json_path}: {described}: {stated} must be {needed}. Correct output or output_kind")
    channels = shape[1] if len(shape) == 4 else None
    if isinstance(channels, int) and not _fits(channels, stated, classes):
        hint = "its last axis must come second" if shape[3] == classes else "correct class_names, output or output_kind"
        raise PspnetError(f"{json_path}: {described}, which are not {stated} of {classes} classes: {hint}")
    if stated == "logits" and channels == 1 and _maker(model, value.name) == "Sigmoid":
        raise PspnetError(f'{json_path}: {described} and comes from a Sigmoid: set "output_kind": "probabilities"')
    return {"output": value.name, "output_kind": stated}


def _fits(channels: int, output_kind: str, classes: int) -> bool:
    if output_kind == "labels":
        return channels == 1
    return channels == classes or (channels == 1 and classes == 2)


def _chosen(values: list[onnx.ValueInfoProto], raw: dict[str, Any], field: str, json_path: Path) -> onnx.ValueInfoProto:
    """The input or output that the JSON names, else the first."""
    names = [value.name for value in values]
    if not names or raw.get(field, names[0]) not in names:
        raise PspnetError(
            f"{json_path}: the graph has no {field} {raw.get(field, '')!r}: choose one of {', '.join(names) or 'none'}"
        )
    return values[names.index(raw.get(field, names[0]))]


def _maker(model: onnx.ModelProto, name: str) -> str:
    return next((node.op_type for node in model.graph.node if name in node.output), "")


def _minimal(model: onnx.ModelProto) -> str:
    """The shortest JSON that describes `model`, with placeholders."""
    wanted: dict[str, Any] = {"class_names": ["name of class 0", "name of class 1"]}
    inputs = graph_inputs(model)
    if not inputs or sum(isinstance(axis, int) for axis in _axes(inputs[0])[1:]) < 3:
        wanted["input_size"] = "512x1024"
    return json.dumps(wanted)


def _axes(value: onnx.ValueInfoProto) -> Shape:
    """As `shape_of`; some exporters write -1 or 0 where an axis is open."""
    return tuple("?" if isinstance(axis, int) and axis < 1 else axis for axis in shape_of(value))


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "of unknown shape"


def _checked(raw: Any, json_path: Path) -> dict[str, Any]:
    """The JSON object with tuples for lists; PspnetError for an unknown or missing field and for a wrong value."""
    if not isinstance(raw, dict) or "class_names" not in raw:
        raise PspnetError(f'{json_path} needs a JSON object with at least "class_names", a list: see {PAGE}')
    if unknown := sorted(set(raw) - set(_FIELDS)):
        raise PspnetError(f"{json_path}: unknown field {unknown[0]!r}: the fields are {', '.join(_FIELDS)}, see {PAGE}")
    values = {}
    for name, value in raw.items():
        is_right, needed = _FIELDS[name]
        if not is_right(value):
            raise PspnetError(f"{json_path}: {name} is {json.dumps(value)[:60]}: {needed} is needed, see {PAGE}")
        values[name] = _tuples(value)
    if isinstance(values.get("input_size"), str):
        try:
            values["input_size"] = size_from_text(values["input_size"])
        except PspnetError as error:
            raise PspnetError(f"{json_path}: input_{error}") from error
    if ("mean" in values) != ("std" in values):
        raise PspnetError(f"{json_path}: mean and std belong together: give both or neither, see {PAGE}")
    if min(values.get("std", (1,))) < 1 or any(0 < level < 1 for level in values.get("mean", ())):
        mean, std = ([round(255 * level, 4) for level in values[name]] for name in ("mean", "std"))
        raise PspnetError(
            f"{json_path}: mean and std are for pixels of 0 to 1, but pixels here are 0 to 255: multiply both by 255, "
            f'"mean": {mean}, "std": {std}'
        )
    return values


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _is_size(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) == 2 and all(type(v) is int and 1 <= v <= LARGEST_SIDE for v in value)
    )


def _are_levels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _one_of(choices: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"


_TEXT = (lambda value: isinstance(value, str), "text")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "class_names": (
        lambda value: _are_names(value) and 1 <= len(value) < IGNORE and len(set(value)) == len(value),
        "a list of 1 to 254 different names",
    ),
    "palette": (
        lambda value: isinstance(value, list) and all(map(_is_colour, value)),
        "a list with [red, green, blue], each 0 to 255, for each class",
    ),
    "input_size": (_is_size, f'"HEIGHTxWIDTH" or [height, width], sides from 1 to {LARGEST_SIDE},'),
    "input": _TEXT,
    "layout": _one_of(LAYOUTS),
    "channel_order": _one_of(("rgb", "bgr")),
    "mean": (lambda value: _are_levels(value) and all(0 <= v <= 255 for v in value), "three numbers from 0 to 255"),
    "std": (lambda value: _are_levels(value) and min(value) > 0, "three numbers above 0"),
    "output": _TEXT,
    "output_kind": _one_of(OUTPUT_KINDS),
    "align_corners": (lambda value: isinstance(value, bool), "true or false"),
    "fit": _one_of(FITS),
    "drivable": (_are_names, "a list of class names"),
    "licence": _TEXT,
}
"""Each field of the JSON file with the check of its value and what is needed in words."""
