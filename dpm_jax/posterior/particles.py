"""The particle filter of a tilt: posteriors that are exact as N grows, and their evidence.

With the twisted kernels p~ of eq. 22 as proposals, the target π Π p(x^{t-1}|x^t) r(x^0) and its
proposal differ at each t by exactly the factor that eq. 22 normalises away from eq. 21,

    w_t = Z~_{t-1}(x^t) / r(x^t),        w_{T+1} = Z~_T = ∫ π r(x^T),

since the r(x^t) of neighbouring steps cancel and r(x^0) is left (for a first-order tilt, whose
kernel is not exactly eq. 22, p r/p~ takes the place of Z~). Kept as weights, with systematic
resampling where they become uneven, they give samples of p~(x^0) ∝ p(x^0) r(x^0) for any
r(x^t) > 0 at t > 0, and an unbiased estimate of the evidence Z~ = ∫ p(x^0) r(x^0).

Source: Sohl-Dickstein et al. 2015, Sec. 2.5; Del Moral, Doucet & Jasra 2006 for the filter.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.posterior.tilt import Tilt, check_tilt, tilted, warn_beyond_reach
from dpm_jax.thermodynamics import weights

ANCESTORS = 30  # fewer, where a tenth of the particles is more, are warned of


class Particles(NamedTuple):
    """N weighted draws of p~(x^0), and how far to trust them."""

    x: Array  # (N, *event), of all filters
    weight: Array  # (N,), sum 1
    log_z: Array  # log of an unbiased estimate of Z~ = ∫ p r, nats
    ess: Array  # effective number of particles at the end, after the last resampling, 1..N
    least_ess: Array  # the smallest at any t: where it is a few, so were the ancestors
    resampled: Array  # number of t at which they were resampled; of filters the largest
    lost_t: Array  # the t whose step left no weight (or a NaN); 0 where all went well
    k_hat: Array | float = float("inf")  # Pareto shape of the weights: the largest of that at the
    # end, that where they were least even, and that of the Z~ of the filters; +inf: unknown
    low: Array | float = float("-inf")  # 95 % interval of log Z~
    high: Array | float = float("inf")  # +inf where log_z is no more than a bound
    ancestors: Array | float = float("nan")  # effective number of x^T that the draws descend from:
    # 1/ancestors is about the relative variance of Z~ (Chan & Lai 2013; Lee & Whiteley 2018)

    @property
    def is_value(self) -> Array:
        """Whether log_z is a value; False: a lower bound in the mean, of one filter always."""
        return jnp.less(self.high, jnp.inf)

    @property
    def interval(self) -> tuple[Array | float, Array | float]:
        """(low, high) of log Z~, 95 %; high is +inf of a bound."""
        return self.low, self.high

    @property
    def mean(self) -> Array:
        """Posterior mean of x^0, of the event's shape (after the axes of `jax.vmap`, if any)."""
        return self._averaged(self.x)

    @property
    def variance(self) -> Array:
        """Posterior variance of each element of x^0, of the shape of `mean`."""
        mean = jnp.expand_dims(self.mean, self.weight.ndim - 1)
        return self._averaged((self.x - mean) ** 2)

    def __str__(self) -> str:
        """log Z~ and how many particles it rests on; of many problems their number alone."""
        if any(isinstance(field, jax.core.Tracer) for field in self):
            return repr(self)
        if np.ndim(self.log_z):
            return f"{np.size(self.log_z)} problems of {self.weight.shape[-1]} particles"
        num = self.weight.shape[0]
        said = units.bounded(float(self.log_z), float(self.low), float(self.high))
        return (
            f"log Z~ = {said} ({num} particles, ESS {float(self.ess):.1f} at the end,"
            f" {float(self.least_ess):.1f} at the least; k̂"
            f" {units.number(float(self.k_hat), digits=2)}, {float(self.ancestors):.1f} ancestors)"
        )

    def _averaged(self, values: Array) -> Array:
        event = tuple(range(self.weight.ndim, values.ndim))
        return jnp.sum(jnp.expand_dims(self.weight, event) * values, axis=self.weight.ndim - 1)


