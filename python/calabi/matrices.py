"""Matrices by themselves: spectra, singular vectors, the best factors, by themselves or in the metric of what flows in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _engine, _settings
from ._engine import Spectrum
from ._settings import Rule
from .arrays import Array, matrix, moments
from .errors import ConfigError, DecomposeError

Objective = Literal["gram", "diagonal"]
Bias = Literal["none", "residual", "joint"]
Decomposer = str | Mapping[str, Any] | None


@dataclass(frozen=True)
class Statistics:
    """Moments of the inputs `x` of a weight of `n` columns.

    `gram` is `E[x xᵀ]` (n × n), `mean` is `E[x]` (n), `tokens` says over how many inputs: the fewer, the further the
    Gram matrix is drawn towards a multiple of the identity. Without `tokens` it is taken as it is.
    """

    gram: Array
    mean: Array | None = None
    tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Factorized:
    """What became of a matrix: `left @ right` stands for it, or it stays dense."""

    left: NDArray[np.float32] | None
    """`m × r`; none where the matrix stays dense."""
    right: NDArray[np.float32] | None
    """`r × n`; none where the matrix stays dense."""
    bias: NDArray[np.float32] | None
    """What the layer's bias gains, for the mean of what was cut."""
    rank: int | None
    """The rank; none where the matrix stays dense."""
    because: str
    """Which rule bound."""
    predicted_error: float
    """The relative error that the spectrum predicts, from 0 to 1."""
    measured_error: float
    """The relative error of the factors."""
    spectrum: Spectrum
    """What other ranks would lose."""
    remark: str | None
    """What the decomposer has to say."""

    @property
    def break_even(self) -> int:
        """The smallest rank at which factors are not smaller than the matrix."""
        return self.spectrum.break_even

    def product(self) -> NDArray[np.float32]:
        """`left @ right`.

        Raises:
            ValueError: the matrix stayed dense.
        """
        if self.left is None or self.right is None:
            raise ValueError(f"the matrix stayed dense: {self.because}")
        return self.left @ self.right


