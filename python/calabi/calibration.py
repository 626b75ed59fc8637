"""What flows into the linear layers of a torch model, gathered by hooks while it runs on a user's own batches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .errors import ConfigError
from .found import layers
from .matrices import Statistics

Forward = Callable[[nn.Module, Any], Any]


class _Moments:
    """`E[x xᵀ]` and `E[x]` of one input, summed around its first mean, so that a large mean costs no digits."""

    def __init__(self, x: torch.Tensor) -> None:
        self.origin = x.mean(0)
        features = x.shape[1]
        self.products = torch.zeros(features, features, dtype=torch.float64, device=x.device)
        self.sums = torch.zeros(features, dtype=torch.float64, device=x.device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        centred = x - self.origin
        self.products += (centred.T @ centred).double()
        self.sums += centred.double().sum(0)
        self.tokens += len(x)

    def statistics(self) -> Statistics:
        origin, shift = self.origin.double(), self.sums / self.tokens
        mean = origin + shift
        covariance = self.products / self.tokens - torch.outer(shift, shift)
        gram = covariance + torch.outer(mean, mean)
        return Statistics(gram.cpu().numpy(), mean.cpu().numpy(), self.tokens)


class _Watch:
    """Hooks on layers. Layers that read the same tensor share its moments."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.masks: dict[str, torch.Tensor] = {}
        self.sources: dict[str, str] = {}
        self.moments: dict[str, _Moments] = {}
        self.seen: list[tuple[torch.Tensor, int, str]] = []

    def begin(self, batch: Any) -> None:
        """A batch begins."""
        self.masks, self.seen = _masks(batch), []

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = (inputs[0] if inputs else named["input" if "input" in named else "x"]).detach()
        name = self.names[module]
        version = 0 if x.is_inference() else x._version
        source = next((by for tensor, known, by in self.seen if _same(tensor, x) and known == version), None)
        if source is None:
            # Held, so that no other tensor takes its place in memory; the layers that share an input follow each other.
            self.seen = [*self.seen[-7:], (x, version, name)]
            source = name
        if self.sources.setdefault(name, source) != source:
            raise ConfigError(f"{name} reads now its own input, now that of {source}: calibrate with one kind of batch")
        if source == name:
            self.add(name, x)

    def add(self, name: str, x: torch.Tensor) -> None:
        mask = self.masks.get("decoder" if "decoder" in name.split(".") and "decoder" in self.masks else "")
        if mask is not None and mask.shape == x.shape[:-1]:
            x = x[mask.to(x.device)]
        x = x.reshape(-1, x.shape[-1])
        if not len(x):
            return
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if name not in self.moments:
                self.moments[name] = _Moments(x)
            self.moments[name].add(x)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


@torch.no_grad()
def gather(
    model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None, names: str | Iterable[str] | None = None
) -> dict[str, Statistics]:
    """The moments of what flows into each linear layer, while the model runs on batches.

    Args:
        model: runs in evaluation mode, where it lies; its mode is restored.
        batches: dicts (`model(**batch)`), tuples or lists (`model(*batch)`), or tensors (`model(batch)`), which go to
            the model's device. Tokens whose `attention_mask` is 0 do not count.
        forward: called as `forward(model, batch)` in place of these.
        names: the layers that are watched; all linear ones unless said.

    Returns:
        By the name of each layer that was reached. Layers that read the same tensor share one object.

    Raises:
        ConfigError: there are no batches.
    """
    if isinstance(batches, (Mapping, torch.Tensor)):
        raise ConfigError("batches are several: put the one that there is in a list")
    wanted = None if names is None else {names} if isinstance(names, str) else set(names)
    watched = {one.module: one.name for one in layers(model) if wanted is None or one.name in wanted}
    watch, count = _Watch(watched), 0
    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(watch.hook, with_kwargs=True) for module in watched]
    model.eval()
    try:
        for batch in batches:
            batch = _moved(batch, model)
            watch.begin(batch)
            (forward or _forward)(model, batch)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if not count:
        raise ConfigError("there are no batches to calibrate on")
    made = {source: moments.statistics() for source, moments in watch.moments.items()}
    return {name: made[source] for name, source in watch.sources.items() if source in made}


def checked(statistics: Mapping[str, Statistics], layers: Iterable[str]) -> dict[str, Statistics]:
    """Statistics by the names of layers, some of these at least.

    Raises:
        ConfigError: it is something else: one batch, say.
    """
    known = set(layers)
    if not all(isinstance(found, Statistics) for found in statistics.values()) or not known & set(statistics):
        raise ConfigError(
            "calibrate= takes what calabi.calibrate gave, by the names of the model's layers, or batches: put the one that "
            "there is in a list"
        )
    return dict(statistics)


def save(statistics: Mapping[str, Statistics], path: str | os.PathLike[str], **provenance: str) -> None:
    """Writes statistics to a file that `[calibration] statistics` reads."""
    from safetensors.torch import save_file

    if lacking := [name for name, found in statistics.items() if found.mean is None or found.tokens is None]:
        raise ConfigError(f"the statistics of {lacking[0]} have no mean or no number of tokens, which a file needs")
    sources: dict[int, str] = {}
    tensors, names = {}, {}
    for name, found in statistics.items():
        source = names[name] = sources.setdefault(id(found), name)
        if source == name:
            tensors[f"gram.{name}"] = torch.as_tensor(found.gram, dtype=torch.float64).contiguous()
            tensors[f"mean.{name}"] = torch.as_tensor(found.mean, dtype=torch.float64).contiguous()
            tensors[f"tokens.{name}"] = torch.tensor([found.tokens], dtype=torch.int64)
    said = {"format": "calabi-statistics", "version": "1", "layers": json.dumps(names)}
    save_file(tensors, os.fspath(path), provenance | said)


def _forward(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _moved(batch: Any, model: nn.Module) -> Any:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, model) for key, value in batch.items()}
    return type(batch)([_moved(value, model) for value in batch]) if type(batch) in (tuple, list) else batch


def _masks(batch: Any) -> dict[str, torch.Tensor]:
    """Which tokens count: of all layers, and of those of a decoder that has tokens of its own."""
    if not isinstance(batch, Mapping):
        return {}
    given = {"": batch.get("attention_mask"), "decoder": batch.get("decoder_attention_mask")}
    masks = {of: mask.bool() for of, mask in given.items() if isinstance(mask, torch.Tensor) and mask.ndim == 2}
    own = batch.get("decoder_input_ids")
    if "decoder" not in masks and isinstance(own, torch.Tensor):
        masks["decoder"] = torch.ones_like(own, dtype=torch.bool)
    return masks
