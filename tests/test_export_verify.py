"""`pspnet verify`: figures against scikit-learn, whatever two artefacts are compared, and flips at the right pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from export.verify import FlipMap
from pspnet.dataset import open_dataset
from pspnet.files import sha256_of
from runtime.fp16_typing import fp16_from_fp32
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from tests.nets import CAMVID
from tests.test_refusals import exit_code
from tests.verify_guests import NAMES, SIZE, guest, painted, photos_in, strict, two_guests_in

EXACT = 1e-12  # quotients of the same whole numbers in float64
POINTS = 1e-9  # per cent: the same with a mean over classes
GREY_STEP = 1.31  # grey levels: 0.6 of the half by which grey was rounded, and the rounding down of the mean
FP32_ERROR = 1e-4  # of the largest logit: the same network in two engines
STRIP = 28  # rows below the map


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two similar guests a.onnx and b.onnx in it."""
    monkeypatch.chdir(tmp_path)
    return two_guests_in(tmp_path)


@pytest.fixture
def photos(here: Path) -> Path:
    """A folder with three pictures of different sizes and no labels."""
    return photos_in(here / "photos")


def verify(*arguments: object) -> dict[str, Any]:
    """The report of a run that keeps its limits."""
    assert exit_code("verify", *arguments, "--json", "r.json") == 0
    return strict(Path("r.json"))


def labels_of(path: Path, engine: str = "ort") -> list[np.ndarray]:
    dataset = open_dataset("auto", CAMVID, "val")
    with open_runner(path, engine) as runner:
        return [CpuSegmenter(runner).labels(dataset.read(index)[0]) for index in range(len(dataset))]


