"""The wheel holds every file of the packages, kernels and web pages too, and finds them wherever it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.nets import ROOT

PACKAGES = ("calibration", "export", "pspnet", "runtime")
USED = """
import calibration.builder, export.naming, pspnet, runtime
from pathlib import Path
from pspnet.cli import main
from importlib import resources
from runtime import kernel_cache, server_routes
for module in (calibration, export, pspnet, runtime):
    assert Path(next(iter(module.__path__))).parent == Path({folder!r}), module
for kernel in kernel_cache.SOURCES.glob("*.cu"):
    print(kernel.stem, len(kernel_cache.source(kernel.stem)))
for name, _ in server_routes.FILES.values():
    assert (resources.files("runtime") / "web" / name).read_bytes()
main(["--help"])
"""


def files() -> set[str]:
    """Every file below the packages, but what Python and the tools have left there."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that pip would install, built by hatchling from this tree."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: pip install 'pspnet-edge[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    program = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_every_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name for name in names if ".dist-info/" not in name} == files()
    information = {name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE"} <= information


def test_the_wheel_finds_its_files_from_another_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    wheel.extractall(folder)
    code = USED.format(folder=str(folder))
    program = [sys.executable, "-c", code]
    done = subprocess.run(
        program, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    assert done.returncode == 0, done.stderr
    kernels = [path.stem for path in (ROOT / "runtime" / "kernels").glob("*.cu")]
    assert sorted(line.split()[0] for line in done.stdout.splitlines()[: len(kernels)]) == sorted(kernels)


def test_nothing_keeps_a_file_out_of_the_wheel() -> None:
    """Without hatchling, too: the packages are taken whole, and what git ignores, hatchling leaves out."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [section] = re.findall(
        r"^\[tool\.hatch\.build\.targets\.wheel\]\n(.*?)(?=^\[|\Z)", project, re.MULTILINE | re.DOTALL
    )
    [packages] = re.findall(r"^packages = \[(.*)\]$", section, re.MULTILINE)
    assert section.strip() == f"packages = [{packages}]" and "[tool.hatch.build]" not in project
    assert sorted(re.findall(r'"(\w+)"', packages)) == sorted(PACKAGES)
    kernels = {path.suffix for path in map(Path, files()) if path.parent == Path("runtime/kernels")}
    pages = {path.suffix for path in map(Path, files()) if path.parent == Path("runtime/web")}
    assert {".cu", ".cuh"} == kernels and {".html", ".css", ".js"} <= pages
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout, so nothing says what is ignored")
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"], cwd=ROOT, input="\n".join(sorted(files())), text=True,
        capture_output=True,
    )  # fmt: skip
    assert asked.stdout == "" and asked.returncode == 1
