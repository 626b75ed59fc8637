"""The factorizations that `decompose.py` times beside ours: functions of a weight in f32 and a rank to two factors."""

import numpy as np

try:
    import torch
except ImportError:
    torch = None
try:
    import scipy.linalg
except ImportError:
    scipy = None


def peers(shape):
    """Those installed, by the name of their column."""
    found = {"svd": numpy_svd, "gram_eigh": numpy_gram_eigh, "floor": floor}
    if torch:
        found |= {"svd": torch_svd, "gram_eigh": torch_gram_eigh, "lowrank": torch_lowrank, "numpy_svd": numpy_svd}
    if scipy:
        found["scipy_svd"] = scipy_svd
    if shape[0] != shape[1]:
        found["svd_transposed"] = transposed(found["svd"])
    return found


def use_threads(count):
    """Of torch; those of BLAS libraries are read from the environment when numpy is imported."""
    if torch:
        torch.set_num_threads(count)


def multiplied(a, b):
    """The fastest product at hand: the rate of the machine."""
    return torch.from_numpy(a) @ torch.from_numpy(b) if torch else a @ b


def transposed(svd):
    def of_transpose(a, r):
        left, right = svd(np.ascontiguousarray(a.T), r)
        return right.T, left.T

    return of_transpose


def numpy_svd(a, r):
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return u[:, :r], s[:r, None] * vt[:r]


def scipy_svd(a, r):
    u, s, vt = scipy.linalg.svd(a, full_matrices=False, lapack_driver="gesdd", check_finite=False)
    return u[:, :r], s[:r, None] * vt[:r]


def numpy_gram_eigh(a, r):
    if a.shape[0] <= a.shape[1]:
        u = np.ascontiguousarray(np.linalg.eigh(a @ a.T)[1][:, : -r - 1 : -1])
        return u, u.T @ a
    v = np.ascontiguousarray(np.linalg.eigh(a.T @ a)[1][:, : -r - 1 : -1])
    return a @ v, v.T


def floor(a, r):
    sketch = a @ np.ones((a.shape[1], r), dtype=np.float32)
    sketch.T @ a


def torch_svd(a, r):
    u, s, vt = torch.linalg.svd(torch.from_numpy(a), full_matrices=False)
    return u[:, :r], s[:r, None] * vt[:r]


def torch_gram_eigh(a, r):
    a = torch.from_numpy(a)
    if a.shape[0] <= a.shape[1]:
        u = torch.linalg.eigh(a @ a.T)[1][:, -r:]
        return u, u.T @ a
    v = torch.linalg.eigh(a.T @ a)[1][:, -r:]
    return a @ v, v.T


def torch_lowrank(a, r):
    u, s, v = torch.svd_lowrank(torch.from_numpy(a), q=r)
    return u, s[:, None] * v.T
