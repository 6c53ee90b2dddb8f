"""What the live page is told, as JSON: addresses without credentials, and no number that is not finite."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from runtime.board import Board, Engine
from runtime.camera_uri import without_credentials
from runtime.telemetry import AGE, Telemetry

HISTORY_S = 120
LONGEST_TEXT = 300


def status_json(board: Board, telemetry: Telemetry, streams: int) -> dict[str, Any]:
    """Everything about the run at this moment; times in milliseconds, or seconds where the name says so."""
    unready = board.unready()
    drops, results = telemetry.drops(), telemetry.results()
    engine = board.engine
    cameras = []
    for name in board.cameras:
        camera = _camera(board, name) | {"results": results.get(name, {"valid": 0, "invalid": 0})}
        camera["drops"] = merged(camera["drops"], drops.get(name, {}))
        percentiles = telemetry.percentiles(name)
        camera["age"], camera["stages"] = percentiles.pop(AGE, None), percentiles
        cameras.append(camera)
    return _finite({
        "wall_ms": time.time_ns() / 1e6,
        "uptime_s": board.uptime_s,
        "ready": not unready,
        "reason": shown(unready),
        "engine": _engine(engine) if engine else None,
        "cameras": cameras,
        "outlets": [_outlet(board, dict(outlet)) for outlet in board.outlets],
        "throttle": {cause: {"times": times, "active": active}
                     for cause, (times, active) in telemetry.throttles().items()},
        "streams": streams,
        "refused": telemetry.refusals(),
    })  # fmt: skip


def history_json(board: Board, telemetry: Telemetry) -> dict[str, Any]:
    """Camera -> stage or age -> [seconds ago, p50, p99] of each of the last two minutes' seconds, oldest first."""
    rounded = {
        name: {
            stage: [[ago, round(p50, 2), round(p99, 2)] for ago, p50, p99 in points]
            for stage, points in telemetry.history(name, HISTORY_S).items()
        }
        for name in board.cameras
    }
    return {"seconds": HISTORY_S, "cameras": rounded}


def events_json(board: Board) -> list[dict[str, Any]]:
    """The last events, newest first."""
    return [
        {
            "number": noted.number, "wall_ms": noted.wall_ns / 1e6, "camera": noted.event.camera,
            "kind": noted.event.kind, "state": noted.event.state.value, "cause": noted.event.cause,
            "message": shown(noted.event.message), "values": _finite(dict(noted.event.values)),
        }
        for noted in reversed(board.events())
    ]  # fmt: skip


def shown(text: str) -> str:
    """A message as it may be shown: in one line, not too long, without user and password of any address in it."""
    return without_credentials(" ".join(text.split()))[:LONGEST_TEXT]


def merged(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Counts by cause, of those that happened at all."""
    return dict(sorted((+(Counter(first) + Counter(second))).items()))


def _camera(board: Board, name: str) -> dict[str, Any]:
    record, status, fresh = board.record(name), board.status(name), board.freshness(name)
    found: dict[str, Any] = {
        "name": name, "stale": fresh.stale, "reason": shown(fresh.reason), "age_ms": fresh.age_ms,
        "max_age_ms": board.max_age_ms(name), "health": [], "class_shares": {}, "mean_confidence": None,
        "state": "connecting" if board.engine else "waiting", "since_s": None, "cause": "", "message": "", "drops": {},
    }  # fmt: skip
    if status is not None:
        found |= {
            "address": shown(status.uri), "state": status.state.value, "since_s": board.seconds_since(status.since_ns),
            "cause": status.cause, "message": shown(status.message), "fps": status.fps, "frames": status.frames,
            "drops": dict(status.drops), "reconnects": status.reconnects, "crashes": status.crashes,
            "decoder": shown(status.decoder), "size": list(status.size) if status.size else None,
            "last_frame_age_ms": status.last_frame_age_ms, "stamps_invalid": status.stamps_invalid,
            "clock_steps": status.clock_steps,
        }  # fmt: skip
    if record is not None:
        facts = record.as_json()
        wanted = ("sequence", "class_shares", "unlabelled", "drivable", "mean_confidence", "low_confidence", "health")
        found |= {key: facts[key] for key in wanted}
    return found


def _engine(engine: Engine) -> dict[str, Any]:
    colours = zip(engine.class_names, engine.palette, strict=True)
    return {
        "name": engine.name, "precision": engine.precision, "artefact": engine.artefact,
        "input_size": list(engine.input_size) if engine.input_size else None,
        "classes": [
            {"name": name, "colour": list(colour), "drivable": index in engine.drivable}
            for index, (name, colour) in enumerate(colours)
        ],
    }  # fmt: skip


def _outlet(board: Board, outlet: dict[str, Any]) -> dict[str, Any]:
    since_ns = outlet.pop("since_ns", None)
    outlet["since_s"] = None if since_ns is None else board.seconds_since(since_ns)
    outlet["message"] = shown(str(outlet.get("message", "")))
    return outlet


def _finite(value: Any) -> Any:
    """Infinity and NaN as null: they are no JSON, and browsers refuse the whole answer for one."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
