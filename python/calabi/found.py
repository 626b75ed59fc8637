"""The layers of a torch model that factors can stand for, and those that are left alone, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .low_rank import is_conv1d, is_linear, weight_of


@dataclass
class Layer:
    """A linear layer, under every name that it has in the model."""

    names: list[str]
    module: nn.Module
    why: str | None = None
    """Why it is left alone, where it is."""

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs by inputs."""
        if is_linear(self.module) and self.why != COMPUTED:
            outputs, inputs = weight_of(self.module).shape
            return outputs, inputs
        return self.module.out_features, self.module.in_features  # type: ignore[return-value]


SUBCLASS = "a class of its own: only torch.nn.Linear and Conv1D are factorized"
COMPUTED = "its weight is no plain parameter of floating-point numbers"
FACTORS = "has factors already"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def patterns(given: str | Iterable[str]) -> list[str]:
    """Patterns of names: one, or several."""
    return [given] if isinstance(given, str) else list(given)


def layers(
    model: nn.Module,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    min_features: int = 1,
) -> list[Layer]:
    """Every linear layer of a model; names are matched by patterns such as `*.q_proj` or `re:.*[qk]_proj`."""
    wanted = None if include is None else patterns(include)
    unwanted, found = patterns(exclude), dict[int, Layer]()
    within: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(within):
            continue
        has_factors = getattr(module, "has_factors", False)
        if has_factors:
            within += (f"{name}.",)
        if has_factors or isinstance(module, nn.Linear) or is_conv1d(module):
            found.setdefault(id(module), Layer([], module)).names.append(name)
    shared, head = _shared(model), _head(model)
    for layer in found.values():
        layer.why = _why(layer, wanted, unwanted, min_features, shared, head)
    return list(found.values())


def _why(
    layer: Layer,
    include: list[str] | None,
    exclude: list[str],
    min_features: int,
    shared: dict[int, list[str]],
    head: nn.Module | None,
) -> str | None:
    if getattr(layer.module, "has_factors", False):
        return FACTORS
    weight = layer.module._parameters.get("weight")
    if not isinstance(weight, nn.Parameter) or is_lazy(weight) or weight.dtype not in _FLOATS:
        return COMPUTED
    if not is_linear(layer.module):
        return SUBCLASS
    if include is not None and not _matches(layer, include):
        return "not included"
    if _matches(layer, exclude):
        return "excluded"
    if layer.module is head:
        return "the head, which maps hidden states to the vocabulary"
    if weight.is_meta:
        return "its weight is not in memory"
    if others := [name for name in shared.get(id(weight), ()) if name.rpartition(".")[0] not in layer.names]:
        return f"its weight is also {others[0]}"
    if min(layer.shape) < min_features:
        return f"fewer than {min_features} features"
    return None


def _matches(layer: Layer, patterns: Iterable[str]) -> bool:
    return any(_match(name, pattern) for name in layer.names for pattern in patterns)


def _match(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatchcase(name, pattern)


def _shared(model: nn.Module) -> dict[int, list[str]]:
    """The names of each parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _head(model: nn.Module) -> nn.Module | None:
    """The output embeddings of a model of transformers."""
    get = getattr(model, "get_output_embeddings", None)
    return get() if callable(get) else None
