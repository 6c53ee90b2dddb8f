"""What is known of a data set, as lines for a terminal and as a JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pspnet.doctor_data import DataReport, Split
from pspnet.wording import counted


def text_of(report: DataReport) -> str:
    """The report as lines for a terminal."""
    lines = [f"{'data':<8}{report.root}"]
    if report.splits:
        first = next(iter(report.splits.values())).dataset
        lines += [f"{'layout':<8}{first.name}" + (f", protocol {first.protocol}" if first.protocol else "")]
        lines += [f"{'licence':<8}{first.classes.licence or 'not stated'}", ""]
        lines += [f"{name:<8}{_extent(split)}" for name, split in report.splits.items()]
        lines += ["", *_class_table({name: split for name, split in report.splits.items() if split.dataset.labels})]
    for finding in report.findings:
        lines.append(f"{finding.mark:<8}{finding.text}" + (f". {finding.advice}" if finding.advice else ""))
        lines += [f"{'':<8}  {file}" for file in finding.files]
    return "\n".join(lines)


def _extent(split: Split) -> str:
    """How many pairs of which sizes, and how much of them is void."""
    labelled = bool(split.dataset.labels)
    number = counted(len(split.pairs), "pair" if labelled else "picture")
    sizes = ", ".join(split.sizes()) or "none readable"
    return f"{number}, {sizes}, {f'{split.void_percent():.2f} % void' if labelled else 'no labels'}"


def _class_table(splits: dict[str, Split]) -> Iterator[str]:
    """Share and pictures of each class in labelled splits; nothing where there is none."""
    if not splits:
        return
    names = next(iter(splits.values())).dataset.classes.names
    width = max(len(name) for name in (*names, "class")) + 2
    yield f"{'class':<{width}}" + "".join(f"{name:>9} %  pictures" for name in splits)
    figures = [_class_figures(split) for split in splits.values()]
    for name in names:
        yield f"{name:<{width}}" + "".join(f"{f[name]['percent']:>11.3f}{f[name]['images']:>10}" for f in figures)
    yield ""


def _class_figures(split: Split) -> dict[str, dict[str, Any]]:
    """Per class: share of the labelled pixels in per cent, and pictures that show it."""
    counts = split.counts()[:, :-1]
    share = 100 * counts.sum(0) / max(counts.sum(), 1)
    images = (counts > 0).sum(0)
    names = split.dataset.classes.names
    return {name: {"percent": float(share[i]), "images": int(images[i])} for i, name in enumerate(names)}


def facts_of(report: DataReport) -> dict[str, Any]:
    """The report for a JSON file."""
    splits = {
        name: {
            "dataset": split.dataset.name, "protocol": split.dataset.protocol, "pairs": len(split.pairs),
            "broken": len(split.pairs) - len(split.readable()), "sizes": dict(split.sizes()),
            "labelled": bool(split.dataset.labels),
            "void_percent": split.void_percent() if split.dataset.labels else None,
            "classes": _class_figures(split) if split.dataset.labels else {},
        }
        for name, split in report.splits.items()
    }  # fmt: skip
    findings = [asdict(finding) for finding in report.findings]
    return {"data": report.root, "usable": not report.faults(), "splits": splits, "findings": findings}
