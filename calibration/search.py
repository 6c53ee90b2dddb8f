"""The fastest mix of INT8 and float convolutions that keeps the figure within a budget.

From all INT8, the layers that lose most labels per time go back to float, every step scored, until the budget is kept;
then those that went back are tried in INT8 once more, the most harmless first, in groups that are halved on failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from tqdm import tqdm

from calibration.cost import layer_costs, total_ms
from calibration.placement import place
from calibration.rates import Rates
from calibration.score import Judge, Score
from calibration.sensitivity import IMAGES, Sensitivity, mixed, sensitivities
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError

FREE_MS = 1e-6  # a layer that costs no time in float counts as costing this, so that it goes back first


@dataclass(frozen=True)
class Budget:
    """What may be lost: points of the judge's figure, and for some classes points of their IoU."""

    max_drop: float
    class_floors: dict[str, float]

    def missed(self, judge: Judge, score: Score) -> list[str]:
        """One line for each limit that `score` does not keep; see `unjudged` for limits that nothing is known of."""
        lost, losses = judge.loss(score), judge.class_losses(score)
        lines = [f"{judge.figure} loses {lost:.2f}, allowed are {self.max_drop:g}"] if lost > self.max_drop else []
        return lines + [
            f"{name} loses {losses[name]:.2f} points of IoU, allowed are {limit:g}"
            for name, limit in self.class_floors.items()
            if name in losses and losses[name] > limit
        ]

    def unjudged(self, judge: Judge) -> list[str]:
        """Classes with a limit that are on none of the judge's pictures."""
        held = judge.class_losses(judge.baseline)
        return [name for name in self.class_floors if name not in held]

    def check_names(self, classes: Sequence[str]) -> None:
        """PspnetError where a class is unknown, or a limit is no number of points from 0 to 100."""
        for points in (self.max_drop, *self.class_floors.values()):
            if not 0 <= points <= 100:
                raise PspnetError(
                    f"a budget of {points:g} points: --max-miou-drop and --class-floor say how many may be lost, from "
                    "0 to 100"
                )
        for name in self.class_floors:
            if name not in classes:
                raise PspnetError(f"--class-floor {name}: the network has no such class, only {', '.join(classes)}")

    def check(self, judge: Judge) -> None:
        """PspnetError where `check_names` finds fault, or a class is on no held-out picture."""
        self.check_names(judge.spec.class_names)
        if unjudged := self.unjudged(judge):
            raise PspnetError(
                f"--class-floor {unjudged[0]}: no held-out picture that the search sees holds it. Give more with "
                "--held-out"
            )


@dataclass(frozen=True)
class Mix:
    """A choice of layers left in float, its score, and what it costs by the table of peak rates."""

    float_layers: tuple[str, ...]
    score: Score
    loss: float
    cost_ms: float
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """mixes: all that were scored, the first with every layer in INT8. best: the cheapest within the budget."""

    mixes: list[Mix]
    best: Mix
    rows: list[Sensitivity]


def budget_from_text(max_drop: float, class_floors: Sequence[str]) -> Budget:
    """A budget of the two flags' values, the floors as CLASS=POINTS."""
    floors = {}
    for text in class_floors:
        name, separator, points = text.rpartition("=")
        if name in floors:
            raise PspnetError(f"--class-floor gives {name} twice: leave out one of the two")
        try:
            floors[name] = float(points)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise PspnetError(f"--class-floor {text}: give CLASS=POINTS of IoU it may lose, for example Pedestrian=1.0")
    return Budget(max_drop, floors)


def search(
    model: onnx.ModelProto, table: CalibrationTable, judge: Judge, budget: Budget, rates: Rates,
    rows: list[Sensitivity] | None = None, quiet: bool = False,
) -> Search:  # fmt: skip
    """The cheapest mix within `budget`, and every mix on the way to it.

    rows: of `sensitivities`, where they were measured already. PspnetError where no mix with INT8 in it is within it.
    """
    budget.check(judge)
    with tqdm(desc="search", unit="mix", leave=False, disable=quiet) as bar:
        return _searched(_Trials(model, table, judge, budget, rates, bar), rows, quiet)


