"""Posteriors: a trained model times any r(x), p~(x^0) ∝ p(x^0) r(x^0) (Sec. 2.5, App. C).

One idea: a tilt multiplies the reverse kernel of step t by r(x^{t-1}),

    p~(x^{t-1} | x^t) = p(x^{t-1} | x^t) r(x^{t-1}) / Z~_{t-1}(x^t),                        eq. 22

and p(x^T) by r(x^T), as if by a step T + 1. `tilted` makes a chain of it that every sampler takes.
For t > 0 the r(x^t) is ours to choose (eq. 23); the choices have names, the argument `r_t`:

* "constant"  r(x^t) = r(x^0): the paper's, eq. 23
* "annealed"  r(x^t) = r(x^0)^((T−t)/T), the paper's alternative
* "noised"    r(x^t) = E[r(x^0) | x^t] for x^0 ~ π: r as one sees it through q(x^t | x^0)
* "dps", "pigdm", "mmps"  r as one sees it through x̂^0(x^t), the network (Gaussian; guide.py)

Samples of these kernels alone are biased: eq. 22 normalises away the factor Z~_{t-1}(x^t)/r(x^t) of
the exact eq. 21. `particles` keeps it, as the weights of a particle filter; its answer is exact as
the number of particles grows, whatever r(x^t) > 0 is at t > 0.

Conventions: family.py; r is in nats as log r, always up to a factor at t > 0.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Family, Params
from dpm_jax.posterior import guide as through
from dpm_jax.posterior.correctors import Corrector
from dpm_jax.posterior.guide import Guide, Guided

R_T = ("constant", "annealed", "noised")  # names of r(x^t) at t > 0
Kernel = Callable[[Params, Array], Params]  # params, t -> params
REACH = 0.5  # of the first-order form: the largest Σ ∂²log r at which it is not warned of
STEEP = 1.0  # the largest bend at which it is not warned of


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
    bend: Callable[[Params, Array], Array] | None = None  # as curvature, over the reach of a step
    singular: bool = False  # r(x^t) is a delta at t > 0, of which `particles` has no weight
    params: type | None = None  # that it multiplies: those of the family it was made for
    log_alpha_bar: Array | None = None  # of the schedule, where r(x^t) depends on it ("noised")
    draw: Callable[[Array, Any], Array] | None = None  # key, p~ -> x, where p~ is not of the family
    guides: tuple[Guide, ...] = ()  # what goes through the network, beside all of the above

    def __call__(self, params: Params, t: Array) -> Params:
        """p~(x^{t-1} | x^t) (eq. 22) from the parameters of p(x^{t-1} | x^t)."""
        return self.apply(params, t)


def tilted(chain: Chain, tilt: Tilt | Kernel) -> Chain:
    """The chain of the kernels p~(x^{t-1} | x^t) and of p~(x^T) ∝ p(x^T) r(x^T) (eq. 22).

    Any (params, t) -> params is a tilt. To begin elsewhere: ``tilted(...)._replace(prior=...)``.
    ValueError for a tilt of another T, family or schedule.
    """
    check_tilt(chain, tilt)

    def reverse(xt: Array, t: Array) -> Params:
        return look(chain, tilt, xt, t)[1]

    made: dict[str, Any] = {"prior": tilt(chain.prior, jnp.asarray(chain.T + 1))}
    made["family"] = chain.family._replace(sample=partial(draw, chain.family, tilt))
    if chain.last_step == "fixed":  # it is no forward kernel any more, as K and "up_down" have it
        made["last_step"] = "learned"
    return chain._replace(**made, reverse=reverse, kernel=None)


def look(chain: Chain, tilt: Tilt | Kernel, xt: Array, t: Array) -> tuple[Params, Params]:
    """p(x^{t-1}|x^t) and p~(x^{t-1}|x^t) (eq. 22), of one call of the network; t in 1..T."""
    if isinstance(tilt, Tilt) and tilt.guides:
        return through.look(chain, tilt.guides, lambda params: tilt(params, t), xt, t)
    params = chain.reverse(xt, t)
    return params, tilt(params, t)


def draw(family: Family, tilt: Tilt | Kernel, key: Array, law: Params) -> Array:
    """x^{t-1} ~ p~, of the event's shape."""
    if not isinstance(tilt, Tilt):
        return family.sample(key, law)
    if isinstance(law, Guided):
        return through.draw(key, tilt.guides, law)
    return family.sample(key, law) if tilt.draw is None else tilt.draw(key, law)


