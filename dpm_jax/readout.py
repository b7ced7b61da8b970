"""From a network's raw output to the parameters of p(x^{t-1} | x^t): eq. 62–65 and alternatives.

A readout is chosen by name, for the mean and (Gaussian) for the variance. Gaussian means, with z
the network's output:

* "eq65"  μ = (x − z)(1 − Σ) + z, the paper's eq. 65
* "code"  μ = x√(1−β) + z√β, the authors' public code
* "x0"    x̂^0 = z, through the exact posterior q(x^{t-1} | x^t, x̂^0)
* "v"     x̂^0 = √ᾱ x − √(1−ᾱ) z, the same way (Salimans & Ho 2022)
* "skip"  x̂^0 = a Wiener filter + its rms error · z, and a variance of its own (linear_skip.py);
          images only. The network sees the filtered image and the whitened residual, (H, W, 2C)

Gaussian variances, with z the second output:

* "eq64"       Σ = σ(z + σ^{-1}(β_t)), the paper's eq. 64
* "between"    log Σ between the two entropies of eq. 24, log β̃_t and log β_t, at the fraction σ(z)
* "posterior"  Σ = β̃_t, the variance of q(x^{t-1} | x^t, x^0); nothing is learned

Binomial, with z the one output a bit:

* "sigmoid"  f_b = σ(z)
* "step"     f_b = σ(z + logit of the forward kernel at x^t), the counterpart of eq. 64
* "x0"       P(x^0 = 1 | x^t) = σ(z), through the exact posterior
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax import binomial, gaussian, linear_skip
from dpm_jax.family import Array, Family, Params
from dpm_jax.linear_skip import LinearSkip
from dpm_jax.schedule import Schedule


class Readout(NamedTuple):
    """How raw outputs (*event, outputs) become the parameters of the reverse kernel."""

    outputs: int  # of the network for each element of what it sees
    apply: Callable[[Array, Array, Schedule, Array], Params]  # raw, xt, schedule, t -> Params
    look: Callable[[Array, Schedule, Array], Array] | None = None  # xt, schedule, t -> what it sees


GAUSSIAN_MEANS = ("eq65", "code", "x0", "v", "skip")
GAUSSIAN_VARIANCES = ("eq64", "between", "posterior")
BINOMIAL_MEANS = ("sigmoid", "step", "x0")


def by_name(
    family: Family,
    mean: str,
    variance: str = "eq64",
    x0_range: tuple[float, float] | None = None,
    skip: LinearSkip | None = None,
) -> Readout:
    """The readout of that name for a family: eq. 64 and eq. 65, or an alternative.

    Args:
        family: gaussian.family() or binomial.family(rate).
        mean: a name of the list above.
        variance: a name of the list above; Gaussian only.
        x0_range: where given, x̂^0 of "x0" and "v" is clamped to it: no data lie outside, so this
            can only raise K. (low, high) in the units of the data.
        skip: the Gaussian law of `linear_skip.fit`, for the mean "skip" alone.

    Raises:
        ValueError: for a name that the family does not have.
    """
    _check("family", family.name, ("gaussian", "binomial"))
    if x0_range is not None and not x0_range[0] < x0_range[1]:
        raise ValueError(f"x0_range: expected (low, high) with low < high, got {x0_range}")
    if family.name == "binomial":
        _check("readout", mean, BINOMIAL_MEANS)
        return Readout(1, partial(_binomial, family, mean))
    _check("readout", mean, GAUSSIAN_MEANS)
    if (mean == "skip") != (skip is not None):
        raise ValueError(f"skip: expected a LinearSkip with readout skip alone, got {mean!r}")
    if skip is not None:
        return Readout(1, partial(_skip, skip, x0_range), partial(linear_skip.features, skip))
    _check("variance", variance, GAUSSIAN_VARIANCES)
    if mean in ("eq65", "code") and variance == "posterior":
        raise ValueError(f"variance: expected eq64 or between with readout {mean}, got 'posterior'")
    outputs = 1 if variance == "posterior" else 2
    return Readout(outputs, partial(_gaussian, mean, variance, x0_range))


def _skip(law, x0_range, raw, xt, schedule, t) -> gaussian.Normal:
    """The network saw 2C channels and gives one output for each: F and z of each colour."""
    raw = raw.reshape(*xt.shape[:2], 2, xt.shape[2]).swapaxes(2, 3)
    return linear_skip.kernel(law, raw, xt, schedule, t, x0_range)


def x0_hat(mean: str, z: Array, xt: Array, schedule: Schedule, t: Array) -> Array:
    """x̂^0 of the readouts "x0" and "v" from the raw output z, of the event's shape."""
    if mean == "x0":
        return z
    signal = jnp.exp(0.5 * schedule.log_alpha_bar[t])
    return signal * xt - jnp.sqrt(schedule.noise[t]) * z


