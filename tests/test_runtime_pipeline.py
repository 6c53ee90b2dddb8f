"""The loop from source to sinks, and the whole `pspnet run`."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.image import read_labels
from pspnet.spec import IGNORE, ModelSpec
from runtime.frame import Frame, Segmentation
from runtime.pipeline import percentiles, segment_stream
from runtime.sink import FolderSink, JsonlSink, NullSink, VideoSink
from runtime.source import Source, open_source

SPEC = ModelSpec(
    "mobilenet_v2", 32, (1, 2, 3), 8, 8, 8, ("Road", "Tree", "Sky"), ((128, 64, 128), (0, 250, 0), (70, 130, 250)),
    (96, 96),
)  # fmt: skip
CLIP = Path(__file__).parents[1] / "demo" / "video" / "solidWhiteRight.mp4"


class FakeSegmenter:
    """Labels by the green band, 255 in the first row; raises `error` at frame `fails_at`, after the warm-up frame."""

    spec = SPEC

    def __init__(self, fails_at: int = -1, error: BaseException | None = None) -> None:
        self.seen, self.fails_at, self.error = -1, fails_at, error

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        [frame] = frames
        if self.error and self.seen == self.fails_at:
            raise self.error
        self.seen += 1
        return [Segmentation(frame, fake_labels(frame.bgr()), {"pre": 1.0, "infer": 2.0, "labels": 3.0})]


def fake_labels(bgr: np.ndarray) -> np.ndarray:
    labels = bgr[:, :, 1] // 86
    labels[0] = IGNORE
    return labels


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.results: list[Segmentation] = []

    def __enter__(self) -> Recorder:
        return self

    def __call__(self, result: Segmentation) -> None:
        time.sleep(0.002)
        self.results.append(dataclasses.replace(result, times_ms=dict(result.times_ms)))

    def __exit__(self, *_: object) -> None: ...


def test_every_frame_reaches_every_sink_in_order(camvid_tiny: Path) -> None:
    first, second = Recorder(), Recorder()
    with open_source(str(camvid_tiny / "test")) as source:
        summary = segment_stream(source, FakeSegmenter(), [first, second], progress=False)
    names = sorted(path.name for path in (camvid_tiny / "test" / "images").iterdir())
    assert [r.frame.name for r in first.results] == [r.frame.name for r in second.results] == names
    assert set(first.results[0].times_ms) == {"capture", "pre", "infer", "labels"}
    assert summary["frames"] == 5
    assert list(summary["stages_ms"]) == ["capture", "pre", "infer", "labels", "sink"]
    assert summary["stages_ms"]["infer"] == {"p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert summary["stages_ms"]["sink"]["p50"] >= 4.0  # both recorders sleep for 2 ms
    assert summary["throughput_fps"] == pytest.approx(5 / summary["seconds"])


def test_labels_on_disk_are_the_segmenters(tmp_path: Path, camvid_tiny: Path) -> None:
    with open_source(str(camvid_tiny / "val")) as source:
        segment_stream(source, FakeSegmenter(), [FolderSink(tmp_path / "out", SPEC, "")], progress=False)
    dataset = open_dataset("folder", tmp_path / "out", "all")
    assert len(dataset) == 3
    for index, original in enumerate(sorted((camvid_tiny / "val" / "images").iterdir())):
        assert dataset.images[index].read_bytes() == original.read_bytes()
        np.testing.assert_array_equal(read_labels(dataset.labels[index]), fake_labels(cv2.imread(str(original))))


def test_limit_stops_early(tmp_path: Path) -> None:
    recorder = Recorder()
    with open_source(str(CLIP)) as source:
        assert segment_stream(source, FakeSegmenter(), [recorder], progress=False, limit=4)["frames"] == 4
    assert [r.frame.sequence for r in recorder.results] == [0, 1, 2, 3]
    with open_source(str(CLIP)) as source, pytest.raises(PspnetError, match="--limit 1 or more"):
        segment_stream(source, FakeSegmenter(), [NullSink()], limit=0)


def test_camera_needs_a_limit() -> None:
    camera = Source("video0", None, 30.0, None, True, lambda: iter(()))
    with pytest.raises(PspnetError, match="how many frames to take with --limit"):
        segment_stream(camera, FakeSegmenter(), [NullSink()])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_interrupt_in_the_middle_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    sinks = [
        FolderSink(tmp_path / "out", SPEC, ""),
        VideoSink(tmp_path / "out.webm", SPEC, 25.0),
        JsonlSink(tmp_path / "out.jsonl", SPEC),
    ]
    segmenter = FakeSegmenter(fails_at=3, error=error)
    with open_source(str(CLIP)) as source, pytest.raises(type(error)):
        segment_stream(source, segmenter, sinks, progress=False)
    assert segmenter.seen == 3
    assert list(tmp_path.iterdir()) == []


def test_truncated_clip_leaves_nothing(tmp_path: Path) -> None:
    clip = tmp_path / "cut.mp4"
    clip.write_bytes(CLIP.read_bytes()[:600_000])
    with open_source(str(clip)) as source, pytest.raises(PspnetError, match=r"cut\.mp4 breaks off: \d+ of 221 frames"):
        segment_stream(source, FakeSegmenter(), [FolderSink(tmp_path / "out", SPEC, "")], progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mp4"]


def test_unwritable_output_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    segmenter = FakeSegmenter()
    sinks = [JsonlSink(tmp_path / "a.jsonl", SPEC), FolderSink(tmp_path / "file" / "out", SPEC, "")]
    with open_source(str(CLIP)) as source, pytest.raises(PspnetError, match="cannot write"):
        segment_stream(source, segmenter, sinks, progress=False)
    assert segmenter.seen == -1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_percentiles_interpolate_between_neighbours() -> None:
    values = np.random.default_rng(0).permutation(np.arange(101.0)).tolist()
    assert percentiles(values) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert percentiles([1.0, 2.0]) == pytest.approx({"p50": 1.5, "p90": 1.9, "p99": 1.99})
    assert percentiles([7.0]) == {"p50": 7.0, "p90": 7.0, "p99": 7.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 96x96, random weights."""
    import torch

    from pspnet.checkpoint import save_checkpoint
    from pspnet.model import PSPNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "three.pt"
    save_checkpoint(path, SPEC, PSPNet(SPEC).state_dict())
    return path


