"""What `calibrate` does about single layers: sensitivities, the search for a mix of INT8 and float, and its front."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from calibration import artefacts, front, sensitivity
from calibration.artefacts import check_replaced, write_artefacts
from calibration.confirm import Judges
from calibration.cost import rates_of
from calibration.placement import place
from calibration.score import Judge
from calibration.search import Budget, budget_from_text, search
from calibration.table import CalibrationTable
from calibration.timing import NOT_MEASURED
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.metadata import artefact_sha256, read_model
from pspnet.wording import counted

SUFFIXES = (".json", ".png")


@dataclass(frozen=True)
class MixChoice:
    """What is asked for. sensitivity, front: JSON files to write, each with a plot beside it, or None.

    budget: None where no mix is searched. device: of the table of peak rates, None to measure on the engine at hand.
    """

    sensitivity: Path | None = None
    budget: Budget | None = None
    front: Path | None = None
    device: str | None = None

    def outputs(self) -> list[Path]:
        """Every file that will be written besides the artefacts."""
        return [file.with_suffix(end) for file in (self.sensitivity, self.front) if file for end in SUFFIXES]


def mix_from_flags(
    sensitivity: str | None, max_drop: float | None, class_floors: list[str], front: str | None, device: str | None
) -> MixChoice | None:
    """The choice that flags of the command line make, None where they ask for nothing; PspnetError for half of one."""
    if max_drop is None:
        given = {"class-floor": class_floors, "front": front, "device": device}
        if stray := [name for name, value in given.items() if value]:
            raise PspnetError(
                f"--{stray[0]} belongs to a search: give --max-miou-drop POINTS, for example 0.3, as well"
            )
        if sensitivity is None:
            return None
    if device:
        rates_of(device)
    budget = None if max_drop is None else budget_from_text(max_drop, class_floors)
    choice = MixChoice(json_path("sensitivity", sensitivity), budget, json_path("front", front), device)
    if choice.outputs():
        import matplotlib  # noqa: F401  # before hours of work, not after them
    return choice


def json_path(flag: str, text: str | None) -> Path | None:
    """NAME.json of a flag that takes NAME.json or NAME.png and writes both."""
    if text is None:
        return None
    if Path(text).suffix not in SUFFIXES:
        raise PspnetError(f"--{flag} {text} must end in .json or .png: both are written")
    return Path(text).with_suffix(".json")


def with_best_mix(
    model: onnx.ModelProto, table: CalibrationTable, judges: Judges, choice: MixChoice, quiet: bool = False
) -> tuple[CalibrationTable, dict[str, Any]]:
    """The table with the chosen layers in float, and what to add to the summary."""
    summary: dict[str, Any] = {}
    judge = judges.chooser
    if choice.budget:
        choice.budget.check(judge)
    # Fine-tuned weights differ from the float network's before any rounding: a layer is compared with its own network.
    own = Judge(model, judge.pictures, judge.engine, judge.threads, quiet) if table.repairs else judge
    few, rows = own.subset(sensitivity.IMAGES), []
    if choice.sensitivity:
        rows = sensitivity.sensitivities(model, table, few, choice.sensitivity, quiet)
        sensitivity.write_bars(choice.sensitivity.with_suffix(".png"), rows, few.facts())
        summary["sensitivity"] = {**few.facts(), "layers": [_finite(dataclasses.asdict(row)) for row in rows]}
    if choice.budget:
        rates = rates_of(choice.device or front.device_here())
        if table.repairs and not rows:
            rows = sensitivity.sensitivities(model, table, few, quiet=quiet)
        found = search(model, table, judge, choice.budget, rates, rows, quiet)
        result = front.front_of(model, table, judges, choice.budget, found, choice.device, quiet)
        _write_front(choice.front, result)
        table, summary["search"] = _chosen(table, result), facts_of(result)
    summary["int8_convolutions"] = len(place(model, table.float_layers).convolutions)
    return table, summary


def rerank(
    model_path: str | Path, front_path: str | Path, output: str | Path, new_front: Path | None = None,
    fp16: bool = False, engine: str = "auto", threads: int | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Time the mixes of a front on the engine at hand, and write the artefacts of the fastest within its budget.

    new_front: where the front with its new times goes, if anywhere. fp16: write the float16-typed twin too. Returns the
    summary.
    """
    check_replaced(output)
    model = read_model(model_path)
    result = front.reranked(front_path, model, engine, threads, quiet)
    table = _chosen(CalibrationTable(**result["table"]), result)
    if table.onnx_sha256 != artefact_sha256(model_path):
        raise PspnetError(f"{front_path} was made of another file than {model_path}: give the one that was calibrated")
    chosen = result["mixes"][result["chosen"]]
    unseen = chosen["unseen"] or {"warnings": []}
    summary = {
        **artefacts.facts_of(model, table),
        "unchecked": f"ranked again: {result['figure']} {chosen['value']:.2f} % was measured at the search",
        "search": facts_of(result), "warnings": unseen["warnings"],
    }  # fmt: skip
    summary = write_artefacts(model, table, output, summary, fp16)
    _write_front(new_front, result)
    return summary


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """What the metadata says of a search: the budget, where time comes from, the front, and the layers in float."""
    chosen = result["mixes"][result["chosen"]]
    kept = ("cost_ms", "time_ms", "value", "loss", "loss_interval", "unseen")
    said = ("figure", "float", "images", "source", "choice", "budget", "device", "rates", "time")
    return {
        **{key: result[key] for key in said},
        "scored": len(result["mixes"]) - 1, "float_layers": chosen["float_layers"],
        "front": [
            {"in_float": len(row["float_layers"]), "chosen": row is chosen, **{key: row[key] for key in kept},
             "all_float": row["float_layers"] == result["all_float"]}
            for row in sorted(result["mixes"], key=front.milliseconds) if row["pareto"] or row is chosen
        ],
    }  # fmt: skip


