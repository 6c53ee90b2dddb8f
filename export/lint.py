"""What a deployment target refuses in an ONNX file, or runs slowly: found before the file is on the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx

from export import lint_checks, lint_engines, lint_placement, lint_qdq, lint_rules, lint_types
from export.lint_graph import Finding, Graph
from export.lint_targets import TARGETS, Target
from pspnet.errors import PspnetError
from pspnet.metadata import read_model

SEVERITIES = {"refused": "refused, or read with other results", "slow": "runs slowly", "note": "notes"}
RULES = (*lint_checks.RULES, *lint_rules.RULES, *lint_types.RULES, *lint_qdq.RULES, *lint_placement.RULES)
NAMED = 3
"""Of the nodes with the same finding, so many are printed by name; the JSON has all of them."""
HEAD = ("file", "file_bytes", "producer", "ir_version", "opset", "inputs", "outputs", "nodes", "precision")
"""Of what `pspnet inspect` knows, so much is printed before the findings; the JSON has all of it."""


def lint(model: onnx.ModelProto, target: str) -> list[Finding]:
    """Every finding for one of `TARGETS`, the refused first, then the slow, each rule's together.

    model: any ONNX model, with or without our spec, its external data loaded or not; it is not changed. PspnetError
    where the target is unknown.
    """
    chosen, graph = _target(target), Graph(model)
    found = [finding for rule, families in RULES if chosen.family in families for finding in rule(graph, chosen)]
    return _sorted(found)


def lint_file(path: str | Path, target: str) -> list[Finding]:
    """`lint` of a file, and what the target's engine says to it where that is installed.

    PspnetError where it is no ONNX file, or is cut short.
    """
    if Path(path).suffix != ".onnx":
        raise PspnetError(f"--target looks into ONNX files, {path} is none: give model.onnx ({', '.join(TARGETS)})")
    chosen = _target(target)
    return _sorted(lint_engines.judged_by_engine(lint(read_model(path), target), path, chosen))


def is_refused(findings: list[Finding]) -> bool:
    """Whether the target would refuse the file, or read it with other results."""
    return any(finding.severity == "refused" for finding in findings)


def facts_of(findings: list[Finding], target: str) -> dict[str, Any]:
    """The findings for JSON, with nothing left out."""
    return {"target": target, "findings": [dataclasses.asdict(finding) for finding in findings]}


def text_of(findings: list[Finding], target: str) -> str:
    """The findings as lines by severity; those that differ in the node only share a line."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.rule, finding.op, finding.text), []).append(finding.name)
    lines = []
    if all(finding.severity == "note" for finding in findings):
        lines.append(f"{target}: nothing found that it would refuse or run slowly")
    for severity, title in SEVERITIES.items():
        chosen = {key: names for key, names in groups.items() if key[0] == severity}
        if chosen:
            lines.append(f"{target}: {title}")
        lines += [f"  {rule}: {_where(op, names)}{text}" for (_, rule, op, text), names in chosen.items()]
    return "\n".join(lines)


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: list(SEVERITIES).index(finding.severity))


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise PspnetError(f"target {name!r} is unknown: give --target {', '.join(TARGETS)}")
    return TARGETS[name]


def _where(op: str, names: list[str]) -> str:
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    count = f"{len(names)} x " if len(names) > 1 else ""
    return f"{count}{op} {listed}: ".replace("  ", " ").lstrip() if any(names) else ""
