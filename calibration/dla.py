"""The backbone on a DLA core of a Jetson, the rest of the network on its GPU.

Which TensorRT can do that, which layers go there, and how INT8 is said there: up to 10.7 by a calibration cache beside
the float graph, from 11.4.1 on by Q/DQ in a strongly typed graph. Sources: NVIDIA's pages on DLA of 10.x and 11.4.1,
its qdq-translator and its reference of the builder; docs/tensorrt.md names them. None of it was run on a board.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from calibration.build_candidates import BuildChoice
from calibration.builder import STRONG, WEAK
from calibration.dla_cache import cache_text, calibrator
from calibration.dla_graph import Ranges
from calibration.engine_audit import audit, nodes_on_gpu
from pspnet.errors import PspnetError
from pspnet.wording import counted
from runtime.cuda import Device
from runtime.tensorrt_library import engine_log, tensorrt_module

FEATURES = "features"
"""The tensor between backbone and head, in every file of the exporter."""
LAST_WITH_CACHE, FIRST_WITH_QDQ = (10, 7), (11, 4, 1)
"""TensorRT between them has no DLA on a Jetson."""
PART_OF_A_SUM = 1.0
"""Scale of a convolution's output that is summed in the same kernel: a DLA's compiler reads it as "no scale of its
own" (NVIDIA's qdq-translator, --add_unary_ew_scales_for_dla), and without any TensorRT leaves INT8 there."""
LISTED = 5


def dla_route(trt: Any) -> str:
    """The only route of the TensorRT at hand to a DLA."""
    calibrates = hasattr(trt, "IInt8EntropyCalibrator2") and hasattr(trt.IBuilderConfig, "int8_calibrator")
    return WEAK if calibrates else STRONG


def check_dla(trt: Any, choice: BuildChoice) -> None:
    """PspnetError where no DLA could do what was chosen, as far as is known without a board."""
    version = str(trt.__version__)
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:3])
    if numbers[:2] > LAST_WITH_CACHE and numbers < FIRST_WITH_QDQ:
        raise PspnetError(
            f"TensorRT {version} has no DLA on a Jetson: 10.3 to 10.7 have it (JetPack 6), and 11.4.1 and later "
            "(JetPack 7.2.2, AGX Orin). Install one of these, or leave out --dla"
        )
    if choice.precision == "fp32":
        raise PspnetError("a DLA has no fp32: give --precision fp16 or int8, or leave out --dla")
    if choice.route not in ("auto", route := dla_route(trt)):
        why = "whose DLA takes no Q/DQ" if route == WEAK else "which has no other"
        raise PspnetError(f"for a DLA, networks are {route}ly typed with TensorRT {version}, {why}: leave out --route")


def check_core(device: Device, core: int) -> None:
    """PspnetError where the board has no such DLA core."""
    trt = tensorrt_module()
    log = engine_log(trt)
    with device.current():
        builder = trt.Builder(log)
        cores = int(builder.num_DLA_cores)
        del builder
    if not cores:
        raise PspnetError(
            f"{device.name} has no DLA (AGX Orin and Orin NX have one; Orin Nano, Thor and cards have none): leave out "
            "--dla"
        )
    if core >= cores:
        listed = "0" if cores == 1 else f"0 to {cores - 1}"
        raise PspnetError(f"there is no DLA core {core} here, only {listed}: give one of them with --dla")


