"""Sources: every frame in order, and one clear line for what cannot be read."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from pspnet.image import read_image
from runtime.source import open_source, open_sources

FPS = 25.0
JPEG_LEVELS = 4  # an even grey survives MJPG within a few grey levels; frames differ by 6


def write_clip(path: Path, frames: int, size: tuple[int, int] = (48, 64)) -> Path:
    """An MJPG clip whose frame i is an even grey of 6 * i."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), FPS, size[::-1])
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((*size, 3), 6 * index, np.uint8))
    writer.release()
    return path


def write_pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((8, 12, 3), 10 * index, np.uint8))
    return folder


def test_clip_gives_every_frame_in_order(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "road.avi", 30)
    before = time.monotonic_ns()
    with open_source(str(path)) as source:
        assert (source.name, source.size, source.fps, source.length) == ("road.avi", (48, 64), FPS, 30)
        assert not source.live
        frames = list(source)
    assert [frame.sequence for frame in frames] == list(range(30))
    assert [frame.name for frame in frames[:2]] == ["road_000000", "road_000001"]
    for index, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
        assert abs(float(frame.image.mean()) - 6 * index) < JPEG_LEVELS
    stamps = [before, *(frame.captured_ns for frame in frames), time.monotonic_ns()]
    assert stamps == sorted(stamps)
    assert abs(frames[-1].wall_ns - time.time_ns()) < 60e9


def test_clip_can_be_read_twice(tmp_path: Path) -> None:
    with open_source(str(write_clip(tmp_path / "a.avi", 5))) as source:
        assert [f.sequence for f in source] == [f.sequence for f in source] == [0, 1, 2, 3, 4]


def test_real_clip_has_the_frames_it_promises() -> None:
    clip = Path(__file__).parents[1] / "demo" / "video" / "solidWhiteRight.mp4"
    with open_source(str(clip)) as source:
        assert (source.size, source.fps, source.length) == ((540, 960), 25.0, 221)
        assert sum(1 for _ in source) == 221


def test_realtime_clip_waits_for_each_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", 6)
    start = time.monotonic_ns()
    captured = [frame.captured_ns for frame in open_source(str(path), realtime=True)]
    for index, stamp in enumerate(captured):
        assert stamp - start >= index / FPS * 1e9


def test_truncated_clip_names_the_file_and_the_frames_read(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "whole.avi", 40).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    read = 0
    with pytest.raises(PspnetError, match=r"cut\.avi breaks off: (\d+) of 40 frames") as caught:
        for _ in open_source(str(cut)):
            read += 1
    assert 0 < read < 40 and f" {read} of 40 frames were read" in str(caught.value)


def test_container_may_miscount_by_two_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.avi", 20)
    real = cv2.VideoCapture

    class Miscounting:
        extra = 2

        def __init__(self, *arguments: object) -> None:
            self.capture = real(*arguments)

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

        def get(self, key: int) -> float:
            return self.capture.get(key) + self.extra * (key == cv2.CAP_PROP_FRAME_COUNT)

    monkeypatch.setattr(cv2, "VideoCapture", Miscounting)
    assert len(list(open_source(str(path)))) == 20
    Miscounting.extra = 3
    with pytest.raises(PspnetError, match="20 of 23 frames"):
        list(open_source(str(path)))


