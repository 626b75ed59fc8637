"""Arrays as the engine takes them: NumPy's, or torch's tensors, not copied where they are f32 and contiguous on the CPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Array = Any
"""What stands for a matrix: an array of NumPy, a tensor of torch, rows of numbers."""


def matrix(values: Array, what: str = "the weight") -> NDArray[np.float32]:
    """A matrix of f32, rows one after the other."""
    return _typed(values, np.float32, 2, what)


def moments(values: Array, dimensions: int, what: str) -> NDArray[np.float64]:
    """A matrix or a vector of f64."""
    return _typed(values, np.float64, dimensions, what)


def is_tensor(values: object) -> bool:
    """Whether this is a tensor of torch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def _typed(values: Array, dtype: Any, dimensions: int, what: str) -> NDArray[Any]:
    given = _of_tensor(values, what) if is_tensor(values) else np.asarray(values)
    if given.dtype.kind not in "fiub" and given.dtype.name != "bfloat16":
        raise TypeError(f"{what} holds {given.dtype.name}, and real numbers are needed")
    if given.ndim != dimensions:
        needed = {1: "a vector has 1", 2: "a matrix has 2"}[dimensions]
        raise InputError(f"{what} has {given.ndim} dimensions, and {needed}: its shape is {given.shape}")
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(given, dtype=dtype)
    if made.dtype != given.dtype and not np.array_equal(np.isfinite(made), np.isfinite(given)):
        raise InputError(f"{what} holds numbers too large for {np.dtype(dtype).name}: scale it down")
    return made


def _of_tensor(tensor: Any, what: str) -> NDArray[Any]:
    import torch

    if tensor.layout != torch.strided or tensor.is_meta:
        raise TypeError(f"{what} is a tensor without entries in memory ({tensor.layout}, {tensor.device})")
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()