def test_run_writes_folder_video_lines_and_summary(
    tmp_path: Path, camvid_tiny: Path, checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    from runtime.runner import open_runner
    from runtime.segmenter import CpuSegmenter

    out = tmp_path / "out"
    flags = ["--limit", "5", "--fit", "letterbox", "--region", "300x400+20+40", "--alpha", "0.4", "--threads", "2"]
    files = [
        "--video",
        str(tmp_path / "v.webm"),
        "--jsonl",
        str(tmp_path / "r.jsonl"),
        "--json",
        str(tmp_path / "s.json"),
    ]
    code = main(["run", str(checkpoint), str(camvid_tiny / "val"), str(CLIP), "-o", str(out), *files, *flags])
    assert code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 frames, ") and "service p50 " in printed and str(out) in printed
    assert printed.count("\n") == 1
    dataset = open_dataset("folder", out, "all")
    assert [p.name for p in dataset.images[3:]] == ["solidWhiteRight_000000.jpg", "solidWhiteRight_000001.jpg"]
    with open_runner(checkpoint) as runner:
        segmenter = CpuSegmenter(runner, "letterbox", (20, 40, 300, 400))
        for index, original in enumerate(sorted((camvid_tiny / "val" / "images").iterdir())):
            expected = segmenter.labels(cv2.imread(str(original)))
            assert (expected != IGNORE).sum() == 300 * 400
            np.testing.assert_array_equal(read_labels(dataset.labels[index]), expected)
    assert "three.pt" in dataset.classes.licence
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "v.webm").stat().st_size > 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["frames"], summary["engine"], summary["artefact"]) == (5, "torch", "three.pt")
    assert set(summary["service_ms"]) == {"p50", "p90", "p99"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give -o DIR, --video FILE.webm, --jsonl FILE"),
        (["-o", "OUT", "--region", "9000x400+0+0"], "is not inside the picture"),
        (["-o", "OUT", "--region", "left"], "HEIGHTxWIDTH+TOP+LEFT"),
        (["-o", "OUT", "--fit", "squash"], "choose one of stretch, letterbox, crop"),
        (["--video", "OUT.mp4"], "--video NAME.webm"),
        (["-o", "OUT", "--realtime"], "--realtime is for clips"),
    ],
)
def test_run_refuses_in_one_line(
    tmp_path: Path,
    camvid_tiny: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    photo = next((camvid_tiny / "val" / "images").iterdir())
    placed = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    assert main(["run", str(checkpoint), str(photo), *placed]) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("pspnet: ")]
    assert len(lines) == 1 and message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_is_130_and_leaves_nothing(
    tmp_path: Path, camvid_tiny: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.segmenter import CpuSegmenter

    monkeypatch.setattr(CpuSegmenter, "segment", FakeSegmenter(2, KeyboardInterrupt()).segment)
    arguments = ["-o", str(tmp_path / "out"), "--jsonl", str(tmp_path / "r.jsonl")]
    assert main(["run", str(checkpoint), str(camvid_tiny / "test"), *arguments]) == 130
    assert list(tmp_path.iterdir()) == []
