"""doctor --data: figures counted by hand, every kind of fault found and named, and the page of overlays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.cli import main
from pspnet.dataset_page import chosen_pairs
from pspnet.doctor_data import DataReport, examine
from pspnet.doctor_text import facts_of, text_of
from tests.nets import CAMVID, ROOT

SIZE = (4, 6)
CLASSES = {
    "classes": ["Road", "Sky", "Car", "Void"],
    "ignore_index": 3,
    "colours_rgb": {"Road": [128, 64, 128], "Sky": [70, 130, 180], "Car": [0, 0, 142], "Void": [0, 0, 0]},
}


def pair(root: Path, split: str, name: str, rows: list[int]) -> None:
    """A picture of its own and a label whose four rows hold the given values."""
    for part in ("images", "labels"):
        (root / split / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, split + name)))
    cv2.imwrite(str(root / split / "images" / f"{name}.png"), rng.integers(0, 256, (*SIZE, 3), np.uint8))
    labels = np.repeat(np.array(rows, np.uint8)[:, None], SIZE[1], 1)
    cv2.imwrite(str(root / split / "labels" / f"{name}.png"), labels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """train: two pairs, val and test: one each; Car is only in train."""
    root = tmp_path / "data"
    pair(root, "train", "a", [0, 0, 1, 3])
    pair(root, "train", "b", [0, 1, 2, 3])
    pair(root, "val", "c", [0, 0, 1, 1])
    pair(root, "test", "d", [0, 1, 1, 1])
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def lines(report: DataReport, mark: str) -> str:
    return "\n".join(f"{f.text}. {f.advice} {' | '.join(f.files)}" for f in report.findings if f.mark == mark)


def test_figures_are_those_counted_by_hand(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "d.json"
    assert main(["doctor", "--data", str(data), "-o", str(tmp_path), "--json", str(output)]) == 0
    facts = json.loads(output.read_text())
    train = facts["splits"]["train"]
    assert facts["usable"] and train["pairs"] == 2 and train["broken"] == 0 and train["sizes"] == {"4x6": 2}
    assert train["void_percent"] == 25.0
    assert train["classes"]["Road"] == {"percent": 50.0, "images": 2}
    assert train["classes"]["Car"] == {"percent": pytest.approx(100 / 6), "images": 1}
    assert (
        facts["splits"]["val"]["void_percent"] == 0.0 and facts["splits"]["test"]["classes"]["Sky"]["percent"] == 75.0
    )
    text = capsys.readouterr().out
    assert "4 pictures, each with a readable label" in text and "no pixel of val is Car" in text
    assert f"overlays of 4 pairs, all that can be read: {tmp_path / 'doctor.png'}" in text
    assert cv2.imread(str(tmp_path / "doctor.png")).shape[1] > 3 * 480


def test_every_broken_pair_is_listed(data: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for number in range(25):
        pair(data, "train", f"x{number:02}", [0, 0, 0, 77])
    (data / "val" / "labels" / "c.png").unlink()
    cut = data / "test" / "images" / "d.png"
    cut.write_bytes(cut.read_bytes()[:40])
    assert main(["doctor", "--data", str(data), "-o", str(tmp_path / "page.png")]) == 2
    out, err = capsys.readouterr()
    assert "fault   27 of 29 pairs cannot be used" in out and "and 7 more" in out
    assert out.count("holds the value 77 (6 pixels)") == 20
    assert err.splitlines()[-1].endswith("1 finding must be fixed: see the lines that begin with fault")
    report = examine("folder", data)
    assert [len(split.readable()) for split in report.splits.values()] == [2, 0, 0]
    problems = [pair.problem for split in report.splits.values() for pair in split.pairs if pair.problem]
    assert any(p.startswith("label ") and p.endswith("c.png is missing") for p in problems)
    assert any("d.png is corrupt" in p for p in problems)


def test_a_size_mismatch_is_a_fault_and_several_sizes_are_a_note(data: Path) -> None:
    cv2.imwrite(str(data / "val" / "labels" / "c.png"), np.zeros((4, 5), np.uint8))
    assert "c.png is 4x5, but its image is 4x6" in lines(examine("auto", data), "fault")
    cv2.imwrite(str(data / "val" / "images" / "c.png"), np.zeros((4, 5, 3), np.uint8))
    report = examine("auto", data)
    assert not report.faults() and "pictures have 2 sizes: 4x6 (3), 4x5 (1)" in lines(report, "note")


def test_equal_pictures_in_two_splits_are_a_fault(data: Path) -> None:
    image = cv2.imread(str(data / "train" / "images" / "a.png"))
    cv2.imwrite(str(data / "test" / "images" / "d.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])  # other bytes
    report = examine("auto", data)
    assert "1 picture in more than one split (equal pixels)" in lines(report, "fault")
    assert "train a.png = test d.png" in lines(report, "fault")


def test_equal_pictures_in_one_split_are_a_note(data: Path) -> None:
    shutil.copy(data / "train" / "images" / "a.png", data / "train" / "images" / "b.png")
    report = examine("auto", data)
    assert not report.faults() and "train a.png = train b.png" in lines(report, "note")


def test_void_and_absent_classes(data: Path) -> None:
    pair(data, "val", "c", [3, 3, 3, 3])
    pair(data, "train", "a", [3, 3, 3, 0])
    pair(data, "train", "b", [3, 3, 0, 0])
    report = examine("auto", data)
    assert "no pixel of val has a class" in lines(report, "fault")
    assert "62.5 % of train's pixels have no class" in lines(report, "note")
    assert "no pixel of train is Sky, Car. They cannot be learned" in lines(report, "note")


def test_labels_without_a_picture_and_missing_splits_are_notes(data: Path) -> None:
    (data / "train" / "images" / "a.png").unlink()
    shutil.rmtree(data / "val")
    report = examine("auto", data)
    assert not report.faults() and "1 label without a picture" in lines(report, "note")
    assert "there is no split val" in lines(report, "note")


def test_cityscapes_withheld_labels_are_a_note(tmp_path: Path) -> None:
    for split, value in (("train", 7), ("val", 8), ("test", 3)):
        stem = f"{split}/berlin/berlin_000000_000019"
        for kind, pixels in (
            ("leftImg8bit", np.full((*SIZE, 3), value, np.uint8)), ("gtFine", np.full(SIZE, value, np.uint8)),
        ):  # fmt: skip
            end = "leftImg8bit.png" if kind == "leftImg8bit" else "gtFine_labelIds.png"
            path = tmp_path / kind / f"{stem}_{end}"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), pixels)
    report = examine("auto", tmp_path)
    assert not report.faults() and "withheld" in lines(report, "note")
    assert "test    1 picture, 4x6, no labels" in text_of(report)
    (tmp_path / "gtFine" / "val" / "berlin" / "berlin_000001_000019_gtFine_labelIds.png").write_bytes(b"x")
    (tmp_path / "gtFine" / "val" / "berlin" / "berlin_000001_000019_gtFine_color.png").write_bytes(b"x")
    assert "1 label without a picture" in lines(examine("auto", tmp_path), "note")
    shutil.rmtree(tmp_path / "gtFine")
    assert "3 of 3 pairs cannot be used" in lines(examine("auto", tmp_path), "fault")


@pytest.fixture
def lists(data: Path) -> Path:
    """semseg's lists of the same pairs; the test list names pictures alone, as semseg's own do."""
    (data / "list").mkdir()
    for split, stems in {"train": ("a", "b"), "val": ("c",)}.items():
        rows = [f"{split}/images/{stem}.png {split}/labels/{stem}.png\n" for stem in stems]
        (data / "list" / f"{split}.txt").write_text("".join(rows))
    (data / "list" / "test.txt").write_text("test/images/d.png\n")
    return data


def test_a_list_of_pictures_alone_is_a_split_without_labels(lists: Path) -> None:
    report, listed = examine("list", lists), lists / "list" / "test.txt"
    assert not report.faults() and f"{listed}: every line is one path" in lines(report, "note")
    assert "test    1 picture, 4x6, no labels" in text_of(report)
    facts = facts_of(report)["splits"]
    assert facts["test"] | {"dataset": "", "protocol": ""} == {
        "dataset": "", "protocol": "", "pairs": 1, "broken": 0, "sizes": {"4x6": 1}, "labelled": False,
        "void_percent": None, "classes": {},
    }  # fmt: skip
    assert facts["val"]["labelled"] and {split for split, _ in chosen_pairs(report, 9)} == {"train", "val"}
    listed.write_text("test/images/d.png\ntrain/images/a.png\ntest/images/gone.png\n")
    report = examine("list", lists)
    assert "train a.png = test a.png" in lines(report, "fault") and "gone.png is missing" in lines(report, "fault")


def test_broken_classes_are_said_once(data: Path) -> None:
    (data / "classes.json").write_text("{")
    findings = examine("folder", data).findings
    assert [finding.mark for finding in findings] == ["fault"] and "is not valid JSON" in findings[0].text


@pytest.mark.parametrize(("wanted", "shares"), [(1, [1, 0, 0]), (4, [2, 1, 1]), (9, [7, 1, 1]), (99, [12, 1, 1])])
def test_the_page_shows_as_many_pairs_as_were_asked_for(data: Path, wanted: int, shares: list[int]) -> None:
    for number in range(10):
        pair(data, "train", f"x{number}", [0, 0, 1, 1])
    chosen = chosen_pairs(examine("auto", data), wanted)
    assert [sum(split == name for split, _ in chosen) for name in ("train", "val", "test")] == shares
    assert len(set(chosen)) == len(chosen) == min(wanted, 14)


@pytest.mark.parametrize(
    ("output", "page"), [("p.png", "p.png"), ("new", "new/doctor.png"), ("v1.0/", "v1.0/doctor.png"), ("x.jpg", "")]
)
def test_the_page_is_a_png_or_in_a_folder(
    output: str, page: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--data", str(data), "-o", output, "--pictures", "2"]) == (0 if page else 2)
    out, err = capsys.readouterr()
    if page:
        assert cv2.imread(page) is not None and out.endswith(f"overlays of 2 pairs: {page}\n")
    else:
        assert "overlays x.jpg must end in .png" in err and not out and not Path(output).exists()


def test_camvid_of_the_repository(camvid_tiny: Path) -> None:
    report = examine("auto", camvid_tiny)
    sky = sum(
        np.count_nonzero(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 0)
        for path in (camvid_tiny / "val" / "labels").iterdir()
    )
    assert report.splits["val"].counts().sum(0)[0] == sky and not report.faults()
    assert "val has 3 pairs, camvid11-segnet-360x480 as published has 101" in lines(report, "note")
    assert "CC BY-NC 4.0" in text_of(report)


def test_the_page_and_the_report_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from pspnet.cli import main; "
        f"sys.exit(main(['doctor', '--data', {str(CAMVID)!r}, '-o', {str(tmp_path / 'p.png')!r}, '--pictures', '3']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    page = cv2.imread(str(tmp_path / "p.png"))
    assert page.shape[0] == 360 + 26 + 16 and page.shape[1] > 3 * (480 + 16)  # three tiles in a row, and the legend


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.png"], "give --data DIR too"),
        (["--dataset", "list"], "give --data DIR too"),
        (["--data", "nowhere"], "does not exist"),
        (["--data", ".", "--pictures", "0"], "--pictures 1 or more"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *arguments]) == 2
    assert message in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
