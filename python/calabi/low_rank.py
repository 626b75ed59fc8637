"""A linear layer in two factors, for torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ._settings import Rule
from .errors import ConfigError, DecomposeError, SelectError
from .matrices import Factorized, factorize


class LargerThanDense(UserWarning):
    """Factors hold more parameters than the dense layer did."""


class LowRankLinear(nn.Module):
    """Two linear layers in the place of one: `right` (rank × inputs), then `left` (outputs × rank), which has the bias.

    The names of its parameters are those of the checkpoints that calabi writes. A model of transformers in which layers
    were replaced one by one saves itself so once `calabi.as_factorized(model)` was called.

    >>> import calabi, torch
    >>> layer = calabi.LowRankLinear(torch.nn.Linear(64, 96), rank=8)
    >>> layer(torch.randn(2, 64)).shape, layer.rank
    (torch.Size([2, 96]), 8)
    """

    has_factors = True

    def __init__(
        self,
        linear: nn.Module,
        rank: Rule | None = None,
        *,
        compression_ratio: float | None = None,
        name: str = "layer",
        **settings: Any,
    ) -> None:
        """The best factors of a layer.

        Args:
            linear: a `torch.nn.Linear`, or a `Conv1D` of transformers.
            rank: a rank, a selector's `kind` and settings, or a function of the spectrum.
            compression_ratio: in place of a rank, the share of `min(inputs, outputs)` that is kept.
            name: what messages call it.
            settings: `metric`, `bias`, `objective`, `shrinkage`, `decomposer`, `multiple`, `threads` of
                `calabi.factorize`.

        Raises:
            SelectError: the rule says that the layer stays dense, or chooses no rank.
            What `calabi.factorize` raises.
        """
        weight = weight_of(linear)
        made = factorize(weight, ruled(rank, compression_ratio), name=name, **settings)
        if made.rank is None:
            raise SelectError(f"{name} stays dense: {made.because}")
        super().__init__()
        self._hold(linear, made)
        if larger := larger_than_dense(tuple(weight.shape), made.rank):
            warnings.warn(f"{name}: {larger}", LargerThanDense, stacklevel=2 + (type(self) is not LowRankLinear))

    @classmethod
    def of(cls, linear: nn.Module, made: Factorized) -> LowRankLinear:
        """Factors that were made of a layer: their type, device and training are the layer's."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._hold(linear, made)
        return layer

    @classmethod
    def from_factors(cls, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> LowRankLinear:
        """Of factors: `left` (outputs × rank), `right` (rank × inputs)."""
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise ConfigError(f"a left factor of {tuple(left.shape)} and a right one of {tuple(right.shape)} do not fit")
        if bias is not None and bias.shape != left.shape[:1]:
            raise ConfigError(f"a bias of {tuple(bias.shape)} is none of {left.shape[0]} outputs")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._set(left, right, bias)
        return layer

    def _hold(self, linear: nn.Module, made: Factorized) -> None:
        weight, bias = weight_of(linear), getattr(linear, "bias", None)
        left, right = (torch.from_numpy(factor).to(weight) for factor in (made.left, made.right))
        if not (left.isfinite().all() and right.isfinite().all()):
            raise DecomposeError(f"the factors are too large for {weight.dtype}: scale the weight down")
        if made.bias is not None:
            gained = torch.from_numpy(made.bias).to(weight)
            bias = gained if bias is None else bias.detach() + gained
        self._set(left, right, None if bias is None else bias.detach().clone())
        self.added_bias = bias is not None and getattr(linear, "bias", None) is None
        for parameter in self.parameters():
            parameter.requires_grad_(weight.requires_grad)
        self.train(linear.training)

    def _set(self, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> None:
        (outputs, rank), inputs = left.shape, right.shape[1]
        self.added_bias = False
        self.in_features, self.out_features = inputs, outputs
        # Made without memory: the parameters are set right after.
        self.right = nn.Linear(inputs, rank, bias=False, device="meta")
        self.left = nn.Linear(rank, outputs, bias=bias is not None, device="meta")
        self.right.weight, self.left.weight = nn.Parameter(right), nn.Parameter(left)
        if bias is not None:
            self.left.bias = nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`left(right(x))`."""
        return self.left(self.right(x))

    @property
    def rank(self) -> int:
        """The number of columns of the left factor."""
        return self.right.out_features

    @property
    def weight(self) -> torch.Tensor:
        """The product of the factors, for code that asks for a weight."""
        return self.left.weight @ self.right.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the left factor."""
        return self.left.bias

    def extra_repr(self) -> str:
        """Shape and rank."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def ruled(rank: Rule | None, compression_ratio: float | None, keep: float | None = None) -> Rule:
    """The rule that one of these states."""
    if keep is not None:
        if rank is not None or compression_ratio is not None:
            raise ConfigError("give one of rank=, compression_ratio= and keep=")
        return {"kind": "budget", "keep": keep}
    if (rank is None) == (compression_ratio is None):
        raise ConfigError("give either rank= or compression_ratio=")
    return rank if rank is not None else {"kind": "fraction", "keep": compression_ratio}


def weight_of(linear: nn.Module) -> torch.Tensor:
    """The weight of a layer, outputs by inputs."""
    if not is_linear(linear):
        raise TypeError(f"a {type(linear).__name__} is no torch.nn.Linear")
    weight = linear._parameters.get("weight")
    if weight is None:
        raise TypeError("the layer's weight is computed from others: remove its parametrization first")
    return weight.T if is_conv1d(linear) else weight


def is_linear(module: object) -> bool:
    """Whether factors can stand for a module: a `torch.nn.Linear` itself, or the same by another name."""
    return type(module) is nn.Linear or is_conv1d(module) or type(module).__name__ == "FalconLinear"


def is_conv1d(module: object) -> bool:
    """Whether this is the transposed linear layer of GPT-2."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def larger_than_dense(shape: tuple[int, ...], rank: int) -> str | None:
    """That factors are larger than the weight, where they are."""
    (outputs, inputs), factors = shape, rank * sum(shape)
    if factors <= outputs * inputs:
        return None
    limit = outputs * inputs // (outputs + inputs)
    return (
        f"factors of rank {rank} hold {factors} parameters, and the dense weight {outputs * inputs}: "
        f"a rank up to {limit} makes it smaller (compression_ratio is the share of dimensions kept)"
    )


def warn_of_larger(layers: Iterable[tuple[str, tuple[int, ...], int]]) -> None:
    """Says once, to the caller of the function that calls this, that layers (name, shape, rank) are larger than dense."""
    larger = [(name, text) for name, shape, rank in layers if (text := larger_than_dense(shape, rank))]
    if larger:
        (first, text), more = larger[0], len(larger) - 1
        others = f" (and {more} more)" if more else ""
        warnings.warn(f"{first}{others}: {text}", LargerThanDense, stacklevel=3)
