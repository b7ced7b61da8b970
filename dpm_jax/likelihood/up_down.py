"""Trajectories of eq. 9 that go down before they go up, for the fixed last step (particles.py).

The fixed last step T_π(x^0|x^1; β_1) is one more step of the forward kernel (App. B.2). So where
the model is right up to x^1, its x^0 has the law of the level t' with

    ᾱ_{t'} = ᾱ_1²,                                                                          (1)

more noise than x^1 has; but the paper's order draws x^1 ~ q(x^1|x^0), which adds noise where the
model has taken some away. Of images that is most of what eq. 9 loses. Here x^0 is taken for what it
is, y^{t'} = x^0, and goes down to y^1 = x^1 by the model's kernels, from the last t_1 above t'
(ᾱ_{t_1} > ᾱ_{t'}), then up to x^T by q:

    y^{t_1} ~ ρ(·|x^0);  y^{s-1} ~ p(·|y^s), s = t_1..2;  x^t ~ q(·|x^{t-1}), t = 2..T.     (2)

To weigh it, the y are given a law as well, that of the forward process between its ends:

    q(y^{2..t_1}|x^1, y^{t'} = x^0)
        = Π_{s=2}^{t_1} q(y^s|y^{s-1}) q(x^0|y^{t_1}) / q(x^0|x^1)                            (3)

with q(x^0|y^{t_1}) the kernel of β' = 1 − ᾱ_{t'}/ᾱ_{t_1}. By eq. 1 the last factor is the kernel of
β_1 from x^1, p(x^0|x^1) itself. It cancels in p(x^{0..T}) times eq. 3 over eq. 2:

    −W = log π(x^T) + Σ_{t=2}^T log [p(x^{t-1}|x^t) / q(x^t|x^{t-1})]
       + Σ_{s=2}^{t_1} log [q(y^s|y^{s-1}) / p(y^{s-1}|y^s)]
       + log [q(x^0|y^{t_1}) / ρ(y^{t_1}|x^0)]                                              (4)

and E e^{−W} = p(x^0) exactly, whatever the network is. ρ is q(y^{t_1}|y^{t'} = x^0, x̂^0), with the
network's x̂^0. Given x^0, the model's own x^{1..T} with y from eq. 3 are a draw of the target, under
which E e^{W} = 1/p(x^0).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import gaussian
from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array, Params
from dpm_jax.core.gaussian import Normal


def turn(chain: Chain) -> Array | int:
    """t_1, the last t with ᾱ_t > ᾱ_1² (eq. 1): where a trajectory enters on its way down."""
    level = chain.schedule.log_alpha_bar
    if isinstance(level, jax.core.Tracer):
        return jnp.sum(level > 2 * level[1]) - 1
    known = np.asarray(level)
    return int(np.sum(known > 2 * known[1])) - 1


def start(chain: Chain, x0: Array) -> tuple[Params, Callable[[Array], Params]]:
    """ρ(y^{t_1}|x^0) of eq. 2, and y^{t_1} -> q(x^0|y^{t_1}) of eq. 3.

    ρ is the bridge between x^0 and its x̂^0 for Gaussians; for others the kernel from t_1 + 1
    at x^0, as if that were there.
    """
    first, level = turn(chain), chain.schedule.log_alpha_bar
    beta = -jnp.expm1(2 * level[1] - level[first])
    if isinstance(chain.prior, Normal):
        law = gaussian.bridge(denoised(chain, x0), x0, beta, level[first])
    else:
        law = chain.reverse(x0, jnp.minimum(first + 1, chain.T))
    return law, lambda y: chain.family.step(y, beta)


def denoised(chain: Chain, x0: Array) -> Array:
    """x̂^0 of Gaussian x^0, which bears the noise of the fixed last step."""
    t = jnp.maximum(turn(chain), 2)  # of the network; the kernel at 1 is not its
    return x0_hat(chain.reverse(x0, t).mean, x0, chain.schedule, t)


def between(key: Array, chain: Chain, x_1: Array, x0: Array) -> Array:
    """y^{0..t_1} of the forward process from y^1 = x^1 to y^{t'} = x^0 (eq. 3); y^0 has no meaning.

    Of the event's shape after the axis of s, which has T + 1 levels where the schedule is traced.
    """
    first, level = turn(chain), chain.schedule.log_alpha_bar
    held = jnp.broadcast_to(x_1, ((first if isinstance(first, int) else chain.T) + 1, *x_1.shape))

    def body(s: Array, y: Array) -> Array:
        # Bayes' rule for a step to s and what is left from there to x^0.
        rest = -jnp.expm1(2 * level[1] - level[s])
        law = chain.family.bridge(y[s - 1], x0, rest, level[s] - level[s - 1])
        return y.at[s].set(chain.family.sample(jax.random.fold_in(key, s), law))

    return jax.lax.fori_loop(2, first + 1, body, held)
