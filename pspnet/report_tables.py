"""The tables of the report, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pspnet.benchfile import STAGES
from pspnet.wording import counted, engine_facts

ABSENT = "not measured"

Candidate = dict[str, Any]


def summary(benches: Sequence[dict[str, Any]]) -> str:
    """One row per candidate; with several files, one group of rows per file."""
    before, after = ("candidate", "mIoU", "frames per second", "ratio to the first"), ("file", "network")
    tall = [[f'<th scope="col" rowspan="2">{name}</th>' for name in names] for names in (before, after)]
    head = f'<tr>{"".join(tall[0])}<th scope="colgroup" colspan="3">service time in ms</th>{"".join(tall[1])}</tr>'
    head += "<tr>" + "".join(f'<th scope="col">{name}</th>' for name in ("p50", "p90", "p99")) + "</tr>"
    groups = []
    for bench in benches:
        label = escape(f"{bench['path'].name}: {bench['machine']['cpu']}, {number(bench['threads'])} threads")
        group = f'<tr class="group"><th scope="rowgroup" colspan="9">{label}</th></tr>' if len(benches) > 1 else ""
        groups.append(f"<tbody>{group}{''.join(_summary_row(c) for c in bench['candidates'])}</tbody>")
    return _table(head, "".join(groups))


def _summary_row(c: Candidate) -> str:
    scores = c["scores"]
    cells = [
        _cell(
            _fixed(figure(c, "scores", "miou"), 2),
            f"on {counted(scores['protocol']['images'], 'image')}" if scores else "",
        ),
        _interval(c, "throughput_fps"),
        _interval(c, "ratio_to_first", "×"),
        *(_cell(three_digits(figure(c, "service_ms", key))) for key in ("p50", "p90", "p99")),
        _cell(_megabytes(c["file_bytes"])),
        _cell("×".join(map(str, c["network_size"])), c["fit"]),
    ]
    return f"<tr>{_head(c, 'row')}{''.join(cells)}</tr>"


def stages(candidates: Sequence[Candidate]) -> str:
    """Median milliseconds of each stage, and a bar per candidate on one common scale."""
    medians = [[_stage(c, stage) for stage in STAGES] for c in candidates]
    longest = max((sum(m or 0 for m in row) for row in medians), default=0)
    if not longest:
        return ""
    head = '<tr><th scope="col">candidate</th>' + "".join(
        f'<th scope="col"><i class="stage {stage}"></i>{stage}</th>' for stage in STAGES
    )
    rows = []
    for c, row in zip(candidates, medians, strict=True):
        bar = "".join(
            f'<i class="stage {stage}" style="width:{100 * (ms or 0) / longest:.2f}%"></i>'
            for stage, ms in zip(STAGES, row, strict=True)
        )
        cells = "".join(_cell(three_digits(ms)) for ms in row)
        rows.append(f'<tr>{_head(c, "row")}{cells}<td class="bar"><div>{bar}</div></td></tr>')
    note = '<p class="note">Median milliseconds of one frame in each stage; the bars share one scale.</p>'
    return _table(f'{head}<th scope="col" class="bar">one frame</th></tr>', f"<tbody>{''.join(rows)}</tbody>") + note


def classes(candidates: Sequence[Candidate]) -> str:
    """IoU per class in percent with one column per candidate, and the change against the first that has scores."""
    scored = [c for c in candidates if c["scores"]]
    names = dict.fromkeys(name for c in scored for name in c["scores"]["per_class"])
    if not names:
        return ""
    head = '<tr><th scope="col">class</th><th scope="col">share of pixels</th>'
    head += "".join(_head(c, "col") for c in scored) + "</tr>"
    first = scored[0]
    total = sum(row["pixels"] or 0 for row in first["scores"]["per_class"].values())
    rows = []
    for name in names:
        colour = next((chip(c, name) for c in scored if chip(c, name)), "")
        pixels = first["scores"]["per_class"].get(name, {}).get("pixels")
        share = "–" if pixels is None or not total else _share(100 * pixels / total)
        values = [_finite(c["scores"]["per_class"].get(name, {}).get("iou")) for c in scored]
        rows.append(
            f'<tr><th scope="row">{colour}{escape(name)}</th>{_cell(share)}{"".join(_changes(values, 1, "–"))}</tr>'
        )
    means = _changes([figure(c, "scores", "miou") for c in scored], 2, ABSENT)
    rows.append(f'<tr class="total"><th scope="row">mIoU</th><td></td>{"".join(means)}</tr>')
    note = ""
    if len(scored) > 1:
        note = f'<p class="note">Small figures: change in points against {escape(first["name"])}.</p>'
    return _table(head, f"<tbody>{''.join(rows)}</tbody>") + note


def detail(c: Candidate) -> str:
    """What tells a candidate from others of the same artefact: engine, precision and, where needed, its bench file."""
    _, version, gpu = engine_facts(c["provenance"] or {})
    engine = " ".join(part for part in (c["engine"], version, f"on {gpu}" if gpu else "") if part)
    return ", ".join(part for part in (engine, c["precision"], c["file"]) if part)


def chip(c: Candidate, name: str) -> str:
    """A small square in the colour of a class, or nothing where the candidate's palette does not know it."""
    colour = (c["palette"] or {}).get(name)
    return f'<i class="chip" style="background:rgb({",".join(map(str, colour))})"></i>' if colour else ""


