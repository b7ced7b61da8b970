"""Model: a family, a schedule, a network and a readout as pure functions of their parameters."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import bound, discretized, likelihood, linear_skip, posterior, sampling
from dpm_jax import particles as filters
from dpm_jax import readout as readouts
from dpm_jax import schedule as schedules
from dpm_jax.discretized import Bins
from dpm_jax.family import Array, Family, Params, Reverse
from dpm_jax.linear_skip import LinearSkip
from dpm_jax.particles import Particles
from dpm_jax.posterior import Tilt
from dpm_jax.schedule import Schedule
from dpm_jax.thermodynamics import Estimate


class Model(NamedTuple):
    """A diffusion probabilistic model; its functions are pure, its parameters travel apart."""

    family: Family
    event_shape: tuple[int, ...]
    last_step: str  # "fixed" (App. B.2), "learned" or "discretized"
    learns_schedule: bool  # whether β_2..β_T are parameters (Sec. 2.4.1)
    init: Callable[[Array], Any]  # key -> params
    schedule: Callable[[Any], Schedule]  # params -> β_t, learned or not
    reverse: Callable[[Any, Schedule], Reverse]  # params, schedule -> p(x^{t-1}|x^t), last step too
    bins: Bins | None = None  # of integer data, for a discretized last step
    size: Callable[[Array], Array] | None = None  # log-SNR -> KL_t in an e-fold of noise, about

    def time_weights(self, schedule: Schedule) -> Array:
        """The law from which t is drawn for K, (T+1,)."""
        size = None if self.size is None else self.size(schedule.log_snr)
        return bound.time_weights(schedule, self.last, size)

    @property
    def last(self) -> bound.LastStep:
        """What bound and likelihood take as last_step: a name, or the log mass of the bins."""
        if self.bins is None:
            return self.last_step
        return partial(discretized.log_mass, bins=self.bins)


def build(
    family: Family,
    schedule: Schedule,
    network: Any,
    event_shape: tuple[int, ...],
    readout: str = "x0",
    variance: str = "eq64",
    last_step: str = "fixed",
    learn_schedule: bool = False,
    x0_range: tuple[float, float] | None = None,
    bins: Bins | None = None,
    skip: LinearSkip | None = None,
) -> Model:
    """Assemble a model; nothing is computed but shapes.

    Args:
        family: gaussian.family() or binomial.family(rate).
        schedule: β_t; with learn_schedule the start of β_2..β_T, and β_1 for good.
        network: a flax.linen module, or anything with ``init(key, x, t, log_snr)`` and
            ``apply(variables, x, t, log_snr)`` -> raw outputs (*event, k), for one example x of the
            event's shape, t an int32 scalar, log_snr a float scalar; k = 2 with a Gaussian readout
            whose variance is learned, else 1.
        event_shape: shape of one example.
        readout: name of the mean (readout.py).
        variance: name of the variance (readout.py), Gaussian only.
        last_step: "fixed" (App. B.2), "learned", or "discretized": learned, and K bounds the log
            probability of integers, whose x^0 are the centres of `bins` (discretized.py).
        learn_schedule: learn β_2..β_T (Sec. 2.4.1), Gaussian only.
        x0_range: clamp of x̂^0 (readout.py).
        bins: of the data, with "discretized" alone (discretized.bins).
        skip: from `linear_skip.fit`, with readout "skip"; the network then takes (H, W, 2C), and
            gives one output for each of these channels.

    Raises:
        ValueError: for an unknown name, or a network that does not take the event's shape.
    """
    bins = _check_last_step(family, last_step, bins)
    if learn_schedule and family.name != "gaussian":
        # x^t is not a differentiable function of β for bits; the paper fixes the schedule there.
        raise ValueError(f"learn_schedule: expected a gaussian family, got {family.name}")
    read = readouts.by_name(family, readout, variance, x0_range, skip)
    seen = (*event_shape[:-1], 2 * event_shape[-1]) if read.look else tuple(event_shape)

    def init(key: Array):
        params = {"network": network.init(key, *_example(seen))}
        if learn_schedule:
            params["beta_logits"] = schedules.to_logits(schedule)
        return params

    def schedule_of(params) -> Schedule:
        if not learn_schedule:
            return schedule
        return schedules.learned(schedule.beta[1], params["beta_logits"])

    def reverse_of(params, steps: Schedule) -> Reverse:
        log_snr = steps.log_snr

        def reverse(xt: Array, t: Array) -> Params:
            x = xt if read.look is None else read.look(xt, steps, t)
            raw = network.apply(params["network"], x, steps.network_t[t], log_snr[t])
            return read.apply(raw, xt, steps, t)

        if last_step == "fixed":
            return bound.fix_last_step(family, steps, reverse)
        return reverse

    _check_network(init, network, seen, read.outputs)
    shape = tuple(event_shape)
    size = None if skip is None else _size(skip)
    return Model(
        family, shape, last_step, learn_schedule, init, schedule_of, reverse_of, bins, size
    )


def sample(
    model: Model,
    params,
    key: Array,
    num: int,
    steps: int | None = None,
    tilt: Tilt | None = None,
    start: Params | None = None,
) -> Array:
    """`num` draws x^0, (num, *event), by ancestral sampling in T or fewer (respaced) steps.

    Args:
        model: from `build`.
        params: its parameters.
        key: typed PRNG key.
        num: number of draws.
        steps: respace the chain to so many steps.
        tilt: from `posterior`, for the schedule `respaced(model, params, steps)`: draws by the
            kernels of eq. 22 as the paper does. `particles` gives draws without their bias.
        start: law of x^T; by default π, with a tilt π r.

    Raises:
        ValueError: for a tilt of another T.

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, unless under jit.
    """
    schedule = respaced(model, params, steps)
    reverse = model.reverse(params, schedule)
    if tilt is not None:
        _check_tilt(model, schedule, reverse, tilt, key)
        reverse = posterior.tilted(reverse, tilt)
        if start is None:
            start = posterior.start(model.family, tilt, schedule, model.event_shape)
    draw = jax.vmap(
        lambda k: sampling.sample(k, model.family, schedule, reverse, model.event_shape, start)
    )
    return draw(jax.random.split(key, num))


def particles(
    model: Model,
    params,
    key: Array,
    tilt: Tilt,
    num: int,
    steps: int | None = None,
    threshold: float = 0.8,
) -> Particles:
    """`num` weighted draws of p~(x^0) ∝ p(x^0) r(x^0) (eq. 21), exact as num grows; log Z~ in nats.

    Arguments as in `sample`, threshold as in `particles.sample`; how="noised" serves best.

    Raises:
        ValueError: as `particles.sample`; where no weight is left, unless under jit.
    """
    schedule = respaced(model, params, steps)
    reverse = model.reverse(params, schedule)
    _check_tilt(model, schedule, reverse, tilt, key)
    shape = model.event_shape
    found = filters.sample(key, model.family, schedule, reverse, tilt, shape, num, threshold)
    return found if isinstance(key, jax.core.Tracer) else filters.check(found)


def _check_tilt(model: Model, schedule: Schedule, reverse: Reverse, tilt: Tilt, key: Array) -> None:
    if tilt.T != schedule.T:
        raise ValueError(f"tilt: expected one of T = {schedule.T}, got T = {tilt.T}")
    if tilt.curvature is None or isinstance(key, jax.core.Tracer):
        return
    size = posterior.curvature(key, model.family, schedule, reverse, tilt, model.event_shape)
    if not isinstance(size, jax.core.Tracer) and not size < posterior.REACH:
        warnings.warn(
            f"perturb: the first-order form (eq. 61) needs small Σ ∂²log r, got {float(size):.3g}"
            " (at 0.5 it goes half too far, above 2 it diverges): more steps, a weaker r,"
            " or `denoise` where r is Gaussian",
            stacklevel=3,
        )


def log_likelihood_bound(
    model: Model, params, key: Array, x0: Array, steps: int | None = None
) -> bound.Bound:
    """K and L_null (eq. 14), (n,) nats each, of a batch (n, *event): the sum over every t.

    Each K has one draw of x^t at every t: an unbiased estimate of a bound on log p(x^0), or on its
    log probability where the last step is discretized.
    """
    schedule = respaced(model, params, steps)
    reverse = model.reverse(params, schedule)
    each = jax.vmap(lambda k, x: bound.exact(k, model.family, schedule, reverse, x, model.last))
    return each(jax.random.split(key, x0.shape[0]), x0)


def log_likelihood(
    model: Model,
    params,
    key: Array,
    x0: Array,
    num: int = 64,
    steps: int | None = None,
    chunk: int = 64,
) -> Estimate:
    """log p(x^0) itself (eq. 9), an Estimate of arrays (n,), nats, of a batch (n, *event).

    Each example is estimated from `num` trajectories, `chunk` of them at once; where its `ess` is
    below 2, `value` is a lower bound and no more (thermodynamics.Estimate).
    """
    schedule = respaced(model, params, steps)
    reverse = model.reverse(params, schedule)
    each = jax.vmap(
        lambda k, x: likelihood.estimate(
            k, model.family, schedule, reverse, x, num, chunk, model.last
        )
    )
    return each(jax.random.split(key, x0.shape[0]), x0)


def respaced(model: Model, params, steps: int | None) -> Schedule:
    """The model's schedule, or a subset of `steps` of its t where steps is given."""
    schedule = model.schedule(params)
    return schedule if steps is None else schedules.respace(schedule, steps)


def _check_last_step(family: Family, last_step: str, bins: Bins | None) -> Bins | None:
    known = (*bound.LAST_STEPS, "discretized")
    if last_step not in known:
        raise ValueError(f"last_step: expected one of {known}, got {last_step!r}")
    if last_step == "discretized" and family.name != "gaussian":
        raise ValueError(f"last_step: 'discretized' expects a gaussian family, got {family.name}")
    if (bins is not None) != (last_step == "discretized"):
        raise ValueError(
            f"bins: expected with last_step 'discretized' alone, got {bins} with {last_step!r}"
        )
    return None if bins is None else discretized.check(bins)


def _size(skip: LinearSkip) -> Callable[[Array], Array]:
    """KL_t of the Gaussian law by the log-SNR, from a table: every training step asks for it."""
    at = np.linspace(-20, 20, 161)  # where Schedule.log_snr lies
    table = linear_skip.resolved(skip, at)
    return lambda log_snr: jnp.interp(
        log_snr, *(jnp.asarray(v, log_snr.dtype) for v in (at, table))
    )


def _example(event_shape: tuple[int, ...]):
    return jnp.zeros(event_shape), jnp.ones((), jnp.int32), jnp.zeros(())


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
