"""packaging/: what is shipped for services and containers says what the command line takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

from pspnet.cli import parser
from runtime.drive_check import check_cameras
from runtime.drive_config import KEYS, read_drive
from runtime.watchdog import ENGINE_EXIT
from tests.nets import ROOT

PACKAGING = ROOT / "packaging"
DOCKERFILES = sorted(path for path in PACKAGING.glob("Dockerfile.*") if path.suffix != ".dockerignore")


def test_the_example_is_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REAR_USER", "REAR_PASSWORD"):
        monkeypatch.setenv(name, "x")
    config = read_drive(PACKAGING / "drive.toml")
    assert [camera.name for camera in config.cameras] == ["front", "rear"]
    assert [camera.max_age_ms for camera in config.cameras] == [150.0, 250.0]
    assert len(check_cameras(config)) == 2


def test_the_example_with_all_its_options_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REAR_USER", "REAR_PASSWORD"):
        monkeypatch.setenv(name, "x")
    text = (PACKAGING / "drive.toml").read_text()
    options = re.sub(r"^# (?=[a-z_]+ = |\[merge\])", "", text, flags=re.MULTILINE)
    (tmp_path / "drive.toml").write_text(options)
    for name in ("secrets.env", "page.token"):
        (tmp_path / name).write_text("TOKEN=0123456789abcdef")
        (tmp_path / name).chmod(0o600)
    config = read_drive(tmp_path / "drive.toml")
    assert config.limits.sync_ms == 20 and len(config.merge) == 5 and config.cameras[0].mask is not None
    assert config.output.select is not None and config.serve is not None and config.serve.token


def test_the_configuration_on_the_page_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cameras.md").read_text()
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "drive.toml").write_text(text)
    (tmp_path / "secrets.env").write_text("REAR_USER=a\nREAR_PASSWORD=b")
    (tmp_path / "secrets.env").chmod(0o600)
    config = read_drive(tmp_path / "drive.toml")
    assert set(config.merge) == {"flat", "unlabelled"} and len(check_cameras(config)) == 2


@pytest.mark.parametrize("section", [section for section in KEYS if section != "merge"])
def test_the_page_names_every_key(section: str) -> None:
    page = (ROOT / "docs" / "cameras.md").read_text()
    missing = [key for key in KEYS[section] if f"`{key}`" not in page]
    assert not missing


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(PACKAGING / "pspnet.service")
    return found


def test_the_unit_runs_what_the_parser_takes() -> None:
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "pspnet" and parser().parse_args(words).config == "/etc/pspnet/drive.toml"
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) > 5
    assert service["SuccessExitStatus"].split() == ["130", "143"]  # meant as a stop
    assert service["Restart"] == "on-failure" and service["RestartPreventExitStatus"] == "2" != str(ENGINE_EXIT)
    assert service["SendSIGKILL"] == "no" and "PrivateTmp" not in service


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_containers_run_the_configuration_without_rights(path: Path) -> None:
    text = path.read_text()
    [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert parser().parse_args(json.loads(command)).config == "/drive/drive.toml"
    assert re.search(r"^USER pspnet$", text, re.MULTILINE)
    [extras] = re.findall(r"/src\[([^\]]*)\]", text)
    project = (ROOT / "pyproject.toml").read_text()
    named = extras.split(",") if "$" not in extras else re.findall(r"EXTRAS=([a-z,]+)", text)
    for extra in ",".join(named).split(","):
        assert re.search(rf"^{extra} = ", project, re.MULTILINE), extra
    ignored = path.with_name(f"{path.name}.dockerignore").read_text()
    for folder in re.findall(r'"(\w+)"', re.findall(r"^packages = (.*)$", project, re.MULTILINE)[0]):
        assert f"!{folder}\n" in ignored
