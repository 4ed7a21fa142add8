"""Routines of scipy's BLAS and LAPACK, for matrices on a CPU.

They use AVX-512 on all CPUs, torch's on Intel's only: there they take 0.3 to 0.7 of the time. scipy's own functions
keep Python's lock, and so stop the other threads of a merge; these are called without it.
"""

import ctypes
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.linalg import cython_blas, cython_lapack
from torch import Tensor

_Routine = Callable[..., None]

_BLOCK = 64  # columns of a QR decomposition at a time that the workspace allows


def eigh(x: Tensor, triangle: str = "L") -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (..., n) and eigenvectors (..., n, n) of symmetric matrices, of which one triangle is read.

    Raises:
        torch.linalg.LinAlgError: the algorithm did not converge.
    """
    n = x.shape[-1]
    vectors = x.detach().clone(memory_format=torch.contiguous_format)
    values, info = vectors.new_empty(x.shape[:-1]), ctypes.c_int()
    work, integers = vectors.new_empty(1 + 6 * n + 2 * n * n), torch.empty(3 + 5 * n, dtype=torch.int32)
    for one, own in zip(vectors.view(-1, n, n), values.view(-1, n), strict=True) if n else ():
        # LAPACK sees the transposes
        other = "U" if triangle == "L" else "L"
        _call(_EIGH, "V", other, n, one, n, own, work, len(work), integers, len(integers), info)
        if info.value:
            raise torch.linalg.LinAlgError(f"the eigenvalues of a {n} × {n} matrix did not converge")
    return values, vectors.mT


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """The thin QR decomposition of matrices (..., m, n), m ≥ n."""
    *batch, m, n = x.shape
    columns = x.detach().mT.clone(memory_format=torch.contiguous_format)  # LAPACK's layout
    triangle, info = columns.new_empty(*batch, n, n), ctypes.c_int()
    work, factors = columns.new_empty(max(1, _BLOCK * n)), columns.new_empty(n)
    for own, r in zip(columns.view(-1, n, m), triangle.view(-1, n, n), strict=True) if n else ():
        _call(_QR, m, n, own, m, factors, work, len(work), info)
        r.copy_(own[:, :n].mT.triu())
        _call(_Q, m, n, n, own, m, factors, work, len(work), info)
    return columns.mT, triangle


def cholesky(x: Tensor) -> Tensor:
    """Replace the upper triangles of symmetric matrices (..., n, n), whose rows are stored, by R with RᵀR = x.

    Returns:
        whether each matrix (...,) is positive definite: else it has no R.
    """
    n = x.shape[-1]
    good, info = torch.ones(x.shape[:-2], dtype=torch.bool, device=x.device), ctypes.c_int()
    for one, own in zip(x.view(-1, n, n), good.view(-1), strict=True) if n else ():
        _call(_CHOLESKY, "L", n, one, one.stride(0), info)  # LAPACK sees the transposes
        # the routine passes NaN, which always reaches the last pivot
        own.fill_(not info.value and math.isfinite(one[-1, -1]))
    return good


def solve_triangular(triangle: Tensor, right: Tensor, upper: bool) -> Tensor:
    """x⁻¹ y of lower or upper triangles x (..., r, r) and y (..., r, k)."""
    r, k = right.shape[-2:]
    found = right.detach().clone(memory_format=torch.contiguous_format)
    one = right.new_ones(1)
    for x, y in zip(triangle.reshape(-1, r, r), found.view(-1, r, k), strict=True) if found.numel() else ():
        stored, width, turned = _by_rows(x)
        # BLAS sees the transposes: yᵀ (xᵀ)⁻¹
        _call(_SOLVE, "R", "U" if upper == turned else "L", "T" if turned else "N", "N", k, r, one, stored, width, y, k)
    return found


def add_gram(total: Tensor, x: Tensor, factor: float) -> None:
    """Add factor · xᵀx of matrices (..., m, n) to the upper triangles of `total` (..., n, n), whose rows are stored."""
    if x.dim() > 2:
        for own, part in zip(total, x, strict=True):
            add_gram(own, part, factor)
    elif x.numel():
        m, n = x.shape
        stored, width, turned = _by_rows(x)
        one, size = x.new_ones(1), x.new_tensor([factor])
        # BLAS sees the transposes: the lower triangle of total, and xᵀ
        _call(_GRAM, "L", "T" if turned else "N", n, m, size, stored, width, one, total, max(n, total.stride(0)))


def _by_rows(x: Tensor) -> tuple[Tensor, int, bool]:
    """A matrix whose rows, or whose columns, are stored one after the other; their distance; whether columns are."""
    m, n = x.shape
    if x.stride(0) == 1 and x.stride(1) >= m:
        return x, x.stride(1), True
    stored = x if x.stride(1) == 1 and x.stride(0) >= n else x.clone(memory_format=torch.contiguous_format)
    return stored, max(n, stored.stride(0)), False


def _call(routines: Mapping[torch.dtype, _Routine], *arguments: str | int | Tensor | ctypes.c_int) -> None:
    """Call the routine for the dtype of the tensors, with pointers to its arguments."""
    dtype = next(argument.dtype for argument in arguments if isinstance(argument, Tensor))
    routines[dtype](*map(_pointer, arguments))


def _pointer(argument: str | int | Tensor | ctypes.c_int) -> Any:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, str):
        return argument.encode()
    return ctypes.byref(argument if isinstance(argument, ctypes.c_int) else ctypes.c_int(argument))


def _routines(module: Any, name: str, arguments: int) -> dict[torch.dtype, _Routine]:
    """The float32 and the float64 routine of a Cython module of scipy; both have so many arguments."""
    # new function objects: the types of those in ctypes.pythonapi itself are shared by all libraries
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    capsules = {torch.float32: module.__pyx_capi__[f"s{name}"], torch.float64: module.__pyx_capi__[f"d{name}"]}
    return {dtype: kind(pointer_of(capsule, name_of(capsule))) for dtype, capsule in capsules.items()}


_EIGH = _routines(cython_lapack, "syevd", 11)
_QR = _routines(cython_lapack, "geqrf", 8)
_Q = _routines(cython_lapack, "orgqr", 9)
_CHOLESKY = _routines(cython_lapack, "potrf", 5)
_SOLVE = _routines(cython_blas, "trsm", 11)
_GRAM = _routines(cython_blas, "syrk", 10)
