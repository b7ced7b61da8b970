"""The last step onto integers: the probability of a grey level's bin under a Gaussian p(x^0|x^1).

With it K bounds the log probability of integer images, and −K/(dims ln 2) is the bits/dim of a
lossless code. Data are then the centres of their bins (`centre`), without dequantisation noise. A
pixel of level k under N(μ, σ²), in the units of the model,

    P(k) = Φ((x_k + w/2 − μ)/σ) − Φ((x_k − w/2 − μ)/σ),

with −∞ and +∞ for the outer edges of the lowest and the highest bin, so that Σ_k P(k) = 1.

β_1 about w²/2, noise as wide as a bin, serves best: the last step then decides between neighbouring
levels, which with much less noise the network has to know exactly. Two correlated pixels of 16
levels with 6.19 bits of entropy (an MLP of 2×128, T = 100, 6,000 steps) cost 6.27, 6.26, 6.28 bits
at β_1/w² = 1/4, 1/2, 1, but 6.37 at 1/10 and 11.6 at 1/555; dequantised 6.37 at its best of two.

Source: Ho et al. 2020, eq. 13; Kingma et al. 2021 (VDM).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core.family import Array, numbers
from dpm_jax.core.gaussian import Normal
from dpm_jax.units import LN2, LOG_2PI

_SQRT_HALF = float(np.sqrt(0.5))
_FAR, _DEPTH = 4.0, 12  # beyond this argument so many levels of Mills' continued fraction suffice
# Six nodes of Gauss and Legendre for means over |s| < 1 of even functions: half of them suffice.
_NODES, _WEIGHTS = (values[3:].tolist() for values in np.polynomial.legendre.leggauss(6))


class Bins(NamedTuple):
    """The grey levels data can have, in the units of the model: bins of equal width, end to end."""

    width: float
    low: float  # centre of the lowest bin, which reaches down to −∞
    high: float  # centre of the highest bin, which reaches up to +∞


def bins(levels: int, mean: float, scale: float) -> Bins:
    """The bins of data that are whitened by the mean and scale of `dequantisation.mean_and_scale`.

    Args:
        levels: number of grey levels, 256 or 65536.
        mean, scale: of the dequantised training set, grey levels.

    Raises:
        ValueError: for fewer than 2 levels or a scale that is not above 0.
    """
    if not (levels >= 2 and 0 < scale < np.inf):
        raise ValueError(
            f"bins: expected at least 2 levels and a scale above 0, got {levels} and {scale}"
        )
    return Bins(1 / scale, (0.5 - mean) / scale, (levels - 0.5 - mean) / scale)


def check(bins: Bins) -> Bins:
    """The bins themselves as floats; ValueError unless they are two or more, of positive width."""
    width, low, high = bins
    if not (0 < width < np.inf):
        raise ValueError(f"bins: expected a width above 0, got {width}")
    steps = (high - low) / width
    if not (np.isfinite(steps) and steps > 0.5 and abs(steps - round(steps)) < 0.01):
        raise ValueError(f"bins: expected high − low to be 1, 2, .. widths, got {steps}")
    return Bins(float(width), float(low), float(high))


def centre(images: Array, bins: Bins) -> Array:
    """The centre of each pixel's bin, (level + 1/2 − mean)/scale: x^0 of integer data.

    Args:
        images: any shape, grey levels 0, 1, ...
        bins: of the data.

    Returns:
        Floats of the same shape, in the units of the model.

    Raises:
        TypeError: where they are no array of real numbers.
        ValueError: for values that are no levels of the data.
    """
    levels = jnp.asarray(numbers("images", images), jnp.result_type(float))
    most = round((bins.high - bins.low) / bins.width)
    if not isinstance(levels, jax.core.Tracer) and levels.size:
        wrong = (levels < 0) | (levels > most) | (levels != jnp.round(levels))
        if wrong.any():
            got = np.asarray(levels)[np.asarray(wrong)][0]
            raise ValueError(f"images: expected grey levels 0..{most}, got {got:g}")
    return bins.low + levels * bins.width


@dataclasses.dataclass(frozen=True)
class LastStep:
    """The last step onto bins: a function (params, x^0) -> nats, as chain.py has it."""

    bins: Bins

    def __call__(self, params: Normal, x0: Array) -> Array:
        """`log_mass` of the bins with centres x^0."""
        return log_mass(params, x0, self.bins)

    def draw(self, x: Array) -> Array:
        """The centres of the bins that x ~ N(mean, variance) lies in: draws of this last step."""
        width, low, high = self.bins
        return jnp.clip(low + width * jnp.round((x - low) / width), low, high)


def last_step(bins: Bins) -> LastStep:
    """The last step onto these bins, for ``last_step=`` of `model.build` (chain.py).

    Raises:
        ValueError: for fewer than two bins, or a width that is not above 0.
    """
    return LastStep(check(bins))


def log_mass(params: Normal, x: Array, bins: Bins) -> Array:
    """Log probability under N(mean, variance) of the bins with centres x, nats, over the event.

    Args:
        params: p(x^0|x^1), or π.
        x: centres of bins (`centre`), of the event's shape.
        bins: of the data.

    Returns:
        Scalar. Accurate in float32, as is its gradient, far in the tails and for σ far below or
        above a bin: no two nearly equal numbers are subtracted.
    """
    half, sigma = 0.5 * bins.width, jnp.sqrt(params.variance)
    distance = x - params.mean
    lowest, highest = x < bins.low + half, x > bins.high - half
    closed = ~(lowest | highest)
    # Mirrored: a closed bin lies below the mean, an open one reaches down to −∞.
    place = jnp.where(lowest, distance, jnp.where(highest, -distance, -jnp.abs(distance)))
    narrow = closed & (half * (half - place) < params.variance)

    def bins_of(used: Array) -> tuple[Array, float, Array]:
        # The others are given a harmless bin, so that no NaN of theirs reaches the gradient.
        return jnp.where(used, place, 0.0), half, jnp.where(used, sigma, half)

    wide = _wide(*bins_of(~narrow), closed)
    return jnp.sum(jnp.where(narrow, _narrow(*bins_of(narrow)), wide))


def _narrow(place: Array, half: float, sigma: Array) -> Array:
    """log ∫ φ over z ± h, where e^{−zs − s²/2} is smooth over |s| < h: Gauss–Legendre."""
    z, h = place / sigma, half / sigma
    mean = sum(
        weight * jnp.cosh(z * h * node) * jnp.exp(-0.5 * (h * node) ** 2)
        for node, weight in zip(_NODES, _WEIGHTS)
    )
    return jnp.log(2 * h) + jnp.log(mean) - 0.5 * (z**2 + LOG_2PI)


def _wide(place: Array, half: float, sigma: Array, closed: Array) -> Array:
    """log(Φ(b) − Φ(a)) for edges a < b, with Φ(a) = 0 for an open bin, by Mills' ratio Φ(−u)/φ(u).

    b < 0:   log Φ(b) + log(1 − Φ(a)/Φ(b))
    b >= 0:  log(1 − Φ(−b) − Φ(a)), where the bin holds much of the probability
    """
    a, b = (place - half) / sigma, (place + half) / sigma
    tail = b < 0
    ratio_a, ratio_b = (_log_mills(jnp.where(edge < 0, -edge, edge)) for edge in (a, b))
    outside_b = ratio_b - 0.5 * (b**2 + LOG_2PI)  # log Φ(−|b|)
    outside_a = ratio_a - 0.5 * (a**2 + LOG_2PI)
    # (b² − a²)/2 is twice half width times place: no difference of two large squares.
    a_to_b = ratio_a - ratio_b + 2 * (half / sigma) * (place / sigma)
    beyond = jnp.where(closed, jnp.exp(jnp.where(tail, a_to_b, outside_a)), 0.0)
    body = jnp.log1p(-beyond - jnp.exp(outside_b))
    return jnp.where(tail, outside_b + jnp.log1p(-beyond), body)


@jax.custom_jvp
def _log_mills(u: Array) -> Array:
    """log Φ(−u)/φ(u) for u >= 0, also where Φ underflows."""
    near = jnp.minimum(u, _FAR)
    direct = jnp.log(jax.lax.erfc(_SQRT_HALF * near)) + 0.5 * (near**2 + LOG_2PI) - LN2
    far = jnp.maximum(u, _FAR)
    fraction = far  # u + 1/(u + 2/(u + 3/(u + ...)))
    for k in range(_DEPTH, 0, -1):
        fraction = far + k / fraction
    return jnp.where(u < _FAR, direct, -jnp.log(fraction))


@_log_mills.defjvp
def _log_mills_jvp(primals, tangents):
    # Not by way of jax.scipy.special.log_ndtr: in float32 its derivative is 3e3 at −1e4, 1 at −1e6.
    (u,), (du,) = primals, tangents
    value = _log_mills(u)
    return value, (u - jnp.exp(-value)) * du
