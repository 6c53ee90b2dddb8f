"""One plan of one graph: TensorRT 10.3 to 11 on one code path, which asks the library at hand what it has."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.build_progress import BuildProgress, cancellable, progress_monitor
from calibration.timing_cache import TimingCache
from pspnet.errors import PspnetError
from pspnet.metadata import INPUT
from runtime.cuda import Device
from runtime.tensorrt_library import engine_log, tensorrt_module

if TYPE_CHECKING:
    from calibration.dla import DlaBuild

STRONG, WEAK = "strong", "weak"
ROUTES = (STRONG, WEAK)
PRECISIONS = ("fp32", "fp16", "int8")
TILINGS = ("none", "fast", "moderate", "full")
LEVELS = range(6)
MEBIBYTE = 1 << 20
TYPED_BY_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
"""Builder flags of a weakly typed network; INT8 goes with FP16, because what is not quantised is fastest in it."""


@dataclass(frozen=True)
class BuildSettings:
    """How TensorRT builds. None leaves a setting to TensorRT.

    batch: largest of the optimisation profile, 1..batch, and the one that it is tuned for. workspace_mib: scratch
    memory of a layer. tactic_dram_mib: memory for trying out one kernel. aux_streams: CUDA streams beside the main
    one. optimisation_level: 0 to 5; tiling: one of TILINGS.
    """

    batch: int = 1
    workspace_mib: int | None = None
    tactic_dram_mib: int | None = None
    aux_streams: int | None = 0
    optimisation_level: int | None = None
    tiling: str | None = None

    def __post_init__(self) -> None:
        checked = ((self.batch, 1, "batch"), (self.workspace_mib, 1, "workspace"), (self.aux_streams, 0, "aux-streams"))
        for value, least, flag in checked:
            if value is not None and value < least:
                raise PspnetError(f"{flag} is {value}: give --{flag} {least} or more")
        if self.optimisation_level is not None and self.optimisation_level not in LEVELS:
            raise PspnetError(
                f"optimisation-level is {self.optimisation_level}: give --optimisation-level {LEVELS[0]} to "
                f"{LEVELS[-1]}"
            )
        if self.tiling is not None and self.tiling not in TILINGS:
            raise PspnetError(f"tiling is {self.tiling!r}: choose one of {', '.join(TILINGS)} with --tiling")

    def facts(self) -> dict[str, Any]:
        """The settings as a passport states them."""
        return asdict(self)

    def flags(self) -> list[str]:
        """The flags of `pspnet build` for what differs from its defaults, but for the batch."""
        given = {
            "workspace": self.workspace_mib, "aux-streams": self.aux_streams or None,
            "optimisation-level": self.optimisation_level, "tiling": self.tiling,
        }  # fmt: skip
        return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def routes_of(trt: Any) -> tuple[str, ...]:
    """The routes that the TensorRT at hand has, the preferred one first.

    Strong typing is where NVIDIA calls it fully available, from 10.12; before, weak typing is what people build with.
    Weak typing ended with 10.x.
    """
    weak = "FP16" in trt.BuilderFlag.__members__
    strong = "STRONGLY_TYPED" in trt.NetworkDefinitionCreationFlag.__members__
    mature = tuple(int(part) for part in str(trt.__version__).split(".")[:2]) >= (10, 12)
    found = [route for route, there in ((STRONG, strong), (WEAK, weak)) if there]
    return tuple(found if mature else reversed(found))


def check_settings(trt: Any, settings: BuildSettings) -> None:
    """PspnetError where the TensorRT at hand lacks what a setting asks for."""
    if settings.tiling is not None and not hasattr(trt, "TilingOptimizationLevel"):
        raise PspnetError(f"TensorRT {trt.__version__} has no tiling, 10.8 and later do: leave out --tiling")


def build_plan(
    onnx: bytes | str | Path, settings: BuildSettings, route: str, precision: str, device: Device | None = None,
    cache: TimingCache | None = None, title: str = "build", quiet: bool = False, dla: DlaBuild | None = None,
) -> bytes:  # fmt: skip
    """The serialised engine of an ONNX graph with our input, `image` (N, H, W, 3) uint8.

    onnx: the graph, for `route` "strong" typed as it shall run, for "weak" typed float32. precision: with weak typing
    the lowest that TensorRT may choose; with strong typing the graph decides. device: whose context is used, None for
    the current one. cache: of timings, read and written. dla: puts the backbone on a DLA core, for which the graph's
    sizes are all fixed. Ctrl-C cancels. PspnetError with the node and the reason where the parser refuses the graph,
    and with TensorRT's own words where the build fails.
    """
    trt = tensorrt_module()
    check_settings(trt, settings)
    _check_route(trt, route)
    content = onnx if isinstance(onnx, bytes) else Path(onnx).read_bytes()
    progress = BuildProgress(title, quiet)

    def work() -> bytes:
        with device.current() if device else contextlib.nullcontext():
            return _plan(trt, content, settings, route, precision, cache, progress, dla)

    return cancellable(work, progress)


def check_parsed(content: bytes, route: str, device: Device, for_dla: bool = False) -> None:
    """PspnetError with the node and the reason where TensorRT's parser refuses a graph, before anything is built."""
    trt = tensorrt_module()
    _check_route(trt, route)
    log = engine_log(trt)
    with device.current():
        builder = _builder(trt, log)
        network, parser = _parsed(trt, builder, content, route, log, for_dla)
        del parser, network, builder  # in this order


