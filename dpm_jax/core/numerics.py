"""Arithmetic that keeps what rounding would take."""

import jax.numpy as jnp
from jax import Array


def exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what rounding took from it (Knuth's two-sum); 0 where it is infinite."""
    total = a + b
    part = total - a
    low = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), low, 0.0)
