"""What training minimises: −K (eq. 15), or its terms with the weights of a squared error of v."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core.family import Array
from dpm_jax.core.model import Model
from dpm_jax.likelihood import bound
from dpm_jax.training.options import MEDIAN_NOISE, Options

# params, key, batch, i, m -> loss, K in nats; of the i-th of m parts of the batch, or of all
Loss = Callable[..., tuple[Array, Array]]


def make_loss(
    model: Model,
    objective: str = "bound",
    num_t: int = -1,
    remat: bool = False,
    median_noise: float = 0.5,
) -> Loss:
    """The loss of one batch on one device: params, key, batch (n, *event) -> loss, mean K in nats.

    With two more arguments, i and m, of the i-th of m equal parts of the batch, whose draws are
    those of the whole: the mean over the parts is the loss of the batch, to rounding.

    Args:
        model: its schedule too is a function of params, so β is learned by the same gradient.
        objective: "bound": −K per dimension (eq. 15). "v": the same terms with weights that make
            them the mean squared error of v, with noise levels as in a cosine schedule.
        num_t: distinct t drawn for a batch, a divisor of it; −1: one for each example; 0: the exact
            sum over all t.
        remat: with the sum over all t, compute it again for the gradient, √T terms at a time.
        median_noise: of objective "v", 1−ᾱ below which half of the t are drawn, in 0.001..0.999.

    Raises:
        ValueError: for a median_noise out of its bounds; for objective "v" with anything but random
            t, a Gaussian family, a fixed last step and a fixed schedule: elsewhere it is no bound's
            gradient.
    """
    plain = model.last_step == "fixed" and not model.learns_schedule
    v_weights = model.family.v_weights if objective == "v" else None
    if objective == "v" and (num_t == 0 or v_weights is None or not plain):
        raise ValueError(
            "objective: 'v' expects num_t other than 0, a Gaussian family, a fixed last step and a"
            f" fixed schedule; got num_t={num_t}, {model.family.name}, last_step={model.last_step},"
            f" learned schedule={model.learns_schedule}"
        )
    units.within("median_noise", median_noise, *MEDIAN_NOISE)
    if num_t == 0:
        return _all_t(model, remat)
    return _random_t(model, num_t, v_weights, median_noise)


def loss_of(model: Model, options: Options) -> Loss:
    """The loss that the options name."""
    return make_loss(model, options.objective, options.num_t, options.remat, options.median_noise)


def _all_t(model: Model, remat: bool) -> Loss:
    def loss(params, key: Array, batch: Array, i: Array | int = 0, of: int = 1):
        chain = model.chain(params, clamped=False)
        # Side by side, not by scan: the gradient of a scan would add a full gradient of the weights
        # at every t, which readouts of their own for each of 2000 t make many times dearer.
        t = jnp.arange(chain.first_t, chain.T + 1)
        draws = jax.random.split(key, (t.shape[0], of, batch.shape[0] // of))[:, i]
        batch = _part(batch, i, of)

        def one(key: Array, x: Array, t: Array) -> Array:
            return bound.term(key, chain, x, t)

        def at(step) -> Array:
            draws, t = step
            return jax.vmap(one, (0, 0, None))(draws, batch, t)

        if remat:
            terms = jax.lax.map(jax.checkpoint(at), (draws, t), batch_size=math.isqrt(t.size))
        else:
            terms = jax.vmap(at)((draws, t))
        known = jax.vmap(lambda x: bound.ends(chain, x))(batch)
        K = jnp.mean(known) + jnp.sum(jnp.mean(terms, axis=1))
        return -K / batch[0].size, K

    return loss


def _random_t(model: Model, num_t: int, v_weights: Callable | None, median_noise: float) -> Loss:
    def loss(params, key: Array, batch: Array, i: Array | int = 0, of: int = 1):
        chain = model.chain(params, clamped=False)
        law, weight = (None, None) if v_weights is None else v_weights(chain.schedule, median_noise)
        found = bound.draw_terms(key, chain, batch, num_t, law, (i, of))
        known = jnp.mean(jax.vmap(lambda x: bound.ends(chain, x))(_part(batch, i, of)))
        K = known + jnp.mean(found.term / found.probability)
        if weight is not None:
            return -jnp.mean(found.term * weight[found.t]) / batch[0].size, K
        return -K / batch[0].size, K

    return loss


def _part(batch: Array, i: Array | int, of: int) -> Array:
    return batch if of == 1 else batch.reshape(of, -1, *batch.shape[1:])[i]
