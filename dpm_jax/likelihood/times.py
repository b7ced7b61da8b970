"""At which t the terms of K (eq. 14) are taken where not all are: their law, stratified draws."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array


class Draws(NamedTuple):
    """At which t terms of K are taken, one a row."""

    keys: Array  # (n,) of x^t
    t: Array  # (n,) int32
    weight: Array  # (n,) of the term in K


def time_law(chain: Chain) -> Array:
    """The law from which t is drawn for K, (T+1,): ¼ uniform, ¾ ∝ size · log (1−ᾱ_t)/(1−ᾱ_{t−1}).

    That is by the e-folds of noise that t adds, with one for t = 1: about 1/t for the binomial
    schedule of the paper, uniform for the geometric one at low noise, where most of K and of its
    variance is and an e-fold has about the same KL everywhere; size is the chain's `kl_per_fold`
    where it is known beforehand. Each t has a probability: unbiased.
    """
    # Only a proposal: no gradient of a learned β may reach it.
    noise = jax.lax.stop_gradient(chain.schedule.noise)
    used = (jnp.arange(chain.T + 1) >= chain.first_t).astype(noise.dtype)
    folds = jnp.concatenate([jnp.ones(2, noise.dtype), jnp.log(noise[2:] / noise[1:-1])]) * used
    if chain.kl_per_fold is not None:
        folds = folds * jax.lax.stop_gradient(chain.kl_per_fold(chain.schedule.log_snr))
    return 0.25 * used / jnp.sum(used) + 0.75 * folds / jnp.sum(folds)


def draws(key: Array, chain: Chain, num: int) -> Draws:
    """The t and keys of `draw_terms` (eq. 14) for `num` examples, one t each: (num,)."""
    law = time_law(chain)
    t, keys = drawn(key, law, num, 1)
    return Draws(keys[:, 0], t, 1 / law[t])


def floor_draws(key: Array, chain: Chain, t0: Sequence[int], num_t: int | None = None) -> Draws:
    """The t > t0 at which `noise_floor` takes its terms (eq. 14), and the weight of each; (n,)."""
    least = check_floors(t0, chain.T, num_t).min()
    t = jnp.arange(least + 1, chain.T + 1)
    draw, weight = t, jnp.ones(t.shape, chain.schedule.beta.dtype)
    if num_t is not None and t.size:
        key_t, key = jax.random.split(key)
        law = time_law(chain).at[: least + 1].set(0.0)
        t, draw = stratified(key_t, law, num_t), jnp.arange(num_t)
        weight = jnp.sum(law) / (num_t * law[t])
    return Draws(jax.vmap(lambda i: jax.random.fold_in(key, i))(draw), t, weight)


def drawn(key: Array, law: Array, num_t: int, examples: int) -> tuple[Array, Array]:
    """(num_t,) stratified t, and (num_t, examples) keys of x^t."""
    key_t, key_x = jax.random.split(key)
    return stratified(key_t, law, num_t), jax.random.split(key_x, (num_t, examples))


def stratified(key: Array, weights: Array, num: int) -> Array:
    """`num` draws of t, each ~ weights, one from each of `num` equal slices of probability."""
    key_u, key_order = jax.random.split(key)
    offset = jax.random.uniform(key_u, (num,), weights.dtype)
    u = (jnp.arange(num, dtype=weights.dtype) + offset) / num
    cumulative = jnp.cumsum(weights)
    t = jnp.searchsorted(cumulative / cumulative[-1], u, side="right")
    # u may round to 1: the clip keeps it at the last t instead of one past the table.
    t = jnp.minimum(t, weights.shape[0] - 1).astype(jnp.int32)
    return jax.random.permutation(key_order, t)


def check_floors(t0: Sequence[int], T: int, num_t: int | None = None) -> np.ndarray:
    """t0 as an array; ValueError unless it is a list of values in 1..T, and num_t a count."""
    floors = np.asarray(t0)
    listed = floors.ndim == 1 and floors.size and floors.dtype.kind in "iu"
    if not listed or floors.min() < 1 or floors.max() > T:
        raise ValueError(f"t0: expected a list of values in 1..{T}, got {t0}")
    floors = floors.astype(np.int32)
    if num_t is not None:
        units.whole("num_t", num_t)
    return floors
