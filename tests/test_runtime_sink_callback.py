"""Callbacks: every record reaches the user's function, and what is wrong with it is said at the start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pspnet.errors import PspnetError
from runtime.outlet import Outlet, OutletState
from runtime.record import Record
from runtime.sink_callback import CallbackSink, callback_from_text
from tests.live_records import PATIENCE_S, record_of, until

MODULE = """
records = []
def on_record(record):
    records.append((record.sequence, record.valid, record.labels is None))
answer = 42
"""


@pytest.fixture
def brake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    (tmp_path / "brake_of_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "brake_of_test", raising=False)
    return "brake_of_test"


def test_records_reach_the_function_named_on_the_command_line(brake: str) -> None:
    sink = CallbackSink(callback_from_text(f"{brake}:on_record"))
    record = record_of(7)
    sink(record)
    sink(record.invalidated("too old", 0))
    assert sys.modules[brake].records == [(7, True, False), (7, False, True)]


def test_a_function_that_raises_degrades_its_outlet() -> None:
    def bad(record: Record) -> None:
        raise ValueError("steering is gone")

    outlet = Outlet(CallbackSink(bad), "callback")
    outlet.start()
    outlet.offer(record_of(0))
    until(lambda: outlet.status().state is OutletState.DEGRADED)
    assert outlet.status().message == "ValueError: steering is gone"
    outlet.stop(PATIENCE_S)


def test_a_record_may_be_kept() -> None:
    kept: list[Record] = []
    sink = CallbackSink(kept.append)
    for sequence in range(3):
        sink(record_of(sequence))
    assert [record.labels is not None and record.sequence for record in kept] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brake", "write MODULE:FUNCTION"),
        (":f", "write MODULE:FUNCTION"),
        ("a:b c", "write MODULE:FUNCTION"),
        ("no_such_module_here:f", "No module named"),
        ("brake_of_test:absent", "has no function absent"),
        ("brake_of_test:answer", "has no function answer"),
    ],
)
def test_what_is_no_function_is_refused(brake: str, text: str, message: str) -> None:
    with pytest.raises(PspnetError, match=message):
        callback_from_text(text)
