"""What training minimises: −K (eq. 15), or its terms with the weights of a squared error of v."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpm_jax import bound
from dpm_jax.family import Array
from dpm_jax.model import Model
from dpm_jax.schedule import Schedule

Loss = Callable[[Any, Array, Array], tuple[Array, Array]]  # params, key, batch -> loss, K in nats
OBJECTIVES = ("bound", "v")


def make_loss(model: Model, objective: str = "bound", num_t: int | None = None) -> Loss:
    """The loss of one batch on one device: params, key, batch (n, *event) -> loss, mean K in nats.

    Args:
        model: its schedule too is a function of params, so β is learned by the same gradient.
        objective: "bound": −K per dimension (eq. 15). "v": the same terms with weights that make
            them the mean squared error of v, with noise levels as in the cosine schedule.
        num_t: as in `bound.draw_terms`; 0: the exact sum over all t.

    Raises:
        ValueError: objective "v" with anything but random t, a Gaussian family, a fixed last step
            and a fixed schedule: elsewhere it is no bound's gradient.
    """
    plain = model.family.name == "gaussian" and model.last_step == "fixed"
    if objective == "v" and (num_t == 0 or not plain or model.learns_schedule):
        raise ValueError(
            "objective: 'v' expects num_t other than 0, a Gaussian family, a fixed last step and a"
            f" fixed schedule; got num_t={num_t}, {model.family.name}, last_step={model.last_step},"
            f" learned schedule={model.learns_schedule}"
        )

    def all_t(params, key: Array, batch: Array):
        schedule = model.schedule(params)
        reverse = model.reverse(params, schedule)
        family, last_step = model.family, model.last
        # Side by side, not by scan: the gradient of a scan would add a full gradient of the weights
        # at every t, which readouts of their own for each of 2000 t make many times dearer.
        t = jnp.arange(bound.first_t(last_step), schedule.T + 1)

        def one(key: Array, x: Array, t: Array) -> Array:
            return bound.term(key, family, schedule, reverse, x, t, last_step)

        draws = jax.random.split(key, (t.shape[0], batch.shape[0]))
        terms = jax.vmap(jax.vmap(one, (0, 0, None)), (0, None, 0))(draws, batch, t)
        known = jax.vmap(lambda x: bound.ends(family, schedule, x, last_step))(batch)
        K = jnp.mean(known) + jnp.sum(jnp.mean(terms, axis=1))
        return -K / batch[0].size, K

    def random_t(params, key: Array, batch: Array):
        schedule = model.schedule(params)
        reverse = model.reverse(params, schedule)
        family, last_step = model.family, model.last
        if objective == "v":
            law, weights = v_weights(schedule)
        else:
            law, weights = model.time_weights(schedule), jnp.ones_like(schedule.beta)
        draws = bound.draw_terms(key, family, schedule, reverse, batch, law, num_t, last_step)
        known = jnp.mean(jax.vmap(lambda x: bound.ends(family, schedule, x, last_step))(batch))
        terms = draws.term / draws.probability
        K = known + jnp.mean(terms)
        if objective == "v":
            return -jnp.mean(draws.term * weights[draws.t]) / batch[0].size, K
        return -K / batch[0].size, K

    return all_t if num_t == 0 else random_t


def v_weights(schedule: Schedule) -> tuple[Array, Array]:
    """Law of t and weights (T+1,) under which the terms of K are the mean squared error of v.

    With Σ = β̃_t, KL_t = ½ (SNR_{t−1} − SNR_t) |x̂^0 − x^0|² and |v̂ − v|² = |x̂^0 − x^0|²/(1−ᾱ_t), so
    the weight is 2 (1−ᾱ_{t−1})/(ᾱ_{t−1} β_t). Noise levels are drawn uniform in the angle
    arctan √((1−ᾱ)/ᾱ), as the cosine schedule has them, whatever the schedule is.
    """
    ratio = schedule.noise / jnp.maximum(schedule.alpha_bar, 1e-12)  # infinite where ᾱ_T = 0
    law = jnp.diff(jnp.arctan(jnp.sqrt(ratio[1:])), prepend=jnp.zeros(2))
    law = jnp.maximum(law.at[1].set(0.0), 0.0)
    before = ratio[:-1]
    weights = 2 * before / jnp.maximum(schedule.beta[1:], 1e-12)
    return law / jnp.sum(law), jnp.concatenate([jnp.zeros(1), weights])