def sample(
    key: Array, chain: Chain, tilt: Tilt | Kernel, num: int, corrector: Corrector | None = None
) -> Array:
    """`num` draws (num, *event) by the kernels of eq. 22, as the paper draws: fast, and biased.

    `particles.sample` of the same arguments is without the bias; a "noised" r(x^t) is made for it,
    and is counted at every t here. A corrector spends more network calls against the bias.

    Raises:
        TypeError: for a key that is none.
        ValueError: for a tilt of another T, family or schedule, num below 1, or what the corrector
            refuses; where draws are not finite, unless under jit.

    Warns:
        UserWarning: where a first-order tilt is used beyond its reach, unless under jit.
    """
    sampling.check_key(key)
    num = units.whole("num", num)
    used = tilted(chain, tilt)
    warn_beyond_reach(key, chain, tilt)
    if corrector is not None and not isinstance(corrector, Corrector):
        raise TypeError(f"corrector: expected Gibbs() or Langevin(), got {corrector!r}")
    one = sampling.sample if corrector is None else corrector.sample
    found = jax.vmap(lambda k: one(k, used))(jax.random.split(key, num))
    if not isinstance(found, jax.core.Tracer) and not jnp.isfinite(found).all():
        raise ValueError(
            "tilt: expected finite draws, got NaN or infinite ones: does log r return NaN, or is it"
            " too steep for its kernels (dps where the noise is small: pigdm or mmps)?"
        )
    return found


def exponent(chain: Chain, r_t: str) -> Callable[[Array], Array]:
    """s of r(x^t) = r(x^0)^s at t; at t = T it is 1e-20, since r^0 has no place in a variance."""
    T, dtype = chain.T, chain.schedule.beta.dtype
    if r_t != "annealed":
        return lambda t: jnp.ones((), dtype)
    return lambda t: jnp.maximum((T - t) / T, 1e-20).astype(dtype)


def guided(chain: Chain, guide: Guide) -> Tilt:
    """The tilt of one guide alone.

    Raises:
        ValueError: for a chain whose kernels have no x̂^0 in their mean.
    """
    if not hasattr(chain.prior, "low"):
        raise ValueError(f"chain: expected one of Gaussians, got {chain!r}")

    def nothing(x: Array, *_) -> Array:
        return jnp.zeros((), chain.schedule.beta.dtype)

    return Tilt(
        T=chain.T,
        apply=lambda params, t: params,
        log_r=nothing,
        log_z=nothing,
        params=type(chain.prior),
        log_alpha_bar=chain.schedule.log_alpha_bar,
        guides=(guide,),
    )


def compose(*tilts: Tilt) -> Tilt:
    """The product of several r: their tilts one after the other.

    Raises:
        ValueError: for no tilts, or tilts of schedules of different length.
    """
    wrong = [tilt for tilt in tilts if not isinstance(tilt, Tilt)]
    if wrong:
        raise TypeError(f"tilts: expected tilts, got {wrong[0]!r}")
    if not tilts or len({tilt.T for tilt in tilts}) > 1:
        raise ValueError(f"tilts: expected some of one T, got T = {[tilt.T for tilt in tilts]}")
    if len(kinds := {tilt.params.__name__ for tilt in tilts if tilt.params}) > 1:
        raise ValueError(f"tilts: expected kernels of one kind, got {sorted(kinds)}")
    if len(tilts) == 1:
        return tilts[0]
    _check_order(tilts)
    first, rest = tilts[0], compose(*tilts[1:])

    def log_z(params: Params, x: Array, t: Array) -> Array:
        return first.log_z(params, x, t) + rest.log_z(first(params, t), x, t)

    def curvature(params: Params, t: Array) -> Array:
        each = ((first, params), (rest, first(params, t)))  # of each where it is applied
        parts = [tilt.curvature(p, t) for tilt, p in each if tilt.curvature]
        return jnp.sum(jnp.stack(parts))  # no less than that of the product

    def bend(params: Params, t: Array) -> Array:
        each = ((first, params), (rest, first(params, t)))
        return jnp.sum(jnp.stack([tilt.bend(p, t) for tilt, p in each if tilt.bend]))

    return Tilt(
        T=first.T,
        apply=lambda params, t: rest(first(params, t), t),
        log_r=lambda x, t: first.log_r(x, t) + rest.log_r(x, t),
        log_z=log_z,
        curvature=curvature if first.curvature or rest.curvature else None,
        bend=bend if first.bend or rest.bend else None,
        singular=first.singular or rest.singular,
        params=first.params or rest.params,
        log_alpha_bar=rest.log_alpha_bar if first.log_alpha_bar is None else first.log_alpha_bar,
        draw=rest.draw,
        guides=first.guides + rest.guides,
    )


