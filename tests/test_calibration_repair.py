"""Repairs from the command line to the file, and the pictures that fine-tuning may learn from."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.quantize import quantized
from calibration.table import CalibrationTable
from calibration.tuning_pictures import network_labels, tuning_pictures
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from pspnet.image import read_image
from pspnet.metadata import extra, read_model, read_spec
from runtime.ort import session_from_model
from tests.nets import CAMVID, CLIP


@pytest.fixture(scope="module")
def repaired_file(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("repaired") / "m.int8.onnx"
    flags = ["--equalise", "--bias-correction", "--finetune", "1", "--finetune-lr", "0.001", "--finetune-batch", "3"]
    data = ["--data", str(CAMVID), "--images", "4", "--held-out", "2", "--engine", "ort"]
    assert main(["calibrate", str(small_onnx), *data, *flags, "-o", str(output), "--json", f"{output}.json"]) == 0
    return output


def test_the_file_the_table_and_the_summary_name_every_repair(repaired_file: Path) -> None:
    summary, table = extra(repaired_file, "calibration"), CalibrationTable.load(repaired_file.with_suffix(".json"))
    rows = summary["repairs"]
    kinds = ("none", "equalisation of", "bias correction of", "fine-tuning, 1 epoch of")
    assert all(row["repair"].startswith(kind) for row, kind in zip(rows, kinds, strict=True))
    assert table.repairs == [row["repair"] for row in rows[1:]] and "batch 3" in rows[3]["repair"]
    assert all(0 <= row["value"] <= 100 and 0 <= row["agreement"] <= 100 for row in rows)
    assert summary["held_out"]["int8"] == rows[-1]["value"], "the last row is the file"
    assert len({row["sqnr_db"] for row in rows}) == len(rows), "every repair changes something"
    assert table.weights and json.loads(Path(f"{repaired_file}.json").read_text())["repairs"] == rows


def test_the_table_alone_does_not_make_the_repaired_file(repaired_file: Path, small_onnx: Path) -> None:
    """The file's weights are repaired, too."""
    table = CalibrationTable.load(repaired_file.with_suffix(".json"))
    image = np.random.default_rng(1).integers(0, 256, (1, *read_spec(repaired_file).input_size, 3), np.uint8)
    ours, other = (
        session_from_model(each).run(["logits"], {"image": image})[0]
        for each in (read_model(repaired_file), quantized(read_model(small_onnx), table))
    )
    assert np.abs(ours - other).max() > 0.05 * np.abs(ours).max()


def test_repairs_are_printed_with_figures(small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = ["--data", str(CLIP), "--images", "4", "--held-out", "2", "--engine", "ort"]
    assert main(["calibrate", str(small_onnx), *data, "--bias-correction", "-o", str(tmp_path / "m.onnx")]) == 0
    printed = capsys.readouterr().out
    head, before, after = (line for line in printed.splitlines() if line.endswith(("repair", "none", "convolutions")))
    assert "agreement with FP32" in head and "  bias correction of " in after
    assert float(before.split()[3]) != float(after.split()[3]), "the SQNR changes"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--finetune", "0"], "--finetune between 1"),
        (["--finetune-lr", "0.1"], "give --finetune EPOCHS"),
        (["--finetune-batch", "2"], "give --finetune EPOCHS"),
        (["--finetune", "1", "--finetune-lr", "nan"], "--finetune-lr between"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], words: str, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["calibrate", str(small_onnx), "--data", str(CAMVID), "-o", str(tmp_path / "m.onnx"), *flags]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not list(tmp_path.iterdir())


def test_pictures_are_those_of_the_split_without_the_hidden_ones(small_onnx: Path) -> None:
    spec = read_spec(small_onnx)
    paths = sorted((CAMVID / "train" / "images").iterdir())
    everything = tuning_pictures(CAMVID, "auto", None, {}, spec, [])
    fewer = tuning_pictures(CAMVID, "auto", None, {paths[0].name: "", paths[3].name: ""}, spec, [])
    assert everything.labelled and len(everything) == len(paths) and len(fewer) == len(paths) - 2
    image, labels = fewer.pairs[0]()
    expected = cv2.resize(read_image(paths[1]), spec.input_size[::-1])[..., ::-1]
    assert np.array_equal(image, expected) and labels is not None and labels.shape == spec.input_size
    plain = tuning_pictures(CAMVID / "train" / "images", "auto", None, {paths[0].name: ""}, spec, [])
    assert not plain.labelled and len(plain) == len(paths) - 1 and plain.pairs[0]()[1] is None


def test_a_copy_of_a_hidden_picture_is_refused(small_onnx: Path, tmp_path: Path) -> None:
    source = sorted((CAMVID / "train" / "images").iterdir())[0]
    shutil.copy(source, tmp_path / "copy.png")
    hidden = {source.name: hashlib.sha256(read_image(source).tobytes()).hexdigest()}
    found = tuning_pictures(tmp_path, "auto", None, hidden, read_spec(small_onnx), [])
    with pytest.raises(PspnetError, match=r"copy\.png is a copy"):
        found.pairs[0]()


def test_nothing_left_is_refused_and_a_clip_gives_its_calibration_frames(small_onnx: Path) -> None:
    spec = read_spec(small_onnx)
    names = {path.name: "" for path in (CAMVID / "train" / "images").iterdir()}
    with pytest.raises(PspnetError, match="no picture of camvid11_tiny train is left"):
        tuning_pictures(CAMVID, "auto", None, names, spec, [])
    frames = [np.full((1, 4, 4, 3), value, np.uint8) for value in (1, 2)]
    clip = tuning_pictures(CLIP, "auto", None, {}, spec, frames)
    assert not clip.labelled and [pair()[0].max() for pair in clip.pairs] == [1, 2]


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_labels_lie_where_the_picture_does(fit: str) -> None:
    """A picture whose grey value is its label, made into the network's input, agrees but at borders of labels."""
    labels = np.kron(np.arange(48).reshape(6, 8), np.ones((20, 30), int)).astype(np.uint8)
    geometry = Geometry((labels.shape[0], labels.shape[1]), (96, 160), fit)
    found = network_labels(labels, geometry)
    picture = geometry.network_image(np.repeat((labels * 5)[..., None], 3, 2), (255, 255, 255))[..., 0]
    expected = np.where(picture == 255, 255, np.round(picture / 5))
    assert found.shape == (96, 160) and found.dtype == np.uint8
    assert (found == expected).mean() > 0.8
    assert ((found == 255) == (picture == 255)).mean() > 0.98 and (found == 255).any() == (fit == "letterbox")
    same = Geometry((labels.shape[0], labels.shape[1]), (120, 240), fit)
    assert np.array_equal(network_labels(labels, same), labels)
