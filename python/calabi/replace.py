"""Factors in the place of the linear layers of a torch model in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from . import _engine, calibration
from ._settings import Rule
from .errors import ConfigError
from .found import Layer, layers
from .low_rank import LowRankLinear, ruled, warn_of_larger, weight_of
from .matrices import Factorized, Statistics, factorize, spectrum
from .progress import Progress, observer
from .saving import as_factorized
from .selectors import allocate


@dataclass(frozen=True)
class Replacement:
    """What became of a layer."""

    name: str
    shape: tuple[int, int]
    rank: int | None
    """The rank; none where the layer stays as it is."""
    because: str
    """Which rule bound, or why the layer was left alone."""
    predicted_error: float | None = None
    measured_error: float | None = None

    @property
    def parameters(self) -> tuple[int, int]:
        """Of the weight, before and after."""
        dense = self.shape[0] * self.shape[1]
        return dense, dense if self.rank is None else self.rank * sum(self.shape)


class ReplaceReport:
    """What became of each linear layer. Its length is the number of those that factors stand for."""

    def __init__(self, layers: list[Replacement], parameters: tuple[int, int]) -> None:
        self.layers, self.parameters = layers, parameters

    @property
    def replaced(self) -> list[Replacement]:
        """The layers that factors stand for."""
        return [layer for layer in self.layers if layer.rank is not None]

    @property
    def removed(self) -> float:
        """The share of the model's parameters that is gone."""
        return 1.0 - self.parameters[1] / self.parameters[0] if self.parameters[0] else 0.0

    def __len__(self) -> int:
        return len(self.replaced)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        rows = [("layer", "shape", "rank", "parameters", "error", "rule"), *map(_row, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        (before, after), change = self.parameters, 0.0 - self.removed
        total = f"{len(self)} of {len(self.layers)} layers replaced; parameters {before} -> {after} ({change:+.1%})"
        return "\n".join([*lines, "", total])


def replace_linear_layers(
    model: nn.Module,
    rank: Rule | None = None,
    *,
    compression_ratio: float | None = None,
    keep: float | None = None,
    min_features: int = 1,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    calibrate: Iterable[Any] | Mapping[str, Statistics] | None = None,
    forward: calibration.Forward | None = None,
    break_even: bool | None = None,
    multiple: int = 1,
    progress: bool | Progress | None = None,
    verbose: bool = False,
    **settings: Any,
) -> ReplaceReport:
    """Puts factors in the place of linear layers, once those of all layers are made.

    A model of transformers then saves itself as the checkpoints that calabi writes: `model.save_pretrained(folder)`.

    Args:
        model: any torch model; it is changed.
        rank: the rule for each layer: a rank, a selector's `kind` and settings, a function of the spectrum; or an
            allocator's, such as `{"kind": "budget", "keep": 0.5}`, which layers share.
        compression_ratio: in place of a rank, the share of `min(inputs, outputs)` that each layer keeps.
        keep: in place of a rank, the share of the layers' parameters that is kept, shared so that the least is lost.
        min_features: layers with fewer inputs or outputs are left alone.
        include: patterns of the names of layers that take part, such as `*.q_proj` or `re:.*[qk]_proj`.
        exclude: patterns of those that do not.
        calibrate: batches that the model runs on, or what `calabi.calibrate` gave: the error of each layer's outputs is
            then the smallest, in place of that of its weight.
        forward: called as `forward(model, batch)`, where batches are not the model's arguments.
        break_even: whether layers stay dense where factors would not be smaller; so unless `compression_ratio` is given.
        multiple: ranks are rounded to multiples of it.
        progress: `True` for a bar (tqdm) or lines on stderr.
        verbose: whether the report is printed, and progress shown.
        settings: `bias`, `objective`, `shrinkage`, `decomposer`, `threads` of `calabi.factorize`.

    Returns:
        What became of each linear layer; its length is the number of those that were replaced. Those left alone say why.

    Raises:
        What `calabi.factorize` raises, naming the layer: the model is then as it was.
    """
    rule = ruled(rank, compression_ratio, keep)
    break_even = compression_ratio is None if break_even is None else break_even
    found = layers(model, include, exclude, min_features)
    if any(layer.module is model for layer in found):
        raise ConfigError("the model is a linear layer itself: calabi.LowRankLinear(model, ...) factorizes it")
    chosen = [layer for layer in found if layer.why is None]
    statistics = _statistics(model, calibrate, forward, chosen)
    work = _Work(settings, statistics, multiple, break_even, observer(progress if progress is not None else verbose or None))
    made = work.factorized(chosen, rule)
    before = _count(model)
    for layer, factors in zip(chosen, made):
        if isinstance(factors, Factorized) and factors.rank is not None:
            _put(model, layer, factors)
    as_factorized(model)
    outcomes = {id(layer): factors for layer, factors in zip(chosen, made)}
    report = ReplaceReport([_outcome(layer, outcomes.get(id(layer))) for layer in found], (before, _count(model)))
    warn_of_larger((layer.name, layer.shape, layer.rank or 0) for layer in report.replaced)
    if verbose:
        print(report)
    return report


@dataclass
class _Work:
    """How layers are factorized."""

    settings: dict[str, Any]
    statistics: dict[str, Statistics] | None
    multiple: int
    break_even: bool
    progress: Progress | None

    def factorized(self, chosen: list[Layer], rule: Rule) -> list[Factorized | str]:
        """The factors of each layer, or why it has none."""
        if not _shares(rule):
            return self._each("factorize", chosen, lambda layer: self._factors(layer, rule, True))
        spectra = self._each("decompose", chosen, lambda layer: self._spectrum(layer))
        known = [(layer, found) for layer, found in zip(chosen, spectra) if not isinstance(found, str)]
        choices = allocate([found for _, found in known], rule, multiple=self.multiple, break_even=self.break_even)
        ranks = {id(layer): choice for (layer, _), choice in zip(known, choices)}
        reasons = {id(layer): found for layer, found in zip(chosen, spectra) if isinstance(found, str)}
        return self._each("factorize", chosen, lambda layer: self._allocated(layer, ranks, reasons))

    def _allocated(self, layer: Layer, ranks: dict[int, Any], reasons: dict[int, str]) -> Factorized | str:
        if id(layer) in reasons:
            return reasons[id(layer)]
        choice = ranks[id(layer)]
        return choice.because if choice.rank is None else self._factors(layer, lambda _: choice, False)

    def _factors(self, layer: Layer, rule: Rule, settle: bool) -> Factorized | str:
        metric = self._metric(layer)
        if isinstance(metric, str):
            return metric
        rounding: dict[str, Any] = {"multiple": self.multiple, "break_even": self.break_even} if settle else {}
        weight = weight_of(layer.module)
        made = factorize(weight, rule, metric=metric, name=layer.name, **rounding, **self.settings)
        return _as_stored(weight, made, metric) if weight.dtype in _HALVES else made

    def _spectrum(self, layer: Layer) -> Any:
        metric = self._metric(layer)
        return metric if isinstance(metric, str) else spectrum(
            weight_of(layer.module), metric=metric, name=layer.name, **self.settings
        )

    def _metric(self, layer: Layer) -> Statistics | str | None:
        if self.statistics is None:
            return None
        return self.statistics.get(layer.name, "no input reached it in calibration")

    def _each(self, stage: str, chosen: list[Layer], work: Any) -> list[Any]:
        if self.progress is None:
            return [work(layer) for layer in chosen]
        made = []
        self.progress.begin(stage, len(chosen))
        for layer in chosen:
            made.append(work(layer))
            self.progress.step(stage, layer.name)
        self.progress.end(stage)
        return made


_HALVES = (torch.float16, torch.bfloat16)


def _as_stored(weight: torch.Tensor, made: Factorized, metric: Statistics | None) -> Factorized:
    """The same, its error measured on factors as a layer of 16 bits holds them."""
    if made.left is None or made.right is None:
        return made
    left, right = (torch.from_numpy(factor).to(weight.dtype).cpu().float() for factor in (made.left, made.right))
    dense = weight.detach().cpu().float()
    gram = None if metric is None else torch.as_tensor(metric.gram).float()
    energy = lambda a: float((a * (a if gram is None else a @ gram)).sum())
    before = energy(dense)
    error = math.sqrt(max(0.0, energy(dense - left @ right)) / before) if before > 0.0 else 0.0
    # A bias makes up for the mean, which is in the Gram matrix still.
    return made if made.bias is not None else dataclasses.replace(made, measured_error=error)


def _shares(rule: Rule) -> bool:
    """Whether layers share a budget: the engine knows which kinds are allocators."""
    return isinstance(rule, Mapping) and _engine.shares_budget(str(rule.get("kind", "")))


def _statistics(model: nn.Module, calibrate: Any, forward: Any, chosen: list[Layer]) -> dict[str, Statistics] | None:
    if calibrate is None:
        return None
    if isinstance(calibrate, Mapping):
        return calibration.checked(calibrate, [name for layer in chosen for name in layer.names])
    return calibration.gather(model, calibrate, forward=forward, names=[layer.name for layer in chosen])


def _put(model: nn.Module, layer: Layer, factors: Factorized) -> None:
    made = LowRankLinear.of(layer.module, factors)
    for name in layer.names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made)


def _outcome(layer: Layer, made: Factorized | str | None) -> Replacement:
    shape = layer.shape
    if isinstance(made, Factorized):
        errors = (made.predicted_error, made.measured_error) if made.rank is not None else (None, None)
        return Replacement(layer.name, shape, made.rank, made.because, *errors)
    return Replacement(layer.name, shape, None, made or layer.why or "")


def _row(layer: Replacement) -> tuple[str, ...]:
    before, after = layer.parameters
    error = "-" if layer.measured_error is None else f"{layer.measured_error:.2%}"
    change = "-" if layer.rank is None else f"{after / before - 1.0:+.1%}"
    shape = "x".join(map(str, layer.shape))
    return layer.name, shape, str(layer.rank or "dense"), change, error, layer.because


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))
