"""Sinks of labels: a folder data set, a video with the labels over the picture, JSON lines, or nothing.

A sink is a context manager that is called with one Segmentation after another. Entering it fails where the output
cannot be written; leaving it makes the output appear, whole, and an error or Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.files import atomic_folder, atomic_path, write_json
from pspnet.geometry import Geometry
from pspnet.spec import IGNORE, NetworkSpec
from runtime.frame import Segmentation
from runtime.overlay import blend, legend
from runtime.source import native_messages_hidden

JPEG_QUALITY = 95
WIDEST_VIDEO = 960
PICTURES_PER_SECOND = 1.0
# OpenCV gives no way to set libvpx's speed. At its defaults and equal bit rate and PSNR, a frame of 960x540 took VP9
# 255 ms and VP8 50 ms of one core: VP9 would cost more than the network. Browsers that play one in WebM play both.
CODEC = "VP80"


class Sink(Protocol):
    """What the pipeline calls with every result, in order."""

    def __enter__(self) -> Sink: ...

    def __call__(self, result: Segmentation) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Output:
    """An output whose parts are entered on a stack and left, in reverse order, with the same outcome."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class NullSink:
    """Takes every result and keeps none."""

    def __enter__(self) -> NullSink:
        return self

    def __call__(self, result: Segmentation) -> None:
        """Nothing happens."""

    def __exit__(self, *_: object) -> None: ...


