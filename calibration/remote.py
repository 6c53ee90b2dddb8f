"""`pspnet build --on ssh://...`: a build that is begun, watched and fetched from here, on the board that will run it.

The inputs go to a folder on the board whose name is a hash of them and of the flags. The build there is a session of
its own that no broken connection ends; the same command finds it again, and what has been copied is not copied twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from calibration.board import Address, Board
from calibration.board_build import CACHE, PICTURES, PROBE, RESULTS, end_build, watched_build
from calibration.build_check import Limits, PictureChoice, check_float
from calibration.build_sources import companions, source_at
from calibration.packed_pictures import pack_pictures
from calibration.timing_cache import FOLDER
from pspnet.errors import EndedBySignal, PspnetError
from pspnet.files import atomic_path, passport_path, sha256_of
from pspnet.metadata import external_files
from pspnet.outputs import check_outputs
from pspnet.wording import own_version
from runtime.preflight import check_folders

IN_OTHER_FORM = {
    "help", "on", "model", "output", "json", "timing_cache", "data", "dataset", "split", "images",
}  # fmt: skip
"""Arguments that are for this machine, or that name files, which lie elsewhere on the board."""
ROOM = 3
"""Times the size of what is sent that must be free: for it, for the plans, and for what is fetched."""
KILLED = 128 + 9
READABLE = 0o644
"""Of what is fetched, whatever the umask: an engine that others may write is refused."""
REPORT = "report.json"
END_OF_LIST = "----"
OUTCOME = f"""cd "$1/{RESULTS}" || exit
for file in *; do if [ -f "$file" ]; then echo "$(sha256sum < "$file" | cut -c -64) $(wc -c < "$file") $file"; fi; done
echo {END_OF_LIST}; cat ../out"""
REMOVE = 'rm -rf -- "$1"'


@dataclass(frozen=True)
class Job:
    """A build. files: name on the board -> path here; arguments: of pspnet there, in the folder with these files.

    results: name on the board -> place here.
    """

    files: dict[str, Path]
    hashes: dict[str, str]
    arguments: tuple[str, ...]
    results: dict[str, Path]

    @property
    def key(self) -> str:
        """16 hex digits that stand for the bytes of all files and for the arguments."""
        return hashlib.sha256(json.dumps([self.hashes, self.arguments]).encode()).hexdigest()[:16]


def build_on(args: argparse.Namespace) -> int:
    """Build on the board at `args.on` with the other arguments of `pspnet build`; returns the exit code of the build.

    Written are the engine, its passport and the timing cache, with hashes compared. Ctrl-C during the build ends it on
    the board too; during a copy it leaves what has been copied, and the same command goes on there. SIGTERM and SIGHUP
    leave the build on the board alone.
    """
    board = Board(Address.from_url(args.on))
    with tempfile.TemporaryDirectory() as packed:
        job = job_of(args, Path(packed))
        folder = f"{board.address.folder}/{job.key}"
        check_board(board, job)
        for name, path in job.files.items():
            board.insist(partial(board.upload, path, f"{folder}/{name}", job.hashes[name]))
    try:
        code, failures = watched_build(board, folder, job.key, job.arguments)
    except EndedBySignal:  # this machine is shut down, or the terminal closed: no wish to end what runs elsewhere
        print(f"\nthe build goes on on {board.name}, and the same command finds it", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        end_build(board, folder)
        raise
    listed, _, said = board.insist(lambda: board.run(OUTCOME, folder)).partition(f"{END_OF_LIST}\n")
    fetch(board, folder, job, listed, complete=code == 0)
    board.insist(lambda: board.run(REMOVE, folder))
    print(said, end="", flush=True)
    if code in (2, KILLED):
        last = failures[-1] if failures else "the build was killed, most likely for its memory. Try --low-memory"
        raise PspnetError(f"on {board.name}: {last}")
    for line in failures:
        print(f"pspnet: on {board.name}: {line}", file=sys.stderr)
    return code


def job_of(args: argparse.Namespace, packed: Path) -> Job:
    """What the command line means on the board; PspnetError for what no board could do. packed: folder for archives."""
    model, source = Path(args.model), source_at(args.model)
    output = Path(args.output) if args.output else model.with_suffix(".engine")
    pictures = PictureChoice(args.data, args.dataset, args.split, args.images)
    check_folders(output)
    check_float(source, source.float_source(), Limits(args.max_miou_drop, args.min_agreement))
    files = inputs_of(model)
    results = {output.name: output, passport_path(output).name: passport_path(output)}
    arguments = ["build", model.name, "-o", f"{RESULTS}/{output.name}"]
    if args.json:
        results[REPORT] = Path(args.json)
        arguments += ["--json", f"{RESULTS}/{REPORT}"]
    if args.timing_cache:
        results[CACHE] = Path(args.timing_cache)
        arguments += ["--timing-cache", CACHE]
    check_outputs([*files.values(), *filter(None, [args.data])], results.values())
    if args.timing_cache and results[CACHE].is_file():
        files[CACHE] = results[CACHE]
    if args.data:
        files[PICTURES] = packed / PICTURES
        arguments += pack_pictures(pictures, source, files[PICTURES])
    hashes = {name: sha256_of(path) for name, path in files.items()}
    return Job(files, hashes, (*arguments, *flags_of(args)), results)


def inputs_of(model: Path) -> dict[str, Path]:
    """What a build of `model` reads beside its pictures: name from the model's folder -> path."""
    read = [model, *companions(model)]
    weights = [file for path in read if path.suffix == ".onnx" for file in external_files(path)]
    folder = os.path.realpath(model.parent)
    return {path.name: path for path in read} | {
        Path(os.path.relpath(file, folder)).as_posix(): file for file in weights
    }


