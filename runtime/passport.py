"""The passport of an engine: where it came from, what it runs on, and what was measured, in JSON beside the plan."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shlex
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pspnet.errors import PspnetError
from pspnet.files import passport_path as passport_path
from pspnet.files import read_json, write_json
from pspnet.spec import ModelSpec

if TYPE_CHECKING:
    from runtime.cuda import Device

KIND = "engine passport"
FORMAT = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_INSIDE: dict[str, dict[str, type]] = {
    "onnx": {"name": str, "sha256": str},
    "gpu": {"name": str, "compute_capability": str, "multiprocessors": int},
    "batch": {"min": int, "opt": int, "max": int},
}
"""What the fields that are read by name must hold."""
_LATER: dict[str, Any] = {"dla": None}
"""Fields that passports of earlier versions lack, with what that means."""


@dataclass(frozen=True)
class Passport:
    """What is known about a plan: `pspnet build` writes it, loading checks the plan against it.

    onnx: "name" and "sha256" of the file that was built; table_sha256: of its calibration table. spec: of the network,
    as a dict. tensorrt: the exact version; cuda: that of the driver, for example "13.0". gpu: `gpu_facts`; platform:
    `this_platform`. route: "strong" or "weak" typing. precision: "fp32", "fp16" or "int8". batch: "min", "opt" and
    "max" of the optimisation profile. layers: precision -> count. accuracy: the figure's name, the engine's and the
    float network's value, their agreement, images and source, or empty. latency: median and interval in ms, and
    frames. settings: of the build; "asked" has the flags that were given, for `rebuild_command`. built: UTC, ISO 8601;
    build_seconds: wall time. dla: None for an engine that is all on the GPU, else "core", the number of "layers" of the
    backbone there, "loadables", the parts that they form, and "fell_back", the names of its layers on the GPU.
    """

    plan_sha256: str
    plan_bytes: int
    onnx: dict[str, Any]
    table_sha256: str | None
    spec: dict[str, Any]
    tensorrt: str
    cuda: str
    gpu: dict[str, Any]
    platform: str
    power_mode: str | None
    route: str
    precision: str
    batch: dict[str, int]
    layers: dict[str, int]
    audit: dict[str, Any]
    accuracy: dict[str, Any]
    latency: dict[str, Any]
    settings: dict[str, Any]
    built: str
    build_seconds: float
    format: int = FORMAT
    dla: dict[str, Any] | None = None

    @property
    def model_spec(self) -> ModelSpec:
        """The spec of the network; PspnetError where it is damaged."""
        return ModelSpec.from_json(json.dumps(self.spec))

    def save(self, path: str | Path) -> None:
        """Write the JSON file, whole or not at all."""
        write_json(path, {"kind": KIND, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Passport:
        """The passport in the JSON file `path`, which is `passport_path` of an engine.

        PspnetError where it is missing, of a newer version, or has a field that is missing, unknown or wrong.
        """
        advice = f"Build the engine again: {_command(Path(path))}"
        raw = read_json(path, "passport", advice)
        if not isinstance(raw, dict) or raw.pop("kind", None) != KIND:
            raise PspnetError(f"{path} is no passport of an engine. {advice}")
        if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise PspnetError(
                f"passport {path} has format {raw['format']}, this version reads {FORMAT}: update with pip install -U "
                "pspnet-edge"
            )
        raw = _LATER | raw
        if fault := _fault(raw):
            raise PspnetError(f"passport {path} is damaged: {fault}. {advice}")
        passport = cls(**raw)
        try:
            passport.model_spec  # noqa: B018  a damaged spec is refused with the rest
        except PspnetError as error:
            reason = str(error).removesuffix(". Export it again")
            raise PspnetError(f"passport {path} is damaged: {reason}. {advice}") from error
        return passport


def rebuild_command(engine: str | Path, passport: Passport | None = None) -> str:
    """The command that builds an engine like the one of `passport` at `engine`, on the machine where it is typed."""
    if passport is None:
        return f"pspnet build MODEL.onnx -o {shlex.quote(str(engine))}"
    words = ["pspnet", "build", str(passport.onnx["name"]), "--precision", passport.precision]
    words += ["--batch", str(passport.batch["max"])]
    asked = passport.settings.get("asked")
    words += [str(word) for word in asked] if isinstance(asked, list) else []
    return shlex.join([*words, "-o", str(engine)])


def gpu_facts(device: Device) -> dict[str, Any]:
    """The GPU as a passport states it: name, compute capability such as "8.7", multiprocessors, and whether it shares
    the CPU's memory.

    A plan runs on this GPU only. The boards of the Orin family all have the name "Orin" and 8.7: only the number of
    multiprocessors tells an AGX from a Nano.
    """
    capability = ".".join(map(str, device.compute_capability))
    return {"name": device.name, "compute_capability": capability, "multiprocessors": device.multiprocessors,
            "integrated": device.integrated}  # fmt: skip


def this_platform() -> str:
    """System and processor as a passport states them, for example "linux-aarch64"."""
    return f"{sys.platform}-{platform.machine().lower()}"


def _command(path: Path) -> str:
    return rebuild_command(path.with_suffix("") if path.suffix == ".json" else path)


def _fault(raw: dict[str, Any]) -> str | None:
    """What is wrong with the fields of a passport."""
    hints = typing.get_type_hints(Passport)
    if missing := [name for name in hints if name not in raw]:
        return f"it lacks {', '.join(missing)}"
    if unknown := sorted(set(raw) - set(hints)):
        return f"it has unknown fields {', '.join(unknown)}"
    if wrong := [name for name, hint in hints.items() if not _is(raw[name], hint)]:
        return f"{wrong[0]} is {' '.join(repr(raw[wrong[0]]).split())[:60]}"
    for name, inside in _INSIDE.items():
        if lacking := [key for key, kind in inside.items() if not _is(raw[name].get(key), kind)]:
            return f"{name} has no sound {lacking[0]}"
    if raw["dla"] is not None and (not _is(core := raw["dla"].get("core"), int) or core < 0):
        return "dla has no sound core"
    if raw["format"] != FORMAT:
        return f"format is {raw['format']}"
    if not _SHA256.fullmatch(raw["plan_sha256"]):
        return f"plan_sha256 is {raw['plan_sha256'][:70]!r}"
    return None


def _is(value: Any, hint: Any) -> bool:
    """Whether a JSON value is what the annotation of a field says, on its first level."""
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_is(value, each) for each in typing.get_args(hint))
    kind = origin or hint
    number = kind is float and isinstance(value, int)
    return (isinstance(value, kind) or number) and not isinstance(value, bool)
