"""The training loop: maximise K (eq. 15) by stochastic gradients; one pure step, on all devices.

A step is a pure function of (state, data, seed): which examples, t and noise it takes all come
from fold_in(seed, step), so that a run killed and resumed equals one that was not, to the bit.
"""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import hosts, parallel
from dpm_jax.core.family import Array, checked, numbers
from dpm_jax.core.model import Model
from dpm_jax.data.streaming import Stream
from dpm_jax.training.objective import loss_of
from dpm_jax.training.options import Options, check, make_optimizer
from dpm_jax.training.step import DrawBatch, TrainState, draw_rows, make_dispatch, make_train_step
from dpm_jax.training.watch import shown, watched

MAX_BAD_RUN = 10  # non-finite updates in a row that end a run
DISPATCH_SECONDS = 2.0  # at most, about: how long a bar stands and Ctrl-C waits


class Diverged(RuntimeError):
    """Training stopped: too many non-finite updates in a row."""


def fit(
    model: Model,
    data: Any,
    options: Options,
    draw: DrawBatch | None = None,
    state: TrainState | None = None,
    checkpoints=None,
    on_log: Callable[[TrainState], None] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Any = True,
) -> TrainState:
    """Train a model, from its last checkpoint where there is one.

    Args:
        model: from `model.build`.
        data: array (n, *event), or any pytree that `draw` understands; stays on the device. Or a
            `streaming.Stream`, of which each step reads its batch from disk.
        options: how to train.
        draw: (key, data, n) -> batch (n, *event); None: rows of `data` with replacement. Of a
            Stream, data are the n rows of this step.
        state: where to start; None: the last checkpoint, or step 0. Its memory is taken over.
        checkpoints: a `checkpoint.Checkpoints`, or None.
        on_log: called with the state every options.log_every steps; the next step takes over the
            state's memory, so copy what is to be kept.
        stop: asked after each dispatch; True ends the training early, with a checkpoint.
        progress: True: a bar on standard error; False: nothing is printed; or a bar of your own,
            whose update(steps) is called after each dispatch.

    Returns:
        The final state; ``state.ema`` are the parameters to use.

    Raises:
        ValueError: for bad options or data, before any work.
        Diverged: after MAX_BAD_RUN non-finite updates in a row.
    """
    check(options)
    streams = isinstance(data, Stream)
    if draw is None and not streams:
        data = checked(model.family, model.event_shape, "data", data, many=True)
    _check_data(model, data, draw, options)
    if state is None:
        state = initial_state(model, options, checkpoints)
    loss = loss_of(model, options)
    draw = _shard(draw) if streams else draw or draw_rows
    step = make_train_step(loss, make_optimizer(options), options, draw)
    per_dispatch = 1
    if not streams:
        per_dispatch = steps_per_dispatch(model, options)
    dispatch = make_dispatch(step, looped=per_dispatch > 1)
    start = int(state.step)
    with contextlib.ExitStack() as held:
        if checkpoints is not None:
            held.callback(checkpoints.settle)
        feed = held.enter_context(contextlib.closing(_feed(data, options, start)))
        seen = held.enter_context(shown(progress, start, options.num_steps, on_log))
        state = parallel.replicate(state)
        return _loop(state, feed, options, dispatch, per_dispatch, checkpoints, seen, stop)


def _feed(data: Any, options: Options, start: int) -> Generator[Any]:
    """What each dispatch is given of the data: all of them, or the rows of one step."""
    if not isinstance(data, Stream):
        data = parallel.replicate(jax.tree.map(jnp.asarray, data))
        while True:
            yield data
    steps = range(start, options.num_steps)
    mine = parallel.my_rows(options.batch_size)
    made = data.batches(options.batch_size, options.seed, steps, mine)
    with contextlib.closing(made) as batches:
        for batch in batches:
            yield parallel.replicate(jax.tree.map(jnp.asarray, batch))


def _shard(draw: DrawBatch | None) -> DrawBatch:
    """`draw` on this device's share of the rows of a step."""

    def shared(key: Array, rows: Array, n: int) -> Array:
        mine = parallel.shard(rows, n)
        return mine if draw is None else draw(key, mine, n)

    return shared


def initial_state(model: Model, options: Options, checkpoints=None, params=None) -> TrainState:
    """The last checkpoint that reads whole, else the state at step 0.

    Args:
        model: from `model.build`.
        options: how to train.
        checkpoints: a `checkpoint.Checkpoints`, or None.
        params: where step 0 starts; None: `model.init`.

    Raises:
        ValueError: for a checkpoint of another tree or shape; names the difference.
        checkpoint.CheckpointError: where there are checkpoints and all are damaged.
    """
    start = _state_at_0(model, make_optimizer(options), options.seed, params)
    restored = None if checkpoints is None else checkpoints.restore(start)
    return start if restored is None else restored[1]


