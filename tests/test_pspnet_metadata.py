"""The spec in an ONNX file: round trip, and every way in which it can be absent or wrong."""

from __future__ import annotations

import hashlib
import os

import numpy as np
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


def test_a_file_without_nodes_and_a_spec_without_fields_are_told_apart(tmp_path):
    model = graph()
    del model.graph.node[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(PspnetError, match=r"m\.onnx is an ONNX file without nodes"):
        metadata.read_model(tmp_path / "m.onnx")
    model = graph()
    lacks = "it lacks backbone, output_stride, bins, branch_channels"
    for text, said in (("{}", lacks), ("[]", "it is no JSON object")):
        helper.set_model_props(model, {"pspnet.spec": text})
        with pytest.raises(PspnetError, match=rf"damaged \({said}.*\)\. Export it again"):
            metadata.spec_from_model(model)
    helper.set_model_props(model, {"pspnet.spec": SPEC.to_json().replace('"bins"', '"tone": 1, "bins"', 1)})
    with pytest.raises(PspnetError, match=r"unknown fields tone: .*pip install -U pspnet-edge"):
        metadata.spec_from_model(model)


def net_with_weights(path):
    """A model with 100 float weights in an initializer and 50 in a Constant node, both stored beside it in w.bin."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [10, 10], np.arange(100, dtype=np.float32).tobytes(), raw=True)
    value = helper.make_tensor("c", TensorProto.INT64, [50], np.arange(50, dtype=np.int64).tobytes(), raw=True)
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 10]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]), ir_version=8)
    options = {"location": "w.bin", "size_threshold": 0, "convert_attribute": True}
    onnx.save(model, path, save_as_external_data=True, **options)


def test_external_data_is_read(tmp_path):
    net_with_weights(tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert all(tensor.external_data for tensor in metadata.tensors_of(stored))
    model = metadata.read_model(tmp_path / "m.onnx")
    weight, constant = map(onnx.numpy_helper.to_array, metadata.tensors_of(model))
    np.testing.assert_array_equal(weight, np.arange(100).reshape(10, 10))
    np.testing.assert_array_equal(constant, np.arange(50))
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "sub" / "w.bin")
    (tmp_path / "w.bin").symlink_to("sub/w.bin")  # a link that stays inside
    assert metadata.read_model(tmp_path / "m.onnx") == model
    sizes = [(tmp_path / name).stat().st_size for name in ("m.onnx", "sub/w.bin")]
    assert metadata.stored_bytes(tmp_path / "m.onnx") == sum(sizes)


def test_the_hash_of_an_artefact_covers_the_weights_beside_it(tmp_path):
    model, weights = tmp_path / "m.onnx", tmp_path / "w.bin"
    net_with_weights(model)
    first, content = metadata.artefact_sha256(model), weights.read_bytes()
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (model, weights)]
    assert first == hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert metadata.artefact_sha256(model) != first
    onnx.save(graph(), tmp_path / "whole.onnx")
    for name in ("whole.onnx", "w.bin"):
        plain = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert metadata.artefact_sha256(tmp_path / name) == plain


def rewritten(path, **entries):
    """Change entries of the first tensor's external data; None removes one."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(metadata.tensors_of(model))
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../outside.bin"}, "no file inside its folder"),
        ({"location": "sub/../../outside.bin"}, "no file inside its folder"),
        ({"location": "link.bin"}, "no file inside its folder"),
        ({"location": "linked/outside.bin"}, "no file inside its folder"),
        ({"location": "{absolute}"}, "no file inside its folder"),
        ({"location": "/etc/passwd"}, "no file inside its folder"),
        ({"location": ""}, "no file inside its folder"),
        ({"location": "w.bin\0"}, "no file inside its folder"),
        ({"location": "gone.bin"}, "missing"),
        ({"location": "pipe"}, "missing"),
        ({"offset": "1000000"}, "cut short"),
        ({"offset": "-1"}, "damaged"),
        ({"length": "1e9"}, "damaged"),
        ({"length": "396"}, "has 400 bytes, its external data 396"),
    ],
)
def test_external_data_that_must_not_or_cannot_be_read(tmp_path, entries, message):
    folder = tmp_path / "model"
    folder.mkdir()
    net_with_weights(folder / "m.onnx")
    (tmp_path / "outside.bin").write_bytes((folder / "w.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    rewritten(folder / "m.onnx", **{k: v.format(absolute=folder / "w.bin") for k, v in entries.items()})
    with pytest.raises(PspnetError, match=message) as caught:
        metadata.read_model(folder / "m.onnx")
    assert "m.onnx" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("without_length", [False, True])
def test_external_data_that_is_cut_short(tmp_path, without_length):
    net_with_weights(tmp_path / "m.onnx")
    if without_length:
        rewritten(tmp_path / "m.onnx", length=None)
    metadata.read_model(tmp_path / "m.onnx")
    whole = (tmp_path / "w.bin").read_bytes()
    for length in (0, 399, len(whole) - 1):
        (tmp_path / "w.bin").write_bytes(whole[:length])
        with pytest.raises(PspnetError, match=rf"which has {length}: it is cut short"):
            metadata.read_model(tmp_path / "m.onnx")


def test_carries_spec_tells_ours_from_others(tmp_path):
    model = graph()
    onnx.save(model, tmp_path / "m.onnx")
    assert not metadata.carries_spec(tmp_path / "m.onnx")
    metadata.attach_spec(model, SPEC)
    onnx.save(model, tmp_path / "m.onnx")
    assert metadata.carries_spec(tmp_path / "m.onnx")
