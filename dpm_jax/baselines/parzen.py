"""Parzen-window log likelihood, the number of Table 2: comparable with old papers, worth little.

p(x) = 1/n Σ_i N(x; s_i, σ² I) over n samples s_i of a model, σ chosen on validation data. Source:
Breuleux et al. 2011; protocol of Goodfellow et al. 2014, Sec. 5: 10,000 samples, data in [0, 1].
Everything here is in nats; Table 2 is in bits (units.bits). Read `CAUTION` first.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.baselines import checks
from dpm_jax.core.family import numbers

CAUTION = (
    "Parzen-window estimates do not rank models by likelihood: centroids of k-means beat true"
    " images (Theis, van den Oord and Bethge 2015, Table 1). They grow with the number of samples:"
    " compare them only at an equal one."
)
WIDTHS = tuple(np.geomspace(0.1, 1, 10).tolist())  # Goodfellow's grid, for data in [0, 1]

_REFINED = 21  # over two steps of WIDTHS: 2.6 % apart, so within 0.1 nats of the best at 784 dims
_FLOAT32 = np.finfo(np.float32)
_LARGEST = 1e16  # its square, summed over 100,000 dimensions, is still a float32

Widths = Sequence[float] | np.ndarray
Progress = Callable[[Iterable[int]], Iterable[int]]


class Parzen(NamedTuple):
    """Mean log density of test data in nats per example, with its standard error over them.

    The error holds neither the choice of the samples nor that of the width. With at_edge the best
    width was the smallest or largest tried, so that a better one may lie beyond.
    """

    width: float
    log_likelihood: float
    error: float
    samples: int
    examples: int
    at_edge: bool


def evaluate(
    samples,
    validation,
    test,
    widths: Widths | None = None,
    chunk: int = 1000,
    progress: Progress = iter,
) -> Parzen:
    """Mean log density of test data, at the width that validation data prefer (Table 2).

    Args:
        samples: (n, *event) of a model, n >= 2, in the units of the data; 10,000 in Table 2.
        validation: (k, *event), neither trained on nor tested on; 1,000 are enough.
        test: (m, *event), m >= 2.
        widths: as in `choose_width`; None: `WIDTHS`. A single one is taken as it is.
        chunk: as in `log_densities`.
        progress: wraps the iteration over the chunks of each pass, e.g. in a progress bar: one
            pass over test data and up to two over validation data.

    Raises:
        ValueError: for fewer than 2 samples or test examples, and as `choose_width`.
    """
    samples, test = _check_rows("samples", samples), _check_rows("test", test)
    for name, rows in (("samples", samples), ("test", test)):
        if len(rows) < 2:
            raise ValueError(f"{name}: expected at least 2 rows, got {len(rows)}")
    tried = _check_widths(WIDTHS if widths is None else widths)
    width = choose_width(samples, validation, tried, chunk, progress)
    values = log_densities(samples, test, (width,), chunk, progress, name="test")[0]
    return Parzen(
        width=width,
        log_likelihood=float(values.mean()),
        error=float(values.std(ddof=1) / np.sqrt(len(values))),
        samples=len(samples),
        examples=len(values),
        at_edge=len(tried) > 1 and not tried[0] < width < tried[-1],
    )


def choose_width(
    samples, validation, widths: Widths = WIDTHS, chunk: int = 1000, progress: Progress = iter
) -> float:
    """The width of the largest mean log density: the best of a grid, refined to its neighbours.

    Args:
        samples, validation, chunk, progress: as in `evaluate`.
        widths: the grid, in units of the data. A single one is returned as it is.

    Returns:
        A width from the smallest to the largest of the grid, in units of the data.

    Raises:
        ValueError: as `log_densities`.
    """
    tried = _check_widths(widths)

    def best(grid: np.ndarray) -> int:
        means = log_densities(samples, validation, grid, chunk, progress, name="validation")
        return int(np.argmax(means.mean(axis=1)))

    if len(tried) == 1:
        return float(tried[0])
    i = best(tried)
    fine = np.geomspace(tried[max(i - 1, 0)], tried[min(i + 1, len(tried) - 1)], _REFINED)
    return float(fine[best(fine)])


def log_density(samples, x, width: float, chunk: int = 1000) -> np.ndarray:
    """log 1/n Σ_i N(x; s_i, σ² I) of each x: `log_densities` at one width, (m,) nats."""
    return log_densities(samples, x, (width,), chunk)[0]


def log_densities(
    samples, x, widths: Widths, chunk: int = 1000, progress: Progress = iter, name: str = "x"
) -> np.ndarray:
    """log 1/n Σ_i N(x; s_i, σ² I) at several widths σ, from the same distances.

    Distances are float32 about the mean of the samples: where rows are R away from it, the error
    is below 1e-6 (R/σ)² nats. Memory: a float32 copy of the samples, and chunks.

    Args:
        samples: (n, *event), n >= 1.
        x: (m, *event), m >= 1.
        widths: standard deviations σ, in units of the data.
        chunk: rows of x, and samples, that are compared at once.
        progress: wraps the iteration over chunks of x.
        name: what errors call x.

    Returns:
        (widths, m) float64, nats.

    Raises:
        ValueError: for shapes that do not match, values that are not finite or above 1e16,
            widths that are not positive and finite, or chunk < 1.
    """
    tried = _check_widths(widths, ordered=False)
    samples, x = _check_rows("samples", samples), _check_rows(name, x)
    if samples.shape[1:] != x.shape[1:]:
        raise ValueError(f"{name}: expected rows {samples.shape[1:]}, got {x.shape[1:]}")
    checks.at_least(chunk=(chunk, 1))
    n, m, dims = len(samples), len(x), int(np.prod(x.shape[1:]))
    centre = np.asarray(np.mean(samples, axis=0, dtype=np.float64))
    blocks = jax.device_put(_blocks(samples, centre, chunk))
    with np.errstate(over="ignore", under="ignore"):  # beyond float32 a kernel is 0 or flat
        gains = np.clip(0.5 / tried**2, _FLOAT32.tiny, _FLOAT32.max)
    parts = []
    for start in progress(range(0, m, chunk)):
        rows, norms = _pad(x[start : start + chunk], centre, min(chunk, m))
        found = _nearest_and_sums(*blocks, rows, norms, gains.astype(np.float32))
        nearest, sums = (np.asarray(values, np.float64)[..., : m - start] for values in found)
        parts.append(np.log(sums) - gains[:, None] * nearest)
    normaliser = np.log(n) + dims * np.log(np.sqrt(2 * np.pi) * tried)
    return np.concatenate(parts, axis=1) - normaliser[:, None]


@jax.jit
def _nearest_and_sums(blocks: Array, block_norms: Array, x: Array, norms: Array, gains: Array):
    """min_i d_i² of each row, and Σ_i exp(−g (d_i² − min d²)) for each gain g = 1/2σ² and row.

    One minimum serves all widths, as the nearest sample has the largest kernel at each.
    """

    def add(state, block):
        nearest, sums = state
        rows, row_norms = block
        product = jnp.matmul(x, rows.T, precision=jax.lax.Precision.HIGHEST)  # no TF32, bfloat16
        d2 = jnp.maximum(norms[:, None] + row_norms[None, :] - 2 * product, 0)
        closer = jnp.minimum(nearest, jnp.min(d2, axis=1))
        above = d2 - closer[:, None]
        new = jax.lax.map(lambda gain: jnp.sum(jnp.exp(-gain * above), axis=1), gains)
        old = sums * jnp.exp(-gains[:, None] * (nearest - closer)[None, :])
        return (closer, old + new), None

    far = jnp.full(norms.shape, _FLOAT32.max, jnp.float32)
    none = jnp.zeros((*gains.shape, *norms.shape), jnp.float32)
    return jax.lax.scan(add, (far, none), (blocks, block_norms))[0]


def _blocks(samples: np.ndarray, centre: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples about their centre as (blocks, chunk, dims), and |s|² as (blocks, chunk)."""
    n = len(samples)
    size = min(chunk, n)
    parts = [_pad(samples[i : i + size], centre, size) for i in range(0, n, size)]
    rows, norms = zip(*parts)
    return np.stack(rows), np.stack(norms)


