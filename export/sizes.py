"""What an input size costs and what it does to a camera's picture, known before anything is exported."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.pyramid import padded, pool_matrix
from pspnet.checkpoint import load_model
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.geometry import Geometry
from pspnet.model import Head, PSPNet, default_widths
from pspnet.spec import FITS, ModelSpec, check_size, map_size, size_from_text

DEFAULT_CAMERAS = "540x960,720x1280,1080x1920,1200x1920"
DEFAULT_CLASSES = 11  # CamVid's, as in the demo; another number moves the classifier's small share only
FLOAT_BYTES = 4
FORMS = ("trained", "fixed", "folded")

Cost = dict[str, int]


@dataclass(frozen=True)
class HeadShape:
    """The widths of a `Head`: features, branches, bottleneck and classes; its bins and the bottleneck's kernel."""

    channels: int
    branch_channels: int
    head_channels: int
    classes: int
    bins: tuple[int, ...]
    kernel: int

    @property
    def context_channels(self) -> int:
        """Channels of all branches together."""
        return len(self.bins) * self.branch_channels


def shape_of(head: Head) -> HeadShape:
    """The widths of a trained head, on any device."""
    head_channels, channels, kernel = (next(head.bottleneck.parameters()).shape[axis] for axis in (0, 1, -1))
    branch_channels = 0
    if head.ppm.bins:  # the bottleneck reads the branches, too
        branch_channels, channels = next(head.ppm.branches.parameters()).shape[:2]
    return HeadShape(channels, branch_channels, head_channels, head.classifier.out_channels, head.ppm.bins, kernel)


def print_sizes(args: argparse.Namespace) -> None:
    """`pspnet export --sizes`: print the table, and write it where --json says."""
    if args.sizes is None:
        raise PspnetError("--cameras says what each of --sizes does to their pictures: give --sizes too")
    names = ("output", "size", "fit", "fp16", "head", "data", "split", "images")
    if given := [name for name in names if getattr(args, name) is not None and getattr(args, name) is not False]:
        raise PspnetError(f"--sizes only prints, nothing is exported: leave out --{given[0]}")
    if args.dataset != "auto":
        raise PspnetError("--sizes only prints, nothing is exported: leave out --dataset")
    table = table_of(args.checkpoint, args.sizes, args.cameras)
    print(text_of(table))
    if args.json:
        write_json(args.json, table)


def table_of(checkpoint: str | Path | None, sizes: str, cameras: str | None) -> dict[str, Any]:
    """Everything `pspnet export --sizes` says, for JSON; `text_of` prints it.

    checkpoint: None for the default network. sizes, cameras: lists of HxW with commas; cameras None for common ones.
    PspnetError where one is no size, or its map is smaller than the largest bin.
    """
    pixels, picture_sizes = _list_of(sizes), _list_of(DEFAULT_CAMERAS if cameras is None else cameras)
    spec, model = _default_network() if checkpoint is None else load_model(checkpoint)
    shape = shape_of(model.head)
    return {
        "kind": "sizes", "checkpoint": None if checkpoint is None else Path(checkpoint).name,
        "backbone": spec.backbone, "output_stride": spec.output_stride, "bins": list(shape.bins),
        "channels": shape.channels, "branch_channels": shape.branch_channels, "head_channels": shape.head_channels,
        "kernel": shape.kernel, "classes": shape.classes,
        "sizes": [size_facts(shape, size, spec.output_stride) for size in pixels],
        "pictures": [picture_facts(camera, size, fit) for camera in picture_sizes for size in pixels for fit in FITS],
    }  # fmt: skip


def size_facts(shape: HeadShape, size: tuple[int, int], output_stride: int) -> dict[str, Any]:
    """Map, divisible pools and cost of the head's three forms at one input size (height, width) in pixels."""
    check_size(size, output_stride, shape.bins)
    height, width = cells = map_size(size, output_stride)
    costs = multiply_adds(shape, cells)
    totals = {form: sum(cost.values()) for form, cost in costs.items()}
    return {
        "size": list(size), "map": list(cells),
        "pools": [{"bin": b, "height": height % b == 0, "width": width % b == 0} for b in shape.bins],
        "multiply_adds": {form: {**costs[form], "total": totals[form]} for form in FORMS},
        "to_trained": {form: totals[form] / totals["trained"] for form in ("fixed", "folded")},
        "constant_bytes": constant_bytes(shape, cells),
    }  # fmt: skip


