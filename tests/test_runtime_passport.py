"""The passport of an engine, what is checked of a plan before it is deserialised, and what `pspnet inspect` prints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import passport_path
from pspnet.spec import ModelSpec
from runtime.passport import Passport, gpu_facts, rebuild_command, this_platform
from runtime.preflight import checked_plan
from tests.nets import random_model

PLAN = b"ftrt" + bytes(range(256)) * 3
ORIN = SimpleNamespace(name="Orin", compute_capability=(8, 7), integrated=True, multiprocessors=16)
BUILD = "pspnet build model.int8.onnx --precision int8 --batch 4 -o "


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return random_model("mobilenet_v2", 16, (96, 128))[0]


@pytest.fixture
def passport(spec: ModelSpec) -> Passport:
    return Passport(
        plan_sha256=hashlib.sha256(PLAN).hexdigest(), plan_bytes=len(PLAN),
        onnx={"name": "model.int8.onnx", "sha256": "a" * 64}, table_sha256="b" * 64,
        spec=json.loads(spec.to_json()), tensorrt="10.3.0", cuda="12.6", gpu=gpu_facts(ORIN),
        platform=this_platform(), power_mode="MAXN", route="weak", precision="int8",
        batch={"min": 1, "opt": 4, "max": 4}, layers={"int8": 40, "fp16": 12}, audit={"reformats": 3},
        accuracy={"figure": "miou", "value": 60.25, "float": 60.5}, latency={"median": 4.75}, settings={"level": 3},
        built="2026-01-02T03:04:05Z", build_seconds=61.5,
    )  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path, passport: Passport) -> Path:
    """A plan with its passport, in a folder and with rights that are fine."""
    path = tmp_path / "model.engine"
    path.write_bytes(PLAN)
    passport.save(passport_path(path))
    for each in (path, passport_path(path)):
        each.chmod(0o644)
    return path


def refusal(path: Path, device: Any = ORIN, version: str = "10.3.0", pinned: str | None = None) -> str:
    with pytest.raises(PspnetError) as error:
        checked_plan(path, device, version, pinned)
    assert "\n" not in str(error.value) and "pspnet build" in str(error.value)
    return str(error.value)


def test_what_is_saved_is_loaded(tmp_path: Path, passport: Passport, spec: ModelSpec) -> None:
    passport.save(tmp_path / "p.json")
    loaded = Passport.load(tmp_path / "p.json")
    assert loaded == passport and loaded.model_spec == spec
    assert json.loads((tmp_path / "p.json").read_text())["kind"] == "engine passport"


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.pop("gpu"), "lacks gpu"),
        (lambda raw: raw.update(more=1), "unknown fields more"),
        (lambda raw: raw.update(plan_bytes="12"), "plan_bytes is '12'"),
        (lambda raw: raw.update(plan_bytes=True), "plan_bytes is True"),
        (lambda raw: raw.update(plan_sha256="A" * 64), "plan_sha256 is 'AAA"),
        (lambda raw: raw["gpu"].pop("name"), "gpu has no sound name"),
        (lambda raw: raw["onnx"].update(name=None), "onnx has no sound name"),
        (lambda raw: raw["batch"].update(max=1.5), "batch has no sound max"),
        (lambda raw: raw["spec"].pop("bins"), "bins"),
        (lambda raw: raw.pop("kind"), "no passport"),
        (lambda raw: raw.update(kind="bench"), "no passport"),
        (lambda raw: raw.update(format=2), "pip install -U"),
        (lambda raw: raw.update(format=0), "format is 0"),
    ],
)
def test_a_damaged_passport_is_refused(engine: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    changed(passport_path(engine), change)
    with pytest.raises(PspnetError, match=said) as error:
        Passport.load(passport_path(engine))
    assert "\n" not in str(error.value)
    if "-U" not in said:
        assert f"pspnet build MODEL.onnx -o {engine}" in str(error.value)


def test_the_numbers_of_a_passport_may_be_whole(engine: Path) -> None:
    changed(passport_path(engine), lambda raw: raw.update(build_seconds=61, power_mode=None))
    assert Passport.load(passport_path(engine)).build_seconds == 61


def test_rebuild_command_quotes_and_is_one_that_the_parser_takes(passport: Passport) -> None:
    from pspnet.cli import parser

    command = rebuild_command("my engines/a.engine", passport)
    assert command == f"{BUILD}'my engines/a.engine'"
    args = parser().parse_args(shlex.split(command)[1:])
    assert (args.precision, args.batch, args.output) == ("int8", 4, "my engines/a.engine")


def test_a_sound_plan_is_handed_out_as_it_was_checked(engine: Path, passport: Passport) -> None:
    assert checked_plan(engine, ORIN, "10.3.0") == (PLAN, passport)
    assert checked_plan(engine, ORIN, "10.3.0", passport.plan_sha256.upper() + "\n")[0] == PLAN


def test_a_flipped_byte(engine: Path) -> None:
    engine.write_bytes(PLAN[:100] + bytes([PLAN[100] ^ 1]) + PLAN[101:])
    assert "SHA-256" in refusal(engine) and BUILD in refusal(engine)


@pytest.mark.parametrize("plan", [PLAN[:-1], PLAN + b"\0", b""])
def test_another_length(engine: Path, plan: bytes) -> None:
    engine.write_bytes(plan)
    assert f"has {len(plan)} bytes, its passport says {len(PLAN)}" in refusal(engine)


@pytest.mark.parametrize("version", ["10.3.0.26", "10.4.0", "11.4.0"])
def test_another_tensorrt(engine: Path, version: str) -> None:
    text = refusal(engine, version=version)
    assert f"built by TensorRT 10.3.0, and this is {version}" in text and f"{BUILD}{engine}" in text


@pytest.mark.parametrize(
    "other", [{"name": "AGX"}, {"multiprocessors": 8}, {"compute_capability": (8, 6)}, {"compute_capability": (11, 0)}]
)
def test_another_gpu(engine: Path, other: dict[str, Any]) -> None:
    text = refusal(engine, SimpleNamespace(**{**vars(ORIN), **other}))
    assert "built on the GPU Orin (compute capability 8.7, 16 multiprocessors)" in text and BUILD in text


def test_another_platform(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert f"and this is {sys.platform}-riscv64" in refusal(engine)


def test_another_hash_than_the_pinned_one(engine: Path, passport: Passport) -> None:
    text = refusal(engine, pinned="c" * 64)
    assert "c" * 64 in text and passport.plan_sha256 in text


def test_without_a_passport_nothing_is_known(engine: Path) -> None:
    passport_path(engine).unlink()
    assert "has no passport" in refusal(engine)
    passport_path(engine).write_text("{")
    assert "not valid JSON" in refusal(engine)


@pytest.mark.parametrize("which", ["model.engine", "model.engine.json", "."])
def test_what_everybody_may_write_is_refused(engine: Path, which: str) -> None:
    path = engine.parent / which
    path.chmod(path.stat().st_mode | 0o002)
    assert f"chmod go-w {path}" in refusal(engine)
    path.chmod(path.stat().st_mode & ~0o002)
    checked_plan(engine, ORIN, "10.3.0")


@pytest.mark.parametrize(("mode", "fine"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_folders_further_up_may_be_shared_with_a_sticky_bit(
    tmp_path: Path, passport: Passport, mode: int, fine: bool
) -> None:
    (folder := tmp_path / "shared" / "own").mkdir(parents=True)
    passport.save(passport_path(path := folder / "model.engine"))
    path.write_bytes(PLAN)
    folder.parent.chmod(mode)
    if fine:
        checked_plan(path, ORIN, "10.3.0")
    else:
        assert str(folder.parent) in refusal(path)


def test_both_ends_of_a_link_are_looked_at(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "now.engine"
    for source, target in ((engine, link), (passport_path(engine), passport_path(link))):
        os.symlink(source, target)
    assert checked_plan(link, ORIN, "10.3.0")[0] == PLAN
    (tmp_path / "links").chmod(0o777)
    assert "links" in refusal(link)
    (tmp_path / "links").chmod(0o755)
    engine.chmod(0o666)
    assert f"chmod go-w {link}" in refusal(link)


def test_an_engine_that_cannot_be_read(engine: Path) -> None:
    engine.unlink()
    assert "cannot read engine" in refusal(engine)


def test_inspect_prints_the_passport_without_tensorrt_and_cuda(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for blocked in ("tensorrt", "pycuda", "cuda", "torch"):
        monkeypatch.setitem(sys.modules, blocked, None)
    assert main(["inspect", str(engine), "--json", str(tmp_path / "i.json")]) == 0
    printed = capsys.readouterr().out
    for words in ("model.int8.onnx", "10.3.0", "Orin", "8.7", "int8", "weak", "60.25", "4.75", "MAXN", "mobilenet_v2"):
        assert words in printed, words
    facts = json.loads((tmp_path / "i.json").read_text())
    assert facts["kind"] == "engine" and facts["passport_fits"] == "yes"
    assert facts["layers"] == {"int8": 40, "fp16": 12} and "Road" in facts["spec"]["classes"]


@pytest.mark.parametrize("which", ["model.engine", "model.engine.json", "."])
def test_inspect_tells_of_rights_for_which_loading_refuses(
    engine: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    path = engine.parent / which
    path.chmod(path.stat().st_mode | 0o002)
    assert main(["inspect", str(engine)]) == 0
    assert f"yes, but the engine will be refused: {refusal(engine)}" in capsys.readouterr().out


def test_inspect_tells_of_a_plan_that_is_not_the_passports(
    engine: Path, capsys: pytest.CaptureFixture[str], passport: Passport
) -> None:
    engine.write_bytes(PLAN[::-1])
    assert main(["inspect", str(engine)]) == 0
    assert f"no, it is of a plan with {len(PLAN)} bytes and SHA-256 {passport.plan_sha256}" in capsys.readouterr().out
    assert main(["inspect", str(passport_path(engine))]) == 0
    assert "engine passport" in capsys.readouterr().out
    passport_path(engine).unlink()
    assert main(["inspect", str(engine)]) == 2
    assert "pspnet build" in capsys.readouterr().err
    assert main(["inspect", str(engine.parent / "none.engine")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_no_output_takes_the_passports_place(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = passport_path(engine).read_bytes()
    assert main(["inspect", str(engine), "--json", str(passport_path(engine))]) == 2
    assert "belongs to" in capsys.readouterr().err and passport_path(engine).read_bytes() == before


def test_fields_are_those_of_the_file(passport: Passport, tmp_path: Path) -> None:
    passport.save(tmp_path / "p.json")
    names = {field.name for field in dataclasses.fields(Passport)}
    assert set(json.loads((tmp_path / "p.json").read_text())) == names | {"kind"}