def _plan(
    trt: Any, content: bytes, settings: BuildSettings, route: str, precision: str, cache: TimingCache | None,
    progress: BuildProgress, dla: DlaBuild | None,
) -> bytes:  # fmt: skip
    log = engine_log(trt)
    builder = _builder(trt, log)
    network, parser = _parsed(trt, builder, content, route, log, dla is not None)
    config = builder.create_builder_config()
    _configure(trt, config, settings, route, precision)
    if dla:
        dla.attach(trt, network, config)
    config.progress_monitor = monitor = progress_monitor(trt, progress)
    if not dla and config.add_optimization_profile(_profile(builder, network, settings.batch)) < 0:
        raise PspnetError(f"TensorRT takes no batch of 1 to {settings.batch}: {log.reason()}. Try another --batch")
    if cache:
        cache.attach(trt, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if progress.cancelled:
            raise PspnetError("the build was cancelled; nothing was written")
        if dla:
            dla.check_taken(trt)
        raise PspnetError(f"TensorRT {trt.__version__} cannot build the {route}ly typed {precision} engine: "
                          f"{log.reason()}. {_advice(log.errors)}")  # fmt: skip
    if cache:
        cache.store(config)
    del monitor, parser  # TensorRT holds no reference of its own
    return bytes(plan)


def _check_route(trt: Any, route: str) -> None:
    if route not in routes_of(trt):
        raise PspnetError(
            f"TensorRT {trt.__version__} has no {route}ly typed networks, only {' and '.join(routes_of(trt))}: leave "
            "out --route"
        )


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # how the bindings say that the library returned nothing
        reason = f"{log.reason()}. `pspnet doctor` shows what this machine lacks"
        raise PspnetError(f"TensorRT makes no builder: {reason}") from error


def _parsed(trt: Any, builder: Any, content: bytes, route: str, log: Any, for_dla: bool) -> tuple[Any, Any]:
    """The network of a graph, and the parser, which must live as long."""
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # its number differs between 10 and 11
    network = builder.create_network(typed if route == STRONG else 0)
    parser = trt.OnnxParser(network, log)
    if for_dla and "ADJUST_FOR_DLA" in trt.OnnxParserFlag.__members__:
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse(content):
        raise PspnetError(f"TensorRT {trt.__version__} does not parse the graph: {_parser_errors(parser, log)}")
    return network, parser


def _configure(trt: Any, config: Any, settings: BuildSettings, route: str, precision: str) -> None:
    pools = trt.MemoryPoolType
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(pools.WORKSPACE, settings.workspace_mib * MEBIBYTE)
    if settings.tactic_dram_mib is not None:
        config.set_memory_pool_limit(pools.TACTIC_DRAM, settings.tactic_dram_mib * MEBIBYTE)
    if settings.aux_streams is not None:
        config.max_aux_streams = settings.aux_streams
    if settings.optimisation_level is not None:
        config.builder_optimization_level = settings.optimisation_level
    if settings.tiling is not None:
        config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, settings.tiling.upper())
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the audit reads types and formats of every layer
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and ten bits of mantissa are no fp32
    for name in TYPED_BY_FLAGS[precision] if route == WEAK else ():
        config.set_flag(getattr(trt.BuilderFlag, name))


def _profile(builder: Any, network: Any, batch: int) -> Any:
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    if INPUT not in inputs:
        raise PspnetError(
            f"the graph's inputs are {', '.join(inputs)}, and {INPUT} is needed: build a file of `pspnet export`"
        )
    size = tuple(inputs[INPUT].shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (1, *size), (batch, *size), (batch, *size))
    return profile


def _parser_errors(parser: Any, log: Any) -> str:
    """Every error of the parser, with its node and operator, as one line."""
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = error.node_name() or f"number {error.node()}"
        lines.append(f"node {node} ({error.node_operator() or 'no operator'}): {' '.join(error.desc().split())}")
    return "; ".join(lines).rstrip(".") or log.reason()


def _advice(errors: list[str]) -> str:
    if any(word in line.lower() for line in errors for word in ("out of memory", "insufficient memory", "outofmemory")):
        return "Try --low-memory, a smaller --workspace or --batch, or end other programs"
    return "Try another --route or --precision; `pspnet inspect MODEL --target` tells what TensorRT refuses in a file"
