"""The lint of a whole file: what does not fit together, what the engines here say of it, and the gate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.lint import lint, lint_file, text_of
from export.lint_graph import Finding
from export.lint_targets import TARGETS
from pspnet.cli import main
from runtime.fp16_typing import fp16_from_fp32
from tests.lint_graphs import WEIGHT, branch, conv, graph, node, op, relu

T103, T11, OV, ORT = TARGETS
BF16 = TensorProto.BFLOAT16

GHOST = graph([node("Add", "x ghost", "y")])
NO_RESULT = graph([node("Relu", "x", "z")])
CIRCLE = graph([node("Relu", "b", "a"), node("Relu", "a", "b"), node("Relu", "x", "y")])
UNSORTED = graph([node("Neg", "a", "y"), node("Relu", "x", "a")])
NAMESAKES = graph([helper.make_node("Relu", ["x"], ["a"], "n"), helper.make_node("Neg", ["a"], ["y"], "n")])
HALF_BRAIN = graph(
    [node("Cast", "x", "a", to=BF16), node("Relu", "a", "b"), node("Cast", "b", "y", to=TensorProto.FLOAT)]
)
WRONG_CHANNELS = conv(WEIGHT[:, :31])
MIXED_TYPES = graph([node("Add", "x d", "y")], d=np.float64(1))
TWICE = graph([node("Relu", "x", "y"), node("Neg", "x", "y")])
STALE = relu()
STALE.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5, 8, 8)))

EVERYWHERE = {
    "ghost": GHOST, "no-result": NO_RESULT, "circle": CIRCLE, "channels": WRONG_CHANNELS, "types": MIXED_TYPES,
    "twice": TWICE, "unknown": op("FooBar"),
}  # fmt: skip


def refusals(model: onnx.ModelProto, target: str) -> list[Finding]:
    """The refused findings of the rules alone."""
    return [finding for finding in lint(model, target) if finding.severity == "refused"]


@pytest.fixture
def saved(tmp_path: Path):
    """Writes a model and returns its path."""

    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "m.onnx"
        onnx.save(model, path)
        return path

    return save


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_does_not_fit_together_is_refused_by_the_rules_alone(name: str, target: str) -> None:
    found = refusals(EVERYWHERE[name], target)
    assert found and all("\n" not in finding.text for finding in found)


def test_a_faulty_connection_is_named() -> None:
    (ghost,), (circle,), (missing,) = (refusals(model, T11) for model in (GHOST, CIRCLE, NO_RESULT))
    assert ghost.name == "y" and "'ghost'" in ghost.text and "'y'" in missing.text
    assert "a -> b -> a" in circle.text or "b -> a -> b" in circle.text


@pytest.mark.parametrize("target", TARGETS)
def test_what_engines_forgive_is_not_refused(target: str) -> None:
    assert not refusals(branch("If"), target)  # its branches read a tensor of the graph around them
    assert not refusals(STALE, target)  # a shape on paper that is not the one computed
    assert not refusals(UNSORTED, target)
    assert [f.severity for f in lint(UNSORTED, target) if f.rule == "consistency"] == ["note"]


def test_names_of_nodes_must_differ_for_onnx_runtime_only() -> None:
    assert [finding.rule for finding in refusals(NAMESAKES, ORT)] == ["node-name"]
    assert not any(refusals(NAMESAKES, target) for target in (T103, T11, OV))


@pytest.mark.parametrize(
    ("target", "model"),
    [(ORT, GHOST), (ORT, CIRCLE), (ORT, NAMESAKES), (ORT, HALF_BRAIN), (OV, GHOST),
     (OV, WRONG_CHANNELS), (OV, op("FooBar"))],
    ids=["ort-ghost", "ort-circle", "ort-names", "ort-bf16", "ov-ghost", "ov-channels", "ov-unknown"],
)  # fmt: skip
def test_an_engine_refuses_in_its_own_words(target: str, model: onnx.ModelProto, saved) -> None:
    path = saved(model)
    (finding,) = [finding for finding in lint_file(path, target) if finding.rule == "engine"]
    assert finding.severity == "refused" and "\n" not in finding.text and str(path) not in finding.text
    words = finding.text.partition("does not open the file: ")[2]
    assert len(words) > 20 and "Exception from" not in words


@pytest.mark.parametrize("target", [ORT, OV])
def test_the_word_of_an_engine_that_opens_a_file_counts(target: str, saved) -> None:
    found = lint_file(saved(UNSORTED), target)
    assert [finding.text for finding in found if finding.rule == "engine" and "opens the file" in finding.text]
    poisoned = conv(np.full_like(WEIGHT, np.nan))  # opens, but what comes out means nothing
    assert [f.rule for f in lint_file(saved(poisoned), target) if f.severity == "refused"] == ["not-finite"]


def test_what_onnx_runtime_opens_but_cannot_run_stays_refused(saved) -> None:
    found = lint_file(saved(WRONG_CHANNELS), ORT)
    assert [(f.rule, f.severity) for f in found if f.rule in ("shapes", "engine")] == [
        ("shapes", "refused"), ("engine", "note"),
    ]  # fmt: skip


def test_a_rule_that_the_engine_contradicts_becomes_a_note(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import lint_engines

    monkeypatch.setitem(lint_engines._ENGINES, "ort", ("ONNX Runtime", lambda path: "9.9"))
    found = lint_file(saved(NAMESAKES), ORT)
    assert {finding.severity for finding in found} == {"note"}
    assert any("opens it all the same" in finding.text for finding in found if finding.rule == "node-name")


def test_too_little_memory_is_no_refusal(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import lint_engines

    def fail(path: str) -> str:
        raise RuntimeError("bad_alloc")

    monkeypatch.setitem(lint_engines._ENGINES, "ort", ("ONNX Runtime", fail))
    with pytest.raises(RuntimeError):
        lint_file(saved(relu()), ORT)


@pytest.mark.parametrize(("target", "module"), [(OV, "openvino"), (ORT, "onnxruntime")])
def test_an_absent_engine_is_said(target: str, module: str, saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (finding,) = lint_file(saved(relu()), target)
    assert finding.severity == "note" and "only the tables" in finding.text and "pspnet-edge[cpu]" in finding.text


def test_what_is_newer_than_onnx_is_not_judged_by_it() -> None:
    newer = relu(opset=onnx.defs.onnx_opset_version() + 1)
    assert [(f.rule, f.severity) for f in lint(newer, OV) if f.rule == "consistency"] == [("consistency", "note")]


def test_half_types_are_explained_for_tensorrt_10_and_free_of_remarks_for_11(small_onnx: Path) -> None:
    typed = fp16_from_fp32(onnx.load(small_onnx))
    (remark,) = [finding for finding in lint(typed, T103) if finding.rule == "typing"]
    assert remark.severity == "note" and "STRONGLY_TYPED" in remark.text and "10.12" in remark.text
    assert not [finding for finding in lint(typed, T11) if finding.rule == "typing"]


@pytest.mark.parametrize("target", TARGETS)
def test_open_axes_of_a_foreign_file_get_no_advice_for_ours(target: str) -> None:
    (finding,) = [f for f in lint(relu(shape=("n", 3, "h", "w")), target) if f.rule == "dynamic-size"]
    assert "checkpoint" not in finding.text and "PSPNet" not in finding.text and "exporter" in finding.text


def test_the_gate_exits_with_1_and_prints_findings_behind_a_short_head(
    saved, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["inspect", str(saved(GHOST)), "--target", T103]) == 1
    assert "'ghost'" in capsys.readouterr().out
    assert main(["inspect", str(small_onnx), "--target", T103]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith(T103)) < 20
    assert main(["inspect", str(small_onnx)]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2 * len(lines)


def test_text_of_nothing() -> None:
    assert text_of([], OV) == "openvino: nothing found that it would refuse or run slowly"


@pytest.mark.parametrize("arguments", [["m.pt", "--target", "ort"], ["m.onnx", "--target", "tensorrt"]])
def test_a_wrong_target_or_artefact_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(target in message for target in TARGETS)
