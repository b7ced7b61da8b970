"""Time-conditioned perceptrons for vectors and small images, conditioned on log-SNR."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.networks.norm import LayerNorm
from dpm_jax.networks.promotion import promoting


def log_snr_features(log_snr: Array, num: int = 16) -> Array:
    """Smooth features of log-SNR, (2 num + 1,): its value and sines of octave-spaced frequency."""
    frequency = 0.1 * 2.0 ** jnp.linspace(0.0, 5.0, num)
    phase = log_snr * frequency
    return jnp.concatenate([log_snr[None] / 10, jnp.sin(phase), jnp.cos(phase)])


def remat(module: type[nn.Module], wanted: bool) -> Any:
    """The class of a module that, where wanted, computes itself again for the gradient."""
    return nn.remat(module) if wanted else module


class MLP(nn.Module):
    """Perceptron of (x, octave features of x, log-SNR) for vectors, e.g. the swiss roll.

    `octaves` sines and cosines of 2^k x give the input the resolution that low noise needs.
    """

    width: int = 128
    depth: int = 3
    octaves: int = 0
    outputs: int = 1

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x of any shape -> raw outputs (*event, outputs)."""
        flat = x.reshape(-1)
        phase = jnp.outer(
            flat, jnp.asarray([2.0**k for k in range(self.octaves)], flat.dtype)
        ).reshape(-1)
        hidden = jnp.concatenate([flat, jnp.sin(phase), jnp.cos(phase), log_snr_features(log_snr)])
        for _ in range(self.depth):
            hidden = jax.nn.silu(nn.Dense(self.width)(hidden))
        z = nn.Dense(x.size * self.outputs, kernel_init=nn.initializers.zeros_init())(hidden)
        return z.reshape(*x.shape, self.outputs)


class ResidualMLP(nn.Module):
    """Residual perceptron with log-SNR added in every block, for larger vectors."""

    width: int = 512
    depth: int = 3
    outputs: int = 1

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x of any shape -> raw outputs (*event, outputs)."""
        time = jax.nn.silu(nn.Dense(self.width)(log_snr_features(log_snr)))
        hidden = nn.Dense(self.width)(x.reshape(-1))
        for _ in range(self.depth):
            inner = jax.nn.silu(
                nn.Dense(self.width)(LayerNorm()(hidden)) + nn.Dense(self.width)(time)
            )
            hidden = hidden + nn.Dense(self.width, kernel_init=nn.initializers.zeros_init())(inner)
        hidden = jax.nn.silu(LayerNorm()(hidden))
        z = nn.Dense(x.size * self.outputs, kernel_init=nn.initializers.zeros_init())(hidden)
        return z.reshape(*x.shape, self.outputs)
