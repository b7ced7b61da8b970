"""Family: the functions that one column of the paper's Table App.1 consists of.

Conventions, held everywhere below the experiments:

* One example at a time: ``x`` has the event's shape, without a batch axis; ``jax.vmap`` adds it.
* Nats. Bits are made in :mod:`dpm_jax.units` and nowhere else.
* ``t`` is the paper's: 1..T, x^0 is the data, β_0 = 0 and ᾱ_0 = 1.
* ᾱ_t = Π_{s≤t} (1 − β_s) travels as its logarithm, so that 1 − ᾱ_t = −expm1(log ᾱ_t) keeps its
  precision in float32 where ᾱ_t is close to 1. log ᾱ = −inf (all signal erased) is legal.

A family of your own is a record of these functions, filled by keyword; nothing asks for its name.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from dpm_jax.core.readout import Readout

Array = jax.Array
Params = Any  # a small NamedTuple of arrays of the event's shape (Normal, Bernoulli); shared code
# never looks inside
Reverse = Callable[[Array, Array], Params]  # (x_t, t) -> parameters of p(x^{t-1} | x^t), eq. 5
LogR = Callable[[Array], Array]  # x -> log r(x), nats


class Noise(NamedTuple):
    """What the `noise` of an observation y of x^0 is in a family (`Family.observe`)."""

    name: str  # in words, for messages
    most: float  # it lies in (0, most)
    default: float
    additive: bool  # y = x + noise: a linear estimate of x exists


def numbers(argument: str, x: Any) -> Any:
    """x where it is an array of real numbers, bits and integers as floats; tracers too.

    Raises:
        TypeError: naming the argument, for text, dates, complex or structured values, or none.
    """
    if np.ma.is_masked(x):
        raise TypeError(f"{argument}: expected an array of numbers, got one with masked values")
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except ValueError as error:  # rows of several lengths
            raise TypeError(f"{argument}: expected an array of numbers, got {error}") from error
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        return x.astype(jnp.result_type(float))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        got = f"{x.dtype} of shape {x.shape}"
        raise TypeError(f"{argument}: expected an array of numbers, got {got}")
    return x.astype(np.float64) if x.dtype == np.longdouble else x


def checked(family: "Family", shape: tuple[int, ...], argument: str, x: Any, many: bool = False):
    """x where it is an example of this shape (`many`: rows of them) that the family can have.

    Under jit, grad and vmap shape and type are checked, and values that cannot be become NaN. Bits
    and integers become floats; everything else comes back as it is.

    Args:
        family: whose support the values must lie in.
        shape: of the event.
        argument: what x is called in messages.
        x: array of the event's shape; with `many` (n, *event).

    Raises:
        TypeError: where x is no array of real numbers.
        ValueError: for another shape, or a value outside the support.
    """
    x = numbers(argument, x)
    expected = ("n", *shape) if many else tuple(shape)
    if x.ndim != len(expected) or x.shape[many:] != tuple(shape) or (many and not len(x)):
        text = str(expected).replace("'", "") + " with n >= 1" * many
        raise ValueError(f"{argument}: expected shape {text}, got {x.shape}")
    if isinstance(x, jax.core.Tracer):
        return x if family.possible is None else jnp.where(family.possible(x), x, jnp.nan)
    try:
        family.validate(np.asarray(x).reshape(-1, *(shape or (1,))))
    except ValueError as error:
        raise ValueError(str(error).replace("data:", f"{argument}:", 1)) from error
    return x


class Family(NamedTuple):
    """One column of Table App.1: all that depends on the kind of the data. Fill it by keyword."""

    name: str
    validate: Callable[[Any], None]  # data (n, *event) -> None; ValueError outside the support
    prior: Callable[[tuple[int, ...]], Params]  # shape -> π(x^T)                      eq. 4
    step: Callable[[Array, Array], Params]  # x_prev, beta -> q(x^t|x^{t-1})            eq. 2
    marginal: Callable[[Array, Array], Params]  # x0, log ᾱ_t -> q(x^t|x^0)
    bridge: Callable[[Array, Array, Array, Array], Params]
    # x0, xt, β_t, log ᾱ_{t-1} -> q(x^{t-1}|x^t,x^0), in eq. 14
    perturb: Callable[[Params, LogR], Params]  # params, log_r -> p~ ∝ p r               App. C
    curvature: Callable[[Params, LogR], Array]  # how far perturb is from exact; 0 where it is
    observe: Callable[[ArrayLike, ArrayLike], Params]  # y, noise -> r(x) = P(y|x)
    multiply: Callable[[Params, Params], tuple[Params, Array]]  # p, r -> p r/Z~, log Z~   eq. 22
    power: Callable[[Params, Array], Params]  # r, s -> r^s
    noised: Callable[[Params, Array], Params]  # r, log ᾱ_t -> E[r(x^0) | x^t] for x^0 ~ π
    sample: Callable[[Array, Params], Array]  # key, params -> x
    log_prob: Callable[[Params, Array], Array]  # params, x -> nats, summed over the event
    entropy: Callable[[Params], Array]  # params -> nats, summed over the event
    kl: Callable[[Params, Params], Array]  # q, p -> KL(q‖p) in nats, summed over the event
    readout: "Callable[..., Readout]"  # names of mean and variance -> Readout (readout.py)
    noise: Noise  # of observations
    arguments: Mapping[str, Any] = MappingProxyType({})  # that `family()` of its module was given
    possible: Callable[[Array], Array] | None = None  # x -> bool, elementwise, as `validate`; all
    reparametrised: bool = False  # x^t is a differentiable function of β: β can be learned
    compare: Callable[[Array, Params, Params], tuple[Array, Array]] | None = None
    # key, q, p -> x ~ q, log q(x)/p(x) in nats, where that can be had more precisely than from x
    log_ratio: Callable[[Params, Array, Params, Array], Array] | None = None
    # p, x, q, y -> log p(x) − log q(y) in nats, where that is more precise than their difference
    v_weights: Callable[[Any, float], tuple[Array, Array]] | None = None
    # schedule, median noise of the draws -> law of t and weights that make the terms of K squared
    # errors of v (objective.py)
    trainable: Callable[[Any], None] | None = None
    # training data -> None; ValueError, or a warning, for what is in the support and trains badly
