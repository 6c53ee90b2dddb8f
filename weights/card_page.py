"""A model card's facts as a Markdown page."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.test_log import PLAIN
from pspnet.wording import counted
from weights.card import spread_of

ENGINES = {"torch": "PyTorch", "openvino": "OpenVINO", "ort": "ONNX Runtime", "tensorrt": "TensorRT"}
FP32 = "fp32"
WIDTH = 118

Row = dict[str, Any]


def page_of(facts: Row, curves: str) -> str:
    """The whole page; curves: file name of the picture of the training curves, "" where there is none."""
    notes, name = facts["notes"], facts["file"]
    parts = [f"# {name}", "\n".join(_network(facts)), _paragraph(f"**Licence.** {notes['licence']}")]
    if facts["scores"]:
        parts += ["## Scores", _scores(facts), _per_class(facts), _paragraph(_protocol(facts))]
        parts += _other_modes(facts)
    parts += ["## Recipe", *_recipe(facts)]
    if curves:
        parts += [f"![mIoU over the epochs, by seed]({curves})"]
    parts += ["## Repeat the figures", _repeat(facts), "## Limits", _paragraph(notes["limits"])]
    return "\n\n".join(parts) + "\n"


def _network(facts: Row) -> list[str]:
    height, width = facts["input_size"]
    bins = ", ".join(map(str, facts["bins"]))
    pyramid = f"bins {bins}" if bins else "no pyramid"
    network = (
        f"PSPNet with a {facts['backbone']} backbone at output stride {facts['output_stride']}, {pyramid}, head "
        f"{facts['head_channels']} wide, for {height}x{width} and {counted(len(facts['classes']), 'class')}: "
        f"{', '.join(facts['classes'])}."
    )
    types = " and ".join(facts["types"])
    size = (
        f"{facts['parameters'] / 1e6:.1f} million parameters, stored as {types} in {facts['bytes']:,} bytes; every "
        "reader casts them to float32."
    )
    return [*_wrapped(network), *_wrapped(size), f"sha256 `{facts['sha256']}`."]


def _scores(facts: Row) -> str:
    rows = ["| artefact and engine | mIoU | mAcc | pixel accuracy | F1 |", "|---|---|---|---|---|"]
    for row in _plain(facts):
        figures = " | ".join(f"{row[key]:.2f}" for key in ("miou", "macc", "pixel_accuracy", "f1"))
        rows.append(f"| {_label(row, facts)}, {_engine(row)} | {figures} |")
    return "\n".join(rows)


def _per_class(facts: Row) -> str:
    chosen = list({row["precision"]: row for row in reversed(_plain(facts))}.values())[::-1]
    titles = " | ".join(f"IoU {_engine(row)}" for row in chosen)
    lines = [f"| class | {titles} | share of pixels |", "|---|" + "---|" * (len(chosen) + 1)]
    pixels = chosen[0]["pixels"]
    for name in facts["classes"]:
        figures = " | ".join("-" if row["iou"][name] is None else f"{row['iou'][name]:.1f}" for row in chosen)
        lines.append(f"| {name} | {figures} | {100 * pixels[name] / sum(pixels.values()):.1f} % |")
    return "\n".join(lines)


def _protocol(facts: Row) -> str:
    plain = _plain(facts)
    first = plain[0]
    dates = sorted({row["date"] for row in plain if row["date"]})
    files = ", ".join(f"`{row['result']}`" for row in plain)
    text = (
        f"Every figure is {first['mode']}, no flip, in percent, on the {first['images']} images of "
        f"{first['name'] or first['dataset']} {first['split']}, one confusion matrix over all of them"
        f"{f' ({dates[-1]})' if dates else ''}: {files}."
    )
    if published := facts["notes"].get("published"):
        text += f" {published}"
    return f"{text} {_seeds(facts)}"


def _seeds(facts: Row) -> str:
    seeds = facts["seeds"]
    if len(seeds) < 2:
        return "One seed: the spread between seeds was not measured."
    mean, spread = spread_of(seeds)
    each = ", ".join(f"seed {row['seed']} {row['miou']:.2f}" for row in seeds)
    return f"{len(seeds)} seeds on test, fp32: {each}; mean {mean:.2f}, standard deviation {spread:.2f}."


def _other_modes(facts: Row) -> list[str]:
    rows = [row for row in facts["scores"] if row["mode"] != PLAIN]
    if not rows:
        return []
    lines = ["| other modes | mIoU |", "|---|---|"]
    lines += [f"| {_label(row, facts)}, {_engine(row)}, {row['mode']} | {row['miou']:.2f} |" for row in rows]
    return ["\n".join(lines)]


def _recipe(facts: Row) -> list[str]:
    parts = [_paragraph(facts["notes"]["recipe"])] if facts["notes"].get("recipe") else []
    lines = []
    for number, stage in enumerate(facts["stages"], 1):
        settings = ", ".join(f"{name} {_value(value)}" for name, value in stage["settings"].items())
        lines += _wrapped(f"{number}. from {stage['start'] or 'random weights'}: {settings}", "   ")
    parts.append("\n".join(lines))
    if facts["note"]:
        parts.append(_paragraph(facts["note"]))
    pack = f"python weights/pack.py runs/{Path(facts['file']).stem}/last.pt weights/{facts['file']} --licence "
    commands = [line for command in facts["commands"] for line in _folded(command)]
    if facts["commands"] and not any(command.startswith("python weights/pack.py") for command in facts["commands"]):
        commands += _folded(f'{pack}"{facts["licence"]}"')
    if commands:
        parts.append("\n".join(["```bash", *commands, "```"]))
    if facts["commit"]:
        parts.append(f"Code: commit `{facts['commit']}`.")
    return parts


def _repeat(facts: Row) -> str:
    data, file = facts["notes"].get("data", "DATA"), f"weights/{facts['file']}"
    size = "x".join(map(str, facts["input_size"]))
    lines = [f"pspnet evaluate {file} --data {data} --split test"]
    if any(row["artefact"].endswith(".onnx") for row in facts["scores"]):
        lines.append(f"pspnet export {file} --size {size} --data {data} -o runs/shipped/model.onnx")
    if any(row["precision"] == "int8" for row in facts["scores"]):
        lines.append(f"pspnet calibrate runs/shipped/model.onnx --data {data}")
        lines.append(f"pspnet evaluate runs/shipped/model.int8.onnx --data {data} --split test")
    layout = "demo/camvid11_tiny" if facts["dataset"].startswith("camvid11") else ""
    about = f"`{data}` is the data in the layout of `{layout}`." if layout else f"`{data}` is {facts['dataset']}."
    return "\n".join(["```bash", *lines, "```", "", f"{about} docs/datasets.md says where it comes from."])


def _plain(facts: Row) -> list[Row]:
    return [row for row in facts["scores"] if row["mode"] == PLAIN]


def _label(row: Row, facts: Row) -> str:
    own = "checkpoint" if row["artefact"] == facts["file"] else row["artefact"]
    return facts["notes"].get("labels", {}).get(row["artefact"], own)


def _engine(row: Row) -> str:
    name = ENGINES.get(row["engine"], row["engine"])
    if row["engine"] == "ort" and row["precision"] != FP32:  # it computes both in float32
        return f"{name} {_precision(row)} (simulation)"
    return f"{name} {_precision(row)}"


def _precision(row: Row) -> str:
    return {"int8": "INT8", "fp16": "FP16"}.get(row["precision"], row["precision"])


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paragraph(text: str) -> str:
    return "\n".join(_wrapped(" ".join(text.split())))


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _folded(command: str) -> list[str]:
    """A command over several lines, each but the last with a backslash; broken before flags, never inside quotes."""
    lines = [""]
    for part in re.split(r" (?=-)", command):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
