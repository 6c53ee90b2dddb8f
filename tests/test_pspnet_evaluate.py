"""`pspnet evaluate` from end to end: its figures are recomputed from the files that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sklearn.metrics as reference
import torch
import torch.nn.functional as F

from pspnet import dataset as datasets
from pspnet.checkpoint import load_model
from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.evaluate import confusion_of, evaluate, labels_sha256, scores_of
from pspnet.inference import Mode
from pspnet.metrics import ConfusionMatrix
from pspnet.score_pictures import MOST_CLASSES, confusion_picture
from runtime.evaluation import label_maps
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from tests.guests import SIZE, graph, save
from tests.nets import CAMVID
from tests.test_torch_free import pspnet_without_torch

PERCENT = 1e-9  # float64 on both sides


@pytest.fixture(scope="module")
def guest_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution for 64x96 with CamVid's classes, whose labels follow the picture."""
    names = list(open_dataset("auto", CAMVID, "val").classes.names)
    return save(tmp_path_factory.mktemp("guest"), graph(size=SIZE), class_names=names)


def scored(*arguments: object, folder: Path) -> dict[str, Any]:
    command = ["evaluate", *arguments, "--data", CAMVID, "--split", "val", "--json", folder / "scores.json"]
    assert main([str(part) for part in command]) == 0
    return json.loads((folder / "scores.json").read_text())


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--data", str(CAMVID), "--split", "val"]) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("pspnet:")]
    assert len(lines) == 1
    return lines[0]


