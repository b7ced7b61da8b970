"""Table App.1, left column: Gaussian diffusion. Beside binomial.py: same functions and order.

Source: Sohl-Dickstein et al. 2015, Table App.1, eq. 2, 4, 14 and 61. Conventions: family.py.
"""

import logging
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpm_jax.core.family import Array, Family, Noise
from dpm_jax.core.numerics import exact_sum, largest_eigenvalue
from dpm_jax.core.readout import Range, Readout, check_name
from dpm_jax.core.schedule import Schedule
from dpm_jax.units import LOG_2PI

MEANS = ("eq65", "code", "x0", "v")
VARIANCES = ("eq64", "between", "posterior")


class Normal(NamedTuple("Normal", [("mean", Array), ("variance", Array), ("low", Array)])):
    """N(mean + low, diag(variance)), of the event's shape; low: what rounding took from mean."""

    __slots__ = ()

    def __new__(cls, mean: Array, variance: Array, *low: Array):
        """The law; low is 0 where it is not given."""
        return super().__new__(cls, mean, variance, *(low or (jnp.zeros_like(mean),)))


def validate(data) -> None:
    """Refuse data that no Gaussian diffusion can take: (n, *event), finite.

    Raises:
        ValueError: naming what is wrong with ``data``.
    """
    data = np.asarray(data)
    if data.ndim < 2 or data.size == 0:
        raise ValueError(f"data: expected shape (n, *event) with n >= 1, got {data.shape}")
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise ValueError(f"data: expected finite values, got {bad} NaN or infinite of {data.size}")


def prior(shape: tuple[int, ...]) -> Normal:
    """π(x^T) = N(0, I) (eq. 4): event shape -> Normal of that shape."""
    return Normal(jnp.zeros(shape), jnp.ones(shape))


def step(x_prev: Array, beta: Array) -> Normal:
    """q(x^t | x^{t-1}) = N(√(1−β) x^{t-1}, β I) (eq. 2): x_prev of the event's shape, scalar β."""
    mean = jnp.sqrt(1 - beta) * x_prev
    return Normal(mean, jnp.full_like(mean, beta))


def marginal(x0: Array, log_alpha_bar: Array) -> Normal:
    """q(x^t | x^0) = N(√ᾱ x^0, (1−ᾱ) I): x0 of the event's shape, scalar log ᾱ_t."""
    mean = jnp.exp(0.5 * log_alpha_bar) * x0
    return Normal(mean, jnp.full_like(mean, -jnp.expm1(log_alpha_bar)))


def bridge(x0: Array, xt: Array, beta: Array, log_alpha_bar_prev: Array) -> Normal:
    """q(x^{t-1} | x^t, x^0) by Bayes' rule (in eq. 14); β_t and log ᾱ_{t-1} are scalars.

    1−ᾱ_t is formed as (1−ᾱ_{t-1}) + ᾱ_{t-1} β_t, a sum of positive terms, and the factor of x^t,
    √(1−β) (1−ᾱ_{t-1})/(1−ᾱ_t), as 1 − less: rounded, it would be off alike for thousands of t.
    """
    noise_prev = -jnp.expm1(log_alpha_bar_prev)
    noise = noise_prev + jnp.exp(log_alpha_bar_prev) * beta
    from_x0 = jnp.exp(0.5 * log_alpha_bar_prev) * beta / noise
    signal = jnp.exp(0.5 * log_alpha_bar_prev) * jnp.sqrt(1 - beta)  # √ᾱ_t
    less = beta / (1 + jnp.sqrt(1 - beta)) + from_x0 * signal
    mean, low = exact_sum(from_x0 * x0, xt - less * xt)
    return Normal(mean, jnp.full_like(mean, beta * noise_prev / noise), low)


def perturb(params: Normal, log_r) -> Normal:
    """p~ ∝ p r to first order (eq. 61, Table App.1): mean + Σ ∂log r/∂x at the mean, the same Σ.

    Args:
        params: p(x^{t-1} | x^t).
        log_r: x -> log r(x) in nats, differentiable; a scalar, or per element (then summed).
    """
    gradient = jax.grad(lambda x: jnp.sum(log_r(x)))(params.mean)
    return params._replace(mean=params.mean + params.variance * gradient)


def curvature(params: Normal, log_r) -> Array:
    """Largest |eigenvalue| of Σ ∂²log r/∂x² at the mean, by power iteration: 0 where exact.

    For a quadratic log r of curvature c the mean moves by c where 1 − 1/(1+c) is exact.
    """
    gradient = jax.grad(lambda x: jnp.sum(log_r(x)))
    root = jnp.sqrt(params.variance)
    return largest_eigenvalue(
        lambda v: root * jax.jvp(gradient, (params.mean,), (root * v,))[1], root
    )


