"""NVRTC compiles every kernel for the boards and cards that we name; machine code is kept, checked and made again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pspnet.errors import PspnetError
from runtime import kernel_cache, nvrtc
from runtime.cuda_kernels import FUNCTIONS
from runtime.nvrtc import CannotCompile, Nvrtc

DRIVER = "13.2"
CAPABILITIES = [(8, 7), (8, 9), (9, 0), (11, 0)]
"""Orin, RTX 40, Hopper and Thor."""
ORIN = (8, 7)


@pytest.fixture
def compiler() -> Nvrtc:
    """The NVRTC of this machine; skips the test where there is none."""
    try:
        found = nvrtc.open_nvrtc(DRIVER)
    except PspnetError as error:
        pytest.skip(f"no NVRTC: {error}")
    if missing := {10 * major + minor for major, minor in CAPABILITIES} - set(found.architectures()):
        pytest.skip(f"NVRTC {nvrtc.version_text(found.version)} does not know sm_{missing}")
    return found


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, compiler: Nvrtc) -> list[str]:
    """The names of what is compiled from now on; the compiler gives its name and options in place of code."""
    names: list[str] = []

    def cubin(self: Nvrtc, source: str, name: str, options: tuple[str, ...]) -> bytes:
        names.append(name)
        return f"{name} {options}".encode()

    monkeypatch.setattr(Nvrtc, "cubin", cubin)
    return names


def kept(folder: Path, name: str = "labels", capability: tuple[int, int] = ORIN) -> bytes:
    return kernel_cache.cubin(name, capability, DRIVER, folder)


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kernel_compiles(compiler: Nvrtc, name: str, capability: tuple[int, int]) -> None:
    code = compiler.cubin(kernel_cache.source(name), f"{name}.cu", kernel_cache.options_for(capability))
    assert code.startswith(b"\x7fELF")
    kernels = set(re.findall(rb"\.text\.(\w+)", code))
    assert kernels == {kernel.encode() for kernel in FUNCTIONS[name]}


def test_every_source_is_listed_and_needs_no_other_file() -> None:
    assert {path.stem for path in kernel_cache.SOURCES.glob("*.cu")} == set(FUNCTIONS)
    for name in FUNCTIONS:
        text = kernel_cache.source(name)
        assert "#include" not in text and "#pragma once" not in text
        assert text.count("using byte =") == 1


def test_no_source_is_longer_than_300_lines() -> None:
    sources = [path for path in kernel_cache.SOURCES.iterdir() if path.suffix in (".cu", ".cuh")]
    assert len(sources) > len(FUNCTIONS)
    for path in sources:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300 and max(map(len, lines)) <= 120, path.name


def test_the_machine_code_is_kept(tmp_path: Path, compiled: list[str]) -> None:
    first = kept(tmp_path)
    assert first == kept(tmp_path) and compiled == ["labels.cu"]
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("labels-sm_87-") and path.suffix == ".cubin"
    assert kept(tmp_path, "overlay") != kept(tmp_path, capability=(8, 9)) and len(compiled) == 3


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damaged_machine_code_is_made_again(tmp_path: Path, compiled: list[str], damage: bytes | None) -> None:
    whole = kept(tmp_path)
    (path,) = tmp_path.iterdir()
    stored = path.read_bytes()
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]) if damage is None else damage)
    assert kept(tmp_path) == whole and len(compiled) == 2
    assert path.read_bytes() == stored
    assert kept(tmp_path) == whole and len(compiled) == 2


def test_code_of_another_source_option_or_compiler_is_not_used(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path)
    monkeypatch.setattr(kernel_cache, "OPTIONS", (*kernel_cache.OPTIONS, "--use_fast_math"))
    kept(tmp_path)
    edited = tmp_path / "sources"
    edited.mkdir()
    for path in kernel_cache.SOURCES.iterdir():
        edited.joinpath(path.name).write_text(path.read_text().replace("// Number types", "// Types of numbers"))
    monkeypatch.setattr(kernel_cache, "SOURCES", edited)
    kept(tmp_path)
    set_version = Nvrtc.__init__

    def older(self: Nvrtc, library: object) -> None:
        set_version(self, library)  # type: ignore[arg-type]
        self.version = 13, 0

    monkeypatch.setattr(Nvrtc, "__init__", older)
    kept(tmp_path)
    assert len(compiled) == 4 and len(list(tmp_path.glob("*.cubin"))) == 4


def test_what_was_kept_serves_without_a_compiler(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, newest = kept(tmp_path), nvrtc.open_nvrtc(DRIVER).version[0]
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(nvrtc, "_opened", lambda major: None)
    monkeypatch.setattr(nvrtc, "_files", lambda major: [])
    assert kept(tmp_path) == whole
    older = f"{newest - 1}.9"  # a driver that does not take machine code of this compiler
    for name, capability, driver in (("overlay", ORIN, DRIVER), ("labels", (8, 9), DRIVER), ("labels", ORIN, older)):
        with pytest.raises(CannotCompile, match="there is none here"):
            kernel_cache.cubin(name, capability, driver, tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CannotCompile):
        kept(tmp_path)


def test_what_was_kept_serves_where_the_compiler_is_broken(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another NVRTC, which opens and does not compile, as where its builtins are missing."""
    whole, version = kept(tmp_path), nvrtc.open_nvrtc(DRIVER).version
    set_version = Nvrtc.__init__

    def other(self: Nvrtc, library: object) -> None:
        set_version(self, library)  # type: ignore[arg-type]
        self.version = version[0], version[1] + 1

    def broken(self: Nvrtc, source: str, name: str, options: tuple[str, ...]) -> bytes:
        raise CannotCompile("builtins are missing")

    monkeypatch.setattr(Nvrtc, "__init__", other)
    monkeypatch.setattr(Nvrtc, "cubin", broken)
    assert kept(tmp_path) == whole
    with pytest.raises(CannotCompile, match="builtins"):
        kept(tmp_path, "overlay")


