"""benchmarks/sink_isolation.py: every disturbance takes place in a short run, and the change is that of each round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sink_isolation

ENGINE_MS = 20.0


def test_every_kind_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "isolation.json"
    arguments = ["--rounds", "1", "--frames", "5", "--size", "96x128", "--json", str(path)]
    assert sink_isolation.main(arguments) == 0
    result = json.loads(path.read_text())
    assert [row["kind"] for row in result["rows"]] == list(sink_isolation.KINDS)
    assert all(marks["p50"] > ENGINE_MS for marks in result["age_ms"].values())
    told = capsys.readouterr().out
    assert all(f"\n{kind:>10}  p50" in told for kind in ("alone", *sink_isolation.KINDS)) and "goal" in told


def test_the_change_is_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine becomes slower from round to round; one kind costs a fifth, the other nothing."""
    order: list[str] = []

    def one_run(kind: str, args: Any) -> list[float]:
        order.append(kind)
        speed = 1 + 0.5 * (order.count("alone") - 1)
        return [speed * ENGINE_MS * (1.2 if kind == "disk" else 1.0)] * args.frames

    monkeypatch.setattr(sink_isolation, "one_run", one_run)
    path = tmp_path / "i.json"
    assert sink_isolation.main(["--rounds", "3", "--kinds", "viewer,disk", "--json", str(path)]) == 0
    viewer, disk = json.loads(path.read_text())["rows"]
    assert viewer["p99_change"] == pytest.approx(0) and viewer["met"]
    assert disk["p99_change"] == pytest.approx(0.2) and not disk["met"]
    assert order == ["alone", "viewer", "disk", "alone", "disk", "viewer", "alone", "viewer", "disk"]


def test_an_unknown_kind_is_refused_in_one_line(capsys: pytest.CaptureFixture) -> None:
    assert sink_isolation.main(["--kinds", "viewer,moon"]) == 2
    said = capsys.readouterr().err
    assert "--kinds moon" in said and said.count("\n") == 1
