"""Eq. 9 over a data set: works, log p, sandwich and dissipation, on all devices.

A device holds `rows.at_once` trajectories (1024 by default), so that memory grows with neither M
nor the data; the N particles of one work are always together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import chunks
from dpm_jax.core.family import Array, numbers
from dpm_jax.core.model import Model
from dpm_jax.likelihood import work
from dpm_jax.likelihood.proposal import Proposal, checked
from dpm_jax.likelihood.rows import (
    Rows,
    check_counts,
    check_rows,
    over_rows,
    standard_error,
    t_quantile,
)
from dpm_jax.thermodynamics.estimators import jarzynski

_AT_ONCE = 1024  # trajectories a device holds


class LogLikelihood(NamedTuple):
    """log p over a data set from M trajectories of each example (eq. 9); nats per example."""

    num: int  # M, trajectories for one estimate
    log_p: float  # mean Jarzynski estimate: in the mean the bound L_M; −inf where one example is
    error: float  # standard error over the examples; it holds that over trajectories too
    trajectory_error: float  # the part of it that more trajectories would remove
    K: float  # mean −⟨W⟩ of the same trajectories
    dissipation: float  # log_p − K: what Jensen's inequality costs
    ess: float  # median effective sample size of an estimate, 1..M
    least_ess: float
    poor: float  # share of the examples whose ESS is below 2: bounds, not values
    impossible: int  # examples with log p = −inf
    not_a_number: int  # examples whose log p is NaN: something is broken
    examples: int
    values: float = 0.0  # share of the estimates that are values (weights.py), the others bounds
    k_hat: float = float("inf")  # median Pareto shape of the largest weights of an estimate
    low: float = float("-inf")  # 95 % of the mean, by Student's t over the examples
    high: float = float("inf")  # +inf where fewer than half of the estimates are values: a bound

    @property
    def is_value(self) -> bool:
        """Whether log_p is a value; False: a lower bound, in the mean."""
        return self.high < float("inf")

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of the mean log p, 95 %; high is +inf of a bound."""
        return self.low, self.high

    def __str__(self) -> str:
        said = units.number(self.log_p, self.error) + " nats"
        if self.log_p > float("-inf") and not self.is_value:
            said = units.bounded(self.log_p, self.low, self.high)
        return (
            f"log p = {said} (M = {self.num}, {self.values:.0%} of the estimates are values, median"
            f" ESS {self.ess:.1f}, {self.examples} examples)"
        )


class Dissipation(NamedTuple):
    """Means over examples and trajectories at each t, (T+1,) float64 nats; 0 below t = 2."""

    work: np.ndarray  # increments of W (eq. 9); index 1: −log p(x^0|x^1), 0: the prior
    kl: np.ndarray  # KL_t of eq. 14
    entropy: np.ndarray  # of the model's reverse kernel
    lower: np.ndarray  # eq. 24
    upper: np.ndarray  # eq. 24
    cumulative: np.ndarray  # Σ_{2 <= s <= t} of the increments
    variance: np.ndarray  # of that sum, over trajectories of one example


