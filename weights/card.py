"""The model card of a shipped checkpoint: its facts as JSON, and the same as a page. Nothing in it is typed by hand.

Facts come from the checkpoint (network, recipe, commands, curves), from the files of scores that the test log names,
and from NAME.toml beside it, for what no file can say: where the weights began, what they are not for.

    licence = "..."      recipe = "..."      limits = "..."      published = "..."     paragraphs, Markdown
    data = "data/camvid11"                                                             folder in the commands
    commands = ["pspnet train ..."]          of a checkpoint from before checkpoints kept their own
    results = ["docs/results/....json"]      scores whose lines in the log do not name the checkpoint
    [labels]                                 what an artefact is called in the table
    "model.int8.onnx" = "model.int8.onnx (plain calibration)"
"""

from __future__ import annotations

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

NOTES = ("licence", "recipe", "limits", "published", "data", "commands", "results", "labels")
FIGURES = ("miou", "macc", "pixel_accuracy", "f1")
NO_SETTINGS = ("init", "init_recipe", "weights", "made_with", "hold_out", "note")

Row = dict[str, Any]


def facts_of(checkpoint: Path, log: Path = LOG) -> Row:
    """Everything that a card says, for NAME.json. PspnetError where scores are missing or of another file."""
    spec, raw = read_checkpoint(checkpoint)
    notes, sha256 = notes_of(checkpoint.with_suffix(".toml")), sha256_of(checkpoint)
    lines = [row for row in read_log(log) if "miou" in row]
    scores, labels = scores_of(lines, notes, sha256, log)
    lines = [row for row in lines if row.get("labels_sha256", labels) == labels]
    plain = [row for row in scores if row["mode"] == PLAIN]
    names = ("backbone", "output_stride", "bins", "head_channels", "align_corners", "fit", "dataset", "licence")
    floats = [tensor for tensor in raw["model"].values() if tensor.is_floating_point()]
    trained = [
        value.numel() for name, value in raw["model"].items() if not name.endswith(("running_mean", "running_var"))
    ]
    return {
        "kind": KIND, "file": checkpoint.name, "sha256": sha256, "bytes": checkpoint.stat().st_size,
        **{name: getattr(spec, name) for name in names}, "input_size": spec.input_size, "classes": spec.class_names,
        "types": sorted({str(value.dtype).removeprefix("torch.") for value in floats}),
        "parameters": sum(trained) - sum(v.ndim == 0 for v in raw["model"].values()),
        "stages": stages_of(spec.recipe), "commands": commands_of(spec.recipe, checkpoint.stem, notes),
        "commit": spec.recipe.get("made_with", {}).get("commit", ""), "note": spec.recipe.get("note", ""),
        "seeds": seeds_of(spec, lines, plain), "test": _headline(plain), "precisions": _precisions(plain),
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


def scores_of(lines: list[Row], notes: Row, sha256: str, log: Path) -> tuple[list[Row], str]:
    """Scores on test, one row per artefact, engine, precision and mode, as each was measured last; and the SHA-256 of
    their labels, "" without scores. Of several data sets, only the one with the most pictures counts: others are tries.
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
        dates = [row["date"] for row in lines if row.get("file") == name and "date" in row]
        row = {key: found[key] for key in FIGURES}
        row |= {key: protocol[key] for key in ("artefact", "engine", "precision", "mode", "images", "name", "dataset")}
        row |= {"split": protocol["split"], "date": dates[-1] if dates else "", "result": name}
        row["iou"] = {label: values["iou"] for label, values in found["per_class"].items()}
        row["pixels"] = {label: values["pixels"] for label, values in found["per_class"].items()}
        rows[protocol["artefact"], protocol["engine"], protocol["precision"], protocol["mode"]] = row
    return list(rows.values()), labels


def seeds_of(spec: ModelSpec, lines: list[Row], plain: list[Row]) -> list[Row]:
    """Test mIoU in float32 of every seed of this recipe that the log has, this checkpoint's own among them."""
    wanted, found = recipe_hash(spec), {}
    for row in lines:
        if row.get("recipe") == wanted and row.get("precision") == "fp32" and row.get("mode") == PLAIN:
            found.setdefault(row["seed"], row["miou"])
    own = spec.recipe.get("seed")
    if own is not None and own not in found and plain:
        found[own] = plain[0]["miou"]
    return [{"seed": seed, "miou": found[seed]} for seed in sorted(found)]


def spread_of(seeds: list[Row]) -> tuple[float, float]:
    """Mean and sample standard deviation over two seeds or more."""
    values = [row["miou"] for row in seeds]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def stages_of(recipe: Row) -> list[Row]:
    """The settings of every training that led here, the first one first; "start" says what it began with."""
    before = stages_of(recipe["init_recipe"]) if isinstance(recipe.get("init_recipe"), dict) else []
    start = recipe.get("weights") or recipe.get("init") or recipe.get("pruned") or ""
    settings = {name: value for name, value in recipe.items() if name not in NO_SETTINGS}
    return [*before, {"start": start, "settings": settings}]


def commands_of(recipe: Row, name: str, notes: Row) -> list[str]:
    """The command of every training in order, or what the notes say where one did not keep its own."""
    chain: list[Row] = []
    while isinstance(recipe, dict) and recipe:
        chain.insert(0, recipe)
        recipe = recipe.get("init_recipe", {})
    words = [shlex.split(each.get("made_with", {}).get("command", "")) for each in chain]
    if not all(words):
        return list(notes.get("commands", []))
    # A command is kept without its output: the next one names it, and the last one's is free.
    outputs = [str(Path(_value(following, "--init")).parent) for following in words[1:]] + [f"runs/{name}"]
    return [shlex.join([*each, "-o", output]) for each, output in zip(words, outputs, strict=True)]


def _value(words: list[str], flag: str) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return following if word == flag else word.partition("=")[2]
    return "runs/before/last.pt"


def _headline(plain: list[Row]) -> Row | None:
    names = ("miou", "engine", "precision", "mode", "images", "name", "dataset", "split", "date")
    return {name: plain[0][name] for name in names} if plain else None


def _precisions(plain: list[Row]) -> dict[str, float]:
    """mIoU by precision, of the first engine that measured it."""
    found: dict[str, float] = {}
    for row in plain:
        found.setdefault(row["precision"], row["miou"])
    return found
