"""What is measured of a network: the functions that a user's run calls, in this process.

`worker` calls `begin` once, then `prepare` for each measurement, which compiles it, and `block`.
"""

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import likelihood, parallel, particles, posterior, training
from dpm_jax.benchmarks import flop, handover, networks, peak, worker
from dpm_jax.core.model import Model, sample
from dpm_jax.likelihood import Rows, bound
from dpm_jax.runs.config import training_options
from dpm_jax.runs.experiment import Config, Problem
from dpm_jax.training import loop, options, step


class Work(NamedTuple):
    """Something to be timed."""

    run: Callable[[int], Any]  # repeats -> what to wait for
    images: float  # examples, or samples, that a repeat is worth
    once: tuple  # (function, *arguments): what XLA and we count the operations of
    times: float  # how often a repeat does that
    steps: int = 1  # of a chain within a repeat: times are told a step of it
    together: int = 1  # repeats of one dispatch, which is never timed in part


class _Held:
    """What this process holds: one network."""

    config: Config
    problem: Problem
    params: Any

    def __init__(self) -> None:
        self.works: dict[str, tuple[Callable[[int], Any], int]] = {}

    @property
    def model(self) -> Model:
        return self.problem.model


_held = _Held()


def begin(name: str, folder: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the problem of a network; what there is to say of it and of the device."""
    begun = time.perf_counter()
    _held.config, _held.problem = networks.problem(name, Path(folder), given)
    _held.params = parallel.replicate(jax.jit(_held.model.init)(jax.random.key(0)))
    leaves = jax.block_until_ready(jax.tree.leaves(_held.params))
    steps = _held.model.chain(_held.params).T
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "T": steps,
        "sample_steps": min(_held.config.get("sample_steps", steps), steps),
        "batch_size": _held.config["batch_size"],
        "setup_seconds": time.perf_counter() - begun,
        "peak": "bfloat16" if _held.config.get("bfloat16") else "float32",
        "has_port": handover.has_port(_held.config),
        "random_data": name.split("/")[0] in networks.RANDOM,
    }


def port() -> handover.Port:
    """What a port of this network needs."""
    return handover.port(_held.config, _held.problem, _held.params)


def schedule(steps: int) -> tuple[np.ndarray, ...]:
    """That of the chain in so many steps."""
    return handover.schedule(_held.model, _held.params, steps)


def device() -> dict[str, Any]:
    """The device and the versions of JAX's world."""
    first = jax.local_devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": first.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def prepare(kind: str, size: int, steps: int) -> dict[str, Any]:
    """Compile a measurement and run it once; what it is worth.

    Args:
        kind: one of measure.SIZES.
        size: images of it, M trajectories of an example, or particles.
        steps: to which chains are respaced; times are told a step of them.
    """
    _held.works.pop(kind, None)
    gc.collect()
    before = _memory()
    worker.forget_peak()
    made: list[Work] = []

    def build(repeats: int) -> None:
        made.append(_MAKE[kind](size, steps))
        jax.block_until_ready(made[0].run(repeats))

    first = worker.timed(build, 1)
    work = made[0]
    again = worker.timed(lambda n: jax.block_until_ready(work.run(n)), 1)
    _held.works[kind] = work.run, work.together
    function, *args = work.once
    xla = flop.by_xla(function, *args)
    return {
        "compile": {name: max(first[name] - again[name], 0.0) for name in first},
        "once": again,
        "images": work.images,
        "steps": work.steps,
        "flop": flop.by_hand(function, *args) * work.times,
        "flop_xla": None if xla is None else xla * work.times,
        "memory": _growth(before),
    }


def grow(kind: str, size: int, steps: int) -> dict[str, Any]:
    """Seconds of a repeat, and bytes by which the process grew in it; compiled before.

    Meant for a process that gives freed memory back, or what it held would be used again.
    """
    work = _MAKE[kind](size, steps)
    jax.block_until_ready(work.run(1))
    gc.collect()
    worker.forget_peak()
    before = _memory()
    took = [worker.timed(lambda n: jax.block_until_ready(work.run(n)), 1) for _ in range(3)]
    seconds = {name: min(each[name] for each in took) for name in took[0]}
    return {"seconds": seconds, "memory": _growth(before)}


def prepare_peak(mode: str) -> float:
    """Compile a mode of `peak`, as a measurement of that name; its operations, or bytes."""
    run, amount = peak.make(mode)
    jax.block_until_ready(run(2))
    _held.works[mode] = run, 1
    return amount


def block(kind: str, repeats: int) -> dict[str, float]:
    """Seconds of some repeats of what was prepared."""
    run, together = _held.works[kind]
    num = -(-repeats // together) * together
    took = worker.timed(lambda n: jax.block_until_ready(run(n)), num)
    return {name: seconds * repeats / num for name, seconds in took.items()}


def _train(size: int, steps: int) -> Work:
    """Training steps, in dispatches as `training.fit` makes them."""
    config, problem = _held.config, _held.problem
    of = training_options({**config, "batch_size": size})
    options.check(of)
    loss = training.objective.loss_of(problem.model, of)
    optimizer = options.make_optimizer(of)
    made = step.make_train_step(loss, optimizer, of, problem.draw or training.draw_rows)
    key = parallel.replicate(jax.random.key(of.seed))
    data = parallel.replicate(jax.tree.map(jnp.asarray, problem.data))
    single = step.make_dispatch(made, looped=False)
    held = [parallel.replicate(training.initial_state(problem.model, of))]
    once = (single, held[0], data, key, jnp.asarray(1, jnp.int32))
    per_dispatch = loop.steps_per_dispatch(problem.model, of)
    dispatch = step.make_dispatch(made, looped=True) if per_dispatch > 1 else single

    def run(repeats: int):
        while repeats:
            num = min(repeats, per_dispatch)
            held[0] = dispatch(held[0], data, key, jnp.asarray(num, jnp.int32))
            repeats -= num
        return held[0]

    like = [jax.tree.map(_shape, arg) for arg in once[1:]]  # the state's memory is taken over
    return Work(run, size, (single, *like), 1, together=per_dispatch)


def _sample(size: int, steps: int) -> Work:
    """`model.sample`, ancestral sampling of so many images at once."""
    model, params = _held.model, _held.params

    def run(repeats: int):
        return [sample(model, params, jax.random.key(i), size, steps) for i in range(repeats)]

    def one(params, keys, x):
        chain = model.chain(params, steps)
        each = jax.vmap(lambda k, x: chain.family.sample(k, chain.reverse(x, jnp.asarray(2))))
        return each(keys, x)

    keys, x = jax.random.split(jax.random.key(0), size), jnp.zeros((size, *model.event_shape))
    return Work(run, size, (one, params, keys, x), steps, steps)


def _K(size: int, steps: int) -> Work:
    """`likelihood.evaluate` of so many test examples, as report.json has K."""
    model, params, passes = _held.model, _held.params, _held.config.get("passes")
    rows, data = Rows(1, _held.problem.prepare), _held.problem.test[:size]

    def run(repeats: int):
        for _ in range(repeats):
            found = likelihood.evaluate(model, params, data, passes, rows=rows)
        return found.K

    chain = model.chain(params)
    terms = passes or chain.T + 1 - chain.first_t
    return Work(run, size, _terms(size), terms)


def _terms(size: int) -> tuple:
    """One term of K of each of so many examples: what all bounds are made of."""
    model = _held.model

    def one(params, keys, x0):
        chain = model.chain(params)
        return jax.vmap(lambda k, x: bound.term(k, chain, x, jnp.asarray(2)))(keys, x0)

    keys = jax.random.split(jax.random.key(0), size)
    return one, _held.params, keys, jnp.zeros((size, *model.event_shape))


def _log_p(size: int, steps: int) -> Work:
    """`likelihood.evaluate_works` of two test examples, M = size trajectories of each."""
    model, params, examples = _held.model, _held.params, _examples(2)
    lanes = _held.problem.budget.lanes

    def run(repeats: int):
        for i in range(repeats):
            rows = Rows(i, at_once=lanes)
            found = likelihood.evaluate_works(model, params, examples, size, steps, rows)
        return found

    return Work(run, 2, _terms(2 * size), steps, steps)


def _particles(size: int, steps: int) -> Work:
    """`particles.sample`: one filter of so many particles, half of an example observed."""
    model, params, known = _held.model, _held.params, jnp.asarray(_examples(1)[0])
    mask = (jnp.arange(known.size) < known.size // 2).reshape(known.shape)

    @jax.jit
    def draw(params, key):
        chain = model.chain(params, steps)
        tilt = posterior.inpaint(chain, mask, known, "noised")
        return particles.sample(key, chain, tilt, size)

    def run(repeats: int):
        for i in range(repeats):
            found = draw(params, jax.random.key(i))
        return found

    return Work(run, 1, _terms(size), steps, steps)


def _examples(num: int) -> np.ndarray:
    rows, prepare = _held.problem.test[:num], _held.problem.prepare
    return np.asarray(rows if prepare is None else prepare(jax.random.key(1), jnp.asarray(rows)))


_MAKE: dict[str, Callable[[int, int], Work]] = {
    "train": _train,
    "sample": _sample,
    "K": _K,
    "log_p": _log_p,
    "particles": _particles,
}


def _shape(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _memory() -> dict[str, int | None]:
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device": stats.get("peak_bytes_in_use"), "process": worker.resident()}


def _growth(before: Mapping[str, int | None]) -> int | None:
    """Bytes: the peak of the device; of a CPU, by how much the process grew, compiler included."""
    now = _memory()
    if now["device"] is not None:
        return now["device"]
    peak = worker.resident(peak=True)
    return None if peak is None or before["process"] is None else peak - before["process"]
