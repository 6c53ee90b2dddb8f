"""The spec in an ONNX file: round trip, and every way in which it can be absent or wrong."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from pspnet import metadata
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec

SPEC = ModelSpec(
    backbone="resnet18", output_stride=8, bins=(1, 2), branch_channels=4, head_channels=8, aux_channels=8,
    class_names=("road", "sky", "<b>"), palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)), input_size=(41, 64),
    drivable=(0,), dataset="camvid11", licence="CC", recipe={"lr": 0.01}, metrics={"miou": 61.5},
)  # fmt: skip


def graph(image=("N", 41, 64, 3), logits=("N", 3, 6, 8), kind=TensorProto.UINT8, names=("image", "logits")):
    """A model with the declared interface; what it computes does not matter here."""
    node = helper.make_node("Cast", [names[0]], [names[1]], to=TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info(names[0], kind, image)]
    outputs = [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, logits)]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )


def test_a_spec_survives_the_file(tmp_path):
    model = graph()
    helper.set_model_props(model, {"author": "somebody", "pspnet.precision": '"old"'})
    metadata.attach_spec(model, SPEC, proof={"max_difference": 1e-6}, precision="int8")
    metadata.attach_spec(model, SPEC, precision="fp32")
    onnx.save(model, tmp_path / "m.onnx")
    assert metadata.read_spec(tmp_path / "m.onnx") == SPEC
    assert metadata.spec_from_model(model) == SPEC
    assert metadata.extra(tmp_path / "m.onnx", "proof") == {"max_difference": 1e-6}
    assert metadata.extra(model, "precision") == "fp32"
    assert metadata.extra(model, "calibration") is None
    keys = [entry.key for entry in onnx.load(tmp_path / "m.onnx").metadata_props]
    assert sorted(keys) == ["author", "pspnet.precision", "pspnet.proof", "pspnet.spec"]
    assert metadata.read_metadata(tmp_path / "m.onnx")["author"] == "somebody"


@pytest.mark.parametrize(
    ("changed", "ours", "theirs"),
    [
        ({"image": ("N", 40, 64, 3)}, "N x 40 x 64 x 3", "N x 41 x 64 x 3"),
        ({"image": ("N", 3, 41, 64)}, "N x 3 x 41 x 64", "N x 41 x 64 x 3"),
        ({"logits": ("N", 2, 6, 8)}, "N x 2 x 6 x 8", "N x 3 x 6 x 8"),
        ({"logits": ("N", 3, 5, 8)}, "N x 3 x 5 x 8", "N x 3 x 6 x 8"),
        ({"logits": ("N", 3, "h", "w")}, "N x 3 x h x w", "N x 3 x 6 x 8"),
        ({"kind": TensorProto.FLOAT}, "float", "uint8"),
        ({"names": ("input", "logits")}, "input (", "image ("),
        ({"names": ("image", "output")}, "output (", "logits ("),
    ],
)
def test_a_mismatch_names_both_sides_on_reading_and_on_writing(tmp_path, changed, ours, theirs):
    model = graph(**changed)
    with pytest.raises(PspnetError, match="spec mismatch"):
        metadata.attach_spec(model, SPEC)
    helper.set_model_props(model, {"pspnet.spec": SPEC.to_json()})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(PspnetError, match="spec mismatch") as caught:
        metadata.read_spec(tmp_path / "m.onnx")
    assert ours in str(caught.value) and theirs in str(caught.value) and "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_listed_weights_are_not_inputs():
    model = graph()
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0]))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    metadata.attach_spec(model, SPEC)
    assert metadata.spec_from_model(model) == SPEC


def test_a_file_of_another_tool_is_refused_with_the_command(tmp_path):
    onnx.save(graph(), tmp_path / "m.onnx")
    with pytest.raises(PspnetError, match=r"exported by another tool.*pspnet export"):
        metadata.read_spec(tmp_path / "m.onnx")


def test_truncations_and_foreign_files_are_refused(tmp_path):
    model = graph()
    metadata.attach_spec(model, SPEC)
    whole = model.SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(PspnetError):
            metadata.read_spec(path)
    for data in (b"hello", b"\x89PNG\r\n\x1a\n" + bytes(64), b"{}", bytes(100)):
        path.write_bytes(data)
        with pytest.raises(PspnetError, match="no ONNX file"):
            metadata.read_spec(path)
    for absent in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(PspnetError, match="cannot read ONNX file"):
            metadata.read_spec(absent)


def test_a_damaged_entry_is_refused():
    model = graph()
    helper.set_model_props(model, {"pspnet.spec": "{}", "pspnet.proof": "{"})
    with pytest.raises(PspnetError, match="damaged"):
        metadata.spec_from_model(model)
    with pytest.raises(PspnetError, match=r"pspnet\.proof is damaged"):
        metadata.extra(model, "proof")
