"""The verb `calibrate`: pictures, ranges, table, the INT8 graph, and what it keeps of the float network."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import onnx

from calibration import check, choose
from calibration.artefacts import check_replaced, facts_of, table_for, write_artefacts
from calibration.collect import Histograms, measured, total
from calibration.confirm import Judges, judges_of
from calibration.held_out import FEWEST, HeldOut, held_out_pictures
from calibration.hygiene import check_pictures, coverage
from calibration.images import CalibrationImages, calibration_images
from calibration.mix import MixChoice, with_best_mix
from calibration.placement import place
from calibration.quantize import quantized
from calibration.ranges import PERCENTILE, check_method
from calibration.repair import Repairs, repaired
from calibration.score import Judge
from calibration.table import CalibrationTable
from calibration.tuning_pictures import tuning_pictures
from pspnet.errors import PspnetError
from pspnet.metadata import artefact_sha256, extra, read_model, spec_from_model
from pspnet.spec import ModelSpec
from pspnet.wording import counted
from runtime.runner import check_constants

OVERFLOW_PICTURES = 4
"""Calibration pictures on which the float16-typed twin is searched for values that overflow."""


@dataclasses.dataclass(frozen=True)
class HeldOutChoice:
    """How INT8 is compared with the float network on pictures that calibration does not see.

    check: None compares where the source has pictures left, True refuses where it has none, False does not compare.
    resamples: how many bootstrap samples of the calibration pictures show the spread of the figure.
    """

    images: int = 24
    check: bool | None = None
    resamples: int = 0
    engine: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.images < FEWEST:
            raise PspnetError(f"{counted(self.images, 'held-out image')}: too few, give --held-out {FEWEST} or more")
        if self.resamples < 0 or self.resamples == 1:
            raise PspnetError(f"resamples is {self.resamples}: give --resamples 2 or more, or leave it out")
        if self.resamples and self.check is False:
            raise PspnetError("--resamples is a spread on held-out images: leave out --no-check")


def held_out_from_flags(
    images: int | None, check: bool | None, resamples: int | None, engine: str, threads: int | None
) -> HeldOutChoice:
    """The choice that flags of the command line make, None where not given; PspnetError for one that says nothing."""
    given = {
        "images": images,
        "resamples": resamples,
        "engine": None if engine == "auto" else engine,
        "threads": threads,
    }
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if check is False and known:
        flag = next(iter(known)).replace("images", "held-out")
        raise PspnetError(f"--{flag} is of the comparison on held-out images: leave out --no-check, or --{flag}")
    return HeldOutChoice(check=check, **known)


def calibrate(
    model_path: str | Path, output: str | Path, data: str | Path, dataset: str = "auto", split: str | None = None,
    count: int | None = None, method: str = "percentile", percentile: float = PERCENTILE, force: bool = False,
    held_out: HeldOutChoice | None = None, repairs: Repairs | None = None, mix: MixChoice | None = None,
    fp16: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the Q/DQ graph to `output` and the table beside it with the suffix .json; returns a summary.

    method: one of `ranges.METHODS`, or auto for the one that keeps most on held-out pictures. count: calibration
    pictures, None for as many as `calibration_images` takes by itself. force: overrules refusals of pictures. repairs:
    of the float weights, None for none. mix: what to do about single layers, None for nothing. fp16: write the
    float16-typed twin beside `output`.
    """
    held_out = held_out or HeldOutChoice()
    _check_choice(method, percentile, held_out, mix)
    model, spec = _float_model(model_path)
    if mix and mix.budget:
        mix.budget.check_names(spec.class_names)
    check_replaced(output)
    placement = place(model)
    images = calibration_images(data, dataset, split, count, spec, force)
    check_pictures(images, spec, data, dataset, force)
    table = CalibrationTable(artefact_sha256(model_path), method, images.source, images.hashes, {})
    summary = {**facts_of(model, table), "class_percent": coverage(images, data, dataset)}
    choices = (["method"] if method == choose.AUTO else []) + (["mix"] if mix and mix.budget else [])
    unseen, summary["unchecked"] = _unseen(images, spec, data, dataset, held_out, bool(choices or mix))
    parts = measured(model, list(placement.activations), images.inputs, images.names)
    found, *resampled = total(parts, choose.resampling(len(images.inputs), held_out.resamples))
    judge = Judge(model, unseen, held_out.engine, held_out.threads) if unseen else None
    judges = judges_of(judge, tuple(choices)) if judge else None
    table, chosen = _with_best_ranges(table, summary, model, judges, found, resampled, method, percentile)
    if repairs:
        hidden = unseen.hashes if unseen else {}
        learned_from = functools.partial(tuning_pictures, data, dataset, images.split, hidden, spec, images.inputs)
        fixed = repaired(model, table, images, chosen, repairs, learned_from, judges.final if judges else None)
        model, table, summary["repairs"] = fixed.model, fixed.table, fixed.rows
    if judges and mix:
        table, more = with_best_mix(model, table, judges, mix)
        summary |= more
    if judges:
        summary |= check.checked(model, quantized(model, table), judges, mix.budget if mix else None)
    return write_artefacts(model, table, output, summary, fp16, images.inputs[:OVERFLOW_PICTURES])