class FolderSink(_Output):
    """A `folder` data set: images/, labels/ (8-bit PNG, 255 = unlabelled) and classes.json.

    A picture from disk is copied byte for byte; a video frame becomes a JPEG of quality 95. A name that is taken gets a
    number. licence: goes into classes.json.
    """

    def __init__(self, folder: str | Path, spec: NetworkSpec, licence: str) -> None:
        super().__init__()
        self._target, self._spec, self._licence = Path(folder), spec, licence
        self._stems: set[str] = set()

    def __enter__(self) -> FolderSink:
        self._folder = self._stack.enter_context(atomic_folder(self._target))
        with contextlib.ExitStack() as undo:
            undo.push(self._stack)
            with writing(self._target):
                for part in ("images", "labels"):
                    (self._folder / part).mkdir()
            write_json(self._folder / "classes.json", classes_json(self._spec, self._licence))
            undo.pop_all()
        return self

    def __call__(self, result: Segmentation) -> None:
        """Write one pair."""
        frame = result.frame
        name = Path(frame.name or f"{frame.sequence:06d}")
        stem = self._free_stem(name.stem if frame.path else name.name)
        images = self._folder / "images"
        with writing(self._target):
            if frame.path:
                shutil.copyfile(frame.path, images / f"{stem}{name.suffix}")
            else:
                write_encoded(images / f"{stem}.jpg", frame.bgr(), cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            write_encoded(self._folder / "labels" / f"{stem}.png", result.labels)

    def _free_stem(self, stem: str) -> str:
        # Labels are named by the stem alone, and some file systems do not tell A from a.
        free, number = stem, 1
        while free.casefold() in self._stems:
            number += 1
            free = f"{stem}_{number}"
        self._stems.add(free.casefold())
        return free


class VideoSink(_Output):
    """A WebM video (VP8) of the labels over the picture, with the legend beside it; at most 960 pixels wide without it.

    fps: of the video. alpha: 0 shows the picture, 1 the colours. Frames of another size are fitted into the first's.
    """

    def __init__(self, path: str | Path, spec: NetworkSpec, fps: float, alpha: float = 0.5) -> None:
        super().__init__()
        self._target, self._spec, self._fps, self._alpha = Path(path), spec, fps, alpha
        self._size: tuple[int, int] | None = None
        self._legend = np.empty((0, 0, 3), np.uint8)
        self._writer = cv2.VideoWriter()
        if self._target.suffix.lower() != ".webm":
            raise PspnetError(f"video {path} is not WebM, the format of this version: give --video NAME.webm")
        _check_alpha(alpha)

    def __enter__(self) -> VideoSink:
        self._temporary = self._stack.enter_context(atomic_path(self._target))
        self._stack.push(self._finish)
        with contextlib.ExitStack() as undo:
            undo.push(self._stack)
            self._open((64, 64))  # a build of OpenCV without the encoder is found out before the first frame
            undo.pop_all()
        return self

    def __call__(self, result: Segmentation) -> None:
        """Draw and encode one frame."""
        bgr, labels = result.frame.bgr(), result.labels
        if self._size is None:
            self._size = _video_size(bgr.shape[0], bgr.shape[1])
            self._legend = legend(self._spec.class_names, self._spec.palette, self._size[0])
            self._open((self._size[0], self._size[1] + self._legend.shape[1]))
        if bgr.shape[:2] != self._size:
            bgr, labels = _fitted(bgr, labels, self._size)
        self._writer.write(np.hstack([blend(bgr, labels, self._spec.palette, self._alpha), self._legend]))

    def _open(self, size: tuple[int, int]) -> None:
        open_video(self._writer, self._temporary, self._target, self._fps, size)

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.release()
        if kind is None and self._size is not None:
            check_video(self._temporary, self._target)


class JsonlSink(_Output):
    """One JSON object per line and frame: where it comes from, when it was captured, times and class area shares.

    area: share of the picture per class name, 0..1; unlabelled: the share without a class.
    """

    def __init__(self, path: str | Path, spec: NetworkSpec) -> None:
        super().__init__()
        self._target, self._spec = Path(path), spec

    def __enter__(self) -> JsonlSink:
        temporary = self._stack.enter_context(atomic_path(self._target))
        self._file: IO[str] = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        return self

    def __call__(self, result: Segmentation) -> None:
        """Write one line."""
        frame, classes = result.frame, self._spec.classes
        shares = np.bincount(result.labels.ravel(), minlength=IGNORE + 1) / result.labels.size
        line = {
            "source": frame.source, "sequence": frame.sequence, "name": frame.name, "size": list(frame.size),
            "captured_ns": frame.captured_ns, "wall_ns": frame.wall_ns,
            "times_ms": {stage: round(value, 3) for stage, value in result.times_ms.items()},
            "area": dict(zip(self._spec.class_names, shares[:classes].tolist(), strict=True)),
            "unlabelled": float(shares[classes:].sum()),
        }  # fmt: skip
        with writing(self._target):
            self._file.write(json.dumps(line) + "\n")


def open_sinks(
    folder: str | None,
    video: str | None,
    jsonl: str | None,
    spec: NetworkSpec,
    licence: str,
    fps: float | None,
    alpha: float,
) -> list[Sink]:
    """The sinks of the outputs that are given. fps: of the video; None (pictures) shows each for a second."""
    check_outside(folder, video, jsonl)
    _check_alpha(alpha)
    sinks: list[Sink] = []
    if folder:
        sinks.append(FolderSink(folder, spec, licence))
    if video:
        sinks.append(VideoSink(video, spec, fps or PICTURES_PER_SECOND, alpha))
    if jsonl:
        sinks.append(JsonlSink(jsonl, spec))
    return sinks or [NullSink()]


def check_outside(folder: str | None, *files: str | None) -> None:
    """PspnetError where a file lies in the folder that becomes a data set."""
    for file in filter(None, files):
        if folder and Path(folder).resolve() in Path(file).resolve().parents:
            raise PspnetError(f"{file} lies in {folder}, which becomes a data set: write it beside that folder")


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise PspnetError(f"alpha is {alpha:g}: it must be 0 (picture) to 1 (colours). Set it with --alpha")


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Names the output in what the system says: the pipeline holds several of them open at once."""
    try:
        yield
    except OSError as error:
        raise PspnetError(
            f"cannot write {target}: {error.strerror or error}. Free space or choose another place"
        ) from error


def write_encoded(path: Path, image: np.ndarray, *options: int) -> None:
    """Write a picture in the format of the suffix; OSError where the system refuses, as `Path.write_bytes`."""
    path.write_bytes(cv2.imencode(path.suffix, image, list(options))[1].tobytes())


def open_video(writer: cv2.VideoWriter, path: Path, target: str | Path, fps: float, size: tuple[int, int]) -> None:
    """Open a WebM of (height, width) at `path`; PspnetError names `target`, what the user asked for."""
    code = cv2.VideoWriter_fourcc(*CODEC)  # type: ignore[attr-defined]
    with native_messages_hidden():
        writer.open(str(path), cv2.CAP_FFMPEG, code, fps, (size[1], size[0]))
    if not writer.isOpened():
        raise PspnetError(
            f"OpenCV cannot write {target} with {CODEC}: it needs FFmpeg with libvpx, as in "
            "pip install opencv-python. Or leave out --video"
        )


def check_video(path: Path, target: str | Path) -> None:
    """PspnetError where a video is not whole: the writer reports no error, and a full disk would go unnoticed."""
    with native_messages_hidden():
        reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    whole = reader.isOpened() and reader.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    reader.release()
    if not whole:
        raise PspnetError(f"cannot write {target}: the video is incomplete. Is the disk full? See: df -h")


def classes_json(spec: NetworkSpec, licence: str) -> dict[str, object]:
    """What classes.json of a `folder` data set holds for the classes of a network."""
    return {
        "classes": list(spec.class_names),
        "ignore_index": IGNORE,
        "colours_rgb": {name: list(colour) for name, colour in zip(spec.class_names, spec.palette, strict=True)},
        "drivable": [spec.class_names[index] for index in spec.drivable],
        "licence": licence,
    }


def _video_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the picture in the video: at most WIDEST_VIDEO wide, and even for its subsampled colours."""
    scale = min(WIDEST_VIDEO / width, 1.0)
    return max(round(height * scale) // 2 * 2, 2), max(round(width * scale) // 2 * 2, 2)


def _fitted(bgr: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture and labels at `size`, with black, unlabelled borders where the aspect is another."""
    rows, columns = bgr.shape[:2]
    same_aspect = _video_size(rows, columns) == size
    geometry = Geometry((rows, columns), size, "stretch" if same_aspect else "letterbox")
    (top, left), (height, width) = geometry.offset, geometry.resized
    smooth = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    out_bgr, out_labels = np.zeros((*size, 3), np.uint8), np.full(size, IGNORE, np.uint8)
    inside = slice(top, top + height), slice(left, left + width)
    out_bgr[inside] = cv2.resize(bgr, (width, height), interpolation=smooth)
    out_labels[inside] = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    return out_bgr, out_labels
