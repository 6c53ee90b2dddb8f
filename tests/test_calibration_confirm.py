"""What held-out pictures chose is scored on pictures that chose nothing, and a choice that fails there is said to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration import check, confirm, front
from calibration.confirm import NEEDED, Judges, judges_of
from calibration.rates import RATES
from calibration.score import Judge
from calibration.search import Budget, search
from calibration.sensitivity import mixed
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.metadata import extra
from runtime.ort import session_from_model
from tests import outlier_net
from tests.nets import CAMVID, CLIP

PERCENT = 1e-6  # the same counts in float64


def judge_on(count: int, targets: list[np.ndarray] | None = None) -> Judge:
    model = outlier_net.network("third")
    targets = outlier_net.labels(model, count) if targets is None else targets
    return Judge(model, outlier_net.held_out(targets, count), "ort", 1, quiet=True)


def flattered(unseen_class: int | None = None) -> Judges:
    """Labels that all INT8 hits on the pictures that choose, and the float network on the others.

    unseen_class: is on none of the others.
    """
    model = outlier_net.network("third")
    int8 = mixed(model, outlier_net.ranges(model), ())
    pairs = zip(outlier_net.labels(int8, NEEDED), outlier_net.labels(model, NEEDED), strict=True)
    targets = [pair[index % 2] for index, pair in enumerate(pairs)]
    for target in targets[1::2]:
        target[target == unseen_class] = 255
    return judges_of(judge_on(NEEDED, targets), ("mix",))


def test_every_second_picture_chooses_and_the_others_confirm() -> None:
    judge = judge_on(NEEDED)
    judges = judges_of(judge, ("method", "mix"))
    assert list(judges.chooser.pictures.hashes) == [str(i) for i in range(0, NEEDED, 2)]
    assert list(judges.final.pictures.hashes) == [str(i) for i in range(1, NEEDED, 2)]
    variant = mixed(outlier_net.network("third"), outlier_net.ranges(outlier_net.network("third")), ())
    counts = judge.score(variant).counts
    for part, first in ((judges.chooser, 0), (judges.final, 1)):
        assert np.array_equal(part.score(variant).counts, counts[first::2])
        assert np.array_equal(part.baseline.counts, judge.baseline.counts[first::2])
    facts = judges.facts()
    assert (facts["chosen_by"], facts["unseen"], facts["not_confirmed"]) == (8, 8, None)
    assert confirm.text_of(facts).startswith("method and mix chosen by 8 held-out images, scored on 8 others")


def test_too_few_pictures_are_not_divided_and_it_is_said() -> None:
    judge = judge_on(NEEDED - 1)
    judges = judges_of(judge, ("mix",))
    assert judges.chooser is judges.final is judge and not judges.confirms
    assert confirm.text_of(judges.facts()).startswith("mix not confirmed: 15 pictures held out, 16 are needed")


def test_without_a_choice_every_picture_scores() -> None:
    judge = judge_on(NEEDED)
    judges = judges_of(judge)
    assert judges.final is judge and confirm.text_of(judges.facts()) == ""


def test_a_mix_that_only_its_own_pictures_like_is_said_to_be_over_budget(tmp_path: Path) -> None:
    model, budget, judges = outlier_net.network("third"), Budget(5.0, {}), flattered()
    table = outlier_net.ranges(model)
    found = search(model, table, judges.chooser, budget, RATES["cpu-vnni"], quiet=True)
    assert found.best.float_layers == () and found.best.loss < 0, "those that choose like INT8 better than float"
    result = front.front_of(model, table, judges, budget, found, "cpu-vnni", quiet=True)
    chosen = result["mixes"][result["chosen"]]

    pictures = np.concatenate(outlier_net.inputs(NEEDED)[1::2])
    variants = (model, mixed(model, table, ()))
    truth, got = (session_from_model(m, 1).run(["logits"], {"image": pictures})[0].argmax(1) for m in variants)
    both = [((truth == c) & (got == c)).sum() / ((truth == c) | (got == c)).sum() for c in range(11)]
    loss = 100 - 100 * np.mean(both)
    assert chosen["unseen"]["loss"] == pytest.approx(loss, abs=PERCENT) and loss > 5
    (warning,) = chosen["unseen"]["warnings"]
    assert f"over budget on 8 held-out images unseen by the search: mIoU loses {loss:.2f}, allowed are 5" in warning
    assert result["choice"]["unseen"] == 8 and result["images"] == 8
    kept = check.checked(model, mixed(model, table, ()), judges, budget, quiet=True)
    assert kept["held_out"]["loss"] == pytest.approx(loss, abs=PERCENT) and kept["held_out"]["images"] == 8
    assert warning in kept["warnings"] and f"WARNING: {warning}" in check.text_of(kept)
    assert kept["held_out"]["choice"] == result["choice"]
    front.write_plot(tmp_path / "front.png", result)


def test_a_floor_is_judged_on_unseen_pictures_that_hold_the_class() -> None:
    names = outlier_net.spec().class_names
    model, judges = outlier_net.network("third"), flattered(unseen_class=2)
    score = judges.final.score(mixed(model, outlier_net.ranges(model), ()))
    losses = judges.final.class_losses(score)
    worst = max((name for name in losses if name != names[2]), key=lambda name: losses[name])
    assert losses[worst] > 1
    lines = check.over_budget(judges, score, Budget(100.0, {worst: losses[worst] - 0.5}))
    assert len(lines) == 1 and f"{worst} loses {losses[worst]:.2f} points of IoU" in lines[0]
    assert check.over_budget(judges, score, Budget(100.0, {worst: losses[worst] + 0.5})) == []
    assert names[2] not in losses
    (line,) = check.over_budget(judges, score, Budget(100.0, {names[2]: 1.0}))
    assert f"the floor of {names[2]} is not confirmed: none of 8 held-out images unseen by the search holds it" in line
    with pytest.raises(PspnetError, match="no held-out picture that the search sees holds it"):
        Budget(100.0, {names[2]: 1.0}).check(judges.final)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(outlier_net.network("third"), path)
    return path


def test_metadata_front_and_screen_say_on_which_pictures_a_choice_was_scored(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    int8, path = tmp_path / "net.int8.onnx", tmp_path / "f.json"
    pictures = ["--data", str(CLIP), "--images", "4", "--held-out", "17", "--engine", "ort", "--threads", "1"]
    flags = ["--method", "auto", "--max-miou-drop", "30", "--front", str(path)]
    assert main(["calibrate", str(net), "-o", str(int8), *pictures, *flags]) == 0
    printed = capsys.readouterr().out
    assert "method and mix chosen by 9 held-out images, scored on 8 others" in printed
    assert "compared on 9 held-out images, by which the method was chosen" in printed and "loss on unseen" in printed
    summary, result = extra(int8, "calibration"), read_json(path, "")
    assert summary["held_out"]["images"] == 8 and summary["search"]["images"] == 9
    assert {row["images"] for row in summary["compared"]} == {9}
    assert summary["held_out"]["choice"] == summary["search"]["choice"] == result["choice"]
    takeable = [row for row in result["mixes"] if row["pareto"] and not row["missed"]]
    assert all(row["unseen"] for row in takeable if row["float_layers"] != result["all_float"])
    chosen = result["mixes"][result["chosen"]]["unseen"]
    assert chosen["loss"] == pytest.approx(summary["held_out"]["loss"], abs=PERCENT)

    again = ["-o", str(tmp_path / "again.int8.onnx"), "--rerank", str(path), "--engine", "openvino", "--threads", "1"]
    assert main(["calibrate", str(net), *again]) == 0
    assert "mix chosen by 9 held-out images, scored on 8 others" in capsys.readouterr().out
    front_rows = extra(tmp_path / "again.int8.onnx", "calibration")["search"]["front"]
    assert next(row["unseen"] for row in front_rows if row["chosen"])["loss_interval"]


@pytest.mark.parametrize(
    ("flags", "choice"), [(["--method", "auto"], "method"), (["--max-miou-drop", "90", "--method", "minmax"], "mix")]
)
def test_few_pictures_leave_a_choice_unconfirmed(
    flags: list[str], choice: str, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pictures = ["--data", str(CAMVID), "--engine", "ort", "--threads", "1"]
    assert main(["calibrate", str(net), "-o", str(tmp_path / "m.onnx"), *pictures, *flags]) == 0
    assert f"{choice} not confirmed: 2 pictures held out, 16 are needed" in capsys.readouterr().out
    facts = extra(tmp_path / "m.onnx", "calibration")["held_out"]["choice"]
    assert facts["choices"] == [choice] and facts["unseen"] == 0 and "16 are needed" in facts["not_confirmed"]
