"""Arithmetic that keeps what rounding would take, and a power iteration."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what rounding took from it (Knuth's two-sum); 0 where it is infinite."""
    total = a + b
    part = total - a
    low = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), low, 0.0)


def largest_eigenvalue(symmetric: Callable[[Array], Array], like: Array) -> Array:
    """The largest |eigenvalue| of a symmetric v -> A v on arrays such as `like`, in 20 products."""

    def body(_, state):
        v, _ = state
        v = symmetric(v)
        size = jnp.sqrt(jnp.sum(v**2))
        return v / jnp.maximum(size, 1e-30), size

    v = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    start = v / jnp.sqrt(jnp.sum(v**2)), jnp.zeros((), like.dtype)
    return jax.lax.fori_loop(0, 20, body, start)[1]
