"""Networks of other tools in every form of their interface, on both engines, against torch in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn.functional import interpolate

from pspnet.cli import main
from pspnet.dataset import CAMVID11, open_dataset
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from pspnet.metadata import read_model, stored_bytes
from runtime.labels import from_labels_at_camera
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from tests.guests import CLASSES, MEAN, SIZE, STD, graph, reference, save
from tests.nets import CAMVID
from tests.test_torch_free import pspnet_without_torch

ERROR = 2e-6  # of the largest logit: float32 sums of 28 products, rounded to 6e-8 each
HALF_ERROR = 2e-3  # of the largest logit: weights rounded to float16, 5e-4 each
NEAR = 1e-5  # of the largest logit; between classes that are nearer, float32 rounding decides
MIOU_ERROR = 1e-3  # per cent: a few near-ties among 864,000 pixels
QUANTUM = 1.7  # grey levels; no whole level lies halfway between two multiples, where engines round either way
ENGINES = ["openvino", "ort"]
NORMALISED = {"mean": MEAN, "std": STD}


def pictures(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(N, H, W, 3) uint8 RGB: real pictures, so that classes form regions."""
    files = sorted((CAMVID / "test" / "images").iterdir())[:count]
    return np.stack([cv2.resize(cv2.imread(str(file))[..., ::-1], size[::-1]) for file in files])


def assert_best(labels: np.ndarray, logits: np.ndarray) -> None:
    """Fails where a label is not the arg max of logits (C, H, W) float64, nor within NEAR of the maximum."""
    chosen = np.take_along_axis(logits, labels[None].astype(int), 0)[0]
    assert (logits.max(0) - chosen).max() <= NEAR * np.abs(logits).max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("form", "fields"),
    [
        ({}, NORMALISED),
        ({}, {**NORMALISED, "channel_order": "bgr"}),
        ({}, {"mean": [0, 0, 0], "std": [255, 255, 255]}),
        ({}, {}),
        ({"stride": 1}, NORMALISED),
        ({"stride": 32}, NORMALISED),
        ({"layout": "NHWC"}, NORMALISED),
        ({"layout": "NHWC", "kind": "uint8"}, {}),
        ({"layout": "NHWC", "kind": "uint8"}, {"channel_order": "bgr"}),
        ({"layout": "NCHW", "kind": "uint8"}, {}),
        ({"batch": "N", "size": ("H", "W")}, {**NORMALISED, "input_size": list(SIZE)}),
        ({"batch": "N", "size": ("H", SIZE[1])}, {**NORMALISED, "input_size": "64x96"}),
        ({"batch": "N", "size": ("H", "W"), "channels": "C", "open_output": True},
         {**NORMALISED, "input_size": "64x96", "output_kind": "logits"}),
        ({"kind": "float16", "half": True}, NORMALISED),
        ({"half": True}, NORMALISED),
    ],
)  # fmt: skip
def test_logits_are_those_of_torch(form: dict[str, Any], fields: dict[str, Any], engine: str, tmp_path: Path) -> None:
    path = save(tmp_path, graph(**form), **fields)
    images = pictures(2)
    with open_runner(path, engine, 1) as runner:
        assert (runner.engine, runner.gives) == (engine, "logits")
        assert runner.precision == ("fp16 file, computed in fp32" if form.get("half") else "fp32")
        together, alone = runner.infer(images), runner.infer(images[1:])
    mean = (123.675, 116.28, 103.53) if not fields and form.get("kind") != "uint8" else fields.get("mean", MEAN)
    std = (58.395, 57.12, 57.375) if not fields and form.get("kind") != "uint8" else fields.get("std", STD)
    bgr = fields.get("channel_order") == "bgr"
    if bgr and form.get("kind") == "uint8":  # the graph normalises the bands in the order in which they come
        mean, std = mean[::-1], std[::-1]
    wanted = np.stack([reference(image, form.get("stride", 4), CLASSES, bgr, mean, std) for image in images])
    assert together.dtype == np.float32
    limit = HALF_ERROR if form.get("half") else ERROR
    np.testing.assert_allclose(together, wanted, rtol=0, atol=limit * np.abs(wanted).max())
    np.testing.assert_array_equal(alone[0], together[1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "form",
    [
        {"label": "int64"}, {"label": "int32", "rank4": True}, {"label": "uint8", "stride": 1},
        {"label": "int64", "layout": "NHWC", "kind": "uint8", "batch": "N"},
    ],
)  # fmt: skip
def test_labels_are_the_arg_max_of_torch(form: dict[str, Any], engine: str, tmp_path: Path) -> None:
    path = save(tmp_path, graph(ends="labels", **form), **({} if "kind" in form else NORMALISED))
    images = pictures(2)
    with open_runner(path, engine, 1) as runner:
        labels = runner.infer(images)
        assert runner.gives == "labels" and labels.dtype == np.uint8
    for found, image in zip(labels, images, strict=True):
        assert_best(found, reference(image, form.get("stride", 4)))
        assert len(np.unique(found)) > 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("zero", "largest"), [(np.int8(0), 127), (np.uint8(7), 248)])
