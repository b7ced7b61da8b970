"""Table App.1, right column: binomial diffusion. Beside gaussian.py: same functions and order.

All in logits: Bayes' rule and the perturbation are additions there, and no probability near 0 or 1
is ever rounded to it. Every bit x is 0 or 1 in a float array. The stationary rate ρ is a scalar or
has the event's shape; the paper's heartbeat has ρ = 0.2.

Source: Sohl-Dickstein et al. 2015, Table App.1, eq. 2, 4 and 14. Conventions: family.py.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpm_jax.core.family import Array, Family, Noise, numbers
from dpm_jax.core.readout import Range, Readout, check_name
from dpm_jax.core.schedule import Schedule

MEANS = ("sigmoid", "step", "x0", "bayes")


class Bernoulli(NamedTuple):
    """Independent bits with P(x = 1) = σ(logits); logits have the event's shape, ±inf allowed."""

    logits: Array


def validate(data) -> None:
    """Refuse data that no binomial diffusion can take: (n, *event), every element 0 or 1.

    Raises:
        ValueError: naming what is wrong with ``data``.
    """
    data = np.asarray(data)
    if data.ndim < 2 or data.size == 0:
        raise ValueError(f"data: expected shape (n, *event) with n >= 1, got {data.shape}")
    wrong = data[(data != 0) & (data != 1)]
    if wrong.size:
        raise ValueError(f"data: expected only 0 and 1, got {wrong.flat[0]} ({wrong.size} values)")


def prior(rate: Array, shape: tuple[int, ...]) -> Bernoulli:
    """π(x^T) = B(ρ) (eq. 4): event shape -> Bernoulli of that shape."""
    return Bernoulli(jnp.broadcast_to(_logit(rate), shape))


def step(rate: Array, x_prev: Array, beta: Array) -> Bernoulli:
    """q(x^t | x^{t-1}) = B(x^{t-1}(1−β) + ρβ) (eq. 2): x_prev of the event's shape, scalar β."""
    return Bernoulli(_mixed_logits(rate, x_prev, beta))


def marginal(rate: Array, x0: Array, log_alpha_bar: Array) -> Bernoulli:
    """q(x^t | x^0) = B(ᾱ x^0 + (1−ᾱ)ρ): x0 of the event's shape, scalar log ᾱ_t."""
    return Bernoulli(_mixed_logits(rate, x0, -jnp.expm1(log_alpha_bar)))


def bridge(rate: Array, x0: Array, xt: Array, beta: Array, log_alpha_bar_prev: Array) -> Bernoulli:
    """q(x^{t-1} | x^t, x^0), eq. 14, by Bayes: logit q(x^{t-1}|x^0) + log q(x^t|1)/q(x^t|0)."""
    log_ratio_1 = jnp.log(1 - beta + rate * beta) - jnp.log(rate * beta)
    log_ratio_0 = jnp.log(beta * (1 - rate)) - jnp.log1p(-rate * beta)
    evidence = jnp.where(xt > 0.5, log_ratio_1, log_ratio_0)
    return Bernoulli(marginal(rate, x0, log_alpha_bar_prev).logits + evidence)


def perturb(params: Bernoulli, log_r) -> Bernoulli:
    """p~ ∝ p r per bit, exactly (Table App.1): c d / (c d + (1−c)(1−d)) is an addition of logits.

    Args:
        params: p(x^{t-1} | x^t).
        log_r: x -> log r(x) in nats per bit, the same shape as x.

    Raises:
        ValueError: where log_r does not return one value a bit.
    """
    ones = jnp.ones_like(params.logits)
    log_r1, log_r0 = log_r(ones), log_r(0 * ones)
    if jnp.shape(log_r1) != ones.shape:
        raise ValueError(f"log_r: expected shape {ones.shape} (per bit), got {jnp.shape(log_r1)}")
    return Bernoulli(params.logits + log_r1 - log_r0)


def curvature(params: Bernoulli, log_r) -> Array:
    """0: `perturb` is exact for bits (Table App.1)."""
    return jnp.zeros((), params.logits.dtype)


def observe(y: ArrayLike, noise: ArrayLike) -> Bernoulli:
    """r(x) = P(y | x) of bits y that were flipped with probability `noise` (Sec. 2.5).

    Args:
        y: 0 or 1, of the event's shape.
        noise: probability, scalar or of the event's shape; 0 makes r a delta at y.

    Raises:
        ValueError: for a y other than 0 and 1 or a probability outside [0, 1), where known.
    """
    if not isinstance(y, jax.core.Tracer) and not np.isin(y, (0, 1)).all():
        raise ValueError("y: expected only 0 and 1")
    values = 0.5 if isinstance(noise, jax.core.Tracer) else np.asarray(noise)
    if not np.all((values >= 0) & (values < 1)):
        raise ValueError(f"noise: expected a flip probability in [0, 1), got {noise}")
    y = jnp.asarray(y, jnp.result_type(float))
    flip = jnp.asarray(noise, y.dtype)
    return Bernoulli((2 * y - 1) * jnp.broadcast_to(-_logit(flip), y.shape))


