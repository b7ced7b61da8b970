"""Layer normalisation (Ba et al. 2016), with a derivative that costs little on CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

_EPSILON = 1e-6


class LayerNorm(nn.Module):
    """x less its mean over the last axis, over its deviation; flax's module, parameters alike."""

    use_bias: bool = True
    use_scale: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., C) -> (..., C)."""
        exact = jnp.promote_types(x.dtype, jnp.float32)
        y = normalise(x.astype(exact))
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
            y = y * jnp.broadcast_to(scale.astype(exact), x.shape)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
            y = y + jnp.broadcast_to(bias.astype(exact), x.shape)
        return y.astype(self.dtype or x.dtype)


@jax.custom_jvp
def normalise(x: Array) -> Array:
    """(x - mean)/deviation over the last axis, of the shape of x."""
    return _normalised(x)[0]


@normalise.defjvp
def _normalise_jvp(primals, tangents):
    y, scale = _normalised(primals[0])
    dx = tangents[0]
    return y, scale * (dx - _mean(dx) - y * _mean(y * dx))


def _normalised(x: Array) -> tuple[Array, Array]:
    mean = _mean(x)
    scale = jax.lax.rsqrt(jnp.maximum(_mean(x * x) - mean * mean, 0.0) + _EPSILON)
    if jax.default_backend() == "cpu":  # XLA would form both anew for every value of x
        mean, scale = jax.lax.optimization_barrier((mean, scale))
    return (x - mean) * scale, scale


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)