def sample(
    key: Array, chain: Chain, tilt: Tilt, num: int, threshold: float = 0.8, filters: int = 1
) -> Particles:
    """Draws of p~(x^0) ∝ p(x^0) r(x^0), weighted by what eq. 22 normalises away from eq. 21.

    Args:
        key: typed PRNG key.
        chain: the model's own, without the tilt.
        tilt: of that chain; "noised" is the r(x^t) that serves best.
        num: particles of a filter. One pass over t; `jax.vmap` for many problems.
        threshold: resample where the effective number falls below this part of `num`.
        filters: independent ones, pooled by their Z~: num · filters draws, held at once. By 25 or
            more the spread of Z~ is known, and log_z may be a value with an interval.

    Raises:
        TypeError: for a key or a tilt that is none.
        ValueError: for num or filters below 1, a threshold outside [0, 1], a tilt of another T,
            family or schedule, or one that is a delta at t > 0 and leaves nothing to weigh; where
            no weight is left, unless under jit (`check` the result then).

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, and where the draws descend
            from few of the first particles, unless under jit.
    """
    _check(key, chain, tilt, threshold, num=num, filters=filters)
    warn_beyond_reach(key, chain, tilt)
    keys = key[None] if filters == 1 else jax.random.split(key, filters)
    found = _pool(*_filters(keys, chain, tilt, num, threshold))
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(found)):
        check(found)
        _warn_of_few(found)
    return found


def _warn_of_few(found: Particles) -> None:
    num = found.weight.shape[0]
    if found.ancestors < min(ANCESTORS, num / 10):
        warnings.warn(
            f"particles: the draws descend from about {float(found.ancestors):.1f} of {num} first"
            " ones (`ancestors`): log Z~ and the draws may be far off whatever the ESS; more"
            " particles, or an r(x^t) that is felt earlier ('noised')",
            stacklevel=3,
        )


@jax.jit
def _pool(each: Particles, uneven: Array) -> Particles:
    """Filters (F, ...) as one, by their Z~; `uneven`: (F, N) log weights of the least even step.

    Z~ of a filter is a product of means of N weights: where the tail of one is too heavy for F · N
    of them, that of Z~ is too, and F are too few to show it.
    """
    F, N = uneven.shape
    log_z = jax.nn.logsumexp(each.log_z) - np.log(F).astype(uneven.dtype)
    share = jax.nn.softmax(each.log_z)
    between = weights.judge(each.log_z)
    shape = weights.pareto_shape(uneven.ravel())
    end = weights.pareto_shape((each.log_z[:, None] + jnp.log(each.weight)).ravel())
    is_value = (between.high < jnp.inf) & (shape < weights.threshold(F * N))
    k_hat = jnp.maximum(shape, end)
    return Particles(
        x=each.x.reshape(F * N, *each.x.shape[2:]),
        weight=(share[:, None] * each.weight).ravel(),
        log_z=log_z,
        ess=1 / jnp.sum(share**2 / each.ess),
        least_ess=1 / jnp.sum(share**2 / each.least_ess),
        ancestors=1 / jnp.sum(share**2 / each.ancestors),
        resampled=jnp.max(each.resampled),
        lost_t=jnp.where(jnp.isfinite(log_z), 0, jnp.max(each.lost_t)),
        k_hat=jnp.maximum(k_hat, between.k_hat) if F > 1 else k_hat,
        low=jnp.where(is_value, between.low, log_z - weights.MARKOV),
        high=jnp.where(is_value, between.high, jnp.inf),
    )


def _filters(keys: Array, chain: Chain, tilt: Tilt, num: int, threshold: float):
    """One filter for each key, and the log weights (F, N) of the step where they were least even.

    At each step those are of one scale in all filters: a mean weight before it, and its change.
    """

    def together(each, total, least):
        ess = jnp.exp(2 * jax.nn.logsumexp(total) - jax.nn.logsumexp(2 * total))
        uneven, fewest = least
        return each, (jnp.where(ess < fewest, total, uneven), jnp.minimum(ess, fewest))

    def body(carry, t: Array):
        (each, least), origin = carry
        step = jax.vmap(lambda k, one: _step(k, chain, tilt, threshold, one, t))
        each, total, index = step(keys, each)
        return (together(each, total, least), jnp.take_along_axis(origin, index, axis=1)), None

    each, total = jax.vmap(lambda k: _start(k, chain, tilt, num))(keys)
    least = jnp.zeros_like(total), jnp.full((), np.inf, total.dtype)
    origin = jnp.tile(jnp.arange(num), (len(keys), 1))
    carry = together(each, total, least), origin
    carry, _ = jax.lax.scan(body, carry, jnp.arange(chain.T, 0, -1))
    ((each, (uneven, _)), origin), weight = carry, jnp.exp(carry[0][0].weight)
    family = jax.vmap(lambda w, i: jnp.zeros_like(w).at[i].add(w))(weight, origin)
    ancestors = 1 / jnp.sum(family**2, axis=1)
    return each._replace(weight=weight, ancestors=ancestors), uneven