def multiply(params: Bernoulli, r: Bernoulli) -> tuple[Bernoulli, Array]:
    """p r / Z~ and log Z~ of eq. 22 in closed form; log Z~ per bit, nats.

    r(1) = σ(r.logits), r(0) = 1 − r(1); where r is a delta the product is exactly r.
    """
    ones = jax.nn.log_sigmoid(params.logits) + jax.nn.log_sigmoid(r.logits)
    zeros = jax.nn.log_sigmoid(-params.logits) + jax.nn.log_sigmoid(-r.logits)
    logits = jnp.where(jnp.isinf(r.logits), r.logits, params.logits + r.logits)
    return Bernoulli(logits), jnp.logaddexp(ones, zeros)


def power(r: Bernoulli, s: Array) -> Bernoulli:
    """r^s up to a factor that does not depend on x, for a scalar s in (0, 1]."""
    return Bernoulli(s * r.logits)


def noised(rate: Array, r: Bernoulli, log_alpha_bar: Array) -> Bernoulli:
    """r(x^t) = E[r(x^0) | x^t] for x^0 ~ π, up to a factor: r seen through q(x^t | x^0).

    The chain is reversible under π, so that x^0 | x^t ~ B(ᾱ x^t + (1−ᾱ)ρ).
    """

    def log_expected(bit: float) -> Array:
        x0 = marginal(rate, jnp.full_like(r.logits, bit), log_alpha_bar)
        return multiply(x0, r)[1]

    return Bernoulli(log_expected(1.0) - log_expected(0.0))


def sample(key: Array, params: Bernoulli) -> Array:
    """Draw bits ~ params as floats 0 or 1."""
    logits = params.logits
    # x = 1 where logistic noise stays below the logit: certain at ±inf, and elsewhere resolved to
    # the 1.2e-7 of a float32 uniform.
    return (jax.random.logistic(key, logits.shape, logits.dtype) < logits).astype(logits.dtype)


def log_prob(params: Bernoulli, x: Array) -> Array:
    """Log probability of the bits x in nats, summed over the event."""
    return jnp.sum(jax.nn.log_sigmoid((2 * x - 1) * params.logits))


def entropy(params: Bernoulli) -> Array:
    """Entropy in nats, summed over the event; a certain bit (logit ±inf) has entropy 0."""
    magnitude = jnp.abs(params.logits)
    finite = jnp.where(jnp.isinf(magnitude), 0.0, magnitude)
    bits = jax.nn.softplus(-finite) + finite * jax.nn.sigmoid(-finite)
    return jnp.sum(jnp.where(jnp.isinf(magnitude), 0.0, bits))


def kl(q: Bernoulli, p: Bernoulli) -> Array:
    """KL(q‖p) in nats, summed over the event; 0·log 0 = 0.

    KL is the same after renaming 0 and 1, so bits are first turned until P_q(x=1) ≤ ½. With
    d = logit p − logit q it is then log(1 + q (e^d − 1)) − q d: small terms are never formed as a
    difference of large ones, which T = 2000 terms of 1e-6 nats would not survive in float32.
    """
    side = jnp.where(q.logits > 0, -1.0, 1.0).astype(q.logits.dtype)
    certain = jnp.isinf(q.logits)
    logit_q = jnp.where(certain, -1.0, side * q.logits)
    logit_p = side * p.logits
    d = logit_p - logit_q
    prob_q = jax.nn.sigmoid(logit_q)
    near = jnp.where(d < 1, d, 0.0)  # e^d overflows for large d, where softplus is exact enough
    log_normaliser = jnp.where(
        d < 1,
        jnp.log1p(prob_q * jnp.expm1(near)),
        jax.nn.softplus(logit_p) - jax.nn.softplus(logit_q),
    )
    uncertain = jnp.where(jnp.isinf(logit_p), jnp.inf, log_normaliser - prob_q * d)
    return jnp.sum(jnp.where(certain, jax.nn.softplus(logit_p), uncertain))


def readout(rate: Array, mean: str, variance: str = "") -> Readout:
    """The readout of this name (readout.py); bits have no variance of their own: not read.

    Raises:
        ValueError: for an unknown name.
    """
    check_name("readout", mean, MEANS)
    return Readout(
        1, partial(_read, rate, mean), kl_per_fold=_fold_size if mean == "bayes" else None
    )