def observe(y: ArrayLike, noise: ArrayLike) -> Normal:
    """r(x) = N(y; x, noise I) of an observation y (Sec. 2.5), as the parameters of a law of x.

    Args:
        y: of the event's shape.
        noise: variance, scalar or of the event's shape; 0 makes r a delta at y.

    Raises:
        ValueError: for a y that is not finite or a variance outside [0, ∞), where they are known.
    """
    if not isinstance(y, jax.core.Tracer) and not np.all(np.isfinite(y)):
        raise ValueError("y: expected finite values, got NaN or infinite ones")
    values = 0.0 if isinstance(noise, jax.core.Tracer) else np.asarray(noise)
    if not np.all((values >= 0) & (values < np.inf)):
        raise ValueError(f"noise: expected a variance in [0, inf), got {noise}")
    y = jnp.asarray(y, jnp.result_type(float))
    return Normal(y, jnp.broadcast_to(jnp.asarray(noise, y.dtype), y.shape))


def multiply(params: Normal, r: Normal) -> tuple[Normal, Array]:
    """p r / Z~ and log Z~ of eq. 22 in closed form; log Z~ per element, nats.

    r(x) = N(x; r.mean, r.variance); where its variance is 0 the product is exactly r.
    """
    total = jnp.maximum(params.variance + r.variance, 1e-30)
    # Where both are deltas the product is r as well, not 0 of each.
    keep, take = r.variance / total, jnp.where(r.variance == 0, 1.0, params.variance / total)
    product = Normal(keep * params.mean + take * r.mean, take * r.variance)
    z2 = (r.mean - params.mean) ** 2 / total
    return product, -0.5 * (z2 + jnp.log(total) + LOG_2PI)


def power(r: Normal, s: Array) -> Normal:
    """r^s up to a factor that does not depend on x, for a scalar s in (0, 1]."""
    return r._replace(variance=r.variance / s)


def noised(r: Normal, log_alpha_bar: Array) -> Normal:
    """r(x^t) = E[r(x^0) | x^t] for x^0 | x^t ~ N(√ᾱ x^t, (1−ᾱ) I), up to a factor."""
    # Beyond ᾱ = e^-27 the mean of r would overflow what float32 can square; r is constant there.
    log_alpha_bar = jnp.maximum(log_alpha_bar, -27.0)
    variance = (r.variance - jnp.expm1(log_alpha_bar)) * jnp.exp(-log_alpha_bar)
    return Normal(r.mean * jnp.exp(-0.5 * log_alpha_bar), variance)


def sample(key: Array, params: Normal) -> Array:
    """Draw x ~ params; the draw is differentiable in params with the noise held constant."""
    noise = jax.random.normal(key, params.mean.shape, params.mean.dtype)
    return params.mean + (jnp.sqrt(params.variance) * noise + params.low)


def log_prob(params: Normal, x: Array) -> Array:
    """Log density of x in nats, summed over the event."""
    return -0.5 * jnp.sum(_unlikely(params, x) + LOG_2PI)


def entropy(params: Normal) -> Array:
    """Differential entropy in nats, summed over the event."""
    return 0.5 * jnp.sum(jnp.log(params.variance) + 1 + LOG_2PI)


def kl(q: Normal, p: Normal) -> Array:
    """KL(q‖p) in nats, summed over the event; expm1 keeps it exact for nearly equal variances."""
    log_ratio = jnp.log(q.variance) - jnp.log(p.variance)
    z2 = (q.mean - p.mean + (q.low - p.low)) ** 2 / p.variance
    return 0.5 * jnp.sum(z2 + jnp.expm1(log_ratio) - log_ratio)


def readout(mean: str, variance: str = "eq64") -> Readout:
    """The readout of these names (readout.py): eq. 64 and eq. 65, or an alternative.

    Raises:
        ValueError: for an unknown name, or a variance that the mean does not go with.
    """
    check_name("readout", mean, MEANS)
    check_name("variance", variance, VARIANCES)
    if mean in ("eq65", "code") and variance == "posterior":
        raise ValueError(f"variance: expected eq64 or between with readout {mean}, got 'posterior'")
    return Readout(1 if variance == "posterior" else 2, partial(_read, mean, variance))