def _gaussian(mean, variance, x0_range, raw, xt, schedule, t) -> gaussian.Normal:
    z_mean = raw[..., 0]
    beta = schedule.beta[t]
    before = schedule.log_alpha_bar[t - 1]
    sigma = _gaussian_variance(variance, raw, schedule, t)
    if mean == "eq65":
        return gaussian.Normal((xt - z_mean) * (1 - sigma) + z_mean, sigma)
    if mean == "code":
        return gaussian.Normal(jnp.sqrt(1 - beta) * xt + jnp.sqrt(beta) * z_mean, sigma)
    x0 = x0_hat(mean, z_mean, xt, schedule, t)
    if x0_range is not None:
        x0 = jnp.clip(x0, *x0_range)
    return gaussian.Normal(gaussian.posterior(x0, xt, beta, before).mean, sigma)


def _gaussian_variance(name: str, raw: Array, schedule: Schedule, t: Array) -> Array:
    beta = schedule.beta[t]
    if name == "eq64":
        # β_T = 1 has an infinite logit; Σ = 1 is then right whatever z says.
        return jax.nn.sigmoid(raw[..., 1] + jnp.log(beta) - jnp.log1p(-beta))
    # β̃_1 = 0 gives no floor: a learned last step takes that of t = 2, as Nichol & Dhariwal do.
    s = jnp.maximum(t, 2)
    lower = schedule.beta[s] * schedule.noise[s - 1] / schedule.noise[s]
    if name == "posterior":
        return jnp.full_like(raw[..., 0], lower)
    fraction = jax.nn.sigmoid(raw[..., 1])
    return jnp.exp(fraction * jnp.log(beta) + (1 - fraction) * jnp.log(lower))


def _binomial(family: Family, mean, raw, xt, schedule, t) -> binomial.Bernoulli:
    z = raw[..., 0]
    beta = schedule.beta[t]
    if mean == "sigmoid":
        return binomial.Bernoulli(z)
    if mean == "step":
        return binomial.Bernoulli(z + family.step(xt, beta).logits)
    # P(x^{t-1}) = P(x^0=1|x^t) q(x^{t-1}|x^t,1) + P(x^0=0|x^t) q(x^{t-1}|x^t,0), in logs; the
    # normaliser 1 + e^z of P(x^0|x^t) is common to both values of x^{t-1} and drops out.
    before = schedule.log_alpha_bar[t - 1]
    one_if_1, zero_if_1 = _log_posterior(family, 1.0, xt, beta, before)
    one_if_0, zero_if_0 = _log_posterior(family, 0.0, xt, beta, before)
    log_1 = jnp.logaddexp(z + one_if_1, one_if_0)
    log_0 = jnp.logaddexp(z + zero_if_1, zero_if_0)
    return binomial.Bernoulli(log_1 - log_0)


def _log_posterior(family: Family, x0: float, xt: Array, beta: Array, before: Array):
    """log q(x^{t-1} = 1 | x^t, x^0 = x0 everywhere), and = 0; two logs for each value of a bit x^t,
    then picked, since a logarithm for each element is what a step of this readout costs."""
    dtype = xt.dtype
    logits = [
        family.posterior(jnp.full((), x0, dtype), jnp.full((), bit, dtype), beta, before).logits
        for bit in (1.0, 0.0)
    ]
    return tuple(
        jnp.where(xt > 0.5, *(jax.nn.log_sigmoid(sign * logit) for logit in logits))
        for sign in (1, -1)
    )


def _check(argument: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"{argument}: expected one of {known}, got {name!r}")
