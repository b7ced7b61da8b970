"""The twist: log of the model's marginal at x^t by its own score, for resampling along t.

Which of N trajectories on their way from x^0 to x^T are worth keeping, the weights so far do not
say: they compare p(x^{0..t-1}|x^t) with q, and the model's p_t(x^t) is still to come. With the
score s = −(x − √ᾱ_t x̂^0)/(1−ᾱ_t) of the kernel it is, up to a term in t alone,

    log ψ_t(x) = ∫_0^1 e · s(r + u e) du,   e = x − r,   r = √ᾱ_t c                          (1)
               = −|e|²/2(1−ᾱ_t) + √ᾱ_t/(1−ᾱ_t) ∫_0^1 e · (x̂^0(r + u e) − c) du               (2)

along the straight line from a centre c that x^0 alone decides. Any ψ > 0 leaves the estimate
unbiased; the better ones leave it narrow. By Simpson's rule, with c the network's x̂^0 of x^0 where
x^0 bears noise, eq. 2 is 0.1 to 0.2 nats off on digits; about a noisy c it is many. What is left is
the score's own: on another path the integral is 1 nat another, since a network is no gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array, Params
from dpm_jax.core.gaussian import Normal

OfMany = Callable[[Array, Params, Array], Array]  # x (N, *event), their kernels, t -> (N,) nats


def check(chain: Chain) -> None:
    """ValueError for a chain whose kernels have no score."""
    if not isinstance(chain.prior, Normal):
        raise ValueError(
            "proposal.twist: expected a function of your own but for Gaussians, got none for"
            f" {chain!r}"
        )


def by_score(chain: Chain, centre: Array) -> OfMany:
    """log ψ_t of eq. 2 by Simpson's rule, of x^t (N, *event); N + 1 calls of the network."""
    schedule = chain.schedule

    def of(x: Array, params: Params, t: Array) -> Array:
        level = schedule.log_alpha_bar[t]
        noise, signal = -jnp.expm1(level), jnp.exp(0.5 * level)
        from_centre = x - signal * centre[None]
        between = jnp.concatenate([jnp.zeros_like(x[:1]), 0.5 * from_centre])
        inner = signal * centre[None] + between
        kernels = jax.vmap(lambda z: chain.reverse(z, t))(inner)
        guess = x0_hat(kernels.mean, inner, schedule, t) - centre[None]
        last = x0_hat(params.mean, x, schedule, t) - centre[None]
        mean = (guess[:1] + 4 * guess[1:] + last) / 6
        terms = signal * from_centre * mean - 0.5 * (from_centre**2 - noise)
        return jnp.sum(terms.reshape(len(x), -1), axis=1) / noise

    return of
