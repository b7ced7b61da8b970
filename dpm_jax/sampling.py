"""Trajectories: forward (eq. 3), ancestral sampling and the reverse trajectory (eq. 4–5).

One compiled loop each, for one example; ``jax.vmap`` over the keys draws many. A reverse kernel
with the paper's last step is `bound.fix_last_step(family, schedule, reverse)`.
"""

import jax
import jax.numpy as jnp

from dpm_jax.family import Array, Family, Params, Reverse
from dpm_jax.schedule import Schedule


def sample(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    shape: tuple[int, ...],
    start: Params | None = None,
) -> Array:
    """One draw x^0 ~ p by ancestral sampling (eq. 4–5), of the event's shape; a scan over t.

    `start`, where given, is the law of x^T in the place of the prior π, e.g. `posterior.start`.
    """

    def body(xt: Array, t: Array):
        return family.sample(jax.random.fold_in(key, t), reverse(xt, t)), None

    start = family.prior(shape) if start is None else start
    x_T = family.sample(jax.random.fold_in(key, schedule.T + 1), start)
    x0, _ = jax.lax.scan(body, x_T, jnp.arange(schedule.T, 0, -1))
    return x0


def reverse_trajectory(
    key: Array,
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    shape: tuple[int, ...],
    every: int = 1,
    start: Params | None = None,
) -> Array:
    """The states x^0, x^k, x^2k, .. of one reverse trajectory (eq. 5), (T // every + 1, *shape).

    The same key gives the same x^0 as `sample`; `start` as there.

    Raises:
        ValueError: where ``every`` is not in 1..T.
    """
    _check_every(every, schedule)

    def body(carry, t: Array):
        x, kept = carry
        x = family.sample(jax.random.fold_in(key, t), reverse(x, t))
        # A slot is overwritten until t − 1 falls to a multiple of `every`: the last write stays.
        return (x, kept.at[(t - 1) // every].set(x)), None

    start = family.prior(shape) if start is None else start
    x_T = family.sample(jax.random.fold_in(key, schedule.T + 1), start)
    kept = jnp.zeros((schedule.T // every + 1, *shape), x_T.dtype).at[-1].set(x_T)
    (_, kept), _ = jax.lax.scan(body, (x_T, kept), jnp.arange(schedule.T, 0, -1))
    return kept


def forward_trajectory(
    key: Array, family: Family, schedule: Schedule, x0: Array, every: int = 1
) -> Array:
    """The states x^0, x^k, x^2k, .. of one forward trajectory from x0 (eq. 3): (T // every + 1, *).

    Raises:
        ValueError: where ``every`` is not in 1..T.
    """
    _check_every(every, schedule)

    def body(carry, t: Array):
        x, kept = carry
        x = family.sample(jax.random.fold_in(key, t), family.step(x, schedule.beta[t]))
        # States between two multiples of `every` go to the slot after; beyond the last: dropped.
        return (x, kept.at[(t + every - 1) // every].set(x, mode="drop")), None

    kept = jnp.zeros((schedule.T // every + 1, *x0.shape), x0.dtype).at[0].set(x0)
    (_, kept), _ = jax.lax.scan(body, (x0, kept), jnp.arange(1, schedule.T + 1))
    return kept


def _check_every(every: int, schedule: Schedule) -> None:
    if not 1 <= every <= schedule.T:
        raise ValueError(f"every: expected 1..{schedule.T}, got {every}")
