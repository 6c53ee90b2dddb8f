"""Each rule of the lint on a graph that breaks it and on a neighbour that does not; our own files pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper

from calibration.calibrate import calibrate
from export.lint import RULES, lint
from export.lint_graph import Graph
from export.lint_targets import TARGETS
from pspnet.cli import main
from tests.lint_graphs import (
    AFTER_Q,
    ARGMAX,
    ARGMAX_32,
    BATCH_NORM,
    BEFORE_Q,
    BOUNDED,
    CHANNELS,
    CUSTOM,
    DILATED,
    FP16_TINY,
    INDICES,
    LARGE,
    LARGE_WEIGHT,
    MASKED,
    MAXPOOL,
    NAN,
    NORM_FIRST,
    QLINEAR,
    RELU,
    RUN_TIME_SCALE,
    SCATTERED,
    SCATTERED_PLAIN,
    TRAINING,
    U8,
    UINT8_CAST,
    UINT8_MUL,
    UINT8_OUT,
    WEIGHT,
    D,
    F,
    H,
    axis_less,
    bias,
    branch,
    cast_weight,
    concat_then_conv,
    conv,
    gathers,
    graph,
    half_scaled,
    int8_conv,
    logits,
    node,
    op,
    pool,
    product,
    quantised,
    relu,
    resize,
)
from tests.lint_placements import PLACEMENTS
from tests.nets import CAMVID

T103, T11, OV, ORT = TARGETS
LEGACY = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX's first days: read, but defined nowhere now

CASES: list[tuple[str, str, str, onnx.ModelProto, onnx.ModelProto]] = [
    ("opset", T103, "refused", relu(opset=21), relu(opset=20)),
    ("opset", T11, "refused", relu(opset=26), relu(opset=25)),
    ("opset", T103, "note", relu(opset=8), relu(opset=9)),
    ("opset", ORT, "refused", relu(opset=27), relu(opset=26)),
    ("opset", OV, "note", relu(opset=27), relu(opset=26)),
    ("ir-version", ORT, "refused", relu(ir_version=14), relu(ir_version=13)),
    ("operator", T103, "refused", op("Det"), RELU),
    ("operator", T103, "refused", op("RMSNormalization"), op("LayerNormalization")),
    ("operator", T11, "refused", op("SequenceConstruct"), op("RMSNormalization")),
    ("operator", T11, "refused", CUSTOM, RELU),
    ("operator", OV, "refused", op("Det"), op("Mish")),
    ("operator", OV, "refused", CUSTOM, RELU),
    ("operator", ORT, "refused", op("NeverHeardOf"), op("Det")),
    ("operator", ORT, "refused", CUSTOM, RELU),
    ("qoperator", T103, "refused", QLINEAR, quantised()),
    ("qoperator", T11, "refused", op("DynamicQuantizeLinear"), quantised()),
    ("pooling", T103, "refused", INDICES, MAXPOOL),
    ("pooling", T11, "refused", DILATED, MAXPOOL),
    ("pooling", T11, "refused", pool([2]), pool([2, 2])),
    ("dropout", T103, "refused", TRAINING, RELU),
    ("dropout", OV, "note", op("Dropout"), RELU),
    ("wiring", T11, "refused", graph([node("Add", "x ghost", "y")]), RELU),
    ("consistency", OV, "refused", op("FooBar"), RELU),
    ("shapes", T11, "refused", conv(WEIGHT[:, :31]), conv(WEIGHT[:, :8], shape=(1, 8, 4, 4))),
    ("node-name", ORT, "refused", graph([RELU, helper.make_node("Neg", ["x"], ["z"], "y")]), RELU),
    ("malformed", ORT, "refused", graph([node("MatMul", "x", "y")]), product(8, 8)),
    ("scatter", T11, "refused", SCATTERED, SCATTERED_PLAIN),
    ("float64", T103, "note", relu(kind=D, out=D), relu()),
    ("float64", ORT, "refused", conv(WEIGHT.astype(np.float64), kind=D, out=D), conv()),
    ("type", T11, "refused", relu(kind=TensorProto.INT16, out=TensorProto.INT16), relu(kind=6, out=6)),
    ("int64-output", T103, "slow", ARGMAX, ARGMAX_32),
    ("arg-max", T11, "slow", ARGMAX, RELU),
    ("uint8", T103, "refused", UINT8_MUL, UINT8_CAST),
    ("uint8", T11, "refused", MASKED, UINT8_OUT),
    ("uint8", T103, "note", graph([node("Cast", "x", "y", to=6)], kind=U8, out=6), UINT8_CAST),
    ("zero-point", T103, "refused", quantised(zero=np.uint8(0)), quantised()),
    ("zero-point", T11, "refused", quantised(zero=np.int8(3)), quantised()),
    ("zero-point", T11, "refused", quantised(zero=np.uint16(0), opset=21), quantised(opset=21)),
    ("zero-point", T11, "refused", quantised(zero=np.zeros(2, np.int8)), quantised()),
    ("int32-bias", T103, "refused", bias(np.int32), bias(np.int8)),
    ("scale", T103, "refused", quantised(0.0), quantised(2.0**-24)),
    ("scale", T11, "refused", quantised(-0.1), quantised()),
    ("scale", T11, "refused", RUN_TIME_SCALE, quantised()),
    ("scale", T11, "note", FP16_TINY, half_scaled(H, np.float16)),
    ("per-channel", T103, "refused", quantised(CHANNELS, np.zeros(32, np.int8)), int8_conv()),
    ("axis", T103, "refused", axis_less(True), int8_conv()),
    ("axis", T11, "note", axis_less(True), axis_less(False)),
    ("fp16-qdq", T11, "refused", quantised(np.float16(0.1), kind=H, opset=18), half_scaled(H, np.float16)),
    ("fp16-qdq", ORT, "refused", quantised(np.float16(0.1), kind=H, opset=18), quantised(opset=18)),
    ("scale-type", T103, "refused", half_scaled(H, np.float32), half_scaled(H, np.float16)),
    ("scale-type", T11, "refused", half_scaled(F, np.float16), half_scaled(H, np.float32)),
    ("scale-type", ORT, "refused", half_scaled(H, np.float32), half_scaled(F, np.float32)),
    ("concat-qdq", OV, "note", concat_then_conv("Conv"), concat_then_conv("Relu")),
    ("relu-qdq", ORT, "slow", int8_conv(*BEFORE_Q), int8_conv(*AFTER_Q)),
    ("resize-mode", T103, "refused", resize(coordinate_transformation_mode="half_pixel_symmetric"), resize()),
    ("resize-mode", T11, "refused", resize(mode="cubic"), resize(mode="nearest")),
    ("resize-mode", T11, "refused", resize(sizes=True, keep_aspect_ratio_policy="not_larger"), resize(sizes=True)),
    ("resize-mode", OV, "refused", resize(coordinate_transformation_mode="half_pixel_symmetric"), resize(mode="cubic")),
    ("resize-antialias", T11, "refused", resize(antialias=1), resize(antialias=0)),
    (
        "resize-scales", T103, "note", resize(coordinate_transformation_mode="align_corners"),
        resize(coordinate_transformation_mode="align_corners", sizes=True),
    ),
    ("resize-dynamic", T103, "slow", resize(dynamic=True), resize(sizes=True)),
    ("full-size-logits", OV, "slow", logits(8), logits(7)),
    ("control-flow", T11, "slow", branch("If"), branch("Relu")),
    ("dynamic-size", ORT, "note", relu(shape=(1, 3, "h", 8)), relu(shape=("n", 3, 8, 8))),
    ("batch-norm", T103, "note", BATCH_NORM, NORM_FIRST),
    ("shape-chain", OV, "note", resize(dynamic=True), resize(sizes=True)),
    ("gather-storm", T103, "note", gathers(150), gathers(20)),
    ("wide-window", T103, "note", pool([30, 30]), pool([10, 10])),
    ("matmul-step", T11, "note", product(16, 12), product(60, 16)),
    ("large-constant", T11, "note", LARGE, LARGE_WEIGHT),
    ("not-finite", ORT, "refused", conv(NAN), BOUNDED),
    ("fp16-range", T11, "refused", cast_weight(1e5), cast_weight(6e4)),
    ("fp16-range", T103, "note", conv(WEIGHT * np.float32(1e5)), conv()),
    ("typing", T103, "note", conv(WEIGHT.astype(np.float16), kind=H, out=H), conv()),
    ("typing", T11, "note", conv(), conv(WEIGHT.astype(np.float16), kind=H, out=H)),
    ("typing", OV, "note", conv(WEIGHT.astype(np.float16), kind=H, out=H), conv()),
    ("typing", ORT, "note", conv(WEIGHT.astype(np.float16), kind=H, out=H), conv()),
    *PLACEMENTS,
]  # fmt: skip


def findings(model: onnx.ModelProto, target: str, rule: str) -> set[str]:
    """Severities of a rule's findings."""
    return {finding.severity for finding in lint(model, target) if finding.rule == rule}


