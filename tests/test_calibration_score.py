"""The judge against scikit-learn, numpy and the one evaluation; held-out pictures against the calibration's."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import jaccard_score

from calibration.held_out import evenly_spread, held_out_pictures
from calibration.score import AGREEMENT, MIOU, Judge, judge_from_data
from calibration.sensitivity import mixed
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.image import read_image
from pspnet.inference import Mode
from runtime.evaluation import score as evaluated
from runtime.ort import OrtRunner, session_from_model
from tests import outlier_net
from tests.nets import CAMVID, CLIP

SAME = 1e-9  # the same sums in float64
PERCENT = 1e-6
CHANCE = 1.5  # points between two bootstraps with different draws; the interval itself is several times wider
TRAIN = CAMVID / "train" / "images"


def hash_of(path: Path) -> str:
    return hashlib.sha256(read_image(path).tobytes()).hexdigest()


def test_score_of_a_variant_against_scikit_learn_and_numpy() -> None:
    model = outlier_net.network("third")
    noise = np.random.default_rng(1)
    targets = [np.where(noise.random(t.shape) < 0.2, 255, t).astype(np.uint8) for t in outlier_net.labels(model)]
    judge = Judge(model, outlier_net.held_out(targets), "ort", 1, quiet=True)
    variant = mixed(model, outlier_net.ranges(model), ())
    score = judge.score(variant)

    pictures = np.concatenate(outlier_net.inputs())
    exact, got = (session_from_model(m, 1).run(["logits"], {"image": pictures})[0] for m in (model, variant))
    truth, predicted = np.stack(targets), got.argmax(1)
    seen = truth != 255
    iou = 100 * jaccard_score(truth[seen], predicted[seen], average=None, labels=range(11))
    present = [c for c in range(11) if (truth[seen] == c).any() or (predicted[seen] == c).any()]
    assert len(present) == 11 and judge.figure == MIOU and score.value == score.miou
    assert score.miou == pytest.approx(iou.mean(), abs=PERCENT)
    assert list(score.per_class.values()) == pytest.approx(iou.tolist(), abs=PERCENT)
    assert score.agreement == pytest.approx(100 * (predicted == exact.argmax(1)).mean(), abs=PERCENT)
    signal, difference = exact.astype(np.float64), (got - exact).astype(np.float64)
    assert score.sqnr_db == pytest.approx(10 * np.log10((signal**2).sum() / (difference**2).sum()), abs=1e-3)
    assert judge.baseline.miou == 100 and judge.baseline.agreement == 100 and judge.baseline.sqnr_db == np.inf
    assert judge.loss(score) == pytest.approx(100 - iou.mean(), abs=PERCENT) and judge.loss(score) > 1


def test_the_interval_is_that_of_pictures_drawn_anew() -> None:
    model = outlier_net.network("third")
    judge = outlier_net.judge_of(model)
    score = judge.score(mixed(model, outlier_net.ranges(model), ()))
    generator, losses = np.random.default_rng(5), []
    for _ in range(400):
        total = score.counts[generator.integers(0, 6, 6)].sum(0)[:, :11].astype(float)
        union = total.sum(0) + total.sum(1) - np.diag(total)
        losses.append(100 - 100 * np.mean(np.diag(total)[union > 0] / union[union > 0]))
    low, high = judge.loss_interval(score)
    assert [low, high] == pytest.approx(np.percentile(losses, [2.5, 97.5]).tolist(), abs=CHANCE)
    assert low < judge.loss(score) < high and judge.loss_interval(judge.baseline) == (0, 0)


def test_without_labels_the_figure_is_agreement() -> None:
    model = outlier_net.network("third")
    judge = outlier_net.judge_of(model, labelled=False)
    score = judge.score(mixed(model, outlier_net.ranges(model), ()))
    labelled = outlier_net.judge_of(model).score(mixed(model, outlier_net.ranges(model), ()))
    assert judge.figure == AGREEMENT == judge.facts()["figure"] and score.miou is None
    assert score.value == score.agreement == labelled.agreement < 100
    assert score.per_class == labelled.per_class  # those labels are the float network's own


def test_a_subset_is_a_judge_of_those_pictures_alone() -> None:
    model = outlier_net.network("third")
    judge, pictures = outlier_net.judge_of(model), outlier_net.held_out(outlier_net.labels(model))
    variant = mixed(model, outlier_net.ranges(model), ())
    fewer = judge.subset(2)
    assert list(fewer.pictures.hashes) == ["0", "5"] and judge.subset(99) is judge
    alone = Judge(model, pictures.subset(2)[0], "ort", 1, quiet=True)
    assert fewer.score(variant) == alone.score(variant) != judge.score(variant)


def test_the_judge_gives_what_the_one_evaluation_gives(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(outlier_net.network(None), path)
    judge = judge_from_data(path, CAMVID, "camvid11", "train", {}, 8, "ort", 1, quiet=True)
    with OrtRunner(path, 1) as runner:
        scores, _ = evaluated(runner, open_dataset("camvid11", CAMVID, "train"), Mode())
    assert len(judge.pictures) == 8
    assert judge.baseline.miou == pytest.approx(scores["miou"], abs=SAME)


def test_held_out_pictures_are_none_of_the_calibration_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(TRAIN, folder)
    paths = sorted(folder.iterdir())
    used = {path.name: hash_of(path) for path in paths[::2]}
    shutil.copy(paths[0], folder / "a_copy_under_another_name.jpg")
    found = held_out_pictures(folder, "auto", None, used, 99, outlier_net.spec())
    assert sorted(found.hashes) == [path.name for path in paths[1::2]] and found.targets is None
    assert not set(found.hashes.values()) & set(used.values())
    assert found.hashes[paths[1].name] == hash_of(paths[1])
    (folder / "a_copy_under_another_name.jpg").unlink()
    spread = held_out_pictures(folder, "auto", None, used, 2, outlier_net.spec())
    assert sorted(spread.hashes) == [paths[1].name, paths[7].name]


def test_labels_are_read_where_the_classes_are_the_networks(tmp_path: Path) -> None:
    spec = outlier_net.spec()
    found = held_out_pictures(CAMVID, "camvid11", "train", {}, 3, spec)
    assert found.source == "camvid11_tiny train" and found.targets and found.targets[0].shape == (360, 480)
    other = tmp_path / "other"
    shutil.copytree(CAMVID, other)
    text = (other / "classes.json").read_text()
    (other / "classes.json").write_text(text.replace('"Sky"', '"Heaven"'))
    assert held_out_pictures(other, "folder", "train", {}, 3, spec).targets is None


def test_frames_of_a_clip_do_as_well() -> None:
    used = {f"{CLIP.name}#{index}": str(index) for index in range(0, 60)}
    found = held_out_pictures(CLIP, "auto", None, used, 3, outlier_net.spec())
    assert len(found) == 3 and not set(found.hashes) & set(used)
    assert all(name.startswith(f"{CLIP.name}#") for name in found.hashes)


def test_nothing_left_to_score_on_is_said() -> None:
    used = {path.name: hash_of(path) for path in TRAIN.iterdir()}
    with pytest.raises(PspnetError, match=r"0 pictures of images left .* --images"):
        held_out_pictures(TRAIN, "auto", None, used, 8, outlier_net.spec())


@pytest.mark.parametrize(("length", "count", "first"), [(10, 3, [0, 4, 9]), (3, 5, [0, 1, 2]), (0, 2, [])])
def test_spread(length: int, count: int, first: list[int]) -> None:
    order = evenly_spread(length, count)
    assert order[: len(first)] == first and sorted(order) == list(range(length))
