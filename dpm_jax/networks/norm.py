"""Layer normalisation (Ba et al. 2016), with a derivative that costs little on CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

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
    return y, scale * _centred.bind(tangents[0], y)


def _normalised(x: Array) -> tuple[Array, Array]:
    mean = _mean(x)
    scale = jax.lax.rsqrt(jnp.maximum(_mean(x * x) - mean * mean, 0.0) + _EPSILON)
    mean, scale = _once((mean, scale))
    return (x - mean) * scale, scale


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _once(tree):
    """The arrays themselves; on CPU formed once, where XLA would form them for every value."""
    return jax.lax.optimization_barrier(tree) if jax.default_backend() == "cpu" else tree


# dx less its parts along 1 and along y: a projection, which is its own transpose. A primitive, so
# that backwards too each array is formed once.


def _project(dx: Array, y: Array) -> Array:
    dx = _once(dx)
    mean, slope = _once((_mean(dx), _mean(y * dx)))
    return dx - mean - y * slope


def _project_jvp(primals, tangents):
    (dx, y), (ddx, dy) = primals, map(ad.instantiate_zeros, tangents)
    along = dy * _mean(y * dx) + y * _mean(dy * dx)
    return _centred.bind(dx, y), _centred.bind(ddx, y) - along


def _project_batched(args, axes):
    size = next(a.shape[i] for a, i in zip(args, axes) if i is not None)
    return _centred.bind(*(batching.bdim_at_front(a, i, size) for a, i in zip(args, axes))), 0


_centred = Primitive("centred")
_centred.def_impl(jax.jit(_project))
_centred.def_abstract_eval(lambda dx, y: jax.core.ShapedArray(dx.shape, dx.dtype))
mlir.register_lowering(_centred, mlir.lower_fun(_project, multiple_results=False))
ad.primitive_jvps[_centred] = _project_jvp
ad.primitive_transposes[_centred] = lambda ct, dx, y: (_centred.bind(ct, y), None)
batching.primitive_batchers[_centred] = _project_batched
