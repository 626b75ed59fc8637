"""The layers of a torch model that factors can stand for, and those that are left alone, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from .low_rank import LowRankLinear, is_conv1d, weight_of


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
        weight = self.module.get_parameter("weight") if self.why == SUBCLASS else weight_of(self.module)
        outputs, inputs = weight.shape
        return outputs, inputs


SUBCLASS = "a class of its own: only torch.nn.Linear and Conv1D are factorized"


def layers(
    model: nn.Module, include: Iterable[str] | None = None, exclude: Iterable[str] = (), min_features: int = 1
) -> list[Layer]:
    """Every linear layer of a model; names are matched by patterns such as `*.q_proj` or `re:.*[qk]_proj`."""
    wanted = None if include is None else list(include)
    unwanted, found = list(exclude), dict[int, Layer]()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and not isinstance(module, LowRankLinear) or is_conv1d(module):
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
    if type(layer.module) is not nn.Linear and not is_conv1d(layer.module):
        return SUBCLASS
    if include is not None and not _matches(layer, include):
        return "not included"
    if _matches(layer, exclude):
        return "excluded"
    if layer.module is head:
        return "the head, which maps hidden states to the vocabulary"
    weight = layer.module.get_parameter("weight")
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
