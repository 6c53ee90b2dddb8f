"""Fine-tuning: what it learns leaves through the same writer, and bad input is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibration import finetune
from calibration.channels import channel_ranges
from calibration.finetune import drawn, finetuned, loss_of, rate_factor, student_of
from calibration.placement import place
from calibration.quantize import quantized
from calibration.repair import Finetune
from calibration.table import CalibrationTable
from calibration.tuning_pictures import TuningPictures
from calibration.weights import ConvolutionWeights
from pspnet.errors import PspnetError
from pspnet.metadata import read_model
from runtime.ort import session_from_model

AGREEMENT = 0.999
CLOSE = 0.02  # of the largest logit: a tie that flips in one engine is a step of 1/127 further on
NARROW = 4.0  # ranges are cut to a fourth, so that there is much to win back


@pytest.fixture(scope="module")
def model(small_onnx: Path) -> onnx.ModelProto:
    return read_model(small_onnx)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Four smooth pictures (96, 128, 3)."""
    cells = np.random.default_rng(4).integers(0, 256, (4, 12, 16, 3), np.uint8)
    return [np.kron(cell, np.ones((8, 8, 1), np.uint8)) for cell in cells]


@pytest.fixture(scope="module")
def table(model: onnx.ModelProto, images: list[np.ndarray]) -> CalibrationTable:
    largest = channel_ranges(model, list(place(model).activations), [image[None] for image in images])
    return CalibrationTable("", "", "", {}, {name: float(values.max()) / NARROW for name, values in largest.items()})


@pytest.fixture(scope="module")
def pictures(images: list[np.ndarray]) -> TuningPictures:
    def reader(image: np.ndarray) -> tuple[np.ndarray, None]:
        return image, None

    return TuningPictures("made", False, [lambda image=image: reader(image) for image in images])


@pytest.fixture(scope="module")
def tuned(
    model: onnx.ModelProto, table: CalibrationTable, pictures: TuningPictures
) -> tuple[onnx.ModelProto, CalibrationTable]:
    return finetuned(model, table, pictures, Finetune(6, lr=0.01, batch=2), quiet=True)


def logits(model: onnx.ModelProto, images: list[np.ndarray]) -> np.ndarray:
    return session_from_model(model).run(["logits"], {"image": np.stack(images)})[0]


def test_the_tuned_network_is_closer_to_the_float_one(
    model: onnx.ModelProto, table: CalibrationTable, tuned: tuple[onnx.ModelProto, CalibrationTable],
    images: list[np.ndarray],
) -> None:  # fmt: skip
    target = torch.from_numpy(logits(model, images))
    before, after = (
        loss_of(torch.from_numpy(logits(quantized(*pair), images)), target, None, False).item()
        for pair in ((model, table), tuned)
    )
    assert after < 0.7 * before


def test_the_int8_file_is_the_network_that_was_trained(
    tuned: tuple[onnx.ModelProto, CalibrationTable], images: list[np.ndarray]
) -> None:
    expected = logits(quantized(*tuned), images)
    with torch.inference_mode():
        got = student_of(*tuned)(torch.from_numpy(np.stack(images))).numpy()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= AGREEMENT
    assert np.abs(got - expected).max() <= CLOSE * np.abs(expected).max()


def test_weights_biases_and_ranges_are_learned_and_the_rest_stays(
    model: onnx.ModelProto, table: CalibrationTable, tuned: tuple[onnx.ModelProto, CalibrationTable]
) -> None:
    result, learned = tuned
    onnx.checker.check_model(result, full_check=True)
    placed, old, new = place(model).convolutions, ConvolutionWeights(model), ConvolutionWeights(result)
    assert all(not np.array_equal(old.weight(name), new.weight(name)) for name in placed)
    biased = {node.name for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2}
    assert {name for name in placed if not np.array_equal(old.bias(name), new.bias(name))} == biased & set(placed)
    assert set(learned.weights) == set(placed) and set(learned.amax) == set(table.amax)
    assert all(len(amax) == len(new.weight(name)) for name, amax in learned.weights.items())
    assert all(learned.amax[name] != table.amax[name] for name in table.amax)
    trained = {n for node in model.graph.node if node.op_type == "Conv" for n in node.input[1:]}
    before = {t.name: t.raw_data for t in model.graph.initializer if t.name not in trained}
    assert before == {t.name: t.raw_data for t in result.graph.initializer if t.name not in trained}


