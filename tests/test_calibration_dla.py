"""`pspnet build --dla` on the doubles of both generations: placement, passport, loading and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration.build_candidates import BuildChoice
from pspnet.cli import main
from pspnet.dataset import open_pictures
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.image import read_image
from runtime.cuda import Device
from runtime.cuda_segmenter import CudaSegmenter
from runtime.passport import Passport, passport_path, rebuild_command
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.tensorrt_runner import TensorRTRunner
from tests.dla_boards import NEW, OLD, board, watch
from tests.doubles.cuda_driver import CudaDouble
from tests.doubles.tensorrt_double import build_steps, config
from tests.engine_files import write_files
from tests.nets import CAMVID

FEWEST_EQUAL = 0.95  # labels of an engine and of its ONNX file on a CPU: two ways to round INT8 differ at borders
ON_GPU = ["image.cast", "image.transpose"]  # of the picture's bytes, which no DLA reads


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("dla"), small_onnx)


def picture() -> np.ndarray:
    return read_image(open_pictures("camvid11", CAMVID, "val")[0])


def labels(path: Path) -> np.ndarray:
    with open_runner(path, "ort" if path.suffix == ".onnx" else "auto", threads=1) as runner:
        return CpuSegmenter(runner).labels(picture())


def backbone(model: Path) -> set[str]:
    """Names of the nodes from the picture to the head's input, found in the ONNX file."""
    graph = onnx.load(model).graph
    made = {name: node for node in graph.node for name in node.output}
    waiting, found = ["features"], set()
    while waiting:
        if (node := made.get(waiting.pop())) is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


@pytest.mark.parametrize(
    ("version", "name", "precision", "route", "flags"),
    [
        (OLD, "net.onnx", "fp16", "weak", {"FP16"}),
        (OLD, "net.int8.onnx", "int8", "weak", {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}),
        ("10.7.0.23", "net.int8.onnx", "int8", "weak", {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}),
        (NEW, "net.onnx", "fp16", "strong", set()),
        (NEW, "net.int8.onnx", "int8", "strong", set()),
    ],
)
def test_the_backbone_goes_to_the_core_and_runs_there(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], version: str, name: str, precision: str, route: str, flags: set[str],
) -> None:  # fmt: skip
    builds, cores = watch(monkeypatch, board(monkeypatch, tmp_path, version))
    model, engine = files.with_name(name), tmp_path / "net.engine"
    assert (
        main(["build", str(model), "-o", str(engine), "--dla", "1", "--no-compare"][: 7 if precision == "int8" else 6])
        == 0
    )
    screen = capsys.readouterr().out
    (asked,) = builds
    assert asked["flags"] == flags | {"TF32", "GPU_FALLBACK"} and asked["core"] == 1
    assert asked["parser"] == ({"ADJUST_FOR_DLA"} if route == "strong" else set())
    assert asked["strong"] == (route == "strong") and asked["shape"] == (1, 96, 128, 3) and not asked["profiles"]
    own = backbone(model if route == "strong" else files)
    on_dla = own - set(ON_GPU)
    # In a typed graph the nodes around it are others; those of the backbone keep their names.
    constants = {each for each in asked["dla"] if each not in own}
    assert not constants and set(asked["dla"]) <= on_dla and set(ON_GPU) <= own
    passport = Passport.load(passport_path(engine))
    assert (passport.precision, passport.route, passport.tensorrt) == (precision, route, version)
    dla = passport.dla
    assert dla is not None and (dla["core"], dla["loadables"]) == (1, 1)
    assert [each for each in dla["fell_back"] if each in ON_GPU] == ON_GPU == dla["fell_back"]
    computing = {each for each in own if ".weight_" not in each}  # weights' Q and DQ are constants
    assert dla["layers"] == len(computing) - len(ON_GPU) and passport.audit["dla_loadables"] == 1
    assert f"DLA core 1: {dla['layers']} of the {dla['layers'] + 2} layers of the backbone, in 1 part" in screen
    assert "on the GPU: image.cast, image.transpose" in screen
    assert passport.batch == {"min": 1, "opt": 1, "max": 1} and passport.latency["median_ms"] > 0
    assert passport.table_sha256 == (sha256_of(model.with_suffix(".json")) if precision == "int8" else None)
    assert "--dla 1" in rebuild_command(engine, passport)
    assert passport.accuracy["parity"]["agreement"] > 100 * FEWEST_EQUAL
    assert (labels(engine) == labels(model)).mean() > FEWEST_EQUAL
    assert len(cores) >= 4 and set(cores) == {1}  # audit, comparison, race, and the runner above
    assert main(["inspect", str(engine)]) == 0
    assert "fell_back" in (told := capsys.readouterr().out) and "image.transpose" in told
    assert not cuda_double.live()


