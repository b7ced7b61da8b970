"""Particle Gibbs: a Markov chain over trajectories that goes to the exact posterior at any N.

A sweep is a particle filter in which one particle, the reference, is the trajectory of the sweep
before; the next one is drawn from its particles. Whatever N >= 2, the posterior of trajectories

    γ(x^{0..T}) = π(x^T) Π_{t=1}^T p(x^{t-1}|x^t) r(x^0)                                     (1)

stays what it is (Andrieu, Doucet & Holenstein 2010), and its x^0 is p~(x^0) ∝ p(x^0) r(x^0). So N
that is too small costs sweeps, not truth.

*Ancestors.* A reference keeps what it was at the t whose particles descend from it, nearly all of
them. At each step its past is therefore drawn anew (Lindsten, Jordan & Schön 2014). The filter's
particles at x^t have weights c_i for

    γ_t(x^{t..T}) = π(x^T) Π_{s>t} p(x^{s-1}|x^s) r(x^t),                                    (2)

so that particle i with the reference's future x'^{0..t-1} is worth

    c_i γ(x_i^{t..T}, x'^{0..t-1}) / γ_t(x_i^{t..T})
        = c_i/r(x_i^t) · p(x'^{t-1}|x_i^t) · [Π_{s<t} p(x'^{s-1}|x'^s) r(x'^0)]                (3)

of which the bracket is the same for all i: the past of the reference is i in proportion to

    c_i p(x'^{t-1}|x_i^t) / r(x_i^t).                                                        (4)

The r(x^t) of γ_t cancels: it is the filter's own look ahead, and of the reference the future is
known. An r through the network has not come into c_i yet (`weighted.log_weight`): only what has is
divided out. What the tilt makes of the kernel, p~, is in (4) through c_i alone.

*Resampling.* At every step, systematic, given the reference's parent: the points (U + i/N) mod 1 of
slot i, with U uniform over the interval of that parent in slot 0, have the law of systematic
resampling whose slots are turned by chance; each slot has parent i with probability W_i, and where
the slots of a step begin does not matter. That is all that (1) needs (Chopin & Singh 2015).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.posterior.tilt import Tilt, draw, look, tilted, warn_beyond_reach
from dpm_jax.posterior.weighted import check_arguments, log_weight


class Sweeps(NamedTuple):
    """Draws of p~(x^0) by particle Gibbs, one of each sweep, in their order."""

    x: Array  # (sweeps, *event); the first are not yet of the posterior
    changed: Array  # (T+1,) share of the sweeps but the first that drew x^t anew, by t
    ess: Array  # (*event) independent draws that are worth as much, of each element of x^0; NaN
    # where it never moved: it may be known, or the chain stuck
    lost_t: Array  # the t whose step left no weight (or a NaN); 0 where all went well

    def __str__(self) -> str:
        """How many sweeps, and what they are worth; not the draws."""
        if any(isinstance(field, jax.core.Tracer) for field in self) or self.changed.ndim != 1:
            return f"sweeps of {self.x.shape}"
        return (
            f"{len(self.x)} sweeps, worth {float(jnp.nanmedian(self.ess)):.1f} independent draws"
            f" (median over elements); x^0 drawn anew in {float(self.changed[0]):.0%} of them,"
            f" x^T in {float(self.changed[-1]):.0%}"
        )


def gibbs(key: Array, chain: Chain, tilt: Tilt, num: int, sweeps: int) -> Sweeps:
    """x^0 of `sweeps` sweeps of particle Gibbs: more of them go to p~(x^0) ∝ p(x^0) r(x^0) (eq. 1).

    The first sweep is a filter without reference; T network calls of `num` particles each sweep.
    For independent chains, whose agreement tells that they have arrived: `jax.vmap` over keys.

    Args:
        key: typed PRNG key.
        chain: the model's own, without the tilt.
        tilt: of that chain, any that `particles.sample` takes.
        num: particles of a sweep, the reference among them; all trajectories of one are held.
        sweeps: how many.

    Raises:
        TypeError: for a key or a tilt that is none.
        ValueError: for num below 2, sweeps below 1, a tilt of another T, family or schedule, or one
            that is a delta at t > 0; where no weight is left, unless under jit (`lost_t` then).

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, unless under jit.
    """
    units.whole("num", num, 2)
    check_arguments(key, chain, tilt, sweeps=sweeps)
    warn_beyond_reach(key, chain, tilt)
    found = _gibbs(key, chain, tilt, num, sweeps)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in found):
        _check(found)
    return found


def _gibbs(key: Array, chain: Chain, tilt: Tilt, num: int, sweeps: int) -> Sweeps:
    def body(old: Array, i: Array):
        new, again, lost_t = _sweep(jax.random.fold_in(key, i), chain, tilt, num, old, i > 0)
        return new, (new[0], again, lost_t)

    nothing = jax.eval_shape(lambda k: chain.family.sample(k, chain.prior), key)
    none = jnp.zeros((chain.T + 1, *nothing.shape), nothing.dtype)
    _, (x, again, lost_t) = jax.lax.scan(body, none, jnp.arange(sweeps))
    later = max(sweeps - 1, 1)
    return Sweeps(
        x=x,
        changed=jnp.sum(again[1:], axis=0) / later,
        ess=effective(x),
        lost_t=jnp.max(lost_t),
    )


def _sweep(key: Array, chain: Chain, tilt: Tilt, num: int, old: Array, held: Array):
    """A trajectory (T+1, *event) given the one before; where it is another, (T+1,); the lost t.

    Slot 0 is the reference where it is `held`.
    """

    def body(carry, t: Array):
        x, log_w, lost_t = carry
        key_parents, key_draw = jax.random.split(jax.random.fold_in(key, t))
        params, law = jax.vmap(lambda one: look(chain, tilt, one, t))(x)
        felt = jax.vmap(lambda one: tilt.log_r(one, t))(x)
        weight, lost = _normal(log_w + law.log_r if tilt.guides else log_w)
        past = jax.vmap(lambda p: chain.family.log_prob(p, old[t - 1]))(params)
        past, _ = _normal(jnp.where(held, log_w - felt + past, jnp.log(weight)))
        parents = _parents(key_parents, weight, past)
        start, params, law = jax.tree.map(lambda leaf: leaf[parents], (x, params, law))
        x_prev = jax.vmap(lambda k, p: draw(chain.family, tilt, k, p))(
            jax.random.split(key_draw, num), law
        )
        x_prev = x_prev.at[0].set(jnp.where(held, old[t - 1], x_prev[0]))
        log_w = jax.vmap(lambda *of: log_weight(tilt, t, *of))(start, params, law, x_prev)
        return (x_prev, log_w, jnp.where(lost & (lost_t == 0), t + 1, lost_t)), (
            x,
            parents,
        )

    last, begin = jnp.asarray(chain.T + 1), tilted(chain, tilt)
    keys = jax.random.split(jax.random.fold_in(key, last), num)
    x = jax.vmap(lambda k: begin.family.sample(k, begin.prior))(keys)
    x = x.at[0].set(jnp.where(held, old[-1], x[0]))
    log_w = jax.vmap(lambda x_T: tilt.log_z(chain.prior, x_T, last))(x)
    steps = jnp.arange(chain.T, 0, -1)
    carry, (states, parents) = jax.lax.scan(body, (x, log_w, jnp.zeros_like(last)), steps)
    x, log_w, lost_t = carry
    weight, lost = _normal(log_w)
    chosen = jax.random.categorical(jax.random.fold_in(key, 0), jnp.log(weight))
    trajectory, slots = _traced(x, states, parents, chosen)
    return trajectory, slots != 0, jnp.where(lost & (lost_t == 0), 1, lost_t)


def _normal(log_w: Array) -> tuple[Array, Array]:
    """Weights of sum 1, and whether they are lost: then all are alike."""
    norm = jax.nn.logsumexp(log_w)
    lost = ~jnp.isfinite(norm)
    return jnp.where(lost, 1 / len(log_w), jnp.exp(log_w - norm)), lost


def _parents(key: Array, weight: Array, past: Array) -> Array:
    """Parents of the N slots: that of slot 0 by `past` (N,), those of the others systematically."""
    key_past, key_point = jax.random.split(key)
    N, first = len(weight), jax.random.categorical(key_past, jnp.log(past))
    # A parallel sum rounds its elements apart: it may fall, or rise at a weight of 0.
    end = jax.lax.cummax(jnp.where(weight > 0, jnp.cumsum(weight), 0.0))
    end = end / end[-1]
    begin = jnp.where(first > 0, end[first - 1], 0.0)
    point = begin + jax.random.uniform(key_point, (), weight.dtype) * (end[first] - begin)
    points = jnp.mod(point + jnp.arange(N, dtype=weight.dtype) / N, 1.0)
    parents = jnp.minimum(jnp.searchsorted(end, points, side="right"), N - 1)
    return parents.at[0].set(first.astype(parents.dtype))


def _traced(x0: Array, states: Array, parents: Array, chosen: Array) -> tuple[Array, Array]:
    """The trajectory x^0..x^T that ends in slot `chosen`, and its slots.

    Args:
        x0: (N, *event).
        states, parents: (T, N, ...) of t = T..1: x^t, and which of it x^{t-1} descends from.
        chosen: a slot.
    """

    def body(slot: Array, step):
        state, parent = step
        slot = parent[slot]
        return slot, (state[slot], slot)

    chosen = chosen.astype(parents.dtype)
    _, (x, slots) = jax.lax.scan(body, chosen, (states[::-1], parents[::-1]))
    return jnp.concatenate([x0[chosen][None], x]), jnp.concatenate([chosen[None], slots])


def effective(x: Array) -> Array:
    """n / (1 + 2 Σ ρ_k) of n draws in order, of each element, by Geyer's initial positive sums.

    NaN where an element never moves: it may be known, or the chain stuck.
    """
    n = len(x)
    away = x - jnp.mean(x, axis=0, keepdims=True)
    size = 2 * n  # padded, so that the correlation does not wrap
    power = jnp.abs(jnp.fft.rfft(away, size, axis=0)) ** 2
    covariance = jnp.fft.irfft(power, size, axis=0)[:n]
    rho = covariance / jnp.maximum(covariance[:1], jnp.finfo(x.dtype).tiny)
    rho = jnp.concatenate([rho, jnp.zeros_like(rho[:1])])[: 2 * ((n + 1) // 2)]
    pairs = rho[0::2] + rho[1::2]
    unmoved = covariance[0] <= (1e-5 * jnp.max(jnp.abs(x), axis=0)) ** 2 * n  # but for rounding
    positive = jnp.cumsum(pairs <= 0, axis=0) == 0
    tau = -1 + 2 * jnp.sum(jnp.where(positive, pairs, 0.0), axis=0)
    return jnp.where(unmoved, jnp.nan, n / jnp.maximum(tau, 1.0))


def _check(found: Sweeps) -> None:
    if found.lost_t:
        raise ValueError(
            f"gibbs: step t = {found.lost_t} left no weight, or one that is NaN (more particles, an"
            " r(x^t) that comes gradually: annealed, noised; a log r that is never NaN)"
        )
