"""Linear skip: a Gaussian law of images, diagonal in DCT frequency × colour axis, below a network.

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

from dpm_jax import gaussian
from dpm_jax.family import Array, Reverse
from dpm_jax.schedule import Schedule

Z_RANGE = (-8.0, 4.0)  # of z: a wild output can then neither end a run nor hide Σ's lower bound

_ITERATIONS = 10  # of Richardson–Lucy: more fit the sampling error of the powers
_LOG_2PI = float(np.log(2 * np.pi))


class LinearSkip(NamedTuple):
    """A Gaussian law of images whose coefficients are independent; a pytree of arrays."""

    mean: Array  # (C,), the same at every pixel, or (H, W, C)
    axes: Array  # (C, C), orthonormal: column a is colour axis a
    power: Array  # (H, W, C) > 0: s, by vertical frequency, horizontal frequency, colour axis


class Filtered(NamedTuple):
    """The Wiener filter at one x^t."""

    x0_hat: Array  # (H, W, C): E(x^0|x^t)
    variance: Array  # (C,): c², its mean square error by channel
    residual: Array  # (H, W, C): x^t − √ᾱ m whitened, N(0, I) under the law
    noise: Array  # (C,): how much of the residual's variance 1 is that of ε


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
    total, products = 0.0, 0.0
    for start in range(0, shape[0], chunk):
        rows = images[start : start + chunk]
        coefficients = _coefficients(np.asarray(rows if prepare is None else prepare(rows)))
        total = total + coefficients.sum(axis=0)
        products = products + np.einsum("nhwc,nhwd->hwcd", coefficients, coefficients)
    mean = total / shape[0]
    if stationary_mean:
        mean[1:], mean[0, 1:] = 0, 0
    moments, square = products / shape[0], mean[..., :, None] * mean[..., None, :]
    spread, whole = (np.einsum("hwcc->", part) for part in (moments - square, moments))
    if not (np.isfinite(whole) and spread > 1e-12 * whole):  # else rounding alone
        raise ValueError("images: expected finite values that differ, got NaN, inf or a constant")
    axes, power = _axes_and_powers(moments - square, noise_variance, shrinkage)
    pixels = _coefficients(mean[None], inverse=True)[0]
    values = (pixels[0, 0] if stationary_mean else pixels, axes, power)
    return LinearSkip(*(jnp.asarray(value, jnp.result_type(float)) for value in values))


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
    total = _total(skip, log_alpha_bar)
    z = _analyse(skip.axes, xt - signal * mean)
    correction = _synthesise(skip.axes, (skip.power - 1) / total * z)
    by_channel = partial(_by_channel, skip.axes)
    return Filtered(
        x0_hat=signal * xt + noise * (mean + signal * correction),
        variance=by_channel(skip.power * noise / total),
        residual=_synthesise(skip.axes, z / jnp.sqrt(total)),
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
    x0_range: tuple[float, float] | None = None,
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
    q = gaussian.posterior(x0, xt, beta, before)
    noise = -jnp.expm1(before) + jnp.exp(before) * beta
    A = jnp.exp(0.5 * before) * beta / noise
    left = A**2 * c2 * jnp.exp(jnp.clip(raw[..., 1], *Z_RANGE))
    return gaussian.Normal(q.mean, q.variance + left)


def reverse(
    skip: LinearSkip,
    schedule: Schedule,
    network: Callable[[Array, Array], Array] | None = None,
    x0_range: tuple[float, float] | None = None,
) -> Reverse:
    """(x^t, t) -> p(x^{t−1}|x^t), network: (features, t) -> raw. None: F = z = 0, the law alone."""

    def step(xt: Array, t: Array) -> gaussian.Normal:
        if network is None:
            raw = jnp.zeros((*xt.shape, 2), xt.dtype)
        else:
            raw = network(features(skip, xt, schedule, t), t)
        return kernel(skip, raw, xt, schedule, t, x0_range)

    return step


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
    total = _total(skip, log_alpha_bar)
    z = _analyse(skip.axes, x - mean)
    return -0.5 * jnp.sum(z**2 / total + jnp.log(total) + _LOG_2PI)


def resize(skip: LinearSkip, height: int, width: int) -> LinearSkip:
    """The law of images of another size from the same stationary process.

    A process of spectral density S >= 0 has s_k = mean over ω of S(ω) |Φ_k(ω)|², with Φ_k the
    transform of the k-th cosine, at any size. Richardson–Lucy steps from the interpolated powers
    find an S that gives those of `skip`; the powers at the new size follow, and the variance of a
    pixel stays. Below the lowest frequency of `skip`, S is unknown and taken as constant.

    Error, as KL in nats a pixel, from 32² to 256² for exact covariances e^{−(|dy|+|dx|)/ℓ}: 1e-5
    at ℓ = 5, 2e-5 at 20, 1e-3 at 40, where single low powers are off by up to 1.6 times. The
    sampling error of powers fitted to N images, 0.5/N, grows to at most 1/N.

    Args:
        skip: a law with one mean for each channel.
        height, width: of the new images, at least 1.

    Raises:
        ValueError: for a size below 1, or a law with a mean for each pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected at least 1, got {height}, {width}")
    if skip.mean.ndim != 1:
        raise ValueError(f"skip: expected one mean for each channel, got shape {skip.mean.shape}")
    power = np.asarray(skip.power, np.float64)
    old, new = power.shape[:2], (height, width)
    if old == new:
        return skip
    grids = [2 * max(pair) for pair in zip(old, new)]
    density = _density(power, [_leakage(n, g) for n, g in zip(old, grids)])
    resized = _sides([_leakage(n, g) for n, g in zip(new, grids)], density)
    return skip._replace(power=jnp.asarray(resized, skip.power.dtype))


