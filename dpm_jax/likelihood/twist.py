"""The twist: log of the model's marginal at x^t by its own score, for resampling along t.

Which of N trajectories on their way from x^0 to x^T are worth keeping, the weights so far do not
say: they compare p(x^{0..t-1}|x^t) with q, and the model's p_t(x^t) is still to come. With the
score s = −(x − √ᾱ_t x̂^0)/(1−ᾱ_t) of the kernel it is, between two points and along any path,

    log ψ_t(x)/ψ_t(a) = ∫ s(y(u)) · y'(u) du,   y(0) = a, y(1) = x                           (1)

A network is no gradient, so that paths differ, and far from the noise of level t it was never
asked. So with r = √ᾱ_t c, c the network's x̂^0 of x^0, and ε the noise of x and a about it,

    y(u) = r + √(1−ᾱ_t) [sin((1−u)φ) ε_a + sin(uφ) ε_x] / sin φ,   cos φ = ε_a·ε_x/|ε_a||ε_x|  (2)

an arc, on which noise is as large as at its ends (of points that face each other φ is 2, and the
path cuts the corner). The part of s that is −(y − r)/(1−ᾱ_t) is summed
exactly, the rest by Lobatto's rule with the known ends and two calls between. Any ψ > 0 leaves the
estimate unbiased; the better ones leave it narrow. On straight lines CIFAR-10's twist is so far off
that it widens the sandwich to twice what it is without one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array, Params
from dpm_jax.core.gaussian import Normal

# x (N, *event) and their kernels, t, a point and its kernel -> (N,) nats
OfMany = Callable[[Array, Params, Array, Array, Params], Array]
_INNER = (0.5 - 0.5 / 5**0.5, 0.5 + 0.5 / 5**0.5)  # Lobatto's, of weight 5/12; the ends have 1/12
_WIDEST = 2.0  # φ, radians


def check(chain: Chain) -> None:
    """ValueError for a chain whose kernels have no score."""
    if not isinstance(chain.prior, Normal):
        raise ValueError(
            "proposal.twist: expected a function of your own but for Gaussians, got none for"
            f" {chain!r}"
        )


def scalar(value: Array, x: Array) -> Array:
    """log ψ_t of one x^t as the caller gave it, nats; ValueError unless it is a scalar."""
    if jnp.shape(value) != ():
        got = jnp.shape(value)
        raise ValueError(f"proposal.twist: expected scalar nats of one x^t, got shape {got}")
    return jnp.asarray(value, x.dtype)


def by_score(chain: Chain, centre: Array) -> OfMany:
    """log ψ_t(x)/ψ_t(a) of eq. 1 and 2 for x^t (N, *event); 2 N calls of the network."""
    schedule = chain.schedule

    def of(x: Array, params: Params, t: Array, a: Array, params_a: Params) -> Array:
        level = schedule.log_alpha_bar[t]
        sigma, signal = jnp.sqrt(-jnp.expm1(level)), jnp.exp(0.5 * level)

        def one(x: Array, kernel: Params) -> Array:
            end, begin = ((z - signal * centre) / sigma for z in (x, a))
            size = jnp.sqrt(jnp.sum(begin**2) * jnp.sum(end**2))
            cosine = jnp.sum(begin * end) / jnp.maximum(size, 1e-30)
            # Any φ leads from a to x. Opposite noise has no arc, and that of one number is always
            # along or opposite; of images it is about at a right angle.
            phi = jnp.clip(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-3, _WIDEST)

            def along(u: Array | float, kernel: Params | None = None) -> Array:
                left, right = (1 - u) * phi, u * phi
                y = signal * centre + sigma * _mixed(jnp.sin, left, right)
                kernel = chain.reverse(y, t) if kernel is None else kernel
                guess = x0_hat(kernel.mean, y, schedule, t) - centre
                return guess * _mixed(lambda v: jnp.cos(v) * phi, left, right, sign=-1)

            def _mixed(f, left, right, sign=1) -> Array:
                return (sign * f(left) * begin + f(right) * end) / jnp.sin(phi)

            inner = jnp.sum(jax.lax.map(along, jnp.asarray(_INNER, x.dtype)), axis=0)
            mean = (along(0.0, params_a) + 5 * inner + along(1.0, kernel)) / 12
            return jnp.sum(signal / sigma * mean - 0.5 * (end**2 - begin**2))

        return jax.vmap(one)(x, params)

    return of