def test_int8_up_to_10_7_is_said_by_a_cache_and_float_by_constraints(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    builds, _ = watch(monkeypatch, board(monkeypatch, tmp_path, "10.7.0.23"))
    model = files.with_name("net.int8.onnx")
    arguments = ["build", str(model), "-o", str(tmp_path / "a.engine"), "--dla", "0"]
    assert main(arguments) == 0
    quantised, rival = builds
    nodes = onnx.load(model).graph.node
    floats = {node.name for node in nodes if node.op_type == "Conv" and not node.input[1].endswith("_dq")}
    assert set(quantised["half"]) == floats != set() and rival["half"] == [] and rival["cache"] is None
    first, *lines = quantised["cache"].splitlines()
    assert first == "TRT-100700-EntropyCalibration2"
    told = {line.rpartition(": ")[0]: line.rpartition(": ")[2] for line in lines}
    activations = {n.input[0] for n in nodes if n.op_type == "QuantizeLinear" and not n.input[0].endswith(".weight")}
    assert activations <= set(told)
    sums = {name for node in nodes if node.op_type == "Add" for name in node.input if not name.endswith("_dq")}
    ones = {name for name, bits in told.items() if bits == "3f800000"}
    assert ones and ones <= sums and ones <= {name for name in told if name.startswith("backbone.")}
    assert rival["dla"] == quantised["dla"] and rival["flags"] == {"TF32", "FP16", "GPU_FALLBACK"}


def test_a_sum_that_is_not_all_on_the_dla_gets_no_scale_of_one(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a GPU, 1.0 would be taken literally, and round the sum to whole numbers."""
    builds, _ = watch(monkeypatch, board(monkeypatch, tmp_path, OLD))
    model = files.with_name("net.int8.onnx")
    add = next(
        node for node in onnx.load(files).graph.node if node.op_type == "Add" and node.name.startswith("backbone.")
    )
    takes = config.runs_on_dla
    monkeypatch.setattr(config, "runs_on_dla", lambda trt, each, own: each.name != add.name and takes(trt, each, own))
    assert main(["build", str(model), "-o", str(tmp_path / "a.engine"), "--dla", "0", "--no-compare"]) == 0
    told = dict(line.split(": ") for line in builds[0]["cache"].splitlines()[1:])
    assert add.name not in builds[0]["dla"] and "3f800000" in told.values()
    assert all(told.get(name) != "3f800000" for name in add.input)
    passport = Passport.load(tmp_path / "a.engine.json")
    assert passport.dla is not None and passport.dla["fell_back"] == [*ON_GPU, add.name]
    assert passport.dla["loadables"] == 2 and passport.accuracy["parity"]["agreement"] > 100 * FEWEST_EQUAL


def test_what_moves_to_the_gpu_during_the_build_is_told(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With fallback, TensorRT moves layers without an error; the inspector shows it."""
    board(monkeypatch, tmp_path, OLD)
    places = build_steps.placed_nodes

    def fewer(trt: Any, network: Any, settings: Any, refuse: type[Exception]) -> set[int]:
        kept = places(trt, network, settings, refuse)
        convolutions = [n for n in network._state.graph.nodes if n.op_type == "Conv" and id(n) in kept]
        return kept - {id(convolutions[10])}

    monkeypatch.setattr(build_steps, "placed_nodes", fewer)
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine"), "--dla", "0"]) == 0
    dla = Passport.load(tmp_path / "a.engine.json").dla
    assert dla is not None and dla["loadables"] == 2 and dla["fell_back"][:2] == ON_GPU
    assert len(dla["fell_back"]) == 3 and dla["fell_back"][2].startswith("backbone.")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_fixed_batch_takes_fewer_pictures_too(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    builds, _ = watch(monkeypatch, board(monkeypatch, tmp_path, version))
    engine = tmp_path / "a.engine"
    assert main(["build", str(files), "-o", str(engine), "--dla", "0", "--batch", "2"]) == 0
    assert builds[0]["shape"] == (2, 96, 128, 3)
    assert Passport.load(tmp_path / "a.engine.json").batch == {"min": 2, "opt": 2, "max": 2}
    images = np.random.default_rng(3).integers(0, 256, (3, 96, 128, 3), np.uint8)
    with TensorRTRunner(engine) as runner:
        together = runner.infer(images)
        alone = np.concatenate([runner.infer(image[None]) for image in images])
    assert together.shape[0] == 3 and np.array_equal(together, alone)


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.usefixtures("kernels_on_cpu")
def test_the_segmenter_captures_nothing_and_says_why(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    board(monkeypatch, tmp_path, version)
    engine = tmp_path / "a.engine"
    assert main(["build", str(files), "-o", str(engine), "--dla", "1", "--batch", "2"]) == 0
    wanted = labels(engine)
    with TensorRTRunner(engine) as runner:
        network = runner.network()
        stream = network.device.stream()
        network.prepare(1, stream)
        with pytest.raises(PspnetError, match="stream is capturing"), network.device.capture(stream):
            network.enqueue(1, stream)
        stream.free()

        def none(*_: Any) -> Any:
            raise AssertionError("a capture was tried")

        monkeypatch.setattr(Device, "capture", none)
        with CudaSegmenter(network) as segmenter:
            found = [segmenter.labels(picture()) for _ in range(4)]
            assert segmenter.without_graphs == "CUDA cannot capture what runs on DLA core 1"
    assert all(np.array_equal(each, found[0]) for each in found) and (found[0] == wanted).mean() > 0.99


def test_nothing_goes_to_a_dla_by_itself(
    files: Path, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    builds, cores = watch(monkeypatch, board(monkeypatch, tmp_path, OLD))
    assert BuildChoice().dla is None
    assert main(["build", str(files), "-o", str(tmp_path / "a.engine")]) == 0
    assert builds and all(not each["dla"] and "GPU_FALLBACK" not in each["flags"] for each in builds)
    assert Passport.load(tmp_path / "a.engine.json").dla is None and set(cores) == {None}
