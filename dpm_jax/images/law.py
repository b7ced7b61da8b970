"""A Gaussian law of images, diagonal in DCT frequency × colour axis: what the linear skip rests on.

With x^t = √ᾱ x^0 + √(1−ᾱ) ε and s_k the variance of the k-th coefficient of x^0 − m, those of x^t
are independent with variances ᾱ s_k + 1 − ᾱ, so the density of x^t is a product.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.images import dct
from dpm_jax.units import LOG_2PI


class LinearSkip(NamedTuple):
    """A Gaussian law of images whose coefficients are independent; a pytree of arrays."""

    mean: Array  # (C,), the same at every pixel, or (H, W, C)
    axes: Array  # (C, C), orthonormal: column a is colour axis a
    power: Array  # (H, W, C) > 0: s, by vertical frequency, horizontal frequency, colour axis


def fit(
    images,
    prepare: Callable | None = None,
    noise_variance: float = 0.0,
    shrinkage: float = 1e-6,
    stationary_mean: bool = True,
    chunk: int = 1000,
) -> LinearSkip:
    """Mean, colour axes and powers of a training set: one pass over it, in float64.

    Args:
        images: (N, H, W, C), whatever can be sliced: uint8 rows, a memory map.
        prepare: rows (n, H, W, C) -> data in the model's units, e.g. standardised. None: the rows
            are the data.
        noise_variance: of white noise that the data have on top, added to every power: it is
            1/(12 scale²) where 8-bit levels are dequantised and divided by `scale`.
        shrinkage: weight, inside (0, 1), of white noise of the same total variance, so that no
            power is 0. At unit variance 1e-6 is far below the 2e-5 of 8-bit levels.
        stationary_mean: one mean for each channel and powers about it; False: one for each pixel.
        chunk: rows transformed at once.

    Raises:
        ValueError: for another shape, N < 2, values that are not finite or all the same, or a
            shrinkage outside (0, 1).
    """
    shape = np.shape(images)
    if len(shape) != 4 or shape[0] < 2 or 0 in shape:
        raise ValueError(f"images: expected shape (N, H, W, C) with N >= 2, got {shape}")
    if not 0 < shrinkage < 1:
        raise ValueError(f"shrinkage: expected a number inside (0, 1), got {shrinkage}")
    total, products = _sums(images, prepare, chunk)
    mean = total / shape[0]
    if stationary_mean:
        mean[1:], mean[0, 1:] = 0, 0
    moments, square = products / shape[0], mean[..., :, None] * mean[..., None, :]
    spread, whole = (np.einsum("hwcc->", part) for part in (moments - square, moments))
    if not (np.isfinite(whole) and spread > 1e-12 * whole):  # else rounding alone
        raise ValueError("images: expected finite values that differ, got NaN, inf or a constant")
    axes, power = _axes_and_powers(moments - square, noise_variance, shrinkage)
    pixels = dct.transform(mean[None], inverse=True)[0]
    values = (pixels[0, 0] if stationary_mean else pixels, axes, power)
    return LinearSkip(*(jnp.asarray(value, jnp.result_type(float)) for value in values))


def log_density(skip: LinearSkip, x: Array, log_alpha_bar: Array | float = 0.0) -> Array:
    """Log density of x^t under the law, exact, nats: Σ_k log N((x^t)_k; √ᾱ m_k, ᾱ s_k + 1 − ᾱ).

    Args:
        skip: the law, of the image's size.
        x: one example (H, W, C), noised to log ᾱ by the caller.
        log_alpha_bar: scalar; 0 for x^0 itself.

    Raises:
        ValueError: where x has another shape than the law.
    """
    if x.shape != skip.power.shape:
        raise ValueError(f"x: expected the law's shape {skip.power.shape}, got {x.shape}")
    log_alpha_bar = jnp.asarray(log_alpha_bar, x.dtype)
    mean = jnp.exp(0.5 * log_alpha_bar) * jnp.broadcast_to(skip.mean, x.shape)
    total = variances(skip, log_alpha_bar)
    z = dct.analyse(skip.axes, x - mean)
    return -0.5 * jnp.sum(z**2 / total + jnp.log(total) + LOG_2PI)


def resolved(skip: LinearSkip, log_snr) -> np.ndarray:
    """Mean of ᾱ s/(ᾱ s + 1 − ᾱ): the share of the coefficients that stand above the noise.

    It is SNR c²: KL_t of the law alone in an e-fold of noise over signal, in units of ½ nat a
    dimension.

    Args:
        skip: the law.
        log_snr: (n,), log ᾱ/(1−ᾱ).

    Returns:
        (n,) float64 in (0, 1).
    """
    power = np.asarray(skip.power, np.float64).ravel()
    ratios = np.exp(-np.asarray(log_snr, np.float64))
    return np.array([np.mean(power / (power + ratio)) for ratio in ratios])


def variances(skip: LinearSkip, log_alpha_bar: Array) -> Array:
    """ᾱ s + 1 − ᾱ, the variances of the coefficients of x^t, (H, W, C)."""
    return jnp.exp(log_alpha_bar) * skip.power - jnp.expm1(log_alpha_bar)


def _sums(images, prepare: Callable | None, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over images of the coefficients (H, W, C), and of their products by channel."""
    total, products = np.zeros(()), np.zeros(())
    for start in range(0, len(images), chunk):
        rows = images[start : start + chunk]
        coefficients = dct.transform(np.asarray(rows if prepare is None else prepare(rows)))
        total = total + coefficients.sum(axis=0)
        products = products + np.einsum("nhwc,nhwd->hwcd", coefficients, coefficients)
    return total, products


def _axes_and_powers(covariance: np.ndarray, noise_variance: float, shrinkage: float):
    """Axes of the mean over frequencies of covariances (H, W, C, C), and powers along them."""
    mean = covariance.mean(axis=(0, 1))
    axes = np.linalg.eigh(mean)[1][:, ::-1]  # the largest first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    power = np.maximum(np.einsum("ca,hwcd,da->hwa", axes, covariance, axes), 0) + noise_variance
    return axes, (1 - shrinkage) * power + shrinkage * power.mean()
