"""The model card of a shipped checkpoint: its facts as JSON, and the same as a page. Nothing in it is typed by hand.

Facts come from the checkpoint (network, recipe, commands, curves), from the files of scores that the test log names,
and from NAME.toml beside it, for what no file can say: where the weights began, what they are not for.

    licence = "..."      recipe = "..."      limits = "..."      published = "..."     paragraphs, Markdown
    data = "data/camvid11"                                                             folder in the commands
    calibrate = "--equalise"                 flags with which the INT8 files were made
    commands = ["pspnet train ..."]          of a checkpoint from before checkpoints kept their own
    results = ["docs/results/....json"]      scores whose lines in the log do not name the checkpoint
    [labels]                                 what an artefact is called in the table
    "model.int8.onnx" = "model.int8.onnx (plain calibration)"
"""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.test_log import LOG, PLAIN, located, read_log, recipe_hash
from pspnet.checkpoint import read_checkpoint
from pspnet.errors import PspnetError
from pspnet.files import read_json, sha256_of
from pspnet.shipped import KIND
from pspnet.spec import ModelSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOTES = ("licence", "recipe", "limits", "published", "data", "calibrate", "commands", "results", "labels")
FIGURES = ("miou", "macc", "pixel_accuracy", "f1")
NO_SETTINGS = ("init", "init_recipe", "weights", "made_with", "hold_out", "note")

RUN_FILES = ("last.pt", "best.pt")
"""What a training run writes into its folder; a file of another name was packed or pruned after it."""

FP32 = "fp32"
Row = dict[str, Any]


def facts_of(checkpoint: Path, log: Path = LOG, packed: Path | None = None) -> Row:
    """Everything that a card says, for NAME.json. PspnetError where scores are missing or of another file.

    packed: the file that will become `checkpoint`, where it has not taken its place yet.
    """
    file, toml = packed or checkpoint, checkpoint.with_suffix(".toml")
    spec, raw = read_checkpoint(file)
    notes, sha256 = notes_of(toml), sha256_of(file)
    lines = [row for row in read_log(log) if "miou" in row]
    check_results(notes, lines, sha256, log, toml)
    scores, labels = scores_of(lines, notes, sha256, log, spec.input_size)
    lines = [row for row in lines if row.get("labels_sha256", labels) == labels]
    plain = sorted((row for row in scores if row["mode"] == PLAIN), key=checkpoint_first)
    names = ("backbone", "output_stride", "bins", "head_channels", "align_corners", "fit", "dataset", "licence")
    floats = [tensor for tensor in raw["model"].values() if tensor.is_floating_point()]
    trained = [
        value.numel() for name, value in raw["model"].items() if not name.endswith(("running_mean", "running_var"))
    ]
    return {
        "kind": KIND, "file": checkpoint.name, "sha256": sha256, "bytes": file.stat().st_size,
        **{name: getattr(spec, name) for name in names}, "input_size": spec.input_size, "classes": spec.class_names,
        "types": sorted({str(value.dtype).removeprefix("torch.") for value in floats}),
        "parameters": sum(trained) - sum(v.ndim == 0 for v in raw["model"].values()),
        "stages": stages_of(spec.recipe), "commands": commands_of(spec.recipe, checkpoint.stem, notes),
        "commit": spec.recipe.get("made_with", {}).get("commit", ""), "note": spec.recipe.get("note", ""),
        "averaged": spec.recipe.get("averaged", []), "shared_stages": shared_stages(raw.get("histories", [])),
        "seeds": seeds_of(spec, lines, plain, sha256), "test": _headline(plain), "precisions": _precisions(plain),
        "scores": scores, "histories": raw.get("histories", []), "notes": notes,
    }  # fmt: skip


def notes_of(path: Path) -> Row:
    """What NAME.toml says; PspnetError where it is missing or has other keys."""
    try:
        notes = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PspnetError(
            f"cannot read {path} ({error.strerror}): a card needs the licence and the limits that no file can say. "
            "Write it as the one of another checkpoint"
        ) from error
    except ValueError as error:
        raise PspnetError(f"{path} is no TOML file: {str(error).splitlines()[0]}. Mend it") from error
    if unknown := [name for name in notes if name not in NOTES]:
        raise PspnetError(f"{path} has the unknown key {unknown[0]}: it may have {', '.join(NOTES)}")
    if missing := [name for name in ("licence", "limits") if not notes.get(name)]:
        raise PspnetError(f"{path} lacks {missing[0]}: write it there")
    return notes


