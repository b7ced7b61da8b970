"""r(x^t) through the network: what is known of x^0, as it is felt at x^t by x̂^0(x^t). Gaussian.

Any Gaussian kernel has an estimate x̂^0 in its mean, mean = a x̂^0 + b x^t (gaussian.bridge). Of a
measurement y = A x^0 + ε, ε ~ N(0, R I), with V the covariance of x^0 − x̂^0 given x^t,

    log r(x^t) = log N(y; A x̂^0, S),    S = R + A V Aᵀ,    e = y − A x̂^0                     (1)
    u = Aᵀ S⁻¹ e,    E(x^0|x^t, y) = x̂^0 + V u                                              (2)
    V = (1−ᾱ_t)/√ᾱ_t ∂x̂^0/∂x^t    (Tweedie), so that                                         (3)
    a V u = β_t/√(1−β_t) ∇log r(x^t), with S held fixed,                                    (4)

and p~(x^{t-1}|x^t) has the mean a (x̂^0 + V u) + b x^t: eq. 61 with r of x^t, one vector product
through the network. The part of Σ that is error of x̂^0, a² v with v = (Σ − β̃_t)/a², is reduced as
conditioning on y reduces it: along row j of A = U diag(s) Vᵀ the kernel keeps of its variance

    g_j = (R Σ + v s_j² β̃_t)/((R + v s_j²) Σ).                                               (5)

At t = 1 the kernel itself is all that lies between x^1 and x^0: V = Σ there, and (1–5) are the
product of eq. 22, exact where Σ is a scalar. Whatever V is, `particles` weighs by p r/p~ (eq. 21).

In all formulas A is by its singular values (linear.py); V and S are of the coordinates Uᵀ y.

Sources: Chung et al. 2023 (V = 0, DPS), Song et al. 2023 (V = 1 − ᾱ_t, ΠGDM), Rozet et al. 2024
(V by Tweedie's formula, MMPS), Wu et al. 2023 (as the twist of a particle filter, TDS).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import coefficients, x0_hat
from dpm_jax.core.family import Array
from dpm_jax.core.gaussian import Normal

Product = Callable[[Array], Array]  # u -> V u, of the event's shape
_ROUNDINGS = 100


class Felt(NamedTuple):
    """What a guide says at one x^t."""

    log_r: Array  # nats
    pull: Array  # V u, of the event's shape
    kept: Array | None = None  # g of eq. 5, by row of A; None: Σ stays


class Step(NamedTuple):
    """t, and what of the schedule belongs to it."""

    t: Array
    a: Array  # the mean's factor of x̂^0
    bridge: Array  # β̃_t, variance of q(x^{t-1}|x^t,x^0)


class Guide(NamedTuple):
    """One r(x^t) through the network."""

    feel: Callable[[Array, Product, Normal, Step], Felt]  # x̂^0, V·, p(x^{t-1}|x^t), t
    log_r0: Callable[[Array], Array]  # x^0 -> log r(x^0), nats
    rows: Callable[[Array], Array] = jnp.ravel  # of A, where the kernel is reduced along them
    back: Callable[[Array], Array] = jnp.ravel  # its transpose


class Guided(NamedTuple):
    """p~(x^{t-1}|x^t) of guides: N(mean + shift, D^½ Π_i (I + V_i (g_i − 1) V_iᵀ) D^½)."""

    base: Normal  # before the guides: mean and D
    shift: Array  # a Σ_i V u_i
    kept: tuple[Array | None, ...]  # g of each
    log_r: Array  # log r(x^t), nats, of all of them

    @property
    def mean(self) -> Array:
        """Of the event's shape."""
        return self.base.mean + self.shift


def look(
    chain: Chain, guides: tuple[Guide, ...], base: Callable[[Normal], Normal], xt: Array, t: Array
) -> tuple[Normal, Guided]:
    """p(x^{t-1}|x^t) and p~ of it: one call of the network, and a vector product for each u.

    Args:
        chain: the model's own.
        guides: at least one.
        base: what comes before them: the product with an r that needs no network.
        xt: of the event's shape.
        t: 1..T.
    """
    schedule = chain.schedule

    def denoised(x: Array):
        params = chain.reverse(x, t)
        return x0_hat(params.mean + params.low, x, schedule, t), params

    x0, transposed, params = jax.vjp(denoised, xt, has_aux=True)
    a, signal, beta = coefficients(schedule, t)
    # ∂x̂^0/∂x^t is the small difference of ∂mean/∂x^t and b: where rounding is all of it, x^t says
    # nothing of x^0 and V is that of the data.
    lost = signal * a < _ROUNDINGS * jnp.finfo(a.dtype).eps

    def product(u: Array) -> Array:  # eq. 3; at t = 1 V = Σ
        through = transposed(u)[0] / jnp.where(lost, 1.0, signal)
        by_tweedie = schedule.noise[t] * jnp.where(lost, u, through)
        return jnp.where(t == 1, params.variance * u, by_tweedie)

    bridge = beta * schedule.noise[t - 1] / schedule.noise[t]
    felt = [guide.feel(x0, product, params, Step(t, a, bridge)) for guide in guides]
    before = base(params)
    # Where the product before them left less of the variance, eq. 61 moves the mean by less.
    # Rows would mix what is fixed before them into what moves: there Σ is left as it is.
    free = jnp.all(before.variance > 0)
    kept = tuple(None if f.kept is None else jnp.where(free, f.kept, 1.0) for f in felt)
    pull, log_r = (jnp.sum(jnp.stack(part), 0) for part in zip(*((f.pull, f.log_r) for f in felt)))
    shift = a * pull * (before.variance / params.variance)
    return params, Guided(before, shift, kept, log_r)


def draw(key: Array, guides: tuple[Guide, ...], law: Guided) -> Array:
    """x^{t-1} ~ p~, of the event's shape."""
    base = law.base
    z = jax.random.normal(key, base.mean.shape, base.mean.dtype)
    for guide, kept in zip(guides, law.kept):
        if kept is not None:
            z = z + guide.back((jnp.sqrt(kept) - 1) * guide.rows(z))
    return base.mean + (law.shift + jnp.sqrt(base.variance) * z + base.low)


def log_ratio(guides: tuple[Guide, ...], law: Guided, x: Array) -> Array:
    """log p/p~ at x = x^{t-1}, nats, with p the law before the guides.

    Element by element: the squares of p and p~, nearly equal, are never subtracted as sums.
    """
    base, moved = law.base, law.base.variance > 0
    sd = jnp.sqrt(jnp.where(moved, base.variance, 1.0))
    shift = jnp.where(moved, law.shift / sd, 0.0)
    z = jnp.where(moved, (x - base.mean - base.low) / sd, 0.0) - shift
    total = -0.5 * jnp.sum(shift * (2 * z + shift))
    for guide, kept in reversed(list(zip(guides, law.kept))):
        if kept is not None:
            along = guide.rows(z)
            total += 0.5 * jnp.sum(along**2 * (1 / kept - 1) + jnp.log(kept))
            z = z + guide.back((1 / jnp.sqrt(kept) - 1) * along)
    return total


def tempered(law: Guided, power: Array) -> Guided:
    """The law of r^power, for a scalar power in [0, 1]: its shift and its reduction are less."""
    kept = tuple(None if g is None else 1 - power * (1 - g) for g in law.kept)
    return law._replace(shift=power * law.shift, kept=kept, log_r=power * law.log_r)


def log_r0(guides: tuple[Guide, ...], x0: Array) -> Array:
    """log r(x^0) of all of them, nats."""
    return jnp.sum(jnp.stack([guide.log_r0(x0) for guide in guides]))
