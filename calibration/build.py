"""`pspnet build`: engines of every precision and route that may win, raced; the fastest that passes is handed out.

What a precision or a route costs differs from board to board and from network to network, so nothing is assumed: each
candidate is built, audited, compared with its ONNX file and timed on the GPU at hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import stat
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibration import dla, engine_audit
from calibration.artefacts import table_path
from calibration.build_candidates import BuildChoice, Candidate, candidates_of, crash_note
from calibration.build_check import Limits, PictureChoice, Reference, check_float, reference_for, seeded_pictures
from calibration.build_memory import check_memory, fitted, free_memory
from calibration.build_race import compared_with_fp16, time_engines
from calibration.build_sources import source_at
from calibration.builder import BuildSettings, build_plan, check_parsed, check_settings, routes_of
from calibration.dla_graph import dla_graph
from calibration.timing_cache import TimingCache, default_path, power_mode
from pspnet.errors import PspnetError
from pspnet.files import atomic_path, passport_path, sha256_of
from runtime.cuda import Device, open_device
from runtime.passport import Passport, gpu_facts, this_platform
from runtime.preflight import check_folders
from runtime.tensorrt_library import newer_than_checked, tensorrt_module

READABLE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
"""A plan is native code: whatever the umask, nobody but its owner may write it."""


def build(
    model: str | Path, output: str | Path, settings: BuildSettings, choice: BuildChoice, pictures: PictureChoice,
    limits: Limits,
) -> dict[str, Any]:  # fmt: skip
    """Write the fastest engine of `model` that passes, and its passport, to `output`; both, or neither.

    Returned is a report; its "missed" has a line for each limit that no engine kept, and then nothing was written.
    PspnetError where no engine could be built, and where none gives the labels of its ONNX file.
    """
    output, trt = Path(output), tensorrt_module()
    source = source_at(model)
    check_settings(trt, settings)
    routes = routes_of(trt)
    if choice.dla is not None:
        dla.check_dla(trt, choice)
        routes = (dla.dla_route(trt),)
    check_folders(output)
    original = source.float_source()
    check_float(source, original, limits)
    candidates, notes = candidates_of(source, original, choice, routes, str(trt.__version__))
    with tempfile.TemporaryDirectory() as folder, open_device(choice.device) as device:
        if choice.dla is not None:
            dla.check_core(device, choice.dla)
        notes += crash_note(str(trt.__version__), device.compute_capability, settings.optimisation_level)
        notes += newer_than_checked(str(trt.__version__))
        free = free_memory(device)
        asked, settings = settings, fitted(settings, free, choice.low_memory)
        needed = check_memory(source.model, settings, free, device.integrated, choice.low_memory)
        workshop = _Workshop(Path(folder), device, asked, settings, choice, str(trt.__version__))
        for candidate in candidates:
            workshop.parse(candidate)
        _check_built(candidates)
        reference = reference_for(source, original, pictures.read(source), limits)
        for candidate in candidates:
            workshop.build(candidate)
        _check_built(candidates)
        contenders = [each for each in candidates if each.plan]
        _compare(contenders, reference, limits, choice.device)
        _check_left(candidates, output)
        sound = [each for each in contenders if not each.left_out]
        inputs = reference.inputs if reference else seeded_pictures(source.spec).inputs
        time_engines(sound, inputs, settings.batch, choice.device, not choice.low_memory)
        _check_left(candidates, output)
        chosen = _chosen(candidates)
        report = _report(output, candidates, chosen, notes, workshop)
        report["memory"] = dataclasses.asdict(needed)
        if chosen:
            _write(output, chosen, report)
    return report


class _Workshop:
    """Builds candidates into a folder of its own, with passports that loading accepts."""

    def __init__(
        self, folder: Path, device: Device, asked: BuildSettings, settings: BuildSettings, choice: BuildChoice,
        version: str,
    ) -> None:  # fmt: skip
        """asked: what the user set; settings: the same, fitted to this machine."""
        self.device, self.settings, self.choice, self.version = device, settings, choice, version
        self._asked = asked
        self.power_mode, self._folder = power_mode(), folder
        path = choice.timing_cache or default_path(version, device, self.power_mode)
        self.cache = TimingCache(path, named=choice.timing_cache is not None)

    def parse(self, candidate: Candidate) -> None:
        """Note why a candidate is left out where TensorRT does not take its graph."""
        try:
            graph, target = self._graph(candidate)
            check_parsed(graph, candidate.route, self.device, target is not None)
        except PspnetError as error:
            candidate.left_out = str(error)

    def build(self, candidate: Candidate) -> None:
        """Fill the candidate's plan and passport, or why it is left out."""
        if candidate.left_out:
            return
        started = time.perf_counter()
        try:
            graph, target = self._graph(candidate)
            plan = build_plan(
                graph, self.settings, candidate.route, candidate.precision, self.device, self.cache,
                f"build {candidate.name}", dla=target,
            )  # fmt: skip
            information = engine_audit.inspector_json(
                plan, self.device, self.settings.batch, candidate.source.spec.input_size, self.choice.dla
            )
        except PspnetError as error:
            candidate.left_out = str(error)
            return
        path = self._folder / f"{candidate.name.replace(' ', '.')}.engine"
        path.write_bytes(plan)
        _close(path)
        audit = engine_audit.audit(information)
        candidate.plan = path
        placed = target.facts(information) if target else None
        candidate.passport = self._passport(candidate, plan, audit, placed, time.perf_counter() - started)
        candidate.passport.save(passport_path(path))
        _close(passport_path(path))

    def _graph(self, candidate: Candidate) -> tuple[bytes, dla.DlaBuild | None]:
        """What is built, and the DLA's part in it; the candidate notes where the graph comes from."""
        if self.choice.dla is None:
            graph, candidate.graph = candidate.source.graph(candidate.route, candidate.precision)
            return graph, None
        graph, candidate.graph, ranges = dla_graph(
            candidate.source, candidate.route, candidate.precision, self.settings.batch
        )
        return graph, dla.DlaBuild(self.choice.dla, ranges)

    def _passport(
        self, candidate: Candidate, plan: bytes, audit: dict[str, Any], placed: dict[str, Any] | None, seconds: float
    ) -> Passport:
        source, batch = candidate.source, self.settings.batch
        return Passport(
            plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan),
            onnx={"name": source.path.name, "sha256": source.sha256},
            table_sha256=sha256_of(table_path(source.path)) if source.table else None,
            spec=json.loads(source.spec.to_json()), tensorrt=self.version, cuda=self.device.driver_version,
            gpu=gpu_facts(self.device), platform=this_platform(), power_mode=self.power_mode, route=candidate.route,
            precision=candidate.precision, batch={"min": batch if placed else 1, "opt": batch, "max": batch},
            layers=audit["by_precision"], audit=audit, accuracy={}, latency={}, dla=placed,
            settings={
                **self.settings.facts(), "low_memory": self.choice.low_memory, "graph": candidate.graph,
                "timing_cache": self.cache.origin,
                "asked": [*self._asked.flags(), *self.choice.flags(candidate.precision)],
            },
            built=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), build_seconds=round(seconds, 1),
        )  # fmt: skip


