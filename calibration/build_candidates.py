"""Which engines are built: by precision and by route, as far as the file, the flags and the TensorRT at hand allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.build_sources import Source
from calibration.builder import PRECISIONS, ROUTES, STRONG
from pspnet.errors import PspnetError
from runtime.passport import Passport

BEST, AUTO = "best", "auto"
MATURE = (10, 12)
"""The first TensorRT whose strong typing NVIDIA calls fully available."""
CRASHING_LEVELS, CRASHING_VERSION, ORIN = range(3), (10, 16), (8, 7)


@dataclass(frozen=True)
class BuildChoice:
    """What is built. precision: one of PRECISIONS, "best", or None for the file's own; route: one of ROUTES or "auto".

    compare: build fp16 beside INT8. low_memory: the profile for small boards. timing_cache: its file, None for the
    user's own. device: number of the GPU. dla: number of the DLA core that the backbone shall run on, None for none.
    """

    precision: str | None = None
    route: str = AUTO
    compare: bool = True
    low_memory: bool = False
    timing_cache: str | None = None
    device: int = 0
    dla: int | None = None

    def __post_init__(self) -> None:
        known = {"precision": (*PRECISIONS, BEST), "route": (*ROUTES, AUTO)}
        for flag, values in known.items():
            if (value := getattr(self, flag)) is not None and value not in values:
                raise PspnetError(f"{flag} is {value!r}: choose one of {', '.join(values)} with --{flag}")
        if self.device < 0:
            raise PspnetError(f"device is {self.device}: give --device 0 or more")
        if self.dla is not None and self.dla < 0:
            raise PspnetError(f"dla is {self.dla}: give --dla 0 or more, the number of a DLA core")

    def flags(self, precision: str) -> list[str]:
        """The flags that build an engine of `precision` as this choice did, but for the precision itself."""
        route = [] if self.route == AUTO else ["--route", self.route]
        compare = ["--no-compare"] if precision == "int8" and not self.compare else []
        dla = ["--dla", str(self.dla)] if self.dla is not None else []
        return [*route, *compare, *(["--low-memory"] if self.low_memory else []), *dla]


@dataclass
class Candidate:
    """One engine of the race. rival: it is only compared with, and never handed out.

    left_out: why it cannot win; missed: the limits that it does not keep.
    """

    source: Source
    precision: str
    route: str
    rival: bool = False
    graph: str = ""
    plan: Path | None = None
    passport: Passport | None = None
    left_out: str | None = None
    missed: list[str] = field(default_factory=list)
    accuracy: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Precision and route, as tables show them."""
        return f"{self.precision} {self.route}"

    @property
    def passes(self) -> bool:
        """Whether it may be handed out, as far as is known."""
        return not (self.rival or self.left_out or self.missed)

    @property
    def median_ms(self) -> float:
        """Milliseconds of a run, infinite where none was timed."""
        return float(self.latency.get("median_ms", float("inf")))

    def facts(self) -> dict[str, Any]:
        """The candidate as reports state it."""
        built = {"plan_bytes": self.passport.plan_bytes, "build_seconds": self.passport.build_seconds,
                 "audit": self.passport.audit, "dla": self.passport.dla} if self.passport else {}  # fmt: skip
        return {
            "name": self.name, "precision": self.precision, "route": self.route, "graph": self.graph,
            "rival": self.rival, "left_out": self.left_out, "missed": self.missed, "accuracy": self.accuracy,
            "latency": self.latency, **built,
        }  # fmt: skip


def candidates_of(
    source: Source, original: Source | None, choice: BuildChoice, routes: tuple[str, ...], version: str
) -> tuple[list[Candidate], list[str]]:
    """The engines to build, those of the preferred precision and route first, and notes on what is left out.

    original: the float network of `source`, where it is known. routes, version: of the TensorRT at hand.
    """
    precision = choice.precision or ("int8" if source.precision == "int8" else "fp16")
    _check_precision(source, precision)
    if not choice.compare and precision != "int8":
        raise PspnetError("--no-compare leaves fp16 out where int8 is built: leave it out, or give --precision int8")
    if choice.route not in (AUTO, *routes):
        raise PspnetError(
            f"TensorRT {version} has no {choice.route}ly typed networks (10.x was the last with weak typing): leave "
            "out --route"
        )
    of = {"int8": source if source.precision == "int8" else None, "fp16": original}
    of["fp32"] = original if choice.dla is None else None  # no DLA has it
    found = [
        Candidate(each, name, route)
        for name in (reversed(PRECISIONS) if precision == BEST else [precision])
        if (each := of[name]) is not None
        for route in _routes(name, choice.route, routes)
    ]
    notes = _notes(found, version)
    if source.precision == "int8" and original is None:
        notes.append(
            f"not compared with fp16: no ONNX file beside {source.path.name} is the float network that it was "
            "calibrated from"
        )
    elif original and precision == "int8" and choice.compare:
        found.append(Candidate(original, "fp16", _routes("fp16", choice.route, routes)[0], rival=True))
    elif precision == "int8":
        notes.append("not compared with fp16: --no-compare")
    return found, notes


def crash_note(version: str, capability: tuple[int, int], level: int | None) -> list[str]:
    """A warning of the optimisation levels at which TensorRT is known to end the process, on an Orin."""
    if level in CRASHING_LEVELS and _numbers(version) == CRASHING_VERSION and capability == ORIN:
        return [
            f"TensorRT {version} is reported to crash on Orin at --optimisation-level {level}: if it does, take 3 or "
            "more"
        ]
    return []


def _check_precision(source: Source, precision: str) -> None:
    """PspnetError where the file does not hold what the precision needs."""
    if precision == "int8" and source.precision != "int8":
        raise PspnetError(
            f"{source.path} has no Q/DQ, and INT8 without ranges gives wrong labels: `pspnet calibrate {source.path} "
            "--data DIR` first, and build what it writes"
        )
    if precision in ("fp16", "fp32") and source.precision == "int8":
        raise PspnetError(
            f"{source.path} is INT8: for --precision {precision} give the float file that it was calibrated from"
        )


def _routes(precision: str, route: str, routes: tuple[str, ...]) -> tuple[str, ...]:
    """The routes of a precision: all, but one for fp32, which is the same network on either."""
    if route != AUTO:
        return (route,)
    return routes[:1] if precision == "fp32" else routes


def _notes(candidates: list[Candidate], version: str) -> list[str]:
    if _numbers(version) < MATURE and any(each.route == STRONG and each.precision != "fp32" for each in candidates):
        return [
            f"strong typing is less exercised in TensorRT {version} than from 10.12 on; it is checked like the rest"
        ]
    return []


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
