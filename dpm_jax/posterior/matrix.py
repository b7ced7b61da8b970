"""The matrix of a linear A, on the host in float64: checked, whatever A was given as."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core.family import numbers

MOST = 4096, 2**26  # singular values and entries of what is left to the SVD on the host
OFF = 1e-3  # how far a function in float32 may be from linear, relative to its values
TOGETHER = 64  # columns, or rows, that a function is asked for at once


def of(A: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The matrix (m, size) of A, and the shape of A x: see `linear.dense`.

    Raises:
        TypeError: for an A that is neither a matrix nor a function, or is traced.
        ValueError: where it is not linear, not finite, of another shape, 0, or too large.
    """
    entries, out = _function(A, shape) if callable(A) else _given(A, shape)
    if not np.isfinite(entries).all():
        raise ValueError("A: expected finite values, got NaN or infinite ones")
    if not entries.any():
        raise ValueError("A: expected one that measures something, got 0 everywhere")
    return entries, out


def check_size(name: str, m: int, size: int) -> None:
    """ValueError, naming the argument, for an (m, size) matrix too large for the SVD."""
    if min(m, size) > MOST[0] or m * size > MOST[1]:
        raise ValueError(
            f"{name}: expected a matrix of at most {MOST[0]} singular values and {MOST[1]:,}"
            f" entries, got {m:,} x {size:,} (give a `Linear`, by its singular vectors)"
        )


def _given(A: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    A, size = numbers("A", A), int(np.prod(shape))
    if isinstance(A, jax.core.Tracer):
        raise TypeError("A: expected a matrix whose values are known, got one that is traced")
    if A.ndim != 2 or A.shape[1] != size or not A.size:
        raise ValueError(f"A: expected a matrix (m, {size}) for events {shape}, got {A.shape}")
    check_size("A", *A.shape)
    return np.asarray(A, np.float64), A.shape[:1]


def _function(A: Callable, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The matrix of a function by its rows (the transpose that JAX makes) or its columns."""
    zero = jnp.zeros(shape)
    out = _shape(A, zero)
    m = int(np.prod(out))
    check_size("A", m, zero.size)
    _check_linear(A, shape)
    if m < zero.size:
        _, transpose = jax.vjp(A, zero)
        rows = _of_each(lambda u: transpose(u.reshape(out))[0], m)
    else:
        rows = _of_each(lambda x: A(x.reshape(shape)), zero.size).T
    x = jax.random.normal(jax.random.key(1), shape)
    _refuse_off("A x, by its transpose,", rows @ np.ravel(x), _values(A, x))
    return rows, out


def _of_each(function: Callable, n: int) -> np.ndarray:
    """Its values at the n unit vectors, as rows."""
    each = jax.lax.map(lambda x: jnp.ravel(function(x)), jnp.eye(n), batch_size=TOGETHER)
    return np.asarray(each, np.float64)


def _shape(A: Callable, zero: jax.Array) -> tuple[int, ...]:
    """The shape of A x; errors for what is no function of JAX from x of that shape to numbers."""
    try:
        found = jax.eval_shape(A, zero)
        dtype, out = found.dtype, found.shape
    except Exception as error:
        what = f"a function of JAX, from x of shape {zero.shape} to an array"
        got = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(f"A: expected {what}, got {got}") from error
    if not jnp.issubdtype(dtype, jnp.floating) or 0 in out:
        raise ValueError(f"A: expected a function to real numbers, got {dtype} of shape {out}")
    return out


def _check_linear(A: Callable, shape: tuple[int, ...]) -> None:
    x, y = jax.random.normal(jax.random.key(0), (2, *shape))
    a, b = 1.75, -0.5
    of_x, of_y, of_sum = (_values(A, point) for point in (x, y, a * x + b * y))
    at_zero = np.abs(_values(A, jnp.zeros(shape))).max()
    if at_zero > OFF * max(np.abs(of_x).max(), np.abs(of_y).max()):
        got = f"one with A(0) up to {at_zero:.3g}"
        raise ValueError(f"A: expected a linear function, got {got} (subtract it, of y as well)")
    _refuse_off("A(ax+by)", of_sum, a * of_x + b * of_y)


def _values(A: Callable, x: jax.Array) -> np.ndarray:
    values = np.ravel(np.asarray(A(x), np.float64))
    if not np.isfinite(values).all():
        raise ValueError("A: expected finite values, got NaN or infinite ones")
    return values


def _refuse_off(what: str, got: np.ndarray, expected: np.ndarray) -> None:
    off = np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not off < OFF:
        raise ValueError(
            f"A: expected a linear function, got one with {what} off by {off:.2g} of its values"
        )
