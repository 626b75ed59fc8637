"""calabi makes neural networks smaller by low-rank factorization. The work is done in Rust.

Matrices: `decompose`, `spectrum`, `factorize`. Ranks: `select`, `allocate`, `selectors`. Whole models: `run`. With torch:
`LowRankLinear`, `replace_linear_layers`, `calibrate`. With transformers: `compress_hf_model`, and compressed checkpoints
load by any Auto class.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import loading
from ._engine import VERSION as __version__
from ._engine import Spectrum
from .errors import CalabiError, ConfigError, DecomposeError, InputError, SelectError
from .matrices import Factorized, Statistics, decompose, factorize, spectrum
from .pipelines import run
from .reports import LayerReport, Report
from .selectors import Choice, allocate, decomposers, select, selectors

if TYPE_CHECKING:
    from .calibration import gather as calibrate
    from .calibration import save as save_statistics
    from .hf import compress_hf_model
    from .low_rank import LargerThanDense, LowRankLinear
    from .replace import ReplaceReport, replace_linear_layers
    from .saving import as_factorized
    from .utils import OptimizedCalabiYauLinear, OptimizedCYModelUtils

# What needs torch, which is imported with the first of them.
_OF_TORCH: dict[str, tuple[str, str | None]] = {
    "LargerThanDense": ("low_rank", "LargerThanDense"),
    "LowRankLinear": ("low_rank", "LowRankLinear"),
    "OptimizedCYModelUtils": ("utils", "OptimizedCYModelUtils"),
    "OptimizedCalabiYauLinear": ("utils", "OptimizedCalabiYauLinear"),
    "ReplaceReport": ("replace", "ReplaceReport"),
    "as_factorized": ("saving", "as_factorized"),
    "calibrate": ("calibration", "gather"),
    "compress_hf_model": ("hf", "compress_hf_model"),
    "modeling_calabi": ("modeling_calabi", None),
    "replace_linear_layers": ("replace", "replace_linear_layers"),
    "save_statistics": ("calibration", "save"),
}

__all__ = [
    "CalabiError", "Choice", "ConfigError", "DecomposeError", "Factorized", "InputError", "LargerThanDense",
    "LayerReport", "LowRankLinear", "OptimizedCYModelUtils", "OptimizedCalabiYauLinear", "ReplaceReport", "Report",
    "SelectError", "Spectrum", "Statistics", "allocate", "as_factorized", "calibrate", "compress_hf_model",
    "decompose", "decomposers", "factorize", "replace_linear_layers", "run", "save_statistics", "select",
    "selectors", "spectrum", "__version__",
]

loading.install()


def __getattr__(name: str) -> Any:
    if name not in _OF_TORCH:
        raise AttributeError(f"module 'calabi' has no attribute {name!r}")
    module, item = _OF_TORCH[name]
    try:
        made = importlib.import_module(f".{module}", __name__)
        found = made if item is None else getattr(made, item)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise ImportError(f"calabi.{name} needs {error.name}: pip install 'calabi[{error.name}]'") from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *_OF_TORCH]
