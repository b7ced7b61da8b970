"""Inpainting by replacement, with resampling: beside the paper's (Sec. 2.5), for comparison.

The known part of x^t is drawn from q(x^t | x^0) at every t, as the network saw it in training,
where the paper's constant delta shows it a clean part in a noisy whole. The hidden part learns of
it one step late; so each step is taken several times, going forward again by q(x^t | x^{t-1}) in
between (Lugmayr et al. 2022), which brings the two into agreement as `repeats` grows.

For examples of hundreds of dimensions, where a particle filter of any affordable size is left with
one ancestor, this is the better sampler; it has no weights and no evidence.
"""

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, checked
from dpm_jax.posterior.r import seen


def sample(key: Array, chain: Chain, mask: Array, known: Array, repeats: int = 10) -> Array:
    """One draw of x^0 given its known part, which comes back exactly.

    Args:
        key: typed PRNG key.
        chain: the model's own.
        mask: bool, of the event's shape; True where x^0 is known.
        known: of the event's shape; not read where the mask is False.
        repeats: times that each step is taken; T · repeats evaluations of the kernel.

    Raises:
        ValueError: for repeats below 1, or a mask or `known` of another shape than the event, or a
            mask that is not bool.
    """
    repeats = units.whole("repeats", repeats)
    family, schedule = chain.family, chain.schedule
    mask, y = seen(chain, mask, "known", known)
    y = checked(family, chain.shape, "known", y).astype(schedule.beta.dtype)

    def step(x: Array, t: Array, key: Array):
        key_known, key_back, key_forth = jax.random.split(key, 3)
        as_noisy = sampling.noised(key_known, chain, y, t)
        x_prev = family.sample(key_back, chain.reverse(jnp.where(mask, as_noisy, x), t))
        return x_prev, family.sample(key_forth, family.step(x_prev, schedule.beta[t]))

    def body(x: Array, t: Array):
        keys = jax.random.split(jax.random.fold_in(key, t), repeats)
        x, _ = jax.lax.scan(lambda x, k: (step(x, t, k)[1], None), x, keys[:-1])
        return step(x, t, keys[-1])[0], None

    x0, _ = jax.lax.scan(body, sampling.start(key, chain), jnp.arange(schedule.T, 0, -1))
    return jnp.where(mask, y, x0)
