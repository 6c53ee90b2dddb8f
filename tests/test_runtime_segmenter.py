"""Networks whose output holds NaN or infinity are refused by every verb, in one line, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.inference import Inference, Mode
from pspnet.metadata import read_model
from pspnet.spec import ModelSpec
from runtime.frame import Frame
from runtime.runner import ClosingRunner, open_runner
from runtime.segmenter import MOST_CAMERAS, CpuSegmenter
from tests.guests import graph, save
from tests.nets import CAMVID, CLIP, random_model
from tests.test_refusals import refusal

CAMVID11 = open_dataset("auto", CAMVID, "test").classes.names
LARGEST = float(np.finfo(np.float32).max)
PHOTO = min((CAMVID / "val" / "images").iterdir())


def with_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The graph with constant `name` changed."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = change(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change of the first number alone."""
    return lambda values: np.concatenate([[value], values.ravel()[1:]]).reshape(values.shape)


@pytest.fixture(scope="module")
def broken(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Our own network and guests whose output is no number at sound constants, and such with a bad one; and why."""
    folder = tmp_path_factory.mktemp("broken")
    hidden = "backbone.before_last.10.conv.0.0.weight"  # OpenVINO's Clip behind it makes numbers of its NaN
    constant = "{path}: constant %s holds NaN or infinity, so its labels"
    given = "{path} gives %s that are NaN or infinite ({engine}, fp32), so its labels"
    for name, tensor, change in (
        ("large", "head.classifier.weight", lambda values: values / np.abs(values).max() * 3e38),
        ("bias", "head.classifier.bias", with_first(np.nan)), ("hidden", hidden, with_first(np.nan)),
    ):  # fmt: skip
        onnx.save(with_constant(read_model(small_onnx), tensor, change), folder / f"{name}.onnx")
    for name, ends, kind, tensor, value in (
        ("guest", "logits", "logits", "std", 0), ("sigmoid", "sigmoid", "probabilities", "std", 0),
        ("weight", "logits", "logits", "w", -np.inf),
    ):  # fmt: skip
        model = with_constant(graph("uint8", "NHWC", ends, size=(96, 128)), tensor, with_first(value))
        save(folder, model, f"{name}.onnx", class_names=CAMVID11, output_kind=kind)
    reasons = {
        "large": given % "logits", "bias": constant % "head.classifier.bias", "hidden": constant % hidden,
        "guest": given % "logits", "sigmoid": given % "probabilities", "weight": constant % "w",
    }  # fmt: skip
    return {name: (folder / f"{name}.onnx", reason) for name, reason in reasons.items()}


VERBS = {
    "evaluate": ["evaluate", "{model}", "--data", CAMVID, "--json", "{out}/e.json"],
    "slide": ["evaluate", "{model}", "--data", CAMVID, "--mode", "slide", "--flip", "--json", "{out}/e.json"],
    "save": ["evaluate", "{model}", "--data", CAMVID, "--save", "{out}/saved"],
    "run": ["run", "{model}", PHOTO, "-o", "{out}/labels"],
    "clip": ["run", "{model}", CLIP, "--limit", "2", "--jsonl", "{out}/r.jsonl", "--json", "{out}/r.json"],
    "bench": ["bench", "{model}", "--source", PHOTO, "--frames", "1", "--rounds", "3", "--json", "{out}/b.json"],
    "verify": ["verify", "{model}", "{model}", "--data", CAMVID, "-o", "{out}/f.png", "--json", "{out}/v.json"],
}  # fmt: skip


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_in_the_same_line(
    verb: str, engine: str, broken: dict[str, tuple[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path, reason in broken.values():
        arguments = [str(part).format(model=path, out=tmp_path) for part in VERBS[verb]]
        assert refusal(capsys, *arguments, "--engine", engine) == (
            f"pspnet: {reason.format(path=path, engine=engine)} mean nothing. Use a sound checkpoint, or export again "
            "from one\n"
        )
        assert list(tmp_path.iterdir()) == []


def test_calibrate_refuses_a_bad_constant(
    broken: dict[str, tuple[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A bias is in no activation, so no range would tell."""
    path, reason = broken["bias"]
    message = refusal(capsys, "calibrate", path, "--data", CAMVID, "--images", 4, "-o", tmp_path / "m.int8.onnx")
    assert message.startswith(f"pspnet: {reason.format(path=path)} mean nothing. ") and not list(tmp_path.iterdir())


def test_infinity_may_be_a_bound(small_onnx: Path, tmp_path: Path) -> None:
    """A Clip without an upper end, as some exporters write it, is no reason to refuse."""
    model = read_model(small_onnx)
    high = next(node.input[2] for node in model.graph.node if node.op_type == "Clip")
    onnx.save(with_constant(model, high, lambda values: np.full(values.shape, np.inf)), tmp_path / "m.onnx")
    for engine in ("ort", "openvino"):
        with open_runner(tmp_path / "m.onnx", engine, 1) as runner:
            CpuSegmenter(runner).labels(np.zeros((96, 128, 3), np.uint8))


class ConstantRunner(ClosingRunner):
    """Gives the same logits for every picture; `name`, as runners without a file have it, is "the network"."""

    engine, precision = "none", "none"

    def __init__(self, spec: ModelSpec, logits: np.ndarray) -> None:
        self.spec, self._logits = spec, logits

    def infer(self, images: np.ndarray) -> np.ndarray:
        return self._logits


LABELS: dict[str, Callable[[ConstantRunner, np.ndarray], np.ndarray]] = {
    "segmenter": lambda runner, image: CpuSegmenter(runner).labels(image),
    "views": lambda runner, image: Inference(runner, Mode("slide", flip=True)).labels(image)[0],
}


@pytest.mark.parametrize("path", LABELS)
def test_one_bad_value_anywhere_is_found_and_large_values_are_not_bad(path: str) -> None:
    """Sums over these logits overflow float32, their extremes do not."""
    spec, _ = random_model("mobilenet_v2", 16, (96, 128))
    logits = np.zeros((1, spec.classes, *spec.map_size), np.float32)
    logits[:, 4], image = LARGEST, np.zeros((96, 128, 3), np.uint8)
    assert (LABELS[path](ConstantRunner(spec, logits), image) == 4).all()
    random = np.random.default_rng(0)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for place in random.integers(0, logits.size, 5):
            wrong = logits.copy()
            wrong.flat[place] = bad
            with pytest.raises(PspnetError, match="the network gives logits that are NaN or infinite"):
                LABELS[path](ConstantRunner(spec, wrong), image)


def test_a_list_of_recordings_does_not_fill_the_memory() -> None:
    """Each recording is a camera by its name; only the newest keep their memory, and older ones may come again."""
    spec, _ = random_model("mobilenet_v2", 16, (96, 128))
    segmenter = CpuSegmenter(FirstClass(spec))
    picture = np.zeros((40, 60, 3), np.uint8)
    for number in [*range(3 * MOST_CAMERAS), 0]:
        result = segmenter.segment([Frame(picture, "bgr", f"{number}.png", 0, 0, 0)])[0]
        assert result.labels.shape == (40, 60) and not result.labels.any()
        assert len(segmenter._memories) <= MOST_CAMERAS + 1
    assert "0.png" in segmenter._memories and "1.png" not in segmenter._memories


class FirstClass(ClosingRunner):
    """Every pixel is of class 0."""

    engine, precision = "none", "none"

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def infer(self, images: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(images), self.spec.classes, *self.spec.map_size), np.float32)
        logits[:, 0] = 1
        return logits
