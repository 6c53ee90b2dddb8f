"""Builder: networks, settings and plans."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from . import plan as plans
from .build_checks import Refused, check_build
from .build_steps import Cancelled, Progress, plan_from_network
from .config import default_settings
from .dla import LARGEST_BATCH, core_count
from .engine import new_engine
from .marks import create, host_memory, only, report, value_property

PUBLIC = ("Builder",)


class Builder:
    """Makes networks, settings and plans."""

    __slots__ = ("_state",)

    def __init__(self, logger: ILogger) -> None:  # noqa: F821
        self._state = SimpleNamespace(logger=logger, max_threads=1)

    logger = value_property("logger", "ILogger", read_only=True)
    max_threads = value_property("max_threads", "int")

    @property
    def num_DLA_cores(self) -> int:
        return core_count()

    @property
    def max_DLA_batch_size(self) -> int:
        return LARGEST_BATCH if core_count() else 0

    @property
    @only(10)
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    @only(10)
    def platform_has_fast_int8(self) -> bool:
        return True

    @property
    @only(10)
    def platform_has_tf32(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> Any:
        trt = self._trt  # type: ignore[attr-defined]
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        strong = bool(int(flags) & flag) or not hasattr(trt.BuilderFlag, "FP16")
        return create(
            trt,
            "INetworkDefinition",
            builder=self,
            flags=int(flags),
            strong=strong,
            name="Unnamed Network 0",
            graph=None,
            inputs=[],
            outputs=[],
            layers=[],
        )

    def create_builder_config(self) -> Any:
        trt = self._trt  # type: ignore[attr-defined]
        return create(trt, "IBuilderConfig", logger=self._state.logger, **default_settings(trt))

    def create_optimization_profile(self) -> Any:
        trt = self._trt  # type: ignore[attr-defined]
        return create(trt, "IOptimizationProfile", shapes={}, extra_memory_target=1.0, profile_stream=0)

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:  # noqa: F821
        try:
            check_build(self._trt, network, config)  # type: ignore[attr-defined]
        except Refused:
            return False
        return True

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:  # noqa: F821
        plan = self._built(network, config)
        return None if plan is None else host_memory(self._trt, plan)  # type: ignore[attr-defined]

    @only(11)
    def build_engine_with_config(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:  # noqa: F821
        plan = self._built(network, config)
        if plan is None:
            return None
        trt = self._trt  # type: ignore[attr-defined]
        return new_engine(trt, self._state.logger, *plans.parts_from_plan(plan), plan)

    def _built(self, network: Any, config: Any) -> bytes | None:
        trt, logger = self._trt, self._state.logger  # type: ignore[attr-defined]
        try:
            check_build(trt, network, config)
            return plan_from_network(trt, network, config, Progress(config._state.progress_monitor))
        except Refused as refused:
            report(logger, "ERROR", f"IBuilder::buildSerializedNetwork: {refused}")
        except Cancelled:
            report(logger, "ERROR", "IBuilder::buildSerializedNetwork: Error Code 10: the build was cancelled")
        return None
