"""What a viewer of a live camera is shown: the labels over the picture, or that there is nothing to be believed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pspnet.drawing import FONT, drawable
from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime import yuv
from runtime.overlay import blend
from runtime.record import Record, no_signal, stale_reason

WIDEST = 960
SILENT_NS = 1_000_000_000
"""Nothing published for so long: whoever should have done it hangs, and the last picture must not stay."""

SHOWN_AGAIN_NS = 500_000_000
DIMMED = 0.35  # of the brightness, of a picture that is too old
EMPTY_SIZE, EMPTY_LEVEL = (360, 640), 24
BAND, LETTERS, CAPTION, WARNING, EDGE = (
    (36, 28, 168),
    (255, 255, 255),
    (236, 234, 232),
    (60, 180, 255),
    (0, 0, 0),
)  # BGR
BAND_SHARE = 0.16  # of the height


@dataclass
class _Shown:
    """One camera: its last record without pictures, when it came, when one was last drawn, and memory."""

    record: Record
    came_ns: int
    drawn_ns: int = 0
    size: tuple[int, int] = EMPTY_SIZE
    bgr: np.ndarray | None = None
    scratch: yuv.Scratch = field(default_factory=yuv.Scratch)


class LiveView:
    """Pictures of cameras as viewers see them. alpha: 0 shows the picture, 1 the colours. widest: of the result.

    cameras: those of which something is shown before their first record. For one thread.
    """

    def __init__(
        self, spec: NetworkSpec, cameras: Sequence[str] = (), alpha: float = 0.5, widest: int = WIDEST
    ) -> None:
        if not 0 <= alpha <= 1:
            raise PspnetError(f"alpha is {alpha:g}: it must be 0 (picture) to 1 (colours). Set it with --alpha")
        self._spec, self._alpha, self._widest = spec, alpha, widest
        now_ns = time.monotonic_ns()
        first = [no_signal(name, spec, "no picture yet", published_ns=now_ns) for name in cameras]
        self._cameras = {record.camera: _Shown(record, now_ns - SILENT_NS) for record in first}

    def note(self, record: Record, now_ns: int) -> None:
        """A record was published, whether it is drawn or not."""
        bare = no_signal(record.camera, record.spec, record.reason, record, record.health, record.published_ns)
        shown = self._cameras.setdefault(record.camera, _Shown(bare, now_ns))
        shown.record, shown.came_ns = bare, now_ns

    def overdue(self, now_ns: int) -> list[Record]:
        """What to draw, twice a second, of cameras of which nothing has been published for a second."""
        records = []
        for name, shown in self._cameras.items():
            silent_ns, last = now_ns - shown.came_ns, shown.record
            if silent_ns > SILENT_NS and now_ns - shown.drawn_ns > SHOWN_AGAIN_NS:
                never = last.captured_ns is None
                reason = last.reason if never else f"nothing published for {silent_ns / 1e9:.1f} s"
                records.append(no_signal(name, last.spec, reason, last, (), now_ns))
        return records

    def draw(self, record: Record, now_ns: int) -> np.ndarray:
        """(h, w, 3) uint8 BGR of a record that was noted: labels over the picture; dimmed under a banner STALE where it
        is INVALID or has expired; NO SIGNAL where it has no picture."""
        shown = self._cameras[record.camera]
        shown.drawn_ns = now_ns
        if record.frame is None:
            empty = np.full((*shown.size, 3), EMPTY_LEVEL, np.uint8)
            return _with_banner(empty, "NO SIGNAL", record.reason, record, now_ns)
        small = self._small(shown, record)
        if record.labels is None or record.expired(now_ns):
            reason = record.reason or stale_reason(record, now_ns)
            return _with_banner(cv2.convertScaleAbs(small, alpha=DIMMED), "STALE", reason, record, now_ns)
        labels = cv2.resize(record.labels, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST)
        return _with_caption(blend(small, labels, record.spec.palette, self._alpha), record, now_ns)

    def _small(self, shown: _Shown, record: Record) -> np.ndarray:
        """The picture at the size of the result, in memory of the camera or in the frame's own."""
        frame = record.frame
        assert frame is not None
        height, width = frame.size
        if frame.format != "bgr" and (shown.bgr is None or shown.bgr.shape[:2] != (height, width)):
            shown.bgr = np.empty((height, width, 3), np.uint8)
        bgr = frame.bgr(shown.bgr, shown.scratch)
        scale = min(self._widest / width, 1.0)
        shown.size = max(round(height * scale), 1), max(round(width * scale), 1)
        if scale == 1:
            return bgr
        return cv2.resize(bgr, (shown.size[1], shown.size[0]), interpolation=cv2.INTER_AREA)


def _with_banner(picture: np.ndarray, title: str, reason: str, record: Record, now_ns: int) -> np.ndarray:
    """A band across the middle, so that a glance from afar tells. Written into `picture`, which is returned."""
    height, width = picture.shape[:2]
    band = max(round(height * BAND_SHARE), 24)
    top = (height - band) // 2
    cv2.rectangle(picture, (0, top), (width, top + band), BAND, cv2.FILLED)
    age_ms = record.age_at_ms(now_ns)
    age = "" if age_ms is None else f"  {age_ms / 1e3:.1f} s old" if record.frame else f"  for {age_ms / 1e3:.1f} s"
    _line(picture, title + age, (width // 2, top + round(band * 0.55)), band * 0.5, LETTERS, 0.5)
    _line(picture, f"{record.camera}: {reason}", (width // 2, top + round(band * 0.88)), band * 0.22, LETTERS, 0.5)
    return picture


def _with_caption(picture: np.ndarray, record: Record, now_ns: int) -> np.ndarray:
    """Camera, number, age and health in the lower left; the upper left belongs to frame codes."""
    high = max(picture.shape[0] * 0.035, 9.0)
    lines = [(f"{record.camera}  #{record.sequence}  {record.age_at_ms(now_ns) or 0:.0f} ms", CAPTION)]
    if record.health:
        lines.insert(0, (", ".join(record.health), WARNING))
    for place, (text, colour) in enumerate(reversed(lines)):
        bottom = picture.shape[0] - round(high * (0.5 + 1.5 * place))
        _line(picture, text, (round(high * 0.5), bottom), high, colour, backed=True)
    return picture


def _line(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    high: float,
    colour: tuple[int, int, int],
    align: float = 0.0,
    backed: bool = False,
) -> None:
    """A line of text, at most as wide as the picture. at: (x, bottom); high: of its letters with room above, in pixels.

    backed: the picture is darkened behind it.
    """
    text, scale = drawable(text), high / 32
    thick = max(round(scale * 1.6), 1)
    wide = cv2.getTextSize(text, FONT, scale, thick)[0][0]
    room = picture.shape[1] - 8
    if wide > room:
        scale, wide = scale * room / wide, room
    left, bottom = max(round(at[0] - align * wide), 4), at[1]
    if backed:
        margin = round(high * 0.3)
        behind = picture[max(bottom - round(high) - margin // 2, 0) : bottom + margin, : left + wide + margin]
        behind[:] = behind // 3
    cv2.putText(picture, text, (left, bottom), FONT, scale, colour, thick, cv2.LINE_AA)
