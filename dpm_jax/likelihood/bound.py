"""The bound K on the log likelihood (eq. 12–14): exact sum over t, and its estimator for training.

For one example x^0, in nats, with KL_t = KL(q(x^{t-1}|x^t,x^0) ‖ p(x^{t-1}|x^t)),

    K(x^0) = E log p(x^0|x^1) − Σ_{t=2}^T E KL_t − KL(q(x^T|x^0) ‖ p(x^T))  ≤  log p(x^0).

The first term follows the chain's last step: "fixed" (App. B.2) gives
log π(x^0) + KL(q(x^1|x^0) ‖ π), in closed form; "learned", or a function, is one draw of
log p(x^0|x^1). L_null is that of π in the place of p(x^0|x^1).

On data with E|x|² = dimension (mean rate ρ) the mean of this K over the data is eq. 14 as printed,
K = −Σ E KL_t + H_q(X^T|X^0) − H_q(X^1|X^0) − H_p(X^T); for a single example, or any other
scaling, eq. 14 drops terms that do not vanish, and the form here is still a bound.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.core.numerics import exact_sum
from dpm_jax.likelihood.times import check_floors, drawn, floor_draws, time_law


class Bound(NamedTuple):
    """K and L_null of one example, in nats."""

    K: Array  # unbiased estimate of a bound on log p(x^0)
    L_null: Array  # log π(x^0), or its probability: what the prior alone gives


class Terms(NamedTuple):
    """Terms of K at random t, one a row."""

    t: Array  # (n,) int32
    term: Array  # (n,) nats: −KL_t, or log p(x^0|x^1) at t = 1
    probability: Array  # (n,) with which t was drawn


def term(key: Array, chain: Chain, x0: Array, t: Array) -> Array:
    """The t-th term of K (eq. 14) at one x^t: −KL_t, at t = 1 log p(x^0|x^1); scalar nats.

    Raises:
        ValueError: for t outside 1..T, or an x0 that is no example of the chain's.
    """
    x0, t = chain.checked("x0", x0), sampling.check_t(t, 1, chain)
    family, schedule = chain.family, chain.schedule
    xt = sampling.noised(key, chain, x0, t)
    p = chain.reverse(xt, t)
    # q(x^0|x^1,x^0) is a point mass and its KL infinite: at t = 1 the branch that is not used is
    # evaluated one step later, so that no NaN reaches the gradient.
    before = schedule.log_alpha_bar[jnp.maximum(t - 1, 1)]
    q = family.bridge(x0, xt, schedule.beta[t], before)
    return jnp.where(t == 1, chain.log_last(p, x0), -family.kl(q, p))


def ends(chain: Chain, x0: Array) -> Array:
    """The terms of K (eq. 14) without a network, scalar nats: prior, and last step if fixed."""
    x0 = chain.checked("x0", x0)
    value = _prior_term(chain, x0)
    if chain.first_t == 2:
        family, pi = chain.family, chain.family.prior(x0.shape)
        first = family.marginal(x0, chain.schedule.log_alpha_bar[1])
        value = value + family.log_prob(pi, x0) + family.kl(first, pi)
    return value


def exact(key: Array, chain: Chain, x0: Array) -> Bound:
    """K (eq. 14) of one example: the sum over all t, one draw of x^t each, by scan.

    Args:
        key: typed PRNG key; the draw at t uses fold_in(key, t).
        chain: differentiable in what its schedule and reverse kernel hold.
        x0: one example, of the event's shape.

    Returns:
        Bound in nats; memory does not grow with T.
    """
    x0 = chain.checked("x0", x0)

    def body(carry, t: Array):
        total, low = carry
        total, lost = exact_sum(total, term(jax.random.fold_in(key, t), chain, x0, t))
        return (total, low + lost), None

    known = ends(chain, x0)
    start = known, jnp.zeros_like(known)
    (K, low), _ = jax.lax.scan(body, start, jnp.arange(chain.first_t, chain.T + 1))
    return Bound(K + low, null(chain, x0))


def null(chain: Chain, x0: Array) -> Array:
    """L_null of one example: log π(x^0), scalar nats; a log probability where K is one."""
    x0 = chain.checked("x0", x0)
    return chain.log_last(chain.family.prior(x0.shape), x0)


def exact_terms(key: Array, chain: Chain, x0: Array) -> Array:
    """K (eq. 14) of one example term by term: (T+1,) nats that sum to `exact` with the same key.

    Index t >= 2 holds −KL_t, index 1 the last reverse step E log p(x^0|x^1), index 0 the prior
    −KL(q(x^T|x^0) ‖ p(x^T)).
    """
    x0 = chain.checked("x0", x0)

    def body(_, t: Array):
        return None, term(jax.random.fold_in(key, t), chain, x0, t)

    _, terms = jax.lax.scan(body, None, jnp.arange(chain.first_t, chain.T + 1))
    prior = _prior_term(chain, x0)
    fixed = [ends(chain, x0) - prior] if chain.first_t == 2 else []
    return jnp.concatenate([jnp.stack([prior, *fixed]), terms])


def draw_terms(
    key: Array,
    chain: Chain,
    x0: Array,
    num_t: int = -1,
    law: Array | None = None,
    part: tuple[Array | int, int] = (0, 1),
) -> Terms:
    """One term of K (eq. 14) for each example of a batch, at `num_t` stratified random t.

    Args:
        key: typed PRNG key.
        chain: of `Model.chain` or `make_chain`.
        x0: (n, *event); the batch, which only this and `estimate` take.
        num_t: number of distinct draws of t, dividing n; equal groups of examples share one, which
            dense networks with weights of their own for each t need. −1: one for each example.
        law: (T+1,) probabilities of t, 0 where t is never drawn; None: those of `time_law`.
        part: (i, m): the terms of the i-th of m equal parts alone, drawn as those of the whole.

    Returns:
        Terms of length n, or n/m.

    Raises:
        ValueError: where num_t does not divide n; for an m that divides neither num_t nor the
            examples that share a t.
    """
    x0 = chain.checked("x0", x0, many=True)
    n = x0.shape[0]
    num_t = n if np.ndim(num_t) == 0 and num_t == -1 else units.whole("num_t", num_t, least=-n)
    if num_t < 1 or n % num_t:
        raise ValueError(f"num_t: expected −1 or a divisor of the batch size {n}, got {num_t}")
    law = time_law(chain) if law is None else law
    t, keys = drawn(key, law, num_t, n // num_t)
    groups = x0.reshape(num_t, n // num_t, *x0.shape[1:])
    t, groups, keys = _part(t, groups, keys, *part)

    def one(key: Array, x: Array, t: Array) -> Array:
        return term(key, chain, x, t)

    terms = jax.vmap(jax.vmap(one, (0, 0, None)))(keys, groups, t)
    t = jnp.repeat(t, terms.shape[1])
    return Terms(t, terms.reshape(-1), law[t])


def _part(t: Array, groups: Array, keys: Array, i: Array | int, of: int):
    """The i-th part of (num_t,) draws of t and of (num_t, examples, ...): draws, or examples."""
    num_t, examples = groups.shape[:2]
    if of == 1:
        return t, groups, keys
    if num_t % of == 0:
        return tuple(x.reshape(of, num_t // of, *x.shape[1:])[i] for x in (t, groups, keys))
    if examples % of:
        raise ValueError(
            f"part: expected a divisor of num_t = {num_t}, or of the {examples} examples that share"
            f" a t, got {of}"
        )
    shared = (x.reshape(num_t, of, examples // of, *x.shape[2:])[:, i] for x in (groups, keys))
    return t, *shared


def estimate(key: Array, chain: Chain, x0: Array, num_t: int = -1) -> Array:
    """Unbiased estimates of K (eq. 14), (n,) nats, for a batch (n, *event) from few random t.

    The t of a batch are stratified together, so its examples are not independent: take a standard
    error from the means of many batches, not from the examples of one. `num_t` as in `draw_terms`.
    """
    x0 = chain.checked("x0", x0, many=True)
    terms = draw_terms(key, chain, x0, num_t)
    known = jax.vmap(lambda x: ends(chain, x))(x0)
    return known + terms.term / terms.probability


def noise_floor(
    key: Array, chain: Chain, x0: Array, t0: Sequence[int], num_t: int | None = None
) -> Bound:
    """K and L_null (eq. 14) of x^{t0}, one example noised to step t0, for each t0; (m,) nats each.

        K(t0) = −Σ_{t>t0} E KL_t − KL(q(x^T|x^0) ‖ π) − H(q(x^{t0}|x^0))  <=  E_q log p(x^{t0})
        L_null(t0) = E_q log π(x^{t0})

    with E_q over q(x^{t0}|x^0): the bound of eq. 14 on data that already have the noise of t0. One
    model gives it at every noise, whatever its last step; the draws of x^t serve all t0. At t0 = 1
    K − L_null is that of the fixed last step, and K is less by log π(x^0) − E_q log π(x^1), for a
    Gaussian β_1 (dims − |x^0|²)/2.

    Args:
        key: typed PRNG key; without num_t the draw at t uses fold_in(key, t), as in `exact`.
        chain, x0: as in `exact`.
        t0: m values in 1..T; static.
        num_t: None: every t. Otherwise so many draws of t from `time_law`, stratified among
            themselves, so that examples stay independent.

    Raises:
        ValueError: for a t0 outside 1..T, or num_t below 1.
    """
    x0, floors = chain.checked("x0", x0), check_floors(t0, chain.T, num_t)
    later = chain._replace(last_step="learned")  # t > 1: the last step plays no part

    def body(total: Array, step):
        key, t, weight = step
        value = term(key, later, x0, t)
        return total + jnp.where(t > floors, weight * value, 0.0), None

    known = floor_ends(chain, x0, t0)
    total, _ = jax.lax.scan(body, jnp.zeros_like(known.K), floor_draws(key, chain, t0, num_t))
    return known._replace(K=known.K + total)


def floor_ends(chain: Chain, x0: Array, t0: Sequence[int]) -> Bound:
    """What `noise_floor` knows without a network (eq. 14): (m,) nats each, one a t0."""
    x0, floors = chain.checked("x0", x0), check_floors(t0, chain.T)
    family = chain.family

    def known(t: Array) -> Bound:
        q = family.marginal(x0, chain.schedule.log_alpha_bar[t])
        return Bound(-family.entropy(q), -family.entropy(q) - family.kl(q, family.prior(x0.shape)))

    found = jax.lax.map(known, jnp.asarray(floors))
    return found._replace(K=found.K + _prior_term(chain, x0))


def _prior_term(chain: Chain, x0: Array) -> Array:
    """−KL(q(x^T|x^0) ‖ p(x^T)), scalar nats."""
    last = chain.family.marginal(x0, chain.schedule.log_alpha_bar[-1])
    return -chain.family.kl(last, chain.prior)
