"""The bound K on the log likelihood (eq. 12–14): exact sum over t, and its estimator for training.

For one example x^0, in nats, with KL_t = KL(q(x^{t-1}|x^t,x^0) ‖ p(x^{t-1}|x^t)),

    K(x^0) = E log p(x^0|x^1) − Σ_{t=2}^T E KL_t − KL(q(x^T|x^0) ‖ π)  ≤  log p(x^0).

`last_step` names the first term:

* "fixed" (App. B.2): p(x^0|x^1) = T_π(x^0|x^1; β_1) = q(x^1|x^0) π(x^0)/π(x^1), which gives
  log π(x^0) + KL(q(x^1|x^0) ‖ π), in closed form.
* "learned": one draw of log p(x^0|x^1) from the network.
* a function (params, x^0) -> nats: one draw of it for the network's p(x^0|x^1); L_null is its value
  for π. With `discretized.log_mass` K bounds the log probability of integers.

On data with E|x|² = dimension (mean rate ρ) the mean of this K over the data is eq. 14 as printed,
K = −Σ E KL_t + H_q(X^T|X^0) − H_q(X^1|X^0) − H_p(X^T); for a single example, or any other
scaling, eq. 14 drops terms that do not vanish, and the form here is still a bound.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.family import Array, Family, Params, Reverse
from dpm_jax.schedule import Schedule

LAST_STEPS = ("fixed", "learned")
LastStep = str | Callable[[Params, Array], Array]  # one of these, or params, x^0 -> nats


class Bound(NamedTuple):
    """K and L_null of one example, in nats."""

    K: Array  # unbiased estimate of a bound on log p(x^0)
    L_null: Array  # log π(x^0), or its probability: what the prior alone gives


class Draws(NamedTuple):
    """Terms of K at random t, one a row."""

    t: Array  # (n,) int32
    term: Array  # (n,) nats: −KL_t, or log p(x^0|x^1) at t = 1
    probability: Array  # (n,) with which t was drawn


def term(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    t: Array,
    last_step: LastStep = "learned",
) -> Array:
    """The t-th term of K for one example at one x^t: −KL_t, at t = 1 log p(x^0|x^1); nats."""
    xt = family.sample(key, family.marginal(x0, schedule.log_alpha_bar[t]))
    p = reverse(xt, t)
    # q(x^0|x^1,x^0) is a point mass and its KL infinite: at t = 1 the branch that is not used is
    # evaluated one step later, so that no NaN reaches the gradient.
    before = schedule.log_alpha_bar[jnp.maximum(t - 1, 1)]
    q = family.posterior(x0, xt, schedule.beta[t], before)
    return jnp.where(t == 1, log_last(family, last_step)(p, x0), -family.kl(q, p))


def ends(family: Family, schedule: Schedule, x0: Array, last_step: LastStep = "fixed") -> Array:
    """The terms of K without a network, for one example, nats: prior, and last step if fixed."""
    prior = family.prior(x0.shape)
    value = -family.kl(family.marginal(x0, schedule.log_alpha_bar[-1]), prior)
    if first_t(last_step) == 2:
        first = family.marginal(x0, schedule.log_alpha_bar[1])
        value = value + family.log_prob(prior, x0) + family.kl(first, prior)
    return value


def exact(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    last_step: LastStep = "fixed",
) -> Bound:
    """K (eq. 14) of one example: the sum over all t, one draw of x^t each, by scan.

    Args:
        key: typed PRNG key; the draw at t uses fold_in(key, t).
        family: a column of Table App.1.
        schedule: β_t; gradients flow through x^t(β) with the noise held constant (Sec. 2.4.1).
        reverse: (x_t, t) -> parameters of p(x^{t-1}|x^t).
        x0: one example, of the event's shape.
        last_step: "fixed", "learned", or a function (params, x^0) -> nats.

    Returns:
        Bound in nats; memory does not grow with T.

    Raises:
        ValueError: for an unknown last_step.
    """

    def body(total: Array, t: Array):
        step = jax.random.fold_in(key, t)
        return total + term(step, family, schedule, reverse, x0, t, last_step), None

    start = ends(family, schedule, x0, last_step)
    K, _ = jax.lax.scan(body, start, jnp.arange(first_t(last_step), schedule.T + 1))
    return Bound(K, null(family, x0, last_step))


def null(family: Family, x0: Array, last_step: LastStep = "fixed") -> Array:
    """L_null of one example: log π(x^0), scalar nats; a log probability where K is one."""
    return log_last(family, last_step)(family.prior(x0.shape), x0)


def exact_terms(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    last_step: LastStep = "fixed",
) -> Array:
    """K of one example term by term: (T+1,) nats that sum to `exact` with the same key.

    Index t >= 2 holds −KL_t, index 1 the last reverse step E log p(x^0|x^1), index 0 the prior
    −KL(q(x^T|x^0) ‖ π).
    """

    def body(_, t: Array):
        step = jax.random.fold_in(key, t)
        return None, term(step, family, schedule, reverse, x0, t, last_step)

    first = first_t(last_step)
    _, terms = jax.lax.scan(body, None, jnp.arange(first, schedule.T + 1))
    prior = ends(family, schedule, x0, "learned")
    fixed = [ends(family, schedule, x0, "fixed") - prior] if first == 2 else []
    return jnp.concatenate([jnp.stack([prior, *fixed]), terms])


def fix_last_step(family: Family, schedule: Schedule, reverse: Reverse) -> Reverse:
    """`reverse` with p(x^0|x^1) = T_π(x^0|x^1; β_1) at t = 1 (App. B.2): the forward kernel."""

    def fixed(xt: Array, t: Array) -> Params:
        last = family.step(xt, schedule.beta[1])
        return jax.tree.map(lambda a, b: jnp.where(t == 1, a, b), last, reverse(xt, t))

    return fixed


def time_weights(
    schedule: Schedule, last_step: LastStep = "fixed", size: Array | None = None
) -> Array:
    """The law from which t is drawn for K, (T+1,): ¼ uniform, ¾ ∝ size · log (1−ᾱ_t)/(1−ᾱ_{t−1}).

    That is by the e-folds of noise that t adds, with one for t = 1: about 1/t for the binomial
    schedule of the paper, uniform for the geometric one at low noise, where most of K and of its
    variance is and an e-fold has about the same KL everywhere. Each t has a probability: unbiased.

    Args:
        schedule: β_t.
        last_step: as in `exact`.
        size: (T+1,), about how large KL_t is in an e-fold of noise, where that is known beforehand.
    """
    # Only a proposal: no gradient of a learned β may reach it.
    noise = jax.lax.stop_gradient(schedule.noise)
    used = (jnp.arange(schedule.T + 1) >= first_t(last_step)).astype(noise.dtype)
    folds = jnp.concatenate([jnp.ones(2, noise.dtype), jnp.log(noise[2:] / noise[1:-1])]) * used
    folds = folds if size is None else folds * jax.lax.stop_gradient(size)
    return 0.25 * used / jnp.sum(used) + 0.75 * folds / jnp.sum(folds)


def draw_terms(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    weights: Array,
    num_t: int | None = None,
    last_step: LastStep = "learned",
) -> Draws:
    """One term of K for each example of a batch, at `num_t` stratified random t.

    Args:
        key: typed PRNG key.
        family: a column of Table App.1.
        schedule: β_t.
        reverse: (x_t, t) -> Params.
        x0: (n, *event); the batch, the only function here that takes one.
        weights: (T+1,) probabilities of t (from `time_weights`), 0 where t is never drawn.
        num_t: number of distinct draws of t, dividing n; equal groups of examples share one, which
            dense networks with weights of their own for each t need. None: one for each example.
        last_step: as in `exact`; what it is counts only where t = 1 has a weight.

    Returns:
        Draws of length n.

    Raises:
        ValueError: where num_t does not divide n.
    """
    n = x0.shape[0]
    num_t = n if num_t is None else num_t
    if num_t < 1 or n % num_t:
        raise ValueError(f"num_t: expected a divisor of the batch size {n}, got {num_t}")
    key_t, key_x = jax.random.split(key)
    t = _stratified(key_t, weights, num_t)
    groups = x0.reshape(num_t, n // num_t, *x0.shape[1:])
    keys = jax.random.split(key_x, (num_t, n // num_t))

    def one(key: Array, x: Array, t: Array) -> Array:
        return term(key, family, schedule, reverse, x, t, last_step)

    terms = jax.vmap(jax.vmap(one, (0, 0, None)))(keys, groups, t)
    t = jnp.repeat(t, n // num_t)
    return Draws(t, terms.reshape(n), weights[t])


def estimate(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    last_step: LastStep = "fixed",
    num_t: int | None = None,
    weights: Array | None = None,
) -> Array:
    """Unbiased estimates of K, (n,) nats, for a batch (n, *event) from few stratified random t.

    The t of a batch are stratified together, so its examples are not independent: take a standard
    error from the means of many batches, not from the examples of one. Arguments as in
    `draw_terms`; weights are by default those of `time_weights`.
    """
    weights = time_weights(schedule, last_step) if weights is None else weights
    draws = draw_terms(key, family, schedule, reverse, x0, weights, num_t, last_step)
    known = jax.vmap(lambda x: ends(family, schedule, x, last_step))(x0)
    return known + draws.term / draws.probability


def noise_floor(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    x0: Array,
    t0: Sequence[int],
    num_t: int | None = None,
    weights: Array | None = None,
) -> Bound:
    """K and L_null of x^{t0}, one example noised to step t0, for each t0; (m,) nats each.

        K(t0) = −Σ_{t>t0} E KL_t − KL(q(x^T|x^0) ‖ π) − H(q(x^{t0}|x^0))  <=  E_q log p(x^{t0})
        L_null(t0) = E_q log π(x^{t0})

    with E_q over q(x^{t0}|x^0): the bound of eq. 14 on data that already have the noise of t0. One
    model gives it at every noise, whatever its last step; the draws of x^t serve all t0. At t0 = 1
    K − L_null is that of the fixed last step, and K is less by log π(x^0) − E_q log π(x^1), for a
    Gaussian β_1 (dims − |x^0|²)/2.

    Args:
        key: typed PRNG key; without num_t the draw at t uses fold_in(key, t), as in `exact`.
        family, schedule, reverse, x0: as in `exact`.
        t0: m values in 1..T; static.
        num_t: None: every t. Otherwise so many draws of t, stratified among themselves, so that
            examples stay independent.
        weights: (T+1,) law of these draws; by default that of `time_weights`.

    Raises:
        ValueError: for a t0 outside 1..T, or num_t below 1.
    """
    floors = _check_floors(t0, schedule.T, num_t)
    t = jnp.arange(floors.min() + 1, schedule.T + 1)
    draw, weight = t, jnp.ones(t.shape, schedule.beta.dtype)
    if num_t is not None and t.size:
        key_t, key = jax.random.split(key)
        law = time_weights(schedule) if weights is None else weights
        law = law.at[: floors.min() + 1].set(0.0)
        t, draw = _stratified(key_t, law, num_t), jnp.arange(num_t)
        weight = jnp.sum(law) / (num_t * law[t])

    def body(total: Array, step):
        draw, t, weight = step
        value = term(jax.random.fold_in(key, draw), family, schedule, reverse, x0, t)
        return total + jnp.where(t > floors, weight * value, 0.0), None

    def known(t: Array) -> Bound:
        q = family.marginal(x0, schedule.log_alpha_bar[t])
        return Bound(-family.entropy(q), -family.entropy(q) - family.kl(q, family.prior(x0.shape)))

    start = jax.lax.map(known, jnp.asarray(floors))
    total, _ = jax.lax.scan(body, jnp.zeros_like(start.K), (draw, t, weight))
    return Bound(start.K + total + ends(family, schedule, x0, "learned"), start.L_null)


def _check_floors(t0: Sequence[int], T: int, num_t: int | None) -> np.ndarray:
    floors = np.asarray(t0, np.int32)
    if floors.ndim != 1 or not floors.size or floors.min() < 1 or floors.max() > T:
        raise ValueError(f"t0: expected a list of values in 1..{T}, got {t0}")
    if num_t is not None and num_t < 1:
        raise ValueError(f"num_t: expected at least 1, got {num_t}")
    return floors


def first_t(last_step: LastStep) -> int:
    """The first t whose reverse kernel is the network's: 2 for a "fixed" last step, else 1."""
    if not callable(last_step) and last_step not in LAST_STEPS:
        raise ValueError(
            f"last_step: expected one of {LAST_STEPS} or a function, got {last_step!r}"
        )
    return 2 if last_step == "fixed" else 1


def log_last(family: Family, last_step: LastStep) -> Callable[[Params, Array], Array]:
    """(params, x^0) -> log p(x^0|x^1), nats: the family's density, or the function of last_step."""
    return last_step if callable(last_step) else family.log_prob


def _stratified(key: Array, weights: Array, num: int) -> Array:
    """`num` draws of t, each ~ weights, one from each of `num` equal slices of probability."""
    key_u, key_order = jax.random.split(key)
    offset = jax.random.uniform(key_u, (num,), weights.dtype)
    u = (jnp.arange(num, dtype=weights.dtype) + offset) / num
    cumulative = jnp.cumsum(weights)
    t = jnp.searchsorted(cumulative / cumulative[-1], u, side="right")
    # u may round to 1: the clip keeps it at the last t instead of one past the table.
    t = jnp.minimum(t, weights.shape[0] - 1).astype(jnp.int32)
    return jax.random.permutation(key_order, t)
