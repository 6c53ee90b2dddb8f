"""What viewers see: the overlay of the offline sinks, and never the last picture where it must not be believed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pspnet.errors import PspnetError
from pspnet.spec import IGNORE
from runtime import frame_code, yuv
from runtime.live_view import DIMMED, EMPTY_LEVEL, SHOWN_AGAIN_NS, SILENT_NS, LiveView
from runtime.record import Record, no_signal, record_from
from tests.live_records import SPEC, record_of, result_of

ROUNDING = 1.0  # grey levels; blending rounds once
YUV_LEVELS = 3.0  # rounding to Y, U and V and back
SECOND_NS = 10**9


def drawn(view: LiveView, record: Record, now_ns: int | None = None) -> np.ndarray:
    """The picture of a record at a moment."""
    now_ns = record.published_ns if now_ns is None else now_ns
    view.note(record, now_ns)
    return view.draw(record, now_ns)


def blend_of(record: Record, alpha: float) -> np.ndarray:
    """(H, W, 3) float64 by the definition of a blend."""
    assert record.frame is not None and record.labels is not None
    picture = record.frame.image.astype(np.float64)
    colours = np.array([(b, g, r) for r, g, b in SPEC.palette], np.float64)
    seen = record.labels != IGNORE
    picture[seen] = (1 - alpha) * picture[seen] + alpha * colours[record.labels[seen]]
    return picture


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_labels_lie_over_the_picture(alpha: float) -> None:
    record = record_of(size=(240, 320))
    picture = drawn(LiveView(SPEC, alpha=alpha), record)
    upper = slice(0, 200)  # the caption is below
    assert np.abs(picture[upper] - blend_of(record, alpha)[upper]).max() <= ROUNDING
    assert record.frame is not None and (record.frame.image == 90).all()  # nothing is drawn into the frame itself


@pytest.mark.parametrize("layout", ["rgb", "grey", "nv12", "yuyv"])
def test_any_format_is_shown(layout: str) -> None:
    result = result_of(size=(240, 320))
    images = {
        "rgb": np.full((240, 320, 3), 90, np.uint8),
        "grey": np.full((240, 320), 90, np.uint8),
        "nv12": np.concatenate([np.full((240, 320), 90, np.uint8), np.full((120, 320), 128, np.uint8)]),
        "yuyv": np.dstack([np.full((240, 320), 90, np.uint8), np.full((240, 320), 128, np.uint8)]),
    }
    full = layout in yuv.FORMATS
    frame = dataclasses.replace(result.frame, image=images[layout], format=layout, full_range=full)
    record = record_from(dataclasses.replace(result, frame=frame), SPEC)
    picture = drawn(LiveView(SPEC), record)
    expected = blend_of(record_of(size=(240, 320)), 0.5)
    assert np.abs(picture[:200] - expected[:200]).max() <= YUV_LEVELS


def test_wide_pictures_are_made_smaller() -> None:
    assert drawn(LiveView(SPEC, widest=320), record_of(size=(480, 640))).shape == (240, 320, 3)
    assert drawn(LiveView(SPEC, widest=320), record_of(size=(100, 200))).shape == (100, 200, 3)


def test_an_invalid_record_is_dim_under_a_red_band() -> None:
    fresh = record_of(size=(240, 320), max_age_ms=250)
    view = LiveView(SPEC)
    shown = drawn(view, fresh)
    for stale, now_ns in (
        (fresh.invalidated("the camera is frozen", fresh.published_ns), fresh.published_ns),
        (fresh, fresh.published_ns + SECOND_NS),  # valid once, too old when it is drawn
    ):
        picture = drawn(view, stale, now_ns)
        assert picture.shape == shown.shape
        assert np.abs(picture[:40].astype(float) - 90 * DIMMED).max() <= ROUNDING
        band = picture[120, :8].astype(int)
        assert (band[:, 2] > band[:, 0] + 80).all()  # red


def test_no_signal_keeps_nothing_of_the_last_picture() -> None:
    view = LiveView(SPEC)
    last = record_of(size=(240, 320))
    drawn(view, last)
    picture = drawn(view, no_signal("front", SPEC, "the camera is stalled", last))
    assert picture.shape == (240, 320, 3)
    outside = np.r_[0:90, 150:240]
    assert (picture[outside] == EMPTY_LEVEL).all() and (picture[90:150] > 200).any()


def test_silence_shows_as_no_signal_for_each_camera_by_itself() -> None:
    view = LiveView(SPEC, ["front", "rear"])
    record = record_of(3, max_age_ms=250)
    begin_ns = record.published_ns
    view.note(record, begin_ns)
    [never] = view.overdue(begin_ns)
    assert (never.camera, never.reason, never.valid) == ("rear", "no picture yet", False)
    view.draw(never, begin_ns)
    assert view.overdue(begin_ns + SHOWN_AGAIN_NS // 2) == []
    late_ns = begin_ns + SILENT_NS + SECOND_NS // 2
    silent = {overdue.camera: overdue for overdue in view.overdue(late_ns)}
    assert set(silent) == {"front", "rear"}
    assert silent["front"].frame is None and "nothing published for 1.5 s" in silent["front"].reason
    assert silent["front"].captured_ns == record.captured_ns
    view.draw(silent["front"], late_ns)
    assert "front" not in {overdue.camera for overdue in view.overdue(late_ns + SHOWN_AGAIN_NS // 2)}
    assert "front" in {overdue.camera for overdue in view.overdue(late_ns + 2 * SHOWN_AGAIN_NS)}
    view.note(record_of(4), late_ns)
    assert "front" not in {overdue.camera for overdue in view.overdue(late_ns + SHOWN_AGAIN_NS)}


def test_a_view_keeps_no_record() -> None:
    view, record = LiveView(SPEC), record_of()
    view.note(record, record.published_ns)
    kept = view._cameras["front"].record
    assert kept.labels is None and kept.frame is None


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("size", [(180, 240), (720, 1280), (1080, 1920)])
def test_a_frame_code_stays_readable_under_labels_and_when_stale(alpha: float, size: tuple[int, int]) -> None:
    result = result_of(12345, size, level=60)
    assert frame_code.draw(result.frame.image, 12345)
    result.labels[:] = np.random.default_rng(0).integers(0, 3, size)  # the worst network: another class each pixel
    record = record_from(result, SPEC, health=("dark", "one class"))
    view = LiveView(SPEC, alpha=alpha)
    assert frame_code.decode(drawn(view, record)) == 12345
    assert frame_code.decode(drawn(view, record.invalidated("frozen", record.published_ns))) == 12345


def test_wrong_alpha_is_refused() -> None:
    with pytest.raises(PspnetError, match="alpha is 2"):
        LiveView(SPEC, alpha=2.0)
