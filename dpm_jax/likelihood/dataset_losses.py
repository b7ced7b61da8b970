"""Where log p is lost along trajectories, over a data set: the paper's order and down before up.

KL_t says what K spends at t, most of which any code must; this is what is spent in vain. Up to a
level t the dissipation of trajectories is KL(their law ‖ the model's, given x^0), and its mean that
of −log g_t ψ_t over what p(x^0) is, with g_t the weight so far and ψ_t the model's own marginal by
its score (twist.py, particles.py), known up to a factor of t. That cancels against an estimate by
the same g_t ψ_t, the logarithm of their mean over the trajectories of the better order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core.family import Array
from dpm_jax.core.model import Model
from dpm_jax.likelihood import particles, twist
from dpm_jax.likelihood.proposal import Proposal, default
from dpm_jax.likelihood.rows import Rows, check_counts, check_rows, over_rows

_AT_ONCE = 1024  # trajectories a device holds
_LEVELS = 32


class Losses(NamedTuple):
    """Dissipation of trajectories up to each level, means over examples: (levels,) float64 nats.

    At T it is log p + ⟨W⟩. A lower bound, in the mean, where `num` trajectories miss log p.
    """

    t: np.ndarray  # rising, the last is T
    paper: np.ndarray  # of the paper's order
    down: np.ndarray  # of down before up, on the way down; NaN above t_1 and without it
    up: np.ndarray  # and on the way up; NaN without it


def evaluate_losses(
    model: Model,
    params,
    data,
    num: int = 16,
    steps: int | None = None,
    rows: Rows = Rows(),
) -> Losses:
    """Where log p is lost (eq. 9), by level: `num` trajectories of each row in each order it has.

    Raises:
        ValueError: for no data, num below 2, rows.at_once below 1, or a chain without a score
            (bits).
    """
    num = units.whole("num", num, 2)
    data = check_rows(model, data, rows)
    check_counts(data=len(data), at_once=rows.at_once)
    chain = model.chain(params, steps)
    twist.check(chain)
    orders = ("paper", "up_down") if default(chain) == "up_down" else ("paper",)
    levels = np.unique(np.geomspace(chain.first_t, chain.T, _LEVELS).round().astype(int)).tolist()
    levels = tuple(levels)

    def kernel(params, part: Array, key: Array) -> Array:
        key_rows, key_walk = jax.random.split(key)
        x0, chain = rows.examples(key_rows, part), model.chain(params, steps)

        def one(k: Array, x: Array) -> Array:
            found = [
                particles.log_weights(k, chain, x, Proposal(order, num, threshold=0), levels)
                for order in orders
            ]
            (none, paper), (down, up) = found[0], found[-1]
            up = up if len(orders) > 1 else none
            each = jnp.stack([paper, down, up])
            log_p = jax.nn.logsumexp(each, axis=2) - np.log(num)
            best = log_p[2 if len(orders) > 1 else 0]
            return jnp.stack([best, log_p[1], best]) - jnp.mean(each, axis=2)

        return jax.vmap(one)(jax.random.split(key_walk, len(x0)), x0)

    per_device = max(1, (rows.at_once or _AT_ONCE) // num)
    parts = np.concatenate(list(over_rows(kernel, params, data, per_device, rows)))
    return Losses(np.asarray(levels), *parts.mean(axis=0))
