"""What a build reads and reckons before TensorRT is asked: sources, candidates, memory, pictures, power mode."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.build_candidates import BuildChoice, candidates_of, crash_note
from calibration.build_check import Limits, PictureChoice, seeded_pictures
from calibration.build_memory import BASE_BYTES, Estimate, Free, check_memory, estimate, fitted
from calibration.build_sources import Source, companions, source_at
from calibration.builder import MEBIBYTE, BuildSettings
from calibration.timing_cache import default_path, power_mode
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from pspnet.metadata import KEY
from runtime.fp16_typing import half_path
from tests.engine_files import CALIBRATION, copied, write_files

ROUTES = ("strong", "weak")
ORIN = (8, 7)


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx, the table and both typed twins."""
    return write_files(tmp_path_factory.mktemp("parts"), small_onnx)


def names(source: Source, original: Source | None, routes: tuple[str, ...] = ROUTES, **choice: str) -> list[str]:
    found, _ = candidates_of(source, original, BuildChoice(**choice), routes, "10.16.2")  # type: ignore[arg-type]
    return [f"{each.name}{' rival' if each.rival else ''}" for each in found]


def test_what_lies_beside_a_file_is_known_by_its_content(files: Path, tmp_path: Path) -> None:
    model = copied(files.with_suffix(".int8.onnx"), tmp_path)
    twin, table = half_path(model), model.with_suffix(".json")
    assert companions(model) == [twin, table, tmp_path / "net.onnx"]
    assert companions(tmp_path / "net.onnx") == [tmp_path / "net.fp16.onnx"]
    (tmp_path / "net.onnx").rename(tmp_path / "another name.onnx")
    assert companions(model) == [twin, table, tmp_path / "another name.onnx"]
    raw = json.loads(table.read_text())
    table.write_text(json.dumps(raw | {"onnx_sha256": "0" * 64}))
    (tmp_path / "another name.onnx").write_bytes(b"something else")
    twin.unlink()
    assert companions(model) == []
    assert source_at(model).table is None and source_at(model).float_source() is None


def test_the_float_network_is_told_from_one_with_other_weights_beside_it(files: Path, tmp_path: Path) -> None:
    """Both have external data, and the very same ONNX file."""
    float_file = tmp_path / "net.onnx"
    onnx.save(onnx.load(files), float_file, save_as_external_data=True, size_threshold=0, location="w.bin")
    model = tmp_path / "net.int8.onnx"
    assert main(["calibrate", str(float_file), "-o", str(model), *CALIBRATION]) == 0
    source = source_at(model)
    assert source.float_source() == Source(float_file, "fp32") and source.table is not None
    assert source.table.onnx_sha256 == source_at(float_file).sha256 != sha256_of(float_file)
    weights = bytearray((tmp_path / "w.bin").read_bytes())
    weights[:4] = np.float32(0.5).tobytes()
    (tmp_path / "w.bin").write_bytes(weights)
    assert source_at(model).float_source() is None
    table = str(model.with_suffix(".json"))
    assert main(["calibrate", str(float_file), "--table", table, "-o", str(tmp_path / "b.int8.onnx")]) == 2
    (tmp_path / "w.bin").unlink()
    assert source_at(model).float_source() is None


def test_guests_are_refused_in_one_line(files: Path, tmp_path: Path) -> None:
    model = onnx.load(files)
    kept = [entry for entry in model.metadata_props if entry.key != f"{KEY}spec"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "guest.onnx")
    with pytest.raises(PspnetError, match="is a guest, a network of another tool") as refused:
        source_at(tmp_path / "guest.onnx")
    assert "\n" not in str(refused.value)


def test_candidates_by_precision_and_route(files: Path) -> None:
    source = source_at(files)
    int8 = source_at(files.with_suffix(".int8.onnx"))
    assert names(source, source) == ["fp16 strong", "fp16 weak"]
    assert names(source, source, route="weak") == ["fp16 weak"]
    assert names(source, source, precision="fp32") == ["fp32 strong"]
    assert names(source, source, precision="best") == ["fp16 strong", "fp16 weak", "fp32 strong"]
    assert names(int8, source) == ["int8 strong", "int8 weak", "fp16 strong rival"]
    assert names(int8, source, route="weak") == ["int8 weak", "fp16 weak rival"]
    assert names(int8, source, ("strong",)) == ["int8 strong", "fp16 strong rival"]
    assert names(int8, source, precision="best")[:3] == ["int8 strong", "int8 weak", "fp16 strong"]
    assert names(int8, None) == names(int8, None, precision="best") == ["int8 strong", "int8 weak"]


def test_notes_tell_what_a_version_is_known_for(files: Path) -> None:
    source = source_at(files)
    old = candidates_of(source, source, BuildChoice(), ("weak", "strong"), "10.3.0")[1]
    assert old == ["strong typing is less exercised in TensorRT 10.3.0 than from 10.12 on; it is checked like the rest"]
    assert candidates_of(source, source, BuildChoice(), ROUTES, "10.12.0")[1] == []
    assert len(crash_note("10.16.2.10", ORIN, 2)) == 1
    for version, capability, level in (("10.16.2", ORIN, 3), ("10.3.0", ORIN, 2), ("10.16.2", (11, 0), 2)):
        assert not crash_note(version, capability, level)
    assert not crash_note("10.16.2", ORIN, None)