def multiply_adds(shape: HeadShape, cells: tuple[int, int]) -> dict[str, Cost]:
    """Multiply-adds by step of the head as trained, fixed and folded, for one picture.

    cells: (height, width) of the feature map. Convolutions and matrix products count fully, their zeros included.
    Adaptive pooling counts one per value that it reads, bilinear upsampling four per value that it writes. What is
    done once per value (bias, ReLU, the folded form's mask and sum, copies) is not counted in any form.
    """
    area = cells[0] * cells[1]
    branches = sum(b * b for b in shape.bins) * shape.channels * shape.branch_channels
    taps = area * shape.kernel**2 * shape.head_channels
    classifier = area * shape.head_channels * shape.classes
    whole = taps * (shape.channels + shape.context_channels)
    trained = {
        "pooling": shape.channels * sum(_reads(cells[0], b) * _reads(cells[1], b) for b in shape.bins),
        "branches": branches,
        "upsampling": 4 * area * shape.context_channels,
        "bottleneck": whole,
        "classifier": classifier,
    }
    fixed = {
        "pooling": shape.channels * sum(_pooling(cells, b) for b in shape.bins),
        "branches": branches,
        "upsampling": shape.branch_channels * sum(_spreading(cells, b) for b in shape.bins),
        "bottleneck": whole,
        "classifier": classifier,
    }
    return {"trained": trained, "fixed": fixed, "folded": _folded(shape, cells, taps * shape.channels, classifier)}


def _folded(shape: HeadShape, cells: tuple[int, int], bottleneck: int, classifier: int) -> Cost:
    """Multiply-adds of `FoldedHead.forward`, line by line."""
    side, own = padded(sum(shape.bins)), padded(sum(b * b for b in shape.bins))
    blocks = shape.kernel**2 * shape.head_channels
    return {
        "pooling": shape.channels * (_pooling(cells, side) + side**2 * own),
        "branches": own * shape.channels * shape.context_channels,
        "taps": own * shape.context_channels * blocks,
        "upsampling": blocks * own * side**2 + shape.head_channels * _spreading(cells, shape.kernel * side),
        "bottleneck": bottleneck,
        "classifier": classifier,
    }


def constant_bytes(shape: HeadShape, cells: tuple[int, int]) -> dict[str, int]:
    """Bytes of the float32 matrices that each exported form stores for a map of (height, width); no weights."""
    side, own = padded(sum(shape.bins)), padded(sum(b * b for b in shape.bins))
    folded = (1 + shape.kernel) * side * sum(cells) + 2 * side**2 * own + shape.context_channels * own
    return {"fixed": FLOAT_BYTES * 2 * sum(shape.bins) * sum(cells), "folded": FLOAT_BYTES * folded}


def picture_facts(camera: tuple[int, int], size: tuple[int, int], fit: str) -> dict[str, Any]:
    """What `Geometry` does with the picture of one camera at one input size, both (height, width).

    scale: network pixels per camera pixel, (rows, columns). wider: how many times wider than it was a thing looks,
    below 1 narrower. border: share of the network's picture that the camera does not fill. unseen: share of the
    camera's picture that the network does not get.
    """
    geometry = Geometry(camera, size, fit)
    (rows, _), (columns, _) = geometry.axis_maps
    filled = _share(geometry.network_from_camera(0, 0), geometry.network_from_camera(*camera), size)
    seen = _share(geometry.camera_from_network(0, 0), geometry.camera_from_network(*size), camera)
    return {
        "camera": list(camera), "size": list(size), "fit": fit, "scale": [rows, columns],
        "wider": columns / rows, "border": 1 - filled, "unseen": 1 - seen,
    }  # fmt: skip


