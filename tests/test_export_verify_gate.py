"""`pspnet verify` as a gate: limits that hold, refusals in one line before any work, and no half-written file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.verify import FlipMap, Limits
from pspnet.errors import PspnetError
from tests.guests import graph, save
from tests.nets import CAMVID, ROOT
from tests.test_refusals import exit_code, refusal
from tests.test_torch_free import pspnet_without_torch
from tests.verify_guests import NAMES, SIZE, guest, painted, photos_in, strict, two_guests_in

FP32_ERROR = 1e-4  # of the largest logit: the same network in two engines


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two similar guests a.onnx and b.onnx in it."""
    monkeypatch.chdir(tmp_path)
    return two_guests_in(tmp_path)


@pytest.fixture
def photos(here: Path) -> Path:
    """A folder with three pictures of different sizes and no labels."""
    return photos_in(here / "photos")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ([], 0), (["--min-agreement", 99], 1), (["--max-miou-drop", 0.05], 1),
        (["--min-agreement", 99, "--max-miou-drop", 0.05], 1), (["--min-agreement", 2, "--max-miou-drop", 99], 0),
    ],
)  # fmt: skip
def test_a_damaged_file_misses_the_limits(limits: list, code: int, here: Path, capsys: pytest.CaptureFixture) -> None:
    model = graph(kind="uint8", layout="NHWC", size=SIZE)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    values = numpy_helper.to_array(weight).copy()
    values[NAMES.index("Sky")] *= -1
    weight.CopyFrom(numpy_helper.from_array(values, "w"))
    save(here, model, "damaged.onnx", class_names=NAMES)
    command = ["verify", "a.onnx", "damaged.onnx", "--data", CAMVID, "--json", "r.json", *limits]
    assert exit_code(*command) == code
    captured = capsys.readouterr()
    lines = [line.rpartition("\r")[2] for line in captured.err.split("\n")[:-1]]
    report = strict(here / "r.json")
    assert len(report["missed"]) == (len(limits) // 2 if code else 0) and (here / "flips.png").is_file()
    assert lines == [f"pspnet: {line}" for line in report["missed"]] and "agree" in captured.out
    words = {"--min-agreement": "agreement is", "--max-miou-drop": "mIoU drops by"}
    assert not code or all(words[flag] in line for flag, line in zip(limits[::2], lines, strict=True))
    assert report["agreement"]["overall"] < 0.99 and report["miou_drop"] > 0.05


def test_an_altered_weight_of_an_export_is_found(
    small_checkpoint: Path, small_onnx: Path, here: Path, capsys: pytest.CaptureFixture
) -> None:
    model = onnx.load(small_onnx)
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Conv")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, here / "damaged.onnx")
    gate = ["--data", CAMVID, "--engine", "torch,ort", "--min-agreement", 99.9, "--threads", 1, "--json", "r.json"]
    assert exit_code("verify", small_checkpoint, small_onnx, *gate) == 0
    assert strict(here / "r.json")["logits_error"] < FP32_ERROR
    assert exit_code("verify", small_checkpoint, "damaged.onnx", *gate) == 1
    report = strict(here / "r.json")
    assert [each["engine"] for each in report["artefacts"]] == ["torch", "ort"]
    assert report["logits_error"] > 1 and "nodes" not in report["artefacts"][0]
    words = "ONNX file, which runs on openvino or ort"
    assert words in refusal(capsys, "verify", "a.onnx", small_onnx, "--engine", "torch", "--data", CAMVID)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-miou-drop", "nan"], "points of mIoU from 0 to 100"),
        (["--max-miou-drop", "-0.1"], "points of mIoU from 0 to 100"),
        (["--max-miou-drop", "inf"], "points of mIoU from 0 to 100"),
        (["--min-agreement", "nan"], "per cent above 1 and up to 100"),
        (["--min-agreement", "100.1"], "per cent above 1 and up to 100"),
        (["--min-agreement", "0.999"], "per cent above 1 and up to 100"),
        (["-o", "flips.jpg"], "must end in .png"),
        (["--data", "photos", "--max-miou-drop", "1"], "no labels, so there is no mIoU: leave out --max-miou-drop"),
        (["--data", "photos", "--dataset", "camvid11"], "leave out --dataset"),
        (["--data", "photos", "--split", "test"], "so it has no splits: leave out --split test"),
        (["--data", "photos", "-o", "photos/f.png"], "whose pictures are read: give another -o"),
        (["--data", "photos/0.png", "-o", "photos/0.png"], "would be read and overwritten"),
        (["--data", "nowhere"], "give a data set, a folder of pictures or a clip with --data"),
        (["--data", "empty"], "holds no picture"),
        (["--split", "spring"], "unknown split"),
        (["--engine", "ort,ort,ort"], "give one for both artefacts or two with a comma"),
        (["--json", "flips.png"], "written by another option"),
    ],
)
def test_refused_before_any_work(
    arguments: list[str], words: str, here: Path, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    data = [] if "--data" in arguments else ["--data", CAMVID]
    # Neither artefact exists: whoever opened them first would say so.
    assert words in refusal(capsys, "verify", "gone.onnx", "lost.onnx", *data, *arguments)
    assert sorted(here.rglob("*")) == before


def test_what_cannot_be_compared_is_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    guest(here, "other.onnx", class_names=[*NAMES[:3], "Lane", *NAMES[4:]])
    painted(here, "more.onnx", np.zeros(SIZE), class_names=[*NAMES, "Dog"])
    painted(here, "blind.onnx", np.full(SIZE, 255))
    broken = graph(kind="uint8", layout="NHWC", size=SIZE)
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.full(11, np.nan, np.float32), "b"))
    save(here, broken, "nan.onnx", class_names=NAMES)
    folder = here / "unlabelled"
    shutil.copytree(CAMVID, folder)
    for path in (folder / "val" / "labels").iterdir():
        cv2.imwrite(str(path), np.full((360, 480), json.loads((CAMVID / "classes.json").read_text())["ignore_index"]))
    for a, b, data, words in (
        ("a.onnx", "other.onnx", CAMVID, "class 3 is Road and Lane: give artefacts of the same classes"),
        ("more.onnx", "a.onnx", CAMVID, "12 classes, a.onnx knows 11; class 11 is Dog and nothing"),
        ("other.onnx", "other.onnx", CAMVID, "class 3 is Lane and Road"),
        ("a.onnx", "nan.onnx", CAMVID, "nan.onnx: constant b holds NaN or infinity"),
        ("blind.onnx", "a.onnx", CAMVID, "blind.onnx gives no pixel of camvid11_tiny a class"),
        ("a.onnx", "b.onnx", folder, "no pixel of unlabelled (val) has a class: there is nothing to score"),
        ("a.onnx", "b.onnx", CAMVID / "LICENSE.md", "cannot be opened as a clip"),
    ):
        assert words in refusal(capsys, "verify", a, b, "--data", data, "--json", "r.json")
    assert "fit is 'squash'" in refusal(capsys, "verify", "a.onnx", "b.onnx", "--data", CAMVID, "--fit", "squash")
    assert not (here / "flips.png").exists() and not (here / "r.json").exists()


