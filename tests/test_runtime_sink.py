"""Sinks: exact labels, a valid data set, a video that can be read, JSON lines; and nothing where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.image import read_labels
from pspnet.spec import IGNORE, ModelSpec
from runtime.frame import Frame, Segmentation
from runtime.sink import FolderSink, JsonlSink, NullSink, VideoSink, open_sinks

SPEC = ModelSpec(
    "mobilenet_v2", 32, (1, 2, 3), 8, 8, 8, ("Road", "Tree", "Sky"), ((128, 64, 128), (0, 250, 0), (70, 130, 250)),
    (96, 96), drivable=(0,),
)  # fmt: skip
LOSSY_LEVELS = 6  # mean error of a JPEG or VP8 frame made of a few even fields
CASES = ("folder", "video", "jsonl")


def result(
    sequence: int = 0, size: tuple[int, int] = (48, 64), name: str = "", path: Path | None = None
) -> Segmentation:
    """Labels in stripes and a strip of 255, over an even grey."""
    labels = np.broadcast_to((np.arange(size[1]) // 8 + sequence) % 3, size).astype(np.uint8)
    labels[: size[0] // 4] = IGNORE
    picture = np.full((*size, 3), 90, np.uint8)
    frame = Frame(
        picture, "bgr", "road.avi", sequence, 10 + sequence, 20 + sequence, name or f"road_{sequence:06d}", path
    )
    return Segmentation(frame, labels, {"infer": 1.23456})


def sink_of(case: str, folder: Path) -> FolderSink | VideoSink | JsonlSink:
    if case == "folder":
        return FolderSink(folder / "out", SPEC, "a licence")
    return VideoSink(folder / "out.webm", SPEC, 25.0) if case == "video" else JsonlSink(folder / "out.jsonl", SPEC)


def test_folder_is_a_data_set_with_exact_labels(tmp_path: Path) -> None:
    results = [result(index) for index in range(12)]
    with FolderSink(tmp_path / "out", SPEC, "a licence") as sink:
        for item in results:
            sink(item)
    dataset = open_dataset("folder", tmp_path / "out", "all")
    assert dataset.classes.names == SPEC.class_names and dataset.classes.palette == SPEC.palette
    assert (dataset.classes.drivable, dataset.classes.licence) == ((0,), "a licence")
    assert [path.name for path in dataset.images] == [f"road_{index:06d}.jpg" for index in range(12)]
    for index, item in enumerate(results):
        np.testing.assert_array_equal(read_labels(dataset.labels[index]), item.labels)
        image, labels = dataset.read(index)
        np.testing.assert_array_equal(labels, item.labels)
        assert np.abs(image.astype(float) - item.frame.image).max() <= LOSSY_LEVELS
    assert len(open_dataset("folder", tmp_path / "out", "val")) == 1


def test_photos_are_copied_byte_for_byte_and_names_stay_apart(tmp_path: Path) -> None:
    contents = []
    with FolderSink(tmp_path / "out", SPEC, "") as sink:
        for folder, name in (("a", "x.png"), ("b", "x.png"), ("b", "X.jpg"), ("b", "x_2.bmp"), ("b", "y.v1.png")):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((48, 64, 3), len(contents), np.uint8))
            contents.append(path.read_bytes())
            sink(result(len(contents), name=name, path=path))
    images = tmp_path / "out" / "images"
    expected = ["x.png", "x_2.png", "X_3.jpg", "x_2_2.bmp", "y.v1.png"]
    assert sorted(path.name for path in images.iterdir()) == sorted(expected)
    for name, content, index in zip(expected, contents, range(1, 6), strict=True):
        assert (images / name).read_bytes() == content
        stored = read_labels(tmp_path / "out" / "labels" / f"{name[:-4]}.png")
        np.testing.assert_array_equal(stored, result(index).labels)
    assert len(open_dataset("folder", tmp_path / "out", "all")) == 5


def read_video(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def test_video_shows_the_blend_beside_a_legend(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    results = [result(index, (241, 321)) for index in range(5)]  # odd: WebM's colours need an even size
    with VideoSink(tmp_path / "v.webm", SPEC, 12.5, alpha=0.25) as sink:
        for item in results:
            sink(item)
    frames = read_video(tmp_path / "v.webm")
    assert len(frames) == 5 and capfd.readouterr().err == ""
    assert cv2.VideoCapture(str(tmp_path / "v.webm")).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    for item, frame in zip(results, frames, strict=True):
        assert frame.shape[0] == 240 and frame.shape[1] > 320 and frame.shape[1] % 2 == 0
        colours = np.array([(b, g, r) for r, g, b in SPEC.palette], np.float64)
        blended = np.full((241, 321, 3), 90.0)
        seen = item.labels != IGNORE
        blended[seen] = 0.75 * 90 + 0.25 * colours[item.labels[seen]]
        error = np.abs(frame[:, :320].astype(np.float64) - cv2.resize(blended, (320, 240)))
        assert np.median(error) <= LOSSY_LEVELS


def test_wide_frames_are_scaled_down_and_other_sizes_fitted_in(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "v.webm", SPEC, 25.0, alpha=0.0) as sink:
        sink(result(0, (500, 2000)))
        sink(result(1, (300, 300)))
    wide, square = read_video(tmp_path / "v.webm")
    assert wide.shape == square.shape and wide.shape[0] == 240 and 960 < wide.shape[1] < 1200
    assert abs(float(wide[:, :960].mean()) - 90) < LOSSY_LEVELS
    assert abs(float(square[:, 365:595].mean()) - 90) < LOSSY_LEVELS  # 240 of 960 columns, centred
    assert float(square[:, :350].mean()) < LOSSY_LEVELS  # black beside it


def test_json_lines_hold_times_and_areas(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "r.jsonl", SPEC) as sink:
        for index in range(3):
            sink(result(index))
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["sequence"] for line in lines] == [0, 1, 2]
    first = lines[0]
    assert (first["source"], first["name"], first["size"]) == ("road.avi", "road_000000", [48, 64])
    assert (first["captured_ns"], first["wall_ns"], first["times_ms"]) == (10, 20, {"infer": 1.235})
    # 8 stripes of 8 columns, of which classes 0 and 1 have three each, on three quarters of the rows
    assert first["area"] == pytest.approx({"Road": 0.75 * 3 / 8, "Tree": 0.75 * 3 / 8, "Sky": 0.75 * 2 / 8})
    assert first["unlabelled"] == pytest.approx(0.25)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, PspnetError, RuntimeError])
def test_failure_in_the_middle_leaves_nothing(tmp_path: Path, case: str, error: type[BaseException]) -> None:
    with pytest.raises(error), sink_of(case, tmp_path) as sink:
        sink(result(0))
        sink(result(1))
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_output_appears_only_at_the_end(tmp_path: Path, case: str) -> None:
    with sink_of(case, tmp_path) as sink:
        sink(result(0))
        assert not any(path.name.startswith("out") for path in tmp_path.iterdir())
    assert [path.stem for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("case", CASES)
def test_unwritable_output_is_refused_on_entering(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PspnetError, match="cannot write"), sink_of(case, tmp_path / "file"):
        pytest.fail("the sink was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("case", CASES)
def test_folder_in_the_way_is_refused_and_kept(tmp_path: Path, case: str) -> None:
    target = tmp_path / {"folder": "out", "video": "out.webm", "jsonl": "out.jsonl"}[case]
    target.mkdir()
    (target / "kept").write_text("earlier result")
    with pytest.raises(PspnetError, match="folder"), sink_of(case, tmp_path):
        pytest.fail("the sink was entered")
    assert (target / "kept").read_text() == "earlier result" and len(list(tmp_path.iterdir())) == 1


def test_full_disk_names_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(PspnetError, match=r"cannot write .*out: No space left"), sink_of("folder", tmp_path) as sink:
        monkeypatch.setattr(Path, "write_bytes", full)
        sink(result(0))
    assert list(tmp_path.iterdir()) == []


def test_incomplete_video_is_found(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match="incomplete"), sink_of("video", tmp_path) as sink:
        sink(result(0))
        sink._writer.release()  # type: ignore[union-attr]
        next(tmp_path.glob(".out*")).write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


def test_opencv_without_the_encoder_is_refused_on_entering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.sink.CODEC", "XXXX")
    with pytest.raises(PspnetError, match="OpenCV cannot write"), sink_of("video", tmp_path):
        pytest.fail("the sink was entered")
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match="not WebM"):
        VideoSink(tmp_path / "v.mp4", SPEC, 25.0)
    with pytest.raises(PspnetError, match="alpha is 2"):
        VideoSink(tmp_path / "v.webm", SPEC, 25.0, alpha=2.0)
    with pytest.raises(PspnetError, match="write it beside that folder"):
        open_sinks(str(tmp_path / "d"), str(tmp_path / "d" / "v.webm"), None, SPEC, "", None, 0.5)


def test_without_an_output_results_are_dropped() -> None:
    [sink] = open_sinks(None, None, None, SPEC, "", None, 0.5)
    assert isinstance(sink, NullSink)
    with sink:
        sink(result(0))
