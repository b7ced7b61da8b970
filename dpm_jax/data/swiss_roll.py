"""The Swiss roll of Sec. 3.1 in two dimensions, its exact noised density, and the ceiling of K.

The law is scikit-learn's ``make_swiss_roll`` without the flat coordinate: s = (3π/2)(1 + 2u) with
u uniform on [0, 1], the point (s cos s, s sin s), plus noise · N(0, I). It is centred by its exact
mean and both coordinates are divided by one number: their mean variance is exactly 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

Array = jax.Array

_START, _STOP = 1.5 * math.pi, 4.5 * math.pi  # the range of s
# E s cos s and E s sin s, with the antiderivatives s sin s + cos s and sin s − s cos s.
_MEAN = (2.0, 2.0 / (3.0 * math.pi))
# E s² = 39π²/4, shared by two coordinates.
_CURVE_VARIANCE = (9.75 * math.pi**2 - _MEAN[0] ** 2 - _MEAN[1] ** 2) / 2.0


def moments(noise=0.0):
    """Exact mean and scale of the raw roll: standardised point = (raw point − mean) / scale.

    Args:
        noise: standard deviation of the added noise in raw units (scikit-learn's), finite, >= 0.

    Returns:
        mean, (2,) float64 NumPy, raw units; scale, a float (traced if `noise` is), the square root
        of the mean variance per coordinate, noise² included.

    Raises:
        ValueError: for a negative or not finite `noise`, where its value is known.
    """
    _check_noise(noise)
    return np.array(_MEAN), (_CURVE_VARIANCE + noise**2) ** 0.5


def sample(key: Array, n: int, noise: float = 0.0) -> Array:
    """n draws of the standardised roll (Sec. 3.1), the data x^0.

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of the added noise in raw units, finite, >= 0; may be traced.

    Returns:
        (n, 2) float32, mean 0 and mean variance per coordinate 1 under the law.

    Raises:
        ValueError: for a negative or not finite `noise`, where its value is known.
    """
    _check_noise(noise)  # before it becomes an array, whose value is unknown under jit
    spread = jnp.asarray(noise, jnp.float32)
    _, scale = moments(spread)
    key_curve, key_noise = jax.random.split(key)
    s = jax.random.uniform(key_curve, (n,), jnp.float32, _START, _STOP)
    curve = jnp.stack([s * jnp.cos(s) - _MEAN[0], s * jnp.sin(s) - _MEAN[1]], axis=1)
    x = curve + spread * jax.random.normal(key_noise, (n, 2), jnp.float32)
    return x / scale


def log_density(x, beta_1: float, noise: float = 0.0) -> np.ndarray:
    """log q(x^1) of x^1 = √(1−β_1) x^0 + √β_1 ε, by quadrature along the curve, in float64.

    With 1−ᾱ_t in the place of β_1 it is log q(x^t). Exact to 1e-4 nats within 6 standard
    deviations of the curve, and to 0.2 % of log q far beyond its ends. At β_1 = 1e-6, 10⁴ draws of
    the law take 0.2 s and as many points far from the curve seconds; larger β_1 are faster.

    Args:
        x: (n, 2) points in standardised units.
        beta_1: variance added, in [0, 1].
        noise: the roll's own noise in raw units, finite, >= 0.

    Returns:
        (n,) nats, float64 NumPy.

    Raises:
        ValueError: for a wrong shape of `x`, `beta_1` outside [0, 1], a bad `noise`, or both 0:
            the curve alone has no density.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x: expected shape (n, 2), got {x.shape}")
    width = _width(beta_1, noise)
    centre, log_weight = _mixture(beta_1, noise, width)
    order = np.argsort(cKDTree(centre).query(x)[1])  # along the curve: neighbours lie together
    x, centre = x / width, centre / width  # from here on in units of the width
    chunk = max(32, 2**20 // len(centre))  # 8 MB of float64 at a time
    out = np.empty(len(x))
    for i in range(0, len(x), chunk):
        rows = order[i : i + chunk]
        out[rows] = _log_mixture(x[rows], centre, log_weight)
    return out - math.log(2.0 * math.pi * width**2)


def negative_entropy(beta_1: float, noise: float = 0.0) -> float:
    """−h(X^1), the ceiling of K with the paper's fixed last step (App. B.2): K <= E log q(x^1).

    Gauss–Legendre nodes along the curve times Gauss–Hermite nodes about it; the error is below
    1e-3 bits. Takes under half a second at any β_1 from 1e-6 on.

    Args:
        beta_1: variance added by the first step, in [0, 1]; below 1e-6 it is slower, as β_1^-½.
        noise: the roll's own noise in raw units, finite, >= 0.

    Returns:
        Nats per point (both coordinates together).

    Raises:
        ValueError: as `log_density`.
    """
    width = _width(beta_1, noise)
    node, weight = np.polynomial.legendre.leggauss(128)
    centre = _curve(0.5 * (_STOP + _START) + 0.5 * (_STOP - _START) * node, beta_1, noise)
    # Thin: the law is locally a straight line and few nodes do; wide: turns of the roll mix.
    z, z_weight = np.polynomial.hermite_e.hermegauss(8 if width < 0.05 else 20)
    offset = np.stack(np.meshgrid(z, z), axis=-1).reshape(-1, 2)
    x = centre[:, None, :] + width * offset[None, :, :]
    weights = np.outer(weight, np.outer(z_weight, z_weight).ravel())  # both kinds sum to a constant
    log_q = log_density(x.reshape(-1, 2), beta_1, noise)
    return float(np.sum(weights.ravel() * log_q) / np.sum(weights))


def _check_noise(noise) -> None:
    """ValueError for a noise that is known and not a finite number >= 0."""
    if isinstance(noise, jax.core.Tracer):
        return
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise: expected a finite number >= 0, got {noise}")


def _width(beta_1: float, noise: float) -> float:
    """Standard deviation of x^1 about the scaled curve, in standardised units."""
    _, scale = moments(noise)
    if not 0 <= beta_1 <= 1:
        raise ValueError(f"beta_1: expected a number in [0, 1], got {beta_1}")
    if beta_1 == 0 and noise == 0:
        raise ValueError("beta_1: expected > 0 where noise = 0 (a curve has no density), got 0")
    return math.sqrt((1.0 - beta_1) * (noise / scale) ** 2 + beta_1)


def _curve(s: np.ndarray, beta_1: float, noise: float) -> np.ndarray:
    """Points √(1−β_1) (c(s) − mean) / scale of the curve, (n,) -> (n, 2)."""
    mean, scale = moments(noise)
    raw = np.stack([s * np.cos(s), s * np.sin(s)], axis=1)
    return math.sqrt(1.0 - beta_1) * (raw - mean) / scale


def _mixture(beta_1: float, noise: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians of standard deviation `width` whose mixture is q(x^1): centres, log weights.

    Gauss–Legendre panels of 8 nodes, each 4 widths long, in s²: arc length is ds²/2 within 2 %.
    """
    _, scale = moments(noise)
    length = math.sqrt(1.0 - beta_1) * (_STOP**2 - _START**2) / (2.0 * scale)
    panels = max(24, math.ceil(length / (4.0 * width)))  # 24 follow the turns of a wide law
    node, weight = np.polynomial.legendre.leggauss(8)
    half = (_STOP**2 - _START**2) / (2.0 * panels)
    middle = _START**2 + half * (2.0 * np.arange(panels) + 1.0)
    s = np.sqrt(middle[:, None] + half * node[None, :]).ravel()
    ds = np.tile(half * weight, panels) / (2.0 * s)
    return _curve(s, beta_1, noise), np.log(ds / (_STOP - _START))


def _log_mixture(x: np.ndarray, centre: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """log Σ_j w_j exp(−|x − c_j|²/2): x (n, 2), centre (m, 2), log_weight (m,) -> (n,)."""
    # Points that lie together need few of the centres. From the middle of the points, of radius r,
    # centres at a distance beyond `reach` add less than e^-40 of the nearest one's term, each.
    middle = 0.5 * (x.min(axis=0) + x.max(axis=0))
    radius = math.sqrt(np.max(np.sum((x - middle) ** 2, axis=1)))
    distance = np.sqrt(np.sum((centre - middle) ** 2, axis=1))
    reach = radius + math.sqrt((distance.min() + radius) ** 2 + 80.0)
    centre, log_weight = centre[distance <= reach], log_weight[distance <= reach]
    # log w − |x − c|²/2 = x·c + (log w − |c|²/2) − |x|²/2: one matrix product.
    constant = log_weight - 0.5 * np.sum(centre**2, axis=1)
    terms = np.hstack([x, np.ones((len(x), 1))]) @ np.vstack([centre.T, constant])
    peak = terms.max(axis=1)
    terms -= peak[:, None]  # in place, twice: the time goes into memory
    np.exp(terms, out=terms)
    return peak + np.log(terms.sum(axis=1)) - 0.5 * np.sum(x**2, axis=1)
