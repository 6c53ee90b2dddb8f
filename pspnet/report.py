"""Bench JSON as one HTML page that needs nothing else: style, plot and pictures are inside, and there is no script."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from pspnet import report_tables as tables
from pspnet.benchfile import read_benches
from pspnet.files import atomic_path
from pspnet.image import read_image
from pspnet.plots import Point, scatter
from pspnet.report_style import STYLE
from pspnet.wording import counted

PICTURE_WIDTH = 960
"""Overlays that are wider are scaled down to this many pixels."""

Bench = dict[str, Any]


def write_report(paths: Sequence[str | Path], output: str | Path) -> int:
    """Write the page of one or more bench JSON files to `output`; returns the number of candidates on it.

    PspnetError where a file is no bench JSON, is incomplete, or names a picture that is missing or corrupt.
    """
    benches = read_benches(paths)
    text = page(benches)
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return sum(len(bench["candidates"]) for bench in benches)


def page(benches: Sequence[Bench]) -> str:
    """The page of what `benchfile.read_benches` returned."""
    candidates = [candidate for bench in benches for candidate in bench["candidates"]]
    sections = [
        _header(benches),
        _section("Summary", _headline(benches) + tables.summary(benches)),
        _section("Speed against accuracy", _plot(benches)),
        _section("Stages", tables.stages(candidates)),
        _section("IoU per class", tables.classes(candidates)),
        _section("Overlays", _overlays(benches)),
        _section("Method", _method(benches)),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>PSPNet report, {escape(benches[0]["created"][:10])}</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n" if body else ""


def _header(benches: Sequence[Bench]) -> str:
    parts = ["<header><h1>PSPNet: speed and accuracy</h1>"]
    for bench in benches:
        machine = bench["machine"]
        height_width = bench["source_size"]
        source = bench["source"] + (f" ({height_width[1]} × {height_width[0]} pixels)" if height_width else "")
        facts = {
            "measured": bench["created"].replace("T", " ").replace("Z", " UTC"),
            "machine": f"{machine['cpu']}, {tables.number(machine['cores'])} cores, {machine['os']}",
            "CPU flags": " ".join(machine["flags"]) or "none known",
            "threads": tables.number(bench["threads"]),
            "frames from": source,
            "version": bench["version"],
        }
        if len(benches) > 1:
            facts = {"file": bench["path"].name} | facts
        rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
        parts.append(f"<dl>{rows}</dl><pre><code>{escape(bench['command'])}</code></pre>")
    if len({_machine(bench) for bench in benches}) > 1:
        parts.append(
            '<p class="warning"><strong>The machines or thread counts differ.</strong> Compare speeds within one file '
            "only: a ratio between machines says nothing about the networks. mIoU can be compared.</p>"
        )
    return "".join(parts) + "</header>\n"


def _machine(bench: Bench) -> str:
    return repr([bench["machine"][key] for key in ("cpu", "flags", "cores")] + [bench["threads"]])


def _headline(benches: Sequence[Bench]) -> str:
    first, *others = benches[0]["candidates"]
    fastest = max(others, key=lambda c: tables.figure(c, "throughput_fps", "median") or 0, default=None)
    ratio = fastest and tables.figure(fastest, "ratio_to_first", "median")
    if len(benches) > 1 or not fastest or not ratio or ratio <= 1:
        return ""
    text = (
        f"Fastest: <strong>{escape(fastest['name'])}</strong>, "
        f"{tables.three_digits(tables.figure(fastest, 'throughput_fps', 'median'))} frames per second, "
        f"{tables.three_digits(ratio)} times {escape(first['name'])}"
    )
    before, after = tables.figure(first, "scores", "miou"), tables.figure(fastest, "scores", "miou")
    if before is not None and after is not None:
        text += f", at {tables.signed(after - before, 2)} points of mIoU"
    return f'<p class="headline">{text}.</p>'


def _plot(benches: Sequence[Bench]) -> str:
    points, absent = [], []
    for group, c in ((i, c) for i, bench in enumerate(benches) for c in bench["candidates"]):
        fps, low, high = (tables.figure(c, "throughput_fps", key) for key in ("median", "low", "high"))
        miou = tables.figure(c, "scores", "miou")
        if fps is None or miou is None:
            absent.append(escape(c["name"]))
        else:
            points.append(Point(c["artefact"], tables.detail(c), fps, low or fps, high or fps, miou, group))
    note = (
        f'<p class="note">Not in the plot, because FPS or mIoU was not measured: {", ".join(absent)}.</p>'
        if absent
        else ""
    )
    if not points:
        return note
    legend = (
        '<p class="note">Up and to the right is better. Filled points: no other candidate is both faster and more '
        f"accurate (Pareto front{', per file' if len(benches) > 1 else ''}). Bars: interval of the throughput.</p>"
    )
    return f'<div class="scroll">{scatter(points)}</div>{legend}{note}'


def _overlays(benches: Sequence[Bench]) -> str:
    shown = [(bench["path"].parent, c) for bench in benches for c in bench["candidates"] if c["pictures"]]
    if not shown:
        return ""
    columns = [{_frame(name, i): folder / name for i, name in enumerate(c["pictures"])} for folder, c in shown]
    rows = []
    for frame in dict.fromkeys(frame for column in columns for frame in column):
        cells = [
            _figure(column.get(frame), f"{frame}, {c['name']}", c["name"])
            for column, (_, c) in zip(columns, shown, strict=True)
        ]
        rows.append(f'<h3>{escape(frame)}</h3><div class="scroll"><div class="pictures">{"".join(cells)}</div></div>')
    return _legend([c for _, c in shown]) + "".join(rows)


def _frame(name: str, position: int) -> str:
    digits = re.search(r"(\d+)$", Path(name).stem)
    return f"Frame {int(digits[1])}" if digits else f"Picture {position + 1}"


def _legend(candidates: Iterable[dict[str, Any]]) -> str:
    colours = {name: tables.chip(c, name) for c in candidates for name in c["palette"] or {}}
    items = "".join(f"<li>{chip}{escape(name)}</li>" for name, chip in colours.items())
    return f'<ul class="legend">{items}</ul>' if items else ""


def _figure(path: Path | None, text: str, caption: str) -> str:
    picture = _image(path, text) if path else "<p>not drawn</p>"
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(path: Path, text: str) -> str:
    picture = read_image(path)
    data = path.read_bytes()
    if picture.shape[1] > PICTURE_WIDTH or not data.startswith(b"\xff\xd8"):
        scale = min(PICTURE_WIDTH / picture.shape[1], 1)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    size = f'width="{picture.shape[1]}" height="{picture.shape[0]}"'
    return f'<img src="{source}" {size} alt="{escape(text)}">'


def _method(benches: Sequence[Bench]) -> str:
    protocols = {
        (bench["rounds"], bench["frames_per_round"]): f"{bench['rounds']} rounds of {bench['frames_per_round']} frames"
        for bench in benches
    }
    rests: dict[str, None] = {}
    for c in (c for bench in benches for c in bench["candidates"] if c["scores"]):
        protocol = c["scores"]["protocol"]
        where = " ".join(str(protocol[key]) for key in ("dataset", "split") if protocol.get(key))
        mode = f", {protocol['mode']}" if protocol.get("mode") else ""
        rests[f"{counted(protocol['images'], 'image')}{f' of {where}' if where else ''}{mode}"] = None
    miou = f"mIoU rests on {escape('; '.join(rests))}." if rests else "mIoU was not measured."
    if len(rests) > 1:
        miou += " <strong>The candidates were not scored on the same pairs: their mIoU cannot be compared.</strong>"
    items = [
        f"Candidates take turns in {escape(' and '.join(protocols.values()))}, so that a change of the machine's load "
        "or clock meets all of them. Throughput and ratio are medians of the rounds, ratios formed round by round; the "
        "interval is a 95 % bootstrap interval over rounds.",
        "Service time is pre-processing, network and labels of one frame; reading the clip and writing results are not "
        "in it. p50, p90 and p99 are percentiles over frames.",
        f"{miou} It comes from one confusion matrix accumulated over all images, on the same artefact, engine and code "
        "path whose speed is shown. Differences that rest on few images can be chance.",
        f"“{tables.ABSENT}”: the figure was not measured. “–”: the class is neither in the labels nor predicted.",
        "A ratio holds for this machine: others have other instructions for small integers.",
    ]
    return f'<ul class="method">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
