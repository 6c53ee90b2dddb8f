"""--list and --shard: every recording once, resumed after an interruption, one manifest line per file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from runtime import recordings
from runtime.recordings import read_list, read_manifests, shard_from_text
from runtime.torch_runner import TorchRunner
from tests.doubles.cuda_driver import CudaDouble
from tests.torch_double import OnDouble, network_of


@pytest.fixture
def listed(tmp_path: Path, camvid_tiny: Path) -> Path:
    """A list of five photos, two of them of one name, one below the list's folder."""
    photos = sorted((camvid_tiny / "train" / "images").iterdir())[:5]
    lines = ["# drives", ""]
    for place, photo in enumerate(photos):
        folder = tmp_path / "drives" / str(place)
        folder.mkdir(parents=True)
        name = "front.png" if place < 2 else photo.name
        shutil.copy(photo, folder / name)
        lines.append(f"drives/{place}/{name}")
    path = tmp_path / "files.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(listed: Path, model: Path, *more: str) -> int:
    return main(["run", str(model), "--list", str(listed), "-o", str(listed.parent / "out"), "--threads", "1", *more])


def lines_of(listed: Path, shard: str = "1-of-1") -> list[dict]:
    text = (listed.parent / "out" / f"manifest-{shard}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_shards_share_out_all_recordings(listed: Path, small_onnx: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(listed, small_onnx, "--shard", "1/2") == 0
    assert "3 recordings of shard 1/2: 3 done" in capsys.readouterr().out
    assert run(listed, small_onnx, "--shard", "2/2") == 0
    first, second = lines_of(listed, "1-of-2"), lines_of(listed, "2-of-2")
    assert [len(first), len(second)] == [3, 2]
    files = sorted(line["file"] for line in first + second)
    assert files == sorted(str(path) for path in read_list(listed))
    for line in first + second:
        assert line["state"] == "done" and line["frames"] == 1 and line["engine"] == "openvino"
        assert len(open_dataset("folder", listed.parent / "out" / line["output"], "all").labels) == 1
    assert len({line["output"] for line in first + second}) == 5


def test_resumes_where_it_was_interrupted(listed: Path, small_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = recordings.segment_stream, []

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recordings, "segment_stream", interrupted)
    assert run(listed, small_onnx) == 130
    assert [line["state"] for line in lines_of(listed)] == ["done", "done"]
    manifest = listed.parent / "out" / "manifest-1-of-1.jsonl"
    with open(manifest, "a") as file:
        file.write('{"file": "half a li')  # the power went
    assert run(listed, small_onnx) == 0
    assert len(calls) == 6  # 2 done, 1 interrupted, 3 after it
    done = read_manifests(manifest.parent)
    assert len(done) == 5 and all(line["state"] == "done" for line in done.values())
    assert run(listed, small_onnx) == 0
    assert len(calls) == 6


def test_what_is_done_is_known_however_the_list_was_split(
    listed: Path, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(listed, small_onnx, "--shard", "1/2") == 0  # the first, third and fifth
    outputs = {path: path.stat().st_mtime_ns for path in (listed.parent / "out").rglob("*.png")}
    capsys.readouterr()
    for shard, said in (("1/3", "1 done, 1 left out"), ("2/3", "1 done, 1 left out"), ("3/3", "1 left out")):
        assert run(listed, small_onnx, "--shard", shard) == 0
        assert f"of shard {shard}: {said};" in capsys.readouterr().out
    assert run(listed, small_onnx) == 0
    assert "5 left out" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == written_ns for path, written_ns in outputs.items())
    assert run(listed, small_onnx, "--shard", "2/2", "--fit", "letterbox") == 2  # though shard 2/2 has no line yet
    assert "holds 5 recordings of another network or other settings" in capsys.readouterr().err


def test_the_newest_line_of_a_recording_counts_whichever_shard_wrote_it(
    listed: Path, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(listed, small_onnx) == 0
    manifest = listed.parent / "out" / "manifest-1-of-1.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    newer = lines[0] | {"state": "failed", "started": "9999-01-01T00:00:00Z"}
    older = lines[1] | {"state": "failed", "started": "2001-01-01T00:00:00Z"}
    other = manifest.with_name("manifest-9-of-9.jsonl")
    other.write_text("".join(json.dumps(line) + "\n" for line in (newer, older)))
    capsys.readouterr()
    assert run(listed, small_onnx, "--shard", "1/2") == 0  # holds the first one
    assert "1 done, 2 left out" in capsys.readouterr().out
    assert run(listed, small_onnx, "--shard", "2/2") == 0  # holds the second one
    assert "2 left out" in capsys.readouterr().out


def test_a_failed_recording_is_told_and_tried_again(
    listed: Path, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = read_list(listed)[2]
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:100])
    assert run(listed, small_onnx) == 2
    assert str(damaged) in capsys.readouterr().err
    assert [line["state"] for line in lines_of(listed)] == ["done", "done", "failed", "done", "done"]
    damaged.write_bytes(sound)
    assert run(listed, small_onnx) == 0
    assert "1 done, 4 left out" in capsys.readouterr().out


def test_a_changed_recording_is_run_again(listed: Path, small_onnx: Path) -> None:
    assert run(listed, small_onnx) == 0
    changed, other = read_list(listed)[3:5]
    changed.write_bytes(other.read_bytes())
    assert run(listed, small_onnx) == 0
    assert [line["file"] for line in lines_of(listed)[5:]] == [str(changed)]


def test_another_network_is_refused(listed: Path, small_onnx: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(listed, small_onnx) == 0
    assert run(listed, small_onnx, "--fit", "letterbox") == 2
    assert "holds 5 recordings of another network or other settings: give another -o" in capsys.readouterr().err


def test_labels_of_another_precision_do_not_mix(
    listed: Path, small_checkpoint: Path, cuda_double: CudaDouble, kernels_on_cpu: None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """A checkpoint is float32 on a CPU, and float16 where PyTorch has a GPU: the same file, other labels."""
    assert run(listed, small_checkpoint) == 0
    assert {(line["engine"], line["precision"]) for line in lines_of(listed)} == {("torch", "fp32")}
    made: list[OnDouble] = []

    def network(runner: TorchRunner) -> OnDouble:
        made.append(network_of(small_checkpoint))
        return made[-1]

    monkeypatch.setattr(TorchRunner, "network", network)
    assert run(listed, small_checkpoint) == 2
    assert "holds 5 recordings of another network or other settings" in capsys.readouterr().err
    (listed.parent / "out").rename(listed.parent / "before")
    assert run(listed, small_checkpoint) == 0
    assert {(line["engine"], line["precision"]) for line in lines_of(listed)} == {("torch-cuda", "fp16")}
    assert len(made) == 2 and cuda_double.live() == {}  # one network for all recordings of a run


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_odd_shards_are_refused(text: str) -> None:
    with pytest.raises(PspnetError, match="write --shard I/N"):
        shard_from_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no recording"), ("# x\n", "names no recording"), ("a.mp4\na.mp4", "twice"),
        ("a.mp4\n test://pattern", "l.txt names test://pattern, and lists take files"),
        ("rtsp://me:s3cret@cam/x", r"names rtsp://\*\*\*@cam/x, and lists take files"),
    ],
)  # fmt: skip
def test_odd_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(PspnetError, match=message):
        read_list(tmp_path / "l.txt")
    with pytest.raises(PspnetError, match="cannot read list"):
        read_list(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png"], "give these two alone"),
        (["--serve"], "--serve does not go with --list"),
        (["--jsonl", "a.jsonl"], "--jsonl does not go with --list"),
        (["--realtime"], "--realtime does not go with --list"),
    ],
)
def test_what_does_not_go_with_a_list(
    listed: Path, small_onnx: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["run", str(small_onnx), *arguments, "--list", str(listed), "-o", str(listed.parent / "out")]) == 2
    assert message in capsys.readouterr().err
