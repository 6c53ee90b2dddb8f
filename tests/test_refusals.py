"""Slips and hostile input, verb by verb: one line, exit code 2, and nothing that existed is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from pspnet.checkpoint import read_checkpoint, save_checkpoint
from pspnet.cli import main
from pspnet.demo import demo
from pspnet.errors import PspnetError
from pspnet.image import read_image, read_labels
from pspnet.metadata import read_model
from pspnet.spec import ModelSpec
from tests.nets import CAMVID, CLIP, random_model


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line of a refused command."""
    capsys.readouterr()
    assert exit_code(*arguments) == 2
    message = capsys.readouterr().err.rpartition("\r")[2]  # behind the progress bar
    assert message.count("\n") == 1 and message.startswith("pspnet: "), message
    return message


def exit_code(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return int(exit.code or 0)


@pytest.fixture
def own(small_checkpoint: Path, small_onnx: Path, tmp_path: Path) -> Path:
    """A folder with a checkpoint, an ONNX file, a photo and a foreign JSON file, all of the user's own."""
    shutil.copy(small_checkpoint, tmp_path / "m.pt")
    shutil.copy(small_onnx, tmp_path / "m.onnx")
    shutil.copy(next((CAMVID / "val" / "images").iterdir()), tmp_path / "p.jpg")
    (tmp_path / "q.json").write_text('{"kind": "bench"}')
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "export m.pt -o m.pt", "calibrate m.onnx -o m.onnx --data {data}",
        "evaluate m.onnx --data {data} --json m.onnx",
        "run m.onnx p.jpg --jsonl p.jpg", "run m.onnx p.jpg --jsonl j --json j", "report q.json -o q.json",
        "calibrate m.onnx -o q.onnx --data {data} --images 4", "calibrate m.onnx -o c.json --data {data}",
        "export m.pt -o noext", "run m.onnx p.jpg -o out --json out/r.json", "inspect m.onnx --json m.pt/x.json",
        "inspect m.onnx --json .", "calibrate . --data {data}", "run m.onnx p.jpg -o .",
        "inspect m.onnx --json device",
    ],
)  # fmt: skip
def test_no_output_takes_the_place_of_something_else(
    command: str, own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    os.mkfifo(own / "device")
    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    refusal(capsys, *command.format(data=CAMVID).split())
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == before


def test_an_output_that_is_a_link_keeps_the_link(own: Path) -> None:
    (own / "link.json").symlink_to(own / "target.json")
    assert main(["inspect", str(own / "m.onnx"), "--json", str(own / "link.json")]) == 0
    assert (own / "link.json").is_symlink() and json.loads((own / "target.json").read_text())


def test_the_demo_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("years of work")
    with pytest.raises(PspnetError, match="not the demo's"):
        demo(tmp_path)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"


def test_training_does_not_write_over_a_best_checkpoint(own: Path, capsys: pytest.CaptureFixture) -> None:
    (own / "best.pt").write_bytes(b"precious")
    refusal(capsys, "train", "--data", CAMVID, "--weights", "none", "-o", own)
    assert (own / "best.pt").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "flags",
    [
        "--momentum -1", "--weight-decay -1", "--power -1", "--seed 100000000000000000000", "--largest-scale inf",
        "--crop 10000000", "--size 1000000x1000000", "--head-lr -1", "--workers -5", "--lr nan", "--epochs 0",
        "--size -5x5", "--epochs many",
    ],
)  # fmt: skip
def test_training_refuses_slips_of_the_keyboard(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    refusal(capsys, "train", "--data", CAMVID, "--weights", "none", "-o", tmp_path / "run", *flags.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        "export m.pt -o n.onnx --size 1000000x1000000", "export m.pt -o n.onnx --images -5 --data {data}",
        "evaluate m.pt --data {data} --threads -1", "evaluate m.onnx --engine ort --data {data} --threads 1000000",
        "bench m.onnx --source {clip} --pictures -5 --json b.json", "run m.onnx p.jpg -o out --alpha 7",
        "bench m.pt --source {clip} --engine torch,foo", "bench m.onnx --source {clip} --engine openvino,torch",
        "calibrate m.onnx --data {data} --images 99999999999999999999x",
    ],
)  # fmt: skip
def test_numbers_and_names_out_of_range(
    command: str, own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    refusal(capsys, *command.format(data=CAMVID, clip=CLIP).split())


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0, 0, 0]}, {"mean": None}, {"mean": [1, 2]}, {"std": ["a", "b", "c"]}, {"mean": [float("nan")] * 3},
        {"palette": [[1, 2]] * 11}, {"palette": [[999, 0, 0]] * 11}, {"drivable": [99]}, {"drivable": "Road"},
        {"input_size": [96.0, 128.0]}, {"class_names": list(range(11))}, {"branch_channels": -3},
        {"head_channels": 7.5}, {"bins": [0]}, {"unheard_of": 1},
    ],
)  # fmt: skip
def test_damaged_specs_are_refused_wherever_they_are(changes: dict, own: Path, capsys: pytest.CaptureFixture) -> None:
    spec, raw = read_checkpoint(own / "m.pt")
    text = json.dumps({**dataclasses.asdict(spec), **changes})
    with pytest.raises(PspnetError):
        ModelSpec.from_json(text)
    model = read_model(own / "m.onnx")
    next(entry for entry in model.metadata_props if entry.key == "pspnet.spec").value = text
    onnx.save(model, own / "bad.onnx")
    torch.save({"spec": text, "model": raw["model"]}, own / "bad.pt")
    refusal(capsys, "run", own / "bad.onnx", own / "p.jpg", "-o", own / "out")
    refusal(capsys, "export", own / "bad.pt", "-o", own / "n.onnx")


