"""The binary heartbeat of Sec. 3.1.

A sequence of 20 bits has a 1 in every 5th bin, and the phase (the bin of the first 1, below 5) is
uniform. Five sequences is all there is; what that makes exact is in exact/heartbeat.py.
"""

import jax
import jax.numpy as jnp
from jax import Array


def sequences(length: int = 20, period: int = 5) -> Array:
    """The data set: row k has a 1 in every bin i with i mod period = k (Sec. 3.1).

    Args:
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (period, length) float32 of 0 and 1.

    Raises:
        ValueError: for a bad `period` or `length`.
    """
    check_length("length", length, period)
    return jnp.tile(jnp.eye(period, dtype=jnp.float32), (1, length // period))


def sample(key: Array, n: int, length: int = 20, period: int = 5) -> Array:
    """n sequences with uniform phase, the data x^0.

    Args:
        key: a typed key.
        n: number of sequences.
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (n, length) float32 of 0 and 1.

    Raises:
        ValueError: for a bad `period` or `length`.
    """
    rows = sequences(length, period)
    return rows[jax.random.randint(key, (n,), 0, period)]


def is_valid(x, period: int = 5) -> Array:
    """Which rows are one of the sequences.

    Args:
        x: (..., length) bits, any type.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (...) bool.

    Raises:
        ValueError: where the last axis of `x` is not a multiple of `period`.
    """
    x = jnp.asarray(x)
    check_length("x", x.shape[-1] if x.ndim else 0, period)
    rows = sequences(x.shape[-1], period).astype(x.dtype)

    def one(row):
        return jnp.any(jnp.all(row[None, :] == rows, axis=1))

    return jnp.vectorize(one, signature="(l)->()")(x)


def check_length(name: str, length: int, period: int) -> None:
    """ValueError for a period below 2, or a length that is not a positive multiple of it."""
    if period < 2:
        raise ValueError(f"period: expected at least 2, got {period}")
    if length < 1 or length % period:
        raise ValueError(f"{name}: expected length a positive multiple of {period}, got {length}")
