"""Gaussian data measured by any linear A: exact kernels, posterior and evidence are known.

The elements of x^0 are independent, N(0, diag(λ)), so that the reverse kernels are diagonal and the
model is the data's law at any T: what a posterior of it is off by is the method's alone.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpm_jax.core import gaussian
from dpm_jax.core.chain import Chain, make_chain
from dpm_jax.core.family import Array
from dpm_jax.core.schedule import Schedule


class Posterior(NamedTuple):
    """p(x^0 | y) = N(mean, covariance), and log Z~ = log p(y) in nats; float64."""

    mean: np.ndarray  # (d,)
    covariance: np.ndarray  # (d, d)
    log_z: float


def spectrum(size: int) -> np.ndarray:
    """Variances λ_i ∝ 1/i of mean 1, (size,): that of natural images."""
    falling = 1 / np.arange(1, size + 1)
    return falling / falling.mean()


def noised(variances: ArrayLike, schedule: Schedule) -> Array:
    """Variances of x^t, (T+1, *shape): ᾱ_t λ + 1 − ᾱ_t."""
    data = jnp.asarray(variances, schedule.beta.dtype)
    level = jnp.expand_dims(schedule.log_alpha_bar, tuple(range(1, data.ndim + 1)))
    return jnp.exp(level) * data[None] - jnp.expm1(level)


def chain(variances: ArrayLike, schedule: Schedule) -> Chain:
    """q(x^{t-1} | x^t) of data N(0, diag(variances)), from x^T ~ q(x^T): a model without error.

    Args:
        variances: of the event's shape.
        schedule: any.
    """
    each = noised(variances, schedule)

    def reverse(xt: Array, t: Array) -> gaussian.Normal:
        beta, before = schedule.beta[t], each[t - 1]
        share = before / ((1 - beta) * before + beta)
        return gaussian.Normal(jnp.sqrt(1 - beta) * share * xt, beta * share)

    made = make_chain(gaussian.family(), schedule, reverse, each.shape[1:], "learned")
    return made._replace(prior=gaussian.Normal(jnp.zeros_like(each[-1]), each[-1]))


def posterior(variances: ArrayLike, A: ArrayLike, y: ArrayLike, noise: float) -> Posterior:
    """p(x^0 | y) and log p(y) of y = A x^0 + ε, ε ~ N(0, noise I), x^0 ~ N(0, diag(variances)).

    Args:
        variances: of any shape, d elements.
        A: (m, d).
        y: m elements.
        noise: variance.
    """
    data, y = (
        np.ravel(np.asarray(variances, np.float64)),
        np.ravel(np.asarray(y, np.float64)),
    )
    A = np.asarray(A, np.float64)
    S = (A * data) @ A.T + noise * np.eye(len(A))
    gain = np.linalg.solve(S, A * data).T
    log_z = -0.5 * (y @ np.linalg.solve(S, y) + np.linalg.slogdet(2 * np.pi * S)[1])
    return Posterior(gain @ y, np.diag(data) - gain @ (A * data), log_z)
