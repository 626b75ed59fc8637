"""Settings in Python's own values, as the engine takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError

if TYPE_CHECKING:
    from ._engine import Spectrum

Function = Callable[["Spectrum"], int | None | tuple[int | None, str]]
"""A selector in Python: the rank for a spectrum, `None` for dense, or one of these and why."""
Rule = int | Mapping[str, Any] | Function
"""How a rank is chosen: a number, a plugin's `kind` and its settings, a function of the spectrum."""


def rule(given: Rule) -> str | Function:
    """A rule as the engine takes it: settings as JSON, or a function."""
    if isinstance(given, Mapping):
        return as_json(given)
    if callable(given):
        return given
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, np.integer)):
        raise TypeError(f"a rule is a rank, a dict with a `kind`, or a function of the spectrum, not {given!r}")
    return as_json({"kind": "fixed", "rank": int(given)})


def decomposer(given: str | Mapping[str, Any] | None) -> str | None:
    """A decomposer as the engine takes it."""
    if given is None:
        return None
    return as_json({"kind": given} if isinstance(given, str) else given)


def as_json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON. What is `None` is not set."""
    return json.dumps(plain(settings, "settings"))


def plain(value: Any, place: str) -> Any:
    """The value in types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{place}.{key}") for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{place}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if value - value != 0.0:
            raise ConfigError(f"{place} is {value}, and settings are finite numbers")
        return value
    raise ConfigError(f"{place} is {value!r}: settings are texts, numbers, lists and dicts of these")
