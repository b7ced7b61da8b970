"""Exact products p r/Z~ of a Gaussian kernel and a linear measurement (eq. 22), by its rows."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.core.gaussian import Normal
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.tilt import Tilt, exponent
from dpm_jax.units import LOG_2PI

_LARGEST = 2048  # rows of A whose product takes a matrix of them


class Conditioned(NamedTuple):
    """p r/Z~ of a Gaussian kernel p and r = N(z; s Vᵀ x, R) in the coordinates of A."""

    base: Normal  # p
    z: Array  # (rank,)
    s: Array
    R: Array
    S: Array  # of z under p: its variances (rank,), or the Cholesky factor of its covariance
    shift: Array  # of the mean

    @property
    def mean(self) -> Array:
        """Of the event's shape."""
        return self.base.mean + self.shift


def exact(chain: Chain, A: Linear, z: Array, R: Array, apart: Array, r_t: str) -> Tilt:
    """The tilt of eq. 22 for r = N(z; s Vᵀ x, R), times e^apart, at t > 0 as `r_t` names it.

    Args:
        chain: of Gaussians.
        A: its measurement; where Vᵀ Σ V is not diagonal, of at most 2,048 rows.
        z: (rank,), what was seen in the coordinates of A.
        R: variance.
        apart: nats.
        r_t: "constant", "annealed" or "noised".

    Raises:
        ValueError: for an A of more rows.
    """
    power, log_alpha_bar = exponent(chain, r_t), chain.schedule.log_alpha_bar
    if not A.diagonal and len(A.singular) > _LARGEST:
        expected = f"at most {_LARGEST} rows with r_t={r_t!r}, got {len(A.singular)}"
        raise ValueError(f"A: expected {expected}; mmps and pigdm take more")

    def at(t: Array) -> tuple[Array, Array]:
        """Factors and variances of z given x^t."""
        if r_t != "noised":
            return A.singular, jnp.broadcast_to(R / power(t), z.shape)
        level = jnp.maximum(log_alpha_bar[t], -27.0)  # as gaussian.noised
        return jnp.exp(0.5 * level) * A.singular, R - jnp.expm1(level) * A.singular**2

    def apply(params: Normal, t: Array) -> Conditioned:
        s, noise = at(t - 1)
        S = _covariance(A, s, noise, params.variance)
        u = _solve(S, z - s * A.rows(params.mean))
        return Conditioned(params, z, s, noise, S, params.variance * A.back(s * u))

    def log_r(x: Array, t: Array) -> Array:
        s, noise = at(t)
        return apart + log_normal(z - s * A.rows(x), noise)

    def log_z(params: Normal, x: Array, t: Array) -> Array:
        s, noise = at(t - 1)
        e = z - s * A.rows(params.mean)
        S = _covariance(A, s, noise, params.variance)
        if S.ndim == 1:
            return apart + log_normal(e, S)
        half = jax.scipy.linalg.solve_triangular(S, e, lower=True)
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(S)))
        return apart - 0.5 * (half @ half + log_det + len(e) * LOG_2PI)

    made = Tilt(chain.T, apply, log_r, log_z, draw=partial(_draw, A), params=type(chain.prior))
    return made._replace(log_alpha_bar=log_alpha_bar) if r_t == "noised" else made


def _draw(A: Linear, key: Array, law: Conditioned) -> Array:
    """By Matheron's rule: a draw of p and of the noise, moved to where its z is the one seen."""
    of_x, of_z = jax.random.split(key)
    base = law.base
    x = jnp.sqrt(base.variance) * jax.random.normal(of_x, base.mean.shape, base.mean.dtype)
    drawn = jnp.sqrt(law.R) * jax.random.normal(of_z, law.z.shape, law.z.dtype)
    u = _solve(law.S, drawn - law.s * A.rows(x))
    return base.mean + (law.shift + x + base.variance * A.back(law.s * u) + base.low)


def _covariance(A: Linear, s: Array, noise: Array, variance: Array) -> Array:
    """R + s Vᵀ Σ V s: variances where it is diagonal, else its Cholesky factor."""
    if A.diagonal:
        return noise + s**2 * A.spread(variance)
    eye = jnp.eye(len(s), dtype=s.dtype)
    inner = jax.vmap(lambda row: A.rows(variance * A.back(row)))(eye)
    return jnp.linalg.cholesky(s[:, None] * inner * s[None, :] + jnp.diag(noise))


def _solve(S: Array, e: Array) -> Array:
    return e / S if S.ndim == 1 else jax.scipy.linalg.cho_solve((S, True), e)


def log_normal(e: Array, S: Array) -> Array:
    """log N(e; 0, diag S), nats."""
    return -0.5 * jnp.sum(e**2 / S + jnp.log(S) + LOG_2PI)
