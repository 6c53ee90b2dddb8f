"""Recordings of live cameras: JSON lines, label maps as PNG, and video in parts that are whole when they appear."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.live_files import (
    FLOOR_BYTES,
    Lines,
    check_room,
    new_file_of_ours,
    orphan,
    stamp_from_wall,
    stem_of,
    write_classes,
    write_whole,
)
from runtime.live_view import WIDEST, LiveView
from runtime.outlet import Sink
from runtime.overlay import legend
from runtime.record import Record
from runtime.sink import check_video, open_video, writing
from runtime.source import native_messages_hidden
from runtime.view_sink import ViewSink

VIDEO_FPS = 10.0
PART_S = 600.0
LONGEST_GAP_S = 2.0  # that is filled with what was shown last; after half of it NO SIGNAL is due
UNWRITTEN_S = 30.0
"""Seconds of video after which the file must have grown: the encoder reports no error, and keeps 5 s at most."""
WHOLE, PARTIAL, CUT = ".webm", ".partial.webm", ".cut.webm"
"""How files end: a whole part, one that is being written, and what plays of one whose run was killed."""


class JsonlRecording(Sink):
    """One JSON object per record at the end of a file, INVALID ones included; see `Record.as_json`."""

    live = False

    def __init__(self, path: str | Path, floor_bytes: int = FLOOR_BYTES) -> None:
        self._lines, self._floor_bytes = Lines(path), floor_bytes

    def __call__(self, record: Record) -> None:
        """Write one line."""
        check_room(self._lines.path.parent, self._floor_bytes)
        self._lines.append(record.as_json())

    def close(self) -> None:
        """Give the file back."""
        self._lines.close()


class LabelRecording(Sink):
    """DIR/CAMERA/NAME.png for each valid record: 8-bit class indices, 255 unlabelled; DIR/classes.json says which."""

    live = False

    def __init__(
        self, folder: str | Path, spec: NetworkSpec, licence: str = "", floor_bytes: int = FLOOR_BYTES
    ) -> None:
        self._folder, self._floor_bytes = Path(folder), floor_bytes
        write_classes(self._folder, spec, licence)

    def __call__(self, record: Record) -> None:
        """Write one label map."""
        if record.labels is None:
            return
        check_room(self._folder, self._floor_bytes)
        write_whole(self._folder / record.camera / f"{stem_of(record)}.png", record.labels)


class VideoRecording(ViewSink):
    """DIR/CAMERA_TIME.webm, a new one every `part_s` seconds and where the picture changes its size.

    A part is called NAME.partial.webm until it is whole. What a power cut or a kill left of one becomes NAME.cut.webm
    at the next start, where a picture of it plays, and is removed otherwise; parts of a living run stay. fps:
    pictures that come faster are left out, and in gaps the last one stays until NO SIGNAL takes its place.
    """

    live = False
    idle_s: float | None = 0.5

    def __init__(
        self,
        folder: str | Path,
        spec: NetworkSpec,
        fps: float = VIDEO_FPS,
        alpha: float = 0.5,
        widest: int = WIDEST,
        part_s: float = PART_S,
        floor_bytes: int = FLOOR_BYTES,
    ) -> None:
        if not 0.1 <= fps <= 120:
            raise PspnetError(f"video of {fps:g} pictures a second: give 0.1 to 120")
        self._folder, self._spec, self._fps, self._part_s = Path(folder), spec, fps, part_s
        self._floor_bytes = floor_bytes
        super().__init__(LiveView(spec, (), alpha, widest))
        self._parts: dict[str, _Part] = {}
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            trial = self._folder / ".trial.webm"  # an OpenCV without the encoder is found out at the start
            writer = cv2.VideoWriter()
            try:
                open_video(writer, trial, self._folder, fps, (64, 64))
            finally:
                writer.release()
                trial.unlink(missing_ok=True)
        if kept := keep_orphans(self._folder):
            print(f"pspnet: a run that was killed left {', '.join(path.name for path in kept)}", file=sys.stderr)

    def close(self) -> None:
        """Finish all parts; PspnetError where one of them is not whole, after the others are."""
        with contextlib.ExitStack() as stack:
            for camera in list(self._parts):
                stack.callback(self._finish, camera)

    def _show(self, record: Record, now_ns: int) -> None:
        camera = record.camera
        part = self._parts.get(camera)
        if part is not None and not part.due(now_ns):
            return
        if part is None and record.frame is None:
            return  # a part begins with a picture, whose size it has
        check_room(self._folder, self._floor_bytes)
        drawn = self._view.draw(record, record.published_ns)  # how it was then, however late it is drawn
        drawn = drawn[: drawn.shape[0] // 2 * 2, : drawn.shape[1] // 2 * 2]  # the colours are subsampled
        if part is not None and (part.size != drawn.shape[:2] or now_ns - part.started_ns > self._part_s * 1e9):
            self._finish(camera)
            part = None
        if part is None:
            name = f"{camera}_{stamp_from_wall(None)}"
            part = self._parts[camera] = _Part(self._folder, name, self._spec, self._fps, drawn.shape[:2], now_ns)
        try:
            part.write(drawn, now_ns)
        except Exception:
            with contextlib.suppress(PspnetError):  # the first error says more
                self._finish(camera)
            raise

    def _finish(self, camera: str) -> None:
        self._parts.pop(camera).finish()


def keep_orphans(folder: Path) -> list[Path]:
    """Give parts whose writers are dead their last name, and remove those without a picture; returns the former."""
    kept = []
    for partial in sorted(folder.glob(f"*{PARTIAL}")):
        with orphan(partial) as dead, contextlib.suppress(OSError):  # what we have no right to stays as it is
            if dead and _plays(partial):
                kept.append(partial.replace(partial.with_name(partial.name.removesuffix(PARTIAL) + CUT)))
            elif dead:
                partial.unlink()
    return kept


def _plays(path: Path) -> bool:
    """Whether a video has a picture."""
    with native_messages_hidden():
        reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        plays = reader.isOpened() and reader.read()[0]
        reader.release()
    return plays


class _Part:
    """One video file. size: (height, width) of the pictures, without the legend beside them."""

    def __init__(
        self, folder: Path, name: str, spec: NetworkSpec, fps: float, size: tuple[int, ...], now_ns: int
    ) -> None:
        self.size, self.started_ns = tuple(size), now_ns
        self._path, self._partial = folder / f"{name}{WHOLE}", folder / f"{name}{PARTIAL}"
        beside = legend(spec.class_names, spec.palette, size[0])
        self._period_ns = 1e9 / fps
        self._origin_ns, self._written = float(now_ns), 0  # picture number n belongs to origin + n periods
        self._shown = np.hstack([np.zeros((*size, 3), np.uint8), beside])
        self._encode_ns = 0.0
        self._grown_at, self._bytes = 0, 0
        self._writer = cv2.VideoWriter()
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = new_file_of_ours(self._partial)  # before the encoder opens it, so that it is never without
            try:
                open_video(self._writer, self._partial, self._path, fps, self._shown.shape[:2])
            except BaseException:
                self._partial.unlink(missing_ok=True)
                os.close(self._lock)
                raise

    def due(self, now_ns: int) -> bool:
        """Whether the time of the next picture has come."""
        return self._missed(now_ns) >= 0

    def write(self, picture: np.ndarray, now_ns: int) -> None:
        """Encode a picture for its moment, and the last one once more for each moment that was missed.

        No more of those than take half of the time that has passed: an encoder that is too slow must not fall behind
        ever further, so that the video becomes shorter than what it shows.
        """
        missed = max(self._missed(now_ns), 0)
        affordable = missed * self._period_ns / 2 / max(self._encode_ns, 1.0)
        repeats = int(min(missed, affordable, LONGEST_GAP_S * 1e9 / self._period_ns))
        for _ in range(repeats):
            self._encode()
        self._shown[:, : picture.shape[1]] = picture
        self._encode()
        if repeats < missed:
            self._origin_ns = now_ns - (self._written - 1) * self._period_ns
        self._check_growth()

    def finish(self) -> None:
        """Close the file and give it its name; PspnetError where it is not whole."""
        self._writer.release()
        try:
            try:
                check_video(self._partial, self._path)
            except PspnetError:
                self._partial.unlink(missing_ok=True)
                raise
            with writing(self._path):
                self._partial.replace(self._path)
        finally:
            os.close(self._lock)

    def _missed(self, now_ns: int) -> int:
        """How many pictures should be there already; a picture may be half a period early."""
        return round((now_ns - self._origin_ns) / self._period_ns) - self._written

    def _encode(self) -> None:
        begun_ns = time.monotonic_ns()
        self._writer.write(self._shown)
        self._encode_ns += 0.2 * (time.monotonic_ns() - begun_ns - self._encode_ns)
        self._written += 1

    def _check_growth(self) -> None:
        """OSError where the file is gone, PspnetError where it has not grown for long."""
        with writing(self._path):
            size_bytes = self._partial.stat().st_size
        if size_bytes > self._bytes:
            self._bytes, self._grown_at = size_bytes, self._written
        elif (self._written - self._grown_at) * self._period_ns > UNWRITTEN_S * 1e9:
            raise PspnetError(f"cannot write {self._path}: the file does not grow. Is the disk full? See: df -h")
