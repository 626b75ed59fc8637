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


def threads(given: int | None) -> int | None:
    """A number of threads."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not 1 <= given <= 1024:
        raise ConfigError(f"threads are a number from 1 to 1024, not {given!r}")
    return int(given)


def as_toml(value: Any) -> str:
    """A value of plain types as it stands behind the equals sign of a pipeline file."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)


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
        value = value.item()
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if value - value != 0.0:
            raise ConfigError(f"{place} is {value}, and settings are finite numbers")
        return value
    raise ConfigError(f"{place} is {value!r}: settings are texts, numbers, lists and dicts of these")
