"""A model card's facts as a Markdown page."""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.test_log import PLAIN
from pspnet.recipe import NOT_PART_OF_THE_RESULT, TrainConfig
from pspnet.wording import counted
from weights.card import FP32, checkpoint_first, spread_of

ENGINES = {"torch": "PyTorch", "openvino": "OpenVINO", "ort": "ONNX Runtime", "tensorrt": "TensorRT"}
WIDTH = 118
ALWAYS_TOLD = ("epochs", "batch", "crop", "lr", "seed")
SHELL_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""")

Row = dict[str, Any]


def page_of(facts: Row, curves: str, seeds: list[int] | None = None) -> str:
    """The whole page; curves: file name of the picture of the training curves, "" where there is none.

    seeds: of the other runs of the recipe that the checkpoint was packed with.
    """
    notes, name = facts["notes"], facts["file"]
    parts = [f"# {name}", "\n".join(_network(facts)), _paragraph(f"**Licence.** {notes['licence']}")]
    if facts["scores"]:
        plain = [_scores(facts), _per_class(facts)] if _plain(facts) else []
        parts += ["## Scores", *plain, _paragraph(_protocol(facts)), *_other_modes(facts)]
    parts += ["## Recipe", *_recipe(facts, seeds or [])]
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
    by_precision: dict[str, Row] = {}
    for row in _plain(facts):
        by_precision.setdefault(row["precision"], row)
    chosen = list(by_precision.values())
    titles = " | ".join(f"IoU {_engine(row)}{_other_size(row)}" for row in chosen)
    lines = [f"| class | {titles} | share of pixels |", "|---|" + "---|" * (len(chosen) + 1)]
    pixels = chosen[0]["pixels"]
    for name in facts["classes"]:
        figures = " | ".join("-" if row["iou"][name] is None else f"{row['iou'][name]:.1f}" for row in chosen)
        lines.append(f"| {name} | {figures} | {100 * pixels[name] / sum(pixels.values()):.1f} % |")
    return "\n".join(lines)


def _protocol(facts: Row) -> str:
    rows = _plain(facts) or facts["scores"]
    first = rows[0]
    how = f"{PLAIN}, no flip, in percent," if _plain(facts) else "in percent, in the mode below,"
    dates = sorted({row["date"] for row in rows if row["date"]})
    files = ", ".join(f"`{row['result']}`" for row in rows)
    text = (
        f"Every figure here is {how} on the {first['images']} images of "
        f"{first['name'] or first['dataset']} {first['split']}, one confusion matrix over all of them"
        f"{f' ({dates[-1]})' if dates else ''}: {files}."
    )
    if published := facts["notes"].get("published"):
        text += f" {published}"
    return f"{text} {_seeds(facts)}"


def _seeds(facts: Row) -> str:
    seeds, averaged = facts["seeds"], facts["averaged"]
    mean_of = f"The weights are the mean of {counted(len(averaged), 'run')}"
    if len(seeds) < 2:
        return f"{mean_of if averaged else 'One seed'}: the spread between seeds was not measured."
    mean, spread = spread_of(seeds)
    each = ", ".join(f"seed {row['seed']} {row['miou']:.2f}" for row in seeds)
    what, note = f"{len(seeds)} seeds", ""
    if facts["shared_stages"]:
        what += f" of the last {'stage' if _own_stages(facts) == 1 else f'{_own_stages(facts)} stages'}"
        note = " What came before was trained once for all of them, so the spread says nothing of it."
    if averaged:
        what = f"{mean_of}. Alone, these {what}"
    named = {row["result"] for row in _plain(facts)}
    files = ", ".join(f"`{row['result']}`" for row in seeds if row["result"] not in named)
    figures = f"{each}; mean {mean:.2f}, standard deviation {spread:.2f}"
    return f"{what} on test, fp32: {figures}{f' ({files})' if files else ''}.{note}"


def _own_stages(facts: Row) -> int:
    """How many stages, up to the last, every seed was trained in by itself."""
    return len(facts["stages"]) - int(facts["shared_stages"])


def _other_modes(facts: Row) -> list[str]:
    rows = [row for row in facts["scores"] if row["mode"] != PLAIN]
    if not rows:
        return []
    lines = ["| other modes | mIoU | file |", "|---|---|---|"]
    lines += [
        f"| {_label(row, facts)}, {_engine(row)}, {row['mode']} | {row['miou']:.2f} | `{row['result']}` |"
        for row in rows
    ]
    return ["\n".join(lines)]


def _recipe(facts: Row, seeds: list[int]) -> list[str]:
    parts = [_paragraph(facts["notes"]["recipe"])] if facts["notes"].get("recipe") else []
    lines = []
    for number, stage in enumerate(facts["stages"], 1):
        settings = ", ".join(f"{name} {_value(value)}" for name, value in _telling(stage["settings"]).items())
        lines += _wrapped(f"{number}. from {stage['start'] or 'random weights'}: {settings}", "   ")
    rest = "All other settings are the defaults of `pspnet train`."
    parts += ["\n".join(lines), f"{rest} Every one is in the JSON file beside this page."]
    if facts["note"]:
        parts.append(_paragraph(facts["note"]))
    commands = [line for command in facts["commands"] for line in _folded(command)]
    if facts["commands"] and not any(command.startswith("python weights/pack.py") for command in facts["commands"]):
        commands += _packing(facts, seeds)
    if commands:
        parts.append("\n".join(["```bash", *commands, "```"]))
    if facts["commit"]:
        what = "Code of the last stage" if len(facts["stages"]) > 1 else "Code"
        parts.append(f"{what}: commit `{facts['commit']}`.")
    return parts


def _packing(facts: Row, seeds: list[int]) -> list[str]:
    """The lines that pack the run that the commands end with, and before them what the other seeds' runs are."""
    run = f"runs/{Path(facts['file']).stem}"
    averaged = facts["averaged"]
    last = f"{run}.pt" if averaged else f"{run}/last.pt"
    words = ["python", "weights/pack.py", last, f"weights/{facts['file']}", "--licence", facts["licence"]]
    words += ["--replace", *(["--note", facts["note"]] if facts["note"] else [])]  # a clone has the file
    words += ["--seeds", *(f"{run}-seed{seed}" for seed in seeds)] if seeds else []
    again, where = "all of them", "in other folders, the last -o"
    if facts["shared_stages"]:
        again, where = ("the last one", "-o") if _own_stages(facts) == 1 else (f"the last {_own_stages(facts)}", where)
    repeats = [
        f"# {again} again with --seed {seed}, {where} {run}-seed{seed}" for seed in seeds if seed not in averaged[:1]
    ]
    if averaged:
        runs = [f"{run}-seed{seed}/last.pt" for seed in averaged]
        repeats += _folded(shlex.join(["pspnet", "average", *runs, "-o", last]))
    return [*repeats, *_folded(shlex.join(words))]


