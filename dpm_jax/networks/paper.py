"""The paper's networks: RBF and sigmoid perceptron (App. D.1), dense tanh with bumps (D.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.networks.promotion import promoting


class StepReadout(nn.Module):
    """A linear readout of its own for each t in 1..T (App. D.1): (h,) -> (features,)."""

    T: int
    features: int

    @nn.compact
    def __call__(self, hidden: Array, t: Array) -> Array:
        """W_t hidden + b_t; starts at 0, so that the first reverse kernel is the readout's own."""
        shape = (self.T + 1, hidden.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.T + 1, self.features))
        return hidden @ kernel[t] + bias[t]


class RBF(nn.Module):
    """Normalised radial basis functions shared by all t, readout per t (App. D.1, swiss roll)."""

    T: int
    units: int = 16
    outputs: int = 2

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x (dim,) -> raw outputs (dim, outputs)."""
        if x.ndim != 1:
            raise ValueError(f"RBF takes vectors, got an event of shape {x.shape}")
        centres = self.param("centres", nn.initializers.normal(1.0), (self.units, x.shape[0]))
        log_width = self.param("log_width", nn.initializers.constant(-0.7), (self.units,))
        distance = jnp.sum((x[None, :] - centres) ** 2, axis=-1)
        hidden = jax.nn.softmax(-0.5 * distance * jnp.exp(-2 * log_width))
        return StepReadout(self.T, x.shape[0] * self.outputs)(hidden, t).reshape(
            x.shape[0], self.outputs
        )


class SigmoidPerceptron(nn.Module):
    """Sigmoid layers shared by all t, readout per t (App. D.1, binary heartbeat: 20-50-50-50)."""

    T: int
    units: tuple[int, ...] = (50, 50, 50)
    outputs: int = 1

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x (dim,) -> raw outputs (dim, outputs)."""
        if x.ndim != 1:
            raise ValueError(f"SigmoidPerceptron takes vectors, got an event of shape {x.shape}")
        hidden = x
        for width in self.units:
            # Sigmoids shrink a centred signal four-fold: the gain keeps it alive over the layers.
            init = nn.initializers.variance_scaling(16.0, "fan_in", "truncated_normal")
            hidden = jax.nn.sigmoid(nn.Dense(width, kernel_init=init)(hidden - 0.5))
        return StepReadout(self.T, x.shape[0] * self.outputs)(hidden - 0.5, t).reshape(
            x.shape[0], self.outputs
        )


def bumps(t: Array, T: int, num: int) -> Array:
    """Bump functions g_j(t) of eq. 63, (num,): centres τ_j over (0, T), width w their spacing."""
    centres = (jnp.arange(num, dtype=jnp.result_type(float)) + 0.5) * (T / num)
    return jax.nn.softmax(-0.5 * ((t - centres) / (T / num)) ** 2)


class BumpDense(nn.Module):
    """Dense tanh layers on the whole event, readout by bumps in t (eq. 62, 63; App. D.2, MNIST)."""

    T: int
    units: tuple[int, ...] = (500, 500, 500)
    num_bumps: int = 10
    outputs: int = 2

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x of any shape -> raw outputs (*event, outputs)."""
        hidden = x.reshape(-1)
        for width in self.units:
            hidden = jnp.tanh(nn.Dense(width)(hidden))
        shape = (self.num_bumps, hidden.shape[-1], x.size * self.outputs)
        init = nn.initializers.normal(0.1 * hidden.shape[-1] ** -0.5)
        kernel = self.param("readout_kernel", init, shape)
        bias = self.param("readout_bias", nn.initializers.zeros_init(), (self.num_bumps, shape[-1]))
        # Bumps meet the weights before the product (not the outputs after it): num_bumps times less
        # work wherever one t serves many examples. As a matrix, so that their gradient is one too.
        g = self.bumps(t, log_snr).astype(hidden.dtype)
        weights = (g @ kernel.reshape(self.num_bumps, -1)).reshape(shape[1:])
        z = hidden @ weights + g @ bias
        return z.reshape(*x.shape, self.outputs)

    def bumps(self, t: Array, log_snr: Array) -> Array:
        """g_j of eq. 63, (num_bumps,), of t; log_snr is not read."""
        return bumps(t.astype(jnp.result_type(float)), self.T, self.num_bumps)
