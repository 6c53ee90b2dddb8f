"""The Pareto front of a search: its mixes by time and figure, as JSON and as a plot, and the one to take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from calibration.check import over_budget
from calibration.confirm import Judges
from calibration.cost import rates_of, total_ms
from calibration.placement import place
from calibration.rates import rates_of_cpu
from calibration.score import Judge
from calibration.search import Budget, Mix, Search
from calibration.sensitivity import mixed, network_sha256
from calibration.table import CalibrationTable
from calibration.timing import NOT_MEASURED, SIMULATION, interleaved
from pspnet.doctor import cpu_flags
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, read_json
from pspnet.metadata import spec_from_model
from pspnet.plots import Point, pareto

KIND = "int8 front"
MOST_TIMED = 8  # mixes whose engines are held at once
SECONDS = 12.0  # of timing, for all mixes together


def device_here() -> str:
    """The row of the table of peak rates that this machine's CPU comes closest to."""
    return rates_of_cpu(cpu_flags())


def front_of(
    model: onnx.ModelProto, table: CalibrationTable, judges: Judges, budget: Budget, found: Search,
    device: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Every mix of `found` and the float network, fit for JSON; "pareto" marks the front, "chosen" is the one to take.

    Those on the front of the estimate are timed on the judge's engine and ranked again, unless `device` names a device
    of the table of peak rates or the engine only simulates INT8: then "time" is "not measured", the estimate decides.
    "unseen" of a mix is its score by the final judge, where that one has pictures that the search has not seen.
    """
    judge = judges.chooser
    here = device is None and judge.engine != SIMULATION
    device = device or device_here()
    rates = rates_of(device)
    every = sorted({*table.float_layers, *place(model, table.float_layers).convolutions})
    exact = Mix(tuple(every), judge.baseline, 0.0, total_ms(model, rates), ())
    front = ranked({
        "kind": KIND, **judge.facts(), "choice": judges.facts(), "budget": dataclasses.asdict(budget),
        "device": device, "rates": rates.source, "time": NOT_MEASURED, "network_sha256": network_sha256(model),
        "table": dataclasses.asdict(table), "all_float": every,
        "mixes": [_row(mix, judge) for mix in (*found.mixes, exact)],
    })  # fmt: skip
    if here:
        front = timed(front, model, judge.pictures.inputs, judge.engine, judge.threads, quiet)
    return _confirmed(front, model, table, judges, budget, quiet) if judges.confirms else front


def _confirmed(
    front: dict[str, Any], model: onnx.ModelProto, table: CalibrationTable, judges: Judges, budget: Budget, quiet: bool
) -> dict[str, Any]:
    """The front with "unseen" of every mix that may be taken, here or on a machine with other times."""

    def unseen(row: dict[str, Any]) -> dict[str, Any]:
        judge, score = judges.final, judges.final.score(mixed(model, table, row["float_layers"]), None)
        return {
            "value": score.value, "loss": judge.loss(score), "loss_interval": judge.loss_interval(score),
            "agreement": score.agreement, "warnings": over_budget(judges, score, budget),
        }  # fmt: skip

    rows = list(front["mixes"])
    takeable = [i for i in _takeable(front, range(len(rows))) if rows[i]["pareto"] or i == front["chosen"]]
    for index in tqdm(takeable, desc="unseen", unit="mix", leave=False, disable=quiet):
        rows[index] = {**rows[index], "unseen": unseen(rows[index])}
    return {**front, "mixes": rows}


def ranked(front: dict[str, Any]) -> dict[str, Any]:
    """The front with "pareto" and "chosen" set by time, or by the estimate where nothing was timed.

    "chosen" is the index of the fastest mix with INT8 in it that keeps the budget.
    """
    rows = front["mixes"]
    times = [row["time_ms"] for row in rows]
    compete = [index for index, time_ms in enumerate(times) if time_ms or not any(times)]
    points = [Point("", "", 1 / milliseconds(rows[i]), 0, 0, rows[i]["value"]) for i in compete]
    best = {index for index, undominated in zip(compete, pareto(points), strict=True) if undominated}
    chosen = min(_takeable(front, compete), key=lambda index: milliseconds(rows[index]))
    return {**front, "mixes": [{**row, "pareto": i in best} for i, row in enumerate(rows)], "chosen": chosen}


def _takeable(front: Mapping[str, Any], indices: Iterable[int]) -> list[int]:
    """Those mixes that keep the budget and have INT8 in them."""
    rows = front["mixes"]
    return [i for i in indices if not rows[i]["missed"] and rows[i]["float_layers"] != front["all_float"]]


def timed(
    front: dict[str, Any], model: onnx.ModelProto, inputs: Sequence[np.ndarray], engine: str, threads: int | None,
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The front with its best mixes timed on an engine, in turns, and ranked by that.

    PspnetError where the engine only simulates INT8.
    """
    table, rows = CalibrationTable(**front["table"]), front["mixes"]
    chosen = _to_time(front)
    variants = {str(index): mixed(model, table, rows[index]["float_layers"]) for index in chosen}
    times = interleaved(variants, inputs, engine, threads, SECONDS, quiet)
    if times.engine == SIMULATION:
        raise PspnetError("ONNX Runtime only simulates INT8, so its times rank nothing: time mixes where OpenVINO is")
    new = [{**row, "time_ms": times.ms.get(str(index))} for index, row in enumerate(rows)]
    return ranked({**front, "mixes": new, "time": times.facts()})


def reranked(
    path: str | Path, model: onnx.ModelProto, engine: str = "auto", threads: int | None = None, quiet: bool = False
) -> dict[str, Any]:
    """The front in the file `path`, timed on the engine at hand, on noise: neither pictures nor a search are needed."""
    front = read_json(path, "front", "`pspnet calibrate --front` writes one")
    if not isinstance(front, dict) or front.get("kind") != KIND:
        raise PspnetError(f"{path} is no front: give the JSON file that `pspnet calibrate --front` wrote")
    if front.get("network_sha256") != network_sha256(model):
        raise PspnetError(
            f"{path} belongs to another network, or to one that was repaired before the search: give the ONNX file "
            "that it was made of, or calibrate here"
        )
    _check_whole(front, path)
    noise = np.random.default_rng(0).integers(0, 256, (1, *spec_from_model(model).input_size, 3), np.uint8)
    return timed(front, model, [noise], engine, threads, quiet)


def _check_whole(front: dict[str, Any], path: str | Path) -> None:
    """PspnetError where a front lacks what ranking needs."""
    rows: Any = front.get("mixes")
    row_keys = {"float_layers", "value", "loss", "missed", "cost_ms", "time_ms", "pareto", "unseen"}
    whole = {"network_sha256", "table", "all_float", "budget", "figure", "chosen", "choice"} <= front.keys() and (
        isinstance(rows, list) and all(isinstance(row, dict) and row_keys <= row.keys() for row in rows)
    )
    if not whole or not isinstance(front["chosen"], int) or not 0 <= front["chosen"] < len(rows):
        raise PspnetError(f"{path} is no whole front: search again with `pspnet calibrate --front`")
    CalibrationTable.from_raw(front["table"], path)


def milliseconds(row: Mapping[str, Any]) -> float:
    """The measured time of a mix, or its estimate where there is none."""
    return row["time_ms"]["median"] if row["time_ms"] else row["cost_ms"]


def write_plot(path: str | Path, front: Mapping[str, Any]) -> None:
    """Time or estimated cost against the figure as one PNG: all mixes, the front, the budget and the chosen mix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measured = front["time"] != NOT_MEASURED
    rows = [row for row in front["mixes"] if row["time_ms"] or not measured]
    best = sorted((milliseconds(row), row["value"]) for row in rows if row["pareto"])
    chosen = front["mixes"][front["chosen"]]
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    axis.plot([milliseconds(row) for row in rows], [row["value"] for row in rows], "o", color="#9aa5b1", label="mixes")
    axis.plot(*zip(*best, strict=True), "o-", color="#3b6ea5", label="Pareto front")
    if confirmed := [(milliseconds(row), front["float"] - row["unseen"]["loss"]) for row in rows if row["unseen"]]:
        axis.plot(*zip(*confirmed, strict=True), "x", color="#c8553d", label="with the loss on unseen pictures")
    axis.plot(milliseconds(chosen), chosen["value"], "*", markersize=16, color="#c8553d", label="chosen")
    axis.axhline(front["float"] - front["budget"]["max_drop"], color="#555", linestyle="--", label="budget")
    for row in rows:
        in_float = len(row["float_layers"])
        note = "FP32" if row["float_layers"] == front["all_float"] else f"{in_float} in float"
        axis.annotate(note, (milliseconds(row), row["value"]), (4, 4), textcoords="offset points", fontsize=7)
    here = f"measured on {front['engine']}" if measured else f"estimated, {front['device']}; time: {NOT_MEASURED}"
    axis.set(xlabel=f"ms per picture, network alone, {here}", ylabel=f"{front['figure']}, %")
    axis.set_title(f"INT8 and float, {front['images']} held-out images of {front['source']}")
    axis.grid(alpha=0.3)
    axis.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _row(mix: Mix, judge: Judge) -> dict[str, Any]:
    return {
        "float_layers": list(mix.float_layers), "value": mix.score.value, "loss": mix.loss,
        "loss_interval": judge.loss_interval(mix.score),
        "agreement": mix.score.agreement, "per_class": mix.score.per_class, "missed": list(mix.missed),
        "cost_ms": mix.cost_ms, "time_ms": None, "unseen": None,
    }  # fmt: skip


def _to_time(front: Mapping[str, Any]) -> list[int]:
    """Indices of the mixes on the front, thinned to MOST_TIMED; the ends and the chosen one are always among them."""
    rows = front["mixes"]
    best = sorted((i for i, row in enumerate(rows) if row["pareto"]), key=lambda i: milliseconds(rows[i]))
    kept = {best[place] for place in np.linspace(0, len(best) - 1, min(MOST_TIMED, len(best))).round().astype(int)}
    return sorted(kept | {front["chosen"], len(rows) - 1})
