"""Optimizers by name: gradient clipping, a learning-rate schedule, Adam or Muon."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dpm_jax.training import muon

OPTIMIZERS = ("adam", "muon")
Rate = Callable[[float], optax.Schedule]  # peak -> learning rate by the step
LR_SCHEDULES = ("constant", "cosine", "linear")
MUON_RATE = 10.0  # of the learning rate: a step of Muon gives every singular value the same size


def by_name(
    name: str,
    rate: Rate,
    learning_rate: float,
    clip_norm: float,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """The optimizer of that name, its learning rate warmed up and then led to 0.

    Args:
        name: "adam"; or "muon" (Jordan et al. 2024), which steps the kernels of convolutions
            (matrices from all inputs of a unit to the units), and where there are none all
            matrices, along the nearest orthogonal matrix, MUON_RATE times as far, and leaves all
            else to Adam with Nesterov's momentum.
        rate: from `make_rate`: how learning rates go with the steps.
        learning_rate: of Adam, after the warm-up.
        clip_norm: global norm at which gradients are clipped.
        weight_decay: share of the same parameters that a step at a rate of 1 takes off. Muon needs
            it where nothing normalises what a matrix gives: without, all its singular values grow
            with the steps.

    Raises:
        ValueError: for an unknown name.
    """
    _check("optimizer", name, OPTIMIZERS)
    clip = optax.stateless(lambda gradient, _: _clipped(gradient, clip_norm))
    if name == "adam" and not weight_decay:
        return optax.chain(clip, optax.adam(rate(learning_rate)))
    if name == "adam":
        return optax.chain(
            clip, optax.adamw(rate(learning_rate), weight_decay=weight_decay, mask=muon.is_stepped)
        )
    stepped = muon.muon(rate(MUON_RATE * learning_rate), weight_decay, rate(learning_rate))
    return optax.chain(clip, stepped)


def make_rate(lr_schedule: str, num_steps: int, warmup: int) -> Rate:
    """Peak -> learning rate by the step: a linear warm-up to the peak, then to 0 at num_steps.

    Args:
        lr_schedule: constant (no decay), cosine or linear.
        num_steps, warmup: steps in all, and those of the warm-up.

    Raises:
        ValueError: for an unknown lr_schedule.
    """
    _check("lr_schedule", lr_schedule, LR_SCHEDULES)

    def rate(peak: float) -> optax.Schedule:
        decay_steps = max(num_steps - warmup, 1)
        decays = {
            "constant": optax.constant_schedule(peak),
            "cosine": optax.cosine_decay_schedule(peak, decay_steps),
            "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        }
        if not warmup:
            return decays[lr_schedule]
        ramp = optax.linear_schedule(0.0, peak, warmup)
        return optax.join_schedules([ramp, decays[lr_schedule]], [warmup])

    return rate


def _clipped(gradient, most: float):
    """A gradient of global norm `most` or less: one product, that Adam's sums take in passing."""
    scale = jnp.minimum(1.0, most / optax.tree.norm(gradient))
    # Else XLA would form the scale, a division, again for every value.
    scale = jax.lax.optimization_barrier(scale)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradient)


def _check(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{argument}: expected one of {known}, got {value!r}")
