"""The JSON file beside a network of another tool: defaults, what the graph says itself, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.guest import guest_spec, palette
from pspnet.spec import IMAGENET_MEAN, IMAGENET_STD
from tests.guests import CLASSES, SIZE, graph, save
from tests.nets import CAMVID


def spec_of(path: Path) -> Any:
    return guest_spec(onnx.load(path), path)


def test_class_names_alone_are_enough_for_a_fixed_graph(tmp_path: Path) -> None:
    spec = spec_of(save(tmp_path, graph()))
    assert (spec.input, spec.input_type, spec.layout, spec.input_size) == ("pixels", "float", "NCHW", SIZE)
    assert (spec.output, spec.output_kind, spec.channel_order) == ("scores", "logits", "rgb")
    assert (spec.mean, spec.std, spec.align_corners, spec.fit) == (IMAGENET_MEAN, IMAGENET_STD, False, "stretch")
    assert spec.classes == len(spec.palette) == CLASSES and (spec.drivable, spec.licence) == ((), "")


def test_every_field_is_taken(tmp_path: Path) -> None:
    fields = {
        "class_names": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]], "input_size": [64, 96], "input": "pixels",
        "layout": "NHWC", "channel_order": "bgr", "mean": [0, 0, 0], "std": [1, 1, 1], "output": "scores",
        "output_kind": "labels", "align_corners": True, "fit": "letterbox", "drivable": ["road"], "licence": "mine",
    }  # fmt: skip
    spec = spec_of(save(tmp_path, graph(layout="NHWC", ends="labels", size=("H", "W")), **fields))
    for name, value in {**fields, "drivable": [0]}.items():
        wanted = value if not isinstance(value, list) else [tuple(v) if isinstance(v, list) else v for v in value]
        found = getattr(spec, name)
        assert (list(found) if isinstance(wanted, list) else found) == wanted, name


def test_dots_in_the_name_stay(tmp_path: Path) -> None:
    path = save(tmp_path, graph(), "deeplab.v3.onnx")
    assert (tmp_path / "deeplab.v3.json").is_file() and spec_of(path).classes == CLASSES


def test_the_palette_is_that_of_pascal_voc_without_black() -> None:
    assert palette(5) == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert palette(21)[-1] == (128, 64, 128) and palette(12)[7] == (64, 0, 0)
    assert len(set(palette(254))) == 254


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["a"]}, "unknown field 'classes': the fields are class_names, palette, input_size"),
        ({"class_names": ["a", "a"]}, "different names"), ({"class_names": []}, "1 to 254"),
        ({"class_names": "road"}, "a list"), ({"class_names": [1, 2]}, "a list"),
        ({"class_names": ["a", "b"]}, r"not logits of 2 classes: correct class_names"),
        ({"palette": [[1, 2, 3]]}, "palette has 1 colours for 11 classes"),
        ({"palette": [[1, 2, 300]] * 11}, "0 to 255"), ({"palette": {"a": [1, 2, 3]}}, "a list with"),
        ({"input_size": "64x97"}, r"input_size is 64x97, but input pixels is float \(1 x 3 x 64 x 96\)"),
        ({"input_size": "big"}, "input_size is 'big': write HEIGHTxWIDTH"), ({"input_size": [64]}, "HEIGHTxWIDTH"),
        ({"input_size": [64.0, 96]}, "HEIGHTxWIDTH"), ({"input_size": True}, "HEIGHTxWIDTH"),
        ({"input": "image"}, "has no input 'image': choose one of pixels"),
        ({"output": "out"}, "has no output 'out': choose one of scores"),
        ({"output": 1}, "text is needed"),
        ({"layout": "NHWC"}, "as NHWC has 96 channels"), ({"layout": "CHW"}, "one of NCHW, NHWC"),
        ({"channel_order": "RGB"}, "one of rgb, bgr"), ({"mean": [0, 0, 0]}, "belong together"),
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, r'"std": \[58.395, 57.12, 57.375\]'),
        ({"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}, "multiply both by 255"),
        ({"mean": [0, 0], "std": [1, 1]}, "three numbers"), ({"mean": [0, 0, 0], "std": [0, 1, 1]}, "above 0"),
        ({"mean": [0, 0, 10**400], "std": [1, 1, 1]}, "three numbers"),
        ({"mean": [0, 0, float("nan")], "std": [1, 1, 1]}, "three numbers"),
        ({"output_kind": "scores"}, "one of logits, probabilities, labels"),
        ({"output_kind": "labels"}, "not labels of 11 classes"), ({"align_corners": 1}, "true or false"),
        ({"fit": "pad"}, "one of stretch, letterbox, crop"), ({"drivable": ["road"]}, "drivable names 'road'"),
        ({"licence": None}, "text is needed"),
    ],
)  # fmt: skip
def test_wrong_fields_are_one_line(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(tmp_path, graph(), **fields)
    with pytest.raises(PspnetError, match=message) as caught:
        spec_of(path)
    assert "other.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "fields", "message"),
    [
        ({"size": ("H", 96)}, {}, 'leaves the size open: add "input_size"'),
        ({"batch": 4}, {}, "pictures come one by one"),
        ({"channels": 4}, {}, "has 4 channels, not 3: export the network for RGB pictures"),
        ({"open_output": True}, {}, "several things.*output_kind"),
        ({"classes": 1}, {"class_names": ["a", "b"]}, "several things.*output_kind"),
        ({"classes": 1}, {"class_names": ["a", "b", "c"], "output_kind": "logits"}, "not logits of 3 classes"),
        ({"classes": 1, "ends": "sigmoid"}, {"class_names": ["a", "b"], "output_kind": "logits"}, "from a Sigmoid"),
        ({"ends": "labels", "label": "float"}, {}, "several things.*output_kind"),
        ({"ends": "labels"}, {"output_kind": "logits"}, "logits of that type"),
        ({"ends": "labels", "label": "double"}, {"output_kind": "labels"}, "labels of that type"),
        ({"kind": "uint8", "layout": "NHWC"}, {"mean": [0, 0, 0], "std": [1, 1, 1]}, "leave out mean and std"),
    ],
)  # fmt: skip
def test_graphs_that_say_too_little_or_something_else(
    form: dict[str, Any], fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path, graph(**form), **fields)
    with pytest.raises(PspnetError, match=message) as caught:
        spec_of(path)
    assert "other.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_graph_of_two_inputs_and_of_channels_last(tmp_path: Path) -> None:
    model = graph()
    model.graph.input.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, [1, 2]))
    with pytest.raises(PspnetError, match="needs pixels, scale_factor, but a guest is given one picture"):
        spec_of(save(tmp_path, model))
    model = graph()
    model.graph.node[-1].output[0] = "planes"
    model.graph.node.append(helper.make_node("Transpose", ["planes"], ["scores"], perm=[0, 2, 3, 1]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 16, 24, CLASSES]))
    with pytest.raises(PspnetError, match="its last axis must come second"):
        spec_of(save(tmp_path, model))


def test_a_further_output_is_chosen_by_its_name(tmp_path: Path) -> None:
    model = graph()
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, [1, 16, 24]))
    assert spec_of(save(tmp_path, model)).output_kind == "logits"
    assert spec_of(save(tmp_path, model, output="best")).output_kind == "labels"


@pytest.mark.parametrize(("size", "has_size"), [(SIZE, False), (("H", "W"), True)])
def test_without_the_json_the_message_shows_one_that_works(
    size: tuple[Any, Any], has_size: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(tmp_path, graph(size=size, classes=2))
    path.with_suffix(".json").unlink()
    for arguments in (["evaluate", path, "--data", CAMVID], ["run", path, CAMVID / "val" / "images", "-o", "out"]):
        assert main([str(argument) for argument in arguments]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "other.json" in message and "docs/guests.md" in message
    shown = message[message.index("{") : message.rindex("}") + 1]
    assert ("input_size" in shown) == has_size
    path.with_suffix(".json").write_text(shown)
    assert spec_of(path).classes == 2
    assert main(["inspect", str(path)]) == 0


def test_a_damaged_json_says_where_its_fields_are_explained(tmp_path: Path) -> None:
    path = save(tmp_path, graph())
    path.with_suffix(".json").write_text('{"class_names": ["a"')
    with pytest.raises(PspnetError, match=r"is not valid JSON.*Correct it: docs/guests\.md has every field"):
        spec_of(path)


def test_verbs_that_take_no_guest_say_which_do(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(tmp_path, graph())
    for verb in ("calibrate", "export"):
        assert main([verb, str(path), "--data", str(CAMVID), "-o", str(tmp_path / "n.onnx")]) == 2
        message = capsys.readouterr().err
        assert "evaluate, verify, bench, run and inspect take it as a" in message.replace(
            "as it is, another tool's as", "as"
        )
        assert message.count("\n") == 1 and "docs/guests.md" in message


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "[" * 100_000, '"class_names"', '{"class_names": null}'])
def test_json_of_another_kind(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(tmp_path, graph())
    path.with_suffix(".json").write_text(text)
    with pytest.raises(PspnetError, match=r"other\.json"):
        spec_of(path)
    assert main(["inspect", str(path)]) == 0  # the graph is shown none the less
    assert "none: " in capsys.readouterr().out


def test_every_field_is_in_the_docs() -> None:
    from pspnet.guest import _FIELDS

    page = (Path(__file__).parents[1] / "docs" / "guests.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in _FIELDS)
    blocks = [part.split("```")[0] for part in page.split("```json\n")[1:]]
    assert len(blocks) >= 5
    for block in blocks:
        assert set(json.loads(block)) <= set(_FIELDS)
