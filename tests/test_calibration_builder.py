"""One plan on the double of both generations: what TensorRT is asked for, what it refuses, the timing cache, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import TensorProto, helper

from calibration.builder import BuildSettings, build_plan, routes_of
from calibration.timing_cache import TimingCache
from pspnet.errors import PspnetError
from runtime.fp16_typing import half_path
from tests.doubles import tensorrt_double
from tests.engine_files import watch_builds, write_files

OLD, NEW = "10.3.0", "11.4.0"
STEP_MS = "25"  # of a layer in a build that is to be cancelled: some 60 layers take longer than it takes to be told


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float file with its INT8 file and their typed twins beside it."""
    return write_files(tmp_path_factory.mktemp("builder"), small_onnx)


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> ModuleType:
    return tensorrt_double.install(monkeypatch, version)


def file_for(files: Path, route: str, precision: str) -> Path:
    """The file that a route takes."""
    path = files.with_suffix(".int8.onnx") if precision == "int8" else files
    return half_path(path) if route == "strong" and precision != "fp32" else path


@pytest.mark.parametrize(
    ("version", "route", "precision", "flags"),
    [
        (OLD, "weak", "fp32", set()),
        (OLD, "weak", "fp16", {"TF32", "FP16"}),
        (OLD, "weak", "int8", {"TF32", "FP16", "INT8"}),
        (OLD, "strong", "fp32", set()),
        (OLD, "strong", "fp16", {"TF32"}),
        (OLD, "strong", "int8", {"TF32"}),
        (NEW, "strong", "fp32", set()),
        (NEW, "strong", "fp16", {"TF32"}),
        (NEW, "strong", "int8", {"TF32"}),
    ],
)
def test_each_route_asks_for_its_typing_and_flags(
    files: Path, monkeypatch: pytest.MonkeyPatch, version: str, route: str, precision: str, flags: set[str]
) -> None:
    trt = installed(monkeypatch, version)
    seen = watch_builds(monkeypatch, trt)
    plan = build_plan(file_for(files, route, precision), BuildSettings(), route, precision)
    assert len(plan) > 10_000 and len(seen) == 1
    assert seen[0]["strong"] == (route == "strong") and seen[0]["flags"] == flags
    assert seen[0]["profiling_verbosity"] == trt.ProfilingVerbosity.DETAILED and seen[0]["monitored"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_settings_reach_tensorrt(files: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    trt = installed(monkeypatch, version)
    seen = watch_builds(monkeypatch, trt)
    tiling = "full" if version == NEW else None
    build_plan(files, BuildSettings(3, 64, 128, 2, 5, tiling), routes_of(trt)[0], "fp32")
    assert seen[0]["pools"] == {"WORKSPACE": 64 << 20, "TACTIC_DRAM": 128 << 20}
    assert (seen[0]["max_aux_streams"], seen[0]["builder_optimization_level"]) == (2, 5)
    (profile,) = seen[0]["profiles"]
    assert [tuple(shape) for shape in profile["image"]] == [(1, 96, 128, 3), (3, 96, 128, 3), (3, 96, 128, 3)]
    assert seen[0]["tiling"] == (trt.TilingOptimizationLevel.FULL if tiling else None)


def test_what_a_version_lacks_is_refused_by_name(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert routes_of(installed(monkeypatch, OLD)) == ("weak", "strong")
    with pytest.raises(PspnetError, match=r"TensorRT 10\.3\.0 has no tiling, 10\.8 and later do: leave out --tiling"):
        build_plan(files, BuildSettings(tiling="fast"), "weak", "fp16")
    assert routes_of(installed(monkeypatch, NEW)) == ("strong",)
    with pytest.raises(PspnetError, match=r"TensorRT 11\.4\.0\.106 has no weakly typed networks, only strong"):
        build_plan(files, BuildSettings(), "weak", "fp16")


def test_strong_typing_comes_first_from_10_12_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = installed(monkeypatch, OLD)
    for version, first in (("10.11.0", "weak"), ("10.12.0", "strong"), ("10.16.2.10", "strong")):
        monkeypatch.setattr(trt, "__version__", version)
        assert routes_of(trt)[0] == first


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 0}, "batch is 0"), ({"workspace_mib": 0}, "workspace is 0"), ({"aux_streams": -1}, "aux-streams is"),
        ({"optimisation_level": 6}, "optimisation-level is 6"), ({"tiling": "much"}, "tiling is 'much'"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(PspnetError, match=words):
        BuildSettings(**settings)


def test_a_failed_parse_names_every_node_and_its_reason(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, OLD)
    model = onnx.load(files.with_suffix(".int8.onnx"))
    quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][:2]
    for node in quantisers:
        zero = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
        bad = helper.make_tensor(f"{zero.name}_bad", TensorProto.INT8, zero.dims, [3] * max(1, *zero.dims, 1))
        model.graph.initializer.append(bad)
        node.input[2] = bad.name
    with pytest.raises(PspnetError) as refused:
        build_plan(model.SerializeToString(), BuildSettings(), "weak", "int8")
    text = str(refused.value)
    assert "\n" not in text and text.startswith("TensorRT 10.3.0 does not parse the graph: node ")
    for node in quantisers:
        assert f"node {node.name} (QuantizeLinear): " in text
    assert text.count("zero") >= 2
    with pytest.raises(PspnetError, match="does not parse the graph"):
        build_plan(b"no graph at all", BuildSettings(), "weak", "fp32")


def test_a_failed_build_says_what_tensorrt_says(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, OLD)
    with pytest.raises(PspnetError, match=r"cannot build the weakly typed int8 engine: .*int8 is not configured"):
        monkeypatch.setattr("calibration.builder.TYPED_BY_FLAGS", {"int8": ("FP16",)})
        build_plan(files.with_suffix(".int8.onnx"), BuildSettings(), "weak", "int8")


def test_a_graph_without_our_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, NEW)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(PspnetError, match="the graph's inputs are x, and image is needed"):
        build_plan(model.SerializeToString(), BuildSettings(), "strong", "fp32")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_timings_are_kept_and_used_again(
    files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    installed(monkeypatch, version)
    cache = TimingCache(tmp_path / "new" / "timings.cache", named=True)
    build_plan(files, BuildSettings(), "strong", "fp32", cache=cache)
    first = cache.path.read_bytes()
    assert cache.origin == "new" and len(first) > 1000
    build_plan(files, BuildSettings(), "strong", "fp32", cache=cache)
    assert cache.origin == f"timings.cache, {len(first)} bytes" and cache.path.read_bytes() == first
    assert [path.name for path in cache.path.parent.iterdir()] == ["timings.cache"]


@pytest.mark.parametrize("content", [b"no timing cache", None], ids=["damaged", "of another TensorRT"])
def test_a_cache_that_does_not_fit_is_refused_where_it_was_named_and_replaced_otherwise(
    files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "timings.cache"
    installed(monkeypatch, NEW)
    build_plan(files, BuildSettings(), "strong", "fp32", cache=TimingCache(path, named=True))
    other = path.read_bytes()
    if content is not None:
        other = content
        path.write_bytes(content)
    installed(monkeypatch, OLD)
    with pytest.raises(PspnetError, match=r"was not written by TensorRT 10\.3\.0 on this GPU, or is damaged"):
        build_plan(files, BuildSettings(), "strong", "fp32", cache=TimingCache(path, named=True))
    assert path.read_bytes() == other
    own = TimingCache(path, named=False)
    build_plan(files, BuildSettings(), "strong", "fp32", cache=own)
    assert own.origin == "new, because TensorRT does not accept timings.cache"
    assert json.loads(path.read_bytes()[8:])["header"]["tensorrt"] == "10.3.0"


def test_a_cache_folder_that_cannot_be_written_costs_no_build(
    files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, NEW)
    (tmp_path / "file").write_text("in the way of a folder")
    own = TimingCache(tmp_path / "file" / "timings.cache", named=False)
    assert build_plan(files, BuildSettings(), "strong", "fp32", cache=own)
    assert "not kept" in own.origin
    with pytest.raises(PspnetError, match=r"timings\.cache"):
        build_plan(files, BuildSettings(), "strong", "fp32", cache=TimingCache(own.path, named=True))


def test_ctrl_c_ends_a_build_and_keeps_no_timings(
    files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trt = installed(monkeypatch, NEW)
    seen = watch_builds(monkeypatch, trt)
    monkeypatch.setenv("TENSORRT_DOUBLE_STEP_MS", STEP_MS)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    cache = TimingCache(tmp_path / "timings.cache", named=True)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        build_plan(files, BuildSettings(), "strong", "fp32", cache=cache)
    timer.join()
    assert len(seen) == 1 and not cache.path.exists()
    assert "Exception caught" not in capfd.readouterr().err  # the double's word for an error that reached C++
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