@pytest.mark.parametrize(
    ("rule", "target", "severity", "bad", "good"), CASES, ids=[f"{rule}-{target}-{s}" for rule, target, s, *_ in CASES]
)
def test_a_rule_finds_its_graph_and_spares_the_neighbour(
    rule: str, target: str, severity: str, bad: onnx.ModelProto, good: Any
) -> None:
    assert severity in findings(bad, target, rule)
    assert severity not in findings(relu() if good is RELU else good, target, rule)


def test_every_rule_has_a_case() -> None:
    names = {rule.__name__ for rule, _ in RULES}
    silent = set(names)
    for _, target, _, bad, _ in CASES:
        for rule, families in RULES:
            if TARGETS[target].family in families and list(rule(Graph(bad), TARGETS[target])):
                silent.discard(rule.__name__)
    assert silent == {"external"}  # has a test of its own, because it needs files


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nothing_of_our_own_is_refused(precision: str, target: str, small_onnx: Path, small_int8: Path) -> None:
    path = {"fp32": small_onnx, "int8": small_int8}[precision]
    found = lint(onnx.load(path), target)
    assert not [finding for finding in found if finding.severity == "refused"]
    slow = {finding.rule for finding in found if finding.severity == "slow"}
    assert slow == ({"relu-qdq"} if (precision, target) == ("int8", "ort") else set())