@pytest.mark.parametrize("content", [b"", b"\x00\x01noise" * 300])
def test_what_is_no_clip_is_refused_in_silence(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(content)
    with pytest.raises(PspnetError, match=r"noise\.mp4 cannot be opened as a clip \(0 frames"):
        open_source(str(path))
    assert capfd.readouterr().err == ""


def test_folder_gives_pictures_by_name(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", ["b.png", "a.png", "c.PNG"])
    (folder / "notes.txt").write_text("no picture")
    with open_source(str(folder)) as source:
        assert (source.size, source.fps, source.length, source.live) == ((8, 12), None, 3, False)
        frames = list(source)
    assert [(frame.sequence, frame.name) for frame in frames] == [(0, "a.png"), (1, "b.png"), (2, "c.PNG")]
    for frame in frames:
        assert frame.path is not None
        np.testing.assert_array_equal(frame.bgr(), cv2.imread(str(frame.path)))


def test_split_of_a_data_set_and_a_photo(camvid_tiny: Path) -> None:
    frames = list(open_source(str(camvid_tiny / "val")))
    assert [frame.name for frame in frames] == sorted(p.name for p in (camvid_tiny / "val" / "images").iterdir())
    [photo] = open_source(str(frames[1].path))
    np.testing.assert_array_equal(photo.image, frames[1].image)
    np.testing.assert_array_equal(photo.image, read_image(photo.path))  # type: ignore[arg-type]


def test_sources_follow_each_other(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", ["a.png", "b.png"])
    clip = write_clip(tmp_path / "a.avi", 3)
    with open_sources([str(folder), str(clip)]) as source:
        assert (source.size, source.fps, source.length) == ((8, 12), FPS, 5)
        assert [f.name for f in source] == ["a.png", "b.png", "a_000000", "a_000001", "a_000002"]


def _grey16() -> np.ndarray:
    return np.full((6, 6), 40000, np.uint16)


def _four_bands() -> np.ndarray:
    return np.zeros((6, 6, 4), np.uint8)


@pytest.mark.parametrize(("picture", "message"), [(_grey16(), "16-bit"), (_four_bands(), "4 bands")])
def test_pictures_of_another_kind_are_refused(tmp_path: Path, picture: np.ndarray, message: str) -> None:
    folder = write_pictures(tmp_path / "p", ["a.png", "b.png"])
    cv2.imwrite(str(folder / "c.png"), picture)
    with pytest.raises(PspnetError, match=rf"after 2 of 3 pictures: .*c\.png .*{message}"):
        list(open_source(str(folder)))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_corrupt_photo_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PspnetError, match=r"after 0 of 1 pictures: .*bad\..*corrupt"):
        open_source(str(path))


@pytest.mark.parametrize("uri", ["rtsp://camera/stream", "csi://0", "http://camera/x.mjpg", "https://x", "test://a"])
def test_other_cameras_are_refused_by_name(uri: str) -> None:
    with pytest.raises(PspnetError, match=r"are not supported by this version: give a USB camera as v4l2://"):
        open_source(uri)


def test_missing_empty_and_untimed_sources_are_refused(tmp_path: Path, camvid_tiny: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PspnetError, match="does not exist"):
        open_source(str(tmp_path / "absent.mp4"))
    with pytest.raises(PspnetError, match="holds no picture"):
        open_source(str(tmp_path / "empty"))
    with pytest.raises(PspnetError, match="--realtime is for clips"):
        open_source(str(camvid_tiny / "val"), realtime=True)
    with pytest.raises(PspnetError, match="give the camera alone"):
        open_sources([str(camvid_tiny / "val"), "v4l2:///dev/video0"])


class FakeCamera:
    """Stands in for cv2.VideoCapture: three frames, then nothing. It gives what is set, or what `gives` says."""

    gives: dict[int, float] = {}  # noqa: RUF012
    opened: list[FakeCamera] = []  # noqa: RUF012

    def __init__(self, device: str, backend: int) -> None:
        assert backend == cv2.CAP_V4L2
        self.device, self.left, self.released = device, 3, False
        self.values = {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 30.0}
        self.order: list[int] = []
        self.opened.append(self)

    def isOpened(self) -> bool:
        return True

    def set(self, key: int, value: float) -> bool:
        self.order.append(key)
        self.values[key] = self.gives.get(key, float(value))
        return True

    def get(self, key: int) -> float:
        return self.values.get(key, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.zeros((48, 64, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr(FakeCamera, "gives", {})
    monkeypatch.setattr(FakeCamera, "opened", [])
    monkeypatch.setattr("sys.platform", "linux")
    return FakeCamera


def test_camera_is_set_up_read_and_its_end_reported(fake_camera: type[FakeCamera]) -> None:
    # /dev/null stands in for a device file that exists and may be opened.
    with open_source("v4l2:///dev/null?width=128&height=96&fps=15&format=mjpg") as source:
        assert (source.name, source.size, source.fps, source.length) == ("null", (96, 128), 15.0, None)
        assert source.live
        names = []
        with pytest.raises(PspnetError, match="camera /dev/null stopped after 3 frames"):
            for frame in source:
                names.append(frame.name)
    [camera] = fake_camera.opened
    assert names == ["null_000000", "null_000001", "null_000002"]
    assert camera.order[0] == cv2.CAP_PROP_FOURCC and camera.released


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (cv2.CAP_PROP_FRAME_WIDTH, 640.0, "delivers width 640 where 128 was asked"),
        (cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter_fourcc(*"YUYV")), "delivers format yuyv where mjpg was asked"),
        (cv2.CAP_PROP_FPS, 5.0, "delivers fps 5 where 30 was asked"),
    ],
)
def test_camera_that_gives_another_mode_is_refused(
    fake_camera: type[FakeCamera], key: int, value: float, message: str
) -> None:
    fake_camera.gives[key] = value
    with pytest.raises(PspnetError, match=message):
        open_source("v4l2:///dev/null?width=128&format=mjpg&fps=30")
    assert fake_camera.opened[0].released


def test_camera_may_state_29_97_for_30(fake_camera: type[FakeCamera]) -> None:
    fake_camera.gives[cv2.CAP_PROP_FPS] = 29.97
    assert open_source("v4l2:///dev/null?fps=30").fps == 29.97


@pytest.mark.parametrize("query", ["width=wide", "width=0", "format=h264", "exposure=3"])
def test_camera_settings_that_are_not_understood_are_refused(fake_camera: type[FakeCamera], query: str) -> None:
    with pytest.raises(PspnetError, match="is not understood"):
        open_source(f"v4l2:///dev/null?{query}")


@pytest.mark.parametrize(
    ("name", "data"), [("n.txt", b"words on a line\n" * 400), ("n.nfo", b"x\n"), ("n.bin", b"A\x07" * 8000)]
)
def test_what_ffmpeg_would_draw_as_characters_is_no_clip(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PspnetError, match="holds text or data, which FFmpeg would draw as characters"):
        open_source(str(tmp_path / name))


@pytest.mark.skipif("linux" not in __import__("sys").platform, reason="V4L2 is Linux's")
def test_what_is_no_camera_is_refused() -> None:
    with pytest.raises(PspnetError, match="/dev/video987 does not exist"):
        open_source("v4l2:///dev/video987")
    with pytest.raises(PspnetError, match="cannot be opened"):
        open_source("v4l2:///dev/null")


def test_camera_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(PspnetError, match="need Linux, this is win32"):
        open_source("v4l2:///dev/video0")
