"""doctor and inspect: they describe what is there, and what is absent or broken is a line and not a crash."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from pspnet import doctor, metadata
from pspnet.cli import main
from pspnet.files import sha256_of
from pspnet.spec import ModelSpec

SPEC = ModelSpec(
    backbone="resnet18", output_stride=8, bins=(1, 2), branch_channels=4, head_channels=8, aux_channels=8,
    class_names=("road", "sky"), palette=((128, 64, 128), (4, 5, 6)), input_size=(40, 64), metrics={"miou": 61.5},
)  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Path of an ONNX file with the declared interface, spec, proof and calibration."""
    nodes = [
        helper.make_node("Cast", ["image"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ("N", 40, 64, 3))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", 2, 5, 8))
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(helper.make_graph(nodes, "g", [image], [logits]), opset_imports=opset)
    metadata.attach_spec(proto, SPEC, proof={"network_error": 3e-7}, calibration={"images": 64}, precision="int8")
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_doctor_finds_what_the_interpreter_finds():
    lines = {(line.topic, line.name): line for line in doctor.checks()}
    for name in ("numpy", "onnx", "numba"):
        assert lines["Libraries", name].mark == doctor.OK
        assert lines["Libraries", name].detail == importlib.metadata.version(name)
    assert platform.python_version() in lines["Machine", "Python"].detail
    assert lines["Machine", "memory"].mark == doctor.OK
    assert ("OpenCV", "GStreamer") in lines
    for line in lines.values():
        assert line.mark in (doctor.OK, doctor.MISSING, doctor.NOTE)
        assert line.mark != doctor.MISSING or (line.lacks and line.fix)


def test_machine_has_the_agreed_fields():
    stamp = doctor.machine()
    assert list(stamp) == ["cpu", "flags", "cores", "os", "python"]
    assert stamp["cpu"] and 1 <= stamp["cores"] <= os.cpu_count() and stamp["python"] == platform.python_version()
    json.dumps(stamp)


@pytest.mark.parametrize(
    ("cpuinfo", "name", "flags"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni xavx_vnni\n", "AMD EPYC", ["avx2", "avx512_vnni"]),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm\n", "Orin board", ["asimd", "i8mm"]),
    ],
)  # fmt: skip
def test_cpu_is_read_from_the_kernel(monkeypatch, cpuinfo, name, flags):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(doctor, "_text", lambda path: cpuinfo if path == "/proc/cpuinfo" else "Orin board\0")
    assert doctor.cpu_name() == name
    assert doctor.cpu_flags() == flags


def test_doctor_runs_with_torch_blocked(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from pspnet.cli import main; "
        f"code = main(['doctor', '--json', {str(tmp_path / 'd.json')!r}]); sys.exit(code)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
    checks = {check["name"]: check for check in json.loads((tmp_path / "d.json").read_text())["checks"]}
    assert checks["torch"]["mark"] == "missing" and "train" in checks["torch"]["lacks"]
    assert "pip install 'pspnet-edge[train]'" in checks["torch"]["fix"]
    line = next(line for line in result.stdout.splitlines() if line.split()[1:2] == ["torch"])
    assert line.split()[0] == "missing" and "missing: torch" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), "apt-get install libgl1 libglib2.0-0"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "pip install 'pspnet-edge[opencv]'"),
        (SystemExit(3), "pip install 'pspnet-edge[opencv]'"),
    ],
)
def test_a_broken_library_is_a_line_with_its_fix(monkeypatch, error, fix):
    def broken(name):
        raise error

    library = next(library for library in doctor.LIBRARIES if library.module == "cv2")
    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.setattr(doctor, "is_jetson", lambda: False)
    line = doctor._library(library)
    assert (line.mark, line.fix) == (doctor.MISSING, fix) and "report" in line.lacks
    monkeypatch.setattr(doctor, "is_jetson", lambda: True)
    assert "--system-site-packages" in doctor._library(library).fix or "apt-get" in fix


def test_opencv_of_pip_is_told_from_jetpacks(monkeypatch):
    class Cv2:
        @staticmethod
        def getBuildInformation():
            return "  Video I/O:\n    FFMPEG:     YES\n    GStreamer:    NO\n    v4l/v4l2:    YES (linux/videodev2.h)\n"

    monkeypatch.setattr(doctor, "_loaded", lambda name: Cv2)
    monkeypatch.setattr(doctor, "_version", lambda names: "5.0" if names == ("opencv-python",) else "")
    marks = {line.name: line for line in doctor._opencv()}
    assert {name: line.mark for name, line in marks.items()} == {"FFmpeg": "ok", "GStreamer": "note", "V4L2": "ok"}
    assert "shadows JetPack's (opencv-python)" in marks["GStreamer"].detail
    monkeypatch.setattr(Cv2, "getBuildInformation", staticmethod(lambda: "    FFMPEG: NO\n    GStreamer: YES (1.20)\n"))
    assert [line.mark for line in doctor._opencv()] == ["missing", "ok", "note"]


class FakeGstreamer:
    """The library's three functions; it has the elements that a test gives it."""

    def __init__(self, *elements):
        self.gst_init_check = lambda *arguments: 1
        self.gst_version_string = self._function(lambda: b"GStreamer 1.20.3")
        self.gst_element_factory_find = self._function(lambda name: int(name.decode() in elements))

    @staticmethod
    def _function(answer):
        class Function:
            __call__ = staticmethod(answer)

        return Function()