def test_a_quantised_guest(zero: Any, largest: int, engine: str, tmp_path: Path) -> None:
    model = graph()
    scale = numpy_helper.from_array(np.float32(QUANTUM), "scale")
    model.graph.initializer.extend([scale, numpy_helper.from_array(np.asarray(zero), "zero")])
    model.graph.node[0].input[0] = "again"
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["pixels", "scale", "zero"], ["whole"]))
    model.graph.node.insert(1, onnx.helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["again"]))
    images = pictures(1)
    rounded = QUANTUM * np.minimum(np.rint(images[0] / QUANTUM), largest)
    with open_runner(save(tmp_path, model, mean=[0, 0, 0], std=[1, 1, 1]), engine, 1) as runner:
        assert runner.precision == "int8"
        wanted = reference(rounded, mean=(0, 0, 0), std=(1, 1, 1))
        np.testing.assert_allclose(runner.infer(images)[0], wanted, rtol=0, atol=ERROR * np.abs(wanted).max())


def test_labels_that_are_no_class_become_255(tmp_path: Path) -> None:
    path = save(tmp_path, graph(ends="labels"), class_names=["a", "b", "c"], **NORMALISED)
    [image] = pictures(1)
    with open_runner(path, "ort", 1) as runner:
        [labels] = runner.infer(image[None])
    known = labels != 255
    best = reference(image).argmax(0)
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(labels, np.where(best < 3, best, 255))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("ends", "kind"), [("logits", "logits"), ("sigmoid", "probabilities")])
def test_one_plane_for_two_classes(ends: str, kind: str, engine: str, tmp_path: Path) -> None:
    fields = {"class_names": ["rest", "road"], "output_kind": kind, **NORMALISED}
    path = save(tmp_path, graph(ends=ends, classes=1), **fields)
    bgr = cv2.imread(str(next((CAMVID / "val" / "images").iterdir())))
    with open_runner(path, engine, 1) as runner:
        labels = CpuSegmenter(runner).labels(bgr)
    plane = torch.from_numpy(reference(cv2.resize(bgr, SIZE[::-1])[..., ::-1], classes=1))[None]
    plane, threshold = (plane.sigmoid(), 0.5) if ends == "sigmoid" else (plane, 0.0)
    full = interpolate(plane, size=bgr.shape[:2], mode="bilinear")[0, 0].numpy() - threshold
    assert_best(labels, np.stack([np.zeros_like(full), full]))
    assert 0.05 < labels.mean() < 0.95


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("stride", [1, 8])
def test_logits_reach_the_camera_as_interpolate_and_arg_max(stride: int, align_corners: bool, tmp_path: Path) -> None:
    path = save(tmp_path, graph(stride=stride), align_corners=align_corners, **NORMALISED)
    bgr = cv2.imread(str(next((CAMVID / "val" / "images").iterdir())))
    if align_corners:  # holds between the network's picture and its logits, so take a camera of the network's size
        bgr = cv2.resize(bgr, SIZE[::-1])
    with open_runner(path, "openvino", 1) as runner:
        labels = CpuSegmenter(runner).labels(bgr)
    logits = torch.from_numpy(reference(cv2.resize(bgr, SIZE[::-1])[..., ::-1], stride))[None]
    full = interpolate(logits, size=bgr.shape[:2], mode="bilinear", align_corners=align_corners)
    assert_best(labels, full[0].numpy())


