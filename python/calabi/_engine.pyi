from typing import Any, final

import numpy as np
from numpy.typing import NDArray

VERSION: str

__all__ = [
    "VERSION",
    "Spectrum",
    "allocate",
    "decompose",
    "factorize",
    "layers",
    "plugins",
    "program",
    "run",
    "select",
    "shares_budget",
    "spectrum",
]

@final
class Spectrum:
    """Singular values of a matrix, largest first, and what every rank loses.

    Values are those of the matrix, or of what it does to its inputs where a metric was given.
    """

    def __new__(cls, values: list[float], shape: tuple[int, int] | None = None, *, name: str = "matrix") -> Spectrum: ...
    @property
    def name(self) -> str:
        """What messages call the matrix: in a run, the name of the layer."""
    @property
    def shape(self) -> tuple[int, int]:
        """Outputs by inputs."""
    @property
    def values(self) -> NDArray[np.float64]:
        """The singular values that are known."""
    @property
    def losses(self) -> NDArray[np.float64]:
        """The squared error of each rank, from 0 on."""
    @property
    def energy(self) -> float:
        """The sum of all squared singular values, also of those that are not known."""
    @property
    def is_complete(self) -> bool:
        """Whether every singular value is known."""
    @property
    def break_even(self) -> int:
        """The smallest rank at which factors are not smaller than the matrix."""
    def relative_error(self, rank: int) -> float:
        """The relative error of the best approximation of this rank, from 0 to 1."""
    @staticmethod
    def _restored(
        named: tuple[str, tuple[int, int], bool], values: list[float], losses: list[float], energy: float
    ) -> Spectrum: ...
    def __len__(self) -> int: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float64]: ...

def layers(model: str) -> list[str]: ...
def program(args: list[str]) -> int: ...
def shares_budget(kind: str) -> bool: ...
def plugins() -> list[tuple[str, str, str, list[tuple[str, str, str | None, str]]]]: ...
def decompose(
    weight: NDArray[np.float32], rank: int | None, how: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]: ...
def spectrum(weight: NDArray[np.float32], how: dict[str, Any]) -> Spectrum: ...
def factorize(
    weight: NDArray[np.float32], rank: Any, rounding: tuple[int, bool], how: dict[str, Any]
) -> tuple[
    tuple[int | None, str],
    tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None] | None,
    Spectrum,
    float,
    float,
    str | None,
]: ...
def select(spectrum: Spectrum, rule: Any, rounding: tuple[int, bool]) -> tuple[int | None, str]: ...
def allocate(
    spectra: list[Spectrum], rule: Any, rounding: tuple[int, bool]
) -> list[tuple[int | None, str]]: ...
def run(file: str | None, json: str | None, options: dict[str, Any]) -> tuple[bool, str, str]: ...
