"""A flag of `pspnet calibrate` that would say nothing beside the others is refused, in one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pspnet.cli import main
from tests.nets import CAMVID

DATA = ["--data", str(CAMVID)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*DATA, "--method", "mse", "--percentile", "99"], "99 is of --method percentile, and mse has none"),
        ([*DATA, "--method", "auto", "--percentile", "99"], "and auto tries 99.9, 99.99, 99.999 by itself"),
        ([*DATA, "--method", "guess", "--percentile", "99"], "unknown method 'guess'"),
        ([*DATA, "--no-check", "--held-out", "8"], "leave out --no-check, or --held-out"),
        ([*DATA, "--no-check", "--resamples", "2"], "leave out --no-check, or --resamples"),
        ([*DATA, "--no-check", "--engine", "ort"], "leave out --no-check, or --engine"),
        ([*DATA, "--no-check", "--threads", "1"], "leave out --no-check, or --threads"),
        ([*DATA, "--no-check", "--sensitivity", "s.json"], "leave out --no-check"),
        ([*DATA, "--class-floor", "Sky=1"], "give --max-miou-drop"),
        ([*DATA, "--front", "f.json"], "give --max-miou-drop"),
        ([*DATA, "--device", "cpu"], "give --max-miou-drop"),
        ([*DATA, "--max-miou-drop", "1", "--class-floor", "Sky=1", "--class-floor", "Sky=2"], "gives Sky twice"),
        ([*DATA, "--finetune-lr", "0.1"], "give --finetune EPOCHS"),
        (["--table", "t.json", "--front", "f.json"], "leave out --front"),
        (["--table", "t.json", "--engine", "ort"], "leave out --engine"),
        (["--table", "t.json", "--threads", "1"], "leave out --threads"),
        (["--table", "t.json", "--rerank", "f.json"], "leave out --table"),
        (["--rerank", "f.json", "--finetune-batch", "1"], "leave out --finetune-batch"),
        (["--data", str(CAMVID / "train" / "images"), "--split", "train"], "leave out --split train"),
        (["--data", str(CAMVID / "train" / "images"), "--dataset", "folder"], "leave out --dataset folder"),
    ],
    ids=lambda value: " ".join(value[-4:]).replace(str(CAMVID), "DATA") if isinstance(value, list) else "",
)  # fmt: skip
def test_a_flag_that_says_nothing_is_refused(
    flags: list[str], words: str, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", str(small_onnx), "-o", "m.onnx", *flags]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and list(tmp_path.iterdir()) == []
