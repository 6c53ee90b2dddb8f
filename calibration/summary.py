"""What `calibrate` did, as lines to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration import check, confirm, mix, repair, share
from pspnet.wording import counted
from runtime.fp16_typing import half_path


def text_of(summary: dict[str, Any], output: str | Path) -> str:
    """The file, its pictures and its ranges, then what was compared and measured on held-out pictures."""
    lines = [
        f"{output}: {summary['int8_convolutions']} of {summary['convolutions']} convolutions in INT8, ranges by "
        f"{summary['method']}; table {Path(output).with_suffix('.json')}",
        f"calibrated on {counted(summary['images'], 'image')} of {summary['source']}"
        f"{_coverage(summary.get('class_percent', {}))}",
    ]
    lines += [f"{half_path(output)}: the same scales and integer weights, typed fp16"] if summary.get("fp16") else []
    lines += [share.text_of(name, facts) for name, facts in summary["int8_share"].items()]
    if rows := summary.get("compared"):
        facts = summary["held_out"]
        lines.append(f"{'method':>20}  {facts['figure']:>19}  {'loss':>6}  {'equal labels':>12}  {'SQNR dB':>7}")
        for row in rows:
            kept = "  kept" if row["method"] == summary["method"] else ""
            sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
            lines.append(
                f"{row['method']:>20}  {row['value']:>19.2f}  {row['loss']:>6.2f}  {row['agreement']:>12.2f}  "
                f"{sqnr:>7}{kept}"
            )
        lines.append(f"compared on {counted(rows[0]['images'], 'held-out image')}, by which the method was chosen")
    if spread := summary.get("resamples"):
        later = " (ranges alone, without repair and mix)" if {"repairs", "search"} & summary.keys() else ""
        lines.append(
            f"{len(spread['values'])} resamples of the calibration images{later}: {spread['figure']} "
            f"{spread['mean']:.2f} ± {spread['std']:.2f} (mean ± standard deviation), {spread['least']:.2f} to "
            f"{spread['largest']:.2f}"
        )
    if rows := summary.get("repairs"):
        lines.append(repair.text_of(rows, summary.get("held_out", {}).get("figure", "")))
    if text := mix.text_of(summary):
        lines.append(text)
    if "held_out" in summary:
        lines.append(check.text_of(summary))
    else:
        lines.append(f"not compared with the float network: {summary['unchecked']}")
        lines += filter(None, [confirm.text_of(summary["search"]["choice"])] if "search" in summary else [])
        lines += check.warning_lines(summary)
    return "\n".join(lines)


def _coverage(class_percent: dict[str, float] | None) -> str:
    """Which classes the calibration pictures show, by their share of the labelled pixels; {} where nobody looked."""
    if class_percent is None:
        return ", without labels"
    if not class_percent:
        return ""
    seen = {name: share for name, share in class_percent.items() if share}
    rarest = min(seen, key=lambda name: seen[name])
    text = f", which show {len(seen)} of {len(class_percent)} classes (least: {rarest}, {seen[rarest]:.2g} % of pixels)"
    missing = [name for name, share in class_percent.items() if not share]
    return f"{text}; missing: {', '.join(missing)}" if missing else text