@dataclass
class DlaBuild:
    """One build with the backbone on DLA core `core`, and what became of it.

    placed, refused: names of the layers between the picture and FEATURES that TensorRT takes for a DLA, and of those
    that it does not, known once the network was handed to `attach`; cache: the text that TensorRT was given.
    """

    core: int
    ranges: Ranges
    placed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cache: str = ""
    _calibrator: Any = None

    def attach(self, trt: Any, network: Any, config: Any) -> None:
        """Have `config`, whose flags are set, build `network` for the DLA."""
        config.DLA_core = self.core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        if self.ranges.scales:
            self._keep_float(trt, network, config)
        on_dla = self._place(trt, network, config)
        if not self.placed:
            raise PspnetError(
                f"TensorRT takes no layer of the backbone for a DLA ({', '.join(self.refused[:3])}, ...): leave out "
                "--dla"
            )
        if self.ranges.scales and hasattr(config, "int8_calibrator"):
            sums = {name: PART_OF_A_SUM for name, total in self.ranges.sums.items() if {name, total} <= on_dla}
            self.cache = cache_text(str(trt.__version__), self.ranges.scales | sums)
            config.int8_calibrator = self._calibrator = calibrator(trt, self.cache)

    def check_taken(self, trt: Any) -> None:
        """PspnetError where TensorRT wanted pictures, so did not take the cache."""
        if self._calibrator is not None and self._calibrator.was_asked:
            first = self.cache.partition("\n")[0]
            raise PspnetError(
                f"TensorRT {trt.__version__} does not take the calibration cache that was made for it ({first}): give "
                "the float file with --precision fp16, or leave out --dla"
            )

    def facts(self, information: dict[str, Any]) -> dict[str, Any]:
        """For the passport: the core, how many layers of the backbone run there, in how many parts, and which are on
        the GPU, by TensorRT's word before the build or by what its inspector says of the engine."""
        elsewhere = nodes_on_gpu(information)
        moved = [name for name in self.placed if name in elsewhere]
        return {
            "core": self.core, "layers": len(self.placed) - len(moved),
            "loadables": audit(information)["dla_loadables"], "fell_back": [*self.refused, *moved],
        }  # fmt: skip

    def _keep_float(self, trt: Any, network: Any, config: Any) -> None:
        """Hold TensorRT to float16 where the calibration left float, whatever is faster."""
        if "OBEY_PRECISION_CONSTRAINTS" not in trt.BuilderFlag.__members__:
            return
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if self.ranges.in_float & set(_outputs(layer)) and hasattr(layer, "precision"):
                layer.precision = trt.DataType.HALF

    def _place(self, trt: Any, network: Any, config: Any) -> set[str]:
        """Put the backbone's layers where they can run; returns the tensors that are made on the DLA."""
        on_dla: set[str] = set()
        for index, computes in _backbone(network):
            layer = network.get_layer(index)
            taken = bool(config.can_run_on_DLA(layer))
            if taken:
                config.set_device_type(layer, trt.DeviceType.DLA)
                on_dla |= set(_outputs(layer))
            if computes:
                (self.placed if taken else self.refused).append(str(layer.name))
        return on_dla


def _backbone(network: Any) -> list[tuple[int, bool]]:
    """Numbers of the layers that FEATURES comes from, and whether pictures go through them; others hold constants."""
    made: dict[str, int] = {}
    sources: list[list[str]] = []
    fed = {network.get_input(index).name for index in range(network.num_inputs)}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
        sources.append([tensor.name for tensor in inputs if tensor is not None])
        made |= dict.fromkeys(_outputs(layer), index)
        if fed & set(sources[-1]):
            fed |= set(_outputs(layer))
    if FEATURES not in made:
        raise PspnetError(f"the graph has no tensor {FEATURES}, where the backbone ends: export the network again")
    found, waiting = set[int](), [made[FEATURES]]
    while waiting:
        if (index := waiting.pop()) not in found:
            found.add(index)
            waiting += [made[name] for name in sources[index] if name in made]
    return [(index, bool(fed & set(sources[index]))) for index in sorted(found)]


def _outputs(layer: Any) -> list[str]:
    return [layer.get_output(number).name for number in range(layer.num_outputs)]


def text_of(facts: dict[str, Any]) -> str:
    """The passport's facts as one line."""
    backbone = facts["layers"] + len(facts["fell_back"])
    text = f"DLA core {facts['core']}: {facts['layers']} of the {counted(backbone, 'layer')} of the backbone"
    text += f", in {counted(facts['loadables'], 'part')}" if facts["loadables"] else ""
    if listed := facts["fell_back"][:LISTED]:
        more = f" and {len(facts['fell_back']) - LISTED} more" if len(facts["fell_back"]) > LISTED else ""
        text += f"; on the GPU: {', '.join(listed)}{more}"
    return text
