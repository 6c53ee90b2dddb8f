"""Losses and class weights against torch's cross-entropy, NumPy in float64 and the definitions of their papers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet.class_weights import class_pixels, class_weights, enet_weights, median_frequency_weights
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.losses import Criterion, criterion_from_config, cross_entropy, focal, lovasz, ohem
from pspnet.recipe import TrainConfig
from tests.nets import random_model

FLOAT32 = 1e-5  # relative: sums over a few thousand float32 values
FLOAT64 = 1e-9  # relative: the same sums in float64, in another order
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=torch.float64)


def sample(classes: int = 4, size: tuple[int, int] = (9, 11)) -> tuple[Tensor, Tensor]:
    """Random logits (2, classes, *size) float64 and labels with every class and some pixels of 255."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, *size, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    labels[0, :2] = labels[1, -1] = 255
    return logits, labels


def numpy_surprise(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(-ln p of the right class, the right class) of the labelled pixels."""
    scores = np.moveaxis(logits.double().numpy(), 1, -1)[labels.numpy() != 255]
    truth = labels.numpy()[labels.numpy() != 255]
    likelihood = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return -np.log(likelihood[np.arange(len(truth)), truth]), truth


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_mean(weights: Tensor | None) -> None:
    logits, labels = sample()
    total, count = cross_entropy(logits, labels, weights)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255)
    assert float(total / count) == pytest.approx(float(expected), rel=FLOAT64)
    assert float(count) == float((torch.ones(4) if weights is None else weights)[labels[labels != 255]].sum())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_is_its_formula(gamma: float, weights: Tensor | None) -> None:
    logits, labels = sample()
    surprise, truth = numpy_surprise(logits, labels)
    alpha = np.ones(4) if weights is None else weights.numpy()
    total, count = focal(logits, labels, gamma, weights)
    expected = (alpha[truth] * (1 - np.exp(-surprise)) ** gamma * surprise).sum()
    assert float(total) == pytest.approx(expected, rel=FLOAT64)
    assert float(count) == pytest.approx(alpha[truth].sum())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_a_certain_pixel_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]]).view(1, 2, 1, 2).requires_grad_()
    labels = torch.tensor([[[0, 255]]])
    focal(logits, labels, gamma)[0].backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize(("threshold", "keep"), [(0.7, 0.0625), (0.3, 0.0), (0.02, 0.5), (0.0, 0.25), (1.0, 0.0)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ohem_takes_the_hardest_pixels(threshold: float, keep: float, weights: Tensor | None) -> None:
    logits, labels = sample()
    surprise, truth = numpy_surprise(logits, labels)
    number = max(int((np.exp(-surprise) < threshold).sum()), int(keep * len(surprise)))
    hardest = np.argsort(-surprise)[:number]
    alpha = np.ones(4) if weights is None else weights.numpy()
    total, count = ohem(logits, labels, threshold, keep, weights)
    assert float(total) == pytest.approx((surprise * alpha[truth])[hardest].sum(), rel=FLOAT64)
    assert float(count) == pytest.approx(alpha[truth[hardest]].sum())


def test_ohem_cases_cover_both_rules() -> None:
    """The parameters above: some keep pixels by their probability, others by the least share."""
    surprise, _ = numpy_surprise(*sample())
    hard = [int((np.exp(-surprise) < threshold).sum()) for threshold in (0.7, 0.3, 0.02, 0.0)]
    assert hard[0] > hard[1] > 0.0625 * len(surprise) and hard[2] < 0.5 * len(surprise) and hard[3] == 0


def lovasz_by_definition(logits: Tensor, labels: Tensor) -> list[float]:
    """Per picture: mean over its classes of the integral over t of Δ({pixels with an error of at least t}).

    Δ(M) is 1 - IoU of a class when exactly the pixels M are wrong; this integral is the Lovász extension (Lovász 1983,
    Bach 2013, section 3.1), here without sorting: Δ changes only at the errors themselves.
    """
    losses = []
    for scores, truth in zip(logits.double().numpy(), labels.numpy(), strict=True):
        scores, truth = scores[:, truth != 255], truth[truth != 255]
        probability = np.exp(scores) / np.exp(scores).sum(0)
        classes = []
        for c in np.unique(truth):
            error = np.abs((truth == c) - probability[c])
            levels = np.unique([0.0, *error])
            loss = 0.0
            for low, high in itertools.pairwise(levels):
                predicted = (truth == c) ^ (error >= high)  # the class where the pixels of M are wrong
                union = (predicted | (truth == c)).sum()
                loss += (high - low) * (1 - (predicted & (truth == c)).sum() / union)
            classes.append(loss)
        losses.append(float(np.mean(classes)))
    return losses


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    logits, labels = sample()
    labels[0][labels[0] == 2] = 3  # class 2 is absent from one picture
    labels[1][:, :6] = 1
    expected = lovasz_by_definition(logits, labels)
    total, count = lovasz(logits, labels)
    assert float(total) == pytest.approx(sum(expected), rel=FLOAT64) and float(count) == 2
    assert expected[0] != pytest.approx(expected[1], rel=0.01)


def test_lovasz_of_sure_predictions_is_one_minus_iou() -> None:
    generator = torch.Generator().manual_seed(1)
    labels, predicted = torch.randint(0, 3, (2, 1, 8, 8), generator=generator)
    total, _ = lovasz(F.one_hot(predicted, 3).permute(0, 3, 1, 2) * 200.0, labels)
    ious = [((labels == c) & (predicted == c)).sum() / ((labels == c) | (predicted == c)).sum() for c in range(3)]
    assert float(total) == pytest.approx(1 - float(torch.stack(ious).mean()), rel=FLOAT32)


@pytest.mark.parametrize("name", ["ce", "focal", "ohem", "lovasz"])
def test_gradients_equal_finite_differences(name: str) -> None:
    logits, labels = sample(3, (3, 4))
    labels[:] = torch.randint(0, 3, labels.shape, generator=torch.Generator().manual_seed(2))
    labels[0, 0, 1] = 255
    loss = {
        "ce": lambda x: cross_entropy(x, labels, WEIGHTS[:3])[0],
        "focal": lambda x: focal(x, labels, 1.5, WEIGHTS[:3])[0],
        "ohem": lambda x: ohem(x, labels, 0.5, 0.1)[0],
        "lovasz": lambda x: lovasz(x, labels)[0],
    }[name]
    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("loss", ["ce", "ohem", "focal", "lovasz"])
def test_criterion_interpolates_every_head_and_counts(loss: str, align_corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {key: torch.randn(2, 4, 5, 6, generator=generator) for key in ("out", "aux3")}
    labels = torch.randint(0, 4, (2, 33, 47), generator=generator)
    labels[:, :7] = 255
    config = TrainConfig(loss=loss)
    criterion = Criterion(config, align_corners, {"aux3": 0.3})
    terms = criterion(outputs, labels)
    assert criterion.weight_of("out") == 1 and criterion.weight_of("aux3") == 0.3
    for key, logits in outputs.items():
        full = F.interpolate(logits.double(), (33, 47), mode="bilinear", align_corners=align_corners)
        total, count = {
            "ce": lambda f: cross_entropy(f, labels),
            "ohem": lambda f: ohem(f, labels, config.ohem_threshold, config.ohem_keep),
            "focal": lambda f: focal(f, labels, config.focal_gamma),
            "lovasz": lambda f: lovasz(f, labels),
        }[loss](full)
        assert float(terms[key][0]) == pytest.approx(float(total), rel=FLOAT32)
        assert float(terms[key][1]) == float(count)
        counted = criterion.count(labels)
        assert (counted is None) == (loss == "ohem") and (counted is None or counted == count)
    assert float(terms["out"][0]) != pytest.approx(float(terms["aux3"][0]), rel=1e-3)


@pytest.mark.parametrize("loss", ["ce", "ohem", "focal", "lovasz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_a_labelled_pixel_adds_nothing(loss: str, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 4, 5, 6, dtype=dtype, requires_grad=True)
    criterion, labels = Criterion(TrainConfig(loss=loss), False), torch.full((2, 20, 24), 255)
    total, count = criterion({"out": logits}, labels)["out"]
    total.backward()
    assert float(total.detach()) == 0 == float(count) and total.dtype == torch.float32
    assert logits.grad is not None and not logits.grad.any()
    assert loss == "ohem" or float(criterion.count(labels)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["ce", "focal", "lovasz"])
def test_totals_and_counts_add_up_over_parts_of_a_batch(loss: str) -> None:
    logits, labels = sample()
    criterion = Criterion(TrainConfig(loss=loss), False, weights=None if loss == "lovasz" else WEIGHTS.float())
    whole = criterion({"out": logits}, labels)["out"]
    parts = [criterion({"out": logits[i : i + 1]}, labels[i : i + 1])["out"] for i in range(2)]
    for of_whole, *of_parts in zip(whole, *parts, strict=True):
        assert float(of_whole) == pytest.approx(sum(map(float, of_parts)), rel=FLOAT32)


@pytest.fixture
def dataset(camvid_tiny: Path) -> Dataset:
    return open_dataset("camvid11", camvid_tiny, "train")


def stored_labels(dataset: Dataset) -> list[np.ndarray]:
    """Label maps as the files have them: 11 is unlabelled."""
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in dataset.labels]


def test_enet_weights_are_their_formula(dataset: Dataset) -> None:
    stored = np.concatenate([labels.ravel() for labels in stored_labels(dataset)])
    share = np.array([(stored == c).sum() for c in range(11)]) / (stored != 11).sum()
    np.testing.assert_allclose(class_weights(dataset, "enet"), 1 / np.log(1.02 + share), rtol=FLOAT64)


def test_median_frequency_weights_are_their_formula(dataset: Dataset) -> None:
    frequency = []
    for c in range(11):
        having = [labels for labels in stored_labels(dataset) if (labels == c).any()]
        frequency.append(sum((m == c).sum() for m in having) / sum((m != 11).sum() for m in having))
    expected = np.median(frequency) / np.array(frequency)
    np.testing.assert_allclose(class_weights(dataset, "median"), expected, rtol=FLOAT64)
    pixels, present_in = class_pixels(dataset, range(8))
    shares = [class_pixels(dataset, range(number, 8, 3)) for number in range(3)]  # as three processes read them
    assert (np.sum(shares, axis=0) == [pixels, present_in]).all()
    assert (present_in < pixels.sum()).any() and sorted(expected)[5] == 1  # some class is absent from some picture


def test_an_absent_class_gets_a_finite_weight_and_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    labels = np.array([[0, 2, 2, 2], [2, 255, 255, 2]], np.uint8)
    cv2.imwrite(str(tmp_path / "train" / "images" / "a.png"), np.zeros((2, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "train" / "labels" / "a.png"), labels)
    colours = {"road": [1, 1, 1], "tram": [2, 2, 2], "sky": [3, 3, 3]}
    classes = {"classes": list(colours), "ignore_index": 255, "colours_rgb": colours}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    dataset = open_dataset("folder", tmp_path, "train")
    median = np.median([1 / 6, 5 / 6])
    np.testing.assert_allclose(class_weights(dataset, "median"), [median * 6, 1, median * 6 / 5], rtol=FLOAT64)
    assert capsys.readouterr().out == (
        "note: the train split has no pixel of tram, so the network cannot learn it; training goes on with the other "
        "classes\n"
    )
    expected = 1 / np.log(1.02 + np.array([1, 0, 5]) / 6)
    np.testing.assert_allclose(class_weights(dataset, "enet"), expected, rtol=FLOAT64)
    assert np.isfinite(enet_weights(np.zeros(3, int))).all()
    assert (median_frequency_weights(np.zeros(3, int), np.zeros(3, int)) == 1).all()


def test_criterion_of_a_run_has_the_settings_of_the_run(dataset: Dataset) -> None:
    spec, _ = random_model("mobilenet_v2", 32, (192, 192), aux_stages=(3, 2))
    both = criterion_from_config(TrainConfig(aux_weights="0.4,0.2", class_weights="enet"), spec, dataset)
    assert (both.weight_of("aux3"), both.weight_of("aux2")) == (0.4, 0.2)
    assert both.weights is not None and both.weights.dtype == torch.float32
    np.testing.assert_allclose(both.weights.numpy(), class_weights(dataset, "enet"), rtol=FLOAT32)
    one = criterion_from_config(TrainConfig(aux_weights="0.3"), spec, dataset)
    assert one.weight_of("aux3") == one.weight_of("aux2") == 0.3 and one.weights is None
    assert not one.state_dict() and not both.state_dict()
    with pytest.raises(PspnetError, match=r"3 aux weights for 2 aux heads.*3,2 with --aux-weights"):
        criterion_from_config(TrainConfig(aux_weights="1,2,3"), spec, dataset)
    with pytest.raises(PspnetError, match="--class-weights none --logit-adjust 0 with --loss lovasz"):
        criterion_from_config(TrainConfig(loss="lovasz", class_weights="median"), spec, dataset)