@pytest.mark.parametrize("size", [(64, 96), (180, 240), (33, 47)])
@pytest.mark.parametrize("cells", [(64, 96), (16, 24), (9, 1)])
def test_labels_reach_the_camera_by_the_nearest(size: tuple[int, int], cells: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 200, cells, np.uint8)
    got = from_labels_at_camera(labels, Geometry(size, (64, 96)))
    wanted = interpolate(torch.from_numpy(labels)[None, None].double(), size=size, mode="nearest-exact")
    np.testing.assert_array_equal(got, wanted[0, 0].numpy())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("fit", "region"), [("letterbox", None), ("crop", None), ("letterbox", (10, 20, 50, 91))])
def test_labels_follow_the_geometry(fit: str, region: tuple[int, int, int, int] | None, align_corners: bool) -> None:
    camera, network, cells = (101, 157), (64, 96), (16, 24)
    labels = np.random.default_rng(0).integers(0, 200, cells, np.uint8)
    geometry = Geometry(camera, network, fit, region)
    got = from_labels_at_camera(labels, geometry, align_corners)
    top, left, height, width = region or (0, 0, *camera)
    for row in range(camera[0]):
        for column in range(camera[1]):
            y, x = geometry.network_from_camera(row + 0.5, column + 0.5)
            seen = top <= row < top + height and left <= column < left + width
            if not (seen and 0 <= y <= network[0] and 0 <= x <= network[1]):
                assert got[row, column] == 255
                continue
            if align_corners:
                place = [(p - 0.5) * (c - 1) / (n - 1) + 0.5 for p, c, n in zip((y, x), cells, network, strict=True)]
            else:
                place = [p * c / n for p, c, n in zip((y, x), cells, network, strict=True)]
            i, j = (min(max(int(np.floor(p)), 0), c - 1) for p, c in zip(place, cells, strict=True))
            assert got[row, column] == labels[i, j]


