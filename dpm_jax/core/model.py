"""Model: a family, a schedule, a network and a readout; with parameters it becomes a chain."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core import chunks, sampling
from dpm_jax.core import schedule as schedules
from dpm_jax.core.chain import (
    Chain,
    LastStep,
    check_last_step,
    fix_last_step,
    make_chain,
    respace,
)
from dpm_jax.core.family import Array, Family, Params, Reverse
from dpm_jax.core.readout import Range, Readout
from dpm_jax.core.schedule import Schedule


class Model(NamedTuple):
    """A diffusion probabilistic model; its functions are pure, its parameters travel apart."""

    family: Family
    event_shape: tuple[int, ...]
    last_step: LastStep  # "fixed" (App. B.2), "learned", or a function: see chain.py
    learns_schedule: bool  # whether β_2..β_T are parameters (Sec. 2.4.1)
    x0_range: Range  # to which x̂^0 is clamped outside of training
    init: Callable[[Array], Any]  # key -> params
    make: Callable[[Any, Range], Chain]  # params, x0_range -> chain of all T steps
    parts: dict[str, Any]  # the arguments of `build`

    def __repr__(self) -> str:
        last = "function" if callable(self.last_step) else self.last_step
        return f"Model({self.family.name}, event_shape={self.event_shape}, last_step={last})"

    def chain(self, params, steps: int | None = None, clamped: bool = True) -> Chain:
        """The chain of these parameters, in T or (respaced) fewer steps.

        Args:
            params: as `init` makes them.
            steps: 2..T; None: all T.
            clamped: whether x̂^0 is clamped to x0_range, where the model has one. Training does
                without: the gradient would be 0 where it is clamped.

        Raises:
            ValueError: for steps outside 2..T.
        """
        chain = self.make(params, self.x0_range if clamped else None)
        return chain if steps is None else respace(chain, steps)


def build(
    family: Family,
    schedule: Schedule,
    network: Any,
    event_shape: tuple[int, ...],
    readout: str | Readout = "x0",
    variance: str = "eq64",
    last_step: LastStep = "fixed",
    learn_schedule: bool = False,
    x0_range: Range = None,
) -> Model:
    """Assemble a model; nothing is computed but shapes.

    Args:
        family: gaussian.family(), binomial.family(rate), or one of your own (family.py).
        schedule: β_t; with learn_schedule the start of β_2..β_T, and β_1 for good.
        network: a flax.linen module, or anything with ``init(key, x, t, log_snr)`` and
            ``apply(variables, x, t, log_snr)`` -> raw outputs (*event, k), for one example x of the
            event's shape, t an int32 scalar, log_snr a float scalar; k = 2 with a Gaussian readout
            whose variance is learned, else 1.
        event_shape: shape of one example.
        readout: name of the mean (readout.py), or a Readout such as `images.kernel.readout`.
        variance: name of the variance (readout.py), Gaussian only.
        last_step: "fixed" (App. B.2), "learned", or a function (chain.py).
        learn_schedule: learn β_2..β_T (Sec. 2.4.1), where x^t is differentiable in β.
        x0_range: (low, high) of the data: x̂^0 of a readout that has one is clamped to it, outside
            of training. No data lie beyond, so this can only raise K.

    Raises:
        ValueError: for an unknown name, or a network that does not take the event's shape.
    """
    parts = dict(locals())
    if not isinstance(family, Family):
        raise TypeError(f"family: expected a Family such as gaussian.family(), got {family!r}")
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule: expected one such as schedule.geometric(), got {schedule!r}")
    if not isinstance(event_shape, (tuple, list)):
        raise TypeError(f"event_shape: expected a tuple such as (3,), got {event_shape!r}")
    read = readout if isinstance(readout, Readout) else family.readout(readout, variance)
    shape = tuple(units.whole("event_shape", size) for size in event_shape)
    _check(family, shape, last_step, learn_schedule, x0_range)
    x0_range = None if x0_range is None else (float(x0_range[0]), float(x0_range[1]))
    seen = _seen(read, schedule, shape)

    def init(key: Array):
        params = {"network": network.init(key, *_example(seen))}
        if learn_schedule:
            params["beta_logits"] = schedules.to_logits(schedule)
        return params

    def make(params, x0_range: Range) -> Chain:
        if not isinstance(params, Mapping) or "network" not in params:
            got = type(params).__name__
            raise ValueError(f"params: expected those of the model, as init makes them, got {got}")

        def kernel(schedule: Schedule) -> Reverse:
            return _reverse(network, params["network"], read, schedule, x0_range)

        used = schedule
        if learn_schedule:
            used = schedules.learned(schedule.beta[1], params["beta_logits"])
        chain = make_chain(family, used, kernel(used), shape, "learned")
        chain = chain._replace(kernel=kernel, last_step=last_step, kl_per_fold=read.kl_per_fold)
        return fix_last_step(chain) if last_step == "fixed" else chain

    _check_network(init, network, seen, read.outputs)
    return Model(family, shape, last_step, learn_schedule, x0_range, init, make, parts)


def sample(model: Model, params, key: Array, num: int, steps: int | None = None) -> Array:
    """`num` draws x^0, (num, *event), by ancestral sampling in T or fewer (respaced) steps.

    Compiled once for a model, `num` and `steps`: of the last models what was compiled is kept.

    Raises:
        ValueError: for num below 1, steps outside 2..T, or either no whole number.
    """
    num = units.whole("num", num)
    steps = steps if steps is None else units.whole("steps", steps, 2)
    return _sampler(model.make, model.x0_range, steps)(params, jax.random.split(key, num))


@lru_cache(maxsize=16)
def _sampler(make: Callable[[Any, Range], Chain], x0_range: Range, steps: int | None):
    """(params, keys) -> one draw for each key, compiled."""

    @jax.jit
    def draw(params, keys: Array) -> Array:
        chain = make(params, x0_range)
        chain = chain if steps is None else respace(chain, steps)
        most = _at_once(lambda _: chain, chain.shape, params, one_t=True)
        return chunks.mapped(lambda key: sampling.sample(key, chain), keys, most)

    return draw


def at_once(model: Model, params, steps: int | None = None, one_t: bool = False) -> int:
    """How many examples a device takes through the reverse kernel at once (chunks.py).

    Args:
        model, params, steps: as in `Model.chain`.
        one_t: whether all examples are at the same t, as in sampling.
    """
    return _at_once(lambda p: model.chain(p, steps), model.event_shape, params, one_t)


def _at_once(of: Callable[[Any], Chain], shape: tuple[int, ...], params, one_t: bool) -> int:
    x = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    t = jax.ShapeDtypeStruct((), jnp.int32)
    if one_t:
        return chunks.at_once(lambda x, p, t: of(p).reverse(x, t), (x,), (params, t))
    return chunks.at_once(lambda x, t, p: of(p).reverse(x, t), (x, t), (params,))


def _reverse(network, params, read: Readout, schedule: Schedule, x0_range: Range) -> Reverse:
    log_snr = schedule.log_snr

    def reverse(xt: Array, t: Array) -> Params:
        x = xt if read.features is None else read.features(xt, schedule, t)
        raw = network.apply(params, x, schedule.network_t[t], log_snr[t])
        return read.apply(raw, xt, schedule, t, x0_range)

    return reverse


def _check(family, shape, last_step: LastStep, learn_schedule: bool, x0_range: Range) -> None:
    check_last_step(last_step)
    if callable(last_step):
        try:
            value = jax.eval_shape(last_step, family.prior(shape), jnp.zeros(shape))
        except Exception as error:
            raise ValueError(
                f"last_step: expected a function of {family.name} parameters and x^0, got one that"
                f" fails: {error}"
            ) from error
        if value.shape != ():
            raise ValueError(f"last_step: expected scalar nats of a function, got {value.shape}")
    if learn_schedule and not family.reparametrised:
        # The paper fixes the schedule there.
        raise ValueError(
            "learn_schedule: expected a family whose x^t is differentiable in β, such as gaussian;"
            f" got {family.name}"
        )
    try:
        rising = x0_range is None or float(x0_range[0]) < float(x0_range[1])
    except (TypeError, ValueError, IndexError):
        rising = False
    if not rising:
        raise ValueError(f"x0_range: expected (low, high) with low < high, got {x0_range!r}")


def _seen(read: Readout, schedule: Schedule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what the network sees of an event."""
    features = read.features
    if features is None:
        return shape
    x, t, _ = _example(shape)
    return jax.eval_shape(lambda x, t: features(x, schedule, t), x, t).shape


def _example(shape: tuple[int, ...]):
    return jnp.zeros(shape), jnp.ones((), jnp.int32), jnp.zeros(())


def _check_network(init, network, event_shape: tuple[int, ...], outputs: int) -> None:
    """Trace the network once on shapes alone, so that a wrong one fails before any long work."""
    expected = (*event_shape, outputs)
    try:
        params = jax.eval_shape(init, jax.random.key(0))
        raw = jax.eval_shape(network.apply, params["network"], *_example(event_shape))
    except Exception as error:
        raise ValueError(
            f"network: {type(network).__name__} does not take an event of shape {event_shape}:"
            f" {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    if raw.shape != expected:
        raise ValueError(
            f"network: expected raw outputs of shape {expected} (event, then one for the mean"
            f"{' and one for the variance' if outputs == 2 else ''}), got {raw.shape}"
        )
