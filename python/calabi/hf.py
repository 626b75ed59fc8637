"""Checkpoints of the Hugging Face kind, compressed in one call and loaded back."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import tempfile
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from . import _engine
from ._settings import Rule
from .calibration import Forward, checked, gather, save
from .errors import ConfigError, InputError
from .found import patterns
from .low_rank import ruled, warn_of_larger
from .matrices import Statistics
from .pipelines import run
from .progress import Progress

# What a checkpoint holds beside its weights, where it does.
_BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
    "preprocessor_config.json", "processor_config.json",
)
# What `from_pretrained` is given that says where models are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "token")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Those that name a task come first: AutoModel takes the body of any model.
_LAST = ("AutoModelForPreTraining", "AutoModelWithLMHead", "AutoModelForTextEncoding", "AutoModel")


def compress_hf_model(
    model: str | os.PathLike[str],
    compression_ratio: float | None = None,
    *,
    rank: Rule | None = None,
    keep: float | None = None,
    output: str | os.PathLike[str] | None = None,
    min_features: int = 1,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    heads: bool = False,
    calibrate: Iterable[Any] | Mapping[str, Statistics] | None = None,
    forward: Forward | None = None,
    calibration: Mapping[str, Any] | None = None,
    pipeline: Mapping[str, Any] | None = None,
    auto_class: Any = None,
    revision: str | None = None,
    force: bool = False,
    threads: int | None = None,
    memory: str | None = None,
    verbose: bool = False,
    progress: bool | Progress | None = None,
    **loading: Any,
) -> Any:
    """Compresses a checkpoint, and gives the model loaded back; `model.calabi_report` is the report.

    Args:
        model: a folder, or a name that transformers finds in its cache or on the hub.
        compression_ratio: the share of `min(inputs, outputs)` that each layer keeps as its rank, also where factors are
            then larger than the dense weight.
        rank: in place of it, the rule: a rank, a plugin's `kind` and settings, a function of the spectrum.
        keep: in place of it, the share of the layers' parameters that is kept, shared so that the least is lost.
        output: the folder that the checkpoint goes to; it is deleted once the model is loaded, unless given.
        min_features: layers with fewer inputs or outputs are left alone.
        include: patterns of the names of layers that take part.
        exclude: patterns of those that do not.
        heads: whether layers that map hidden states to the vocabulary take part too.
        calibrate: batches that the dense model runs on, or what `calabi.calibrate` gave: the error of each layer's
            outputs is then the smallest.
        forward: called as `forward(model, batch)`, where batches are not the model's arguments.
        calibration: in place of these, the section of a pipeline: the engine then runs the model itself.
        pipeline: further sections, such as `{"verify": {...}}`.
        auto_class: what loads the model; that of its architecture unless said.
        revision: of a model on the hub.
        force: whether an output that exists is replaced.
        threads: as many as there are processors, unless said.
        memory: what the layers in work may take together, such as `"4GiB"`.
        verbose: whether the report is printed, and progress shown.
        progress: as in `calabi.run`.
        loading: what `from_pretrained` is given, such as `dtype` and `device_map`.

    Raises:
        What `calabi.run` raises; InputError where the checkpoint has no safetensors.
    """
    settings: dict[str, Any] = {"rank": ruled(rank, compression_ratio, keep)}
    folder, unreached = _folder(model, revision, loading), list[str]()
    _check_trust(folder, loading)
    with tempfile.TemporaryDirectory(prefix="calabi-") as place:
        if calibrate is not None:
            path, unreached = _statistics(folder, calibrate, forward, place, loading)
            calibration = {"statistics": path, **(calibration or {})}
        if calibration is not None:
            settings["calibration"] = calibration
        layers = {
            "min_features": min_features,
            "include": None if include is None else patterns(include),
            "exclude": [*patterns(exclude), *unreached] or None,
        }
        settings["layers"] = layers | ({} if compression_ratio is None else {"break_even": False})
        settings["model"] = {"input": folder, "output": output or pathlib.Path(place, "model")}
        if unreached:
            warnings.warn(f"no input reached {len(unreached)} layers: they stay dense: {unreached[:3]}", stacklevel=2)
        for section, given in (pipeline or {}).items():
            both = isinstance(given, Mapping) and section in ("layers", "model", "calibration")
            settings[section] = {**settings.get(section, {}), **given} if both else given
        watched = progress if progress is not None else verbose or None
        importing = threading.Thread(target=_import_architecture, args=(folder, loading))
        importing.start()
        report = run(
            settings, force=force, threads=threads, memory=memory, progress=watched, _spare_heads=not heads
        )
        if verbose:
            print(report)
        importing.join()
        loaded = _load(report.output, auto_class, loading)
        if output is None:
            # The folder goes.
            loaded.config._name_or_path = loaded.name_or_path = os.fspath(model)
    warn_of_larger((layer.name, tuple(layer.shape), layer.rank or 0) for layer in report.factorized)
    loaded.calabi_report = report
    return loaded


def _folder(model: str | os.PathLike[str], revision: str | None, loading: dict[str, Any]) -> str:
    """The folder of a checkpoint: itself, or what transformers has of that name in its cache."""
    name = os.fspath(model)
    if os.path.isdir(name):
        return name
    from transformers.utils import cached_file

    where = {"revision": revision} | {key: loading[key] for key in _WHERE if key in loading}
    lenient: dict[str, Any] = {
        **where,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    config = str(cached_file(name, "config.json", **where))
    if cached_file(name, _WEIGHTS, **lenient) is None:
        index = cached_file(name, _INDEX, **lenient)
        if index is None:
            raise InputError(
                f"{name} has no {_WEIGHTS}: save it as safetensors first, by AutoModel.from_pretrained({name!r})"
                ".save_pretrained(folder), and name the folder"
            )
        for shard in sorted(set(json.loads(pathlib.Path(index).read_text())["weight_map"].values())):
            cached_file(name, shard, **where)
    for beside in _BESIDE:
        cached_file(name, beside, **lenient)
    return os.path.dirname(config)


def _statistics(
    folder: str, calibrate: Any, forward: Any, place: str, loading: dict[str, Any]
) -> tuple[str, list[str]]:
    """A file with the moments of what flows into the dense model's layers, and the layers that no input reached."""
    path = os.path.join(place, "statistics.safetensors")
    names = _engine.layers(folder)
    if isinstance(calibrate, Mapping):
        found = checked(calibrate, names)
    else:
        import torch

        dense = _load(folder, None, {"dtype": torch.float32} | _trusted(loading))
        found = _named_as_files(dense, gather(dense, calibrate, forward=forward))
    save(found, path, model=folder)
    unreached = [name for name in names if name not in found]
    return path, unreached


