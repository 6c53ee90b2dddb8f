"""What plans are built of: the ONNX file, its float network, and the typed twins that strong typing needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from calibration.artefacts import table_path
from calibration.builder import STRONG
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.metadata import artefact_sha256, carries_spec, extra, read_model, spec_from_model
from pspnet.spec import ModelSpec
from runtime.fp16_typing import fp16_from_fp32, half_path
from runtime.runner import check_constants

INT8_SUFFIX = ".int8.onnx"


@dataclass(frozen=True)
class Source:
    """An ONNX file of ours, typed float32: precision "fp32", or "int8" with Q/DQ."""

    path: Path
    precision: str

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph with its weights."""
        return read_model(self.path)

    @cached_property
    def spec(self) -> ModelSpec:
        """The network's spec."""
        return spec_from_model(self.model, self.path)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file and of its external data."""
        return artefact_sha256(self.path)

    @cached_property
    def table(self) -> CalibrationTable | None:
        """The calibration table beside an INT8 file, None where there is none that is its own."""
        path = table_path(self.path)
        if self.precision != "int8" or not path.is_file():
            return None
        try:
            table = CalibrationTable.load(path)
        except PspnetError:  # of another kind: figures, or a guest's spec
            return None
        return table if table.onnx_sha256 == self._float_sha256 else None

    def float_source(self) -> Source | None:
        """The float network of this file: itself, or the file beside it that an INT8 file was calibrated from.

        Known by its hash, so its name does not matter; the usual one is tried first.
        """
        if self.precision == "fp32":
            return self
        if self._float_sha256 is None:
            return None
        others = sorted(path for path in self.path.parent.glob("*.onnx") if path not in (self.usual_float, self.path))
        for path in (self.usual_float, *others):
            if path.is_file() and path != self.path and _hash_or_none(path) == self._float_sha256:
                return Source(path, "fp32")
        return None

    @property
    def usual_float(self) -> Path:
        """Where the float network of an INT8 file is wont to lie: model.onnx beside model.int8.onnx."""
        return self.path.with_name(self.path.name.removesuffix(INT8_SUFFIX).removesuffix(".onnx") + ".onnx")

    def graph(self, route: str, precision: str) -> tuple[bytes, str]:
        """The graph to build on a route in a precision, and where it comes from, in words.

        Weak typing, and fp32 on any route, take the file itself. Strong typing takes the float16-typed twin: that
        beside the file where it is typed from this very graph, otherwise one typed here, which has the same nodes and
        constants, because typing is deterministic.
        """
        if route != STRONG or precision == "fp32":
            return self.model.SerializeToString(), self.path.name
        typed, twin = fp16_from_fp32(self.model), half_path(self.path)
        if not twin.is_file():
            return typed.SerializeToString(), f"{self.path.name}, typed float16 in memory"
        if _same_graph(typed, read_model(twin)):
            return typed.SerializeToString(), twin.name
        return (
            typed.SerializeToString(),
            f"{self.path.name}, typed float16 in memory, because {twin.name} was typed from another graph",
        )

    @property
    def _float_sha256(self) -> str | None:
        """Hash of the file that an INT8 file was calibrated from, as its metadata says."""
        facts = extra(self.model, "calibration")
        return str(facts["onnx_sha256"]) if isinstance(facts, dict) and "onnx_sha256" in facts else None


def source_at(path: str | Path) -> Source:
    """The file that `pspnet build` was given; PspnetError for what it cannot build."""
    path = Path(path)
    if path.suffix != ".onnx" or not path.is_file():
        what = "is no ONNX file" if path.is_file() else "is no file"
        raise PspnetError(f"{path} {what}: give model.onnx of `pspnet export` or model.int8.onnx of `pspnet calibrate`")
    if not carries_spec(path):
        raise PspnetError(
            f"{path} is a guest, a network of another tool, whose input TensorRT engines here do not take: build a "
            "file of `pspnet export`; guests run on openvino and ort"
        )
    model = read_model(path)
    spec_from_model(model, path)
    check_constants(model, path)
    precision = str(extra(model, "precision") or "fp32")
    if precision not in ("fp32", "int8"):
        raise PspnetError(
            f"{path} is typed {precision}: give the file that it was typed from, and the twin is taken where this "
            "TensorRT needs it"
        )
    return Source(path, precision)


def companions(path: str | Path) -> list[Path]:
    """The files beside `path` that a build of it reads as well, where they are there: twin, table, float network."""
    source = source_at(path)
    found = [half_path(source.path)] if half_path(source.path).is_file() else []
    if source.table is not None:
        found.append(table_path(source.path))
    if (original := source.float_source()) is not None and original is not source:
        found.append(original.path)
    return found


def _hash_or_none(path: Path) -> str | None:
    """Hash of an ONNX file, None where it is none or lacks its external data."""
    try:
        return artefact_sha256(path)
    except PspnetError:
        return None


def _same_graph(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Whether two graphs have the same nodes and constants; names of the graph and noted shapes do not count."""
    return _content(one) == _content(other)


def _content(model: onnx.ModelProto) -> tuple[list[bytes], dict[str, bytes]]:
    nodes = [node.SerializeToString(deterministic=True) for node in model.graph.node]
    return nodes, {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in model.graph.initializer}