def _searched(trials: _Trials, rows: list[Sensitivity] | None, quiet: bool) -> Search:
    model, table, judge, _, rates = trials.of
    fixed = set(table.float_layers)
    mix = trials.scored(fixed)
    if not mix.missed:
        return Search(trials.mixes, mix, rows or [])
    rows = rows or sensitivities(model, table, judge.subset(IMAGES), quiet=quiet)
    order = _order(model, table, rows, rates)
    for count in _steps(len(order) - 1):
        mix = trials.scored(fixed | set(order[:count]))
        if not mix.missed:
            break
    else:
        raise PspnetError(
            f"no mix of INT8 and float keeps the budget: {'; '.join(mix.missed)}, with one layer left in INT8. Allow "
            "more, or repair the network first with --bias-correction, --equalise or --finetune"
        )
    trials.without(set(mix.float_layers), order[:count][::-1])
    within = [trial for trial in trials.mixes if not trial.missed]
    return Search(trials.mixes, min(within, key=lambda trial: trial.cost_ms), rows)


class _Trials:
    """Scores mixes, once each, and keeps them in order."""

    def __init__(
        self, model: onnx.ModelProto, table: CalibrationTable, judge: Judge, budget: Budget, rates: Rates, bar: tqdm
    ) -> None:
        self.mixes: list[Mix] = []
        self.of = model, table, judge, budget, rates
        self._bar = bar

    def scored(self, float_layers: set[str]) -> Mix:
        wanted = tuple(sorted(float_layers))
        if found := next((mix for mix in self.mixes if mix.float_layers == wanted), None):
            return found
        model, table, judge, budget, rates = self.of
        graph = mixed(model, table, wanted)
        score = judge.score(graph, None)
        missed = tuple(budget.missed(judge, score))
        mix = Mix(wanted, score, judge.loss(score), total_ms(graph, rates), missed)
        self.mixes.append(mix)
        self._bar.update()
        self._bar.set_postfix_str(f"{len(wanted)} in float, loses {mix.loss:.2f}")
        return mix

    def without(self, float_layers: set[str], candidates: Sequence[str]) -> set[str]:
        """`float_layers` less those of `candidates` that the budget can do without, tried together, then by halves."""
        if not candidates:
            return float_layers
        fewer = float_layers - set(candidates)
        if not self.scored(fewer).missed:
            return fewer
        half = len(candidates) // 2
        if not half:
            return float_layers
        return self.without(self.without(float_layers, candidates[:half]), candidates[half:])


def _steps(most: int) -> Iterator[int]:
    """1, 2, 3 ... `most`, later in steps of a quarter: what goes back too early is tried in INT8 again."""
    count = 1
    while count < most:
        yield count
        count += max(count // 4, 1)
    if most:
        yield most


def _order(model: onnx.ModelProto, table: CalibrationTable, rows: Sequence[Sensitivity], rates: Rates) -> list[str]:
    """Layers by the labels that they lose per millisecond that they save, the worst first.

    Labels and not the figure: a figure moves by chance where few pixels of a class change, and labels add up.
    """
    saved = _saved_ms(model, table, rates)
    return [row.layer for row in sorted(rows, key=lambda row: -row.disagreement / saved[row.layer])]


def _saved_ms(model: onnx.ModelProto, table: CalibrationTable, rates: Rates) -> dict[str, float]:
    """Milliseconds that INT8 saves in each convolution, its neighbours being in INT8 too."""
    plain, int8 = layer_costs(model, rates), layer_costs(mixed(model, table, table.float_layers), rates)
    layers = place(model, table.float_layers).convolutions
    return {layer: max(1e3 * (plain[layer].seconds - int8[layer].seconds), FREE_MS) for layer in layers}
