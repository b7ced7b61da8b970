"""One training step on all devices: a pure function of (state, data, key), compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpm_jax import parallel
from dpm_jax.core.family import Array, numbers
from dpm_jax.training.objective import Loss
from dpm_jax.training.options import Options

DrawBatch = Callable[[Array, Any, int], Array]  # key, data, n -> batch (n, *event)


class TrainState(NamedTuple):
    """All that training carries from step to step; scalars are arrays."""

    step: Array  # int32
    params: Any
    ema: Any  # exponential moving average of params: what is evaluated and sampled
    opt_state: Any
    skipped: Array  # int32: updates left out because loss or gradient was not finite
    bad_run: Array  # int32: how many of them in a row, up to now
    K: Array  # nats: mean of K of the last ~50 batches; −inf before the first good one
    grad_norm: Array  # before clipping; inf before the first batch


def draw_rows(key: Array, data: Array, n: int) -> Array:
    """n rows of data, drawn with replacement."""
    return data[jax.random.randint(key, (n,), 0, data.shape[0])]


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, options: Options, draw: DrawBatch
):
    """One pure training step (state, data, key) -> state, of one device among `parallel`'s."""
    per_device = parallel.check_batch(options.batch_size)

    def train_step(state: TrainState, data, key: Array) -> TrainState:
        step_key = parallel.device_key(jax.random.fold_in(key, state.step))
        key_data, key_loss = jax.random.split(step_key)
        batch = numbers("draw", draw(key_data, data, per_device))
        # The gradient of a mean over devices is not reduced by itself: reduce the gradient.
        found = _gradient(loss, options.microbatches, state.params, key_loss, batch)
        (value, K), gradient = parallel.mean(found)
        norm = optax.tree.norm(gradient).astype(state.grad_norm.dtype)  # under x64 float32 too
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        age = state.step.astype(jnp.float32)
        decay = jnp.minimum(options.ema_decay, (1 + age) / (10 + age))

        def updated(params, ema, opt_state):
            with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises floats to integers
                updates, opt_state = optimizer.update(gradient, opt_state, params)
                params = optax.apply_updates(params, updates)
                return params, optax.incremental_update(params, ema, 1 - decay), opt_state

        params, ema, opt_state = _choose(
            finite, updated, (state.params, state.ema, state.opt_state)
        )
        mean_K = jnp.where(jnp.isfinite(state.K), 0.98 * state.K + 0.02 * K, K)
        return TrainState(
            *(state.step + 1, params, ema, opt_state),
            state.skipped + (1 - finite.astype(jnp.int32)),
            jnp.where(finite, 0, state.bad_run + 1),
            jnp.where(finite, mean_K, state.K),
            norm,
        )

    return train_step


def _choose(take: Array, updated: Callable, old: tuple) -> tuple:
    """updated(*old), or old where that is not to be taken."""
    if jax.default_backend() == "cpu":  # a choice by element would read and write all once more
        return jax.lax.cond(take, updated, lambda *old: old, *old)
    # On a GPU a branch ends what is launched at once: 11 % of a step of the small U-Net.
    return jax.tree.map(lambda a, b: jnp.where(take, a, b), updated(*old), old)


def _gradient(loss: Loss, parts: int, params, key: Array, batch: Array):
    """((loss, K), gradient), the means over so many parts of a batch, one after the other."""
    gradient = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return gradient(params, key, batch)

    def add(total, i: Array):
        found = gradient(params, key, batch, i, parts)
        return jax.tree.map(lambda a, b: a + b / parts, total, found), None

    like = jax.eval_shape(gradient, params, key, batch)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    # On CPU, where memory is not what lacks, the gradient of a convolution is slow inside a loop.
    unrolled = parts if jax.default_backend() == "cpu" else 1
    return jax.lax.scan(add, nothing, jnp.arange(parts), unroll=unrolled)[0]


def make_dispatch(step, looped: bool):
    """Compile `num` steps into one dispatch on all devices: (state, data, key, num) -> state.

    With `looped` False there is no loop in the compiled code and num must be 1: on CPU the gradient
    of a convolution is 30–60 times slower inside a loop. The state's memory is taken over.
    """

    def steps(state: TrainState, data, key: Array, num: Array) -> TrainState:
        if not looped:
            return step(state, data, key)
        return jax.lax.fori_loop(0, num, lambda _, s: step(s, data, key), state)

    return parallel.over_devices(steps, num_args=4, donate=(0,))