def _pad(rows: np.ndarray, centre: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows about the centre, flat and filled up to `size` by rows infinitely far, and their |r|².

    Subtracting the centre first keeps |x|² + |s|² − 2x·s from cancelling more than it must.
    """
    flat = np.zeros((size, centre.size), np.float32)
    flat[: len(rows)] = (rows - centre).reshape(len(rows), -1)
    norms = np.full(size, np.inf, np.float32)
    norms[: len(rows)] = np.einsum("ij,ij->i", flat, flat, dtype=np.float64)[: len(rows)]
    return flat, norms


def _check_rows(name: str, rows) -> np.ndarray:
    """Rows as an array, (n, *event) with n >= 1, finite, with squares that float32 can add."""
    rows = np.asarray(numbers(name, rows))
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(f"{name}: expected shape (n, *event) with n >= 1, got {rows.shape}")
    # A row at a time keeps memory small.
    bad = sum(int(np.sum(~(np.abs(row) < _LARGEST))) for row in rows)
    if bad:
        raise ValueError(
            f"{name}: expected finite values below {_LARGEST:g},"
            f" got {bad} NaN, infinite or larger of {rows.size}"
        )
    return rows


def _check_widths(widths: Widths, ordered: bool = True) -> np.ndarray:
    """Widths as float64, in ascending order if `ordered`; all must be finite and positive."""
    tried = np.asarray(numbers("widths", widths), np.float64)
    if tried.ndim != 1 or not tried.size or not np.all((tried > 0) & np.isfinite(tried)):
        raise ValueError(f"widths: expected positive numbers, got {tried.tolist()}")
    return np.sort(tried) if ordered else tried
