"""Family: the functions that one column of the paper's Table App.1 consists of.

Conventions, held everywhere below the experiments:

* One example at a time: ``x`` has the event's shape, without a batch axis; ``jax.vmap`` adds it.
* Nats. Bits are made in :mod:`dpm_jax.reporting` and nowhere else.
* ``t`` is the paper's: 1..T, x^0 is the data, β_0 = 0 and ᾱ_0 = 1.
* ᾱ_t = Π_{s≤t} (1 − β_s) travels as its logarithm, so that 1 − ᾱ_t = −expm1(log ᾱ_t) keeps its
  precision in float32 where ᾱ_t is close to 1. log ᾱ = −inf (all signal erased) is legal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any  # a small NamedTuple of arrays (Normal, Bernoulli); shared code never looks inside
Reverse = Callable[[Array, Array], Params]  # (x_t, t) -> parameters of p(x^{t-1} | x^t), eq. 5


class Family(NamedTuple):
    """One column of Table App.1: every function that depends on the kind of the data."""

    name: str
    validate: Callable[[Any], None]  # data (n, *event) -> None; ValueError outside the support
    prior: Callable[[tuple[int, ...]], Params]  # shape -> π(x^T)                      eq. 4
    step: Callable[[Array, Array], Params]  # x_prev, beta -> q(x^t|x^{t-1})            eq. 2
    marginal: Callable[[Array, Array], Params]  # x0, log ᾱ_t -> q(x^t|x^0)
    posterior: Callable[..., Params]  # x0, xt, beta_t, log ᾱ_{t-1} -> q(x^{t-1}|x^t,x^0), eq. 14
    perturb: Callable[[Params, Callable[[Array], Array]], Params]  # params, log_r -> p~, App. C
    curvature: Callable[[Params, Callable[[Array], Array]], Array]  # how far perturb is from exact
    observe: Callable[[Array, Array], Params]  # y, noise -> r(x) = P(y|x), itself a function of x
    multiply: Callable[[Params, Params], tuple[Params, Array]]  # p, r -> p r/Z~, log Z~   eq. 22
    power: Callable[[Params, Array], Params]  # r, s -> r^s
    noised: Callable[[Params, Array], Params]  # r, log ᾱ_t -> E[r(x^0) | x^t] for x^0 ~ π
    sample: Callable[[Array, Params], Array]  # key, params -> x
    log_prob: Callable[[Params, Array], Array]  # params, x -> nats, summed over the event
    entropy: Callable[[Params], Array]  # params -> nats, summed over the event
    kl: Callable[[Params, Params], Array]  # q, p -> KL(q‖p) in nats, summed over the event
