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

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.posterior.tilt import Tilt, check_T, tilted, warn_beyond_reach
from dpm_jax.thermodynamics import weights


class Particles(NamedTuple):
    """N weighted draws of p~(x^0), and how far to trust them."""

    x: Array  # (N, *event)
    weight: Array  # (N,), sum 1
    log_z: Array  # log of an unbiased estimate of Z~ = ∫ p r, nats
    ess: Array  # effective number of particles at the end, after the last resampling, 1..N
    least_ess: Array  # the smallest at any t: where it is a few, so were the ancestors
    resampled: Array  # number of t at which they were resampled
    lost_t: Array  # the t whose step left no weight (or a NaN); 0 where all went well
    k_hat: Array | float = float("inf")  # Pareto shape of the weights: the larger of that at the
    # end and that where they were least even; +inf: unknown

    @property
    def is_value(self) -> Array:
        """False: the spread of log_z is not known from one filter; it takes several keys."""
        return jnp.zeros(jnp.shape(self.log_z), bool)

    @property
    def interval(self) -> tuple[Array, Array]:
        """(low, high) of log Z~, 95 %: by Markov's inequality P(Ẑ >= 20 Z~) <= 1/20; high: +inf."""
        return self.log_z - weights.MARKOV, jnp.full(jnp.shape(self.log_z), jnp.inf)

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
        return (
            f"log Z~ = {units.number(float(self.log_z))} nats ({num} particles, ESS"
            f" {float(self.ess):.1f} at the end, {float(self.least_ess):.1f} at the least; k̂"
            f" {units.number(float(self.k_hat), digits=2)}; its spread: from several keys)"
        )

    def _averaged(self, values: Array) -> Array:
        event = tuple(range(self.weight.ndim, values.ndim))
        return jnp.sum(jnp.expand_dims(self.weight, event) * values, axis=self.weight.ndim - 1)


def sample(key: Array, chain: Chain, tilt: Tilt, num: int, threshold: float = 0.8) -> Particles:
    """Draws of p~(x^0) ∝ p(x^0) r(x^0), weighted by what eq. 22 normalises away from eq. 21.

    Args:
        key: typed PRNG key.
        chain: the model's own, without the tilt.
        tilt: of that chain; "noised" is the r(x^t) that serves best.
        num: particles N. One pass over t, memory for N states; `jax.vmap` for many problems.
        threshold: resample where the effective number falls below this part of N.

    Raises:
        ValueError: for N below 1, a threshold outside [0, 1], a tilt of another T, or one that is
            a delta at t > 0 and leaves nothing to weigh; where no weight is left, unless under jit
            (`check` the result then).

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, unless under jit.
    """
    _check(chain, tilt, num, threshold)
    warn_beyond_reach(key, chain, tilt)
    found = _filter(key, chain, tilt, num, threshold)
    return found if isinstance(key, jax.core.Tracer) else check(found)


def _filter(key: Array, chain: Chain, tilt: Tilt, num: int, threshold: float) -> Particles:
    uniform = jnp.full((num,), -np.log(num), chain.schedule.beta.dtype)

    def body(carry: Particles, t: Array):
        key_draw, key_resample = jax.random.split(jax.random.fold_in(key, t))
        uneven = carry.ess < threshold * num
        index = jnp.where(uneven, systematic(key_resample, jnp.exp(carry.weight)), jnp.arange(num))
        x, log_w = carry.x[index], jnp.where(uneven, uniform, carry.weight)
        carry = carry._replace(resampled=carry.resampled + uneven.astype(t.dtype))

        def move(key: Array, x: Array):
            params = chain.reverse(x, t)
            x_prev = chain.family.sample(key, tilt(params, t))
            return x_prev, tilt.log_z(params, x_prev, t) - tilt.log_r(x, t)

        x, change = jax.vmap(move)(jax.random.split(key_draw, num), x)
        return _weigh(carry, x, log_w + change, t), None

    last, start = jnp.asarray(chain.T + 1), tilted(chain, tilt).prior
    keys = jax.random.split(jax.random.fold_in(key, last), num)
    x_T = jax.vmap(lambda k: chain.family.sample(k, start))(keys)
    change = jax.vmap(lambda x: tilt.log_z(chain.prior, x, last))(x_T)
    zero, count = jnp.zeros((), uniform.dtype), jnp.zeros_like(last)
    carry = Particles(x_T, uniform, zero, zero, zero + num, count, count, zero - jnp.inf)
    carry = _weigh(carry, x_T, uniform + change, last)
    carry, _ = jax.lax.scan(body, carry, jnp.arange(chain.T, 0, -1))
    k_hat = jnp.maximum(carry.k_hat, weights.pareto_shape(carry.weight).astype(zero.dtype))
    return carry._replace(weight=jnp.exp(carry.weight), k_hat=k_hat)


def _weigh(carry: Particles, x: Array, total: Array, t: Array) -> Particles:
    """The particles at x with weights `total`, as logarithms not yet of sum 1."""
    norm = jax.nn.logsumexp(total)
    lost = ~jnp.isfinite(norm)
    log_w = jnp.where(lost, -np.log(len(total)), total - norm)
    ess = 1 / jnp.sum(jnp.exp(2 * log_w))
    k_hat = jnp.where(ess < carry.least_ess, weights.pareto_shape(log_w), carry.k_hat)
    return carry._replace(
        x=x,
        weight=log_w,
        log_z=carry.log_z + norm,
        ess=ess,
        least_ess=jnp.minimum(carry.least_ess, ess),
        k_hat=k_hat.astype(log_w.dtype),
        lost_t=jnp.where(lost & (carry.lost_t == 0), t, carry.lost_t),
    )


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


def _check(chain: Chain, tilt: Tilt, num: int, threshold: float) -> None:
    if num < 1:
        raise ValueError(f"num: expected at least 1 particle, got {num}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number in [0, 1], got {threshold}")
    check_T(chain, tilt)
    if tilt.singular:
        raise ValueError(
            "tilt: a delta at t > 0 has no weights; expected r_t='noised' for the known coordinates"
        )