def _start(key: Array, chain: Chain, tilt: Tilt, num: int) -> tuple[Particles, Array]:
    last, start = jnp.asarray(chain.T + 1), tilted(chain, tilt).prior
    keys = jax.random.split(jax.random.fold_in(key, last), num)
    x_T = jax.vmap(lambda k: chain.family.sample(k, start))(keys)
    change = jax.vmap(lambda x: tilt.log_z(chain.prior, x, last))(x_T)
    zero, count = jnp.zeros((), chain.schedule.beta.dtype), jnp.zeros_like(last)
    found = Particles(x_T, change, zero, zero, zero + num, count, count, *[zero] * 4)
    return _weigh(found, x_T, change - np.log(num).astype(zero.dtype), last)


def _step(key: Array, chain: Chain, tilt: Tilt, threshold: float, found: Particles, t: Array):
    """x^t -> x^{t-1} of one filter, resampled before it where uneven; weights, parents."""
    num = len(found.weight)
    key_draw, key_resample = jax.random.split(jax.random.fold_in(key, t))
    again = found.ess < threshold * num
    index = jnp.where(again, systematic(key_resample, jnp.exp(found.weight)), jnp.arange(num))
    x, log_w = found.x[index], jnp.where(again, -np.log(num), found.weight)
    found = found._replace(resampled=found.resampled + again.astype(t.dtype))

    def move(key: Array, x: Array):
        params = chain.reverse(x, t)
        x_prev = chain.family.sample(key, tilt(params, t))
        return x_prev, tilt.log_z(params, x_prev, t) - tilt.log_r(x, t)

    x, change = jax.vmap(move)(jax.random.split(key_draw, num), x)
    return *_weigh(found, x, log_w + change, t), index


def _weigh(found: Particles, x: Array, total: Array, t: Array) -> tuple[Particles, Array]:
    """The particles at x with weights `total`, as logarithms not yet of sum 1; and those."""
    norm = jax.nn.logsumexp(total)
    lost = ~jnp.isfinite(norm)
    log_w = jnp.where(lost, -np.log(len(total)), total - norm)
    ess = 1 / jnp.sum(jnp.exp(2 * log_w))
    moved = found._replace(
        x=x,
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


def check(found: Particles) -> Particles:
    """`found` itself, one problem or many, unless its weights are lost; under jit unchecked.

    Raises:
        ValueError: naming the problem and the t at which all weights became 0 or NaN.
    """
    if isinstance(found.lost_t, jax.core.Tracer):
        return found
    lost = np.ravel(found.lost_t)
    if lost.any():
        which = int(np.argmax(lost > 0))
        value = np.ravel(found.log_z)[which]
        what = "a weight that is NaN: does log r return NaN?" if np.isnan(value) else "no weight"
        raise ValueError(
            f"particles: step t = {lost[which]} of problem {which} left {what}"
            " (use more particles, or a schedule of r that comes gradually: annealed, noised)"
        )
    return found


def _check(key: Array, chain: Chain, tilt: Tilt, threshold: float, **counts: int) -> None:
    sampling.check_key(key)
    for name, count in counts.items():
        units.whole(name, count)
    if not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number in [0, 1], got {threshold!r}")
    if not isinstance(tilt, Tilt):
        raise TypeError(f"tilt: expected a Tilt, whose weights are known, got {type(tilt)}")
    check_tilt(chain, tilt)
    if tilt.singular:
        raise ValueError(
            "tilt: a delta at t > 0 has no weights; expected r_t='noised' for the known coordinates"
        )
