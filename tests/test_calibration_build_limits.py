"""What a build's limits are held against, what it says of files that are missing, and of graphs it cannot take."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import onnx
import pytest

from pspnet.cli import main, parser
from runtime.passport import Passport, rebuild_command
from tests.doubles.cuda_driver import CudaDouble
from tests.engine_files import copied, quick_build, watch_builds, write_files
from tests.nets import CAMVID

OLD, NEW = "10.3.0", "11.4.0"
LIMITS = (["--min-agreement", "50"], ["--max-miou-drop", "90", "--data", str(CAMVID), "--images", "2"])


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("limits"), small_onnx)


def alone(files: Path, folder: Path) -> Path:
    """net.int8.onnx with its table and twin, without the float network."""
    model = copied(files.with_suffix(".int8.onnx"), folder)
    (folder / "net.onnx").unlink()
    (folder / "net.fp16.onnx").unlink()
    return model


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("where", [[], ["--on", "ssh://nobody@board.invalid"]])
def test_a_limit_against_the_float_network_needs_the_float_network(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], limit: list[str], where: list[str],
) -> None:  # fmt: skip
    seen = watch_builds(monkeypatch, quick_build(monkeypatch, tmp_path, NEW))
    model = alone(files, tmp_path)
    command = ["build", str(model), "-o", str(tmp_path / "a.engine"), *limit, *where]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the limit needs the float file net.onnx beside it. " in error and "another network" not in error
    (tmp_path / "net.onnx").write_bytes(files.with_suffix(".fp16.onnx").read_bytes())
    assert main(command) == 2
    assert "beside it, and net.onnx there is another network" in capsys.readouterr().err.splitlines()[-1]
    assert not seen and not (tmp_path / "a.engine").exists()


def test_without_a_limit_the_figures_say_that_the_float_file_is_absent(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    assert main(["build", str(alone(files, tmp_path)), "-o", str(tmp_path / "a.engine")]) == 0
    words = "% of labels equal those of net.int8.onnx itself, as the float file is not beside it, "
    assert words in capsys.readouterr().out
    assert Passport.load(tmp_path / "a.engine.json").accuracy["float_absent"] is True
    copied(files, tmp_path)
    arguments = ["build", str(tmp_path / "net.int8.onnx"), "-o", str(tmp_path / "a.engine"), "--no-compare"]
    assert main([*arguments, "--min-agreement", "20"]) == 0
    assert "equal those of net.onnx, " in capsys.readouterr().out


def test_after_a_missed_limit_the_earlier_engine_is_kept_and_named(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    engine = tmp_path / "a.engine"
    arguments = ["build", str(files.with_suffix(".int8.onnx")), "-o", str(engine), "--min-agreement", "100"]
    assert main(arguments) == 1
    assert "earlier engine" not in capsys.readouterr().err
    engine.write_bytes(b"earlier")
    assert main(arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"pspnet: {engine} is still the earlier engine"
    assert engine.read_bytes() == b"earlier"


@pytest.mark.parametrize("where", [[], ["--on", "ssh://nobody@board.invalid"]])
def test_a_folder_without_pictures_is_called_that(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], where: list[str],
) -> None:  # fmt: skip
    quick_build(monkeypatch, tmp_path, NEW)
    (empty := tmp_path / "empty").mkdir()
    output = ["-o", str(tmp_path / "a.engine"), *where]
    assert main(["build", str(files), *output, "--data", str(empty), "--min-agreement", "50"]) == 2
    assert f"no pictures in {empty}: give " in capsys.readouterr().err.splitlines()[-1]
    (empty / "one.png").write_bytes(min((CAMVID / "val" / "images").iterdir()).read_bytes())
    assert main(["build", str(files), *output, "--data", str(empty), "--min-agreement", "50"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"1 picture in {empty}, 2 or more are needed to compare engines on" in error and "calibrate" not in error


@pytest.mark.parametrize(("operator", "domain"), [("Bernoulli", ""), ("Sharpen", "com.example")])
def test_an_operator_that_tensorrt_refuses_is_told_in_its_words(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], operator: str, domain: str,
) -> None:  # fmt: skip
    seen = watch_builds(monkeypatch, quick_build(monkeypatch, tmp_path, OLD))
    with_operator(files, tmp_path / "odd.onnx", operator, domain)
    arguments = ["build", str(tmp_path / "odd.onnx"), "-o", str(tmp_path / "a.engine"), "--route", "weak"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"TensorRT 10.3.0 does not parse the graph: node the_odd_one ({operator}): " in error
    assert "variant.onnx" not in error and "OpenVINO" not in error and not seen


def test_a_graph_that_no_cpu_engine_takes_is_refused_by_the_name_of_its_file(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As of a plugin of TensorRT, whose parser takes it."""
    seen = watch_builds(monkeypatch, quick_build(monkeypatch, tmp_path, OLD))
    monkeypatch.setattr("calibration.build.check_parsed", lambda *arguments: None)
    odd = with_operator(files, tmp_path / "odd.onnx", "Sharpen", "com.example")
    assert main(["build", str(odd), "-o", str(tmp_path / "a.engine"), "--route", "weak"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(odd) in error and "variant.onnx" not in error and not seen


def with_operator(files: Path, path: Path, operator: str, domain: str) -> Path:
    """The network with one more node in front of its last."""
    model = onnx.load(files)
    last = model.graph.node[-1]
    odd = onnx.helper.make_node(operator, [last.input[0]], ["odd"], name="the_odd_one", domain=domain)
    last.input[0] = "odd"
    model.graph.node.insert(len(model.graph.node) - 1, odd)
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    return path


def test_a_tensorrt_newer_than_what_was_checked_is_noted(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trt = quick_build(monkeypatch, tmp_path, NEW)
    note = "note: TensorRT 12.0.0 is newer than what was checked here (11.4)"
    arguments = ["build", str(files), "-o", str(tmp_path / "a.engine"), "--precision", "fp32"]
    assert main(arguments) == 0
    assert "newer than" not in capsys.readouterr().out
    monkeypatch.setattr(trt, "__version__", "12.0.0")
    assert main(arguments) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--route", "weak", "--no-compare", "--low-memory"],
        ["--workspace", "300", "--aux-streams", "2", "--optimisation-level", "4"],
    ],
)
def test_the_command_that_builds_an_engine_again_has_the_flags_that_built_it(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: list[str]
) -> None:
    quick_build(monkeypatch, tmp_path, OLD)
    engine = tmp_path / "a.engine"
    assert main(["build", str(files.with_suffix(".int8.onnx")), "-o", str(engine), "--batch", "2", *flags]) == 0
    command = shlex.split(rebuild_command(engine, Passport.load(tmp_path / "a.engine.json")))
    assert command[:7] == ["pspnet", "build", "net.int8.onnx", "--precision", "int8", "--batch", "2"]
    again = vars(parser().parse_args(command[1:]))
    asked = vars(parser().parse_args(["build", "net.int8.onnx", "-o", str(engine), "--batch", "2", *flags]))
    assert again == asked | {"precision": "int8"}
    assert sorted(command[7:-2]) == sorted(flags)
    assert json.loads((tmp_path / "a.engine.json").read_text())["settings"]["workspace_mib"] > 0
