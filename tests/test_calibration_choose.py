"""`calibrate` with a choice of methods, resamples and a comparison on pictures that it has not seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calibration import choose
from calibration.collect import measured
from calibration.placement import place
from calibration.ranges import CANDIDATES, amax_from_histogram
from calibration.table import CalibrationTable
from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.metadata import extra, read_model
from tests.nets import CAMVID


@pytest.fixture
def run(small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture):  # type: ignore[no-untyped-def]
    """Calibrate the small network: exit code, summary (None where refused), standard output and error."""

    def calibrated(*arguments: str, data: Path = CAMVID) -> tuple[int, dict | None, str, str]:
        summary, model = tmp_path / "summary.json", tmp_path / "m.int8.onnx"
        fixed = ["calibrate", str(small_onnx), "--data", str(data), "-o", str(model), "--json", str(summary)]
        engine = [] if "--no-check" in arguments else ["--threads", "1", "--engine", "ort"]
        code = main([*fixed, *engine, *arguments])
        out, err = capsys.readouterr()
        if code:
            assert not model.exists()
            return code, None, out, err
        found = json.loads(summary.read_text())
        assert extra(model, "calibration")["method"] == found["method"]
        return code, found, out, err

    return calibrated


def test_auto_compares_every_method_on_unseen_pictures_and_keeps_the_best(
    run, small_onnx: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    code, summary, out, _ = run("--method", "auto", "--images", "5")
    assert code == 0 and summary is not None
    rows = {row["method"]: row for row in summary["compared"]}
    assert list(rows) == ["minmax", "percentile 99.9", "percentile 99.99", "percentile 99.999", "entropy", "mse"]
    best = max(rows.values(), key=lambda row: row["value"])
    assert best["value"] == rows[summary["method"]]["value"] == summary["held_out"]["int8"]
    assert summary["held_out"]["figure"] == "mIoU" and summary["held_out"]["images"] == 3
    assert all(row["loss"] == pytest.approx(summary["held_out"]["float"] - row["value"]) for row in rows.values())
    assert len({row["sqnr_db"] for row in rows.values()}) == 6, "six methods, six different graphs"
    kept = next(line for line in out.splitlines() if line.endswith("kept"))
    assert kept.split()[0] == summary["method"].split()[0] and "mIoU" in out and "classes (least:" in out
    table = CalibrationTable.load(tmp_path / "m.int8.json")
    assert table.method == summary["method"] and len(table.images) == 5


def test_ranges_of_the_table_are_those_of_the_method(small_onnx: Path) -> None:
    model, image = read_model(small_onnx), np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    (histograms,) = measured(model, list(place(model).activations), [image], ["noise"], quiet=True)
    empty = CalibrationTable("", "", "", {}, {}, repairs=["kept"])
    for method, percentile in CANDIDATES:
        table = choose.with_ranges(empty, histograms, method, percentile)
        assert table.amax == {n: amax_from_histogram(h, method, percentile) for n, h in histograms.items()}
        assert dataclasses.replace(table, amax={}, method="") == empty


@pytest.mark.parametrize("kind", ["folder", "clip"])
def test_without_labels_every_figure_is_agreement_with_fp32(run, kind: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.nets import CLIP

    data = CAMVID / "train" / "images" if kind == "folder" else CLIP
    _, summary, out, _ = run("--images", "4", "--held-out", "2", "--resamples", "2", data=data)
    assert summary is not None and summary["class_percent"] is None
    assert summary["held_out"]["figure"] == summary["resamples"]["figure"] == "agreement with FP32"
    assert summary["held_out"]["float"] == 100 and summary["held_out"]["int8"] == summary["held_out"]["agreement"]
    assert "mIoU" not in out and out.count("agreement with FP32") >= 2 and "without labels" in out


def test_resamples_are_seeded_draws_with_replacement() -> None:
    rows = choose.resampling(20, 50)
    assert rows == choose.resampling(20, 50) and rows[0] == [1] * 20
    assert all(sum(row) == 20 for row in rows) and len({tuple(row) for row in rows}) == 51
    drawn = np.array(rows[1:])
    assert 0.55 < (drawn > 0).mean() < 0.72  # 1 - (1 - 1 / 20) ** 20 = 0.64 of the pictures are in a draw


def test_resamples_show_the_spread_of_the_figure(run) -> None:  # type: ignore[no-untyped-def]
    _, summary, out, _ = run("--images", "4", "--resamples", "3", "--held-out", "2")
    assert summary is not None
    spread = summary["resamples"]
    assert len(spread["values"]) == 3 and spread["figure"] == "mIoU"
    assert spread["mean"] == pytest.approx(np.mean(spread["values"]))
    assert spread["std"] == pytest.approx(np.std(spread["values"], ddof=1))
    assert spread["least"] == min(spread["values"]) and spread["largest"] == max(spread["values"])
    assert "3 resamples of the calibration images: mIoU" in out


def test_the_check_is_made_where_pictures_are_left_and_said_to_be_missing_elsewhere(run) -> None:  # type: ignore[no-untyped-def]
    _, summary, out, _ = run()
    assert summary is not None and (summary["images"], summary["held_out"]["images"]) == (6, 2)
    assert "held out: mIoU" in out
    for arguments, reason in ((("--images", "8"), "0 pictures"), (("--no-check",), "--no-check")):
        _, summary, out, _ = run(*arguments)
        assert summary is not None and "held_out" not in summary
        assert f"not compared with the float network: {reason}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "8", "--check"], "0 pictures of camvid11_tiny train left"),
        (["--images", "8", "--method", "auto"], "0 pictures of camvid11_tiny train left"),
        (["--images", "8", "--resamples", "2"], "0 pictures of camvid11_tiny train left"),
        (["--method", "auto", "--no-check"], "leave out --no-check"),
        (["--resamples", "2", "--no-check"], "leave out --no-check"),
        (["--resamples", "1"], "--resamples 2 or more"),
        (["--resamples", "-1"], "--resamples 2 or more"),
        (["--held-out", "1"], "--held-out 2 or more"),
        (["--engine", "magic"], "unknown engine"),
        (["--engine", "torch"], "which --engine torch does not run"),
    ],
)
def test_bad_choices_are_one_line_and_leave_nothing(arguments: list[str], words: str, run) -> None:  # type: ignore[no-untyped-def]
    code, _, _, err = run(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_copies_of_calibration_pictures_are_not_held_out(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = Path(shutil.copytree(CAMVID, tmp_path / "data"))
    images = list(open_dataset("camvid11", data, "train").images)
    for index in (1, 3):  # of the pictures left by 0, 2, 4, 5 and 7, only the sixth is no copy of one of them
        shutil.copy(images[index - 1], images[index])
    _, summary, out, _ = run("--images", "5", data=data)
    assert summary is not None and summary["images"] == 5 and "held_out" not in summary
    assert "not compared with the float network: 1 picture of" in out