def test_figures_are_those_of_scikit_learn_and_of_evaluate(here: Path, capsys: pytest.CaptureFixture) -> None:
    report = verify("a.onnx", "b.onnx", "--data", CAMVID, "--engine", "ort")
    printed = capsys.readouterr().out
    dataset = open_dataset("auto", CAMVID, "val")
    target = np.stack([dataset.read(index)[1] for index in range(len(dataset))])
    a, b = (np.stack(labels_of(here / name)) for name in ("a.onnx", "b.onnx"))
    padded = np.pad(a, ((0, 0), (2, 2), (2, 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    near = windows.max((3, 4)) != windows.min((3, 4))
    figures = report["agreement"]
    assert figures["pixels"] == a.size and 0 < figures["flips"] == (a != b).sum()
    assert figures["overall"] == pytest.approx(accuracy_score(a.ravel(), b.ravel()), abs=EXACT)
    assert figures["boundary_band"] == pytest.approx(accuracy_score(a[near], b[near]), abs=EXACT)
    shares = recall_score(a.ravel(), b.ravel(), labels=range(11), average=None, zero_division=np.nan)
    for name, share in zip(NAMES, shares, strict=True):
        assert figures["per_class"][name] == (None if np.isnan(share) else pytest.approx(share, abs=EXACT))
    seen = target != 255
    for letter, artefact, found in zip("AB", report["artefacts"], (a, b), strict=True):
        present = np.union1d(target[seen], found[seen])
        ious = jaccard_score(target[seen], found[seen], labels=present, average=None)
        scores = artefact["scores"]
        assert [scores["per_class"][NAMES[c]]["iou"] for c in present] == pytest.approx(100 * ious, abs=POINTS)
        assert exit_code("evaluate", artefact["artefact"], "--data", CAMVID, "--engine", "ort", "--json", "e.json") == 0
        evaluated = strict(Path("e.json"))
        assert {key: evaluated[key] for key in scores} == scores
        assert f"{letter}  {artefact['artefact']} (ort, fp32; 48x64, stretch)  mIoU {scores['miou']:.3f}" in printed
    assert report["miou_drop"] == report["artefacts"][0]["scores"]["miou"] - report["artefacts"][1]["scores"]["miou"]
    assert f"{figures['flips']} differ" in printed and "do not see the pictures alike" not in printed


def test_the_report_says_what_was_compared(small_onnx: Path, here: Path) -> None:
    report = verify(small_onnx, small_onnx, "--data", CAMVID, "--engine", "openvino,ort", "--max-miou-drop", 100)
    names = [path.name for path in open_dataset("auto", CAMVID, "val").images]
    hashes = {f"val/images/{name}": sha256_of(CAMVID / "val" / "images" / name) for name in names}
    assert report["protocol"] == {
        "data": "camvid11_tiny", "dataset": "camvid11", "split": "val", "images": 3, "files": hashes,
    }  # fmt: skip
    assert (report["kind"], report["missed"], report["heat_map"]) == ("verify", [], "flips.png")
    assert report["limits"] == {"max_miou_drop": 100, "min_agreement": None}
    nodes = onnx.load(small_onnx).graph.node
    for artefact, engine in zip(report["artefacts"], ("openvino", "ort"), strict=True):
        assert (artefact["engine"], artefact["precision"], artefact["fit"]) == (engine, "fp32", "stretch")
        assert artefact["network_size"] == [96, 128] and artefact["sha256"] == sha256_of(small_onnx)
        assert artefact["nodes"] == len(nodes) == sum(artefact["ops"].values())
        assert artefact["ops"]["Conv"] == sum(node.op_type == "Conv" for node in nodes)
        assert artefact["proof"]["head_error"] <= 1e-5
    assert 0 <= report["logits_error"] < FP32_ERROR


def test_identical_artefacts_agree_fully_and_the_map_is_the_mean_picture(here: Path) -> None:
    report = verify("a.onnx", "a.onnx", "--data", CAMVID, "--max-miou-drop", 0, "--min-agreement", 100)
    assert (report["agreement"]["overall"], report["agreement"]["flips"], report["miou_drop"]) == (1.0, 0, 0.0)
    assert report["logits_error"] == 0
    assert set(report["agreement"]["per_class"].values()) <= {1.0, None}
    drawn = cv2.imread("flips.png").astype(int)
    assert drawn.shape == (360 + STRIP, 480, 3)
    pictures = np.float64([cv2.imread(str(path)) for path in open_dataset("auto", CAMVID, "val").images])
    expected = 0.6 * pictures.mean(0) @ (0.114, 0.587, 0.299)
    assert expected.min() > 1 and np.abs(drawn[:360] - expected[..., None]).max() <= GREY_STEP


def test_int8_and_fp16_state_their_precision(small_onnx: Path, here: Path) -> None:
    assert exit_code("calibrate", small_onnx, "-o", "s.int8.onnx", "--data", CAMVID, "--images", 4) == 0
    report = verify(small_onnx, "s.int8.onnx", "--data", CAMVID, "--split", "test")
    assert report["artefacts"][1]["precision"] == "int8" and report["artefacts"][1]["ops"]["QuantizeLinear"] > 10
    assert report["protocol"]["split"] == "test" and 1e-4 < report["logits_error"] < 1
    onnx.save(fp16_from_fp32(onnx.load(small_onnx)), "s.fp16.onnx")
    report = verify(small_onnx, "s.fp16.onnx", "--data", CAMVID)
    assert (report["artefacts"][1]["engine"], report["artefacts"][1]["precision"]) == ("ort", "fp16 (simulated)")
    assert 1e-6 < report["logits_error"] < 0.1


def test_a_guest_against_ours_and_labels_against_logits(
    small_onnx: Path, here: Path, capsys: pytest.CaptureFixture
) -> None:
    guest(here, "labels.onnx", ends="labels", stride=1)
    guest(here, "logits.onnx", stride=1)
    report = verify("logits.onnx", "labels.onnx", "--data", CAMVID)
    assert report["logits_error"] is None and 0.5 < report["agreement"]["overall"] < 1
    capsys.readouterr()
    report = verify(small_onnx, "labels.onnx", "--data", CAMVID)
    assert "A and B do not see the pictures alike: 96x128, stretch against 48x64, stretch" in capsys.readouterr().out
    assert report["logits_error"] is None and report["artefacts"][1]["proof"] is None


def test_a_guest_at_the_pictures_own_size_has_the_labels_of_its_logits(here: Path, photos: Path) -> None:
    for name in ("0.png", "2.png"):
        (photos / name).unlink()
    guest(here, "labels.onnx", ends="labels", stride=1)
    guest(here, "logits.onnx", stride=1)
    assert verify("logits.onnx", "labels.onnx", "--data", photos)["agreement"]["flips"] == 0


def test_different_fits_are_said_and_pixels_that_b_does_not_see_differ(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    road = np.full((48, 48), NAMES.index("Road"))
    painted(here, "all.onnx", road)
    painted(here, "middle.onnx", road, fit="crop")
    report = verify("all.onnx", "middle.onnx", "--data", CAMVID)
    assert "do not see the pictures alike: 48x48, stretch against 48x48, crop" in capsys.readouterr().out
    assert [each["fit"] for each in report["artefacts"]] == ["stretch", "crop"]
    assert report["agreement"]["overall"] == pytest.approx(360 / 480, abs=EXACT)  # a square of 360 in 480 columns
    report = verify("middle.onnx", "all.onnx", "--data", CAMVID)
    assert report["agreement"]["pixels"] == 3 * 360 * 360 and report["agreement"]["overall"] == 1
    assert report["agreement"]["boundary_band"] is None
    assert verify("all.onnx", "middle.onnx", "--data", CAMVID, "--fit", "letterbox")["agreement"]["overall"] == 1


def test_logits_are_compared_where_both_see_the_same(here: Path) -> None:
    report = verify("a.onnx", "b.onnx", "--data", CAMVID, "--engine", "ort")
    dataset, expected = open_dataset("auto", CAMVID, "val"), 0.0
    with open_runner("a.onnx", "ort") as a, open_runner("b.onnx", "ort") as b:
        for index in range(len(dataset)):
            rgb = cv2.resize(dataset.read(index)[0], SIZE[::-1], interpolation=cv2.INTER_LINEAR)[None, ..., ::-1]
            theirs, ours = (np.float64(runner.infer(np.ascontiguousarray(rgb))) for runner in (a, b))
            expected = max(expected, np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert report["logits_error"] == pytest.approx(expected, rel=1e-5)
    guest(here, "c.onnx", fit="letterbox")
    guest(here, "p.onnx", ends="sigmoid", output_kind="probabilities")
    guest(here, "s.onnx", stride=8)
    for other in ("c.onnx", "p.onnx", "s.onnx"):
        assert verify("a.onnx", other, "--data", CAMVID)["logits_error"] is None


def test_the_map_shows_flips_where_they_are(here: Path, photos: Path) -> None:
    labels = np.full(SIZE, NAMES.index("Road"))
    painted(here, "p.onnx", labels)
    labels[10:20, 30:50] = NAMES.index("Car")
    painted(here, "q.onnx", labels)
    report = verify("p.onnx", "q.onnx", "--data", photos, "-o", "maps/m.png")
    assert report["heat_map"] == "maps/m.png" and list((here / "maps").iterdir()) == [here / "maps" / "m.png"]
    drawn = cv2.imread("maps/m.png")[:96, :128].astype(int)  # in the size of the first picture, twice the network
    colour = drawn.max(2) - drawn.min(2)
    inside, outside = np.zeros((96, 128), bool), np.ones((96, 128), bool)
    inside[22:38, 62:98], outside[18:42, 58:102] = True, False  # the last picture is enlarged: a soft edge
    assert (drawn[inside].min(1) > 250).all() and (colour[outside] == 0).all()
    assert report["agreement"]["flips"] == 20 * 40 + 10 * 20 + flips_in_nearest(labels, (70, 55))


def flips_in_nearest(labels: np.ndarray, size: tuple[int, int]) -> int:
    """Pixels of a picture of `size` whose centre lies in a network pixel with the label Car."""
    rows, columns = (
        np.floor((np.arange(pixels) + 0.5) * cells / pixels).astype(int)
        for pixels, cells in zip(size, labels.shape, strict=True)
    )
    return int((labels[np.ix_(rows, columns)] == NAMES.index("Car")).sum())


def test_one_flip_among_many_pictures_stays_visible(tmp_path: Path) -> None:
    flips, picture = FlipMap(), np.full((40, 60, 3), 255, np.uint8)
    for index in range(400):
        differ = np.zeros((40, 60), bool)
        differ[5:10, 5:10], differ[30, 50] = True, index == 7
        flips.add(picture, differ)
    flips.write(tmp_path / "f.png", "2 of 3 pixels differ")
    drawn = cv2.imread(str(tmp_path / "f.png")).astype(int)
    assert drawn[7, 7].tolist() == [255, 255, 255] and drawn[20, 20].tolist() == [153, 153, 153]
    blue, green, red = drawn[30, 50]
    assert red > 120 and max(blue, green) < 20
    assert (drawn[40:] > 200).any() and drawn.shape[1] > 60  # the text has the width that it needs


def test_the_strip_shows_the_scale_of_the_colours(tmp_path: Path) -> None:
    picture, differ = np.full((40, 700, 3), 255, np.uint8), np.zeros((40, 700), bool)
    for name in ("none.png", "some.png"):
        flips = FlipMap()
        flips.add(picture, differ)
        flips.write(tmp_path / name, "figures")
        differ[5:10, 5:10] = True
    none, some = (cv2.imread(str(tmp_path / name)).astype(int)[40:] for name in ("none.png", "some.png"))
    assert none.shape == some.shape == (STRIP, 700, 3) and (none.max(2) == none.min(2)).all() and none.max() > 200
    columns = np.flatnonzero((some.max(2) - some.min(2)).any(0))
    scale = some[STRIP // 2, columns[0] : columns[-1] + 1]  # OpenCV's "hot": red rises first, then green, then blue
    assert len(scale) > 60 and (np.diff(scale, axis=0) >= 0).all() and (some[:, columns[-1] + 10 :] > 200).any()
    assert scale[0, 2] > 120 and scale[0, :2].max() < 20 and scale[-1].min() > 200


@pytest.mark.parametrize("kind", ["folder", "clip", "photo"])
def test_pictures_without_labels(kind: str, here: Path, photos: Path, capsys: pytest.CaptureFixture) -> None:
    data, files = photos, {f"{index}.png" for index in range(3)}
    if kind == "clip":
        data, files = here / "drive.avi", {"drive.avi"}
        writer = cv2.VideoWriter(str(data), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
        for index in range(3):
            writer.write(cv2.resize(cv2.imread(str(photos / f"{index}.png")), (64, 48)))
        writer.release()
    elif kind == "photo":
        data, files = photos / "0.png", {"0.png"}
    report = verify("a.onnx", "b.onnx", "--data", data, "--min-agreement", 10)
    assert report["protocol"]["images"] == (1 if kind == "photo" else 3)
    assert (report["protocol"]["dataset"], report["protocol"]["split"]) == (None, None)
    assert set(report["protocol"]["files"]) == files and report["protocol"]["data"] == data.name
    assert report["miou_drop"] is None and all(each["scores"] is None for each in report["artefacts"])
    printed = capsys.readouterr().out
    assert f"of {data.name} (without labels)" in printed and "mIoU" not in printed and "nan" not in printed
