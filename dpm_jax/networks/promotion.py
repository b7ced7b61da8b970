"""Types of numbers within a network: parameters may be narrower than what they meet."""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jax import Array


def promoting(call: Callable[..., Array]) -> Callable[..., Array]:
    """A network's `__call__` that works under strict promotion too, whatever x and parameters are.

    Parameters of flax are float32 also under x64, where x is float64. Raw outputs have the type of
    x, float32 at least.
    """

    @wraps(call)
    def promoted(self, x: Array, t: Array, log_snr: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return call(self, x, t, log_snr).astype(jnp.promote_types(x.dtype, jnp.float32))

    return promoted