def _repeat(facts: Row) -> str:
    data, file = facts["notes"].get("data", "DATA"), f"weights/{facts['file']}"
    own = [row for row in facts["scores"] if row["artefact"] == facts["file"]]
    lines = [_evaluate(row, file, data) for row in sorted(own, key=lambda row: row["mode"] != PLAIN)]
    lines = lines or [f"pspnet evaluate {file} --data {data} --split test"]
    made = [row for row in facts["scores"] if row["artefact"].endswith(".onnx")]
    for size in sorted({_size(row, facts) for row in made}, key=lambda size: size != tuple(facts["input_size"])):
        height, width = size
        # Every size's file has the same name.
        folder = "runs/shipped" if size == tuple(facts["input_size"]) else f"runs/shipped/{height}x{width}"
        rows = [row for row in made if _size(row, facts) == size]
        source = f"{file} --size {height}x{width} --data {data}"
        lines += _conversion(source, folder, rows, data, facts["notes"].get("calibrate", ""))
    layout = "demo/camvid11_tiny" if facts["dataset"].startswith("camvid11") else ""
    about = f"`{data}` is the data in the layout of `{layout}`." if layout else f"`{data}` is {facts['dataset']}."
    lines = [part for line in lines for part in _folded(line)]
    return "\n".join(["```bash", *lines, "```", "", f"{about} docs/datasets.md says where it comes from."])


