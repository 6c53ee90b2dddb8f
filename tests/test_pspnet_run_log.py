"""The record of a run: what TensorBoard finds in it, and that it works without TensorBoard."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet.run_log import RunLog, write_curves

ROWS = [
    {"epoch": n, "loss": 1 / n, "lr": 0.1, "miou": 10.0 * n, "pixel_accuracy": 50.0, "seconds": 1.0, "step_ms": 20.0,
     "data_ms": 2.0} for n in (1, 2)
]  # fmt: skip


def test_events_hold_steps_epochs_and_the_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    with RunLog(tmp_path, 0) as log:
        log.step(1, 0.75, 0.1)
        log.step(2, 0.5, 0.05)
        log.epoch(ROWS, 2, {"street": picture})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.75), (2, 0.5)]
    assert [event.value for event in events.Scalars("val/miou")] == [20.0]
    stored = np.frombuffer(events.Images("val/street")[0].encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1], picture)
    assert [row["miou"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["10.0", "20.0"]
    assert cv2.imread(str(tmp_path / "curves.png")).shape[2] == 3


def test_a_resumed_run_hides_the_events_of_the_steps_it_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, 0) as log:
        for number in range(1, 6):
            log.step(number, float(number), 0.1)
    time.sleep(1.01)  # TensorBoard reads event files in the order of the seconds in their names
    with RunLog(tmp_path, 3) as log:
        log.step(4, 40.0, 0.1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [1.0, 2.0, 3.0, 40.0]


def test_epochs_are_whole_numbers_on_the_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    ticks, save = [], Figure.savefig

    def watched(figure: Figure, *arguments: object, **options: object) -> None:
        save(figure, *arguments, **options)  # type: ignore[arg-type]
        ticks.extend(float(tick) for axis in figure.axes for tick in axis.get_xticks())

    monkeypatch.setattr(Figure, "savefig", watched)
    write_curves(tmp_path / "c.png", ROWS)
    write_curves(tmp_path / "c.png", ROWS[:1])
    assert {1.0, 2.0} <= {*ticks} and all(tick.is_integer() for tick in ticks)


def test_without_tensorboard_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with RunLog(tmp_path, 0) as log:
        log.step(1, 0.5, 0.1)
        log.epoch(ROWS, 1, {})
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "pip install 'pspnet-edge[train]'" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]
