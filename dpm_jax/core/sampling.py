"""Trajectories: forward (eq. 3), ancestral sampling and the reverse trajectory (eq. 4–5).

One compiled loop each, for one example; ``jax.vmap`` over the keys draws many.
"""

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array


def sample(key: Array, chain: Chain) -> Array:
    """One draw x^0 ~ p by ancestral sampling (eq. 4–5), of the event's shape; a scan over t."""

    def body(xt: Array, t: Array):
        return chain.family.sample(jax.random.fold_in(key, t), chain.reverse(xt, t)), None

    x0, _ = jax.lax.scan(body, start(key, chain), jnp.arange(chain.T, 0, -1))
    return x0


def start(key: Array, chain: Chain) -> Array:
    """x^T ~ p(x^T) (eq. 4): where `sample` with the same key begins."""
    return chain.family.sample(jax.random.fold_in(key, chain.T + 1), chain.prior)


def reverse_trajectory(key: Array, chain: Chain, every: int = 1) -> Array:
    """The states x^0, x^k, x^2k, .. of one reverse trajectory (eq. 5), (T // every + 1, *shape).

    The same key gives the same x^0 as `sample`.

    Raises:
        ValueError: where ``every`` is not in 1..T.
    """
    _check_every(every, chain)

    def body(carry, t: Array):
        x, kept = carry
        x = chain.family.sample(jax.random.fold_in(key, t), chain.reverse(x, t))
        # A slot is overwritten until t − 1 falls to a multiple of `every`: the last write stays.
        return (x, kept.at[(t - 1) // every].set(x)), None

    x_T = start(key, chain)
    kept = jnp.zeros((chain.T // every + 1, *chain.shape), x_T.dtype).at[-1].set(x_T)
    (_, kept), _ = jax.lax.scan(body, (x_T, kept), jnp.arange(chain.T, 0, -1))
    return kept


def forward_trajectory(key: Array, chain: Chain, x0: Array, every: int = 1) -> Array:
    """The states x^0, x^k, x^2k, .. of one forward trajectory from x0 (eq. 3): (T // every + 1, *).

    Raises:
        ValueError: where ``every`` is not in 1..T, or x0 is no example of the chain's.
    """
    _check_every(every, chain)
    x0 = chain.checked("x0", x0)
    family, schedule = chain.family, chain.schedule

    def body(carry, t: Array):
        x, kept = carry
        x = family.sample(jax.random.fold_in(key, t), family.step(x, schedule.beta[t]))
        # States between two multiples of `every` go to the slot after; beyond the last: dropped.
        return (x, kept.at[(t + every - 1) // every].set(x, mode="drop")), None

    kept = jnp.zeros((chain.T // every + 1, *x0.shape), x0.dtype).at[0].set(x0)
    (_, kept), _ = jax.lax.scan(body, (x0, kept), jnp.arange(1, chain.T + 1))
    return kept


def noised(key: Array, chain: Chain, x0: Array, t: Array) -> Array:
    """x^t ~ q(x^t|x^0) in one draw (Table App.1), of the event's shape; t in 0..T.

    Raises:
        ValueError: for another t, or an x0 that is no example of the chain's.
    """
    x0, t = chain.checked("x0", x0), check_t(t, 0, chain)
    return chain.family.sample(key, chain.family.marginal(x0, chain.schedule.log_alpha_bar[t]))


def check_t(t: Array, least: int, chain: Chain) -> Array:
    """t itself; ValueError where its value is known and outside least..T, which JAX would clamp."""
    if isinstance(t, jax.core.Tracer):
        return t
    whole = jnp.ndim(t) == 0 and jnp.issubdtype(jnp.result_type(t), jnp.integer)
    if not whole or not least <= t <= chain.T:
        raise ValueError(f"t: expected a whole number in {least}..{chain.T}, got {t}")
    return t


def _check_every(every: int, chain: Chain) -> None:
    units.whole("every", every, 1, chain.T)


def check_key(key: Array) -> None:
    """TypeError for what is not one PRNG key; those of before typed keys are taken."""
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
        if typed or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
    got = f"{key.dtype} of shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    raise TypeError(f"key: expected one key, as jax.random.key(0) makes it, got {got}")
