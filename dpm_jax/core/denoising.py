"""x̂^0 of a Gaussian kernel: its mean is a x̂^0 + b x^t, as gaussian.bridge has it."""

import jax.numpy as jnp

from dpm_jax.core.family import Array
from dpm_jax.core.schedule import Schedule


def x0_hat(mean: Array, xt: Array, schedule: Schedule, t: Array) -> Array:
    """x̂^0 of the kernel p(x^{t-1}|x^t) with this mean, of the event's shape; t >= 1."""
    a, signal, beta = coefficients(schedule, t)
    less = beta / (1 + jnp.sqrt(1 - beta)) + a * signal
    return (mean - xt + less * xt) / a


def coefficients(schedule: Schedule, t: Array) -> tuple[Array, Array, Array]:
    """a = √ᾱ_{t-1} β_t/(1−ᾱ_t), √ᾱ_t and β_t."""
    before, beta = schedule.log_alpha_bar[t - 1], schedule.beta[t]
    signal = jnp.exp(0.5 * before)
    a = signal * beta / (-jnp.expm1(before) + jnp.exp(before) * beta)
    return a, signal * jnp.sqrt(1 - beta), beta