def figure(c: Candidate, group: str, key: str) -> float | None:
    """One figure of a candidate; None where it was not measured."""
    return _finite((c[group] or {}).get(key))


def number(value: float | None) -> str:
    """A count as text."""
    return ABSENT if value is None else f"{value:g}"


def three_digits(value: float | None) -> str:
    """Three significant digits without an exponent."""
    if value is None:
        return ABSENT
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 4)}f}"


def signed(value: float, digits: int) -> str:
    """A change with its sign, which is a true minus, and no sign where it rounds to zero."""
    rounded = round(value, digits)
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else '±'}{abs(rounded):.{digits}f}"


def _head(c: Candidate, scope: str) -> str:
    return f'<th scope="{scope}">{escape(c["artefact"])}<small>{escape(detail(c))}</small></th>'


def _share(percent: float) -> str:
    return "< 0.01 %" if 0 < percent < 0.01 else f"{percent:.{1 if percent >= 1 else 2}f} %"


def _stage(c: Candidate, stage: str) -> float | None:
    return _finite(((c["stages_ms"] or {}).get(stage) or {}).get("p50"))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _fixed(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _megabytes(count: float | None) -> str:
    return ABSENT if count is None else f"{three_digits(count / 1e6)} MB"


def _interval(c: Candidate, group: str, unit: str = "") -> str:
    median, low, high = (figure(c, group, key) for key in ("median", "low", "high"))
    if median is None:
        return _cell(ABSENT)
    small = "" if low is None or high is None else f"{three_digits(low)} to {three_digits(high)}"
    return _cell(f"{three_digits(median)}{unit and f' {unit}'}", small)


def _changes(values: Iterable[float | None], digits: int, absent: str) -> list[str]:
    first, *others = values
    cells = [_cell(absent if first is None else f"{first:.{digits}f}")]
    for value in others:
        if value is None or first is None:
            cells.append(_cell(absent if value is None else f"{value:.{digits}f}"))
        else:
            change = value - first
            kind = "worse" if round(change, digits) < 0 else "better" if round(change, digits) > 0 else ""
            cells.append(_cell(f"{value:.{digits}f}", signed(change, digits), kind=kind))
    return cells


def _cell(value: str, small: str = "", kind: str = "") -> str:
    below = f'<small class="{kind}">{escape(small)}</small>' if small else ""
    kept = ' class="absent"' if value == ABSENT else ""
    return f"<td{kept}>{escape(value)}{below}</td>"


def _table(head: str, bodies: str) -> str:
    return f'<div class="scroll"><table><thead>{head}</thead>{bodies}</table></div>'
