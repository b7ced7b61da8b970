"""Weighted draws of a posterior: what a particle filter found, and how far to trust it."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Params
from dpm_jax.posterior import guide as through
from dpm_jax.posterior.tilt import Tilt, check_tilt
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
    distinct: Array | float = float("nan")  # how many x^T the draws descend from

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
            f" {units.number(float(self.k_hat), digits=2)}, {self.descent})"
        )

    @property
    def descent(self) -> str:
        """In words, of how many x^T the draws descend; one problem."""
        ancestors = float(self.ancestors)
        if ancestors < 1.5:
            return "all but descended from one ancestor"
        return f"{ancestors:.1f} ancestors, {int(self.distinct)} distinct"

    def _averaged(self, values: Array) -> Array:
        event = tuple(range(self.weight.ndim, values.ndim))
        return jnp.sum(jnp.expand_dims(self.weight, event) * values, axis=self.weight.ndim - 1)


@jax.jit
def pool(each: Particles, uneven: Array) -> Particles:
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
        distinct=jnp.sum(each.distinct),
        resampled=jnp.max(each.resampled),
        lost_t=jnp.where(jnp.isfinite(log_z), 0, jnp.max(each.lost_t)),
        k_hat=jnp.maximum(k_hat, between.k_hat) if F > 1 else k_hat,
        low=jnp.where(is_value, between.low, log_z - weights.MARKOV),
        high=jnp.where(is_value, between.high, jnp.inf),
    )


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


def warn_of_few(found: Particles) -> None:
    """UserWarning where the draws descend from few of the first particles."""
    num = found.weight.shape[0]
    if found.ancestors < min(ANCESTORS, num / 10):
        warnings.warn(
            f"particles: the draws descend from about {float(found.ancestors):.1f} of {num} first"
            " ones (`ancestors`): log Z~ and the draws may be far off whatever the ESS; more"
            " particles or filters, or an r(x^t) that is felt earlier ('noised', 'mmps')",
            stacklevel=3,
        )


def log_weight(tilt: Tilt, t: Array, x: Array, params: Params, law: Params, x_prev: Array) -> Array:
    """log w_t of the step x^t -> x^{t-1}, nats; of an r through the network r(x^{t-1}) is missing.

    Args:
        tilt: of it.
        t: 1..T; at t = 1 nothing is missing.
        x, params, law: x^t, p(x^{t-1}|x^t) and p~(x^{t-1}|x^t), as `tilt.look` has them.
        x_prev: x^{t-1} ~ p~.
    """
    change = tilt.log_z(params, x_prev, t) - tilt.log_r(x, t)
    if not tilt.guides:
        return change
    last = jnp.where(t == 1, through.log_r0(tilt.guides, x_prev), 0.0)
    return change + through.log_ratio(tilt.guides, law, x_prev) - law.log_r + last


def check_arguments(key: Array, chain: Chain, tilt: Tilt, **counts: int) -> None:
    """TypeError or ValueError, naming it, for no key, no count >= 1, no tilt that has weights."""
    sampling.check_key(key)
    for name, count in counts.items():
        units.whole(name, count)
    if not isinstance(tilt, Tilt):
        raise TypeError(f"tilt: expected a Tilt, whose weights are known, got {type(tilt)}")
    check_tilt(chain, tilt)
    if tilt.singular:
        raise ValueError(
            "tilt: a delta at t > 0 has no weights; expected r_t='noised' for the known coordinates"
        )
