"""Pipelines: whole models, from a file or a folder to another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from . import _engine, _settings
from ._settings import Rule
from .errors import ConfigError
from .progress import Progress, observer
from .reports import Report


def run(
    pipeline: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rank: Rule | None = None,
    set: Mapping[str, Any] | None = None,
    force: bool = False,
    work: str | os.PathLike[str] | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: bool | Progress | None = None,
    _spare_heads: bool = False,
) -> Report:
    """Compresses a model, as `calabi-cli run` does.

    Args:
        pipeline: a pipeline file, or the same as a dict: relative paths are then relative to the current folder.
            In a dict a function of the spectrum can stand for a rule: in `rank`, and in `rank` of an `override`.
        rank: a rule in the place of the pipeline's.
        set: settings that are changed, such as `{"rank.keep": 0.5}`.
        force: whether an output that exists is replaced.
        work: a folder where what is decomposed is kept, for runs after this one.
        memory: what the layers in work may take together, such as `"4GiB"`, or bytes.
        threads: as many as there are processors, unless said.
        progress: `True` for a bar (tqdm) or lines, `False` for none, or an object that is told (`Progress`).

    Returns:
        The report. A gate of `verify` that is not met is no exception: see `Report.passed`.

    Raises:
        ConfigError: the pipeline asks for what cannot be.
        InputError: the model cannot be used.
        DecomposeError, SelectError: a layer is at fault.
        CalabiError: anything else; nothing is left at the output's place.
        KeyboardInterrupt: on Ctrl-C; nothing is left at the output's place.
    """
    options: dict[str, Any] = {
        "force": force,
        "work": None if work is None else os.fspath(work),
        "memory": None if memory is None else str(memory),
        "threads": _settings.threads(threads),
        "set": [f"{key}={_settings.as_toml(_settings.plain(value, key))}" for key, value in (set or {}).items()],
        "progress": observer(progress),
        "spare_heads": _spare_heads,
        "rank": None,
        "overrides": [],
    }
    if isinstance(pipeline, Mapping):
        given = pipeline if rank is None else {**pipeline, "rank": _PLACEHOLDER}
        settings, options["rank"], options["overrides"] = _without_functions(given)
        file, text = None, _settings.as_json(settings)
    else:
        file, text = os.fspath(pipeline), None
    if rank is not None:
        options["rank"] = _settings.rule(rank)
    return Report(*_engine.run(file, text, options))


# Stands where a function is put once the rest is read.
_PLACEHOLDER = {"kind": "fixed", "rank": 1}


def _without_functions(pipeline: Mapping[str, Any]) -> tuple[dict[str, Any], Any, list[tuple[int, Any]]]:
    """The settings, the rule that is a function or a number, and those of overrides."""
    settings = dict(pipeline)
    settings["rank"], rank = _stated(settings.get("rank"))
    functions = []
    if "override" in settings:
        if not isinstance(settings["override"], (list, tuple)):
            raise ConfigError("`override` is a list of dicts with `layers` and `rank`")
        overrides = [dict(one) for one in settings["override"]]
        for place, one in enumerate(overrides):
            one["rank"], rule = _stated(one.get("rank"))
            if rule is not None:
                functions.append((place, rule))
        settings["override"] = overrides
    return settings, rank, functions


def _stated(rule: Any) -> tuple[Any, Any]:
    """What stands in the settings for a rule, and the rule where settings cannot hold it."""
    if rule is None or isinstance(rule, (Mapping, str)):
        return rule, None
    return _PLACEHOLDER, _settings.rule(rule)