def decompose(
    w: Array, rank: int | None = None, *, decomposer: Decomposer = None, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]:
    """The leading singular values and vectors of a matrix (m × n): `u` (m × r), `s` (r, largest first), `vt` (r × n).

    `u @ numpy.diag(s) @ vt` is the best approximation of that rank (Eckart and Young, 1936). Without a rank all are
    computed.

    Raises:
        InputError: the matrix has not two dimensions.
        DecomposeError: it is empty or holds NaN or infinity.
        ConfigError: there is no such rank or decomposer.

    >>> import numpy, calabi
    >>> u, s, vt = calabi.decompose(numpy.diag([3.0, 2.0, 1.0]), rank=2)
    >>> numpy.round(numpy.abs(u * s @ vt), 5).tolist()
    [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _engine.decompose(matrix(w), _rank(rank), _how("matrix", decomposer, threads))


def spectrum(
    w: Array,
    *,
    metric: Statistics | Array | None = None,
    bias: Bias = "none",
    objective: Objective = "gram",
    shrinkage: float | None = None,
    decomposer: Decomposer = None,
    threads: int | None = None,
    name: str = "matrix",
) -> Spectrum:
    """What every rank of a matrix loses: its singular values, or those of what it does to its inputs.

    Parameters as in `factorize`.
    """
    metric = _metric(metric, bias, objective, shrinkage)
    return _engine.spectrum(matrix(w, name), _how(name, decomposer, threads, metric))


def factorize(
    w: Array,
    rank: Rule,
    *,
    metric: Statistics | Array | None = None,
    bias: Bias = "none",
    objective: Objective = "gram",
    shrinkage: float | None = None,
    decomposer: Decomposer = None,
    multiple: int = 1,
    break_even: bool = False,
    threads: int | None = None,
    name: str = "matrix",
) -> Factorized:
    """The best factors of a matrix (m × n, outputs by inputs): `left` (m × r) and `right` (r × n).

    Args:
        w: the matrix.
        rank: a rank; a selector's `kind` and settings, such as `{"kind": "energy", "threshold": 0.95}`; a function of
            the spectrum.
        metric: `E[x xᵀ]` of the inputs, or `Statistics`: the error of the outputs is then the smallest, in place of
            that of the weight.
        bias: what makes up for the mean of what is cut: `"residual"` does, `"joint"` also chooses directions as it
            will. Needs `Statistics` with a mean.
        objective: `"gram"`, or `"diagonal"`: the scales of the inputs alone.
        shrinkage: how far the Gram matrix is drawn towards a multiple of the identity, from 0 to 1; chosen by the
            number of tokens where that is known.
        decomposer: `"faer"`, or a `kind` and its settings.
        multiple: ranks are rounded to multiples of it.
        break_even: whether the matrix stays dense where factors would not be smaller.
        threads: as many as there are processors, unless said.
        name: what messages call it.

    Raises:
        InputError: the matrix has not two dimensions.
        DecomposeError: it is empty or holds NaN or infinity.
        ConfigError: settings that cannot be, or statistics that do not fit the matrix.
        SelectError: no rank can be chosen; what a function raised is the cause.

    >>> import numpy, calabi
    >>> w = numpy.random.default_rng(0).normal(size=(40, 30)).astype("f4")
    >>> made = calabi.factorize(w, {"kind": "max-error", "epsilon": 0.5})
    >>> made.left.shape[1] == made.rank and made.measured_error <= 0.5
    True
    """
    metric = _metric(metric, bias, objective, shrinkage)
    how = _how(name, decomposer, threads, metric)
    (kept, because), factors, values, predicted, measured, remark = _engine.factorize(
        matrix(w, name), _settings.rule(rank), _rounding(multiple, break_even), how
    )
    left, right, gained = factors or (None, None, None)
    if left is not None and right is not None and not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise DecomposeError(f"{name} cannot be decomposed: its factors are too large for float32; scale it down")
    return Factorized(left, right, gained, kept, because, predicted, measured, values, remark)


def _how(name: str, decomposer: Decomposer, threads: int | None, metric: dict[str, Any] | None = None) -> dict[str, Any]:
    threads = _settings.threads(threads)
    return {"name": str(name), "decomposer": _settings.decomposer(decomposer), "threads": threads, "metric": metric}


def _rank(rank: int | None) -> int | None:
    if rank is not None and (isinstance(rank, bool) or rank < 0):
        raise ConfigError(f"a rank is a number from 1 on, not {rank}")
    return rank


def _rounding(multiple: int, break_even: bool) -> tuple[int, bool]:
    if multiple < 1:
        raise ConfigError(f"a multiple is a number from 1 on, not {multiple}")
    return multiple, break_even


def _metric(metric: Any, bias: Bias, objective: Objective, shrinkage: float | None) -> dict[str, Any] | None:
    if metric is None:
        if bias != "none":
            raise ConfigError(f"bias={bias!r} makes up for the mean of the inputs: give metric=Statistics(gram, mean)")
        if objective != "gram" or shrinkage is not None:
            raise ConfigError("objective= and shrinkage= say how a metric is taken: give metric=")
        return None
    given = metric if isinstance(metric, Statistics) else Statistics(metric)
    if given.mean is None and bias != "none":
        raise ConfigError(f"bias={bias!r} makes up for the mean of the inputs: give metric=Statistics(gram, mean)")
    gram = moments(given.gram, 2, "the Gram matrix")
    mean = np.zeros(len(gram)) if given.mean is None else moments(given.mean, 1, "the mean")
    if gram.shape == (len(mean), len(mean)) and np.any(mean**2 > np.diag(gram) * (1 + 1e-3) + 1e-30):
        raise ConfigError("the mean is larger than the Gram matrix allows: E[x]² is at most E[x²]")
    if given.tokens is None and shrinkage is None:
        shrinkage = 0.0
    if shrinkage is not None and not 0.0 <= shrinkage <= 1.0:
        raise ConfigError(f"shrinkage is a share from 0 to 1, not {shrinkage}")
    tokens = 0 if given.tokens is None else int(given.tokens)
    if tokens < 0:
        raise ConfigError(f"tokens are counted from 0 on, not {tokens}")
    return {"gram": gram, "mean": mean, "tokens": tokens, "objective": objective, "bias": bias, "shrinkage": shrinkage}
