"""Methods of others for y = A x^0 + ε, to set beside our posteriors: DPS, DDRM and MCGdiff.

All of a Gaussian chain with one variance for all elements, one evaluation of its kernel a step.

* dps      Chung et al. 2023: a step along the gradient of ‖y − A x̂^0‖ through the network
* ddrm     Kawar et al. 2022: each singular direction of A mixes y with x̂^0 by its noise
* mcgdiff  Cardoso et al. 2023: a particle filter with y noised to each t as its potentials

The last two work along the singular vectors of A. `turned` makes them the first coordinates, so
that all stays elementwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import gaussian
from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array
from dpm_jax.core.gaussian import Normal
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.particles import systematic


class Seen(NamedTuple):
    """y along the right singular vectors of A: z_i = known_i + N(0, noise_i), i < k."""

    known: Array  # (k,) Uᵀy / s
    noise: Array  # (k,) R / s²
    log_scale: Array  # Σ log s: log N(y; A x, R) is that much less than log N(known; z, noise)


def seen(A: Linear, y: Array, noise: Array) -> Seen:
    """y of variance `noise`, as one sees it along the singular vectors."""
    return Seen(A.seen(y) / A.singular, noise / A.singular**2, jnp.sum(jnp.log(A.singular)))


def turned(chain: Chain, A: Linear) -> tuple[Chain, Callable[[Array], Array]]:
    """The chain of z = Qᵀ x, whose first k coordinates are Vᵀ x, and z (d,) -> x (*event).

    Q is a product of k reflections (compact WY), so that no d × d matrix is formed.
    """
    V = jax.vmap(A.back)(jnp.eye(len(A.singular))).reshape(len(A.singular), -1).T
    raw, tau = jnp.linalg.qr(V, mode="raw")
    W = jnp.tril(raw.T, -1) + jnp.eye(len(V), len(tau), dtype=V.dtype)
    # T^-1 + T^-T = WᵀW, and T^-1 is an upper triangle with 1/τ on its diagonal.
    inverse = jnp.triu(W.T @ W, 1) + jnp.diag(1 / tau)
    T = jax.scipy.linalg.solve_triangular(inverse, jnp.eye(len(tau), dtype=V.dtype))
    sign = jnp.ones(len(V), V.dtype).at[: len(tau)].set(jnp.sign(jnp.diag(raw)))

    def to(x: Array) -> Array:
        flat = x.reshape(-1)
        return sign * (flat - W @ (T.T @ (W.T @ flat)))

    def back(z: Array) -> Array:
        flat = sign * z
        return (flat - W @ (T @ (W.T @ flat))).reshape(chain.shape)

    def reverse(zt: Array, t: Array) -> Normal:
        mean, variance, low = chain.reverse(back(zt), t)
        return Normal(to(mean), variance.reshape(-1), to(low))

    shape = (len(V),)
    prior = chain.family.prior(shape)
    return chain._replace(reverse=reverse, shape=shape, prior=prior, kernel=None), back


def dps(chain: Chain, A: Linear, y: Array, step: float) -> Chain:
    """The chain whose means move by −step ∂‖y − A x̂^0‖/∂x^t: DPS as its public code has it."""

    def reverse(xt: Array, t: Array) -> Normal:
        def distance(xt: Array):
            params = chain.reverse(xt, t)
            x0 = x0_hat(params.mean + params.low, xt, chain.schedule, t)
            error = y - A.apply(x0)
            return jnp.sqrt(jnp.sum(error**2)), params

        gradient, params = jax.grad(distance, has_aux=True)(xt)
        return params._replace(mean=params.mean - step * gradient)

    return chain._replace(reverse=reverse, kernel=None)


def ddrm(chain: Chain, of: Seen, eta: float = 0.85, eta_b: float = 1.0) -> Chain:
    """The `turned` chain with the kernels of DDRM: eq. 7 and 8 of Kawar et al., their η and η_b.

    They are of x^t/√ᾱ_t, whose noise has the variance (1−ᾱ_t)/ᾱ_t.
    """
    schedule, k = chain.schedule, len(of.known)
    ratio = jnp.expm1(-schedule.log_alpha_bar)
    keep = (1 - eta**2) ** 0.5

    def at(t: Array, mean: Array, variance: Array) -> Normal:
        signal = schedule.alpha_bar[t]
        return Normal(jnp.sqrt(signal) * mean, signal * jnp.maximum(variance, 0.0))

    def first() -> Normal:
        mean, variance = jnp.zeros(chain.shape), jnp.full(chain.shape, ratio[-1])
        left = jnp.maximum(ratio[-1] - of.noise, 0.0)
        clear = of.noise < ratio[-1]
        mean = mean.at[:k].set(jnp.where(clear, of.known, 0.0))
        return at(
            jnp.asarray(chain.T), mean, variance.at[:k].set(jnp.where(clear, left, ratio[-1]))
        )

    def reverse(zt: Array, t: Array) -> Normal:
        params = chain.reverse(zt, t)
        x0 = x0_hat(params.mean + params.low, zt, schedule, t)
        to = ratio[t - 1]
        old = jnp.exp(-0.5 * schedule.log_alpha_bar[t]) * zt
        mean = x0 + keep * jnp.sqrt(to / ratio[t]) * (old - x0)
        variance = jnp.full(chain.shape, eta**2 * to)
        near = x0[:k] + keep * jnp.sqrt(to / of.noise) * (of.known - x0[:k])
        mixed = (1 - eta_b) * x0[:k] + eta_b * of.known
        clear = of.noise <= to  # y is less noisy than x^{t-1}
        mean = mean.at[:k].set(jnp.where(clear, mixed, near))
        spread = jnp.where(clear, to - eta_b**2 * of.noise, eta**2 * to)
        return at(t - 1, mean, variance.at[:k].set(spread))

    return chain._replace(reverse=reverse, prior=first(), kernel=None)


def mcgdiff(
    key: Array, chain: Chain, of: Seen, num: int, kappa: float = 1e-2, weigh: bool = False
) -> tuple[Array, Array, Array]:
    """Draws of p(x^0 | y) by the particle filter of Cardoso et al. 2023, with its own proposals.

    Coordinate i has the potential N(√ᾱ_t known_i, 1 − (1−κ) ᾱ_t/ᾱ_τi) down to τ_i, the step whose
    noise is that of y; below it, it is free, as x^0 given such an x^τi has the law that is wanted
    where the chain is the true reverse process. Resampled at every step, before the move.

    Args:
        key: typed PRNG key.
        chain: `turned`.
        of: y.
        num: particles.
        kappa: variance of the potentials at τ_i.
        weigh: whether y itself weighs x^0 in the place of the last potentials: exact as `num` grows
            for any chain, with weights as uneven as a κ that small makes them.

    Returns:
        Draws (num, d) of z, their log weights, of sum 1, and log Z~.
    """
    alpha_bar, k = chain.schedule.alpha_bar, len(of.known)
    tau = jnp.argmin(jnp.abs(of.noise[:, None] * alpha_bar[None] - chain.schedule.noise[None]), 1)
    tau = jnp.maximum(tau, 1)

    def potential(t: Array) -> tuple[Normal, Array]:
        spread = 1 - (1 - kappa) * alpha_bar[t] / alpha_bar[tau]
        return Normal(jnp.sqrt(alpha_bar[t]) * of.known, jnp.maximum(spread, kappa)), t >= tau

    def look(z: Array, t: Array) -> tuple[Normal, Array]:
        """The kernel times the potential of x^{t-1}, and its log Z~ over the potential of x^t."""
        law, active = potential(t - 1)
        product, log_z = _times(chain.reverse(z, t), law, active, k)
        before, was = potential(t)
        return product, log_z - _log_density(before, z[:k], was if weigh else active)

    def body(carry, t: Array):
        z, log_w, total = carry
        key_draw, key_resample = jax.random.split(jax.random.fold_in(key, t))
        product, change = jax.vmap(lambda z: look(z, t))(z)
        log_w, total = _normalised(log_w + change, total)
        index = systematic(key_resample, jnp.exp(log_w))
        product = jax.tree.map(lambda a: a[index], product)
        z = jax.vmap(gaussian.sample)(jax.random.split(key_draw, num), product)
        return (z, even, total), None

    start, total = _times(chain.prior, *potential(jnp.asarray(chain.T)), k)
    keys = jax.random.split(jax.random.fold_in(key, chain.T + 1), num)
    z = jax.vmap(lambda key: gaussian.sample(key, start))(keys)
    even = jnp.full(num, -np.log(num), z.dtype)
    (z, log_w, total), _ = jax.lax.scan(body, (z, even, total), jnp.arange(chain.T, 0, -1))
    if not weigh:  # the density of x^τ, as one of y
        return z, log_w, total + 0.5 * jnp.sum(jnp.log(alpha_bar[tau])) - of.log_scale
    end = jax.vmap(lambda z: _log_density(Normal(of.known, of.noise), z[:k], tau > 0))(z)
    return z, *_normalised(log_w + end, total - of.log_scale)


def _times(params: Normal, law: Normal, active: Array, k: int) -> tuple[Normal, Array]:
    """A kernel times potentials of its first k coordinates, where active, and log Z~."""
    head = jax.tree.map(lambda a: a[:k], params)
    product, log_z = gaussian.multiply(head._replace(mean=head.mean + head.low), law)
    product = jax.tree.map(lambda a, b: jnp.where(active, a, b), product, head)
    whole = jax.tree.map(lambda a, b: a.at[:k].set(b), params, product)
    return whole, jnp.sum(jnp.where(active, log_z, 0.0))


def _normalised(log_w: Array, total: Array) -> tuple[Array, Array]:
    norm = jax.nn.logsumexp(log_w)
    return log_w - norm, total + norm


def _log_density(law: Normal, z: Array, where: Array) -> Array:
    """log density of the coordinates `where`."""
    return jnp.sum(jnp.where(where, jax.vmap(gaussian.log_prob)(law, z), 0.0))
