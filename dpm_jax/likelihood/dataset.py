"""K (eq. 14) of a data set with its standard error, and at every noise of the data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core.family import Array
from dpm_jax.core.model import Model
from dpm_jax.likelihood import bound
from dpm_jax.likelihood.rows import (
    Groups,
    Rows,
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
    data = check_rows(model, data, rows)
    check_counts(data=len(data), at_once=rows.at_once, passes=passes)

    at_once = rows.at_once or _AT_ONCE
    size = 1 if passes is None else max(1, min(_GROUP, at_once, len(data) // _GROUPS))

    def exact(params, part: Array, key: Array) -> Array:
        key_rows, key_t = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params, steps)
        null = jax.vmap(lambda x: bound.null(chain, x))(x0)
        each = jax.vmap(lambda k, x: bound.exact(k, chain, x).K)
        K = each(jax.random.split(key_t, x0.shape[0]), x0)
        return jnp.stack([K, null], axis=-1)

    def drawn(params, part: Array, key: Array) -> Array:
        def group(part: Array, key: Array) -> Array:
            key_rows, key_t = jax.random.split(key)
            x0, chain = rows.examples(key_rows, part), model.chain(params, steps)
            null = jax.vmap(lambda x: bound.null(chain, x))(x0)
            keys = jax.random.split(key_t, passes or 1)
            K = jnp.mean(jax.lax.map(lambda k: bound.estimate(k, chain, x0), keys), axis=0)
            return jnp.stack([K, null], axis=-1)

        return jax.vmap(group)(part, key)

    if passes is None:
        return _summary(np.concatenate(list(over_rows(exact, params, data, at_once, rows))))
    groups = over_rows(drawn, params, Groups(data, size), max(1, at_once // size), rows, True)
    values = np.concatenate(list(groups)).reshape(-1, 2)[: len(data)]
    return _summary(values, size)


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

    def kernel(params, part: Array, key: Array) -> Array:
        key_rows, key_t = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params)
        each = jax.vmap(lambda k, x: bound.noise_floor(k, chain, x, t0, passes))
        return jnp.stack(each(jax.random.split(key_t, x0.shape[0]), x0), axis=-1)

    values = np.concatenate(list(over_rows(kernel, params, data, rows.at_once or _AT_ONCE, rows)))
    K, gain = values[..., 0], values[..., 0] - values[..., 1]
    floors = np.asarray(t0)
    return NoiseFloor(
        t0=floors,
        noise=np.asarray(model.chain(params).schedule.noise, np.float64)[floors],
        K=K.mean(axis=0),
        K_error=np.apply_along_axis(standard_error, 0, K),
        gain=gain.mean(axis=0),
        gain_error=np.apply_along_axis(standard_error, 0, gain),
        each=gain,
        examples=len(values),
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