def compare(key: Array, q: Normal, p: Normal) -> tuple[Array, Array]:
    """x ~ q, and log q(x)/p(x) in nats, summed over the event: an increment of W (eq. 9).

    From the noise that made x, not from x: no two nearly equal squares are subtracted.
    """
    noise = jax.random.normal(key, q.mean.shape, q.mean.dtype)
    x = q.mean + (jnp.sqrt(q.variance) * noise + q.low)
    log_ratio = jnp.log(q.variance) - jnp.log(p.variance)
    shift = (q.mean - p.mean + (q.low - p.low)) / jnp.sqrt(q.variance)
    wider = jnp.expm1(log_ratio)  # of the square of the noise under p
    excess = wider * noise**2 + (1 + wider) * shift * (2 * noise + shift)
    return x, 0.5 * jnp.sum(excess - log_ratio)


def log_ratio(p: Normal, x: Array, q: Normal, y: Array) -> Array:
    """log p(x) − log q(y) in nats: element by element before the sum, since each sum is large."""
    return -0.5 * jnp.sum(_unlikely(p, x) - _unlikely(q, y))


def v_weights(schedule: Schedule, median_noise: float) -> tuple[Array, Array]:
    """Law of t and weights (T+1,) under which the terms of K are the mean squared error of v.

    With Σ = β̃_t, KL_t = ½ (SNR_{t−1} − SNR_t) |x̂^0 − x^0|² and |v̂ − v|² = |x̂^0 − x^0|²/(1−ᾱ_t), so
    the weight is 2 (1−ᾱ_{t−1})/(ᾱ_{t−1} β_t). Whatever the schedule, draws are uniform in the angle
    arctan √((1−ᾱ)/ᾱ · (1−m)/m), half of them below a noise m: a cosine schedule shifted in log-SNR.
    """
    ratio = schedule.noise / jnp.maximum(schedule.alpha_bar, 1e-12)  # infinite where ᾱ_T = 0
    angle = jnp.arctan(jnp.sqrt(ratio[1:] * ((1 - median_noise) / median_noise)))
    law = jnp.maximum(jnp.diff(angle, prepend=jnp.zeros(2)).at[1].set(0.0), 0.0)
    weights = 2 * ratio[:-1] / jnp.maximum(schedule.beta[1:], 1e-12)
    return law / jnp.sum(law), jnp.concatenate([jnp.zeros(1), weights])


def trainable(data) -> None:
    """ValueError for training data without variance, a warning for those far from N(0, I)."""
    mean, deviation = np.mean(data, dtype=np.float64), np.std(data, dtype=np.float64)
    if not deviation > 0:
        raise ValueError("data: expected values that differ, got variance 0")
    if not (0.2 < deviation < 5 and abs(mean) < 5):
        logging.getLogger(__name__).warning(
            "data: mean %.3g and standard deviation %.3g; the prior is N(0, I) and networks learn"
            " best on data scaled by one constant to mean 0 and variance 1",
            *(mean, deviation),
        )


def family() -> Family:
    """The left column of Table App.1 as a :class:`Family`."""
    return Family(
        name="gaussian",
        validate=validate,
        prior=prior,
        step=step,
        marginal=marginal,
        bridge=bridge,
        perturb=perturb,
        curvature=curvature,
        observe=observe,
        multiply=multiply,
        power=power,
        noised=noised,
        sample=sample,
        log_prob=log_prob,
        entropy=entropy,
        kl=kl,
        readout=readout,
        noise=Noise("variance", most=np.inf, default=1.0, additive=True),
        reparametrised=True,
        compare=compare,
        log_ratio=log_ratio,
        v_weights=v_weights,
        trainable=trainable,
    )


def _read(
    mean: str,
    variance: str,
    raw: Array,
    xt: Array,
    schedule: Schedule,
    t: Array,
    x0_range: Range = None,
) -> Normal:
    z_mean = raw[..., 0]
    beta = schedule.beta[t]
    before = schedule.log_alpha_bar[t - 1]
    sigma = _read_variance(variance, raw, schedule, t)
    if mean == "eq65":
        return Normal((xt - z_mean) * (1 - sigma) + z_mean, sigma)
    if mean == "code":
        return Normal(jnp.sqrt(1 - beta) * xt + jnp.sqrt(beta) * z_mean, sigma)
    x0 = z_mean
    if mean == "v":
        x0 = jnp.exp(0.5 * schedule.log_alpha_bar[t]) * xt - jnp.sqrt(schedule.noise[t]) * z_mean
    if x0_range is not None:
        x0 = jnp.clip(x0, *x0_range)
    return bridge(x0, xt, beta, before)._replace(variance=sigma)


def _read_variance(name: str, raw: Array, schedule: Schedule, t: Array) -> Array:
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


def _unlikely(params: Normal, x: Array) -> Array:
    return (x - params.mean - params.low) ** 2 / params.variance + jnp.log(params.variance)
