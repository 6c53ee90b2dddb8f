"""Records: figures as numpy computes them, INVALID without labels, a geometry that leads back, and no large memory."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from pspnet.geometry import Geometry
from pspnet.spec import IGNORE
from runtime.frame import Frame, Segmentation
from runtime.record import LOW_CONFIDENCE, json_from_geometry, no_signal, record_from
from tests.live_records import SPEC, record_of, result_of

SMALL_BYTES = 64 * 1024  # of a record's figures; a label map of the test has 2 MB
ATOL = 1e-9  # sums of whole numbers in another order
MAP_ATOL = 1e-9  # pixels; one multiplication and one addition


def test_figures_are_those_of_the_pixels_that_the_network_saw() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, (60, 80), np.uint8)
    labels[generator.random(labels.shape) < 0.1] = IGNORE  # doubtful pixels, which the network did see
    confidence = generator.integers(1, 256, labels.shape).astype(np.uint8)
    labels[:15], confidence[:15] = IGNORE, 0
    result = dataclasses.replace(result_of(size=(60, 80)), labels=labels, confidence=confidence)
    record = record_from(result, SPEC)
    seen = confidence > 0
    assert record.seen == pytest.approx(0.75)
    expected = [(labels[seen] == index).mean() for index in range(3)]
    np.testing.assert_allclose(record.class_shares, expected, rtol=0, atol=ATOL)
    assert record.unlabelled == pytest.approx((labels[seen] == IGNORE).mean(), abs=ATOL)
    assert record.mean_confidence == pytest.approx(confidence[seen].mean() / 255, abs=ATOL)
    assert record.low_confidence == pytest.approx((confidence[seen] < 255 * LOW_CONFIDENCE).mean(), abs=ATOL)
    assert record.drivable == pytest.approx(expected[0], abs=ATOL)


def test_without_confidence_pixels_with_a_class_count() -> None:
    record = record_of()
    # 8 stripes of 8 columns, of which classes 0 and 1 have three each, on three quarters of the rows
    np.testing.assert_allclose(record.class_shares, (3 / 8, 3 / 8, 2 / 8), rtol=0, atol=ATOL)
    assert (record.seen, record.unlabelled) == (0.75, 0.0)
    assert record.mean_confidence is None and record.low_confidence is None


def test_a_picture_without_a_seen_pixel_has_figures_too() -> None:
    result = dataclasses.replace(result_of(confidence=0.0), labels=np.full((48, 64), IGNORE, np.uint8))
    record = record_from(result, SPEC)
    assert record.class_shares == (0, 0, 0) and record.seen == 0 and record.mean_confidence is None
    json.dumps(record.as_json(), allow_nan=False)


def test_drivable_mask_is_made_when_asked_for() -> None:
    record = record_of()
    mask = record.drivable_mask()
    assert mask is not None and record.labels is not None
    np.testing.assert_array_equal(mask, np.where(record.labels == 0, 255, 0))
    out = np.empty_like(mask)
    assert record.drivable_mask(out) is out
    roadless = record_from(result_of(), dataclasses.replace(SPEC, drivable=()))
    assert roadless.drivable_mask() is None and roadless.drivable is None


def test_a_record_allocates_nothing_of_the_size_of_a_frame() -> None:
    result = result_of(size=(1080, 1920), confidence=0.9)
    record_from(result, SPEC)
    tracemalloc.start()
    record_from(result, SPEC, 250.0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < SMALL_BYTES


def test_too_old_is_invalid_and_has_no_labels() -> None:
    record = record_of(age_ms=400, max_age_ms=250)
    assert not record.valid and record.labels is None and record.confidence is None and record.class_shares == ()
    assert "ms old, at most 250 ms" in record.reason and record.frame is not None
    fresh = record_of(age_ms=100, max_age_ms=60_000)
    assert fresh.valid and fresh.labels is not None
    assert fresh.expired(fresh.published_ns + 60_000 * 10**6) and not fresh.expired(fresh.published_ns)


def test_the_age_counts_from_the_sensors_time_also_after_the_publication() -> None:
    record = dataclasses.replace(record_of(max_age_ms=250), captured_ns=10**9, sensor_ns=10**9 - 200_000_000)
    assert record.age_at_ms(10**9 + 40_000_000) == 240 and not record.expired(10**9 + 40_000_000)
    assert record.expired(10**9 + 60_000_000)


def test_an_invalid_result_keeps_its_reason() -> None:
    result = dataclasses.replace(result_of(), valid=False, reason="the camera is frozen")
    record = record_from(result, SPEC, 250)
    assert (record.valid, record.reason, record.labels) == (False, "the camera is frozen", None)
    assert record.as_json()["class_shares"] == {}


def test_no_signal_tells_since_when() -> None:
    first = no_signal("front", SPEC, "no picture yet")
    assert (first.sequence, first.age_ms, first.captured_ns) == (-1, None, None)
    last = record_of(7)
    assert last.captured_ns is not None
    record = no_signal("front", SPEC, "stalled", last, published_ns=last.captured_ns + 1_500_000_000)
    assert (record.sequence, record.age_ms, record.frame, record.labels) == (7, 1500.0, None, None)
    json.dumps([first.as_json(), record.as_json()], allow_nan=False)


def test_json_holds_all_but_the_pictures() -> None:
    result = result_of(5, confidence=0.25)
    frame = dataclasses.replace(result.frame, captured_ns=1_000_000, wall_ns=2_000, sensor_ns=900_000)
    record = record_from(dataclasses.replace(result, frame=frame), SPEC, 250, ("dark",), 21_000_000)
    line = json.loads(json.dumps(record.as_json(), allow_nan=False))
    assert line == {
        "camera": "front", "sequence": 5, "valid": True, "reason": "", "captured_ns": 1_000_000, "wall_ns": 2_000,
        "sensor_ns": 900_000, "published_ns": 21_000_000, "age_ms": 20.1, "max_age_ms": 250, "size": [48, 64],
        "class_shares": line["class_shares"], "unlabelled": 0.25, "seen": 1.0, "drivable": 0.28125,
        "mean_confidence": 0.251, "low_confidence": 1.0, "health": ["dark"], "times_ms": {"infer": 1.235},
        "geometry": line["geometry"],
    }  # fmt: skip
    assert list(line["class_shares"]) == list(SPEC.class_names)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("region", [None, (100, 40, 300, 500)])
def test_geometry_leads_from_camera_to_network_and_back(fit: str, region: tuple[int, int, int, int] | None) -> None:
    geometry = Geometry((480, 640), (96, 192), fit, region)
    told = json.loads(json.dumps(json_from_geometry(geometry)))
    top, left, height, width = region or (0, 0, 480, 640)
    # The middle of what the network looks at is the middle of its picture; rounding to whole pixels moves it by one.
    middle = (top + height / 2, left + width / 2)
    for axis in (0, 1):
        network = middle[axis] * told["scale"][axis] + told["shift"][axis]
        assert abs(network - told["network_size"][axis] / 2) <= 1
        back = (network - told["shift"][axis]) / told["scale"][axis]
        assert back == pytest.approx(middle[axis], abs=MAP_ATOL)
    if fit == "stretch":
        assert told["scale"] == pytest.approx([96 / height, 192 / width])
        assert told["shift"] == pytest.approx([-top * 96 / height, -left * 192 / width])
    assert (told["fit"], told["region"], told["camera_size"]) == (fit, list(region) if region else None, [480, 640])


def test_a_record_does_not_copy_labels() -> None:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), "bgr", "a", 0, 0, 0)
    labels = np.zeros((8, 8), np.uint8)
    assert record_from(Segmentation(frame, labels), SPEC).labels is labels
