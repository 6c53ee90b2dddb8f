"""Parts of a long benchmark that are run once: an interrupted benchmark goes on where it was."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import read_json, replaceable_file, sha256_of, write_json
from pspnet.recipe import changed_settings
from runtime.bench_report import stamped

INTERRUPTED = 130


def parser(description: str | None, work: str) -> argparse.ArgumentParser:
    """The options that every such benchmark takes; work: default folder of its runs."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True)
    options.add_argument("--dataset", default="auto")
    options.add_argument("--epochs", type=int, default=50, help="of each training run")
    options.add_argument("--split", default="val", help="that is scored")
    options.add_argument("--work", default=work, help="folder for the runs")
    options.add_argument("--json", help="write the figures here")
    options.add_argument("train", nargs="*", help="after --: more flags of `pspnet train`")
    return options


def finished(args: argparse.Namespace, measured: Callable[[argparse.Namespace], dict[str, Any]], program: str) -> int:
    """Run a benchmark and write what it measured to args.json; returns the exit code, as of `pspnet`."""
    try:
        if args.json:
            replaceable_file(args.json)  # known before hours of training
        result = measured(args)
        if args.json:
            write_json(args.json, stamped(result, f"python benchmarks/{program}"))
    except PspnetError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


def trained(folder: Path, arguments: Sequence[str], inputs: Sequence[str | Path]) -> Path:
    """The best checkpoint of `pspnet train` with `arguments`, which are run, gone on with, or found finished.

    inputs: files that the run depends on. PspnetError where the folder holds a run of other arguments or inputs.
    """
    record = _record(arguments, inputs)
    if _has_run(folder):
        _claim(folder / "run.json", record)
    else:
        write_json(folder / "run.json", record)  # what failed before its first epoch may be corrected
    result = folder / "result.json"
    if not result.exists():
        resume = ["--resume"] if (folder / "last.pt").exists() else []
        run(["train", *arguments, *resume, "-o", str(folder), "--json", str(result)])
    return folder / "best.pt"


def changes_of(folder: Path, arguments: Sequence[str], inputs: Sequence[str | Path]) -> list[str]:
    """How `trained` with these would differ from the run in `folder`, one text per flag; [] where there is none yet."""
    path = folder / "run.json"
    if not path.exists() or not _has_run(folder):
        return []
    return _changes(read_json(path, "record of a run"), _record(arguments, inputs))


def pruned(output: Path, arguments: Sequence[str], checkpoint: str | Path) -> dict[str, Any]:
    """What `pspnet prune` says of `checkpoint`; its file is `output`."""
    facts = output.with_suffix(".json")
    _claim(output.with_suffix(".run.json"), {"arguments": list(arguments), "inputs": [_hash_of(checkpoint)]})
    if not (output.exists() and facts.exists()):
        run(["prune", str(checkpoint), *arguments, "-o", str(output), "--json", str(facts)])
    return read_json(facts, "pruning record")


def scores(artefact: str | Path, data: Sequence[str], split: str, folder: Path) -> dict[str, Any]:
    """What `pspnet evaluate` writes about one split; of a checkpoint on torch. Not run again for the same file.

    data: the words --data and --dataset with their values. The same file on other data is another part.
    """
    where = [str(Path(word).resolve()) if Path(word).exists() else word for word in data]
    on = hashlib.sha256("\0".join(where).encode()).hexdigest()[:8]
    name = f"{_hash_of(artefact)[:16]}-{split}-{on}.json"
    if not (folder / name).exists():
        run(["evaluate", str(artefact), *data, "--split", split, "--json", str(folder / name)])
    found = read_json(folder / name, "evaluation")
    return {key: found[key] for key in ("miou", "macc", "pixel_accuracy", "protocol")}


def run(arguments: Sequence[str]) -> None:
    """One `pspnet` command, which prints its own errors."""
    print(f"pspnet {' '.join(arguments)}", flush=True)
    code = main(arguments)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise PspnetError(f"pspnet {arguments[0]} failed with exit code {code}, see above. The same command goes on")


def _has_run(folder: Path) -> bool:
    """Whether a training got past its first epoch there."""
    return (folder / "last.pt").exists() or (folder / "result.json").exists()


def _record(arguments: Sequence[str], inputs: Sequence[str | Path]) -> dict[str, Any]:
    return {"arguments": list(arguments), "inputs": [_hash_of(path) for path in inputs]}


def _hash_of(path: str | Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise PspnetError(
            f"cannot read {path}, on which the result depends: {error.strerror or error}. Correct its path"
        ) from error


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How two records of a part differ, one text per flag. Their order is no change, nor is "--lr=1" for "--lr 1"."""
    flags = [_flags_of(record["arguments"]) for record in (before, now)]
    names = list({**flags[0], **flags[1]})
    changed = changed_settings(*({name: each.get(name, "not given") for name in names} for each in flags))
    # Sorted, since the files are listed in the order of their flags.
    if changed or sorted(before["inputs"]) == sorted(now["inputs"]):
        return changed
    if len(before["inputs"]) != len(now["inputs"]):
        gone = len(before["inputs"]) > len(now["inputs"])
        return ["a file that it names is gone" if gone else "a file that it names was not there before"]
    return ["the contents of a file that it names"]


def _flags_of(words: Sequence[str]) -> dict[str, str]:
    """Flag without its dashes -> its values as one text, the last ones where it is given twice.

    --no-FLAG is FLAG with the value "no": of both, too, the last one counts.
    """
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            if name.startswith("no-"):
                name, value = name[3:], "no"
            found[name] = value
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    return {name: value or "given" for name, value in found.items()}


def _claim(path: Path, record: dict[str, Any]) -> None:
    if path.exists() and (changed := _changes(read_json(path, "record"), record)):
        raise PspnetError(
            f"{path.parent} holds parts with other settings ({'; '.join(changed)}): choose another folder for the runs"
        )
    write_json(path, record)
