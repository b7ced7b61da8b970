"""Linear skip: the reverse kernel of a Gaussian law of images (law.py), below a network.

With x^t = √ᾱ x^0 + √(1−ᾱ) ε and s_k the variance of the k-th coefficient of x^0 − m, the Wiener
filter E(x^0|x^t) and its error are, coefficient by coefficient,

    x̂_k = m_k + √ᾱ s_k/(ᾱ s_k + 1 − ᾱ) (x^t − √ᾱ m)_k,    p_k = s_k (1−ᾱ)/(ᾱ s_k + 1 − ᾱ).

The network's first output F corrects x̂ in units of the filter's rms error c(t) (c² is the mean of p
over frequencies, by channel), its second z scales the variance that this error leaves:

    x̂^0 = x̂ + c F,    Σ = Var q(x^{t−1}|x^t,x^0) + A² c² e^z,    A = √ᾱ_{t−1} β_t/(1−ᾱ_t).

With F = z = 0 the chain is that Gaussian law itself, up to the covariance between pixels within one
step, which no diagonal kernel has and which vanishes as steps get short. So the law is a baseline,
the warm start of a network whose last layer is 0, and the cure for low noise, where a network on
x^t would have to amplify details a hundred times by its weights.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dpm_jax.core import gaussian
from dpm_jax.core.family import Array, Reverse
from dpm_jax.core.readout import Range, Readout
from dpm_jax.core.schedule import Schedule
from dpm_jax.images import dct
from dpm_jax.images.law import LinearSkip, resolved, variances

Z_RANGE = (-8.0, 4.0)  # of z: a wild output can then neither end a run nor hide Σ's lower bound


class Filtered(NamedTuple):
    """The Wiener filter at one x^t."""

    x0_hat: Array  # (H, W, C): E(x^0|x^t)
    variance: Array  # (C,): c², its mean square error by channel
    residual: Array  # (H, W, C): x^t − √ᾱ m whitened, N(0, I) under the law
    noise: Array  # (C,): how much of the residual's variance 1 is that of ε


def wiener(skip: LinearSkip, xt: Array, log_alpha_bar: Array) -> Filtered:
    """E(x^0|x^t) under the law, its error, and x^t whitened, for one example (H, W, C).

    Finite with finite gradients at every ᾱ in [0, 1]; exact to rounding in float32, since
    x̂ = √ᾱ x^t + (1−ᾱ)(m + √ᾱ (s−1)/(ᾱ s + 1 − ᾱ) (x^t − √ᾱ m)) never cancels at low noise.

    Args:
        skip: the law, of the image's size.
        xt: (H, W, C).
        log_alpha_bar: scalar, log ᾱ_t <= 0; −inf is legal.

    Raises:
        ValueError: where xt has another shape than the law (`resize` makes one of another size).
    """
    if xt.shape != skip.power.shape:
        raise ValueError(f"xt: expected the law's shape {skip.power.shape}, got {xt.shape}")
    signal, noise = jnp.exp(0.5 * log_alpha_bar), -jnp.expm1(log_alpha_bar)
    mean = jnp.broadcast_to(skip.mean, xt.shape)
    total = variances(skip, log_alpha_bar)
    z = dct.analyse(skip.axes, xt - signal * mean)
    correction = dct.synthesise(skip.axes, (skip.power - 1) / total * z)
    by_channel = partial(_by_channel, skip.axes)
    return Filtered(
        x0_hat=signal * xt + noise * (mean + signal * correction),
        variance=by_channel(skip.power * noise / total),
        residual=dct.synthesise(skip.axes, z / jnp.sqrt(total)),
        noise=by_channel(noise / total),
    )


def features(skip: LinearSkip, xt: Array, schedule: Schedule, t: Array) -> Array:
    """What the network sees of x^t, t >= 1: (H, W, 2C), x̂ and asinh of the whitened residual.

    The residual is taken in units of the noise in it, so that a flat patch shows its ε at scale 1
    at every t; asinh compresses the edges beside it.
    """
    filtered = wiener(skip, xt, schedule.log_alpha_bar[t])
    scale = jnp.broadcast_to(jnp.sqrt(filtered.noise), xt.shape)
    return jnp.concatenate([filtered.x0_hat, jnp.arcsinh(filtered.residual / scale)], axis=-1)


def kernel(
    skip: LinearSkip,
    raw: Array,
    xt: Array,
    schedule: Schedule,
    t: Array,
    x0_range: Range = None,
) -> gaussian.Normal:
    """p(x^{t−1}|x^t) = N(A x̂^0 + B x^t, Σ), x̂^0 and Σ as above, from the network's raw outputs.

    In one jit with `features` the filter is computed once: XLA merges equal expressions.

    Args:
        skip: the law, of the image's size.
        raw: (H, W, C, 2): F, and z, which is clipped to `Z_RANGE`.
        xt: (H, W, C).
        schedule: β_t.
        t: 1..T.
        x0_range: (low, high), clamp of x̂^0 where given (readout.py).

    Raises:
        ValueError: where xt or raw has another shape.
    """
    if raw.shape != (*xt.shape, 2):
        raise ValueError(f"raw: expected shape {(*xt.shape, 2)}, got {raw.shape}")
    filtered = wiener(skip, xt, schedule.log_alpha_bar[t])
    c2 = jnp.broadcast_to(filtered.variance, xt.shape)
    x0 = filtered.x0_hat + jnp.sqrt(c2) * raw[..., 0]
    x0 = x0 if x0_range is None else jnp.clip(x0, *x0_range)
    beta, before = schedule.beta[t], schedule.log_alpha_bar[t - 1]
    # The mean as bound.term forms it: of p's and q's, only A (x̂^0 − x^0) is left in their KL.
    q = gaussian.bridge(x0, xt, beta, before)
    noise = -jnp.expm1(before) + jnp.exp(before) * beta
    A = jnp.exp(0.5 * before) * beta / noise
    left = A**2 * c2 * jnp.exp(jnp.clip(raw[..., 1], *Z_RANGE))
    return q._replace(variance=q.variance + left)


def reverse(
    skip: LinearSkip,
    schedule: Schedule,
    network: Callable[[Array, Array], Array] | None = None,
    x0_range: Range = None,
) -> Reverse:
    """(x^t, t) -> p(x^{t−1}|x^t), network: (features, t) -> raw. None: F = z = 0, the law alone."""

    def step(xt: Array, t: Array) -> gaussian.Normal:
        if network is None:
            raw = jnp.zeros((*xt.shape, 2), xt.dtype)
        else:
            raw = network(features(skip, xt, schedule, t), t)
        return kernel(skip, raw, xt, schedule, t, x0_range)

    return step


def readout(skip: LinearSkip) -> Readout:
    """The readout of a network on the law: it sees (H, W, 2C) and gives F and z of each channel.

    Args:
        skip: the law, of the image's size.
    """

    def apply(raw: Array, xt: Array, schedule: Schedule, t: Array, x0_range: Range = None):
        by_channel = raw.reshape(*xt.shape[:2], 2, xt.shape[2]).swapaxes(2, 3)
        return kernel(skip, by_channel, xt, schedule, t, x0_range)

    return Readout(
        outputs=1, apply=apply, features=partial(features, skip), kl_per_fold=_table(skip)
    )


def _table(skip: LinearSkip) -> Callable[[Array], Array]:
    """`resolved` by the log-SNR, from a table: every training step asks for it."""
    at = np.linspace(-20, 20, 161)  # where Schedule.log_snr lies
    shares = resolved(skip, at)

    def interpolate(log_snr: Array) -> Array:
        return jnp.interp(log_snr, *(jnp.asarray(v, log_snr.dtype) for v in (at, shares)))

    return interpolate


def _by_channel(axes: Array, variance: Array) -> Array:
    """Variances (H, W, C) of coefficients, as the mean over the pixels of each channel, (C,)."""
    return jnp.matmul(axes**2, jnp.mean(variance, axis=(0, 1)), precision="highest")
