"""K of a data set with its standard error, on all local devices, in chunks of constant memory."""

from collections.abc import Callable, Iterable, Iterator
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
    n = len(data)
    if n < 1 or batch_size < 1 or (passes is not None and passes < 1):
        raise ValueError(
            f"evaluate: expected data, batch_size >= 1 and passes >= 1,"
            f" got {n} rows, batch_size={batch_size}, passes={passes}"
        )
    kernel = _make_kernel(model, draw, passes, steps)
    rows = list(over_rows(kernel, params, data, seed, batch_size, progress))
    return _summary(rows, by_batch=passes is not None)


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
    family, last_step = model.family, model.last_step

    def kernel(params, rows: Array, key: Array) -> Array:
        key_draw, key_t = jax.random.split(key)
        x0 = rows if draw is None else draw(key_draw, rows)
        schedule = respaced(model, params, steps)
        reverse = model.reverse(params, schedule)
        null = jax.vmap(lambda x: family.log_prob(family.prior(x.shape), x))(x0)
        if passes is None:
            each = jax.vmap(lambda k, x: bound.exact(k, family, schedule, reverse, x, last_step).K)
            K = each(jax.random.split(key_t, x0.shape[0]), x0)
        else:
            once = lambda k: bound.estimate(k, family, schedule, reverse, x0, last_step)  # noqa: E731
            K = jnp.mean(jax.lax.map(once, jax.random.split(key_t, passes)), axis=0)
        return jnp.stack([K, null], axis=-1)

    return kernel


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