def test_an_interrupt_leaves_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(here.iterdir())
    command = ["verify", "a.onnx", "b.onnx", "--data", CAMVID, "--json", "r.json"]

    def half_written(path: str, *_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imwrite", half_written)
        assert exit_code(*command) == 130
    assert sorted(here.iterdir()) == before
    add, calls = FlipMap.add, []

    def interrupted(self: FlipMap, *arguments: np.ndarray) -> None:
        calls.append(add(self, *arguments))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(FlipMap, "add", interrupted)
    assert exit_code(*command) == 130 and len(calls) == 2
    assert sorted(here.iterdir()) == before


def test_limits_hold_at_their_own_value() -> None:
    report = {"agreement": {"pixels": 100, "flips": 43, "overall": 57 / 100}, "miou_drop": 0.5}
    assert 100 * (57 / 100) < 57  # why the share itself is not compared
    assert Limits(0.5, 57).missed(report) == []
    agreement, drop = Limits(0.4999, 57.0001).missed(report)
    assert agreement == "agreement is 57.0000 % (43 of 100 pixels differ), the limit is 57.0001 %"
    assert drop == "mIoU drops by 0.5 points, the limit is 0.4999"
    report = {"agreement": {"pixels": 10**7, "flips": 1, "overall": 1 - 1e-7}, "miou_drop": float("nan")}
    assert Limits(100, 100).missed(report)[0].startswith("agreement is 99.9999 % (1 of 10000000 pixels differ)")
    assert len(Limits(100, 100).missed(report)) == 2 and not Limits().missed(report)
    with pytest.raises(PspnetError, match="max-miou-drop is 101"):
        Limits(101)


def test_without_torch(small_onnx: Path, tmp_path: Path) -> None:
    result = pspnet_without_torch(
        "verify", small_onnx, small_onnx, "--data", CAMVID, "--engine", "openvino,ort", "--min-agreement", 99,
        "-o", tmp_path / "f.png", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert strict(tmp_path / "r.json")["artefacts"][0]["engine"] == "openvino" and (tmp_path / "f.png").is_file()


def test_a_missed_limit_is_told_though_the_reader_has_left(here: Path) -> None:
    line = [sys.executable, "-m", "pspnet", "verify", "a.onnx", "b.onnx", "--data", CAMVID, "--min-agreement", "100"]
    command = f"set -o pipefail; {shlex.join(map(str, line))} | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "the limit is 100 %" in done.stderr
