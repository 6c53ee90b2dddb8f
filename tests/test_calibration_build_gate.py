"""What `pspnet build` does not hand out: engines that are not their file, that miss limits, or that were cut short."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest

from calibration import build_check, build_memory, build_race
from calibration.build_sources import Source
from pspnet.cli import main
from pspnet.errors import PspnetError
from runtime.passport import Passport
from tests.doubles.cuda_driver import CudaDouble
from tests.engine_files import copied, damaged, quick_build, watch_builds, write_files
from tests.nets import CAMVID

OLD, NEW = "10.3.0", "11.4.0"


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("gate"), small_onnx)


def left_in(folder: Path) -> list[str]:
    """What lies in a folder but for the inputs and the cache."""
    return sorted(path.name for path in folder.iterdir() if path.name != "cache" and not path.name.startswith("net."))


def damage(monkeypatch: pytest.MonkeyPatch, routes: tuple[str, ...]) -> None:
    """Make TensorRT's optimiser wrong on some routes, as far as anybody can see."""
    sound = Source.graph

    def graph(self: Source, route: str, precision: str) -> tuple[bytes, str]:
        content, name = sound(self, route, precision)
        if route not in routes:
            return content, name
        return damaged(onnx.load_model_from_string(content)).SerializeToString(), name

    monkeypatch.setattr(Source, "graph", graph)


def test_a_route_that_gives_other_labels_is_left_out(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, OLD)
    damage(monkeypatch, ("weak",))
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine")]) == 0
    assert "fp16 weak    left out: only " in capsys.readouterr().out
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.route == "strong" and "labels equal" in passport.settings["candidates"]["fp16 weak"]["left_out"]


def test_a_route_that_cannot_be_built_is_left_out(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, OLD)
    monkeypatch.setattr("calibration.builder.TYPED_BY_FLAGS", {"int8": ("FP16",), "fp16": ("FP16",)})
    model, output = str(files.with_suffix(".int8.onnx")), str(tmp_path / "a.engine")
    assert main(["build", model, "-o", output]) == 0
    assert "int8 weak    left out: TensorRT 10.3.0 cannot build" in capsys.readouterr().out
    assert Passport.load(tmp_path / "a.engine.json").route == "strong"
    assert main(["build", model, "-o", str(tmp_path / "b.engine"), "--route", "weak"]) == 2
    assert "cannot build the weakly typed int8 engine" in capsys.readouterr().err
    assert left_in(tmp_path) == ["a.engine", "a.engine.json"]


def test_nothing_is_written_where_no_engine_is_its_file(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, OLD)
    damage(monkeypatch, ("weak", "strong"))
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pspnet: no engine passes, so nothing was written. fp16 weak: only ")
    assert "fp16 strong: only " in error and not left_in(tmp_path)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (["--min-agreement", "100"], "% of labels equal those of net.onnx, the limit is 100 %"),
        (["--max-miou-drop", "0.2", "--data", str(CAMVID), "--images", "2"], "mIoU drops by 1.50 points, the limit is"),
    ],
)
def test_a_missed_limit_is_exit_1_without_a_file(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], limit: list[str], words: str,
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    if "--data" in limit:
        monkeypatch.setattr(build_check.Reference, "check", worse(build_check.Reference.check))
    report_file = tmp_path / "report.json"
    arguments = ["-o", str(tmp_path / "a.engine"), "--json", str(report_file), *limit]
    assert main(["build", str(files.with_suffix(".int8.onnx")), *arguments]) == 1
    screen, report = capsys.readouterr(), json.loads(report_file.read_text())
    assert words in screen.err.splitlines()[-1] and screen.err.splitlines()[-1].startswith("pspnet: int8 strong: ")
    assert "no engine keeps the limits, so a.engine was not written" in screen.out
    assert report["chosen"] is None and len(report["missed"]) == 1 and left_in(tmp_path) == ["report.json"]


def worse(check: Any) -> Any:
    """`Reference.check` with INT8 a little worse than it is, so that no luck of rounding keeps a limit of nothing."""

    def checked(self: Any, engine: Path, source: Source, device: int) -> dict[str, Any]:
        facts = check(self, engine, source, device)
        lost = 1.5 if source.precision == "int8" else 0.0
        value = facts["float"] - lost
        return facts | {"value": value, "loss": lost, "agreement": min(facts["agreement"], 100 - lost)}

    return checked