def test_saved_predictions_are_what_was_scored(guest_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    slide = ["--mode", "slide", "--scales", "0.5,1", "--flip", "--engine", "ort"]
    scores = scored(guest_onnx, *slide, "--save", tmp_path / "out", "--worst", 2, folder=tmp_path)
    predicted, true = open_dataset("auto", tmp_path / "out", "all"), open_dataset("auto", CAMVID, "val")
    pairs = [(true.read(i)[1], predicted.read(i)[1]) for i in range(len(true))]
    assert [path.stem for path in predicted.labels] == [path.stem for path in true.images]
    t, p = (np.concatenate([pair[side][pair[0] != 255] for pair in pairs]) for side in (0, 1))
    present = sorted({*np.unique(t), *np.unique(p)})
    assert len(np.unique(p)) > 3
    expected = reference.jaccard_score(t, p, labels=present, average="macro", zero_division=0)
    assert scores["miou"] == pytest.approx(100 * expected, abs=PERCENT)
    assert set(scores["scales"]) == {"0.5", "1"} and len({*(s["miou"] for s in scores["scales"].values())}) == 2
    out = capsys.readouterr().out
    assert "scale 0.5" in out and "sliding window, stride 0.667, scales 0.5, 1, flip" in out

    own = []
    for target, found in pairs:
        valid = target != 255
        present = sorted({*np.unique(target[valid]), *np.unique(found[valid])})
        own.append(100 * reference.jaccard_score(target[valid], found[valid], labels=present, average="macro"))
    worst = sorted((tmp_path / "out" / "worst").iterdir())
    ranked = np.argsort(own)[:2]
    assert [path.name for path in worst] == [
        f"{rank:03d}-miou{own[i]:05.1f}-{true.images[i].stem}.jpg" for rank, i in enumerate(ranked, 1)
    ]
    picture = cv2.imread(str(worst[0]))
    assert picture is not None and picture.shape[0] == 2 * (360 + 26) and picture.shape[1] > 2 * 480


def test_the_protocol_says_how_a_figure_was_measured(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first = scored(tiny_checkpoint, folder=tmp_path)["protocol"]
    assert first == {
        "name": "camvid11-segnet-360x480", "dataset": "camvid11", "split": "val", "images": 3,
        "label_size": [360, 480], "labels_sha256": labels_sha256(open_dataset("auto", CAMVID, "val")),
        "mode": "whole image, single scale", "network_size": [96, 96], "fit": "stretch",
        "inference": {"kind": "whole", "scales": [1.0], "flip": False}, "engine": "torch", "precision": "fp32",
        "artefact": "tiny.pt", "sha256": first["sha256"], "provenance": None,
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", first["sha256"])
    slide = scored(
        tiny_checkpoint, "--mode", "slide", "--crop", "180x240", "--stride", "1", "--scales", "0.5", folder=tmp_path
    )
    assert slide["protocol"]["inference"] == {
        "kind": "slide", "crop": [180, 240], "stride": 1.0, "scales": [0.5], "flip": False
    }  # fmt: skip
    assert slide["protocol"]["fit"] is None and "scales" not in slide
    assert slide["protocol"]["mode"] == "sliding window, stride 1, scale 0.5"


def test_both_onnx_engines_slide_alike(guest_onnx: Path) -> None:
    image, found = open_dataset("auto", CAMVID, "val").read(0)[0][:150, :200], []
    for engine in ("ort", "openvino"):
        with open_runner(guest_onnx, engine, 1) as runner:
            found.append(label_maps(runner, Mode("slide", (0.75, 1.0), True))[1](image))
    for labels, expected in zip(*found, strict=True):
        assert len(np.unique(labels)) > 2
        assert (labels == expected).mean() > 0.999  # float32 in another order where two classes cross


def test_a_checkpoint_takes_scales_of_the_whole_picture(tiny_checkpoint: Path) -> None:
    image = open_dataset("auto", CAMVID, "val").read(0)[0]
    spec, model = load_model(tiny_checkpoint)
    rgb = cv2.resize(image, (120, 120), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    pixels = (torch.from_numpy(rgb.copy()).float() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        logits = model.eval()(pixels.permute(2, 0, 1)[None])["out"]
    expected = F.interpolate(logits, image.shape[:2], mode="bilinear").argmax(1)[0].numpy()
    with open_runner(tiny_checkpoint, "torch", 1) as runner:
        names, predict = label_maps(runner, Mode("whole", (1.0, 1.25)))
        maps = predict(image)
        plain = CpuSegmenter(runner).labels(image)
    assert names == ("1", "1.25", "combined") and len(np.unique(expected)) > 2
    assert (maps[1] == expected).mean() > 0.999  # float32 in another order where two classes cross
    assert (maps[0] == plain).mean() > 0.999


def test_parts_of_a_data_set_add_up(guest_onnx: Path) -> None:
    dataset = open_dataset("auto", CAMVID, "test")
    with open_runner(guest_onnx, "ort", 1) as runner:
        predict, spec = CpuSegmenter(runner).labels, runner.spec
        parts = [confusion_of(predict, spec, dataset, range(rank, len(dataset), 2)) for rank in (0, 1)]
        total = ConfusionMatrix(spec.classes)
        total.counts += parts[0].counts + parts[1].counts
        expected = evaluate(predict, spec, dataset)
    assert expected["pixel_accuracy"] > 0 and str(scores_of(total, spec, dataset)) == str(expected)  # NaN is not NaN


def test_the_labels_hash_follows_every_byte(tmp_path: Path) -> None:
    dataset = open_dataset("auto", CAMVID, "val")
    copies = []
    for path in dataset.labels:
        copies.append(tmp_path / path.name)
        copies[-1].write_bytes(path.read_bytes())
    moved = type(dataset)(**{**vars(dataset), "labels": tuple(copies)})
    assert labels_sha256(moved) == labels_sha256(dataset)
    copies[1].write_bytes(copies[1].read_bytes() + b"\0")
    assert labels_sha256(moved) != labels_sha256(dataset)


def test_corruptions_are_scored_beside_the_clean_figure(
    guest_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scores = scored(guest_onnx, "--engine", "ort", "--corruptions", "jpeg,dark", folder=tmp_path)
    assert list(scores["corruptions"]) == ["jpeg", "dark"]
    jpeg = scores["corruptions"]["jpeg"]
    assert jpeg["quality"] == [25, 15, 7] and len(jpeg["miou"]) == len(jpeg["pixel_accuracy"]) == 3
    assert all(0 <= value <= 100 for value in jpeg["miou"])
    assert re.search(r"mIoU +clean +at 1 +at 2 +at 3\n +jpeg", capsys.readouterr().out)
    again = scored(guest_onnx, "--engine", "ort", "--corruptions", "dark", folder=tmp_path)
    assert again["corruptions"]["dark"] == scores["corruptions"]["dark"] and again["miou"] == scores["miou"]


def test_every_output_comes_without_torch(guest_onnx: Path, tmp_path: Path) -> None:
    result = pspnet_without_torch(
        "evaluate", guest_onnx, "--data", CAMVID, "--mode", "slide", "--scales", "0.5,0.75", "--flip",
        "--engine", "ort", "--save", tmp_path / "out", "--worst", 1,
        "--confusion", tmp_path / "c.png", "--corruptions", "fog",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out" / "worst").iterdir())) == 1 and (tmp_path / "c.png").is_file()


def test_ctrl_c_leaves_nothing(guest_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = datasets.Dataset.read

    def read(self: datasets.Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 2:
            raise KeyboardInterrupt
        return genuine(self, index)

    monkeypatch.setattr(datasets.Dataset, "read", read)
    outputs = ["--save", tmp_path / "out", "--json", tmp_path / "s.json", "--confusion", tmp_path / "c.png"]
    command = ["evaluate", guest_onnx, "--engine", "ort", "--data", CAMVID, "--split", "val", *outputs]
    assert main([str(part) for part in command]) == 130
    assert not list(tmp_path.iterdir())


def test_the_confusion_picture_shows_each_class(guest_onnx: Path, tmp_path: Path) -> None:
    scored(guest_onnx, "--engine", "ort", "--confusion", tmp_path / "c.png", folder=tmp_path)
    assert cv2.imread(str(tmp_path / "c.png")) is not None

    matrix = ConfusionMatrix(2)
    matrix.counts[:] = [[100, 0, 0], [75, 25, 0]]
    palette = ((10, 200, 30), (250, 120, 0))
    picture = confusion_picture(matrix, ("road", "sky"), palette, "figures").astype(int)
    blue = (picture[..., 0] - picture[..., 2] > 60).any((0, 1))
    red = (picture[..., 2] - picture[..., 0] > 60).any((0, 1))
    assert blue and red
    road, sky = (  # pixels of the two bars: road has IoU 100 / 175, sky 25 / 100
        int((np.abs(picture - colour[::-1]).max(2) < 12).sum()) for colour in palette
    )
    assert road / sky == pytest.approx((100 / 175) / (25 / 100), rel=0.05)
    unpredicted = ConfusionMatrix(2)
    unpredicted.counts[:] = [[90, 0, 10], [0, 1, 0]]
    assert confusion_picture(unpredicted, ("road", "sky"), palette, "").shape[1] > picture.shape[1]
    with pytest.raises(PspnetError, match="--confusion"):
        names = tuple(map(str, range(MOST_CLASSES + 1)))
        confusion_picture(ConfusionMatrix(len(names)), names, palette * len(names), "")


def test_refusals(guest_onnx: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for arguments, message in (
        ([guest_onnx, "--scales", "0.5,1"], "use --mode slide for scales"),
        ([guest_onnx, "--mode", "slide", "--crop", "64x64"], "takes 64x96 only"),
        ([tiny_checkpoint, "--scales", "0.25"], "too small"),
        ([guest_onnx, "--worst", "3"], "--save DIR"),
        ([guest_onnx, "--save", tmp_path / "full"], "not an empty folder. Choose another one with --save, or"),
        ([guest_onnx, "--confusion", tmp_path / "c.jpg"], ".png"),
        ([guest_onnx, "--save", tmp_path / "o", "--json", tmp_path / "o" / "s.json"], "beside that folder"),
        ([guest_onnx, "--mode", "slide", "--fit", "crop"], "leave out --fit"),
        ([guest_onnx, "--corruptions", "snow"], "choose from"),
        ([guest_onnx, "--confusion", "m.png", "--json", "m.png"], "another output"),
    ):  # fmt: skip
        assert message in refusal(capsys, *arguments), arguments


def test_a_split_without_labels_is_refused_before_the_work(
    guest_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.runner.open_runner", lambda *_: pytest.fail("the work began"))
    (tmp_path / "classes.json").write_text((CAMVID / "classes.json").read_text())
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "test.txt").write_text("test/a.jpg\n")
    void = np.full((2, 2, 3), 3, np.uint8)  # labelId 3 is out of the region of interest
    for path, picture in (("leftImg8bit/test/a/a_000000_000000_leftImg8bit.png", void),
                          ("gtFine/test/a/a_000000_000000_gtFine_labelIds.png", void[..., 0])):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / path), picture)
    command = ["evaluate", guest_onnx, "--data", tmp_path, "--split", "test", "--dataset"]
    for name, said in (("list", "every line is one path"), ("cityscapes", "test split are withheld")):
        assert main([*map(str, command), name]) == 2
        assert said in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_one_picture_is_no_images(guest_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        first = sorted((CAMVID / "val" / part).iterdir())[0]
        (tmp_path / part / first.name).write_bytes(first.read_bytes())
    (tmp_path / "classes.json").write_text((CAMVID / "classes.json").read_text())
    assert main(["evaluate", str(guest_onnx), "--data", str(tmp_path), "--split", "all"]) == 0
    assert "on 1 image of folder all (" in capsys.readouterr().out


def test_a_guest_that_gives_labels_is_scored_whole_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = list(open_dataset("auto", CAMVID, "val").classes.names)
    path = save(tmp_path, graph(ends="labels", size=SIZE), class_names=names)
    assert "miou" in scored(path, folder=tmp_path)
    for arguments in (["--flip"], ["--mode", "slide"]):
        assert "gives labels, not logits" in refusal(capsys, path, *arguments)
