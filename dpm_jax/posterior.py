"""Posteriors: a trained model times any r(x), p~(x^0) ∝ p(x^0) r(x^0) (Sec. 2.5, App. C).

One idea: a tilt multiplies the reverse kernel of step t by r(x^{t-1}),

    p~(x^{t-1} | x^t) = p(x^{t-1} | x^t) r(x^{t-1}) / Z~_{t-1}(x^t),                        eq. 22

and π by r(x^T), as if by a step T + 1. `tilted` makes a reverse kernel of it that every sampler
takes. For t > 0 the r(x^t) is ours to choose (eq. 23); the choices have names:

* "constant"  r(x^t) = r(x^0): the paper's, eq. 23
* "annealed"  r(x^t) = r(x^0)^((T−t)/T), the paper's alternative
* "noised"    r(x^t) = E[r(x^0) | x^t] for x^0 ~ π: r as one sees it through q(x^t | x^0)

Samples of these kernels alone are biased: eq. 22 normalises away the factor Z~_{t-1}(x^t)/r(x^t) of
the exact eq. 21. `particles` keeps it, as the weights of a particle filter; its answer is exact as
the number of particles grows, whatever r(x^t) > 0 is at t > 0.

Conventions: family.py; r is in nats as log r, always up to a factor at t > 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.family import Array, Family, Params, Reverse
from dpm_jax.schedule import Schedule

HOW = ("constant", "annealed", "noised")
Kernel = Callable[[Params, Array], Params]  # params, t -> params
REACH = 0.5  # of the first-order form: the largest Σ ∂²log r at which it is not warned of


class Tilt(NamedTuple):
    """r(x^t) for all t, and what it makes of a kernel; `tilt(params, t)` is eq. 22.

    In all three, params are those of p(x^{t-1} | x^t), t runs from 1 to T + 1, and the step T + 1
    is the prior. log_z is the log Z~_{t-1}(x^t) of eq. 22 where the product is exact; of a
    first-order tilt it is p r/p~ at the x^{t-1} that was drawn, and varies with it.
    """

    T: int  # steps of the schedule it was made for
    apply: Callable[[Params, Array], Params]  # params, t -> p~(x^{t-1}|x^t)
    log_r: Callable[[Array, Array], Array]  # x^t, t in 1..T -> log r(x^t)
    log_z: Callable[[Params, Array, Array], Array]  # params, x^{t-1}, t -> log p r / p~
    curvature: Callable[[Params, Array], Array] | None = None  # of a first-order tilt (eq. 61)
    singular: bool = False  # r(x^t) is a delta at t > 0, of which `particles` has no weight

    def __call__(self, params: Params, t: Array) -> Params:
        """p~(x^{t-1} | x^t) (eq. 22) from the parameters of p(x^{t-1} | x^t)."""
        return self.apply(params, t)


def tilted(reverse: Reverse, tilt: Tilt | Kernel) -> Reverse:
    """The reverse kernel p~(x^{t-1} | x^t) of eq. 22; any (params, t) -> params is a tilt."""
    return lambda xt, t: tilt(reverse(xt, t), t)


def start(family: Family, tilt: Tilt | Kernel, schedule: Schedule, shape) -> Params:
    """p~(x^T) ∝ π(x^T) r(x^T), for ``start=`` of `sampling.sample`."""
    return tilt(family.prior(shape), jnp.asarray(schedule.T + 1))


def compose(*tilts: Tilt) -> Tilt:
    """The product of several r: their tilts one after the other.

    Raises:
        ValueError: for no tilts, or tilts of schedules of different length.
    """
    if not tilts or len({tilt.T for tilt in tilts}) > 1:
        raise ValueError(f"tilts: expected some of one T, got T = {[tilt.T for tilt in tilts]}")
    if len(tilts) == 1:
        return tilts[0]
    first, rest = tilts[0], compose(*tilts[1:])

    def log_z(params: Params, x: Array, t: Array) -> Array:
        return first.log_z(params, x, t) + rest.log_z(first(params, t), x, t)

    def curvature(params: Params, t: Array) -> Array:
        each = ((first, params), (rest, first(params, t)))  # of each where it is applied
        parts = [tilt.curvature(p, t) for tilt, p in each if tilt.curvature]
        return jnp.sum(jnp.stack(parts))  # no less than that of the product

    return Tilt(
        first.T,
        lambda params, t: rest(first(params, t), t),
        lambda x, t: first.log_r(x, t) + rest.log_r(x, t),
        log_z,
        curvature if first.curvature or rest.curvature else None,
        first.singular or rest.singular,
    )


def inpaint(
    family: Family, schedule: Schedule, mask: Array, known: Array, how: str = "constant"
) -> Tilt:
    """r = delta on known coordinates, constant elsewhere (eq. 22, 23): they come back exactly.

    Args:
        family: a column of Table App.1.
        schedule: of the chain that will be sampled.
        mask: bool, of the event's shape; True where x^0 is known.
        known: of the event's shape; where the mask is False it is never read.
        how: name of r at t > 0; with "constant" (the paper) and "annealed" (a power of a delta is
            that delta) the known part is in place at every t, "noised" serves `particles`.

    Raises:
        ValueError: for another shape or type of mask, values outside the support, a bad `how`.
    """
    mask = _mask(mask, jnp.shape(known))
    r = _named("known", family.observe, _seen(mask, known), 0.0)
    return _exact(family, schedule, r, mask, how)._replace(singular=how != "noised")


def denoise(
    family: Family,
    schedule: Schedule,
    y: Array,
    noise: Array,
    how: str = "constant",
    mask: Array | None = None,
) -> Tilt:
    """r(x) = P(y | x) of noisy data, Gaussian or bits flipped: the exact product of eq. 22.

    Args:
        family: a column of Table App.1.
        schedule: of the chain that will be sampled.
        y: of the event's shape.
        noise: variance of the Gaussian noise, or probability that a bit is flipped; scalar or of
            the event's shape.
        how: name of r at t > 0.
        mask: bool, of the event's shape; where it is False nothing was observed and y is not read.

    Raises:
        ValueError: for noise outside (0, ∞), of bits (0, 1), a y outside the support, a bad mask
            or `how`.
    """
    mask = _mask(np.ones(jnp.shape(y), bool) if mask is None else mask, jnp.shape(y))
    if not isinstance(noise, jax.core.Tracer) and not np.all(np.asarray(noise) > 0):
        raise ValueError(f"noise: expected above 0 (at 0 it is `inpaint`), got {noise}")
    if jnp.shape(noise) not in ((), jnp.shape(y)):
        raise ValueError(f"noise: expected shape () or {jnp.shape(y)}, got {jnp.shape(noise)}")
    r = _named("y", family.observe, _seen(mask, y), noise)
    return _exact(family, schedule, r, mask, how)


def perturb(
    family: Family, schedule: Schedule, log_r: Callable[[Array], Array], how: str = "constant"
) -> Tilt:
    """Any log r: to first order for Gaussians (eq. 61), exact for bits (Table App.1).

    Args:
        family: a column of Table App.1.
        schedule: of the chain that will be sampled.
        log_r: x -> nats; Gaussian: differentiable, a scalar or per element; bits: per bit, each
            value of its own bit alone (an r that couples bits has no kernel in the family).
        how: "constant" or "annealed".

    Raises:
        ValueError: for `how` "noised", of which a general r has no closed form; when it is used,
            for a log_r that returns another shape.
    """
    if how not in HOW[:2]:
        raise ValueError(f"how: expected one of {HOW[:2]} for a general log r, got {how!r}")
    power = _exponent(schedule, how)

    def scaled(s: Array) -> Callable[[Array], Array]:
        return lambda x: power(s) * _checked(log_r, x)

    def log_z(params: Params, x: Array, t: Array) -> Array:
        new = family.perturb(params, scaled(t - 1))
        same = [a == b for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(new))]
        ratio = _each(family.log_prob, params, x) - _each(family.log_prob, new, x)
        # A coordinate that did not move (a known one above all) has no ratio, not inf − inf.
        ratio = jnp.where(jnp.stack(same).all(axis=0), 0.0, ratio)
        return jnp.sum(ratio) + jnp.sum(scaled(t - 1)(x))

    return Tilt(
        schedule.T,
        lambda params, t: family.perturb(params, scaled(t - 1)),
        lambda x, t: jnp.sum(scaled(t)(x)),
        log_z,
        lambda params, t: family.curvature(params, scaled(t - 1)),
    )


def curvature(
    key: Array, family: Family, schedule: Schedule, reverse: Reverse, tilt: Tilt, shape
) -> Array:
    """Largest Σ ∂²log r of a first-order tilt (eq. 61) on one trajectory of its own; 0 if exact.

    The form is good where this is small, a half too far at 0.5, and diverges above 2.
    """
    if tilt.curvature is None:
        return jnp.zeros(())
    size = tilt.curvature

    def body(carry, t: Array):
        x, most = carry
        params = reverse(x, t)
        x = family.sample(jax.random.fold_in(key, t), tilt(params, t))
        return (x, jnp.maximum(most, size(params, t))), None

    last = jnp.asarray(schedule.T + 1)
    x_T = family.sample(jax.random.fold_in(key, last), start(family, tilt, schedule, shape))
    first = size(family.prior(shape), last)
    (_, most), _ = jax.lax.scan(body, (x_T, first), jnp.arange(schedule.T, 0, -1))
    return most


def _exact(family: Family, schedule: Schedule, r: Params, mask: Array, how: str) -> Tilt:
    """The tilt of an r whose product with the kernel is in the family; `mask`: where there is r."""
    if how not in HOW:
        raise ValueError(f"how: expected one of {HOW}, got {how!r}")
    power = _exponent(schedule, how)

    def at(t: Array) -> Params:
        if how == "noised":
            return family.noised(r, schedule.log_alpha_bar[t])
        return r if how == "constant" else family.power(r, power(t))

    def apply(params: Params, t: Array) -> Params:
        event = jnp.shape(jax.tree.leaves(params)[0])
        if event != mask.shape:
            raise ValueError(
                f"tilt: expected values of the event's shape {event}, got {mask.shape}"
            )
        product, _ = family.multiply(params, at(t - 1))
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), product, params)

    def log_r(x: Array, t: Array) -> Array:
        return jnp.sum(jnp.where(mask, _each(family.log_prob, at(t), x), 0.0))

    def log_z(params: Params, x: Array, t: Array) -> Array:
        return jnp.sum(jnp.where(mask, family.multiply(params, at(t - 1))[1], 0.0))

    return Tilt(schedule.T, apply, log_r, log_z)


def _exponent(schedule: Schedule, how: str) -> Callable[[Array], Array]:
    """s of r(x^t) = r(x^0)^s at t; at t = T it is 1e-20, since r^0 has no place in a variance."""
    if how != "annealed":
        return lambda t: jnp.ones((), schedule.beta.dtype)
    return lambda t: jnp.maximum((schedule.T - t) / schedule.T, 1e-20).astype(schedule.beta.dtype)


def _each(log_prob: Callable[[Params, Array], Array], params: Params, x: Array) -> Array:
    """log_prob element by element: the event's shape."""
    flat = jax.tree.map(lambda a: a.reshape(-1), params)
    return jax.vmap(log_prob)(flat, x.reshape(-1)).reshape(x.shape)


def _checked(log_r: Callable[[Array], Array], x: Array) -> Array:
    value = log_r(x)
    if jnp.shape(value) not in ((), x.shape):
        expected = f"() or {x.shape}" if x.shape else "()"
        raise ValueError(f"log_r: expected shape {expected}, got {jnp.shape(value)}")
    return value


def _mask(mask: Any, shape: tuple[int, ...]) -> Array:
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if jnp.result_type(mask) != jnp.bool_:
        raise ValueError(f"mask: expected bool, True where known, got {jnp.result_type(mask)}")
    if jnp.shape(mask) != shape:
        raise ValueError(f"mask: expected shape {shape}, that of the values, got {jnp.shape(mask)}")
    return jnp.asarray(mask)


def _seen(mask: Array, values: Array) -> Array:
    """Values where the mask is True, 0 where they are hidden and never read."""
    values = jnp.asarray(values)
    return jnp.where(mask, values, jnp.zeros_like(values))


def _named(argument: str, observe: Callable[..., Params], y: Array, noise: Any) -> Params:
    """`observe`, with the caller's name for y in its error."""
    try:
        return observe(y, noise)
    except ValueError as error:
        raise ValueError(str(error).replace("y:", f"{argument}:", 1)) from error
