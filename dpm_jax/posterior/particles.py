"""The particle filter of a tilt: posteriors that are exact as N grows, and their evidence.

With the kernels p~ of a tilt as proposals, the target π Π p(x^{t-1}|x^t) r(x^0) and its proposal
differ at each t by a factor that telescopes (eq. 21 and 22):

    w_t = [p(x^{t-1}|x^t)/p~(x^{t-1}|x^t)] r(x^{t-1})/r(x^t),    w_{T+1} = π r(x^T)/p~(x^T).

Of an exact product (eq. 22) that is Z~_{t-1}(x^t)/r(x^t), what eq. 22 normalises away from eq. 21,
and no more of x^{t-1} is needed. Of an r through the network, r(x^{t-1}) comes with the network's
next call. Kept as weights, with systematic resampling where they become uneven, they give samples
of p~(x^0) ∝ p(x^0) r(x^0) for any r(x^t) > 0 at t > 0, and an unbiased estimate of the evidence
Z~ = ∫ p(x^0) r(x^0). One call of the network a step; memory does not grow with T.

Source: Sohl-Dickstein et al. 2015, Sec. 2.5; Del Moral, Doucet & Jasra 2006 for the filter; Wu et
al. 2023 for r through the network (TDS).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.posterior import guide as through
from dpm_jax.posterior.particle_gibbs import Sweeps, gibbs
from dpm_jax.posterior.tilt import Tilt, draw, look, tilted, warn_beyond_reach
from dpm_jax.posterior.weighted import (
    ANCESTORS,
    Particles,
    check,
    check_arguments,
    log_weight,
    pool,
    warn_of_few,
)

__all__ = ["ANCESTORS", "Particles", "Sweeps", "check", "gibbs", "sample", "systematic"]
_HALVINGS = 12  # of the interval in which the power of a tempered r lies


def sample(
    key: Array,
    chain: Chain,
    tilt: Tilt,
    num: int,
    threshold: float = 0.8,
    filters: int = 1,
    temper: float = 0.0,
) -> Particles:
    """Draws of p~(x^0) ∝ p(x^0) r(x^0), weighted by what eq. 22 normalises away from eq. 21.

    Args:
        key: typed PRNG key.
        chain: the model's own, without the tilt.
        tilt: of that chain; the r(x^t) that serve best are "noised" and, through the network,
            "mmps".
        num: particles of a filter. One pass over t; `jax.vmap` for many problems.
        threshold: resample where the effective number falls below this part of `num`.
        filters: independent ones, pooled by their Z~: num · filters draws, held at once. By 25 or
            more the spread of Z~ is known, and log_z may be a value with an interval.
        temper: of an r through the network: it is taken to a power, which grows to 1 along t so
            that the effective number stays above this part of `num` where that can be. 0: power 1.
            The power is chosen by the particles: log_z is then biased, by less as they grow.

    Raises:
        TypeError: for a key or a tilt that is none.
        ValueError: for num or filters below 1, a threshold or temper outside [0, 1], a tilt of
            another T, family or schedule, or one that is a delta at t > 0 and leaves nothing to
            weigh; where no weight is left, unless under jit (`check` the result then).

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, and where the draws descend
            from few of the first particles, unless under jit.
    """
    check_arguments(key, chain, tilt, num=num, filters=filters)
    _check_parts(tilt, threshold=threshold, temper=temper)
    warn_beyond_reach(key, chain, tilt)
    keys = key[None] if filters == 1 else jax.random.split(key, filters)
    # One program instead of hundreds, also where no jit is around it.
    found = jax.jit(lambda keys: pool(*_filters(keys, chain, tilt, num, (threshold, temper))))(keys)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(found)):
        check(found)
        warn_of_few(found)
    return found


class _Cloud(NamedTuple):
    """The particles of one filter between two steps."""

    found: Particles  # its weights are logarithms
    pending: Array  # (N,): nats of weight that the last step left; r(x^t) is still missing
    power: Array  # of r
    origin: Array  # (N,): which x^T each descends from


def _filters(keys: Array, chain: Chain, tilt: Tilt, num: int, parts: tuple[float, float]):
    """One filter for each key, and the log weights (F, N) of the step where they were least even.

    At each step those are of one scale in all filters: a mean weight before it, and its change.
    """

    def together(total, least):
        ess = jnp.exp(2 * jax.nn.logsumexp(total) - jax.nn.logsumexp(2 * total))
        uneven, fewest = least
        return jnp.where(ess < fewest, total, uneven), jnp.minimum(ess, fewest)

    def body(carry, t: Array):
        clouds, least = carry
        clouds, total = jax.vmap(lambda k, one: _step(k, chain, tilt, parts, one, t))(keys, clouds)
        return (clouds, together(total, least)), None

    clouds = jax.vmap(lambda k: _start(k, chain, tilt, num))(keys)
    least = jnp.zeros_like(clouds.pending), jnp.full((), np.inf, clouds.pending.dtype)
    carry, _ = jax.lax.scan(body, (clouds, least), jnp.arange(chain.T, 0, -1))
    clouds, least = carry
    each, total = jax.vmap(lambda one: _weigh(one.found, one.pending, jnp.asarray(1)))(clouds)
    uneven, _ = together(total, least)
    weight = jnp.exp(each.weight)
    family = jax.vmap(lambda w, i: jnp.zeros_like(w).at[i].add(w))(weight, clouds.origin)
    ancestors, distinct = 1 / jnp.sum(family**2, axis=1), jnp.sum(family > 0, axis=1)
    return each._replace(weight=weight, ancestors=ancestors, distinct=distinct), uneven


def _start(key: Array, chain: Chain, tilt: Tilt, num: int) -> _Cloud:
    last, begin = jnp.asarray(chain.T + 1), tilted(chain, tilt)
    keys = jax.random.split(jax.random.fold_in(key, last), num)
    x_T = jax.vmap(lambda k: begin.family.sample(k, begin.prior))(keys)
    change = jax.vmap(lambda x: tilt.log_z(chain.prior, x, last))(x_T)
    zero, count = jnp.zeros((), chain.schedule.beta.dtype), jnp.zeros_like(last)
    even = jnp.full((num,), -np.log(num), zero.dtype)
    found = Particles(x_T, even, zero, zero, zero + num, count, count, *[zero] * 5)
    return _Cloud(found, change.astype(zero.dtype), zero, jnp.arange(num))


def _step(
    key: Array, chain: Chain, tilt: Tilt, parts: tuple[float, float], cloud: _Cloud, t: Array
) -> tuple[_Cloud, Array]:
    """x^t -> x^{t-1} of one filter, resampled before it where uneven; its weights at x^t."""
    num, (threshold, temper) = len(cloud.pending), parts
    key_draw, key_resample = jax.random.split(jax.random.fold_in(key, t))
    params, law = jax.vmap(lambda x: look(chain, tilt, x, t))(cloud.found.x)
    change, power = cloud.pending, cloud.power
    if tilt.guides:
        log_w = cloud.found.weight + change
        power = _power(log_w, law.log_r, power, temper * num) if temper else jnp.ones_like(power)
        law = jax.vmap(lambda one: through.tempered(one, power))(law) if temper else law
        change = change + law.log_r
    found, total = _weigh(cloud.found, change, t + 1)
    again = found.ess < threshold * num
    index = jnp.where(again, systematic(key_resample, jnp.exp(found.weight)), jnp.arange(num))
    x, params, law = jax.tree.map(lambda leaf: leaf[index], (found.x, params, law))
    keys = jax.random.split(key_draw, num)
    x_prev = jax.vmap(lambda k, one: draw(chain.family, tilt, k, one))(keys, law)
    pending = jax.vmap(lambda *of: log_weight(tilt, t, *of))(x, params, law, x_prev)
    log_w = jnp.where(again, -np.log(num), found.weight)
    found = found._replace(
        x=x_prev, weight=log_w, resampled=found.resampled + again.astype(t.dtype)
    )
    return _Cloud(found, pending, power, cloud.origin[index]), total


def _power(log_w: Array, log_r: Array, least: Array, ess: float) -> Array:
    """The largest power of r in [least, 1] that leaves so many effective particles; or `least`."""

    def enough(power: Array) -> Array:
        total = log_w + power * log_r
        return 2 * jax.nn.logsumexp(total) - jax.nn.logsumexp(2 * total) >= np.log(ess)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    one = jnp.ones_like(least)
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (least, one))
    return jnp.where(enough(one), one, low)


def _weigh(found: Particles, change: Array, t: Array) -> tuple[Particles, Array]:
    """The particles, their log weights moved by `change`, of sum 1; and before they had that."""
    total = found.weight + change
    norm = jax.nn.logsumexp(total)
    lost = ~jnp.isfinite(norm)
    log_w = jnp.where(lost, -np.log(len(total)), total - norm)
    ess = 1 / jnp.sum(jnp.exp(2 * log_w))
    moved = found._replace(
        weight=log_w,
        log_z=found.log_z + norm,
        ess=ess,
        least_ess=jnp.minimum(found.least_ess, ess),
        lost_t=jnp.where(lost & (found.lost_t == 0), t, found.lost_t),
    )
    return moved, total


def systematic(key: Array, weight: Array) -> Array:
    """Systematic resampling: N indices, each i drawn ⌊N w_i⌋ or ⌈N w_i⌉ times, N w_i in the mean.

    Args:
        key: typed PRNG key, of one uniform number.
        weight: (N,), >= 0, with sum 1.
    """
    n = weight.shape[0]
    # A parallel sum rounds its elements apart: it may fall, or rise at a weight of 0.
    cumulative = jax.lax.cummax(jnp.where(weight > 0, jnp.cumsum(weight), 0.0))
    offset = jax.random.uniform(key, (), weight.dtype)
    # How many of the points (k + u)/N, k = 0..N−1, lie below each cumulative weight.
    below = jnp.ceil(cumulative / cumulative[-1] * n - offset)
    below = jnp.where(cumulative < cumulative[-1], below, n).astype(jnp.int32)
    counts = jnp.diff(below, prepend=0)
    return jnp.repeat(jnp.arange(n), counts, total_repeat_length=n)


def _check_parts(tilt: Tilt, **parts: float) -> None:
    for name, part in parts.items():
        if not isinstance(part, int | float | np.number) or not 0 <= part <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {part!r}")
    if parts["temper"] and not tilt.guides:
        expected = "0 without an r through the network"
        raise ValueError(f"temper: expected {expected}, got {parts['temper']}")