def test_all_kernels_are_kept_or_not(tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    *first, last = FUNCTIONS
    for name in first:
        kernel_cache.cubin(name, ORIN, DRIVER)
    assert not kernel_cache.all_kept(ORIN, DRIVER)
    kernel_cache.cubin(last, ORIN, DRIVER)
    assert kernel_cache.all_kept(ORIN, DRIVER) and not kernel_cache.all_kept((8, 9), DRIVER)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, compiled: list[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert kept(blocked / "cache") == kept(blocked / "cache") and len(compiled) == 2


def test_the_cache_is_in_the_users_folder_and_is_the_users_own(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel_cache.cubin("labels", ORIN, DRIVER)
    folder = tmp_path / "pspnet-edge" / "kernels"
    assert len(list(folder.iterdir())) == 1 and folder.stat().st_mode & 0o077 == 0


def test_the_error_in_a_source_is_told(compiler: Nvrtc) -> None:
    options = ("--gpu-architecture=sm_87",)
    said = r"does not compile broken\.cu with --gpu-architecture=sm_87: .*nothing"
    with pytest.raises(PspnetError, match=said) as caught:
        compiler.cubin("__global__ void f() { nothing(); }", "broken.cu", options)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_the_compiler_does_not_know_is_told(compiler: Nvrtc) -> None:
    with pytest.raises(CannotCompile, match=r"this GPU is sm_10\. .*older"):
        kernel_cache.check_known((1, 0), compiler)
    with pytest.raises(CannotCompile, match=r"this GPU is sm_990\. .*newer"):
        kernel_cache.check_known((99, 0), compiler)


@pytest.mark.parametrize(
    ("driver", "package"), [("12.6", "pip install nvidia-cuda-nvrtc-cu12"), ("13.0", "pip install nvidia-cuda-nvrtc,")]
)
def test_where_there_is_no_compiler_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, driver: str, package: str
) -> None:
    monkeypatch.setattr(nvrtc, "_opened", lambda major: None)
    monkeypatch.setattr(nvrtc, "_files", lambda major: [])
    with pytest.raises(PspnetError, match="there is none here") as caught:
        nvrtc.open_nvrtc(driver)
    assert package in str(caught.value) and f"cuda-nvrtc-{driver.replace('.', '-')}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_compiler_that_is_newer_than_the_driver_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_files", lambda major: [Path("libnvrtc.so.13")] if major == 13 else [])
    monkeypatch.setattr(nvrtc.ctypes, "CDLL", lambda name: pytest.fail(name) if "13" in name else _absent())
    with pytest.raises(PspnetError, match=r"driver has CUDA 12\.6: that of CUDA 13 is too new"):
        nvrtc.open_nvrtc("12.6")


def test_the_toolkit_that_is_named_comes_first(
    tmp_path: Path, compiler: Nvrtc, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib64"
    folder.mkdir()
    (folder / nvrtc.NAMES[compiler.version[0]]).symlink_to(os.devnull)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert next(nvrtc._files(compiler.version[0])).parent == folder
    assert nvrtc.open_nvrtc(DRIVER).version == compiler.version  # a file that is no library is passed over


def _absent() -> None:
    raise OSError
