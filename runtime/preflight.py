"""What is checked of an engine before TensorRT sees it: a plan is native code, and one of another machine crashes late.

The hash finds damage and mix-ups. Against malice it does not help, since whoever can write the plan can write the
passport too: therefore the rights on both are checked, and a hash can be pinned elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pspnet.errors import PspnetError
from runtime.passport import Passport, gpu_facts, passport_path, rebuild_command, this_platform

if TYPE_CHECKING:
    from runtime.cuda import Device


def checked_plan(
    path: str | Path, device: Device, version: str, pinned_sha256: str | None = None
) -> tuple[bytes, Passport]:
    """The bytes of the engine at `path`, fit to be deserialised here, and its passport.

    The file is read once, and what is returned is what was checked. device: the GPU that it shall run on; version: of
    the installed TensorRT; pinned_sha256: hex, what the plan's hash must be whatever the passport says.

    PspnetError, with the command that builds the engine again, where others may write the plan, its passport or their
    folder, where the passport is missing or damaged, and where length, hash, platform, TensorRT or GPU are others.
    """
    path = Path(path)
    beside = passport_path(path)
    check_folders(path)
    if not beside.is_file():
        raise PspnetError(
            f"{path} has no passport: {beside.name} is missing beside it, so nobody knows what it runs on. Copy it "
            f"too, or build the engine here: {rebuild_command(path)}"
        )
    _check_rights(beside.stat(), beside)
    passport = Passport.load(beside)
    with _opened(path) as file:
        status = os.fstat(file.fileno())  # of the very file that is read, whatever its name leads to by now
        _check_rights(status, path)
        if status.st_size != passport.plan_bytes:
            raise _other(path, passport, f"has {status.st_size} bytes", f"{passport.plan_bytes}")
        plan = file.read(passport.plan_bytes + 1)
    _check_hash(plan, path, passport, pinned_sha256)
    _check_machine(path, passport, device, version)
    return plan, passport


def check_folders(path: Path) -> None:
    """PspnetError where others may put another file in the plan's place: by its name, or where a link leads."""
    for file in {Path(os.path.abspath(path)), Path(os.path.realpath(path))}:
        for folder in file.parents:
            try:
                mode = folder.stat().st_mode
            except OSError:  # told by whoever opens the file
                continue
            # Further up, the sticky bit is enough: in /tmp nobody can rename the folder of another.
            if mode & stat.S_IWOTH and (folder == file.parent or not mode & stat.S_ISVTX):
                raise PspnetError(
                    f"everybody may write to the folder {folder}, so anybody can replace {path}, which is native code. "
                    f"Close it with chmod go-w {folder}, or build the engine elsewhere: {rebuild_command('NEW.engine')}"
                )


def refusal_for_rights(path: str | Path) -> str:
    """Why `checked_plan` refuses an engine for the rights on it, its passport or a folder, "" where it takes it."""
    path = Path(path)
    try:
        check_folders(path)
        for each in (passport_path(path), path):
            _check_rights(each.stat(), each)
    except PspnetError as error:
        return str(error)
    return ""


def _check_rights(status: os.stat_result, path: Path) -> None:
    if status.st_mode & stat.S_IWOTH:
        raise PspnetError(
            f"everybody may write to {path}, and an engine is native code. If you trust it as it is: chmod go-w "
            f"{path}; otherwise build it again: {rebuild_command(_engine_of(path))}"
        )


def _engine_of(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".json" else path


def _opened(path: Path):  # type: ignore[no-untyped-def]
    try:
        return open(path, "rb")
    except OSError as error:
        reason = error.strerror or error
        raise PspnetError(f"cannot read engine {path}: {reason}. Build one with {rebuild_command(path)}") from error


def _check_hash(plan: bytes, path: Path, passport: Passport, pinned_sha256: str | None) -> None:
    found = hashlib.sha256(plan).hexdigest()
    if found != passport.plan_sha256:
        raise _other(path, passport, f"has the SHA-256 {found[:16]}...", f"{passport.plan_sha256[:16]}...")
    if pinned_sha256 is not None and found != pinned_sha256.strip().lower():
        raise PspnetError(
            f"{path} has the SHA-256 {found}, {pinned_sha256} is pinned: it is another engine than the one that was "
            f"approved. Bring that one, or pin the hash of this one after {rebuild_command(path, passport)}"
        )


def _check_machine(path: Path, passport: Passport, device: Device, version: str) -> None:
    """PspnetError where the plan was built on another kind of machine; TensorRT promises nothing across these."""
    gpu, here = passport.gpu, gpu_facts(device)
    for what, built, found in (
        ("on", passport.platform, this_platform()),
        ("by TensorRT", passport.tensorrt, version),
        ("on the GPU", _gpu_name(gpu), _gpu_name(here)),
    ):
        if built != found:
            raise PspnetError(
                f"{path} was built {what} {built}, and this is {found}: an engine runs only where it was built. Build "
                f"it here: {rebuild_command(path, passport)}"
            )


def _gpu_name(facts: dict[str, object]) -> str:
    return "{name} (compute capability {compute_capability}, {multiprocessors} multiprocessors)".format(**facts)


def _other(path: Path, passport: Passport, found: str, stated: str) -> PspnetError:
    return PspnetError(
        f"{path} {found}, its passport says {stated}: it is damaged, cut short, or of another build. Copy both files "
        f"again, or build it again: {rebuild_command(path, passport)}"
    )
