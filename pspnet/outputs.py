"""Outputs that can be written, and do not take the place of what the same command reads: known before the work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import passport_path, read_json, replaceable_file

LONGEST_NAME = 220
"""Bytes of a file's name: file systems take 255, and the temporary file beside it needs a longer one."""


def check_suffix(output: str | Path, suffix: str) -> None:
    """PspnetError where an artefact's name does not end in `suffix`."""
    if Path(output).suffix != suffix:
        raise PspnetError(f"output {output} must end in {suffix}, by which every command knows what it is. Change -o")


def check_outputs(
    inputs: Iterable[str | Path], files: Iterable[str | Path], folders: Iterable[str | Path] = ()
) -> None:
    """PspnetError where an output is an input, is named twice, or cannot be written where it shall be.

    files: outputs that are files; folders: those that are folders, which may exist. Folders that are missing on the way
    to an output are fine where they can be made. An input is also whatever a folder holds, directly or through links, a
    list of pictures names, and what belongs to an ONNX file (a guest's spec, a calibration table, weights beside it) or
    to an engine (its passport). Called before the work begins, so that hours are not lost to a mistyped path.
    """
    sources = [Path(path) for path in inputs]
    outputs = [*((path, False) for path in files), *((path, True) for path in folders)]
    taken = {os.path.realpath(path): "read" for path in sources if not path.is_dir()}
    for path, is_folder in outputs:
        real = Path(os.path.realpath(path))
        if str(real) in taken:
            raise PspnetError(
                f"{path} would be {taken[str(real)]} and overwritten by the same command: give another output"
            )
        if len(os.fsencode(real.name)) > LONGEST_NAME:
            raise PspnetError(f"the name of output {real.name[:40]}... is too long: {LONGEST_NAME} bytes at most")
        if not is_folder:
            replaceable_file(path)
        elif real.exists() and not real.is_dir():
            raise PspnetError(f"{path} is a file, and a folder is needed: give another output")
        _check_place(path, real if is_folder else real.parent)
        if real.is_file() and (source := next((source for source in sources if _reads(source, real)), None)):
            raise PspnetError(
                f"{path} exists and belongs to {source}, which the same command reads: give another output"
            )
        taken[str(real)] = "written by another option"
    written = {os.path.realpath(path): path for path, is_folder in outputs if not is_folder}
    for path, _ in outputs:
        if above := next((written[str(p)] for p in Path(os.path.realpath(path)).parents if str(p) in written), None):
            raise PspnetError(f"{path} lies below {above}, which another option writes as a file: give another output")


def _check_place(path: str | Path, folder: Path) -> None:
    """PspnetError where no file can be made in `folder`, or in the first one above it that exists."""
    if why := why_unwritable(folder):
        raise PspnetError(f"cannot write {path}: no file can be made in {why}. Choose another place")


def why_unwritable(folder: Path) -> str:
    """Why no file can be made in `folder`, or in the first above it that exists; "" where one can.

    Tried out and not asked for: root has every right in folders such as /proc, and still cannot write there.
    """
    ancestor = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=ancestor):
            return ""
    except OSError as error:
        return f"{ancestor} ({error.strerror or error})"


def _reads(source: Path, file: Path) -> bool:
    """Whether a command that is given `source` may read `file`, a real path."""
    if source.is_dir():
        return Path(os.path.realpath(source)) in file.parents or _links_to(source, file)
    if not source.is_file():
        return False
    if source.suffix == ".onnx":
        return _belongs_to_model(source, file)
    if source.suffix == ".engine":
        return str(file) == os.path.realpath(passport_path(source))
    return source.suffix in (".txt", ".json") and _names(source, file)


def _links_to(folder: Path, file: Path) -> bool:
    """Whether a link in the folder, at any depth, leads to the file or to a folder that holds it."""
    waiting, seen = [str(folder)], set()
    while waiting:
        here = os.path.realpath(waiting.pop())
        if here in seen or not os.access(here, os.R_OK | os.X_OK):
            continue
        seen.add(here)
        if Path(here) in file.parents:
            return True
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.is_symlink() and os.path.realpath(entry.path) == str(file):
                    return True
    return False


def _belongs_to_model(model: Path, file: Path) -> bool:
    """Whether the file is the JSON beside an ONNX file, unless that holds earlier figures, or has its weights."""
    if str(file) == os.path.realpath(model.with_suffix(".json")):
        return not _holds_figures(file)
    if Path(os.path.realpath(model.parent)) not in file.parents:  # weights elsewhere are refused when they are read
        return False
    from pspnet.metadata import external_files

    try:
        return file in external_files(model)
    except PspnetError:  # no model, and so without weights; told by whoever reads it
        return False


def _holds_figures(file: Path) -> bool:
    """Whether a JSON file can be written again: it is neither the spec of a guest nor a calibration table."""
    try:
        raw = read_json(file, "file")
    except PspnetError:
        return False
    return isinstance(raw, dict) and "class_names" not in raw and "amax" not in raw


def _names(source: Path, file: Path) -> bool:
    """Whether a list of pictures names the file, or holds its classes beside it; or bench figures name a picture."""
    if source.suffix == ".txt" and (file.name == "classes.json" or file.stem.endswith(("_names", "_colors"))):
        return True
    try:
        words = source.read_text(encoding="utf-8", errors="replace").replace('"', " ").split()
    except OSError:
        return False
    return any(word.rpartition("/")[2] == file.name for word in words)