def _conversion(source: str, folder: str, rows: list[Row], data: str, calibrate: str) -> list[str]:
    """The commands that make and score the ONNX files of `rows` in `folder`; calibrate: flags of INT8."""
    kinds = {row["precision"] for row in rows}
    half, both = "fp16 (simulated)" in kinds, "int8+fp16 (simulated)" in kinds

    def scored(name: str, precision: str) -> list[str]:
        return [_evaluate(row, f"{folder}/{name}", data) for row in rows if row["precision"] == precision]

    lines = [f"pspnet export {source}{' --fp16' if half else ''} -o {folder}/model.onnx"]
    lines += [*scored("model.onnx", FP32), *scored("model.fp16.onnx", "fp16 (simulated)")]
    if "int8" in kinds or both:
        flags = f"{' ' if calibrate else ''}{calibrate}{' --fp16' if both else ''}"
        lines.append(f"pspnet calibrate {folder}/model.onnx --data {data}{flags}")
    return [*lines, *scored("model.int8.onnx", "int8"), *scored("model.int8.fp16.onnx", "int8+fp16 (simulated)")]


def _evaluate(row: Row, file: str, data: str) -> str:
    """The command that measures a row of the tables."""
    words = ["pspnet", "evaluate", file, "--data", data, "--split", "test"]
    if row["engine"] != ("torch" if file.endswith(".pt") else "openvino"):
        words += ["--engine", row["engine"]]
    how = row.get("inference") or {}
    if how.get("kind") == "slide":
        words += ["--mode", "slide", "--crop", "{}x{}".format(*how["crop"]), "--stride", f"{how['stride']:g}"]
    if how.get("scales", [1]) != [1]:
        words += ["--scales", ",".join(f"{scale:g}" for scale in how["scales"])]
    return shlex.join([*words, *(["--flip"] if how.get("flip") else [])])


def _size(row: Row, facts: Row) -> tuple[int, int]:
    """(height, width) that an artefact runs at."""
    height, width = row.get("network_size", facts["input_size"])
    return height, width


def _plain(facts: Row) -> list[Row]:
    return sorted((row for row in facts["scores"] if row["mode"] == PLAIN), key=checkpoint_first)


def _label(row: Row, facts: Row) -> str:
    own = "checkpoint" if row["artefact"] == facts["file"] else row["artefact"]
    return facts["notes"].get("labels", {}).get(row["artefact"], own) + _other_size(row)


def _other_size(row: Row) -> str:
    return " at {}x{}".format(*row["network_size"]) if "network_size" in row else ""


def _engine(row: Row) -> str:
    name = ENGINES.get(row["engine"], row["engine"])
    if row["engine"] == "ort" and row["precision"] != FP32:  # it computes both in float32
        return f"{name} {_precision(row)} (simulation)"
    return f"{name} {_precision(row)}"


def _precision(row: Row) -> str:
    name: str = row["precision"].removesuffix(" (simulated)")
    return {"int8": "INT8", "fp16": "FP16", "int8+fp16": "INT8 and FP16"}.get(name, name)


def _telling(settings: Row) -> Row:
    """The settings that are no default, and those that a reader looks for first."""
    defaults = {each.name: each.default for each in dataclasses.fields(TrainConfig)}
    telling = {name for name, value in settings.items() if name not in defaults or value != defaults[name]}
    shown = (telling | set(ALWAYS_TOLD)) - set(NOT_PART_OF_THE_RESULT)
    return {name: value for name, value in settings.items() if name in shown}


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paragraph(text: str) -> str:
    return "\n".join(_wrapped(" ".join(text.split())))


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _folded(command: str) -> list[str]:
    """A command over several lines, each but the last with a backslash; broken before flags, never inside quotes."""
    lines = [""]
    for part in _parts(command):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _parts(command: str) -> list[str]:
    """The words of a command as they are written, with their quotes, each flag with the values that fit behind it."""
    parts: list[str] = []
    for word in SHELL_WORD.findall(command):
        if parts and not word.startswith("-") and len(parts[-1]) + len(word) + 5 < WIDTH:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts
