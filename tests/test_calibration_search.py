"""The search finds exactly the layer that was made sensitive, honours floors, and its front is Pareto."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration import front
from calibration.confirm import judges_of
from calibration.rates import RATES
from calibration.score import Judge
from calibration.search import Budget, Search, budget_from_text, search
from calibration.sensitivity import Sensitivity, mixed
from calibration.timing import Times
from pspnet.errors import PspnetError
from pspnet.files import write_json
from runtime.ort import session_from_model
from tests import outlier_net

RATE = RATES["cpu-vnni"]


def searched(sensitive: str, max_drop: float, floors: dict[str, float] | None = None, **more: object) -> Search:
    model = outlier_net.network(sensitive)
    budget = Budget(max_drop, floors or {})
    judge = outlier_net.judge_of(model)
    return search(model, outlier_net.ranges(model), judge, budget, RATE, quiet=True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("sensitive", ["second", "third", "fourth"])
def test_the_search_leaves_exactly_the_outlier_layer_in_float(sensitive: str) -> None:
    found = searched(sensitive, 15.0)
    assert found.mixes[0].float_layers == () and found.mixes[0].loss > 15
    assert found.best.float_layers == (sensitive,) and found.best.loss <= 15


def test_all_int8_is_taken_at_once_where_it_keeps_the_budget() -> None:
    found = searched("third", 100.0)
    assert found.best.float_layers == () and len(found.mixes) == 1 and found.rows == []


def test_a_layer_that_went_back_in_vain_returns_to_int8() -> None:
    wrong = {"first": 1e6, "third": 50.0, "second": 1.0, "fourth": 1.0}  # the search is told that "first" is worst
    rows = [Sensitivity(name, 0.0, wrong[name], 0.0, 1) for name in outlier_net.LAYERS]
    found = searched("third", 15.0, rows=rows)
    tried = [mix.float_layers for mix in found.mixes]
    assert tried[1] == ("first",) and any({"first", "third"} <= set(layers) for layers in tried)
    assert found.best.float_layers == ("third",)


def iou_losses(sensitive: str, float_layers: tuple[str, ...]) -> dict[str, float]:
    """Points of IoU that a mix loses per class, counted anew."""
    model = outlier_net.network(sensitive)
    graph = mixed(model, outlier_net.ranges(model), float_layers)
    pictures = np.concatenate(outlier_net.inputs())
    truth, got = (session_from_model(m, 1).run(["logits"], {"image": pictures})[0].argmax(1) for m in (model, graph))
    return {
        name: 100 - 100 * ((truth == c) & (got == c)).sum() / ((truth == c) | (got == c)).sum()
        for c, name in enumerate(outlier_net.spec().class_names)
    }


def test_a_class_floor_is_honoured() -> None:
    before = iou_losses("third", ())
    worst = max(before, key=lambda name: before[name])
    assert before[worst] > 20
    free = searched("third", 100.0)
    assert free.best.float_layers == ()
    found = searched("third", 100.0, {worst: 15.0})
    assert found.best.float_layers == ("third",) and iou_losses("third", found.best.float_layers)[worst] <= 15
    assert any(worst in line for line in found.mixes[0].missed)


def test_a_budget_that_nothing_keeps_is_refused() -> None:
    model = outlier_net.network("third")
    judge = outlier_net.judge_of(model)
    with pytest.raises(PspnetError, match="no mix of INT8 and float keeps the budget: mIoU loses"):
        search(model, outlier_net.ranges(model), judge, Budget(0.0, {}), RATE, quiet=True)


@pytest.mark.parametrize(
    ("floors", "words"),
    [(["Sky=1", "Car=1", "Sky=2"], "Sky twice"),
     (["Pedestrian"], "CLASS=POINTS"), (["=1"], "CLASS=POINTS"), (["Sky=much"], "CLASS=POINTS"),
     (["Moon=1"], "no such class"), (["Sky=-1"], "budget of -1 points"), (["Sky=nan"], "budget of nan points")],
)  # fmt: skip
def test_bad_floors_are_refused(floors: list[str], words: str) -> None:
    judge = outlier_net.judge_of(outlier_net.network(None))
    with pytest.raises(PspnetError, match=words):
        budget_from_text(0.3, floors).check(judge)


def test_a_floor_reads_as_class_and_points() -> None:
    assert budget_from_text(0.3, ["Pedestrian=1.0", "a=b=2"]) == Budget(0.3, {"Pedestrian": 1.0, "a=b": 2.0})


def fronted(engine: str, device: str | None) -> tuple[dict, Search, Judge]:
    model, budget = outlier_net.network("third"), Budget(15.0, {})
    table, judge = outlier_net.ranges(model), outlier_net.judge_of(model, engine=engine)
    found = search(model, table, judge, budget, RATE, quiet=True)
    return front.front_of(model, table, judges_of(judge, ("mix",)), budget, found, device, quiet=True), found, judge


def assert_pareto(result: dict) -> None:
    """Written out: no mix of those that compete is as good as one on the front in both, and better in one."""
    rows = [row for row in result["mixes"] if row["time_ms"] or result["time"] == "not measured"]
    pairs = [(row["time_ms"]["median"] if row["time_ms"] else row["cost_ms"], row["value"]) for row in rows]
    for row, (ms, value) in zip(rows, pairs, strict=True):
        beaten = any(m <= ms and v >= value and (m, v) != (ms, value) for m, v in pairs)
        assert row["pareto"] == (not beaten)
    assert sum(row["pareto"] for row in rows) >= 1
    within = [pair for row, pair in zip(rows, pairs, strict=True)
              if not row["missed"] and row["float_layers"] != result["all_float"]]  # fmt: skip
    chosen = result["mixes"][result["chosen"]]
    assert (chosen["time_ms"]["median"] if chosen["time_ms"] else chosen["cost_ms"]) == min(within)[0]


@pytest.mark.parametrize(("engine", "device"), [("ort", None), ("openvino", "jetson-orin-nano")])
def test_without_the_target_the_front_is_estimated_and_says_so(engine: str, device: str | None) -> None:
    result, found, _ = fronted(engine, device)
    assert result["time"] == "not measured" and all(row["time_ms"] is None for row in result["mixes"])
    assert result["device"] == (device or front.device_here())
    assert len(result["mixes"]) == len(found.mixes) + 1
    assert_pareto(result)


def test_on_openvino_the_front_is_timed_plotted_and_ranked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "SECONDS", 0.5)
    result, _, _ = fronted("openvino", None)
    assert result["time"]["engine"] == "openvino" and result["time"]["rounds"] >= 7
    assert_pareto(result)
    front.write_plot(tmp_path / "front.png", result)
    picture = cv2.imread(str(tmp_path / "front.png"))
    assert picture is not None and picture.std() > 5

    write_json(tmp_path / "front.json", result)
    again = front.reranked(tmp_path / "front.json", outlier_net.network("third"), "openvino", 1, quiet=True)
    assert_pareto(again)
    assert [row["value"] for row in again["mixes"]] == [row["value"] for row in result["mixes"]]
    with pytest.raises(PspnetError, match="another network"):
        front.reranked(tmp_path / "front.json", outlier_net.network("second"), "openvino", 1, quiet=True)
    with pytest.raises(PspnetError, match="only simulates"):
        front.reranked(tmp_path / "front.json", outlier_net.network("third"), "ort", 1, quiet=True)


def test_ranking_follows_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every mix but one is slow: that one is chosen, whatever the estimate said."""
    result, _, judge = fronted("ort", None)
    within = [i for i, row in enumerate(result["mixes"]) if not row["missed"]
              and row["float_layers"] != result["all_float"]]  # fmt: skip
    result["mixes"].append({**result["mixes"][within[0]], "float_layers": ["first", "third"]})
    for row in result["mixes"]:
        row["pareto"] = True
    monkeypatch.setattr(front, "interleaved", lambda variants, *_: Times(
        "openvino", {n: {"median": 1.0 if int(n) == len(result["mixes"]) - 1 else 9.0} for n in variants}, {}, 1
    ))  # fmt: skip
    again = front.timed(result, outlier_net.network("third"), judge.pictures.inputs, "openvino", 1, quiet=True)
    assert again["mixes"][again["chosen"]]["float_layers"] == ["first", "third"]