def flags_of(args: argparse.Namespace) -> list[str]:
    """The flags of `pspnet build` that were given and mean the same on the board."""
    from pspnet.engine_arguments import add_build

    flags: list[str] = []
    verbs = argparse.ArgumentParser().add_subparsers()
    add_build(verbs)
    for action in verbs.choices["build"]._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest in IN_OTHER_FORM or value == action.default:
            continue
        if action.nargs == 0:  # a flag without a value; of a pair such as --check and --no-check the one that was given
            flags.append(action.option_strings[-1 if value is False else 0])
        else:
            flags += [action.option_strings[-1], str(value)]
    return flags


def check_board(board: Board, job: Job) -> None:
    """PspnetError unless the board can be reached, has this version of pspnet, and room for the files."""
    address = board.address
    *_, space, program, said = ["", "", *board.run(PROBE, address.folder, address.venv).splitlines()]
    if program == "-" or not said:
        raise PspnetError(
            f"no pspnet on {board.name}"
            + (f" in the environment {address.venv}, which has no bin/pspnet: name the one that has it in ?venv=, or "
               "install it there" if address.venv else ": name the environment that has it, as in "
               f"--on ssh://{address.host}?venv=pspnet-edge/.venv, or install it there")
        )  # fmt: skip
    if said != (here := f"pspnet-edge {own_version()}"):
        raise PspnetError(f"{board.name} has {said[:60]}, this machine {here}: install the same version on both")
    available = re.search(r"(\d+)\s+\d+%\s", space)
    free = 1024 * int(available[1]) if available else 0
    needed = ROOM * sum(path.stat().st_size for path in job.files.values())
    if free < needed:
        raise PspnetError(
            f"{board.name} has {free / 1e6:.0f} MB free in {address.folder}, the build needs {needed / 1e6:.0f}: free "
            "some space there, or name a folder on another disk in --on ssh://HOST/FOLDER"
        )


def fetch(board: Board, folder: str, job: Job, listed: str, complete: bool) -> None:
    """Copy the results of the build to their places here. complete: all must be there; a failed build leaves a report.

    listed: SHA-256, size and name of what is there, a line each. The board's own timing cache goes to the user's cache
    folder, from where --timing-cache gives it to another board.
    """
    kept = cache_home() / "pspnet-edge" / "remote" / job.key
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    there = {name: (digest, int(size)) for digest, size, name in rows}
    if complete and (lost := [name for name in job.results if name not in there]):
        raise PspnetError(f"the build on {board.name} left no {lost[0]}: run the same command again")
    own = [name for name in there if name not in job.results and re.fullmatch(r"\w[^/]*\.cache", name)]
    places = job.results | {name: cache_home() / FOLDER / name for name in own}
    copies = {name: kept / there[name][0] for name in places if name in there}
    for name, copy in copies.items():
        digest, size = there[name]
        board.insist(partial(board.download, f"{folder}/{RESULTS}/{name}", copy, size, digest))
    with ExitStack() as stack:
        for name, copy in copies.items():
            temporary = stack.enter_context(atomic_path(places[name]))
            shutil.copyfile(copy, temporary)
            temporary.chmod(READABLE)
    shutil.rmtree(kept, ignore_errors=True)


def cache_home() -> Path:
    """The user's folder for what can be made again; half copied files wait there, out of sight."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
