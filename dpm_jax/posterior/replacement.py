"""Inpainting by replacement, with resampling: beside the paper's (Sec. 2.5), for comparison.

The known part of x^t is drawn from q(x^t | x^0) at every t, as the network saw it in training,
where the paper's constant delta shows it a clean part in a noisy whole. The hidden part learns of
it one step late; so the steps are taken several times, going forward again by q in between
(Lugmayr et al. 2022, RePaint), which brings the two into agreement as `repeats` grows: a tilt of
its own, with the corrector Gibbs. It has no weights and no evidence.
"""

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Params, checked
from dpm_jax.posterior.correctors import Gibbs
from dpm_jax.posterior.r import seen
from dpm_jax.posterior.tilt import Kernel, tilted


def kernel(chain: Chain, mask: Array, known: Array) -> Kernel:
    """(params, t) -> p~(x^{t-1}|x^t) with q(x^{t-1}|x^0) in the place of the known part: a tilt.

    Args:
        chain: the model's own.
        mask: bool, of the event's shape; True where x^0 is known.
        known: of the event's shape; not read where the mask is False.

    Raises:
        ValueError: for a mask or `known` of another shape than the event, or a mask not bool.
    """
    family, level = chain.family, chain.schedule.log_alpha_bar
    mask, y = seen(chain, mask, "known", known)
    y = checked(family, chain.shape, "known", y).astype(chain.schedule.beta.dtype)

    def replaced(params: Params, t: Array) -> Params:
        noised = family.marginal(y, level[t - 1])
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), noised, params)

    return replaced


def sample(
    key: Array, chain: Chain, mask: Array, known: Array, repeats: int = 10, jump: int = 1
) -> Array:
    """One draw of x^0 given its known part, which comes back exactly.

    Args:
        key: typed PRNG key.
        chain: the model's own.
        mask: bool, of the event's shape; True where x^0 is known.
        known: of the event's shape; not read where the mask is False.
        repeats: times that each step but the last is taken: about T · repeats calls of the network.
        jump: so many steps are taken at once before going forward again.

    Raises:
        ValueError: for repeats below 1, a jump outside 1..T, or what `kernel` refuses.
    """
    repeats = units.whole("repeats", repeats)
    used = tilted(chain, kernel(chain, mask, known))
    x0 = Gibbs(repeats - 1, jump).sample(key, used)
    return jnp.where(mask, jnp.asarray(known, x0.dtype), x0)
