"""Ranks from spectra: every selector and every allocator that the engine knows, and functions in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import _engine, _settings
from ._engine import Spectrum
from ._settings import Rule
from .arrays import Array, moments
from .matrices import _rounding


class Choice(NamedTuple):
    """What a rule chose."""

    rank: int | None
    """The rank; none where the layer stays dense."""
    because: str
    """Which rule bound."""


class Setting(NamedTuple):
    """A setting of a plugin."""

    name: str
    accepts: str
    default: str | None
    description: str


class Plugin(NamedTuple):
    """A plugin that the engine knows."""

    kind: str
    summary: str
    settings: list[Setting]


def select(
    spectrum: Spectrum | Array,
    rule: Rule,
    *,
    shape: tuple[int, int] | None = None,
    multiple: int = 1,
    break_even: bool = False,
) -> Choice:
    """The rank that a rule chooses for a spectrum.

    Args:
        spectrum: what `calabi.spectrum` gave, or singular values, largest first.
        rule: a selector's `kind` and settings, a rank, or a function of the spectrum.
        shape: that of the matrix, where singular values alone are given; square unless said.
        multiple: the rank is rounded to a multiple of it.
        break_even: whether the matrix stays dense where factors would not be smaller.

    Raises:
        ConfigError: there is no such kind, or a setting is wrong.
        SelectError: no rank can be chosen.

    >>> import calabi
    >>> calabi.select([3.0, 1.0, 0.1], {"kind": "energy", "threshold": 0.85}).rank
    1
    """
    seen = _spectrum(spectrum, shape)
    return Choice(*_engine.select(seen, _settings.rule(rule), _rounding(multiple, break_even)))


def allocate(
    spectra: Sequence[Spectrum | Array], rule: Rule, *, multiple: int = 1, break_even: bool = True
) -> list[Choice]:
    """The ranks of layers that share a budget.

    Args:
        spectra: what `calabi.spectrum` gave for each layer: shapes count.
        rule: an allocator's `kind` and settings, such as `{"kind": "budget", "keep": 0.5}`.
        multiple: ranks are multiples of it.
        break_even: whether layers stay dense where factors would not be smaller.

    Raises:
        ConfigError: there is no such kind, it shares nothing, or a setting is wrong.
        SelectError: the budget cannot be met.
    """
    layers = [_spectrum(spectrum, None) for spectrum in spectra]
    return [Choice(*choice) for choice in _engine.allocate(layers, _settings.rule(rule), _rounding(multiple, break_even))]


def selectors() -> list[Plugin]:
    """Every rule that can stand in `rank`, with its settings."""
    return _plugins("rank rule")


def decomposers() -> list[Plugin]:
    """Every decomposer, with its settings."""
    return _plugins("decomposer")


def _plugins(noun: str) -> list[Plugin]:
    known = _engine.plugins()
    return [Plugin(kind, says, [Setting(*s) for s in settings]) for of, kind, says, settings in known if of == noun]


def _spectrum(given: Spectrum | Array, shape: tuple[int, int] | None) -> Spectrum:
    if isinstance(given, Spectrum):
        return given
    values = np.asarray(moments(given, 1, "the spectrum"))
    return Spectrum(values.tolist(), shape)
