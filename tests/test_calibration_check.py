"""The gate: an INT8 graph that is worse or slower than the float one is named so."""

from __future__ import annotations

import pytest

from calibration import check
from calibration.confirm import judges_of
from calibration.search import Budget
from calibration.sensitivity import mixed
from calibration.timing import ROUNDS, Times, interleaved
from tests import outlier_net


def fake_times(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    ms = {name: {"median": value, "low": value, "high": value} for name, value in (("float", 8.0), ("int8", 8 * ratio))}
    ratios = {"float": {"median": 1.0}, "int8": {"median": ratio, "low": ratio, "high": ratio}}
    monkeypatch.setattr(check, "interleaved", lambda *_, **__: Times("openvino", ms, ratios, 3))


def test_worse_and_slower_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = outlier_net.network("third")
    judge, int8 = outlier_net.judge_of(model, engine="openvino"), mixed(model, outlier_net.ranges(model), ())
    fake_times(monkeypatch, 1.25)
    found = check.checked(model, int8, judges_of(judge), quiet=True)
    assert len(found["warnings"]) == 2 and "worse than float: mIoU" in found["warnings"][0]
    assert "slower than float here: 10.0 ms against 8.0 ms on openvino" in found["warnings"][1]
    held_out = found["held_out"]
    assert held_out["loss"] == held_out["float"] - held_out["int8"] > 1 and held_out["images"] == 6
    text = check.text_of(found)
    assert text.count("WARNING: ") == 2 and "0.80 times as fast" in text and "6 images of blobs" in text


def test_good_and_fast_has_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    model = outlier_net.network("third")
    judge, mix = outlier_net.judge_of(model, engine="openvino"), mixed(model, outlier_net.ranges(model), ["third"])
    fake_times(monkeypatch, 0.5)
    found = check.checked(model, mix, judges_of(judge), Budget(15, {}), quiet=True)
    assert found["warnings"] == [] and "2.00 times as fast" in check.text_of(found)
    assert "WARNING" not in check.text_of(found)


def test_a_simulation_is_not_timed() -> None:
    model = outlier_net.network("third")
    judge = outlier_net.judge_of(model, labelled=False)
    found = check.checked(model, mixed(model, outlier_net.ranges(model), ()), judges_of(judge), quiet=True)
    assert found["speed"] == "not measured" and "speed: not measured" in check.text_of(found)
    assert "agreement with FP32" in check.text_of(found) and "agreement with FP32" in found["warnings"][0]


def test_times_take_turns_and_state_their_ratio() -> None:
    model = outlier_net.network(None)
    variants = {"float": model, "int8": mixed(model, outlier_net.ranges(model), ())}
    times = interleaved(variants, outlier_net.inputs(), "openvino", 1, seconds=0.2, quiet=True)
    assert list(times.ms) == ["float", "int8"] and times.engine == "openvino" and ROUNDS >= 7
    assert times.ratio_to_first["float"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert all(0 < interval["low"] <= interval["median"] <= interval["high"] for interval in times.ms.values())
    assert times.facts()["machine"]["cpu"]