@pytest.mark.parametrize("model", [[1, 2], {"a": "text"}, None])
def test_checkpoints_of_another_kind(model: object, own: Path, capsys: pytest.CaptureFixture) -> None:
    spec, _ = read_checkpoint(own / "m.pt")
    torch.save({"spec": spec.to_json(), "model": model}, own / "bad.pt")
    for verb in ("inspect", "evaluate"):
        refusal(capsys, verb, own / "bad.pt", *([] if verb == "inspect" else ["--data", CAMVID]))


def test_a_pickle_is_not_executed_and_not_recommended(own: Path, capsys: pytest.CaptureFixture) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path.touch, (own / "executed",))

    (own / "bad.pt").write_bytes(pickle.dumps(Malicious()))
    assert "weights_only" not in refusal(capsys, "inspect", own / "bad.pt")
    assert not (own / "executed").exists()


def test_the_proof_fails_on_a_graph_that_gives_nan(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import exporter

    genuine = exporter.onnx_from_model

    def broken(*arguments: object) -> onnx.ModelProto:
        model = genuine(*arguments)  # type: ignore[arg-type]
        bias = next(t for t in model.graph.initializer if t.dims == [11])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(11, np.nan, np.float32), bias.name))
        return model

    monkeypatch.setattr(exporter, "onnx_from_model", broken)
    with pytest.raises(PspnetError, match="head error is nan"):
        exporter.export(own / "m.pt", own / "n.onnx")
    assert not (own / "n.onnx").exists()


def test_two_artefacts_of_one_name_keep_their_own_pictures(own: Path) -> None:
    (own / "other").mkdir()
    shutil.copy(own / "m.onnx", own / "other" / "m.onnx")
    figures = own / "b.json"
    command = ["bench", own / "m.onnx", own / "other" / "m.onnx", "--source", own / "p.jpg", "--frames", 1]
    assert exit_code(*command, "--rounds", 3, "--pictures", 1, "--json", figures) == 0
    names = [name for entry in json.loads(figures.read_text())["candidates"] for name in entry["pictures"]]
    assert len(set(names)) == 2 and all((own / name).is_file() for name in names)


def test_labels_of_one_bit_are_not_stretched(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.eye(16, dtype=np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    with pytest.raises(PspnetError, match="1 bits"):
        read_labels(tmp_path / "mask.png")


def test_a_photo_is_turned_as_its_exif_entry_says(tmp_path: Path) -> None:
    upright = np.zeros((20, 40, 3), np.uint8)
    upright[:, :20] = 200
    data = cv2.imencode(".jpg", upright, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    # APP1 with a big-endian TIFF header and one entry: tag 0x0112 (orientation), SHORT, 1 value, 6 = turn clockwise
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    (tmp_path / "p.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    turned = read_image(tmp_path / "p.jpg")
    assert turned.shape == (40, 20, 3)
    assert turned[:18].mean() > 150 and turned[22:].mean() < 50  # the left half is on top now


def test_a_picture_that_promises_too_many_pixels(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(PspnetError, match="corrupt"):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"classes": ["a"], "ignore_index": 1e999, "colours_rgb": {"a": [1,1,1]}}']
)
def test_json_that_breaks_parsers(text: str, own: Path, capsys: pytest.CaptureFixture) -> None:
    (own / "classes.json").write_text(text)
    refusal(capsys, "evaluate", own / "m.onnx", "--data", own)
    refusal(capsys, "report", own / "classes.json", "-o", own / "r.html")


def data_with_labels(folder: Path, value: int) -> Path:
    """A copy of the training split as every split, whose first validation or training label is `value` throughout."""
    for split in ("train", "val"):
        shutil.copytree(CAMVID / "val", folder / split)
        for path in (folder / split / "labels").iterdir():
            cv2.imwrite(str(path), np.full((360, 480), value, np.uint8))
    shutil.copy(CAMVID / "classes.json", folder / "classes.json")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_label_in_training_is_one_line(workers: int, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = data_with_labels(tmp_path / "data", 0)
    last = sorted((data / "train" / "labels").iterdir())[-1]  # the first ones are read before training
    cv2.imwrite(str(last), np.full((360, 480), 77, np.uint8))
    command = ["train", "--data", data, "--weights", "none", "--output-stride", 32, "--batch", 2, "--crop", 64]
    capfd.readouterr()
    assert exit_code(*command, "--workers", workers, "-o", tmp_path / "run") == 2
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("pspnet:")]
    assert len(lines) == 1 and "holds the value 77" in lines[0] and lines[0].count("PspnetError") == 0


def test_nothing_to_score_is_said(own: Path, capsys: pytest.CaptureFixture) -> None:
    data = data_with_labels(own / "data", 11)
    assert "nothing to score" in refusal(capsys, "evaluate", own / "m.onnx", "--data", data)


def test_resume_with_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    save_checkpoint(tmp_path / "m.pt", spec, model.state_dict())
    command = ["train", "--data", CAMVID, "--init", tmp_path / "m.pt", "--epochs", 1, "--batch", 4, "--crop", 96]
    command += ["--workers", 0, "-o", tmp_path / "run"]
    assert exit_code(*command) == 0
    capsys.readouterr()
    assert exit_code(*command, "--resume", "--size", "104x128") == 2
    assert "input_size (96, 128) → (104, 128)" in capsys.readouterr().err