def test_gstreamers_elements_are_missing_on_a_jetson_only(monkeypatch):
    def marks(library, jetson):
        def load(name):
            if library is None:
                raise OSError("no such file")
            return library

        monkeypatch.setattr(doctor.ctypes, "CDLL", load)
        monkeypatch.setattr(doctor, "is_jetson", lambda: jetson)
        return {line.name: line.mark for line in doctor._gstreamer()}

    whole = FakeGstreamer("nvarguscamerasrc", "nvv4l2decoder")
    assert marks(whole, True) == {"GStreamer": "ok", "nvarguscamerasrc": "ok", "nvv4l2decoder": "ok"}
    assert marks(FakeGstreamer("nvv4l2decoder"), True)["nvarguscamerasrc"] == "missing"
    assert marks(FakeGstreamer(), False) == {"GStreamer": "ok"}
    assert marks(None, True) == {"GStreamer": "missing"} and marks(None, False) == {"GStreamer": "note"}
    assert all(line.lacks and line.fix for line in doctor._gstreamer())


def test_inspect_prints_and_stores_an_onnx_file(model, tmp_path, capsys):
    assert main(["inspect", str(model), "--json", str(tmp_path / "i.json")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for wanted in (
        "kind onnx", f"file_bytes {model.stat().st_size}", f"sha256 {sha256_of(model)}", "ai.onnx 17", "nodes 3",
        "Relu 2", "Cast 1", "image uint8 (N, 40, 64, 3)", "logits float (N, 2, 5, 8)", "backbone resnet18",
        "road 128, 64, 128", "input_size 40, 64", "map_size 5, 8", "network_error 3e-07", "precision int8",
    ):  # fmt: skip
        assert wanted in text, wanted
    facts = json.loads((tmp_path / "i.json").read_text())
    assert facts["calibration"] == {"images": 64} and facts["spec"]["metrics"] == {"miou": 61.5}


def test_inspect_needs_no_torch_for_onnx_and_says_so_for_a_checkpoint(model, tmp_path):
    (tmp_path / "c.pt").write_bytes(b"x")
    code = "import sys; sys.modules['torch'] = None; from pspnet.cli import main; sys.exit(main(['inspect', {!r}]))"
    assert run(code.format(str(model))).returncode == 0
    result = run(code.format(str(tmp_path / "c.pt")))
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "pspnet-edge[train]" in result.stderr


def test_inspect_prints_a_checkpoint(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    weights = {"w": torch.zeros(2, 3), "n": torch.zeros(1, dtype=torch.int64)}
    torch.save({"spec": SPEC.to_json(), "model": weights, "epoch": 3}, tmp_path / "c.pt")
    assert main(["inspect", str(tmp_path / "c.pt")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for wanted in ("kind checkpoint", "weights 6", "tensors 2", "contents epoch, model, spec", "backbone resnet18"):
        assert wanted in text, wanted


def test_inspect_prints_a_calibration_table_shortened_and_stores_it_whole(tmp_path, capsys):
    table = {
        "kind": "calibration table", "method": "percentile 99.99", "onnx_sha256": "ab" * 32, "source": "train",
        "images": {f"{i}.png": "cd" for i in range(64)}, "amax": {f"tensor{i}": i / 7 for i in range(50)},
    }  # fmt: skip
    (tmp_path / "m.int8.json").write_text(json.dumps(table))
    assert main(["inspect", str(tmp_path / "m.int8.json"), "--json", str(tmp_path / "i.json")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "percentile 99.99" in text and "image_count 64" in text and "tensors 50" in text and "and 42 more" in text
    assert json.loads((tmp_path / "i.json").read_text())["amax"] == table["amax"]
    (tmp_path / "m.int8.json").write_text(json.dumps(table | {"amax": None}))
    assert main(["inspect", str(tmp_path / "m.int8.json")]) == 2


def test_inspect_prints_a_bench_file(tmp_path, capsys):
    entry = {
        "name": "m.onnx (ort, fp32)", "artefact": "m.onnx", "engine": "ort", "precision": "fp32", "file_bytes": 5,
        "sha256": "ef", "network_size": [40, 64], "fit": "crop", "service_ms": None, "stages_ms": None,
        "throughput_fps": {"median": 9.5, "low": 9.0, "high": 10.0},
        "ratio_to_first": None, "scores": None, "pictures": [],
    }  # fmt: skip
    value = {
        "kind": "bench", "created": "2026", "command": "c", "version": "0", "threads": 2, "rounds": 7, "source": "s",
        "frames_per_round": 3, "source_size": [4, 5], "machine": doctor.machine(), "candidates": [entry],
    }  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(value))
    assert main(["inspect", str(tmp_path / "b.json")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "m.onnx (ort, fp32)" in text and "median 9.5" in text and doctor.cpu_name() in text and "fit crop" in text


def test_inspect_shows_a_foreign_onnx_and_refuses_a_mismatch(model, tmp_path, capsys):
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    assert main(["inspect", str(tmp_path / "foreign.onnx")]) == 0
    assert "exported by another tool" in capsys.readouterr().out
    proto = onnx.load(model)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 19
    onnx.save(proto, tmp_path / "other.onnx")
    assert main(["inspect", str(tmp_path / "other.onnx")]) == 2
    assert "spec mismatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b"x"), ("a.json", b'{"kind": "photo"}'), ("a.json", b"[1]"), ("a", b"")]
)
def test_inspect_names_what_it_can_inspect(tmp_path, capsys, name, data):
    (tmp_path / name).write_bytes(data)
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert "or what calibrate, build, bench, verify or evaluate wrote (.json)" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent.onnx")]) == 2
    assert "does not exist" in capsys.readouterr().err