# --- in the coefficients ------------------------------------------------------------------------


def _total(skip: LinearSkip, log_alpha_bar: Array) -> Array:
    """ᾱ s + 1 − ᾱ, the variances of the coefficients of x^t, (H, W, C)."""
    return jnp.exp(log_alpha_bar) * skip.power - jnp.expm1(log_alpha_bar)


def _by_channel(axes: Array, variance: Array) -> Array:
    """Variances (H, W, C) of coefficients, as the mean over the pixels of each channel, (C,)."""
    return jnp.matmul(axes**2, jnp.mean(variance, axis=(0, 1)), precision="highest")


def _dct_matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II, (size, size) float64: row k holds the cosine of frequency k."""
    angle = np.pi / size * np.arange(size)[:, None] * (np.arange(size) + 0.5)
    scale = np.where(np.arange(size) == 0, 1, 2) / size
    return np.sqrt(scale)[:, None] * np.cos(angle)


def _analyse(axes: Array, x: Array) -> Array:
    """Coefficients (H, W, C) of an image; HIGHEST, since 1 − ᾱ is below what TF32 resolves."""
    vertical, horizontal = (jnp.asarray(_dct_matrix(n), x.dtype) for n in x.shape[:2])
    return jnp.einsum("ki,lj,ca,ijc->kla", vertical, horizontal, axes, x, precision="highest")


def _synthesise(axes: Array, z: Array) -> Array:
    """The image of these coefficients: the inverse of `_analyse`, which is its transpose."""
    vertical, horizontal = (jnp.asarray(_dct_matrix(n), z.dtype) for n in z.shape[:2])
    return jnp.einsum("ki,lj,ca,kla->ijc", vertical, horizontal, axes, z, precision="highest")


# --- on the host, in float64 --------------------------------------------------------------------


def _coefficients(images: np.ndarray, inverse: bool = False) -> np.ndarray:
    """2-D DCT of images (n, H, W, C), by channel; or back."""
    n, height, width, channels = images.shape
    vertical, horizontal = (_dct_matrix(size) for size in (height, width))
    if inverse:
        vertical, horizontal = vertical.T, horizontal.T
    rows = vertical @ images.reshape(n, height, width * channels)
    return (horizontal @ rows.reshape(n, height, width, channels)).reshape(images.shape)


def _axes_and_powers(covariance: np.ndarray, noise_variance: float, shrinkage: float):
    """Axes of the mean over frequencies of covariances (H, W, C, C), and powers along them."""
    mean = covariance.mean(axis=(0, 1))
    axes = np.linalg.eigh(mean)[1][:, ::-1]  # the largest first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    power = np.maximum(np.einsum("ca,hwcd,da->hwa", axes, covariance, axes), 0) + noise_variance
    return axes, (1 - shrinkage) * power + shrinkage * power.mean()


def _density(power: np.ndarray, leakage: list[np.ndarray]) -> np.ndarray:
    """S >= 0 at the grid's frequencies (G_h, G_w, C), whose powers are `power`: resize."""
    hats = []
    for size, grid in (matrix.shape for matrix in leakage):
        at = np.clip((np.arange(grid) + 0.5) * size / grid, 0, size - 1)
        hats.append(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))))
    density = np.exp(_sides(hats, np.log(power)))  # linear between the DCT's frequencies πk/size
    back = [matrix.T / matrix.sum(axis=0)[:, None] for matrix in leakage]
    for _ in range(_ITERATIONS):
        density = density * _sides(back, power / _sides(leakage, density))
    return density


def _leakage(size: int, grid: int) -> np.ndarray:
    """|Φ_k(ω)|²/grid of the DCT's cosines at `grid` frequencies ω over (0, π): (size, grid)."""
    omega = (np.arange(grid) + 0.5) * np.pi / grid
    waves = np.exp(1j * np.arange(size)[:, None] * omega)
    return np.abs(_dct_matrix(size) @ waves) ** 2 / grid


def _sides(matrices: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Σ_ij V_ki H_lj x_ijc, with V and H the matrices for the vertical and the horizontal side."""
    return np.einsum("ki,lj,ijc->klc", *matrices, x, optimize=True)