def test_an_export_of_torch_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, CLASSES, 1), torch.nn.Upsample(SIZE)
    ).eval()
    torch.onnx.export(net, (torch.zeros(1, 3, *SIZE),), str(tmp_path / "t.onnx"), dynamo=True, verbose=False)
    save(tmp_path, read_model(tmp_path / "t.onnx"), **NORMALISED)
    images = pictures(1)
    with open_runner(tmp_path / "other.onnx", "auto", 1) as runner, torch.no_grad():
        pixels = (torch.from_numpy(images).double() - torch.tensor(MEAN)) / torch.tensor(STD)
        wanted = net.double()(pixels.permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(runner.infer(images), wanted, rtol=0, atol=ERROR * np.abs(wanted).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_in_a_file_beside_the_model(engine: str, tmp_path: Path) -> None:
    path = save(tmp_path, graph(), **NORMALISED)
    onnx.save(graph(), path, save_as_external_data=True, location="other.bin", size_threshold=0)
    assert stored_bytes(path) == path.stat().st_size + (tmp_path / "other.bin").stat().st_size > 1000
    images = pictures(1)
    with open_runner(path, engine, 1) as runner:
        wanted = reference(images[0])
        np.testing.assert_allclose(runner.infer(images)[0], wanted, rtol=0, atol=ERROR * np.abs(wanted).max())


def test_what_an_engine_cannot_run_is_refused_when_opened(tmp_path: Path) -> None:
    model = graph(size=("H", "W"))
    shape = numpy_helper.from_array(np.array([1, CLASSES, 16, 24]), "shape")  # fits 64x96 alone
    model.graph.initializer.append(shape)
    model.graph.node[-1].output[0] = "conv"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["conv", "shape"], ["scores"]))
    for engine in ENGINES:
        with open_runner(save(tmp_path, model, input_size="64x96"), engine, 1):
            pass
        with pytest.raises(PspnetError, match=r"cannot (run|load)") as caught:
            open_runner(save(tmp_path, model, input_size="96x96"), engine, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(PspnetError, match=r"shape \(1, 11, 16, 24\), \(1, 5, h, w\) is needed"):
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "C"
        names = [f"class {index}" for index in range(5)]
        open_runner(save(tmp_path, model, input_size="64x96", class_names=names, output_kind="logits"), "ort", 1)


def guest_for_camvid(folder: Path, **form: Any) -> Path:
    return save(folder, graph(**form), class_names=CAMVID11, licence="all mine", **NORMALISED)


def miou_by_hand() -> float:
    """mIoU of the network on the test split, from float64 logits at the pictures' own size."""
    dataset = open_dataset("auto", CAMVID, "test")
    hits, union = np.zeros(CLASSES), np.zeros(CLASSES)
    for index in range(len(dataset)):
        bgr, target = dataset.read(index)
        logits = torch.from_numpy(reference(cv2.resize(bgr, SIZE[::-1])[..., ::-1]))[None]
        best = interpolate(logits, size=target.shape, mode="bilinear")[0].argmax(0).numpy()
        for label in range(CLASSES):
            ours, theirs = (best == label) & (target != 255), target == label
            hits[label], union[label] = hits[label] + (ours & theirs).sum(), union[label] + (ours | theirs).sum()
    return float(100 * np.mean(hits[union > 0] / union[union > 0]))


def test_evaluate_bench_run_and_inspect_take_a_guest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, figures = guest_for_camvid(tmp_path), tmp_path / "b.json"
    assert main(["evaluate", str(path), "--data", str(CAMVID), "--split", "test", "--json", str(tmp_path / "e")]) == 0
    scores = json.loads((tmp_path / "e").read_text())
    assert scores["miou"] == pytest.approx(miou_by_hand(), abs=MIOU_ERROR)
    command = ["bench", str(path), "--engine", "openvino,ort", "--data", str(CAMVID), "--split", "test", "--frames"]
    assert main([*command, "1", "--rounds", "3", "--json", str(figures)]) == 0
    for entry in json.loads(figures.read_text())["candidates"]:
        assert entry["scores"]["miou"] == pytest.approx(scores["miou"], abs=MIOU_ERROR)
        assert entry["precision"] == "fp32" and entry["network_size"] == list(SIZE)
    assert main(["run", str(path), str(CAMVID / "val" / "images"), "-o", str(tmp_path / "out")]) == 0
    made = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert made["classes"] == list(CAMVID11) and "all mine" in made["licence"]
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    assert "read_from" in (text := capsys.readouterr().out) and "output_kind" in text and "Bicyclist" in text


def test_a_guest_of_labels_runs_without_torch(tmp_path: Path) -> None:
    path = guest_for_camvid(tmp_path, ends="labels", stride=1)
    result = pspnet_without_torch("evaluate", path, "--data", CAMVID, "--split", "test", "--engine", "ort")
    assert result.returncode == 0, result.stderr
    photo = next((CAMVID / "val" / "images").iterdir())
    result = pspnet_without_torch("run", path, photo, "-o", tmp_path / "out", "--engine", "openvino")
    assert result.returncode == 0, result.stderr
    labels = cv2.imread(str(tmp_path / "out" / "labels" / f"{photo.stem}.png"), cv2.IMREAD_UNCHANGED)
    bgr = cv2.imread(str(photo))
    best = reference(cv2.resize(bgr, SIZE[::-1])[..., ::-1], stride=1).argmax(0)
    wanted = interpolate(torch.from_numpy(best)[None, None].double(), size=labels.shape, mode="nearest-exact")
    assert (labels == wanted[0, 0].numpy()).mean() > 1 - NEAR  # of pixels, near-ties


def test_calibrate_takes_no_guest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = guest_for_camvid(tmp_path)
    assert main(["calibrate", str(path), "--data", str(CAMVID), "-o", str(tmp_path / "m.int8.onnx")]) == 2
    message = capsys.readouterr().err
    assert "exported by another tool" in message and message.count("\n") == 1
