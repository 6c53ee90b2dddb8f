"""The measured table of docs/export.md at two sizes: both forms of the head and the network against float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.export_table import Row, main

GOOD = Row("resnet18", [96, 96], {"folded": 1e-7, "fixed": 1e-7}, {"folded": 18, "fixed": 28}, 2e-6, 1e-6, 1.0, 0.0, 9)


@pytest.mark.parametrize(("size", "backbones"), [("360x480", "mobilenet_v2"), ("179x241", "resnet18")])
def test_the_table_keeps_its_limits(size: str, backbones: str, tmp_path: Path) -> None:
    assert main(["--sizes", size, "--backbones", backbones, "--json", str(tmp_path / "t.json")]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    assert [row["backbone"] for row in table["rows"]] == backbones.split(",")
    assert all(0 < row["head_error"][form] < 1e-5 for row in table["rows"] for form in ("folded", "fixed"))
    assert all(row["head_nodes"]["folded"] <= 20 for row in table["rows"])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"head_error": {"folded": 1e-7, "fixed": 2e-5}}, "head error"),
        ({"network_error": 3e-6}, "network error"),
        ({"network_error": float("nan")}, "network error"),
        ({"argmax_agreement": 0.9998}, "arg-max agreement"),
        ({"largest_gap_of_a_flip": 1e-3}, "near-ties"),
        ({"head_nodes": {"folded": 21, "fixed": 28}}, "head nodes"),
    ],
)
def test_a_missed_limit_is_named(change: dict, name: str) -> None:
    assert GOOD.missed() == []
    assert Row(**(vars(GOOD) | change)).missed() == [name]
