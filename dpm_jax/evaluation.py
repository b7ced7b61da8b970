"""K of a data set with its standard error, on all local devices, in chunks of constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import bound, parallel
from dpm_jax.family import Array
from dpm_jax.model import Model, respaced


class Evaluation(NamedTuple):
    """Means over a data set in nats per example, with their standard errors."""

    K: float
    K_error: float
    L_null: float
    K_minus_L_null: float
    K_minus_L_null_error: float
    examples: int


def evaluate(
    model: Model,
    params,
    data,
    seed: int = 0,
    draw: Callable[[Array, Array], Array] | None = None,
    batch_size: int = 100,
    passes: int | None = None,
    steps: int | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Evaluation:
    """K (eq. 14) and L_null of a data set.

    Args:
        model: from `model.build`.
        params: its parameters, e.g. ``state.ema``.
        data: (n, *) rows; `draw` makes examples of them.
        seed: of the noise of x^t (and of `draw`).
        draw: (key, rows) -> examples (rows, *event), e.g. dequantisation; None: the rows as is.
        batch_size: examples a device handles at once.
        passes: None: the exact sum over all t, one x^t each. Otherwise so many draws of t for
            each example, stratified within a batch (bound.estimate).
        steps: respace the chain to so many steps first.
        progress: wraps the iteration over batches, e.g. in a progress bar.

    Returns:
        Evaluation. Standard errors are over examples, or over batch means where t is stratified;
        NaN (unknown) for a single batch. They hold the spread of the examples as well as the noise.

    Raises:
        ValueError: for no data, or batch_size or passes below 1.
    """
    _check(data, batch_size, passes)
    kernel = _make_kernel(model, draw, passes, steps)
    rows = list(over_rows(kernel, params, data, seed, batch_size, progress))
    return _summary(rows, by_batch=passes is not None)


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


def noise_floor(
    model: Model,
    params,
    data,
    t0: Sequence[int],
    seed: int = 0,
    draw: Callable[[Array, Array], Array] | None = None,
    batch_size: int = 100,
    passes: int | None = None,
    steps: int | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> NoiseFloor:
    """K and K' (eq. 14) of a data set noised to each step t0 (bound.noise_floor), from one model.

    Data whose density is unbounded (flat regions, grey levels) have no K of their own, only one at
    each noise. Compare models in pairs, by `each` of the same images.

    Args:
        t0: steps in 1..T, of the respaced chain where `steps` is given.
        passes: None: every t. Otherwise so many draws of t for each example, stratified.

    The other arguments are those of `evaluate`. At t0 = 1 without passes, K' is the K − L_null of
    `evaluate` for a fixed last step, with the same seed to rounding.

    Returns:
        NoiseFloor. Standard errors are over examples, NaN for one alone.

    Raises:
        ValueError: for no data, batch_size or passes below 1, or a t0 outside 1..T.
    """
    _check(data, batch_size, passes)
    kernel = _make_floor_kernel(model, draw, t0, passes, steps)
    rows = np.concatenate(list(over_rows(kernel, params, data, seed, batch_size, progress)))
    K, gain = rows[..., 0], rows[..., 0] - rows[..., 1]
    floors = np.asarray(t0)
    error = lambda v: np.apply_along_axis(standard_error, 0, v)  # noqa: E731
    return NoiseFloor(
        t0=floors,
        noise=np.asarray(respaced(model, params, steps).noise, np.float64)[floors],
        K=K.mean(axis=0),
        K_error=error(K),
        gain=gain.mean(axis=0),
        gain_error=error(gain),
        each=gain,
        examples=len(rows),
    )


def over_rows(
    kernel: Callable[[Any, Array, Array], Any],
    params,
    data,
    seed: int,
    per_device: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Iterator[Any]:
    """kernel(params, rows, key) -> (rows, ...) over all data and devices; float64, batch by batch.

    What the kernel returns may be a pytree of such arrays. The last batch is padded with the last
    row, and cut again.
    """
    n, devices = len(data), jax.local_device_count()
    per_device = min(per_device, -(-n // devices))
    batch = per_device * devices
    compiled = parallel.over_devices(kernel, num_args=3, sharded=(1, 2))
    for start in progress(range(0, n, batch)):
        index = np.minimum(np.arange(start, start + batch), n - 1)
        chunk = jnp.asarray(np.asarray(data[index])).reshape(devices, per_device, *data.shape[1:])
        key = jax.random.fold_in(jax.random.key(seed), start)
        result = compiled(params, chunk, jax.random.split(key, devices))
        yield jax.tree.map(partial(_joined, kept=min(batch, n - start)), result)


def _joined(values: Array, kept: int) -> np.ndarray:
    """(devices, per device, ...) -> the first rows of all, float64."""
    return np.asarray(values, np.float64).reshape(-1, *values.shape[2:])[:kept]


def _make_kernel(model: Model, draw, passes: int | None, steps: int | None):
    """(params, rows, key) -> (rows, 2): K and L_null of each row, on one device."""
    family, last_step = model.family, model.last

    def kernel(params, rows: Array, key: Array) -> Array:
        key_draw, key_t = jax.random.split(key)
        x0 = rows if draw is None else draw(key_draw, rows)
        schedule = respaced(model, params, steps)
        reverse = model.reverse(params, schedule)
        null = jax.vmap(lambda x: bound.null(family, x, last_step))(x0)
        if passes is None:
            each = jax.vmap(lambda k, x: bound.exact(k, family, schedule, reverse, x, last_step).K)
            K = each(jax.random.split(key_t, x0.shape[0]), x0)
        else:
            law = model.time_weights(schedule)

            def once(k: Array) -> Array:
                return bound.estimate(k, family, schedule, reverse, x0, last_step, weights=law)

            K = jnp.mean(jax.lax.map(once, jax.random.split(key_t, passes)), axis=0)
        return jnp.stack([K, null], axis=-1)

    return kernel


def _make_floor_kernel(model: Model, draw, t0: Sequence[int], passes: int | None, steps):
    """(params, rows, key) -> (rows, m, 2): K and L_null of each row at each t0, on one device."""

    def kernel(params, rows: Array, key: Array) -> Array:
        key_draw, key_t = jax.random.split(key)
        x0 = rows if draw is None else draw(key_draw, rows)
        schedule = respaced(model, params, steps)
        reverse = model.reverse(params, schedule)
        law = model.time_weights(schedule)
        each = jax.vmap(
            lambda k, x: bound.noise_floor(k, model.family, schedule, reverse, x, t0, passes, law)
        )
        return jnp.stack(each(jax.random.split(key_t, x0.shape[0]), x0), axis=-1)

    return kernel


def _check(data, batch_size: int, passes: int | None) -> None:
    n = len(data)
    if n < 1 or batch_size < 1 or (passes is not None and passes < 1):
        raise ValueError(
            f"evaluate: expected data, batch_size >= 1 and passes >= 1,"
            f" got {n} rows, batch_size={batch_size}, passes={passes}"
        )


def _summary(rows: list[np.ndarray], by_batch: bool) -> Evaluation:
    values = np.concatenate(rows)
    gain = values[:, 0] - values[:, 1]

    def error(column: Callable[[np.ndarray], np.ndarray]) -> float:
        if not by_batch:
            return standard_error(column(values))
        size = len(rows[0])
        means = np.array([column(r).mean() for r in rows if len(r) == size])
        return float(standard_error(means) * np.sqrt(len(means) * size / len(values)))

    return Evaluation(
        K=float(values[:, 0].mean()),
        K_error=error(lambda v: v[:, 0]),
        L_null=float(values[:, 1].mean()),
        K_minus_L_null=float(gain.mean()),
        K_minus_L_null_error=error(lambda v: v[:, 0] - v[:, 1]),
        examples=len(values),
    )


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values; NaN (unknown) for fewer than two."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