def check_results(notes: Row, lines: list[Row], sha256: str, log: Path, toml: Path) -> None:
    """PspnetError where `results` of the notes lists scores of another checkpoint, or nothing shows that it does not.

    What was made from a checkpoint does not say from which, so the checkpoint's own scores must be in the list.
    """
    known = False
    for name in (listed := notes.get("results", [])):
        protocol = read_json(located(name, log), "file of scores", f"Correct `results` in {toml}")["protocol"]
        of = {row["checkpoint_sha256"] for row in lines if row.get("file") == name and "checkpoint_sha256" in row}
        own = Path(protocol["artefact"]).suffix == ".pt"
        if others := (of | ({protocol["sha256"]} if own else set())) - {sha256}:
            raise PspnetError(
                f"{name} is of another checkpoint (SHA-256 {min(others)[:16]}…): remove `results = [...]` from {toml}, "
                f"and what else it says of that one (recipe, commands, labels); {log.name} names the scores of this one"
            )
        known = known or own
    if listed and not known:
        raise PspnetError(
            f"`results` in {toml} lists no scores of the checkpoint itself, so the others may be of another: remove it "
            f"where they are; {log.name} names the scores that benchmarks/final_test.py measured"
        )


def scores_of(
    lines: list[Row], notes: Row, sha256: str, log: Path, size: tuple[int, int]
) -> tuple[list[Row], str]:  # fmt: skip
    """Scores on test, one row per artefact, size, engine, precision and mode, as each was measured last; and the
    SHA-256 of their labels, "" without scores. Of several data sets, only the one with the most pictures counts: others
    are tries. size: (height, width) of the checkpoint; the rows of another size say so with network_size.
    """
    own = [row["file"] for row in lines if row.get("checkpoint_sha256") == sha256]
    advice = f"Measure it again, or correct {log.name} or the notes"
    paths = {name: located(name, log) for name in [*notes.get("results", []), *own]}
    files = {name: read_json(path, "file of scores", advice) for name, path in paths.items()}
    sizes = [(found["protocol"]["images"], found["protocol"].get("labels_sha256", "")) for found in files.values()]
    labels = max(sizes)[1] if sizes else ""
    rows: dict[tuple[str, ...], Row] = {}
    for name, found in files.items():
        protocol = found["protocol"]
        if protocol.get("labels_sha256", "") != labels:
            continue
        if Path(protocol["artefact"]).suffix == ".pt" and protocol["sha256"] != sha256:
            raise PspnetError(
                f"{paths[name]} is of another checkpoint (SHA-256 {protocol['sha256'][:16]}…): measure this one"
            )
        own_size = list(protocol.get("network_size", size))
        dates = [row["date"] for row in lines if row.get("file") == name and "date" in row]
        row = {key: found[key] for key in FIGURES}
        row |= {key: protocol[key] for key in ("artefact", "engine", "precision", "mode", "images", "name", "dataset")}
        row |= {"split": protocol["split"], "inference": protocol.get("inference")}
        row |= {"date": dates[-1] if dates else "", "result": name}
        row["iou"] = {label: values["iou"] for label, values in found["per_class"].items()}
        row["pixels"] = {label: values["pixels"] for label, values in found["per_class"].items()}
        row |= {} if own_size == list(size) else {"network_size": own_size}
        rows[protocol["artefact"], str(own_size), protocol["engine"], protocol["precision"], protocol["mode"]] = row
    return list(rows.values()), labels


def seeds_of(spec: ModelSpec, lines: list[Row], plain: list[Row], sha256: str) -> list[Row]:
    """Test mIoU in float32 of every seed of this recipe that the log has, this checkpoint's own among them.

    The own figure is of the very file where that was measured, and that of another seed of the checkpoint, not of what
    was made from it. Of an average of several, those of the runs that it was made of.
    """
    wanted, averaged, found = recipe_hash(spec), spec.recipe.get("averaged"), {}
    of_recipe = [
        row for row in lines
        if row.get("recipe") == wanted and row.get("precision") == FP32 and row.get("mode") == PLAIN
        and (row.get("seed") in averaged if averaged else row.get("seed") is not None)
    ]  # fmt: skip
    for row in sorted(of_recipe, key=lambda row: _rank(row, sha256)):
        found.setdefault(row["seed"], {"miou": row["miou"], "result": row["file"]})
    own, measured = spec.recipe.get("seed"), [row for row in plain if row["precision"] == FP32]
    if own is not None and own not in found and measured:
        found[own] = {key: measured[0][key] for key in ("miou", "result")}
    return [{"seed": seed, **found[seed]} for seed in sorted(found)]


