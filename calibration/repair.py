"""Repairs of a float graph that loses too much in INT8: each builds on the one before, and each is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from calibration.bias_correction import bias_corrected
from calibration.choose import figures, with_ranges
from calibration.collect import measured, total
from calibration.equalise import equalised
from calibration.images import CalibrationImages
from calibration.quantize import quantized
from calibration.score import Judge
from calibration.table import CalibrationTable
from calibration.tuning_pictures import TuningPictures
from pspnet.errors import PspnetError
from pspnet.wording import counted

UNREPAIRED = "none"


@dataclass(frozen=True)
class Finetune:
    """epochs: passes over the pictures. lr: of Adam, relative to the size of a weight's channel, a bias or a scale."""

    epochs: int
    lr: float = 1e-4
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, flag, low, high in (
            ("epochs", self.epochs, "--finetune", 1, 10_000), ("learning rate", self.lr, "--finetune-lr", 1e-8, 0.1),
            ("batch", self.batch, "--finetune-batch", 1, 1024),
        ):  # fmt: skip
            if not low <= value <= high:
                raise PspnetError(f"{name} of fine-tuning is {value:g}: give {flag} between {low:g} and {high:g}")


@dataclass(frozen=True)
class Repairs:
    """Which repairs to make."""

    equalise: bool = False
    bias_correction: bool = False
    finetune: Finetune | None = None


def repairs_from_flags(
    equalise: bool, bias_correction: bool, epochs: int | None, lr: float | None, batch: int | None
) -> Repairs | None:
    """The repairs that flags of the command line ask for; None for none. epochs, lr, batch: None where not given."""
    given = {"lr": lr, "batch": batch}
    if epochs is None and (stray := [name for name, value in given.items() if value is not None]):
        raise PspnetError(f"--finetune-{stray[0]} is of fine-tuning: give --finetune EPOCHS, or leave it out")
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    repairs = Repairs(equalise, bias_correction, None if epochs is None else Finetune(epochs, **known))
    return None if repairs == Repairs() else repairs


@dataclass(frozen=True)
class Repaired:
    """A float graph, its table, and one row of figures for every state: before any repair, then after each."""

    model: onnx.ModelProto
    table: CalibrationTable
    rows: list[dict[str, Any]]


def repaired(
    model: onnx.ModelProto, table: CalibrationTable, images: CalibrationImages, method: tuple[str, float],
    repairs: Repairs, pictures: Callable[[], TuningPictures], judge: Judge | None, quiet: bool = False,
) -> Repaired:  # fmt: skip
    """The float graph with the repairs that were asked for, to be quantised with the table.

    table: of the graph as it is. images, method: of calibration, which equalisation makes necessary once more; method
    is the name and the percentile. pictures: gives what fine-tuning learns from. judge: scores every state, None for
    none.
    """
    state = _scored(Repaired(model, table, []), UNREPAIRED, judge)
    if repairs.equalise:
        changed, pairs = equalised(model, images.inputs)
        parts = measured(changed, list(table.amax), images.inputs, images.names, quiet)
        (found,) = total(parts, [[1] * len(images.inputs)])
        state = dataclasses.replace(state, model=changed, table=with_ranges(table, found, *method))
        state = _scored(state, f"equalisation of {counted(len(pairs), 'pair')} of convolutions", judge)
    if repairs.bias_correction:
        changed, count = bias_corrected(state.model, state.table, images.inputs, quiet)
        state = dataclasses.replace(state, model=changed)
        state = _scored(state, f"bias correction of {counted(count, 'convolution')}", judge)
    if repairs.finetune:
        from calibration.finetune import finetuned

        learned_from = pictures()
        changed, table = finetuned(state.model, state.table, learned_from, repairs.finetune, quiet)
        state = dataclasses.replace(state, model=changed, table=table)
        state = _scored(state, text_of_finetune(repairs.finetune, learned_from), judge)
    words = [row["repair"] for row in state.rows[1:]]
    return dataclasses.replace(state, table=dataclasses.replace(state.table, repairs=words))


def text_of_finetune(config: Finetune, pictures: TuningPictures) -> str:
    """What was done, in words."""
    labels = "labels and the float network" if pictures.labelled else "the float network"
    return (
        f"fine-tuning, {counted(config.epochs, 'epoch')} of {counted(len(pictures), 'image')} of {pictures.source}, "
        f"learning rate {config.lr:g}, batch {config.batch}, seed {config.seed}, from {labels}"
    )


def text_of(rows: list[dict[str, Any]], figure: str) -> str:
    """The rows of `Repaired` as lines to print; without a judge, what was done alone."""
    lines = []
    if "value" in rows[0]:
        lines.append(f"{figure:>19}  {'loss':>6}  {'equal labels':>12}  {'SQNR dB':>7}  after repair")
    for row in rows:
        cells = ""
        if "value" in row:
            sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
            cells = f"{row['value']:>19.2f}  {row['loss']:>6.2f}  {row['agreement']:>12.2f}  {sqnr:>7}  "
        lines.append(f"{cells}{row['repair']}")
    return "\n".join(lines)


def _scored(state: Repaired, words: str, judge: Judge | None) -> Repaired:
    row: dict[str, Any] = {"repair": words}
    if judge:
        row |= figures(judge, judge.score(quantized(state.model, state.table), title=words.split(",")[0]))
    return dataclasses.replace(state, rows=[*state.rows, row])