def _check_built(candidates: list[Candidate]) -> None:
    """PspnetError where no candidate that may be handed out can be built."""
    own = [each for each in candidates if not each.rival]
    if not all(each.left_out for each in own):
        return
    if len(own) == 1:
        raise PspnetError(str(own[0].left_out))
    raise PspnetError("no engine was built. " + "; ".join(f"{each.name}: {each.left_out}" for each in own))


def _compare(candidates: list[Candidate], reference: Reference | None, limits: Limits, device: int) -> None:
    """Fill the candidates' figures, and leave out those that are not their ONNX file."""
    if reference is None:
        return
    for candidate in candidates:
        assert candidate.plan
        try:
            candidate.accuracy = reference.check(candidate.plan, candidate.source, device)
        except PspnetError as error:  # an overflow in fp16, or too little memory to run it
            candidate.left_out = str(error)
            continue
        candidate.left_out = reference.not_equal(candidate.accuracy)
        candidate.missed = [] if candidate.rival else limits.missed(candidate.accuracy)


def _check_left(candidates: list[Candidate], output: Path) -> None:
    """PspnetError where every engine that may be handed out was left out."""
    own = [each for each in candidates if not each.rival]
    if all(each.left_out for each in own):
        reasons = "; ".join(f"{each.name}: {each.left_out}" for each in own)
        earlier = f" ({output} is still the earlier engine)" if output.exists() else ""
        raise PspnetError(
            f"no engine passes, so nothing was written{earlier}. {reasons}. Try another --route or --precision"
        )


def _chosen(candidates: list[Candidate]) -> Candidate | None:
    """The fastest that passes."""
    return min(
        (each for each in candidates if each.passes and each.plan), key=lambda each: each.median_ms, default=None
    )


def _report(
    output: Path, candidates: list[Candidate], chosen: Candidate | None, notes: list[str], workshop: _Workshop
) -> dict[str, Any]:
    against = compared_with_fp16(candidates, chosen) if chosen else None
    rival = next((each for each in candidates if each.rival and each.left_out), None)
    if rival:
        notes = [*notes, f"not compared with fp16: {rival.left_out}"]
    missed = [f"{each.name}: {line}" for each in candidates if not each.left_out for line in each.missed]
    return {
        "kind": "build", "engine": output.name, "tensorrt": workshop.version, "gpu": gpu_facts(workshop.device),
        "power_mode": workshop.power_mode, "settings": workshop.settings.facts(),
        "timing_cache": workshop.cache.origin, "chosen": chosen.name if chosen else None,
        "candidates": [each.facts() for each in candidates], "against_fp16": against, "notes": notes,
        "warnings": against["warnings"] if against else [], "missed": [] if chosen else missed,
    }  # fmt: skip


def _write(output: Path, chosen: Candidate, report: dict[str, Any]) -> None:
    """The chosen plan and its passport, with what was measured, both or neither."""
    assert chosen.plan and chosen.passport
    passport = dataclasses.replace(
        chosen.passport,
        accuracy={
            **(chosen.accuracy or {"not_compared": "neither openvino nor onnxruntime is installed here"}),
            "against_fp16": _without(report["against_fp16"], "warnings"), "warnings": report["warnings"],
            "notes": report["notes"],
        },
        latency=chosen.latency,
        settings={
            **chosen.passport.settings,
            "candidates": {row["name"]: _summary(row) for row in report["candidates"]},
        },
    )  # fmt: skip
    with ExitStack() as stack:
        plan = stack.enter_context(atomic_path(output))
        beside = stack.enter_context(atomic_path(passport_path(output)))
        shutil.copyfile(chosen.plan, plan)
        passport.save(beside)
        for path in (plan, beside):
            _close(path)


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """What a passport says of an engine that took part."""
    return {
        "graph": row["graph"], "median_ms": row["latency"].get("median_ms"), "loss": row["accuracy"].get("loss"),
        "left_out": row["left_out"] or "; ".join(row["missed"]) or None,
    }  # fmt: skip


def _without(facts: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    return facts and {key: value for key, value in facts.items() if key != name}


def _close(path: Path) -> None:
    """Take the right to write from everybody but the owner."""
    path.chmod(path.stat().st_mode & READABLE)
