"""The Swiss roll of Sec. 3.1 in two dimensions.

The law is scikit-learn's ``make_swiss_roll`` without the flat coordinate: s = (3π/2)(1 + 2u) with
u uniform on [0, 1], the point (s cos s, s sin s), plus noise · N(0, I). It is centred by its exact
mean and both coordinates are divided by one number: their mean variance is exactly 1. Its exact
noised density is in exact/swiss_roll.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

START, STOP = 1.5 * math.pi, 4.5 * math.pi  # the range of s
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
    s = jax.random.uniform(key_curve, (n,), jnp.float32, START, STOP)
    curve = jnp.stack([s * jnp.cos(s) - _MEAN[0], s * jnp.sin(s) - _MEAN[1]], axis=1)
    x = curve + spread * jax.random.normal(key_noise, (n, 2), jnp.float32)
    return x / scale


def _check_noise(noise) -> None:
    """ValueError for a noise that is known and not a finite number >= 0."""
    if isinstance(noise, jax.core.Tracer):
        return
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise: expected a finite number >= 0, got {noise}")