def text_of(table: dict[str, Any]) -> str:
    """The table as two blocks of aligned lines: the head's cost by size, then the cameras' pictures."""
    bins = ", ".join(map(str, table["bins"])) or "none"
    network = f"{table['backbone']}, output stride {table['output_stride']}, bins {bins}, {table['classes']} classes"
    origin = table["checkpoint"] or "the default network (give a checkpoint for another)"
    costs = [
        ["size", "map", "divisible pools", "as trained", "fixed", "folded", "of trained", "fixed", "folded"],
        *map(_size_cells, table["sizes"]),
    ]  # fmt: skip
    pictures = table["pictures"]  # of each camera and size, one for each of FITS
    fits = [
        ["camera", "size", "scale", "things look", "scale", "border", "scale", "unseen"],
        *(_picture_cells(*pictures[i : i + len(FITS)]) for i in range(0, len(pictures), len(FITS))),
    ]  # fmt: skip
    lines = [
        f"{origin}: {network}", "",
        "the head, for one picture; where a bin divides the map's height and width, its pool is a plain average pool",
        *_aligned(costs, 3, {3: "multiply-adds, 10^9", 7: "float32 constants, kB"}), "",
        "the camera's picture by --fit; scale: network pixels per camera pixel, rows x columns where they differ",
        *_aligned(fits, len(fits[0]), {2: "stretch", 4: "letterbox", 6: "crop"}),
    ]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def _aligned(rows: list[list[str]], left: int, titles: dict[int, str]) -> list[str]:
    """Rows as lines with columns two spaces apart, the first `left` flush left; titles: of the columns from one on."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    head = ""
    for column, title in titles.items():
        start = sum(widths[:column]) + (2 if column >= left else 0)
        head = f"{head:{start}}{title}"
    lines = [
        "".join(f"{cell:<{width}}" for cell, width in zip(row[:left], widths[:left], strict=True))
        + "".join(f"{cell:>{width}}" for cell, width in zip(row[left:], widths[left:], strict=True))
        for row in rows
    ]  # fmt: skip
    return [head, *lines]


def _size_cells(facts: dict[str, Any]) -> list[str]:
    pools = ", ".join(str(pool["bin"]) for pool in facts["pools"] if pool["height"] and pool["width"]) or "none"
    trained, fixed, folded = (f"{facts['multiply_adds'][form]['total'] / 1e9:.2f}" for form in FORMS)
    constants = [f"{facts['constant_bytes'][form] / 1e3:.1f}" for form in ("fixed", "folded")]
    share = f"{100 * facts['to_trained']['folded']:.0f} %"
    return [_size(facts["size"]), _size(facts["map"]), pools, trained, fixed, folded, share, *constants]


def _picture_cells(stretch: dict[str, Any], letterbox: dict[str, Any], crop: dict[str, Any]) -> list[str]:
    wider = stretch["wider"]
    more = f"{100 * (max(wider, 1 / wider) - 1):.1f} %"
    bent = "as they are" if more == "0.0 %" else f"{more} {'wider' if wider > 1 else 'taller'}"
    return [
        _size(stretch["camera"]), _size(stretch["size"]), _scale(stretch["scale"]), bent,
        _scale(letterbox["scale"]), f"{100 * letterbox['border']:4.1f} %",
        _scale(crop["scale"]), f"{100 * crop['unseen']:4.1f} %",
    ]  # fmt: skip


def _size(size: list[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _scale(scale: list[float]) -> str:
    rows, columns = (f"{value:.3f}" for value in scale)
    return rows if rows == columns else f"{rows} x {columns}"


def _reads(pixels: int, cells: int) -> int:
    """Pixels that adaptive pooling reads along one axis, those of overlapping windows more than once."""
    return int((pool_matrix(pixels, cells) > 0).sum())


def _pooling(cells: tuple[int, int], side: int) -> int:
    """Multiply-adds per channel of P_h (X P_w^T): (h, w) to (side, side)."""
    return cells[0] * cells[1] * side + side * cells[0] * side


def _spreading(cells: tuple[int, int], side: int) -> int:
    """Multiply-adds per channel of (S_h Y) S_w^T: (side, side) to (h, w)."""
    return cells[0] * side * side + cells[0] * side * cells[1]


def _share(first: tuple[float, float], last: tuple[float, float], size: tuple[int, int]) -> float:
    """Share of a picture of (height, width) that lies between two corners."""
    spans = [min(stop, side) - max(start, 0.0) for start, stop, side in zip(first, last, size, strict=True)]
    return spans[0] * spans[1] / (size[0] * size[1])


def _list_of(text: str) -> list[tuple[int, int]]:
    return [size_from_text(part.strip()) for part in text.split(",")]


def _default_network() -> tuple[ModelSpec, PSPNet]:
    """What `pspnet train` makes without further flags, without weights."""
    names = tuple(f"class {index}" for index in range(DEFAULT_CLASSES))
    spec = ModelSpec(
        "mobilenet_v2", 8, (1, 2, 3, 6), *default_widths("mobilenet_v2"), names, ((0, 0, 0),) * DEFAULT_CLASSES,
        (360, 480),
    )  # fmt: skip
    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        return spec, PSPNet(spec)