def calibrate_from_table(
    model_path: str | Path, output: str | Path, table_path: str | Path, fp16: bool = False
) -> dict[str, Any]:
    """Write the graph of a stored table again, without pictures; returns a summary.

    PspnetError where the table belongs to another ONNX file, or to weights that were repaired.
    """
    model, _ = _float_model(model_path)
    table = table_for(model_path, table_path)
    check_replaced(output)
    summary = {**facts_of(model, table), "unchecked": f"written again from {Path(table_path).name}"}
    return write_artefacts(model, table, output, summary, fp16)


def _check_choice(method: str, percentile: float, held_out: HeldOutChoice, mix: MixChoice | None) -> None:
    if method != choose.AUTO:
        check_method(method, percentile)
    elif held_out.check is False:
        raise PspnetError("--method auto chooses by held-out images: leave out --no-check, or choose a method")
    if mix and held_out.check is False:
        raise PspnetError("single layers are judged by held-out images: leave out --no-check")


def _float_model(path: str | Path) -> tuple[onnx.ModelProto, ModelSpec]:
    model = read_model(path)
    spec = spec_from_model(model, path)
    check_constants(model, path)
    if (precision := extra(model, "precision") or "fp32") != "fp32":
        raise PspnetError(f"{path} is {precision} already: calibrate the fp32 file that `pspnet export` wrote")
    return model, spec


def _unseen(
    images: CalibrationImages, spec: ModelSpec, data: str | Path, dataset: str, choice: HeldOutChoice, needed: bool
) -> tuple[HeldOut | None, str | None]:
    """The held-out pictures, or why there are none; PspnetError where they are needed or were asked for."""
    if choice.check is False:
        return None, "--no-check"
    try:
        return held_out_pictures(data, dataset, images.split, images.hashes, choice.images, spec), None
    except PspnetError as error:
        if needed or choice.check or choice.resamples:
            raise
        return None, str(error)


def _with_best_ranges(
    table: CalibrationTable, summary: dict[str, Any], model: onnx.ModelProto, judges: Judges | None, found: Histograms,
    resampled: list[Histograms], method: str, percentile: float,
) -> tuple[CalibrationTable, tuple[str, float]]:  # fmt: skip
    """The table with the ranges of the method, and the method with its percentile.

    The summary gets the method, what was compared and the spread.
    """
    if judges and method == choose.AUTO:
        (method, percentile), summary["compared"] = choose.compared(judges.chooser, model, found, table)
    table = choose.with_ranges(table, found, method, percentile)
    summary["method"] = table.method
    if judges and resampled:
        summary["resamples"] = choose.spread_of(judges.final, model, resampled, table, method, percentile)
    return table, (method, percentile)