@pytest.fixture(scope="module")
def small_int8(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lint") / "small.int8.onnx"
    calibrate(small_onnx, path, CAMVID, count=4, method="minmax")
    return path


def refused_by_ort(model: onnx.ModelProto) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return True
    return False


def refused_by_openvino(model: onnx.ModelProto, path: Path) -> bool:
    onnx.save(model, path)
    try:
        openvino.Core().compile_model(path, "CPU")
    except Exception:
        return True
    return False


LINTED_ORT = (1, 31)


def version(module: Any) -> tuple[int, ...]:
    return tuple(map(int, module.__version__.split(".")[:2]))


TRIED = {"opset", "ir-version", "operator", "float64", "fp16-qdq", "scale-type", "resize-mode"}
ENGINES = {case[0]: case for case in CASES if case[0] in TRIED and case[1] in (OV, ORT) and case[2] == "refused"}


@pytest.mark.parametrize(("rule", "target", "severity", "bad", "good"), ENGINES.values(), ids=ENGINES)
def test_the_engines_here_refuse_what_the_lint_says(
    rule: str, target: str, severity: str, bad: onnx.ModelProto, good: Any, tmp_path: Path
) -> None:
    newer = target == ORT and rule in ("opset", "ir-version") and version(onnxruntime) > LINTED_ORT
    if target == ORT and rule in ("opset", "ir-version") and version(onnxruntime) < LINTED_ORT:
        pytest.skip("these limits are those of ONNX Runtime 1.31, which takes more than the one that is installed")
    refused: Callable[[onnx.ModelProto], bool] = (
        refused_by_ort if target == ORT else lambda model: refused_by_openvino(model, tmp_path / "m.onnx")
    )
    good = relu() if good is RELU else good
    good.ir_version = min(good.ir_version, 13)
    assert not refused(good)
    if newer:
        pytest.skip("these limits are those of ONNX Runtime 1.31, and the one that is installed takes more")
    assert refused(bad)


def test_tables_name_real_operators() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    for target in TARGETS.values():
        assert (target.operators or set()) <= known | LEGACY
    assert TARGETS[T103].operators < TARGETS[T11].operators


def test_external_data_may_be_absent(tmp_path: Path) -> None:
    onnx.save(conv(NAN), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    absent = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert findings(absent, T103, "external-data") == {"note"} and not findings(absent, T103, "not-finite")
    assert findings(onnx.load(tmp_path / "m.onnx"), T103, "not-finite") == {"refused"}


def test_local_functions_are_looked_into() -> None:
    model = graph([helper.make_node("Inner", ["x"], ["y"], domain="custom")])
    body = helper.make_function("custom", "Inner", ["a"], ["b"], [node("Det", "a", "b")], [helper.make_opsetid("", 19)])
    model.functions.append(body)
    assert [(f.rule, f.op) for f in lint(model, T103)] == [("operator", "Det")]


def test_inspect_prints_groups_and_stores_every_finding(
    small_int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    onnx.save(gathers(150), tmp_path / "foreign.onnx")
    assert main(["inspect", str(tmp_path / "foreign.onnx"), "--target", T103]) == 0
    assert "gather-storm" in capsys.readouterr().out
    assert main(["inspect", str(small_int8), "--target", ORT, "--json", str(tmp_path / "i.json")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "relu-qdq" in line]
    stored = json.loads((tmp_path / "i.json").read_text())["lint"]
    count = sum(finding["rule"] == "relu-qdq" for finding in stored["findings"])
    assert stored["target"] == ORT and len(lines) == 1 and f"{count} x Relu" in lines[0] and count > 30
