"""The probability of data (eq. 9) from work along trajectories, and the entropies of eq. 24.

    p(x^0) = E_{q(x^1..T|x^0)} e^{−W},   e^{−W} = p(x^T) Π_t p(x^{t−1}|x^t) / q(x^t|x^{t−1})

By Bayes' rule q(x^t|x^{t−1}) = q(x^{t−1}|x^t,x^0) q(x^t|x^0) / q(x^{t−1}|x^0), so W is also the sum
of increments whose means are the terms of K (eq. 14), −K = ⟨W⟩:

    t >= 2:  log q(x^{t−1}|x^t,x^0) − log p(x^{t−1}|x^t), of mean KL_t
    t = 1:   −log p(x^0|x^1)
    t = 0:   log q(x^T|x^0) − log p(x^T), of mean KL(q(x^T|x^0) ‖ p(x^T))

That form is used here, with trajectories drawn from their end (x^T, then the bridges): no two large
numbers are subtracted, and float32 keeps W to 1e-5 at T = 1e5. The last step is the chain's: where
that is a function (chain.py), p(x^0) is the probability of integers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core import chunks, sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Family, Params
from dpm_jax.core.numerics import exact_sum
from dpm_jax.likelihood import particles
from dpm_jax.likelihood.proposal import Proposal, checked
from dpm_jax.thermodynamics.estimators import Estimate, jarzynski


class Profile(NamedTuple):
    """One forward trajectory step by step: (T+1,) nats each, by the paper's t; 0 where undefined.

    All but `work` begin at t = 2. Averages over trajectories are the quantities named.
    """

    work: Array  # increments of W; they sum to `forward_work` with the same key
    kl: Array  # KL_t, the closed-form mean of the increment given x^t (eq. 14)
    entropy: Array  # H of the model's kernel p(x^{t-1}|x^t)
    lower: Array  # H_q(X^{t-1}|X^t,X^0), left side of eq. 24
    upper: Array  # H_q(X^t|X^{t-1}), right side of eq. 24


class Sandwich(NamedTuple):
    """log p of a sample of the model, from below and from above; nats."""

    x0: Array  # the sample
    lower: Array  # its mean is <= log p(x^0)
    upper: Array  # its mean is >= log p(x^0)


def forward_work(key: Array, chain: Chain, x0: Array, proposal: str | Proposal = "paper") -> Array:
    """W of one forward trajectory (eq. 9), scalar nats: E e^{−W} = p(x^0), E W = −K (eq. 12).

    A scan: memory does not grow with T. Differentiable in what the chain and x0 hold.

    Args:
        key: typed PRNG key.
        chain: the model's.
        x0: of the event's shape.
        proposal: "paper"; "up_down" where the last step is the fixed one, whose works spread less
            by far in many dimensions; or a `Proposal`, also of particles that are resampled. −⟨W⟩
            of any but "paper" is no K.

    Raises:
        ValueError: for a proposal that the chain does not have.
    """
    of = checked(proposal, chain)
    x0 = chain.checked("x0", x0)
    if of != Proposal():
        return particles.work(key, chain, x0, of)
    total, _ = _walk(key, chain, x0, lambda step: None)
    return total


def profile(key: Array, chain: Chain, x0: Array) -> Profile:
    """W of one forward trajectory (eq. 9) increment by increment, KL_t and entropies (eq. 24)."""
    x0 = chain.checked("x0", x0)
    family = chain.family

    def keep(step):
        x_prev, xt, t, increment = step
        q, p = _bridge(chain, x0, xt, t), chain.reverse(xt, t)
        lower, upper = entropy_bounds(chain, x0, x_prev, xt, t)
        later = (family.kl(q, p), family.entropy(p), lower, upper)
        return Profile(increment, *(jnp.where(t > 1, value, 0.0) for value in later))

    total, steps = _walk(key, chain, x0, keep)
    first = Profile(total - jnp.sum(steps.work), *jnp.zeros(4, x0.dtype))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, steps)


def entropy_bounds(
    chain: Chain, x0: Array, x_prev: Array, xt: Array, t: Array
) -> tuple[Array, Array]:
    """Bounds on H_q(X^{t-1}|X^t) (eq. 24) for t >= 2, at one pair of states; nats.

    The lower one is printed as H(X^t|X^{t-1}) + H(X^{t-1}|X^0) − H(X^t|X^0), which is
    H(X^{t-1}|X^t,X^0): the entropy of eq. 14's bridge, averaged over x^t ~ q(.|x^0). The upper
    one is H(X^t|X^{t-1}), averaged over x^{t-1}; it holds on average over data whose entropy grows
    with t: of unit variance (Gaussian), of mean rate ρ (binomial). Constant in the Gaussian family.
    """
    lower = chain.family.entropy(_bridge(chain, x0, xt, t))
    return lower, chain.family.entropy(chain.family.step(x_prev, chain.schedule.beta[t]))


def forward_works(
    key: Array,
    chain: Chain,
    x0: Array,
    num: int,
    chunk: int = 256,
    proposal: str | Proposal = "paper",
) -> Array:
    """W of `num` independent forward trajectories of one example (eq. 9), (num,) nats.

    `chunk` trajectories are held at once, forward and (by rematerialisation) in a gradient.

    Raises:
        ValueError: for num or chunk below 1, or a proposal that the chain does not have.
    """
    of = checked(proposal, chain)
    x0 = chain.checked("x0", x0)
    num, chunk = units.whole("num", num), units.whole("chunk", chunk)
    one = jax.checkpoint(lambda k: forward_work(k, chain, x0, of))
    return chunks.mapped(one, jax.random.split(key, num), max(1, chunk // of.particles))


def estimate(
    key: Array,
    chain: Chain,
    x0: Array,
    num: int,
    chunk: int = 256,
    proposal: str | Proposal = "paper",
) -> Estimate:
    """log p(x^0) of one example from `num` trajectories (eq. 9), with its errors; nats.

    Returns:
        thermodynamics.Estimate: `value` is the Jarzynski (annealed-importance) estimate and, in the
        mean, the bound L_M of Burda et al. 2015: K <= L_M <= L_{M+1} <= log p(x^0).

    Raises:
        ValueError: for num or chunk below 1, or a proposal that the chain does not have.
    """
    sampling.check_key(key)
    return jarzynski(forward_works(key, chain, x0, num, chunk, proposal))


def reverse_work(
    key: Array, chain: Chain, proposal: str | Proposal = "paper"
) -> tuple[Array, Array]:
    """A sample x^0 of the model (eq. 5) and W (eq. 9) of the very trajectory that led to it.

    Given x^0 that trajectory is a draw from p(x^1..T|x^0), under which E e^{W} = 1/p(x^0); of
    particles it is one. It is held whole. The same key gives the same x^0 as `sampling.sample`;
    where the last step is discretized, the centre of its bin.

    Raises:
        ValueError: for a proposal that the chain does not have, or a last step that is a function
            and does not say how to draw (chain.py).
    """
    of = checked(proposal, chain)
    x0, own = particles.draw(key, chain, of)
    return x0, particles.work(jax.random.fold_in(key, chain.T + 1), chain, x0, of, own)


def sandwich(
    key: Array, chain: Chain, num: int, chunk: int = 256, proposal: str | Proposal = "paper"
) -> Sandwich:
    """log p of one sample of the model (eq. 9), between a lower and an upper estimate.

    The lower is `estimate` from `num` forward trajectories. In the upper the trajectory that made
    the sample takes the place of one: then 1/p̂ is unbiased for 1/p(x^0), and log p̂ too high in the
    mean. Both share the other trajectories, so that their difference varies little.

    Raises:
        ValueError: for num or chunk below 1; as `reverse_work`.

    Source: Grosse et al. 2015 (bidirectional Monte Carlo); Burda et al. 2014.
    """
    num, chunk = units.whole("num", num), units.whole("chunk", chunk)

    @jax.jit  # one program instead of hundreds, also where none is around it
    def found(key: Array) -> Sandwich:
        x0, own, forward = _works_of_sample(key, chain, num, chunk, checked(proposal, chain))
        upper = jarzynski(forward.at[0].set(own)).value
        return Sandwich(x0, jarzynski(forward).value, upper)

    return found(key)


def _works_of_sample(key: Array, chain: Chain, num: int, chunk: int, of: Proposal):
    """x^0 of the model, W of what led to it, and (num,) of forward trajectories."""
    key_model, key_forward = jax.random.split(key)
    if of == Proposal():
        x0, own = reverse_work(key_model, chain, of)
        return x0, own, forward_works(key_forward, chain, x0, num, chunk, of)
    x0, path = particles.draw(key_model, chain, of)

    def one(row: tuple[Array, Array]) -> Array:
        key, held = row
        return particles.work(key, chain, x0, of, path._replace(held=held))

    # As rows of one map: as two, the loop over the levels would be compiled twice. No more at once
    # than of one side: two times 64 images do not stay in the cache of a core.
    key_own = jax.random.fold_in(key_model, chain.T + 1)
    keys = jnp.concatenate([key_own[None], jax.random.split(key_forward, num)])
    rows = keys, jnp.arange(num + 1) == 0
    works = chunks.mapped(one, rows, min(num, max(1, chunk // of.particles)))
    return x0, works[0], works[1:]


def _bridge(chain: Chain, x0: Array, xt: Array, t: Array):
    """q(x^{t-1}|x^t,x^0) for t >= 2; at t = 1 it is a point mass, and any other is returned."""
    before = chain.schedule.log_alpha_bar[jnp.maximum(t - 1, 1)]
    return chain.family.bridge(x0, xt, chain.schedule.beta[t], before)


def _compare(family: Family, key: Array, q: Params, p: Params) -> tuple[Array, Array]:
    """x ~ q, and log q(x)/p(x) in nats: an increment of W."""
    if family.compare is not None:
        return family.compare(key, q, p)
    x = family.sample(key, q)
    return x, family.log_prob(q, x) - family.log_prob(p, x)


def _walk(key: Array, chain: Chain, x0: Array, keep):
    """W of a trajectory of q, and keep((x^{t-1}, x^t, t, increment)) stacked over t = 1..T.

    It is drawn from its end, x^T ~ q(x^T|x^0) and then the bridges q(x^{t-1}|x^t,x^0): the law of
    the forward trajectory (eq. 3), with each increment known from the very noise that made it.
    """
    family, schedule = chain.family, chain.schedule
    end = family.marginal(x0, schedule.log_alpha_bar[-1])
    x_T, first = _compare(family, jax.random.fold_in(key, schedule.T + 1), end, chain.prior)

    def body(carry, t: Array):
        xt, total, low = carry
        q, p = _bridge(chain, x0, xt, t), chain.reverse(xt, t)
        x_prev, log_ratio = _compare(family, jax.random.fold_in(key, t), q, p)
        x_prev = jnp.where(t > 1, x_prev, x0)
        increment = jnp.where(t > 1, log_ratio, -chain.log_last(p, x0))
        total, lost = exact_sum(total, increment)
        return (x_prev, total, low + lost), keep((x_prev, xt, t, increment))

    start = (x_T, first, jnp.zeros_like(first))
    (_, total, low), kept = jax.lax.scan(body, start, jnp.arange(schedule.T, 0, -1))
    return total + low, jax.tree.map(lambda a: a[::-1], kept)
