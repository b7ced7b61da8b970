"""Convolution of images by square kernels, whose gradient costs on CPU what it should.

XLA for CPU packs the gradient of a kernel badly where it sums over many images, and leaves its fast
path for that of the images inside a loop. So convolution is a primitive here, with JAX's own rules
but two: the first is summed a few images at a time, the second is a convolution again.
"""

from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_IMAGES = 8  # whose part of a kernel's gradient is formed at once on CPU


class Conv(nn.Module):
    """Same-size convolution of images (H, W, C); flax's module, parameters alike."""

    features: int
    kernel: int = 3
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (H, W, C) -> (H, W, features)."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        y = convolve(x.astype(dtype), kernel.astype(dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:])
            y = y + bias.astype(dtype)[None, None]
        return y


def convolve(x: Array, kernel: Array) -> Array:
    """Cross-correlation of x (H, W, C), zeros beyond, with a kernel (k, k, C, D): (H, W, D)."""
    # As of lax's own: what holds here, not where the program is lowered or differentiated.
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return _convolve.bind(x[None], kernel, precision=precision)[0]


def _plain(x: Array, kernel: Array, precision: str | None) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,  # type: ignore[arg-type]
    )


def _abstract(x, kernel, precision: str | None):
    """With the errors of lax's own, and its axes of a mesh."""
    return jax.make_jaxpr(partial(_plain, precision=precision))(x, kernel).out_avals[0]


def _batched(args, axes, precision: str | None):
    """More images make a longer batch; more kernels are more convolutions."""
    (x, kernel), (of_x, of_kernel) = args, axes
    if of_kernel is not None:
        plain = partial(_plain, precision=precision)
        return jax.vmap(plain, (of_x, of_kernel))(x, kernel), 0
    x = jnp.moveaxis(x, of_x, 0)
    y = _convolve.bind(x.reshape(-1, *x.shape[2:]), kernel, precision=precision)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _to_images(dy: Array, x: Any, kernel: Array, precision: str | None) -> Array:
    """A plain convolution again: lax's own, of a reversed window, is slow on CPU inside a loop."""
    if kernel.shape[0] % 2 == 0:  # whose padding is not the same on both sides
        return jax.linear_transpose(lambda x: _plain(x, kernel, precision), x.aval)(dy)[0]
    return _convolve.bind(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), precision=precision)


def _to_kernel(dy: Array, x: Array, kernel: Any, precision: str | None) -> Array:
    def part(x: Array, dy: Array) -> Array:
        return jax.linear_transpose(lambda k: _plain(x, k, precision), kernel.aval)(dy)[0]

    num = x.shape[0]  # of an exported program it may be a symbol
    if jax.default_backend() != "cpu" or not isinstance(num, int) or num <= _IMAGES:
        return part(x, dy)
    parts = [part(x[i : i + _IMAGES], dy[i : i + _IMAGES]) for i in range(0, num, _IMAGES)]
    return reduce(jnp.add, parts)


_convolve = Primitive("convolve")
_convolve.def_impl(jax.jit(_plain, static_argnames="precision"))
_convolve.def_abstract_eval(_abstract)
mlir.register_lowering(_convolve, mlir.lower_fun(_plain, multiple_results=False))
batching.primitive_batchers[_convolve] = _batched
ad.defbilinear(_convolve, _to_images, _to_kernel)