def _rank(row: Row, sha256: str) -> tuple[bool, bool]:
    """Sorts lines: those of this checkpoint first, those of a checkpoint itself before what was made from it."""
    return row.get("checkpoint_sha256") != sha256, row.get("sha256") != row.get("checkpoint_sha256")


def checkpoint_first(row: Row) -> tuple[bool, bool, bool]:
    """Sorts scores: float32 first, then the checkpoint's own size, and the checkpoint before what was made from it."""
    return row["precision"] != FP32, "network_size" in row, Path(row["artefact"]).suffix != ".pt"


def spread_of(seeds: list[Row]) -> tuple[float, float]:
    """Mean and sample standard deviation over two seeds or more."""
    values = [row["miou"] for row in seeds]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def stages_of(recipe: Row) -> list[Row]:
    """The settings of every training that led here, the first one first; "start" says what it began with."""
    before = stages_of(recipe["init_recipe"]) if isinstance(recipe.get("init_recipe"), dict) else []
    names = [recipe.get(name) or "" for name in ("weights", "init", "pruned")]
    start = next((name for name in names if name not in ("", "none")), "")
    settings = {name: value for name, value in recipe.items() if name not in NO_SETTINGS}
    return [*before, {"start": start, "settings": settings}]


def shared_stages(histories: list[Row]) -> int:
    """How many stages, from the first, were trained once for all seeds; 0 where the runs do not say."""
    if len(histories) < 2:
        return 0
    stages = zip(*(each.get("stage_seeds", []) for each in histories), strict=False)
    return len(list(itertools.takewhile(lambda seeds: len(set(seeds)) == 1, stages)))


def commands_of(recipe: Row, name: str, notes: Row) -> list[str]:
    """The command of every training in order, or what the notes say where one did not keep its own.

    A training that began with a file of another name than a run's, weights/NAME.pt for example, is the first one: no
    training before it writes that file, whose own card says how it came about.
    """
    chain: list[Row] = []
    while isinstance(recipe, dict) and recipe:
        chain.insert(0, recipe)
        recipe = recipe.get("init_recipe", {})
    words = [shlex.split(each.get("made_with", {}).get("command", "")) for each in chain]
    if not all(words) and notes.get("commands"):
        return list(notes["commands"])
    begin = max((i for i, each in enumerate(words) if i and Path(init_of(each)).name not in RUN_FILES), default=0)
    if not all(words := words[begin:]):
        return []
    # A command is kept without its output: the next one names it, and the last one's is free.
    outputs = []
    for number, following in enumerate(words[1:], 1):
        init = Path(init_of(following))
        if init.parent == Path("."):  # a run elsewhere is kept by its file's name alone: give it a folder
            init = Path(f"runs/{name}-stage{number}", init.name)
            words[number] = _with_init(following, init.as_posix())
        outputs.append(init.parent.as_posix())
    last = f"runs/{name}" + "".join(f"-seed{seed}" for seed in chain[-1].get("averaged", [])[:1])
    return [shlex.join([*each, "-o", output]) for each, output in zip(words, [*outputs, last], strict=True)]


def init_of(words: list[str]) -> str:
    """The checkpoint that a command of `pspnet train` begins with; "" without --init."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--init" or word.startswith("--init="):
            return following if word == "--init" else word.partition("=")[2]
    return ""


def _with_init(words: list[str], path: str) -> list[str]:
    """The same command, beginning with another file."""
    before = init_of(words)
    return [{before: path, f"--init={before}": f"--init={path}"}.get(word, word) for word in words]


def _headline(plain: list[Row]) -> Row | None:
    names = ("miou", "engine", "precision", "mode", "images", "name", "dataset", "split", "date")
    return {name: plain[0][name] for name in names} if plain else None


def _precisions(plain: list[Row]) -> dict[str, float]:
    """mIoU by precision, of the first engine that measured it."""
    found: dict[str, float] = {}
    for row in plain:
        found.setdefault(row["precision"], row["miou"])
    return found