def test_the_file_holds_the_very_scales_that_were_learned(tuned: tuple[onnx.ModelProto, CalibrationTable]) -> None:
    result = quantized(*tuned)
    student = student_of(*tuned)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    for name in student.scales:
        assert np.array_equal(arrays[name].astype(np.float64), np.float16(arrays[name]).astype(np.float64))
    for name, scale in student.activations.items():
        assert arrays[scale] * np.float64(127) == tuned[1].amax[name]


def test_the_same_seed_gives_the_same_network(
    model: onnx.ModelProto, table: CalibrationTable, pictures: TuningPictures
) -> None:
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first, second, other = (
        finetuned(model, table, pictures, Finetune(1, 1e-3, 4, seed), quiet=True) for seed in (1, 1, 2)
    )
    assert first[0].SerializeToString() == second[0].SerializeToString() and first[1] == second[1]
    assert first[0].SerializeToString() != other[0].SerializeToString()
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_in_float_stay_there(model: onnx.ModelProto, table: CalibrationTable, pictures: TuningPictures) -> None:
    left = list(place(model).convolutions)[:2]
    partly = dataclasses.replace(table, float_layers=left)
    result, learned = finetuned(model, partly, pictures, Finetune(1, 1e-3, 4), quiet=True)
    assert learned.float_layers == left and not set(left) & set(learned.weights)
    assert not np.array_equal(ConvolutionWeights(model).weight(left[0]), ConvolutionWeights(result).weight(left[0]))


def test_a_loss_that_is_no_number_stops(
    model: onnx.ModelProto, table: CalibrationTable, pictures: TuningPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "loss_of", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(PspnetError, match=r"nan at step 1 of 2: lower --finetune-lr from 0\.1"):
        finetuned(model, table, pictures, Finetune(1, lr=0.1, batch=2), quiet=True)


def test_the_loss_is_divergence_plus_cross_entropy() -> None:
    random = np.random.default_rng(7)
    own, taught = random.normal(size=(2, 2, 3, 4, 5))
    labels = random.integers(0, 3, (2, 4, 5))
    labels[0, :2] = 255

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    p, q = log_softmax(own), log_softmax(taught)
    divergence = (np.exp(q) * (q - p)).sum(1).mean()
    seen = labels != 255
    right = np.take_along_axis(p, np.where(seen, labels, 0)[:, None], 1)[:, 0]
    entropy = -right[seen].mean()
    tensors = torch.tensor(own), torch.tensor(taught)
    assert loss_of(*tensors, None, False).item() == pytest.approx(divergence, rel=1e-9)
    assert loss_of(*tensors, torch.tensor(labels), False).item() == pytest.approx(divergence + entropy, rel=1e-9)
    none = torch.full((2, 4, 5), 255)
    assert loss_of(*tensors, none, False).item() == pytest.approx(divergence, rel=1e-9)


def test_pictures_and_labels_are_mirrored_together() -> None:
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[:, :4] = 200
    labels = (picture[..., 0] > 0).astype(np.uint8)
    pairs = TuningPictures("made", True, [lambda: (picture, labels)] * 16)
    torch.manual_seed(0)
    images, targets = drawn(pairs, list(range(16)))
    assert targets is not None and images.shape == (16, 6, 8, 3) and targets.dtype == torch.int64
    sides = images.float().mean(3)
    assert torch.equal((sides > sides.mean((1, 2), keepdim=True)).long(), targets)
    assert 0 < targets[:, 0, 0].sum() < 16, "some are mirrored and some are not"
    assert len({tuple(image.flatten().tolist()) for image in images}) > 4, "colours change"


def test_the_rate_rises_once_and_falls_to_nearly_nothing() -> None:
    rates = np.array([rate_factor(step, 100) for step in range(100)])
    peak = int(rates.argmax())
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    assert 0 < rates[0] < 0.5 and rates.max() <= 1 and 0 < rates[-1] < 0.01
    assert 0 < rate_factor(0, 1) <= 1


@pytest.mark.parametrize(
    ("settings", "words"), [((0,), "--finetune "), ((1, 1.0), "--finetune-lr"), ((1, 1e-4, 0), "--finetune-batch")]
)
def test_settings_out_of_range_are_refused(settings: tuple, words: str) -> None:
    with pytest.raises(PspnetError, match=words):
        Finetune(*settings)
