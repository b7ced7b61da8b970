"""The Swiss roll's exact noised density, the ceiling of K, and posteriors to compare draws with."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.spatial import cKDTree

from dpm_jax.data.swiss_roll import START, STOP, moments, sample


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
    centre = _curve(0.5 * (STOP + START) + 0.5 * (STOP - START) * node, beta_1, noise)
    # Thin: the law is locally a straight line and few nodes do; wide: turns of the roll mix.
    z, z_weight = np.polynomial.hermite_e.hermegauss(8 if width < 0.05 else 20)
    offset = np.stack(np.meshgrid(z, z), axis=-1).reshape(-1, 2)
    x = centre[:, None, :] + width * offset[None, :, :]
    weights = np.outer(weight, np.outer(z_weight, z_weight).ravel())  # both kinds sum to a constant
    log_q = log_density(x.reshape(-1, 2), beta_1, noise)
    return float(np.sum(weights.ravel() * log_q) / np.sum(weights))


def has_density(noise: float, last_step: str) -> bool:
    """Whether the law that exact kernels give x^0 has a density; the bare curve has none.

    Args:
        noise: the roll's own noise in raw units.
        last_step: "fixed" adds β_1 to the data, "learned" adds nothing.
    """
    return last_step == "fixed" or noise > 0


def ceiling(beta_1: float, noise: float, last_step: str) -> float | None:
    """The largest E K, nats: −h(X^1), or with a learned last step −h(X^0); None without a density.

    Arguments and errors as `negative_entropy`; last_step as in `has_density`.
    """
    if not has_density(noise, last_step):
        return None
    return negative_entropy(beta_1 if last_step == "fixed" else 0.0, noise)


def log_likelihood(x, beta_1: float, noise: float, last_step: str) -> np.ndarray:
    """log p(x^0) of points (n, 2) if all kernels were exact, (n,) nats.

    The fixed last step blurs x^1 once more: p(x^0) is then the law of the roll noised by β_1 twice.

    Raises:
        ValueError: as `log_density`; without a density (`has_density`) too.
    """
    return log_density(x, 1 - (1 - beta_1) ** 2 if last_step == "fixed" else 0.0, noise)


def points(key: Array, n: int, noise: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Draws x of a wide law g about the roll, and −log n g: E Σ p/(n g) is the integral of p.

    Args:
        key: a typed key.
        n: number of points.
        noise: the roll's own noise in raw units.

    Returns:
        x, (n, 2) float32; log weights, (n,) float64; False: they are not all there is.
    """
    key_law, key_roll, key_noise = jax.random.split(key, 3)
    near = jax.random.bernoulli(key_law, 0.9, (n, 1))
    z = jax.random.normal(key_noise, (n, 2))
    roll = np.sqrt(0.9) * sample(key_roll, n, noise) + np.sqrt(0.1) * z
    x = np.asarray(jnp.where(near, roll, 2 * z), np.float64)
    wide = -np.sum(x**2, axis=1) / 8 - np.log(8 * np.pi)
    log_g = np.logaddexp(np.log(0.9) + log_density(x, 0.1, noise), np.log(0.1) + wide)
    return x.astype(np.float32), -log_g - np.log(n), False


def compare(
    y, known, noise: float, x, weight, *, beta_1: float, roll_noise: float
) -> dict[str, float]:
    """Total variation between weighted draws and the posterior of the data's density, on a grid.

    Bins of 0.14 in two dimensions, 0.1 in one, over ±2.8. The floor is the mean of as many exact
    draws of equal weight.

    Args:
        y: (2,) what was observed.
        known: (2,) bool, which coordinates were.
        noise: variance of the observation; 0: known coordinates are exact.
        x: (n, 2) draws.
        weight: (n,) of the draws, their sum 1.
        beta_1: blurs the roll where it has no noise of its own: the bare curve has no density.
        roll_noise: the roll's own noise in raw units.

    Returns:
        "total_variation" and "total_variation_floor"; nothing where both coordinates are known.
    """
    hidden = [i for i in range(2) if noise or not known[i]]
    if not hidden:
        return {}
    bins, fine = (40, 10) if len(hidden) == 2 else (56, 100)
    edges = np.linspace(-2.8, 2.8, bins * fine + 1)
    cells = _cells(y, hidden, edges)
    log_p = log_density(cells, 0.0 if roll_noise else beta_1, roll_noise)
    if noise:
        log_p = log_p - 0.5 * np.sum((cells - y) ** 2, axis=1) / noise
    p = np.exp(log_p - log_p.max()).reshape((bins, fine) * len(hidden))
    p = p.sum(axis=tuple(range(1, p.ndim, 2))) / p.sum()
    seen, _ = np.histogramdd(x[:, hidden], [edges[::fine]] * len(hidden), weights=weight)
    exact = np.random.default_rng(0).multinomial(len(x), p.ravel(), 200) / len(x)
    floor = 0.5 * np.abs(exact - p.ravel()).sum(axis=1).mean()
    distance = 0.5 * (np.abs(seen - p).sum() + 1 - seen.sum())  # draws outside the grid count
    return {"total_variation": float(distance), "total_variation_floor": float(floor)}


def _cells(y, hidden: list[int], edges: np.ndarray) -> np.ndarray:
    """Middles of the cells of a grid over the hidden coordinates, (cells, 2); the rest as in y."""
    middle = (edges[1:] + edges[:-1]) / 2
    cells = np.array(np.broadcast_to(y, (middle.size ** len(hidden), 2)), np.float64)
    for i, axis in zip(hidden, np.meshgrid(*[middle] * len(hidden), indexing="ij")):
        cells[:, i] = axis.ravel()
    return cells


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
    length = math.sqrt(1.0 - beta_1) * (STOP**2 - START**2) / (2.0 * scale)
    panels = max(24, math.ceil(length / (4.0 * width)))  # 24 follow the turns of a wide law
    node, weight = np.polynomial.legendre.leggauss(8)
    half = (STOP**2 - START**2) / (2.0 * panels)
    middle = START**2 + half * (2.0 * np.arange(panels) + 1.0)
    s = np.sqrt(middle[:, None] + half * node[None, :]).ravel()
    ds = np.tile(half * weight, panels) / (2.0 * s)
    return _curve(s, beta_1, noise), np.log(ds / (STOP - START))


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
