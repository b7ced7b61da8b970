"""A small U-Net for images conditioned on log-SNR, cheap enough for two CPU cores."""

import itertools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.networks.convolution import Conv
from dpm_jax.networks.dense import log_snr_features, remat
from dpm_jax.networks.norm import LayerNorm
from dpm_jax.networks.promotion import promoting


class _Block(nn.Module):
    """Residual block: channel norm, 3×3 convolution, scale and shift by log-SNR (FiLM), again."""

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        hidden = Conv(self.channels, dtype=self.dtype)(jax.nn.silu(LayerNorm(dtype=self.dtype)(x)))
        zeros = nn.initializers.zeros_init()
        film = nn.Dense(2 * self.channels, kernel_init=zeros, dtype=self.dtype)(time)
        scale, shift = jnp.split(film[None, None, :], 2, axis=-1)
        hidden = (
            LayerNorm(use_bias=False, use_scale=False, dtype=self.dtype)(hidden) * (1 + scale)
            + shift
        )
        hidden = Conv(self.channels, kernel_init=zeros, dtype=self.dtype)(jax.nn.silu(hidden))
        return hidden + (
            x if x.shape[-1] == self.channels else nn.Dense(self.channels, dtype=self.dtype)(x)
        )


MIXING = ("middle", "coarse", "all")


class UNet(nn.Module):
    """Two-scale U-Net: space-to-depth, residual blocks, dense bottlenecks over the whole map.

    Images (H, W, C) whose sides 4 divides. A dense bottleneck sees the whole image, which on
    28×28 digits costs less than attention and fixes the image's size; with `bottleneck` 0 there
    is none, and the same parameters serve images of every size. Outputs are float32 whatever the
    dtype inside.
    """

    channels: tuple[int, int] = (32, 64)
    blocks: int = 2
    bottleneck: int = 512
    outputs: int = 1
    dtype: Any = None
    remat: bool = False  # compute blocks again for the gradient: less memory, a third more work
    mixing: str = "middle"  # a bottleneck amid the coarse blocks, after each of them, or of all

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x (H, W, C) -> raw outputs (H, W, C, outputs)."""
        if self.mixing not in MIXING:
            raise ValueError(f"mixing: expected one of {MIXING}, got {self.mixing!r}")
        if x.ndim != 3 or x.shape[0] % 4 or x.shape[1] % 4:
            raise ValueError(
                f"UNet takes images (H, W, C) with sides divisible by 4, got {x.shape}"
            )
        fine, coarse = self.channels
        made = remat(_Block, self.remat)
        names = (f"_Block_{i}" for i in itertools.count())  # those without remat

        def level(hidden: Array, channels: int, squeezed: int, mixed: list[bool]) -> Array:
            for each in mixed:
                hidden = made(channels, self.dtype, name=next(names))(hidden, time)
                if self.bottleneck and each:
                    hidden = hidden + self._whole_image(hidden, time, squeezed)
            return hidden

        of_fine = [self.mixing == "all"] * self.blocks
        of_coarse = [
            self.mixing != "middle" or i == self.blocks - 1 for i in range(2 * self.blocks)
        ]
        time = jax.nn.silu(nn.Dense(2 * coarse, dtype=self.dtype)(log_snr_features(log_snr)))
        hidden = Conv(fine, dtype=self.dtype)(_space_to_depth(x))
        skip = hidden = level(hidden, fine, 4, of_fine)
        hidden = Conv(coarse, dtype=self.dtype)(_space_to_depth(hidden))
        hidden = level(hidden, coarse, 16, of_coarse)
        hidden = nn.Dense(4 * fine, dtype=self.dtype)(hidden)
        hidden = jnp.concatenate([_depth_to_space(hidden), skip], axis=-1)
        hidden = level(hidden, fine, 4, of_fine)
        hidden = jax.nn.silu(LayerNorm(dtype=self.dtype)(hidden))
        zeros = nn.initializers.zeros_init()
        last = Conv(4 * x.shape[-1] * self.outputs, kernel_init=zeros, dtype=self.dtype)
        return _depth_to_space(last(hidden)).reshape(*x.shape, self.outputs)

    def _whole_image(self, hidden: Array, time: Array, channels: int) -> Array:
        """A dense layer over the map squeezed to so few channels: as many numbers as pixels."""
        dense = partial(nn.Dense, dtype=self.dtype)
        squeezed = dense(channels)(LayerNorm(dtype=self.dtype)(hidden))
        flat = dense(self.bottleneck)(squeezed.reshape(-1)) + dense(self.bottleneck)(time)
        flat = dense(squeezed.size)(jax.nn.silu(flat))
        return dense(hidden.shape[-1], kernel_init=nn.initializers.zeros_init())(
            flat.reshape(squeezed.shape)
        )


def _space_to_depth(x: Array) -> Array:
    """(H, W, C) -> (H/2, W/2, 4C), without loss."""
    height, width, channels = x.shape
    x = x.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 1, 3, 4)
    return x.reshape(height // 2, width // 2, 4 * channels)


def _depth_to_space(x: Array) -> Array:
    """(H, W, 4C) -> (2H, 2W, C), the inverse of `_space_to_depth`."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)