def test_the_estimate_counts_weights_tensors_and_workspace(files: Path) -> None:
    model = onnx.load(files)
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    one = estimate(model, BuildSettings(workspace_mib=100))
    assert one.host == BASE_BYTES + 3 * weights
    # The four largest have the same size: the 96 channels of mobilenet_v2's second block at half of 96x128, and in the
    # folded head nine taps of 128 channels on 16x16 cells. Kernels are tried on tensors of their own.
    assert 96 * 48 * 64 == 9 * 128 * 16 * 16
    largest = 2 * 4 * (4 * 96 * 48 * 64)
    assert one.device == weights + 100 * MEBIBYTE + largest
    batch = estimate(model, BuildSettings(batch=3, workspace_mib=100))
    assert batch.device == weights + 100 * MEBIBYTE + 3 * largest and batch.host == one.host


@pytest.mark.parametrize(
    ("free", "integrated", "short"),
    [
        (Free(100, 100), False, None),
        (Free(39, 100), False, (40, 39)),
        (Free(100, 29), False, (30, 29)),
        (Free(100, None), False, None),
        (Free(60, 70), True, None),
        (Free(60, 69), True, (70, 69)),
        (Free(60, None), True, (70, 60)),
    ],
)
def test_a_board_that_shares_its_memory_needs_the_sum(
    free: Free, integrated: bool, short: tuple[int, int] | None
) -> None:
    assert Estimate(device=40, host=30).shortage(free, integrated) == short


def test_settings_fit_what_is_free_and_flags_stay(files: Path) -> None:
    gib = 1 << 30
    assert fitted(BuildSettings(), Free(64 * gib, None), False).workspace_mib == 4096
    assert fitted(BuildSettings(), Free(4 * gib, None), False).workspace_mib == 1024
    small = fitted(BuildSettings(), Free(4 * gib, None), True)
    assert (small.workspace_mib, small.tactic_dram_mib, small.optimisation_level, small.aux_streams) == (
        256,
        1024,
        3,
        0,
    )
    own = fitted(BuildSettings(workspace_mib=700, optimisation_level=4), Free(4 * gib, None), True)
    assert (own.workspace_mib, own.optimisation_level) == (700, 4)
    with pytest.raises(PspnetError, match=r"needs about 275 MiB of memory with a workspace of 256 MiB, 102 MiB is"):
        check_memory(onnx.load(files), small, Free(gib // 10, None), False, True)


@pytest.mark.parametrize(
    ("batch", "low_memory", "said"),
    [
        (64, False, r"for --batch 64 with .*: try a smaller --batch \(1 fits\), or --low-memory, or a smaller --work"),
        (64, True, r"for --batch 64 with .*: try a smaller --batch \(1 fits\), or end other programs"),
        (1, True, r"of memory with .*: try a network that is exported for a smaller --size, or end other programs"),
    ],
)
def test_what_costs_the_memory_is_what_shall_be_smaller(files: Path, batch: int, low_memory: bool, said: str) -> None:
    model, settings = onnx.load(files), BuildSettings(batch=batch, workspace_mib=100)
    one = estimate(model, dataclasses.replace(settings, batch=1))
    free = Free(one.device if batch > 1 else one.device - 1, None)
    with pytest.raises(PspnetError, match=said):
        check_memory(model, settings, free, False, low_memory)


def test_seeded_pictures_are_the_same_in_every_run_and_no_two_alike(files: Path) -> None:
    spec = source_at(files).spec
    one, two = seeded_pictures(spec), seeded_pictures(spec)
    assert one.hashes == two.hashes and len(set(one.hashes.values())) == len(one) == 8
    assert all(picture.shape == (1, 96, 128, 3) and picture.dtype == np.uint8 for picture in one.inputs)
    wide = seeded_pictures(dataclasses.replace(spec, fit="letterbox"))
    assert wide.geometries[0].view == (0, 0, 96, 128) and one.targets is None


def test_limits_and_choices_out_of_range_are_refused() -> None:
    assert not Limits() and Limits(0.0) and Limits(None, 99)
    for make, words in (
        (lambda: Limits(-1), "max-miou-drop is -1"), (lambda: Limits(None, 0.99), "min-agreement is 0.99"),
        (lambda: PictureChoice(split="val"), "--split chooses pictures"),
        (lambda: PictureChoice("folder", images=1), "images is 1"), (lambda: BuildChoice(device=-1), "device is -1"),
    ):  # fmt: skip
        with pytest.raises(PspnetError, match=words):
            make()
    accuracy = {"agreement": 98.0, "loss": 0.4, "reference": "net.onnx"}
    assert Limits(0.5, 98).missed(accuracy) == [] and len(Limits(0.3, 98.5).missed(accuracy)) == 2
    assert len(Limits(0.3, 98.5).missed(accuracy | {"agreement": float("nan"), "loss": float("nan")})) == 2


def test_the_power_mode_of_a_jetson_is_part_of_the_caches_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() is None
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    program.chmod(0o755)
    assert power_mode() == "MAXN_SUPER"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert power_mode() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = SimpleNamespace(compute_capability=ORIN, name="Orin (nvgpu)", driver_version="12.6")
    path = default_path("10.3.0", device, "MAXN")  # type: ignore[arg-type]
    assert path == tmp_path / "pspnet-edge/timing-cache/tensorrt-10.3.0_sm87_Orin-nvgpu_cuda-12.6_MAXN.cache"
    others = [default_path("10.3.1", device, "MAXN"), default_path("10.3.0", device, "15W")]  # type: ignore[arg-type]
    assert len({path, *others}) == 3
