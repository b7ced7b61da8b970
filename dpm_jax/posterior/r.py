"""The r(x) of Sec. 2.5 as tilts: known coordinates, noisy data, any function of your own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Family, LogR, Params, numbers
from dpm_jax.posterior.guide import Felt, Guide
from dpm_jax.posterior.tilt import R_T, Tilt, exponent, guided


def inpaint(chain: Chain, mask: ArrayLike, known: ArrayLike, r_t: str = "constant") -> Tilt:
    """r = delta on known coordinates, constant elsewhere (eq. 22, 23): they come back exactly.

    Args:
        chain: that will be sampled.
        mask: bool, of the event's shape; True where x^0 is known.
        known: of the event's shape; where the mask is False it is never read.
        r_t: name of r at t > 0; with "constant" (the paper) and "annealed" (a power of a delta is
            that delta) the known part is in place at every t, "noised" serves `particles`.

    Raises:
        ValueError: for another shape or type of mask, values outside the support, a bad `r_t`.
    """
    mask, y = seen(chain, mask, "known", known)
    r = _named("known", chain.family.observe, y, 0.0)
    return _exact(chain, r, mask, r_t)._replace(singular=r_t != "noised")


def denoise(
    chain: Chain,
    y: ArrayLike,
    noise: ArrayLike,
    r_t: str = "constant",
    mask: ArrayLike | None = None,
) -> Tilt:
    """r(x) = P(y | x) of noisy data, Gaussian or bits flipped: the exact product of eq. 22.

    Args:
        chain: that will be sampled.
        y: of the event's shape.
        noise: variance of the Gaussian noise, or probability that a bit is flipped; scalar or of
            the event's shape.
        r_t: name of r at t > 0.
        mask: bool, of the event's shape; where it is False nothing was observed and y is not read.

    Raises:
        ValueError: for noise outside (0, ∞), of bits (0, 1), a y outside the support, a bad mask
            or `r_t`.
    """
    mask, y = seen(chain, np.ones(chain.shape, bool) if mask is None else mask, "y", y)
    noise = numbers("noise", noise)
    if not isinstance(noise, jax.core.Tracer) and not np.all(np.asarray(noise) > 0):
        raise ValueError(f"noise: expected above 0 (at 0 it is `inpaint`), got {noise}")
    if jnp.shape(noise) not in ((), chain.shape):
        raise ValueError(f"noise: expected shape () or {chain.shape}, got {jnp.shape(noise)}")
    r = _named("y", chain.family.observe, y, noise)
    return _exact(chain, r, mask, r_t)


def perturb(chain: Chain, log_r: LogR, r_t: str = "constant") -> Tilt:
    """Any log r: to first order for Gaussians (eq. 61), exact for bits (Table App.1).

    With r_t="dps" r(x^t) = r(x̂^0(x^t)), through the network (Gaussian): a classifier of x^0 is one.

    Args:
        chain: that will be sampled.
        log_r: x -> nats; Gaussian: differentiable, a scalar or per element; bits: per bit, each
            value of its own bit alone (an r that couples bits has no kernel in the family).
        r_t: "constant", "annealed" or, of Gaussians, "dps".

    Raises:
        ValueError: for another `r_t`, of which a general r has no closed form; for bits and "dps";
            when it is used, for a log_r that returns another shape.
    """
    if not callable(log_r):
        raise TypeError(f"log_r: expected a function x -> nats, got {log_r!r}")
    if r_t == "dps":
        return guided(chain, _at_x0_hat(log_r))
    if r_t not in R_T[:2]:
        raise ValueError(f"r_t: expected one of {(*R_T[:2], 'dps')} for any log r, got {r_t!r}")
    family, power = chain.family, exponent(chain, r_t)

    def scaled(s: Array) -> LogR:
        return lambda x: power(s) * _checked(log_r, x)

    def log_z(params: Params, x: Array, t: Array) -> Array:
        new = family.perturb(params, scaled(t - 1))
        same = [a == b for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(new))]
        still = jnp.stack(same).all(axis=0)
        # A coordinate that did not move (a known one above all) has no ratio, not inf − inf, nor a
        # gradient of one: there both are read at laws of the prior.
        prior = family.prior(x.shape)
        params, new = (
            jax.tree.map(lambda a, b: jnp.where(still, a, b), prior, p) for p in (params, new)
        )
        ratio = _each(family.log_prob, params, x) - _each(family.log_prob, new, x)
        ratio = jnp.where(still, 0.0, ratio)
        return jnp.sum(ratio) + jnp.sum(scaled(t - 1)(x))

    return Tilt(
        T=chain.T,
        apply=lambda params, t: family.perturb(params, scaled(t - 1)),
        log_r=lambda x, t: jnp.sum(scaled(t)(x)),
        log_z=log_z,
        curvature=lambda params, t: family.curvature(params, scaled(t - 1)),
        bend=lambda params, t: _bend(family, params, scaled(t - 1)),
        params=type(chain.prior),
    )


def _at_x0_hat(log_r: LogR) -> Guide:
    def total(x: Array) -> Array:
        return jnp.sum(_checked(log_r, x))

    def feel(x0: Array, product, params: Params, step) -> Felt:
        value, u = jax.value_and_grad(total)(x0)
        return Felt(value, product(u))

    return Guide(feel, total)


def _bend(family: Family, params: Params, log_r: LogR) -> Array:
    """How far log r is from linear over a step, in standard deviations of it (tilt.bend)."""
    new = family.perturb(params, log_r)
    second = family.perturb(new, log_r)
    # The change of the shift from its beginning to its end: 0 where log r is linear.
    bent = jax.tree.map(lambda p, n, s: s - 2 * n + 2 * p, params, new, second)
    still = jnp.stack([a == b for a, b in zip(*map(jax.tree.leaves, (params, new)))]).all(axis=0)
    prior = family.prior(still.shape)
    bent, base, moved = (
        jax.tree.map(lambda a, b: jnp.where(still, a, b), prior, p) for p in (bent, params, new)
    )
    change = jnp.sqrt(2 * jnp.maximum(family.kl(bent, base), 0.0))

    def log_z(key: Array) -> Array:
        x = family.sample(key, new)
        ratio = _each(family.log_prob, base, x) - _each(family.log_prob, moved, x)
        return jnp.sum(jnp.where(still, 0.0, ratio)) + jnp.sum(log_r(x))

    spread = jnp.std(jax.vmap(log_z)(jax.random.split(jax.random.key(0), 32)))
    return jnp.maximum(change, spread / max(still.size, 1) ** 0.5)


def seen(chain: Chain, mask: Any, argument: str, values: Any) -> tuple[Array, Array]:
    """The mask, and the values where it is True; 0 where they are hidden and never read.

    Raises:
        ValueError: naming the argument whose shape is not the event's, or a mask that is not bool.
    """
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    values = numbers(argument, values)
    for name, value in ((argument, values), ("mask", mask)):
        if jnp.shape(value) != chain.shape:
            got = jnp.shape(value)
            raise ValueError(f"{name}: expected the event's shape {chain.shape}, got {got}")
    if mask.dtype != bool:
        raise ValueError(f"mask: expected bool, True where known, got {mask.dtype}")
    values, mask = jnp.asarray(values), jnp.asarray(mask)
    return mask, jnp.where(mask, values, jnp.zeros_like(values))


def _exact(chain: Chain, r: Params, mask: Array, r_t: str) -> Tilt:
    """The tilt of an r whose product with the kernel is in the family; `mask`: where there is r."""
    if r_t not in R_T:
        raise ValueError(f"r_t: expected one of {R_T}, got {r_t!r}")
    family, power = chain.family, exponent(chain, r_t)

    def at(t: Array) -> Params:
        if r_t == "noised":
            return family.noised(r, chain.schedule.log_alpha_bar[t])
        return r if r_t == "constant" else family.power(r, power(t))

    def apply(params: Params, t: Array) -> Params:
        product, _ = family.multiply(params, at(t - 1))
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), product, params)

    def log_r(x: Array, t: Array) -> Array:
        return jnp.sum(jnp.where(mask, _each(family.log_prob, at(t), x), 0.0))

    def log_z(params: Params, x: Array, t: Array) -> Array:
        return jnp.sum(jnp.where(mask, family.multiply(params, at(t - 1))[1], 0.0))

    made = Tilt(T=chain.T, apply=apply, log_r=log_r, log_z=log_z, params=type(chain.prior))
    return made._replace(log_alpha_bar=chain.schedule.log_alpha_bar) if r_t == "noised" else made


def _each(log_prob: Callable[[Params, Array], Array], params: Params, x: Array) -> Array:
    """log_prob element by element: the event's shape."""
    flat = jax.tree.map(lambda a: a.reshape(-1), params)
    return jax.vmap(log_prob)(flat, x.reshape(-1)).reshape(x.shape)


def _checked(log_r: Callable[[Array], Array], x: Array) -> Array:
    value = log_r(x)
    if jnp.shape(value) not in ((), x.shape):
        expected = f"() or {x.shape}" if x.shape else "()"
        raise ValueError(f"log_r: expected shape {expected}, got {jnp.shape(value)}")
    return value


def _named(argument: str, observe: Callable[..., Params], y: Array, noise: Any) -> Params:
    """`observe`, with the caller's name for y in its error."""
    try:
        return observe(y, noise)
    except ValueError as error:
        raise ValueError(str(error).replace("y:", f"{argument}:", 1)) from error