def text_of(summary: dict[str, Any]) -> str:
    """The sensitivities and the search of a summary as lines to print; empty where there are none."""
    lines = []
    if rows := summary.get("sensitivity"):
        lines.append(sensitivity.text_of([sensitivity.row_from_json(row) for row in rows["layers"]], rows))
    if facts := summary.get("search"):
        lines.append(_search_text(facts))
    return "\n".join(lines)


def _search_text(facts: dict[str, Any]) -> str:
    measured, figure = facts["time"] != NOT_MEASURED, facts["figure"]
    times = "measured" if measured else "estimated"
    lines = [f"  {'in float':>8}  {times:>10}  {figure:>19}  {'loss':>6}  {'95 % of it':>14}  loss on unseen images"]
    for row in facts["front"]:
        ms = row["time_ms"]["median"] if row["time_ms"] else row["cost_ms"]
        interval = "{:.2f} to {:.2f}".format(*row["loss_interval"])
        lines.append(
            f"{'*' if row['chosen'] else ' '} {'all' if row['all_float'] else row['in_float']:>8}  {ms:>7.2f} ms  "
            f"{row['value']:>19.2f}  {row['loss']:>6.2f}  {interval:>14}  {_unseen_text(row['unseen'])}"
        )
    most = facts["budget"]["max_drop"]
    floors = "".join(f", {name} {points:g}" for name, points in facts["budget"]["class_floors"].items())
    lines.append(
        f"the fastest of {counted(facts['scored'], 'mix')} that loses at most {most:g} point{'' if most == 1 else 's'} "
        f"of {figure}{floors}, on {counted(facts['images'], 'held-out image')} of {facts['source']}; in float: "
        f"{', '.join(facts['float_layers']) or 'none'}"
    )
    if not measured:
        lines.append(f"estimated by peak rates of {facts['device']} ({facts['rates']}); time: {NOT_MEASURED}")
    return "\n".join(lines)


def _unseen_text(unseen: dict[str, Any] | None) -> str:
    if not unseen:
        return "-"
    low, high = unseen["loss_interval"]
    return f"{unseen['loss']:.2f} ({low:.2f} to {high:.2f})"


def _write_front(path: Path | None, result: dict[str, Any]) -> None:
    if path:
        write_json(path, result)
        front.write_plot(path.with_suffix(".png"), result)


def _chosen(table: CalibrationTable, result: dict[str, Any]) -> CalibrationTable:
    return dataclasses.replace(table, float_layers=result["mixes"][result["chosen"]]["float_layers"])


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "sqnr_db": row["sqnr_db"] if math.isfinite(row["sqnr_db"]) else None}