def _named_as_files(model: Any, statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """Statistics under the names that layers have in the checkpoint, where these differ from those in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    def in_file(name: str) -> str:
        key = f"{name}.weight"
        state = revert_weight_conversion(model, {key: model.get_parameter(key)})
        return next(iter(state)).removesuffix(".weight")

    return {in_file(name): found for name, found in statistics.items()}


def _import_architecture(folder: str, loading: dict[str, Any]) -> None:
    """Imports what the result will be loaded by, while the engine works: with transformers it takes seconds."""
    try:
        config = _config(folder, loading)
        _auto_class(config)._model_mapping[type(config)]
        importlib.import_module(".modeling_calabi", __package__)
    except Exception:  # noqa: BLE001
        # Loading meets it again, and says so.
        return


def _load(folder: str, auto_class: Any, loading: dict[str, Any]) -> Any:
    config = _config(folder, loading)
    if _is_own(config):
        loading = {**loading, "config": config}
    return (auto_class or _auto_class(config)).from_pretrained(folder, **loading)


def _config(folder: str, loading: dict[str, Any]) -> Any:
    import transformers

    said = transformers.PreTrainedConfig.get_config_dict(folder)[0]
    if said.get("calabi", {}).get("auto_map") and loading.get("trust_remote_code"):
        from . import modeling_calabi as modelling

        return modelling.CalabiConfig.from_pretrained(folder)
    return transformers.AutoConfig.from_pretrained(folder, **_trusted(loading))


def _trusted(loading: dict[str, Any]) -> dict[str, Any]:
    """What is said of trust, where something is."""
    return {key: loading[key] for key in ("trust_remote_code",) if key in loading}


def _check_trust(folder: str, loading: dict[str, Any]) -> None:
    """Before any work: the result would not load."""
    path = pathlib.Path(folder, "config.json")
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = said.get("calabi", said).get("auto_map", {})
    if "AutoConfig" in own and not loading.get("trust_remote_code"):
        text = f"the architecture of {folder} is code of its own: trust_remote_code=True says that you trust it"
        raise ConfigError(text)


def _is_own(config: Any) -> bool:
    """Whether an architecture is code beside its weights."""
    return bool(getattr(config, "calabi", {}).get("auto_map"))


def _auto_class(config: Any) -> Any:
    """The Auto class whose model is that of the architecture which the configuration names."""
    from .loading import auto_classes

    kind = getattr(config, "calabi", {}).get("base_model_type") or config.model_type
    wanted = set(config.architectures or ())
    own = config.calabi.get("auto_map", {}) if hasattr(config, "calabi") else getattr(config, "auto_map", None) or {}
    found = auto_classes()
    order = sorted(found, key=lambda name: (name in _LAST, _LAST.index(name) if name in _LAST else 0))
    for name in order:
        if name in own:
            return found[name]
        known = found[name]._model_mapping._model_mapping.get(kind, ())
        if wanted & ({known} if isinstance(known, str) else set(known)):
            return found[name]
    return found["AutoModel"]