def _check_order(tilts: tuple[Tilt, ...]) -> None:
    """A p~ that is not of the family takes no further factor."""
    products = [tilt for tilt in tilts if tilt.draw is not None]
    if products and (tilts[-1].draw is None or len(products) > 1 or any(t.guides for t in tilts)):
        raise ValueError(
            "tilts: expected the exact product of a measurement to be the last, and beside none"
            " through the network; 'mmps' and 'pigdm' compose with all"
        )


def curvature(key: Array, chain: Chain, tilt: Tilt) -> Array:
    """Largest Σ ∂²log r of a first-order tilt (eq. 61) on one trajectory of its own; 0 if exact.

    The form is good where this is small, a half too far at 0.5, and diverges above 2.
    """
    return _largest(key, chain, tilt, tilt.curvature)


def bend(key: Array, chain: Chain, tilt: Tilt) -> Array:
    """How far log r is from linear where a step of a first-order tilt (eq. 61) goes; 0 if exact.

    The largest, on one trajectory of its own, of two measures in units of √Σ: by how much the
    shift Σ ∂log r is another at its end, and the spread of log p r/p~ over draws of p~. Small
    ∂²log r at the mean says nothing of a steep r: this does.
    """
    return _largest(key, chain, tilt, tilt.bend)


def _largest(key: Array, chain: Chain, tilt: Tilt, size) -> Array:
    if size is None:
        return jnp.zeros(())
    used = tilted(chain, tilt)

    def body(carry, t: Array):
        x, largest = carry
        params = chain.reverse(x, t)
        x = draw(chain.family, tilt, jax.random.fold_in(key, t), tilt(params, t))
        return (x, jnp.maximum(largest, size(params, t))), None

    first = size(chain.prior, jnp.asarray(chain.T + 1))
    start = sampling.start(key, used), first
    (_, largest), _ = jax.lax.scan(body, start, jnp.arange(chain.T, 0, -1))
    return largest


def warn_beyond_reach(key: Array, chain: Chain, tilt: Tilt | Kernel) -> None:
    """UserWarning where the first-order form (eq. 61) is used beyond REACH; under jit nothing."""
    if not isinstance(tilt, Tilt) or tilt.curvature is None or isinstance(key, jax.core.Tracer):
        return
    size = curvature(key, chain, tilt)
    if not isinstance(size, jax.core.Tracer) and not size < REACH:
        warnings.warn(
            f"perturb: the first-order form (eq. 61) needs small Σ ∂²log r, got {float(size):.3g}"
            " (at 0.5 it goes half too far, above 2 it diverges): more steps, a weaker r,"
            " or `denoise` where r is Gaussian",
            stacklevel=3,
        )
        return
    size = bend(key, chain, tilt)
    if not isinstance(size, jax.core.Tracer) and not size < STEEP:
        warnings.warn(
            f"perturb: the first-order form (eq. 61) needs a log r that is nearly linear over a"
            f" step, got one that bends by {float(size):.3g} of its standard deviation: log Z~ and"
            " draws may be far off whatever the ESS; more steps, or a smoother r",
            stacklevel=3,
        )


def check_tilt(chain: Chain, tilt: Tilt | Kernel) -> None:
    """ValueError for a tilt of another T, family or schedule; a bare kernel has none of them."""
    if not isinstance(tilt, Tilt):
        if not callable(tilt):
            raise TypeError(f"tilt: expected a Tilt or (params, t) -> params, got {type(tilt)}")
        return
    if tilt.T != chain.T:
        raise ValueError(f"tilt: expected one of T = {chain.T}, got T = {tilt.T}")
    if tilt.params not in (None, type(chain.prior)):
        expected, got = type(chain.prior).__name__, tilt.params.__name__
        raise ValueError(f"tilt: expected one for {expected} kernels, got one for {got}")
    ours, its = chain.schedule.log_alpha_bar, tilt.log_alpha_bar
    if its is None or any(isinstance(a, jax.core.Tracer) for a in (ours, its)):
        return
    ours, its = (np.exp(np.asarray(a)) for a in (ours, its))
    if not np.allclose(ours, its, rtol=1e-4, atol=1e-6):
        t = int(np.argmax(np.abs(ours - its)))
        got = f"{its[t]:.4g} for {ours[t]:.4g}"
        raise ValueError(f"tilt: expected one of this schedule, got another, ᾱ_{t} = {got}")
