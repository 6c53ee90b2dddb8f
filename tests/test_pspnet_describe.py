"""`pspnet inspect` of the JSON files that verify and evaluate write, and of what it does not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.nets import CAMVID
from tests.test_refusals import exit_code, refusal
from tests.verify_guests import two_guests_in


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what verify and evaluate wrote about two guests: v.json and e.json."""
    folder = two_guests_in(tmp_path_factory.mktemp("reports"))
    a, b = folder / "a.onnx", folder / "b.onnx"
    outputs = ["-o", folder / "f.png", "--json", folder / "v.json"]
    assert exit_code("verify", a, b, "--data", CAMVID, "--min-agreement", 2, *outputs) == 0
    assert exit_code("evaluate", a, "--data", CAMVID, "--json", folder / "e.json") == 0
    return folder


def inspected(path: Path, capsys: pytest.CaptureFixture) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What is printed, with single spaces; what is stored; and the file itself."""
    capsys.readouterr()
    assert exit_code("inspect", path, "--json", path.with_suffix(".facts.json")) == 0
    stored = json.loads(path.with_suffix(".facts.json").read_text())
    return " ".join(capsys.readouterr().out.split()), stored, json.loads(path.read_text())


def test_a_report_of_verify(reports: Path, capsys: pytest.CaptureFixture) -> None:
    text, stored, report = inspected(reports / "v.json", capsys)
    assert stored["kind"] == "verify" and stored["agreement"] == report["agreement"]
    assert [stored["artefact_a"], stored["artefact_b"]] == report["artefacts"]
    figures = (
        "kind verify", "artefact b.onnx", f"miou_drop {report['miou_drop']:.6g}", "min_agreement 2",
        f"flips {report['agreement']['flips']}", f"miou {report['artefacts'][1]['scores']['miou']:.6g}",
    )  # fmt: skip
    for wanted in figures:
        assert wanted in text, wanted


@pytest.mark.parametrize("older", [False, True])
def test_scores_of_evaluate(older: bool, reports: Path, capsys: pytest.CaptureFixture) -> None:
    raw = json.loads((reports / "e.json").read_text())
    assert raw["kind"] == "evaluate"
    if older:  # files from before they had a kind
        del raw["kind"]
    (reports / "s.json").write_text(json.dumps(raw))
    text, stored, _ = inspected(reports / "s.json", capsys)
    assert stored["kind"] == "evaluate" and stored["per_class"] == raw["per_class"]
    assert f"miou {raw['miou']:.6g}" in text and "artefact a.onnx" in text and "split val" in text


def test_a_damaged_report_and_a_folder_are_refused(reports: Path, capsys: pytest.CaptureFixture) -> None:
    (reports / "d.json").write_text('{"kind": "verify", "artefacts": []}')
    assert "damaged report of verify" in refusal(capsys, "inspect", reports / "d.json")
    assert f"{reports} is a folder: give a checkpoint" in refusal(capsys, "inspect", reports)
    assert "cannot read ONNX file" in refusal(capsys, "inspect", reports / "gone.onnx", "--target", "ort")
    assert "docs/datasets.md" in refusal(
        capsys, "evaluate", reports / "a.onnx", "--data", reports, "--dataset", "folder"
    )
