"""`pspnet build` from the command line on the doubles of both generations: engine, passport, loading, labels."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from pspnet.cli import main
from pspnet.dataset import open_pictures
from pspnet.files import sha256_of
from pspnet.image import read_image
from runtime.passport import Passport, passport_path
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from tests.doubles.cuda_driver import CudaDouble
from tests.engine_files import copied, quick_build, watch_builds, write_files
from tests.nets import CAMVID

OLD, NEW = "10.3.0", "11.4.0"
FEWEST_EQUAL = 0.95  # labels of an engine and of its ONNX file on a CPU: two ways to round INT8 differ at borders


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("build"), small_onnx)


def labels(path: Path) -> np.ndarray:
    """Labels of the first picture, of an ONNX file by ONNX Runtime."""
    picture = open_pictures("camvid11", CAMVID, "val")[0]
    with open_runner(path, "ort" if path.suffix == ".onnx" else "auto", threads=1) as runner:
        return CpuSegmenter(runner).labels(read_image(picture))


@pytest.mark.parametrize(
    ("version", "name", "precision", "route"),
    [
        (OLD, "net.onnx", "fp32", "strong"), (OLD, "net.onnx", "fp32", "weak"), (OLD, "net.onnx", "fp16", "strong"),
        (OLD, "net.onnx", "fp16", "weak"), (OLD, "net.int8.onnx", "int8", "strong"),
        (OLD, "net.int8.onnx", "int8", "weak"), (NEW, "net.onnx", "fp32", "strong"),
        (NEW, "net.onnx", "fp16", "strong"), (NEW, "net.int8.onnx", "int8", "strong"),
    ],
)  # fmt: skip
def test_every_route_from_the_file_to_labels(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    version: str, name: str, precision: str, route: str,
) -> None:  # fmt: skip
    trt = quick_build(monkeypatch, tmp_path, version)
    seen = watch_builds(monkeypatch, trt)
    model, engine = files.with_name(name), tmp_path / "net.engine"
    options = ["--precision", precision, "--route", route, *(["--no-compare"] if precision == "int8" else [])]
    assert main(["build", str(model), "-o", str(engine), *options]) == 0
    assert [build["strong"] for build in seen] == [route == "strong"]
    passport = Passport.load(passport_path(engine))
    assert (passport.precision, passport.route, passport.tensorrt) == (precision, route, trt.__version__)
    assert passport.onnx == {"name": name, "sha256": sha256_of(model)} and passport.plan_sha256 == sha256_of(engine)
    assert passport.table_sha256 == (sha256_of(model.with_suffix(".json")) if precision == "int8" else None)
    assert passport.gpu == {"name": "CPU double", "compute_capability": "8.7", "multiprocessors": 8, "integrated": True}
    assert passport.audit["convolutions"] == 55 and passport.layers == passport.audit["by_precision"]
    assert passport.audit["int8_convolutions"] == (54 if precision == "int8" else 0)
    assert passport.latency["median_ms"] > 0 and passport.accuracy["parity"]["file"] == name
    assert (labels(engine) == labels(model)).mean() > FEWEST_EQUAL
    assert not cuda_double.live()


@pytest.mark.parametrize(
    ("version", "built"), [(OLD, ["int8 weak", "int8 strong", "fp16 weak"]), (NEW, ["int8 strong", "fp16 strong"])]
)
def test_auto_builds_what_there_is_and_says_why_it_chose(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], version: str, built: list[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, version)
    model, report_file = copied(files.with_suffix(".int8.onnx"), tmp_path), tmp_path / "report.json"
    assert main(["build", str(model), "--batch", "2", "--json", str(report_file)]) == 0
    engine, report = tmp_path / "net.int8.engine", json.loads(report_file.read_text())
    assert [row["name"] for row in report["candidates"]] == built
    assert [row["rival"] for row in report["candidates"]] == [*[False] * (len(built) - 1), True]
    own = [row for row in report["candidates"] if not row["rival"]]
    assert report["chosen"] == min(own, key=lambda row: row["latency"]["median_ms"])["name"]
    passport = Passport.load(passport_path(engine))
    assert f"{passport.precision} {passport.route}" == report["chosen"]
    assert passport.batch == {"min": 1, "opt": 2, "max": 2} and passport.latency["batch"] == 2
    assert set(passport.settings["candidates"]) == set(built)
    screen = capsys.readouterr().out
    assert screen.startswith("net.int8.engine: int8, ") and "INT8 against fp16: " in screen
    assert f"* {report['chosen']}" in screen and "for comparison only" in screen
    graphs = {row["name"]: row["graph"] for row in report["candidates"]}
    assert graphs["int8 strong"] == "net.int8.fp16.onnx"
    with open_runner(engine) as runner:
        assert runner.infer(np.zeros((5, 96, 128, 3), np.uint8)).shape[0] == 5


def test_best_races_precisions(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick_build(monkeypatch, tmp_path, OLD)
    for name, built in (
        ("net.onnx", ["fp16 weak", "fp16 strong", "fp32 weak"]),
        ("net.int8.onnx", ["int8 weak", "int8 strong", "fp16 weak", "fp16 strong", "fp32 weak"]),
    ):
        report_file = tmp_path / "report.json"
        arguments = ["--precision", "best", "-o", str(tmp_path / "best.engine"), "--json", str(report_file)]
        assert main(["build", str(files.with_name(name)), *arguments]) == 0
        report = json.loads(report_file.read_text())
        assert [row["name"] for row in report["candidates"]] == built and not any(
            r["rival"] for r in report["candidates"]
        )
        fastest = min(report["candidates"], key=lambda row: row["latency"]["median_ms"])
        assert report["chosen"] == fastest["name"]


def test_twins_are_typed_in_memory_where_the_file_has_none_of_its_own(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick_build(monkeypatch, tmp_path, NEW)
    model = copied(files, tmp_path)
    plans = []
    for change, graph in (
        (None, "net.fp16.onnx"),
        (tmp_path / "net.int8.fp16.onnx", "net.onnx, typed float16 in memory, because net.fp16.onnx was typed from"),
        ("delete", "net.onnx, typed float16 in memory"),
    ):
        if change == "delete":
            (tmp_path / "net.fp16.onnx").unlink()
        elif change is not None:
            (tmp_path / "net.fp16.onnx").write_bytes(Path(change).read_bytes())
        assert main(["build", str(model), "-o", str(tmp_path / "a.engine")]) == 0
        passport = Passport.load(tmp_path / "a.engine.json")
        assert passport.settings["graph"].startswith(graph)
        plans.append((tmp_path / "a.engine").read_bytes())
    assert plans[0] == plans[1] == plans[2]  # typing is deterministic, and a twin of another graph is never built


def test_the_low_memory_profile_reaches_tensorrt(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt = quick_build(monkeypatch, tmp_path, OLD)
    seen = watch_builds(monkeypatch, trt)
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine"), "--low-memory", "--route", "weak"]) == 0
    assert seen[0]["pools"] == {"WORKSPACE": 256 << 20, "TACTIC_DRAM": 1024 << 20}
    assert (seen[0]["max_aux_streams"], seen[0]["builder_optimization_level"]) == (0, 3)
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.settings["low_memory"] and passport.latency["took_turns_with"] == 0


def test_timings_are_kept_in_the_users_cache_folder_and_used_again(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick_build(monkeypatch, tmp_path, OLD)
    arguments = ["build", str(files), "-o", str(tmp_path / "a.engine"), "--route", "strong"]
    origins = []
    for _ in range(2):
        assert main(arguments) == 0
        origins.append(Passport.load(tmp_path / "a.engine.json").settings["timing_cache"])
    (cache,) = (tmp_path / "cache" / "pspnet-edge" / "timing-cache").iterdir()
    assert cache.name == "tensorrt-10.3.0_sm87_CPU-double_cuda-13.0.cache"
    assert origins == ["new", f"{cache.name}, {cache.stat().st_size} bytes"]
    assert main([*arguments, "--timing-cache", str(tmp_path / "own.cache")]) == 0
    assert (tmp_path / "own.cache").stat().st_size > 1000


def test_others_may_read_an_engine_and_never_write_it(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    before = os.umask(0)
    try:
        assert main(["build", str(files), "-o", str(tmp_path / "a.engine")]) == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "a.engine", tmp_path / "a.engine.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    everybodys = tmp_path / "open"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    assert main(["build", str(files), "-o", str(everybodys / "a.engine")]) == 2
    assert "everybody may write to the folder" in capsys.readouterr().err and not list(everybodys.iterdir())


def test_on_hands_the_build_to_the_board(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("calibration.remote.build_on", lambda args: asked.append(args) or 1)
    assert main(["build", str(files), "--on", "ssh://me@board:2222", "--batch", "2"]) == 1
    assert asked[0].on == "ssh://me@board:2222" and asked[0].batch == 2
