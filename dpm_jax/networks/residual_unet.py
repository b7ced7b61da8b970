"""A U-Net of plain residual blocks, most of its work at the fine scale, for low noise on images."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpm_jax.networks.dense import log_snr_features
from dpm_jax.networks.unet import depth_to_space, space_to_depth

Array = jax.Array
_EPSILON = 1e-6  # in the mean square that a block divides by


class _Block(nn.Module):
    """x + conv(silu(scale and shift by log-SNR of conv(x over its rms a pixel)))."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        channels, zeros = x.shape[-1], nn.initializers.zeros_init()
        square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        hidden = nn.Conv(channels, (3, 3), dtype=self.dtype)(x * jax.lax.rsqrt(square + _EPSILON))
        film = nn.Dense(2 * channels, kernel_init=zeros, dtype=self.dtype)(time)
        scale, shift = jnp.split(film[None, None, :], 2, axis=-1)
        hidden = jax.nn.silu(hidden * (1 + scale) + shift)
        return x + nn.Conv(channels, (3, 3), kernel_init=zeros, dtype=self.dtype)(hidden)


class ResidualUNet(nn.Module):
    """Two-scale U-Net whose scales are joined by sums; fully convolutional, for images of any size.

    Images (H, W, C) whose sides 4 divides: at half size in `channels[0]` channels, at a quarter in
    `channels[1]`. One nonlinearity and one normalisation, without parameters, a block: on CPU they
    cost as much as a convolution. Outputs are float32 whatever the dtype inside, and 0 at first.
    """

    channels: tuple[int, int] = (64, 64)
    blocks: int = 2  # on the way down, at the coarse scale, and on the way up
    outputs: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x (H, W, C) -> raw outputs (H, W, C, outputs)."""
        if x.ndim != 3 or x.shape[0] % 4 or x.shape[1] % 4:
            raise ValueError(
                f"ResidualUNet takes images (H, W, C) with sides divisible by 4, got {x.shape}"
            )
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        dense = partial(nn.Dense, dtype=self.dtype)
        fine, coarse = self.channels
        time = jax.nn.silu(dense(2 * fine)(log_snr_features(log_snr)))
        hidden = conv(fine)(space_to_depth(x))
        for _ in range(self.blocks):
            hidden = _Block(self.dtype)(hidden, time)
        below = dense(coarse)(space_to_depth(hidden))
        for _ in range(self.blocks):
            below = _Block(self.dtype)(below, time)
        hidden = hidden + depth_to_space(dense(4 * fine)(below))
        for _ in range(self.blocks):
            hidden = _Block(self.dtype)(hidden, time)
        hidden = jax.nn.silu(nn.LayerNorm(dtype=self.dtype)(hidden))
        last = conv(4 * x.shape[-1] * self.outputs, kernel_init=nn.initializers.zeros_init())
        raw = depth_to_space(last(hidden)).reshape(*x.shape, self.outputs)
        return raw.astype(jnp.promote_types(x.dtype, jnp.float32))
