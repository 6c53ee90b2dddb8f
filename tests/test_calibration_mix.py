"""The flags of `pspnet calibrate` about single layers: files, metadata, what is printed, and refusals."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from calibration.table import CalibrationTable
from pspnet.cli import main
from pspnet.files import read_json, write_json
from pspnet.metadata import extra, read_model
from tests import outlier_net
from tests.nets import CAMVID

PICTURES = ["--data", str(CAMVID / "train" / "images"), "--engine", "ort", "--threads", "1", "--method", "minmax"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(outlier_net.network("third"), path)
    return path


def int8_inputs(path: Path) -> set[str]:
    """Convolutions of a file that read dequantised values."""
    graph = read_model(path).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in graph.node if node.op_type == "Conv" and node.input[0] in dequantised}


def test_search_sensitivity_and_front_from_the_command_line(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    int8 = tmp_path / "net.int8.onnx"
    flags = ["--max-miou-drop", "20", "--sensitivity", str(tmp_path / "s.png"), "--front", str(tmp_path / "f.json")]
    assert main(["calibrate", str(net), "-o", str(int8), *PICTURES, *flags]) == 0
    printed = capsys.readouterr().out
    tried = extra(int8, "calibration")["search"]["scored"]
    assert tried > 1 and f"the fastest of {tried} mixes that loses at most 20 points of" in printed
    assert "in float: third" in printed and "INT8 alone" in printed and "points of agreement with FP32" in printed
    assert "time: not measured" in printed, "ONNX Runtime only simulates"
    assert CalibrationTable.load(int8.with_suffix(".json")).float_layers == ["third"]
    assert int8_inputs(int8) == {"first", "second", "fourth"}
    summary = extra(int8, "calibration")
    assert summary["int8_convolutions"] == 3 and summary["search"]["float_layers"] == ["third"]
    assert summary["search"]["time"] == "not measured" and summary["search"]["figure"] == "agreement with FP32"
    assert len(summary["sensitivity"]["layers"]) == 4 and summary["held_out"]["loss"] <= 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "f.json", "f.png", "net.int8.json", "net.int8.onnx", "s.json", "s.png",
    ]  # fmt: skip

    front = read_json(tmp_path / "f.json", "")
    assert front["mixes"][front["chosen"]]["float_layers"] == ["third"]
    again = tmp_path / "again.int8.onnx"
    new = ["--rerank", str(tmp_path / "f.json"), "--engine", "openvino", "--threads", "1", "--front"]
    assert main(["calibrate", str(net), "-o", str(again), *new, str(tmp_path / "g.json")]) == 0
    assert "measured" in capsys.readouterr().out
    timed = read_json(tmp_path / "g.json", "")
    chosen = timed["mixes"][timed["chosen"]]
    assert timed["time"]["engine"] == "openvino" and chosen["time_ms"]["median"] > 0 and not chosen["missed"]
    assert int8_inputs(again) == {"first", "second", "third", "fourth"} - set(chosen["float_layers"])

    for change in (
        {"mixes": ["x"]},
        {"chosen": 99},
        {"table": {**front["table"], "amax": {"x": "abc"}}},
        {"mixes": None},
        {"mixes": [{key: row[key] for key in row.keys() - {"unseen"}} for row in front["mixes"]]},
    ):
        write_json(tmp_path / "damaged.json", {**front, **change})
        files = {path.name for path in tmp_path.iterdir()}
        assert (
            main(["calibrate", str(net), "-o", str(tmp_path / "no.onnx"), "--rerank", str(tmp_path / "damaged.json")])
            == 2
        )
        message = capsys.readouterr().err
        assert ("is no whole front" in message or "is damaged" in message) and message.count("\n") == 1
        assert {path.name for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--front", "f.json"], "--front belongs to a search"),
        (["--class-floor", "Sky=1"], "--class-floor belongs to a search"),
        (["--max-miou-drop", "-1"], "budget of -1 points"),
        (["--max-miou-drop", "nan"], "budget of nan points"),
        (["--max-miou-drop", "1", "--device", "toaster"], "no peak rates"),
        (["--max-miou-drop", "1", "--front", "f.svg"], "must end in .json or .png"),
        (["--max-miou-drop", "1", "--no-check"], "leave out --no-check"),
        (["--max-miou-drop", "1", "--class-floor", "Moon=1"], "no such class"),
        (["--rerank", "f.json"], "leave out --data"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(
    flags: list[str], words: str, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["calibrate", str(net), "-o", str(tmp_path / "m.onnx"), *PICTURES, *flags]) == 2
    message = capsys.readouterr().err
    assert words in message.splitlines()[-1] and list(tmp_path.iterdir()) == []


def test_a_front_of_another_kind_or_network_is_refused(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_json(tmp_path / "bench.json", {"kind": "bench"})
    write_json(tmp_path / "front.json", {"kind": "int8 front", "network_sha256": "0"})
    for name, words in (("bench.json", "is no front"), ("front.json", "another network"), ("no.json", "cannot read")):
        assert main(["calibrate", str(net), "-o", str(tmp_path / "m.onnx"), "--rerank", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    write_json(tmp_path / "m.json", {"kind": "bench"})
    assert main(["calibrate", str(net), "-o", str(tmp_path / "m.onnx"), "--rerank", str(tmp_path / "front.json")]) == 2
    assert "no calibration table" in capsys.readouterr().err
    assert main(["calibrate", str(net)]) == 2
    assert "give --data" in capsys.readouterr().err