def test_int8_that_is_slower_or_worse_than_fp16_is_said_aloud(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    monkeypatch.setattr(build_check.Reference, "check", worse(build_check.Reference.check))
    time_group = build_race._time

    def slower(group: Any, *arguments: Any) -> None:
        time_group(group, *arguments)
        for each in group:
            each.latency["median_ms"] = {"int8": 2.0, "fp16": 1.0}[each.precision]

    monkeypatch.setattr(build_race, "_time", slower)
    arguments = ["-o", str(tmp_path / "a.engine"), "--data", str(CAMVID), "--images", "2"]
    assert main(["build", str(files.with_suffix(".int8.onnx")), *arguments]) == 0
    screen, warnings = capsys.readouterr().out, Passport.load(tmp_path / "a.engine.json").accuracy["warnings"]
    assert len(warnings) == 2 and all(f"WARNING: {warning}" in screen for warning in warnings)
    assert warnings[0].startswith("INT8 is slower than fp16 here: 2.00 ms against 1.00 ms. Build net.onnx with")
    assert warnings[1].startswith("INT8 is worse than fp16: mIoU ")


def test_engines_that_do_not_fit_together_are_timed_alone_and_one_that_does_not_fit_is_left_out(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, OLD)
    time_group, too_large = build_race._time, ["weak"]

    def short(group: Any, *arguments: Any) -> None:
        if len(group) > 1 or group[0].route in too_large:
            raise PspnetError("it needs more memory than is free")
        time_group(group, *arguments)

    monkeypatch.setattr(build_race, "_time", short)
    arguments = ["build", str(files), "-o", str(tmp_path / "a.engine")]
    assert main(arguments) == 0
    assert "fp16 weak    left out: it needs more memory than is free" in capsys.readouterr().out
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.route == "strong" and passport.latency["took_turns_with"] == 0
    too_large.append("strong")
    assert main([*arguments[:-1], str(tmp_path / "b.engine")]) == 2
    assert "no engine passes, so nothing was written" in capsys.readouterr().err and len(left_in(tmp_path)) == 2


def test_without_the_float_file_or_the_wish_int8_is_not_compared_and_that_is_said(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    model = copied(files.with_suffix(".int8.onnx"), tmp_path)
    output = ["-o", str(tmp_path / "a.engine")]
    assert main(["build", str(model), *output, "--no-compare"]) == 0
    assert "note: not compared with fp16: --no-compare" in capsys.readouterr().out
    (tmp_path / "net.onnx").unlink()
    (tmp_path / "net.fp16.onnx").unlink()
    assert main(["build", str(model), *output]) == 0
    assert "note: not compared with fp16: no ONNX file beside net.int8.onnx is" in capsys.readouterr().out
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.accuracy["reference"] == "net.int8.onnx" and "not compared" in passport.accuracy["notes"][0]


def test_without_a_cpu_engine_nothing_is_compared_and_limits_are_refused(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    monkeypatch.setattr(build_check, "CPU_ENGINES", ("no_such_engine",))
    arguments = ["build", str(files), "-o", str(tmp_path / "a.engine")]
    for more in (["--min-agreement", "90"], ["--data", str(CAMVID)]):
        assert main([*arguments, *more]) == 2
        assert "neither openvino nor onnxruntime is installed" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "not compared with the ONNX file: neither openvino" in capsys.readouterr().out
    assert "not_compared" in Passport.load(tmp_path / "a.engine.json").accuracy


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "by SIGTERM"), (signal.SIGHUP, 129, "by SIGHUP")],
)
@pytest.mark.parametrize("phase", ["build_serialized_network", "the race"])
def test_a_signal_leaves_no_file(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], number: int, code: int, words: str, phase: str,
) -> None:  # fmt: skip
    trt = quick_build(monkeypatch, tmp_path, OLD)
    seen = watch_builds(monkeypatch, trt)
    (scratch := tmp_path / "cache").mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "a.engine").write_bytes(b"earlier")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    if phase == "the race":
        monkeypatch.setattr("calibration.build.time_engines", lambda *arguments: os.kill(os.getpid(), number))
    else:
        monkeypatch.setenv("TENSORRT_DOUBLE_STEP_MS", "30")
        started = trt.Builder.build_serialized_network

        def interrupted(self: Any, network: Any, config: Any) -> Any:
            threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
            return started(self, network, config)

        monkeypatch.setattr(trt.Builder, "build_serialized_network", interrupted)
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine")]) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pspnet: ") and words in said and len(seen) == (1 if phase != "the race" else 2)
    assert left_in(tmp_path) == ["a.engine"] and (tmp_path / "a.engine").read_bytes() == b"earlier"
    assert [path.name for path in scratch.iterdir()] in ([], ["pspnet-edge"]) and not cuda_double.live()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_too_little_memory_is_told_before_the_build(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trt = quick_build(monkeypatch, tmp_path, OLD)
    seen = watch_builds(monkeypatch, trt)
    monkeypatch.setattr(build_memory, "_available_bytes", lambda: 0)
    cuda_double.set_memory_bytes(1 << 30)
    arguments = ["build", str(files), "-o", str(tmp_path / "a.engine"), "--workspace", "512"]
    assert main(arguments) == 2
    assert "the build needs about 1." in (error := capsys.readouterr().err) and "try --low-memory" in error
    assert main([*arguments, "--low-memory"]) == 2
    assert "try a network that is exported for a smaller --size, or end other programs" in capsys.readouterr().err
    assert not seen and not left_in(tmp_path)
    assert main([*arguments[:-2], "--low-memory"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net.onnx", "--precision", "int8"], "has no Q/DQ, and INT8 without ranges gives wrong labels: `pspnet calib"),
        (["net.int8.onnx", "--precision", "fp16"], "give the float file that it was calibrated from"),
        (["net.fp16.onnx"], "is typed fp16: give the file that it was typed from"),
        (["net.onnx", "--route", "weak"], "has no weakly typed networks"),
        (["net.onnx", "--precision", "fp8"], "precision is 'fp8': choose one of fp32, fp16, int8, best"),
        (["net.onnx", "--route", "odd"], "route is 'odd': choose one of strong, weak, auto"),
        (["net.onnx", "--device", "3"], "there is no GPU 3"),
        (["net.onnx", "-o", "a.plan"], "must end in .engine"),
        (["net.int8.json"], "is no ONNX file"),
        (["net.onnx", "--images", "4"], "--images chooses pictures of DATA"),
        (["net.onnx", "--no-compare"], "--no-compare leaves fp16 out where int8 is built"),
        (["net.onnx", "--tiling", "some"], "tiling is 'some'"),
        (["net.onnx", "--max-miou-drop", "1"], "--max-miou-drop needs labels"),
        (["net.onnx", "--min-agreement", "0.9"], "min-agreement is 0.9"),
        (["net.onnx", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_refusals(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str,
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    copied(files, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["build", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert words in error[-1] and not left_in(tmp_path) and not list(tmp_path.glob("*.engine*"))
