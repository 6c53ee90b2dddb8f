"""Outputs never take the place of what the same command reads, directly, through links, or beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.outputs import LONGEST_NAME, check_outputs
from tests.guests import graph, save
from tests.nets import CAMVID
from tests.test_refusals import refusal


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a data set, one with linked parts, a list, a guest, one with weights beside it, figures."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/classes.json", "data/val/images/a.png", "data/val/labels/a.png", "disk/images/b.png", "c/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("kept")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "val").symlink_to(tmp_path / "disk")
    (tmp_path / "linked" / "c.png").symlink_to(tmp_path / "c" / "c.png")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "linked")  # in a circle
    (tmp_path / "to_label.json").symlink_to(tmp_path / "data" / "val" / "labels" / "a.png")
    (tmp_path / "list.txt").write_text("disk/images/b.png data/val/labels/a.png\n")
    save(tmp_path, graph(), "guest.onnx")
    onnx.save(graph(), tmp_path / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "split.json").write_text('{"kind": "verify"}')
    (tmp_path / "m.onnx").write_bytes((tmp_path / "guest.onnx").read_bytes())
    (tmp_path / "m.json").write_text('{"kind": "calibration table", "amax": {}}')
    (tmp_path / "bench.json").write_text('{"pictures": ["bench.pictures/p.jpg"]}')
    (tmp_path / "bench.pictures").mkdir()
    (tmp_path / "bench.pictures" / "p.jpg").write_text("kept")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("data", "data/classes.json"), ("data", "data/val/images/a.png"), ("data", "to_label.json"),
        ("data/val/images", "data/val/../val/images/a.png"), ("linked", "linked/val/images/b.png"),
        ("linked", "disk/images/b.png"), ("linked", "c/c.png"), ("list.txt", "disk/images/b.png"),
        ("list.txt", "to_label.json"), ("guest.onnx", "guest.json"), ("m.onnx", "m.json"), ("split.onnx", "w.bin"),
        ("bench.json", "bench.pictures/p.jpg"),
    ],
)  # fmt: skip
def test_what_is_read_is_refused(source: str, output: str, own: Path) -> None:
    with pytest.raises(PspnetError, match=f"exists and belongs to {source}, which the same command reads"):
        check_outputs([source], ["new.json", output])


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("data", "disk/images/b.png"), ("data", "data/new.json"), ("linked", "data/classes.json"),
        ("list.txt", "c/c.png"), ("guest.onnx", "m.json"), ("guest.onnx", "w.bin"), ("split.onnx", "split.json"),
        ("bench.json", "c/c.png"), ("v4l2:///dev/video0", "m.json"), ("gone.onnx", "m.json"),
    ],
)  # fmt: skip
def test_other_files_may_be_written(source: str, output: str, own: Path) -> None:
    check_outputs([source], [output])


def test_a_damaged_spec_is_kept_too(own: Path) -> None:
    (own / "guest.json").write_text('{"class_names": [')
    with pytest.raises(PspnetError, match="belongs to guest"):
        check_outputs(["guest.onnx"], ["guest.json"])


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        (["disk"], [], "cannot write disk: it is a folder"),
        ([], ["m.json"], "m.json is a file, and a folder is needed"),
        (["m.json/x.png"], [], "cannot write m.json/x.png: no file can be made in .*m.json .Not a directory"),
        ([], ["m.json/new"], "cannot write m.json/new: no file can be made"),
        (["/proc/x.png"], [], "cannot write /proc/x.png: no file can be made in /proc"),
        ([], ["/proc/self/new/folder"], "cannot write /proc/self/new/folder: no file can be made in /proc"),
        (["/dev/full"], [], "cannot write /dev/full: it is a device"),
        (["new", "new/x.json"], [], "new/x.json lies below new, which another option writes as a file"),
        (["new"], ["new/folder"], "new/folder lies below new"),
        (["new"], ["new"], "new would be written by another option"),
    ],
)
def test_what_cannot_be_written_is_refused(files: list[str], folders: list[str], message: str, own: Path) -> None:
    before = sorted(own.rglob("*"))
    with pytest.raises(PspnetError, match=message):
        check_outputs([], files, folders)
    assert sorted(own.rglob("*")) == before


def test_what_can_be_made_may_be_written_and_leaves_no_trace(own: Path) -> None:
    before = sorted(own.rglob("*"))
    check_outputs([], ["m.json", "a/b/c.json", "runs/x/x.json"], ["disk", "new/folder", "runs/x"])
    assert sorted(own.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(own: Path) -> None:
    (own / "disk").chmod(0o500)
    for arguments in (["disk/x.json"], []), ([], ["disk/new"]), ([], ["disk"]):
        with pytest.raises(PspnetError, match="no file can be made in"):
            check_outputs([], *arguments)


def test_names_that_no_file_system_takes_are_refused_before_the_work(own: Path) -> None:
    check_outputs([], ["n" * LONGEST_NAME])
    with pytest.raises(PspnetError, match="too long: 220 bytes at most"):
        check_outputs([], [f"folder/{'n' * (LONGEST_NAME + 1)}"])


@pytest.mark.parametrize(
    "command",
    [
        "inspect guest.onnx --json guest.json", "inspect split.onnx --json w.bin",
        "verify guest.onnx guest.onnx --data data --json data/classes.json",
        "verify guest.onnx guest.onnx --data {camvid} --json guest.json",
        "evaluate guest.onnx --data data --json data/val/labels/a.png",
        "evaluate guest.onnx --data data --json to_label.json",
        "run guest.onnx data/val/images --jsonl data/val/images/a.png", "doctor --data data -o data/val/images/a.png",
        "doctor --data data --json data/classes.json", "report bench.json -o bench.pictures/p.jpg",
        "calibrate m.onnx --data data -o data/classes.onnx", "bench guest.onnx --data data --json data/classes.json",
        "train --data data -o run --json data/classes.json", "export m.pt --data data -o data/x.onnx --json m.json",
    ],
)  # fmt: skip
def test_every_verb_checks(command: str, own: Path, capsys: pytest.CaptureFixture) -> None:
    (own / "data" / "x.onnx").write_text("kept")
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    assert "the same command" in refusal(capsys, *command.format(camvid=CAMVID).split())
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


OPTIONS = {
    "evaluate m.onnx --data {camvid}": {"--json": "file", "--confusion": "file", "--save": "empty"},
    "verify m.onnx m.onnx --data {camvid}": {"--json": "file", "-o": "file"},
    "bench m.onnx --data {camvid}": {"--json": "file"},
    "export m.pt": {"--json": "file", "-o": "file"},
    "export --sizes": {"--json": "file"},
    "calibrate m.onnx --data {camvid}": {"--json": "file", "-o": "file"},
    "inspect m.onnx": {"--json": "file"},
    "doctor": {"--json": "file"},
    "doctor --data {camvid}": {"--json": "file", "-o": "either"},
    "report bench.json": {"-o": "file"},
    "prune m.pt": {"--json": "file", "-o": "file"},
    "average m.pt m.pt": {"-o": "file"},
    "train --data {camvid} -o run": {"--json": "file"},
    "train --data {camvid}": {"-o": "folder"},
    "run m.onnx {camvid}/val/images": {"--json": "file", "--jsonl": "file", "--video": "file", "-o": "empty"},
    "demo": {"-o": "folder"},
}
"""Command -> its output options, each with what it writes: a file, a folder, an empty folder, a file or its folder."""


@pytest.mark.parametrize(("command", "options"), OPTIONS.items())
def test_every_output_is_checked_before_any_work(
    command: str, options: dict[str, str], own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "full.png").mkdir()  # a folder, by a name that every option takes
    (own / "full.png" / "kept").write_text("")
    monkeypatch.setattr("os.replace", lambda *_: pytest.fail("the work was done"))
    words = [*command.format(camvid=CAMVID).split()]
    ends = {"export": ".onnx", "calibrate": ".onnx", "run": ".webm"}
    for option, kind in options.items():
        end = ends.get(words[0], ".png") if option in ("-o", "--video") and kind == "file" else ".png"
        assert "no file can be made in /proc" in refusal(capsys, *words, option, f"/proc/out{end}")
        if kind in ("file", "empty"):
            folder = (own / "full.png").rename(own / f"full{end}")
            said = {"file": "it is a folder", "empty": f"Choose another one with {option}, or remove it first"}[kind]
            assert said in refusal(capsys, *words, option, folder.name)
            folder.rename(own / "full.png")
        if kind in ("folder", "empty"):
            assert "a folder is needed" in refusal(capsys, *words, option, "bench.json")


def test_what_is_written_beside_an_output_is_checked_too(own: Path, capsys: pytest.CaptureFixture) -> None:
    (own / "q.json").mkdir()
    assert "q.json: it is a folder" in refusal(capsys, "calibrate", "m.onnx", "--data", CAMVID, "-o", "q.onnx")
    (own / "e.fp16.onnx").mkdir()
    assert "e.fp16.onnx: it is a folder" in refusal(capsys, "export", "m.pt", "--fp16", "-o", "e.onnx")
    (own / "b.pictures").write_text("kept")
    command = ["bench", "m.onnx", "--data", CAMVID, "--pictures", "1", "--json", "b.json"]
    assert "b.pictures is a file, and a folder is needed" in refusal(capsys, *command)


def test_figures_beside_their_model_are_written_again(own: Path) -> None:
    for _ in range(2):
        assert main(["inspect", "split.onnx", "--json", "split.json"]) == 0
    assert json.loads((own / "split.json").read_text())["kind"] == "onnx"
