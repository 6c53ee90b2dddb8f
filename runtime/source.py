"""Sources of frames: a clip, a folder of pictures, one photo, or a USB camera, behind one iterable.

Clips and folders give every frame in order, as fast as they are consumed. Containers miscount their frames by a few, so
a clip counts as broken off where more than two frames and more than 1 % of what it promises are missing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from pspnet.dataset import list_images
from pspnet.errors import PspnetError
from pspnet.image import IMAGE_SUFFIXES, read_image
from runtime import v4l2
from runtime.frame import Frame

SLACK_FRAMES, SLACK_SHARE = 2, 0.01
PALETTE = int.from_bytes(b"PAL\x08", "little")  # FFmpeg's pixel format pal8
_HIDING = threading.RLock()


@dataclass
class Source:
    """An iterable of frames, each pass from the start (a live source goes on), and a context manager.

    size: (height, width) of the first frame, fps and length (in frames) are None where they are not known. live: the
    frames come when the camera has them, and without end.
    """

    name: str
    size: tuple[int, int] | None
    fps: float | None
    length: int | None
    live: bool
    frames: Callable[[], Iterator[Frame]]
    release: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def close(self) -> None:
        """Give the device back."""
        self.release()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(uri: str, realtime: bool = False) -> Source:
    """The source of `uri`: clip, folder (of pictures, or with a folder images in it), photo, or v4l2:///dev/video0.

    A camera takes ?width=&height=&fps=&format=mjpg|yuyv. realtime: a clip waits for the time of each frame, like a
    camera that never drops one; pictures have no such time and are refused.
    """
    scheme, separator, rest = uri.partition("://")
    if separator:
        if scheme != "v4l2":
            raise PspnetError(
                f"{uri}: sources of the kind {scheme}:// are not supported by this version: "
                "give a USB camera as v4l2:///dev/video0, or a clip, a folder or a photo"
            )
        return _camera(uri, rest)
    path = Path(uri)
    if not path.exists():
        raise PspnetError(f"source {uri} does not exist: give a clip, a folder, a photo or v4l2:///dev/video0")
    if not path.is_dir() and path.suffix.lower() not in IMAGE_SUFFIXES:
        return _clip(uri, path, realtime)
    if realtime:
        raise PspnetError(f"{uri} has no frame rate: --realtime is for clips. Leave it out")
    return _pictures(uri, path)


def open_sources(uris: Sequence[str], realtime: bool = False) -> Source:
    """Several sources one after the other as one; size and fps are the first's. A camera must be the only source."""
    if len(uris) == 1:
        return open_source(uris[0], realtime)
    sources = [open_source(uri, realtime) for uri in uris if not uri.startswith("v4l2://")]
    if len(sources) < len(uris):
        raise PspnetError("a camera never ends, so what comes after it would wait for ever: give the camera alone")
    lengths = [source.length for source in sources]
    total = None if None in lengths else sum(length for length in lengths if length)
    fps = next((source.fps for source in sources if source.fps), None)

    def frames() -> Iterator[Frame]:
        for source in sources:
            yield from source

    return Source(", ".join(source.name for source in sources), sources[0].size, fps, total, False, frames)


@contextlib.contextmanager
def native_messages_hidden() -> Iterator[None]:
    """Sends what OpenCV and FFmpeg print to stderr by themselves to nowhere: our own one line says it better."""
    with _HIDING:  # a second thread would take nowhere for stderr, and leave it at that
        try:
            kept = os.dup(2)
        except OSError:  # stderr is closed: there is nothing to hide
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _pictures(uri: str, path: Path) -> Source:
    folder = path / "images" if (path / "images").is_dir() else path
    paths = list_images(folder) if path.is_dir() else [path]
    if not paths:
        raise PspnetError(
            f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)}): give a folder of pictures or a data set's split"
        )

    def frames() -> Iterator[Frame]:
        for sequence, picture in enumerate(paths):
            yield _frame(_read_picture(picture, sequence, len(paths)), uri, sequence, picture.name, picture)

    size = _read_picture(paths[0], 0, len(paths)).shape[:2]
    return Source(path.name or uri, size, None, len(paths), False, frames)  # type: ignore[arg-type]


def _read_picture(path: Path, read: int, total: int) -> np.ndarray:
    try:
        return read_image(path)
    except PspnetError as error:
        raise PspnetError(f"after {read} of {total} pictures: {error}") from error


def _clip(uri: str, path: Path, realtime: bool) -> Source:
    with _capture(path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # 0 or below where the container does not say
        size = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    if realtime and not fps > 0:
        raise PspnetError(f"{uri} does not say its frame rate, which --realtime needs. Leave --realtime out")

    def frames() -> Iterator[Frame]:
        with _capture(path) as capture:
            count, start = 0, time.monotonic()
            while True:
                if realtime:
                    time.sleep(max(start + count / fps - time.monotonic(), 0))
                arrived, image = capture.read()
                if not arrived:
                    break
                yield _frame(image, uri, count, f"{path.stem}_{count:06d}")
                count += 1
        _check_whole(path, count, promised)

    return Source(path.name, size, fps if fps > 0 else None, promised if promised > 0 else None, False, frames)


def _check_whole(path: Path, count: int, promised: int) -> None:
    slack = max(SLACK_FRAMES, int(SLACK_SHARE * promised))
    if count == 0 or count < promised - slack:
        of = f" of {promised}" if promised > 0 else ""
        raise PspnetError(
            f"clip {path} breaks off: {count}{of} frames were read. Copy it again, or keep what is there with: "
            f"ffmpeg -i {path} -c copy repaired.mkv"
        )


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: the decoder's threads print at any time
    with native_messages_hidden():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise PspnetError(
                f"{path} cannot be opened as a clip (0 frames were read): it is corrupt or of a kind that OpenCV's "
                f"FFmpeg does not read. Convert it with ffmpeg; pictures must end in one of {', '.join(IMAGE_SUFFIXES)}"
            )
        if _is_drawn_text(capture):
            raise PspnetError(
                f"{path} holds text or data, which FFmpeg would draw as characters: give a clip, a folder of pictures "
                "or a photo"
            )
        yield capture
    finally:
        capture.release()


def _is_drawn_text(capture: cv2.VideoCapture) -> bool:
    """Whether FFmpeg took a text for a recorded terminal (codec ansi), or other bytes for one of DOS's text screens.

    Those have no code of four letters and no length, and are drawn in a palette's colours.
    """
    codec, pixels = (int(capture.get(key)) for key in (cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_CODEC_PIXEL_FORMAT))
    if codec == cv2.VideoWriter_fourcc(*"ansi"):  # type: ignore[attr-defined]
        return True
    return codec == 0 and pixels == PALETTE and capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0


def _camera(uri: str, rest: str) -> Source:
    camera = v4l2.open_camera(uri, rest)

    def frames() -> Iterator[Frame]:
        while True:
            image, sequence = camera.read(), camera.count - 1
            yield _frame(image, uri, sequence, f"{camera.device.name}_{sequence:06d}")

    return Source(camera.device.name, camera.size, camera.fps, None, True, frames, camera.capture.release)


def _frame(image: np.ndarray, uri: str, sequence: int, name: str, path: Path | None = None) -> Frame:
    return Frame(image, "bgr", uri, sequence, time.monotonic_ns(), time.time_ns(), name, path)
