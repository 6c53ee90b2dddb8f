"""Reading what `pspnet bench --json` wrote, checked field by field before anything is drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.wording import ENGINE_LIBRARIES

TEXT, NUMBER, INTEGER = "text", "a number or null", "a whole number"
STAGES = ("capture", "pre", "infer", "labels", "sink")

# A dict holds a shape per key ("*": every key), a list the shape of its items, a tuple a shape that may also be null.
_PERCENTILES = dict.fromkeys(("p50", "p90", "p99"), NUMBER)
_INTERVAL = dict.fromkeys(("median", "low", "high"), NUMBER)
_SCORES = {"miou": NUMBER, "protocol": {"images": INTEGER}, "per_class": {"*": {"iou": NUMBER, "pixels": NUMBER}}}
_CANDIDATE = {
    "name": TEXT, "artefact": TEXT, "engine": TEXT, "precision": TEXT, "file_bytes": NUMBER, "network_size": [INTEGER],
    "fit": TEXT, "service_ms": (_PERCENTILES,), "stages_ms": (dict.fromkeys(STAGES, (_PERCENTILES,)),),
    "throughput_fps": (_INTERVAL,), "ratio_to_first": (_INTERVAL,), "scores": (_SCORES,), "pictures": [TEXT],
    "palette": ({"*": [INTEGER]},),
    "provenance": ({**dict.fromkeys(ENGINE_LIBRARIES, (TEXT,)), "gpu": ({"name": TEXT},)},),
}  # fmt: skip
_BENCH = {
    "created": TEXT, "command": TEXT, "version": TEXT, "rounds": INTEGER, "frames_per_round": INTEGER,
    "threads": NUMBER, "source": TEXT, "source_size": ([INTEGER],),
    "machine": {"cpu": TEXT, "flags": [TEXT], "cores": NUMBER, "os": TEXT},
}  # fmt: skip
_TYPES = {TEXT: (str,), NUMBER: (int, float, type(None)), INTEGER: (int,)}


def read_benches(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The contents of bench JSON files, each with "path" added, and each candidate with "file".

    "file" is empty, or the file's name where several files hold a candidate of the same name, which then says it too.

    PspnetError where a file is of another kind, has no candidate, or lacks a field.
    """
    benches = [read_bench(path) for path in paths]
    names = [candidate["name"] for bench in benches for candidate in bench["candidates"]]
    for bench in benches:
        for candidate in bench["candidates"]:
            candidate["file"] = bench["path"].name if names.count(candidate["name"]) > 1 else ""
            if candidate["file"]:
                candidate["name"] = f"{candidate['name']} [{candidate['file']}]"
    return benches


def read_bench(path: str | Path) -> dict[str, Any]:
    """One bench JSON file with "path" added; errors as in `read_benches`."""
    bench = read_json(path, "bench file", "Write one with `pspnet bench ARTEFACT --json FILE`")
    if not isinstance(bench, dict) or bench.get("kind") != "bench":
        kind = bench.get("kind", "unknown") if isinstance(bench, dict) else "unknown"
        raise PspnetError(
            f"{path} is no bench file (its kind is {kind}): write one with `pspnet bench ARTEFACT --json FILE`"
        )
    if not isinstance(bench.get("candidates"), list) or not bench["candidates"]:
        raise PspnetError(f"{path} has no candidates: run `pspnet bench` on at least one artefact")
    bench.setdefault("source_size", None)
    _check(bench, _BENCH, "", path)
    if bench["source_size"] and len(bench["source_size"]) != 2:
        _refuse("source_size", "[height, width]", bench["source_size"], path)
    for i, candidate in enumerate(bench["candidates"]):
        if isinstance(candidate, dict):
            candidate.setdefault("palette", None)
            candidate.setdefault("provenance", None)
            if isinstance(candidate["provenance"], dict):  # each engine states its own library
                candidate["provenance"] = {**dict.fromkeys((*ENGINE_LIBRARIES, "gpu")), **candidate["provenance"]}
        _check(candidate, _CANDIDATE, f"candidates[{i}]", path)
        _check_range(candidate, f"candidates[{i}]", path)
    return bench | {"path": Path(path)}


def _check(value: Any, shape: Any, where: str, path: str | Path) -> None:
    if isinstance(shape, tuple):
        if value is not None:
            _check(value, shape[0], where, path)
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            _refuse(where, "an object", value, path)
        for name, inner in shape.items():
            for key in value if name == "*" else [name]:
                inside = f"{where}.{key}".lstrip(".")
                if key not in value:
                    raise PspnetError(
                        f"{path} lacks {inside}: it is damaged or of another version. Run `pspnet bench` again"
                    )
                _check(value[key], inner, inside, path)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(where, "a list", value, path)
        for i, item in enumerate(value):
            _check(item, shape[0], f"{where}[{i}]", path)
    elif not isinstance(value, _TYPES[shape]) or isinstance(value, bool):
        _refuse(where, shape, value, path)


def _check_range(candidate: dict[str, Any], where: str, path: str | Path) -> None:
    for name, value in (candidate["throughput_fps"] or {}).items():
        if value is not None and not 0 < value < 1e9:
            _refuse(f"{where}.throughput_fps.{name}", "a positive number", value, path)
    miou = (candidate["scores"] or {}).get("miou")
    if miou is not None and not 0 <= miou <= 100:
        _refuse(f"{where}.scores.miou", "a number from 0 to 100", miou, path)


def _refuse(where: str, needed: str, value: Any, path: str | Path) -> None:
    got = " ".join(repr(value).split())[:60]
    raise PspnetError(f"{path}: {where} is {got}, {needed} is needed. Run `pspnet bench` again")
