"""--select: doubtful frames as a data set that trains once its labels are corrected, slowly and while there is room."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.image import read_labels
from runtime.outlet import Outlet, OutletState
from runtime.record import Record
from runtime.sink_select import SelectSink
from tests.live_records import PATIENCE_S, SPEC, record_of, until

LOSSY_LEVELS = 3.0  # of an even picture as JPEG of quality 95
SECOND_NS = 10**9


def record_at(second: float, doubtful: float = 1.0, camera: str = "front", sequence: int = 0) -> Record:
    """A record captured at a second of the monotonic clock, with so large a share of doubtful pixels."""
    record = record_of(sequence, camera=camera, confidence=0.9)
    captured_ns = int((1000 + second) * SECOND_NS)
    return dataclasses.replace(
        record, captured_ns=captured_ns, wall_ns=captured_ns, low_confidence=doubtful, published_ns=captured_ns
    )


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "images").iterdir()) if (folder / "images").exists() else []


def test_doubtful_frames_become_a_data_set_that_further_runs_add_to(tmp_path: Path) -> None:
    folder = tmp_path / "hard"
    for run in range(2):
        sink = SelectSink(folder, SPEC, "a licence", share=0.2, per_minute=60, floor_bytes=0)
        for second in range(4):
            for camera in ("front", "rear"):
                sink(record_at(100 * run + second, 0.3, camera, second))
        sink.close()
    dataset = open_dataset("folder", folder, "all")
    assert len(dataset) == 16 and dataset.classes.names == SPEC.class_names
    assert (dataset.classes.drivable, dataset.classes.licence) == ((0,), "a licence")
    lines = [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines[:2]] == [
        "front_19700101T001640.000Z_000000",
        "rear_19700101T001640.000Z_000000",
    ]
    assert all(line["labels"] == "predicted" and line["low_confidence"] == 0.3 for line in lines)
    for image, labels in zip(dataset.images, dataset.labels, strict=True):
        sequence = int(image.stem[-6:])
        np.testing.assert_array_equal(read_labels(labels), record_of(sequence).labels)
    assert np.abs(dataset.read(0)[0].astype(float) - 90).max() <= LOSSY_LEVELS
    assert len(open_dataset("folder", folder, "train")) == 15 and len(open_dataset("folder", folder, "val")) == 1


def test_sure_and_invalid_frames_are_left_alone(tmp_path: Path) -> None:
    sink = SelectSink(tmp_path, SPEC, share=0.2, floor_bytes=0)
    sink(record_at(0, 0.19))
    sink(record_at(1, 1.0).invalidated("too old", 0))
    assert names_in(tmp_path) == []
    sink(record_at(2, 0.2))
    assert len(names_in(tmp_path)) == 1


def test_the_rate_is_limited_for_each_camera(tmp_path: Path) -> None:
    sink = SelectSink(tmp_path, SPEC, per_minute=6, floor_bytes=0)
    for tick in range(300):  # ten pictures a second, for half a minute
        sink(record_at(tick / 10, sequence=tick))
    sink(record_at(0.5, camera="rear"))
    times = [name.split("_")[1] for name in names_in(tmp_path) if name.startswith("front")]
    assert times == ["19700101T001640.000Z", "19700101T001650.000Z", "19700101T001700.000Z"]
    assert sum(name.startswith("rear") for name in names_in(tmp_path)) == 1


def test_what_could_not_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = SelectSink(tmp_path, SPEC, per_minute=6, floor_bytes=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(PspnetError, match="No space left"):
        patch.setattr("runtime.live_files.os.replace", full)
        sink(record_at(0))
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["classes.json", "selected.jsonl"]  # and no part of a pair
    sink(record_at(0.1))
    assert len(names_in(tmp_path)) == 1


def test_the_floor_of_the_disk_degrades_the_outlet(tmp_path: Path) -> None:
    outlet = Outlet(SelectSink(tmp_path, SPEC, floor_bytes=1 << 60), "select")
    assert outlet.wants == {"picture", "confidence"}
    outlet.start()
    outlet.offer(record_at(0))
    until(lambda: outlet.status().state is OutletState.DEGRADED)
    assert "are kept free" in outlet.status().message
    assert outlet.stop(PATIENCE_S).state is OutletState.STOPPED and names_in(tmp_path) == []


def test_results_without_confidence_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match="no confidence to select"):
        SelectSink(tmp_path, SPEC, floor_bytes=0)(record_of(0))


@pytest.mark.parametrize(
    ("options", "message"), [({"share": 0.0}, "share of doubtful"), ({"per_minute": 0}, "a minute")]
)
def test_wrong_settings_are_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(PspnetError, match=message):
        SelectSink(tmp_path, SPEC, **options)  # type: ignore[arg-type]


def test_a_data_set_of_other_classes_is_refused(tmp_path: Path) -> None:
    SelectSink(tmp_path, SPEC).close()
    with pytest.raises(PspnetError, match="labels of other classes"):
        SelectSink(tmp_path, dataclasses.replace(SPEC, class_names=("a", "b", "c")))
