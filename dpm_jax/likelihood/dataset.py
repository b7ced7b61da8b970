"""K (eq. 14) of a data set with its standard error, and at every noise of the data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import chunks
from dpm_jax.core.family import Array
from dpm_jax.core.model import Model, at_once
from dpm_jax.likelihood import bound, times
from dpm_jax.likelihood.draws import Plan, by_t, length, over_draws, planned
from dpm_jax.likelihood.rows import (
    Groups,
    Rows,
    batches,
    check_counts,
    check_rows,
    over_rows,
    standard_error,
    t_quantile,
)

_AT_ONCE = 100  # examples a device holds
_GROUP, _GROUPS = 50, 20  # examples whose t are stratified together: at most; groups: at least


class Evaluation(NamedTuple):
    """Means over a data set in nats per example, with their standard errors."""

    K: float
    K_error: float
    L_null: float
    K_minus_L_null: float
    K_minus_L_null_error: float
    examples: int
    groups: int = 0  # of examples whose t are stratified together, behind the errors; 0: each alone

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of K, 95 % by Student's t."""
        reach = t_quantile((self.groups or self.examples) - 1) * self.K_error
        return self.K - reach, self.K + reach

    def __str__(self) -> str:
        K = units.number(self.K, self.K_error)
        gain = units.number(self.K_minus_L_null, self.K_minus_L_null_error)
        return f"K = {K} nats, K − L_null = {gain} nats ({self.examples} examples)"


def evaluate(
    model: Model,
    params,
    data,
    passes: int | None = None,
    steps: int | None = None,
    rows: Rows = Rows(),
) -> Evaluation:
    """K (eq. 14) and L_null of a data set.

    Args:
        model: from `model.build`.
        params: its parameters, e.g. ``state.ema``.
        data: (n, *) rows; `rows.prepare` makes examples of them.
        passes: None: the exact sum over all t, one x^t each. Otherwise so many draws of t for
            each example, stratified within groups of examples (bound.estimate): of 50, or of n/20
            where that is less, so that there are 20 of them on any number of devices.
        steps: respace the chain to so many steps first.
        rows: how they are gone through; a device holds 100 by default.

    Returns:
        Evaluation. Standard errors are over examples, or over the means of the groups where t is
        stratified; NaN (unknown) for a single one. They hold the spread of the examples as well as
        the noise.

    Raises:
        ValueError: for no data, or passes or rows.at_once below 1.
    """
    return evaluate_terms(model, params, data, passes, steps, rows)[0]


