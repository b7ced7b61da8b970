"""Terms of K (eq. 14) at drawn t, over a data set: planned, taken by one compiled function, summed.

K, its noise floors and the curve of its terms are sums of the same terms with other weights. What a
batch is to take (examples, keys, t, weights) is made without a network; the terms themselves are
taken by one function, which is compiled once for them all.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import chunks
from dpm_jax.core.family import Array
from dpm_jax.core.model import Model, at_once
from dpm_jax.likelihood import bound, times
from dpm_jax.likelihood.rows import compiled, joined

_BLOCK = 8  # terms of each example that one call takes
_SEEN = 50  # terms behind each point of the curve of terms


class Plan(NamedTuple):
    """The terms that a batch is to take, of (n, terms) on a device."""

    x0: Array  # (n, ...)
    keys: Array  # (n, terms, ...), as integers
    t: Array
    weight: Array
    ends: Array  # (n, ...)


def planned(x0: Array, draws: times.Draws, ends: Array) -> Plan:
    """The plan of these draws, (n, terms)."""
    return Plan(x0, jax.random.key_data(draws.keys), draws.t, draws.weight, ends)


def _blocks(num: int) -> np.ndarray:
    """Blocks of _BLOCK terms, or of all where they are fewer; the last is filled by its last t."""
    block = max(1, min(num, _BLOCK))
    return np.minimum(np.arange(-(-num // block) * block), num - 1).reshape(-1, block)


def over_draws(
    model: Model, params, batches, plan: Callable, steps: int | None = None, of: int = 1
):
    """Take the terms (eq. 14) planned for each batch; all share one function with a network in it.

    Args:
        batches: of `rows.batches`.
        plan: (params, rows, key) -> Plan, of one device.
        of: examples that a row stands for.

    Yields:
        t, weight and term (nats), (examples, terms) each, and ends (examples, ...): float64.
    """

    def terms(params, x0: Array, keys: Array, t: Array) -> Array:
        chain = model.chain(params, steps)

        def one(row: tuple[Array, Array, Array]) -> Array:
            i, key, t = row
            return bound.term(jax.random.wrap_key_data(key), chain, x0[i], t)

        i = jnp.arange(t.size) // t.shape[1]
        flat = (i, keys.reshape(t.size, -1), t.reshape(-1))
        return chunks.mapped(one, flat, at_once(model, params, steps)).reshape(t.shape)

    make, take = compiled(plan), compiled(terms, 4)
    for part, keys, kept in batches:
        made = make(params, part, keys)
        # Blocks are cut here: of a program that cuts them the size grows with their number.
        of_x, t = np.asarray(made.keys), np.asarray(made.t)
        blocks = _blocks(t.shape[2])
        each = [take(params, made.x0, of_x[:, :, i], t[:, :, i]) for i in blocks]
        t, weight, term, ends = joined((t, made.weight, each, made.ends), kept * of)
        none = weight[:, :0]  # t0 = T leaves no t
        yield t, weight, np.concatenate([none, *term], axis=1)[:, : t.shape[1]], ends


def length(model: Model, params, steps: int | None = None) -> int:
    """T + 1, of which nothing is computed."""
    return jax.eval_shape(lambda p: model.chain(p, steps).schedule.beta, params).shape[0]


def by_t(count: np.ndarray, share: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean KL_t (eq. 14) at t = 2..T, over so many neighbours together that each is of _SEEN terms.

    Args:
        count: (T+1,) terms drawn at each t.
        share: (T+1,) sums of their weights in K.
        total: (T+1,) sums of weight times term, nats; so the means sum to what K spends.
    """
    count, share, total = count[2:], share[2:], total[2:]
    groups = max(1, int(count.sum()) // _SEEN)
    group = np.minimum(np.maximum(np.cumsum(count) - 1, 0) // _SEEN, groups - 1).astype(int)
    return -(np.bincount(group, total) / np.maximum(np.bincount(group, share), 1e-30))[group]
