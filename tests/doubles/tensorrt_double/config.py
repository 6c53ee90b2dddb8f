"""Builder settings and the timing cache."""

from __future__ import annotations

import json
from typing import Any

from .device import device_identity
from .dla import runs_on_dla
from .marks import create, host_memory, report, value_property

PUBLIC = ("IBuilderConfig", "ITimingCache")
CACHE_MAGIC = b"TRTCACHE"
ALL_MEMORY = 1 << 40


class ITimingCache:
    """Times of the kernels that a build tried; its header names the TensorRT and the device."""

    __slots__ = ("_state",)

    def serialize(self) -> Any:
        text = json.dumps({"header": self._state.header, "times": self._state.times}, sort_keys=True)
        return host_memory(self._trt, CACHE_MAGIC + text.encode())  # type: ignore[attr-defined]

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if self._state.header != input_cache._state.header and not ignore_mismatch:
            return False
        self._state.times.update(input_cache._state.times)
        return True

    def reset(self) -> bool:
        self._state.times.clear()
        return True


class IBuilderConfig:
    """What `Builder.create_builder_config` gives."""

    __slots__ = ("_state",)

    avg_timing_iterations = value_property("avg_timing_iterations", "int")
    profiling_verbosity = value_property("profiling_verbosity", "ProfilingVerbosity")
    hardware_compatibility_level = value_property("hardware_compatibility_level", "HardwareCompatibilityLevel")
    runtime_platform = value_property("runtime_platform", "RuntimePlatform")
    max_aux_streams = value_property("max_aux_streams", "int")
    profile_stream = value_property("profile_stream", "int")
    progress_monitor = value_property("progress_monitor", "IProgressMonitor | None")
    default_device_type = value_property("default_device_type", "DeviceType")
    engine_capability = value_property("engine_capability", "EngineCapability")
    DLA_core = value_property("DLA_core", "int")
    int8_calibrator = value_property("int8_calibrator", "IInt8EntropyCalibrator2 | None", (10,))
    flags = value_property("flags", "int")
    tiling_optimization_level = value_property("tiling_optimization_level", "TilingOptimizationLevel", (11,))
    l2_limit_for_tiling = value_property("l2_limit_for_tiling", "int", (11,))
    max_num_tactics = value_property("max_num_tactics", "int", (11,))

    @property
    def builder_optimization_level(self) -> int:
        return self._state.builder_optimization_level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        if not 0 <= value <= 5:
            self._error(f"Error Code 3: API Usage Error (builder optimization level must be 0 to 5, got {value})")
            return
        self._state.builder_optimization_level = int(value)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._state.profiles)

    def set_flag(self, flag: BuilderFlag) -> None:  # noqa: F821
        self._state.flags |= 1 << int(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:  # noqa: F821
        self._state.flags &= ~(1 << int(flag))

    def get_flag(self, flag: BuilderFlag) -> bool:  # noqa: F821
        return bool(self._state.flags >> int(flag) & 1)

    def set_device_type(self, layer: ILayer, device_type: DeviceType) -> None:  # noqa: F821
        self._state.devices[id(layer._state)] = device_type

    def get_device_type(self, layer: ILayer) -> Any:  # noqa: F821
        return self._state.devices.get(id(layer._state), self._state.default_device_type)

    def is_device_type_set(self, layer: ILayer) -> bool:  # noqa: F821
        return id(layer._state) in self._state.devices

    def reset_device_type(self, layer: ILayer) -> None:  # noqa: F821
        self._state.devices.pop(id(layer._state), None)

    def can_run_on_DLA(self, layer: ILayer) -> bool:  # noqa: F821
        return runs_on_dla(self._trt, layer, self)  # type: ignore[attr-defined]

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:  # noqa: F821
        self._state.pools[pool.name] = int(pool_size)

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:  # noqa: F821
        return self._state.pools.get(pool.name, ALL_MEMORY if pool.name == "WORKSPACE" else 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:  # noqa: F821
        if not profile:
            self._error("Error Code 3: API Usage Error (the optimization profile is not valid: no shapes are set)")
            return -1
        self._state.profiles.append(dict(profile._state.shapes))
        return len(self._state.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Buffer) -> Any:  # noqa: F821
        data = bytes(memoryview(serialized_timing_cache))
        header, times = self._header(), {}
        if data:
            try:
                assert data.startswith(CACHE_MAGIC)
                read = json.loads(data[len(CACHE_MAGIC) :])
                header, times = read["header"], read["times"]
            except (AssertionError, ValueError, KeyError):
                self._error("Error Code 1: Serialization (the timing cache is damaged: magic tag does not match)")
                return None
        return create(self._trt, "ITimingCache", header=header, times=times)  # type: ignore[attr-defined]

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._state.header != self._header() and not ignore_mismatch:
            text = f"it is of {cache._state.header}, this is {self._header()}"
            self._error(
                f"Error Code 3: API Usage Error (the timing cache does not fit this device or TensorRT: {text})"
            )
            return False
        self._state.timing_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._state.timing_cache

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:  # noqa: F821
        self._state.preview[feature.name] = bool(enable)

    def get_preview_feature(self, feature: PreviewFeature) -> bool:  # noqa: F821
        return self._state.preview.get(feature.name, False)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._state.tactic_sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self._state.tactic_sources

    def reset(self) -> None:
        self._state.__dict__.update(default_settings(self._trt))  # type: ignore[attr-defined]

    def _header(self) -> dict[str, str]:
        return {"tensorrt": self._trt.__version__, **device_identity()}  # type: ignore[attr-defined]

    def _error(self, message: str) -> None:
        report(self._state.logger, "ERROR", message)


def default_settings(trt: Any) -> dict[str, Any]:
    """A fresh configuration's state. TF32 is on, as in TensorRT."""
    return {
        "flags": 1 << int(trt.BuilderFlag.TF32),
        "pools": {},
        "profiles": [],
        "preview": {},
        "timing_cache": None,
        "tactic_sources": 0,
        "avg_timing_iterations": 1,
        "builder_optimization_level": 3,
        "profiling_verbosity": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "hardware_compatibility_level": trt.HardwareCompatibilityLevel.NONE,
        "runtime_platform": trt.RuntimePlatform.SAME_AS_BUILD,
        "max_aux_streams": -1,
        "profile_stream": 0,
        "progress_monitor": None,
        "default_device_type": trt.DeviceType.GPU,
        "engine_capability": trt.EngineCapability.STANDARD,
        "DLA_core": -1,
        "devices": {},
        "int8_calibrator": None,
        "tiling_optimization_level": getattr(trt, "TilingOptimizationLevel", None) and trt.TilingOptimizationLevel.NONE,
        "l2_limit_for_tiling": -1,
        "max_num_tactics": -1,
    }