def evaluate_terms(
    model: Model,
    params,
    data,
    passes: int | None = None,
    steps: int | None = None,
    rows: Rows = Rows(),
) -> tuple[Evaluation, np.ndarray]:
    """`evaluate`, and the mean KL_t at t = 2..T (eq. 14) of the very terms behind it, (T−1,) nats.

    Where fewer than 50 terms fell on a t, neighbours share their mean, weighted as in K. Arguments
    and errors as in `evaluate`.
    """
    data = check_rows(model, data, rows)
    check_counts(data=len(data), at_once=rows.at_once, passes=passes)
    if passes is None:
        values, total = _exact(model, params, data, steps, rows)
        return _summary(values), -total[2:] / len(data)
    size = max(1, min(_GROUP, rows.at_once or _AT_ONCE, len(data) // _GROUPS))
    values, *by_each_t = _drawn(model, params, data, passes, steps, rows, size)
    return _summary(values, size), by_t(*by_each_t)


def _exact(model: Model, params, data, steps: int | None, rows: Rows):
    """K and L_null of each row (n, 2) by all t; the sum of the terms of each t (T+1,)."""

    def exact(params, part: Array, key: Array) -> tuple[Array, Array]:
        key_rows, key_t = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params, steps)

        def one(row: tuple[Array, Array]) -> tuple[Array, Array]:
            return bound.exact_terms(row[0], chain, row[1]), bound.null(chain, row[1])

        each = jax.random.split(key_t, x0.shape[0]), x0
        return chunks.mapped(one, each, at_once(model, params, steps, one_t=True))

    values, total = [], np.zeros(length(model, params, steps))
    for terms, null in over_rows(exact, params, data, rows.at_once or _AT_ONCE, rows):
        values.append(np.stack([terms.sum(axis=1), null], axis=1))
        total += terms.sum(axis=0)
    return np.concatenate(values), total


def _drawn(model: Model, params, data, passes, steps: int | None, rows: Rows, size: int):
    """As `_exact` by random t, stratified within groups of `size` rows; and the sums of `by_t`."""

    def plan(params, part: Array, key: Array) -> Plan:
        def group(part: Array, key: Array):
            key_rows, key_t = jax.random.split(key)
            x0, chain = rows.examples(key_rows, part), model.chain(params, steps)
            keys = jax.random.split(key_t, passes)
            # One after the other: side by side they take twice as long to compile.
            draws = jax.lax.map(lambda k: times.draws(k, chain, size), keys)
            ends = jax.vmap(lambda x: jnp.stack([bound.ends(chain, x), bound.null(chain, x)]))(x0)
            return x0, jax.tree.map(lambda a: a.swapaxes(0, 1), draws), ends

        found = jax.vmap(group)(part, key)
        return planned(*jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found))

    per_device = max(1, (rows.at_once or _AT_ONCE) // size)
    groups = batches(Groups(data, size), per_device, rows, keyed=True)
    values: list[np.ndarray] = []
    count, share, total = np.zeros((3, length(model, params, steps)))
    for found in over_draws(model, params, groups, plan, steps, size):
        left = len(data) - sum(len(v) for v in values)
        t, weight, term, ends = (a[:left] for a in found)
        values.append(ends + np.stack([(weight * term).mean(axis=1), np.zeros(len(ends))], axis=1))
        for sums, each in ((count, 1), (share, weight), (total, weight * term)):
            np.add.at(sums, t.astype(int), each)
    return np.concatenate(values), count, share, total


class NoiseFloor(NamedTuple):
    """Bounds on the log density of data noised to step t0; (m,) nats per example, one a t0."""

    t0: np.ndarray
    noise: np.ndarray  # 1 − ᾱ_{t0}, the variance of the noise in units of π's
    K: np.ndarray
    K_error: np.ndarray
    gain: np.ndarray  # K' = K − L_null
    gain_error: np.ndarray
    each: np.ndarray  # (examples, m), K' of every example: models differ by much less than these
    examples: int


def evaluate_noise_floor(
    model: Model,
    params,
    data,
    t0: Sequence[int],
    passes: int | None = None,
    rows: Rows = Rows(),
) -> NoiseFloor:
    """K and K' (eq. 14) of a data set noised to each step t0 (bound.noise_floor), from one model.

    Data whose density is unbounded (flat regions, grey levels) have no K of their own, only one at
    each noise. Compare models in pairs, by `each` of the same images.

    Args:
        model, params, data, rows: as in `evaluate`.
        t0: steps in 1..T.
        passes: None: every t. Otherwise so many draws of t for each example, stratified.

    At t0 = 1 without passes, K' is the K − L_null of `evaluate` for a fixed last step, with the
    same seed to rounding.

    Returns:
        NoiseFloor. Standard errors are over examples, NaN for one alone.

    Raises:
        ValueError: for no data, passes or rows.at_once below 1, or a t0 outside 1..T.
    """
    data = check_rows(model, data, rows)
    check_counts(data=len(data), at_once=rows.at_once, passes=passes)
    floors = tuple(times.check_floors(t0, length(model, params) - 1, passes).tolist())

    def plan(params, part: Array, key: Array) -> Plan:
        key_rows, key_t = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params)
        keys = jax.random.split(key_t, x0.shape[0])
        draws = jax.vmap(lambda k: times.floor_draws(k, chain, floors, passes))(keys)
        ends = jax.vmap(lambda x: jnp.stack(bound.floor_ends(chain, x, floors), axis=-1))(x0)
        return planned(x0, draws, ends)

    values = []
    parts = batches(data, rows.at_once or _AT_ONCE, rows)
    for t, weight, term, ends in over_draws(model, params, parts, plan):
        later = t[:, None, :] > np.asarray(floors)[:, None]
        ends[..., 0] += np.sum(later * (weight * term)[:, None, :], axis=-1)
        values.append(ends)
    each = np.concatenate(values)
    K, gain = each[..., 0], each[..., 0] - each[..., 1]
    return NoiseFloor(
        t0=np.asarray(floors),
        noise=np.asarray(model.chain(params).schedule.noise, np.float64)[np.asarray(floors)],
        K=K.mean(axis=0),
        K_error=np.apply_along_axis(standard_error, 0, K),
        gain=gain.mean(axis=0),
        gain_error=np.apply_along_axis(standard_error, 0, gain),
        each=gain,
        examples=len(each),
    )


def _summary(values: np.ndarray, size: int | None = None) -> Evaluation:
    """Of K and L_null (n, 2); errors over the examples, or over groups of `size` of them."""
    gain = values[:, 0] - values[:, 1]
    full = 0 if size is None else len(values) // size

    def error(column: np.ndarray) -> float:
        if size is None:
            return standard_error(column)
        means = column[: full * size].reshape(full, size).mean(axis=1)
        return float(standard_error(means) * np.sqrt(full * size / len(values)))

    return Evaluation(
        K=float(values[:, 0].mean()),
        K_error=error(values[:, 0]),
        L_null=float(values[:, 1].mean()),
        K_minus_L_null=float(gain.mean()),
        K_minus_L_null_error=error(gain),
        examples=len(values),
        groups=full,
    )