def _state_at_0(model: Model, optimizer, seed: int, params=None) -> TrainState:
    @jax.jit  # one program, where each parameter would be some
    def start(params) -> TrainState:
        if params is None:
            params = model.init(jax.random.fold_in(jax.random.key(seed), 0x1A17))
        params, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))  # both are donated
        zero = jnp.zeros((4,), jnp.int32)
        unknown = jnp.full((), jnp.inf, jnp.result_type(float))  # no NaN: JAX_DEBUG_NANS
        return TrainState(
            zero[0], params, ema, optimizer.init(params), zero[1], zero[2], -unknown, unknown
        )

    return start(params)


def _loop(state, feed, options, dispatch, per_dispatch, checkpoints, seen, stop) -> TrainState:
    key = parallel.replicate(jax.random.key(options.seed))
    step = int(state.step)
    blocking = jax.default_backend() == "cpu" and parallel.count() > 1
    saved = step if checkpoints is not None and step else None  # nothing is saved at step 0
    pace = _Pace(per_dispatch)
    with watched() as beat:
        while step < options.num_steps:
            ahead = [pace.most, options.num_steps - step]
            marks = (options.log_every, options.checkpoint_every)
            num = min(ahead + [every - step % every for every in marks])
            state = dispatch(state, next(feed), key, jnp.asarray(num, jnp.int32))
            pace.dispatched(num, state)
            step += num
            last = step == options.num_steps or (stop is not None and stop())
            if blocking:  # collectives of several queued steps can deadlock on few cores
                jax.block_until_ready(state)
            beat()
            seen.step(num)
            if step % options.log_every == 0 or last:
                _stop_if_diverged(state, saved)
                seen.log(state)
            if checkpoints is not None and (step % options.checkpoint_every == 0 or last):
                _stop_if_diverged(state, saved)
                checkpoints.save(step, state, wait=last)
                saved = step
            if last:
                break
    return state


class _Pace:
    """How many steps a dispatch may have: what the second says takes DISPATCH_SECONDS."""

    def __init__(self, most: int):
        self.most, self._count, self._begun = most, 0, 0.0

    def dispatched(self, num: int, state: TrainState) -> None:
        self._count += 1
        if self.most == 1 or self._count > 2:
            return
        jax.block_until_ready(state)
        now = time.monotonic()
        if self._count == 2:  # the first compiles; alike in every process, or none would go on
            fit = int(num * DISPATCH_SECONDS / max(now - self._begun, 1e-9))
            self.most = hosts.on_first(lambda: max(1, min(self.most, fit)))
        self._begun = now


def _stop_if_diverged(state: TrainState, saved: int | None) -> None:
    if int(state.bad_run) < MAX_BAD_RUN:
        return
    kept = f"last good checkpoint: step {saved}" if saved else "no checkpoint was saved"
    raise Diverged(
        f"training stopped at step {int(state.step)}: {int(state.bad_run)} updates in a row had a"
        f" loss or gradient that is not finite ({int(state.skipped)} in all); {kept}."
        " Try a lower learning_rate or clip_norm, in a new run"
    )


def steps_per_dispatch(model: Model, options: Options) -> int:
    """How many steps a dispatch has at most: as asked for, or one where a loop would slow it."""
    if options.steps_per_dispatch:
        return options.steps_per_dispatch
    if jax.default_backend() != "cpu":
        return options.log_every
    params = jax.eval_shape(model.init, jax.random.key(0))
    example = jax.ShapeDtypeStruct(model.event_shape, jnp.result_type(float))
    t = jax.ShapeDtypeStruct((), jnp.int32)

    def kernel(p, x, t):
        return model.chain(p).reverse(x, t)

    made = str(jax.make_jaxpr(kernel)(params, example, t))
    convolves = "conv_general_dilated" in made or "convolve" in made  # lax's, networks' own
    return 1 if convolves else options.log_every


def _check_data(model: Model, data: Any, draw: DrawBatch | None, options: Options) -> None:
    """Refuse data, or a first batch of what is read or drawn, outside the family's support."""
    n = parallel.check_batch(options.batch_size)
    rows, name = data, "data"
    if isinstance(data, Stream):
        rows = next(data.batches(n, 0, [0]))
    if draw is not None:
        once = parallel.over_devices(lambda key, d: draw(key, d, n), num_args=2)
        rows, name = once(jax.random.key(0), jax.tree.map(jnp.asarray, rows)), "draw"
        rows = np.nan_to_num(numbers(name, rows))  # updates that are not finite are left out
    rows = checked(model.family, model.event_shape, name, rows, many=True)
    if draw is None and model.family.trainable is not None:
        model.family.trainable(np.asarray(rows))
