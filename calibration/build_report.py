"""What a build did, as lines to print."""

from __future__ import annotations

from typing import Any

from calibration import dla, engine_audit
from calibration.score import MIOU
from pspnet.wording import counted, duration


def text_of(report: dict[str, Any]) -> str:
    """The engine, the race, its layers, INT8 against fp16, then notes and warnings."""
    rows = report["candidates"]
    chosen = next((row for row in rows if row["name"] == report["chosen"] and not row["rival"]), None)
    lines = [_headline(report, chosen)]
    lines += [_row(row, row is chosen, report["settings"]["batch"]) for row in rows]
    if chosen:
        lines += [dla.text_of(chosen["dla"])] if chosen["dla"] else []
        lines.append(f"layers: {engine_audit.text_of(chosen['audit'])}")
        lines.append(_accuracy(chosen["accuracy"]))
    if against := report["against_fp16"]:
        lines.append(_against(against))
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, *(f"WARNING: {warning}" for warning in report["warnings"])])


def _headline(report: dict[str, Any], chosen: dict[str, Any] | None) -> str:
    where = f"TensorRT {report['tensorrt']} on {report['gpu']['name']}"
    if report["power_mode"]:
        where += f" at {report['power_mode']}"
    if chosen is None:
        return f"no engine keeps the limits, so {report['engine']} was not written ({where})"
    return (
        f"{report['engine']}: {chosen['precision']}, {chosen['route']}ly typed, of {chosen['graph']}; "
        f"{chosen['plan_bytes'] / 1e6:.1f} MB, built in {duration(chosen['build_seconds'])} by {where}"
    )


def _row(row: dict[str, Any], is_chosen: bool, batch: int) -> str:
    name = f"{'*' if is_chosen else ' '} {row['name']:<12}"
    if row["left_out"]:
        return f"{name} left out: {row['left_out']}"
    parts = []
    if latency := row["latency"]:
        of = "" if batch == 1 else f" for {counted(batch, 'picture')}"
        parts.append(f"{latency['median_ms']:.2f} ms{of} ({latency['low_ms']:.2f} to {latency['high_ms']:.2f})")
    if accuracy := row["accuracy"]:
        parity = accuracy["parity"]
        parts += [f"mIoU {accuracy['value']:.2f} %"] if accuracy["figure"] == MIOU else []
        parts.append(f"{parity['agreement']:.2f} % equal labels with {parity['file']} ({parity['sqnr_db']:.0f} dB)")
    parts += ["for comparison only"] if row["rival"] else []
    parts += ["left out: " + "; ".join(row["missed"])] if row["missed"] else []
    return f"{name} {', '.join(parts)}"


def _accuracy(accuracy: dict[str, Any]) -> str:
    if not accuracy:
        return (
            "not compared with the ONNX file: neither openvino nor onnxruntime is installed here. `pspnet evaluate` or "
            "`pspnet verify` compare elsewhere"
        )
    where = f"{counted(accuracy['images'], 'image')} of {accuracy['source']}"
    absent = " itself, as the float file is not beside it" if accuracy["float_absent"] else ""
    equal = f"{accuracy['agreement']:.2f} % of labels equal those of {accuracy['reference']}{absent}, {where}"
    if accuracy["figure"] != MIOU:
        return equal
    return f"mIoU {accuracy['value']:.2f} % against {accuracy['float']:.2f} % of {accuracy['reference']}; {equal}"


def _against(against: dict[str, Any]) -> str:
    text = (
        f"INT8 against fp16: {against['int8_ms']:.2f} ms against {against['fp16_ms']:.2f} ms, "
        f"{against['faster']:.2f} times as fast"
    )
    if "worse" in against:
        text += f"; {against['figure']} {against['int8']:.2f} % against {against['fp16']:.2f} %"
    return text