def evaluate_works(
    model: Model,
    params,
    data,
    num: int,
    steps: int | None = None,
    rows: Rows = Rows(),
    proposal: str | Proposal = "paper",
) -> np.ndarray:
    """W (eq. 9) of `num` forward trajectories of each row of `data`, (n, num) float64 nats.

    `summarise` makes likelihoods of them; model, params, data and steps as in `evaluate`, and
    proposal as in `forward_work`: with particles each W is one of them together.

    Raises:
        ValueError: for no data, num or rows.at_once below 1, or a proposal that the chain does not
            have.
    """
    data = check_rows(model, data, rows)
    check_counts(data=len(data), num=num, at_once=rows.at_once)
    lanes = _works_at_once(proposal, model, params, steps, rows)

    def kernel(params, part: Array, key: Array) -> Array:
        key_rows, key_walk = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params, steps)

        def one(i: Array) -> Array:  # trajectory i % num of row i // num
            key = jax.random.fold_in(key_walk, i)
            return work.forward_work(key, chain, x0[i // num], proposal)

        return chunks.mapped(one, jnp.arange(len(x0) * num), lanes).reshape(len(x0), num)

    return np.concatenate(list(over_rows(kernel, params, data, max(1, lanes // num), rows)))


def _works_at_once(proposal: str | Proposal, model: Model, params, steps, rows: Rows) -> int:
    """How many works a device holds; ValueError for a proposal that the chain does not have."""
    of = checked(proposal, model.chain(params, steps))
    return max(1, (rows.at_once or _AT_ONCE) // of.particles)


def summarise(works: np.ndarray, num: int | None = None) -> LogLikelihood:
    """The mean log p of a data set (eq. 9) from the works (n, M) of its examples.

    Args:
        works: (n, M) from `evaluate_works`, nats.
        num: trajectories for one estimate; M // num estimates of each example are averaged, so
            that the bound L_num is known as well as M allows. None: all M in one. Of M = 1 the
            error over trajectories is NaN, unknown, and log_p a lower bound in the mean.

    Raises:
        TypeError, ValueError: where works are no such array, or num is not in 1..M.
    """
    works = np.asarray(numbers("works", works), np.float64)
    if works.ndim != 2 or not works.size:
        raise ValueError(f"works: expected an array (n, M), got one of shape {works.shape}")
    n, M = works.shape
    num = M if num is None else num
    num = units.whole("num", num, 1, M)
    groups = works[:, : M // num * num].reshape(n, -1, num)
    with jax.enable_x64(True):
        flat = jnp.asarray(groups, jnp.float64).reshape(-1, num)
        each = _estimates(flat)
        each = jax.tree.map(lambda a: np.asarray(a).reshape(groups.shape[:2]), each)
    log_p, K = each.value.mean(axis=1), each.K.mean(axis=1)
    if groups.shape[1] > 1:  # the spread of the groups, sounder than the delta method at small M
        noise = each.value.std(axis=1, ddof=1) / np.sqrt(groups.shape[1])
    else:
        noise = each.error[:, 0]
    possible = np.isfinite(log_p)
    error = standard_error(log_p) if possible.all() else float("nan")
    values = float(np.mean(each.is_value))
    return LogLikelihood(
        num=num,
        log_p=float(log_p.mean()),
        error=error,
        trajectory_error=float(np.sqrt(np.sum(noise**2)) / n),
        K=float(K.mean()),
        dissipation=float(np.mean(log_p - K)) if np.isfinite(K).all() else float("nan"),
        ess=float(np.median(each.ess)),
        least_ess=float(each.ess.min()),
        poor=float(np.mean(each.ess.mean(axis=1) < min(2, num))),
        impossible=int(np.sum(log_p == -np.inf)),
        not_a_number=int(np.isnan(log_p).sum()),
        examples=n,
        values=values,
        k_hat=float(np.median(each.k_hat)),
        **_interval(log_p, error, each.error if values >= 0.5 else None),
    )


def _interval(log_p: np.ndarray, error: float, noise: np.ndarray | None) -> dict[str, float]:
    """95 % of the mean: Student's t, and above it half the variance, by which log p̂ is too low."""
    reach = t_quantile(len(log_p) - 1) * error
    high = float("inf")
    if noise is not None and np.isfinite(reach):
        high = log_p.mean() + reach + np.mean(noise**2) / 2
    return {"low": float(log_p.mean() - reach), "high": float(high)}


@jax.jit
def _estimates(works: Array):
    return jax.lax.map(jarzynski, works, batch_size=min(1024, len(works)))


def evaluate_sandwich(
    model: Model,
    params,
    examples: int,
    num: int,
    steps: int | None = None,
    rows: Rows = Rows(),
    proposal: str | Proposal = "paper",
) -> np.ndarray:
    """Lower and upper estimates of log p (eq. 9) of samples of the model, (examples, 2) nats.

    Raises:
        ValueError: for examples, num or rows.at_once below 1, a proposal that the chain does not
            have, or a last step that is a function and does not say how to draw (chain.py).
    """
    check_counts(examples=examples, num=num, at_once=rows.at_once)
    lanes = _works_at_once(proposal, model, params, steps, rows)
    chunk = rows.at_once or _AT_ONCE

    def kernel(params, part: Array, key: Array) -> Array:
        chain = model.chain(params, steps)

        def one(k: Array) -> Array:
            found = work.sandwich(k, chain, num, chunk, proposal)
            return jnp.stack([found.lower, found.upper])

        return jax.vmap(one)(jax.random.split(key, len(part)))

    number = np.arange(examples)
    return np.concatenate(list(over_rows(kernel, params, number, max(1, lanes // num), rows)))


def evaluate_dissipation(
    model: Model,
    params,
    data,
    num: int = 16,
    steps: int | None = None,
    rows: Rows = Rows(),
) -> Dissipation:
    """Where the bound is lost, by t (eq. 14, 24): means over `num` trajectories of each row.

    Raises:
        ValueError: for no data, rows.at_once below 1, or num below 2: a variance takes two.
    """
    num = units.whole("num", num, 2)
    data = check_rows(model, data, rows)
    check_counts(data=len(data), at_once=rows.at_once)

    def kernel(params, part: Array, key: Array) -> Array:
        key_rows, key_walk = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params, steps)

        def one(k: Array, x: Array) -> Array:
            keys = jax.random.split(k, num)
            each = jax.vmap(lambda k: work.profile(k, chain, x))(keys)
            later = jnp.cumsum(each.work.at[:, :2].set(0.0), axis=1)
            means = [jnp.mean(value, axis=0) for value in (*each, later)]
            return jnp.stack([*means, jnp.var(later, axis=0, ddof=1)])

        return jax.vmap(one)(jax.random.split(key_walk, len(x0)), x0)

    per_device = max(1, (rows.at_once or _AT_ONCE) // num)
    parts = np.concatenate(list(over_rows(kernel, params, data, per_device, rows)))
    return Dissipation(*parts.mean(axis=0))
