"""CalibrationTable: one range per tensor, and what it rests on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import read_json, write_json

KIND = "calibration table"


@dataclass(frozen=True)
class CalibrationTable:
    """Activation ranges of one ONNX file.

    amax: tensor name -> largest magnitude that INT8 represents; the scale is amax / 127. images: SHA-256 of each
    picture's pixels by its name. onnx_sha256: of the float file that the ranges belong to. weights: convolution ->
    range of each output channel, where it is not the largest magnitude. float_layers: convolutions that stay in float.
    repairs: what was done to the float weights, in words.
    """

    onnx_sha256: str
    method: str
    source: str
    images: dict[str, str]
    amax: dict[str, float]
    weights: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    float_layers: list[str] = dataclasses.field(default_factory=list)
    repairs: list[str] = dataclasses.field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        write_json(path, {"kind": KIND, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """The inverse of `save`; PspnetError where the file is of another kind."""
        raw = read_json(path, KIND, "`pspnet calibrate` writes one")
        if not isinstance(raw, dict) or raw.pop("kind", None) != KIND:
            raise PspnetError(f"{path} is no calibration table: give the .json that `pspnet calibrate` wrote")
        return cls.from_raw(raw, path)

    @classmethod
    def from_raw(cls, raw: Any, path: str | Path) -> CalibrationTable:
        """A table of its fields as JSON holds them; PspnetError, naming `path`, where they are not those of a table."""
        try:
            table = cls(**raw)
            sound = all(map(_is_number, table.amax.values())) and all(
                all(map(_is_number, row)) for row in table.weights.values()
            )
            lists = isinstance(table.float_layers, list) and isinstance(table.repairs, list)
            sound = sound and lists and isinstance(table.images, dict)
            words = (table.onnx_sha256, table.method, table.source, *table.float_layers, *table.repairs)
            sound = sound and all(isinstance(word, str) for word in words)
        except (TypeError, AttributeError) as error:
            raise PspnetError(f"calibration table {path} is damaged: {error}. Calibrate again") from error
        if not sound:
            raise PspnetError(
                f"calibration table {path} is damaged: a range is no number, a name no text, or a list no list. "
                "Calibrate again"
            )
        return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