def possible(x: Array) -> Array:
    """Whether each element is a bit, 0 or 1; of x's shape."""
    return (x == 0) | (x == 1)


def family(rate: float | Array = 0.5) -> Family:
    """The right column of Table App.1 with stationary rate ρ as a :class:`Family`.

    Args:
        rate: ρ in (0, 1), a scalar or an array of the event's shape.

    Raises:
        ValueError: where an element of ``rate`` lies outside (0, 1).
    """
    values = np.asarray(numbers("rate", rate))
    if not np.all((values > 0) & (values < 1)):
        raise ValueError(f"rate: expected values inside (0, 1), got {rate}")
    rho = jnp.asarray(values, jnp.result_type(float))
    return Family(
        name="binomial",
        validate=validate,
        prior=partial(prior, rho),
        step=partial(step, rho),
        marginal=partial(marginal, rho),
        bridge=partial(bridge, rho),
        perturb=perturb,
        curvature=curvature,
        observe=observe,
        multiply=multiply,
        power=power,
        noised=partial(noised, rho),
        sample=sample,
        log_prob=log_prob,
        entropy=entropy,
        kl=kl,
        readout=partial(readout, rho),
        noise=Noise("flip probability", most=1.0, default=0.1, additive=False),
        arguments={"rate": rate},
        possible=possible,
    )


def _read(
    rate: Array,
    mean: str,
    raw: Array,
    xt: Array,
    schedule: Schedule,
    t: Array,
    x0_range: Range = None,
) -> Bernoulli:
    z = raw[..., 0]
    beta = schedule.beta[t]
    if mean == "sigmoid":
        return Bernoulli(z)
    if mean == "step":
        return Bernoulli(z + step(rate, xt, beta).logits)
    if mean == "bayes":
        z = z + _logit(rate) + _evidence(rate, xt, schedule.log_alpha_bar[t])
    # P(x^{t-1}) = P(x^0=1|x^t) q(x^{t-1}|x^t,1) + P(x^0=0|x^t) q(x^{t-1}|x^t,0), in logs; the
    # normaliser 1 + e^z of P(x^0|x^t) is common to both values of x^{t-1} and drops out.
    before = schedule.log_alpha_bar[t - 1]
    one_if_1, zero_if_1 = _log_bridge(rate, 1.0, xt, beta, before)
    one_if_0, zero_if_0 = _log_bridge(rate, 0.0, xt, beta, before)
    log_1 = jnp.logaddexp(z + one_if_1, one_if_0)
    log_0 = jnp.logaddexp(z + zero_if_1, zero_if_0)
    return Bernoulli(log_1 - log_0)


def _evidence(rate: Array, xt: Array, log_alpha_bar: Array) -> Array:
    """log q(x^t | x^0 = 1)/q(x^t | x^0 = 0) of each bit, by two logs for each value of x^t."""
    bits = (jnp.full((), x0, xt.dtype) for x0 in (1.0, 0.0))
    one, zero = (marginal(rate, x0, log_alpha_bar).logits for x0 in bits)
    if_1, if_0 = (jax.nn.log_sigmoid(s * one) - jax.nn.log_sigmoid(s * zero) for s in (1, -1))
    return jnp.where(xt > 0.5, if_1, if_0)


def _fold_size(log_snr: Array) -> Array:
    """About how large KL_t is in an e-fold of noise n, which bits that are nearly known lose."""
    log_noise = -jax.nn.softplus(log_snr)
    return jnp.exp(log_noise) * (0.3 - log_noise)


def _log_bridge(rate: Array, x0: float, xt: Array, beta: Array, before: Array):
    """log q(x^{t-1} = 1 | x^t, x^0 = x0 everywhere), and = 0; two logs for each value of a bit x^t,
    then picked, since a logarithm for each element is what a step of this readout costs."""
    dtype = xt.dtype
    logits = [
        bridge(rate, jnp.full((), x0, dtype), jnp.full((), bit, dtype), beta, before).logits
        for bit in (1.0, 0.0)
    ]
    return tuple(
        jnp.where(xt > 0.5, *(jax.nn.log_sigmoid(sign * logit) for logit in logits))
        for sign in (1, -1)
    )


def _logit(probability: Array) -> Array:
    return jnp.log(probability) - jnp.log1p(-probability)


def _mixed_logits(rate: Array, x: Array, noise: Array) -> Array:
    """Logits of B(x (1−noise) + ρ noise), without forming 1 − (a number close to 1)."""
    logit_1 = jnp.log(1 - noise + rate * noise) - jnp.log(noise * (1 - rate))
    logit_0 = jnp.log(rate * noise) - jnp.log1p(-rate * noise)
    return jnp.where(x > 0.5, logit_1, logit_0)
