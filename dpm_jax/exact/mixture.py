"""A mixture of 25 Gaussian modes measured at random: denoiser, posterior and evidence are known.

The benchmark of Cardoso et al. 2023 (MCGdiff, arXiv 2308.07983): modes N(c, I) with c =
(8i, 8j, 8i, 8j, ...), i, j in −2..2, in d dimensions, random weights; y = A x^0 + ε with A of
random orthonormal rows and singular values in (0, 1), noise up to the largest of these. Here x^0
is scaled to variance 1, mean over the coordinates, which is what π = N(0, I) asks for; `restored`
goes back. Problems are NumPy in float64, and pass through `jax.jit` as arguments.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import gaussian
from dpm_jax.core.chain import Chain, make_chain
from dpm_jax.core.family import Array, Reverse
from dpm_jax.core.schedule import Schedule

SPACING, SIDE = 8.0, 5  # of the grid of modes, in standard deviations of a mode; modes a side


class Mixture(NamedTuple):
    """Σ_k w_k N((a_k, b_k, a_k, b_k, ...), v I) in any even number of dimensions, scaled."""

    log_weight: np.ndarray  # (K,) log w_k
    centre: np.ndarray  # (K, 2) a_k and b_k, of the even and odd coordinates
    variance: np.ndarray  # (), v, of a mode
    mean: np.ndarray  # (2,) of the data in original units, even and odd coordinates
    scale: np.ndarray  # (): x in original units is mean + scale · x scaled


class Problem(NamedTuple):
    """y = A x^0 + ε, ε ~ N(0, noise I), in scaled units; A = left diag(singular) rows."""

    mixture: Mixture
    left: np.ndarray  # (d_y, d_y) U
    singular: np.ndarray  # (d_y,) falling
    rows: np.ndarray  # (d_y, d) Vᵀ, orthonormal
    y: np.ndarray  # (d_y,)
    noise: np.ndarray  # (), variance
    log_z: np.ndarray  # (), log Z~ = log ∫ p(x^0) N(y; A x^0, noise I) dx^0, nats
    log_share: np.ndarray  # (K,) log posterior weight of each mode

    @property
    def A(self) -> np.ndarray:
        """The measurement as a matrix, (d_y, d)."""
        return (self.left * self.singular) @ self.rows


def mixture(rng: np.random.Generator) -> Mixture:
    """25 modes with weights ∝ N(0, 1)², scaled to variance 1 in the mean over coordinates."""
    steps = SPACING * (np.arange(SIDE) - SIDE // 2)
    centre = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = rng.standard_normal(len(centre)) ** 2
    weight /= weight.sum()
    mean = weight @ centre
    variance = 1 + np.mean(weight @ (centre - mean) ** 2)
    scale = np.sqrt(variance)
    return Mixture(np.log(weight), (centre - mean) / scale, 1 / variance, mean, scale)


def problem(seed: int, dim: int, measurements: int) -> Problem:
    """The problem of a seed: weights of the modes, A, a true x^0, its noisy measurement y.

    The mixture is that of seed and dim alone, so that one model of it serves any measurements.

    Raises:
        ValueError: for a dim that is not even, or measurements outside 1..dim.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim: expected an even number of at least 2, got {dim}")
    if not 1 <= measurements <= dim:
        raise ValueError(f"measurements: expected 1..{dim}, got {measurements}")
    made = mixture(np.random.default_rng([seed, dim]))
    rng = np.random.default_rng([seed, dim, measurements])
    left, _, rows = np.linalg.svd(rng.standard_normal((measurements, dim)), full_matrices=False)
    singular = np.sort(rng.uniform(size=measurements))[::-1]
    deviation = rng.uniform() * singular[0] / made.scale
    x = prior(rng, made, dim, 1)[0]
    y = left @ (singular * (rows @ x)) + deviation * rng.standard_normal(measurements)
    bare = Problem(made, left, singular, rows, y, deviation**2, np.zeros(()), made.log_weight)
    log_joint = made.log_weight + _log_evidence(bare)
    log_z = np.logaddexp.reduce(log_joint)
    return bare._replace(log_z=log_z, log_share=log_joint - log_z)


def _log_evidence(of: Problem) -> np.ndarray:
    """log N(y; A c_k, v A Aᵀ + noise I) of each mode, (K,)."""
    centres = _whole(of.mixture.centre, of.rows.shape[1])
    variance = of.mixture.variance * of.singular**2 + of.noise
    error = of.y @ of.left - (centres @ of.rows.T) * of.singular
    return -0.5 * np.sum(error**2 / variance + np.log(2 * np.pi * variance), axis=1)


def prior(rng: np.random.Generator, of: Mixture, dim: int, num: int) -> np.ndarray:
    """Exact draws of the data, (num, dim), scaled."""
    k = rng.choice(len(of.log_weight), num, p=_shares(of.log_weight))
    noise = rng.standard_normal((num, dim))
    return _whole(of.centre[k], dim) + np.sqrt(of.variance) * noise


def posterior(rng: np.random.Generator, of: Problem, num: int) -> np.ndarray:
    """Exact draws of p(x^0 | y), (num, d), scaled: a mode by its share, a draw of it conditioned.

    A draw x of the mode with a measurement of its own is moved by the gain times the difference of
    the two measurements (Matheron's rule).
    """
    v, dim = of.mixture.variance, of.rows.shape[1]
    x = prior(rng, of.mixture._replace(log_weight=of.log_share), dim, num)
    noise = np.sqrt(of.noise) * rng.standard_normal((num, len(of.y)))
    error = of.y @ of.left - (x @ of.rows.T) * of.singular - noise
    return x + (error * v * of.singular / (v * of.singular**2 + of.noise)) @ of.rows


def restored(of: Mixture, x: np.ndarray) -> np.ndarray:
    """Scaled x (n, d) in the units of the benchmark, where a mode has variance 1."""
    return _whole(of.mean[None], x.shape[1]) + of.scale * np.asarray(x)


def turned(x: Array) -> Array:
    """(..., d) reflected so that the means of even and odd coordinates, times √(d/2), come first.

    Modes differ in those two alone. Its own inverse.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    n = pairs.shape[-2]
    axis = np.full(n, n**-0.5) - np.eye(n)[0]  # of the reflection that takes (1, ..)/√n to e_1
    axis = jnp.asarray(axis / max(np.linalg.norm(axis), 1e-30), pairs.dtype)
    along = jnp.tensordot(pairs, axis, ((-2,), (0,)))  # (..., 2)
    return (pairs - 2 * jnp.einsum("i,...j->...ij", axis, along)).reshape(x.shape)


def denoise(of: Mixture, xt: Array, log_alpha_bar: Array) -> tuple[Array, Array, Array]:
    """x̂^0 = E[x^0 | x^t] by Bayes' rule over the modes, (d,), and the variance of x^0 | x^t.

    Args:
        of: the law of x^0.
        xt: (d,), of q(x^t | x^0).
        log_alpha_bar: log ᾱ_t.

    Returns:
        x̂^0; Var[x^0 | x^t, mode], a scalar; and what the doubt between modes adds to it, (2,), of
        the first two coordinates of `turned`.
    """
    log_weight, modes, variance = (jnp.asarray(a, xt.dtype) for a in of[:3])
    signal, noise = jnp.exp(log_alpha_bar), -jnp.expm1(log_alpha_bar)
    total = signal * variance + noise  # of a mode of x^t
    pairs = xt.reshape(-1, 2)
    near = jnp.sqrt(signal) * modes @ jnp.sum(pairs, axis=0)
    far = 0.5 * signal * len(pairs) * jnp.sum(modes**2, axis=1)
    share = jax.nn.softmax(log_weight + (near - far) / total)
    mean = share @ modes
    x0 = (jnp.sqrt(signal) * variance * xt + noise * jnp.tile(mean, len(pairs))) / total
    doubt = share @ (modes - mean[None, :]) ** 2
    return x0, variance * noise / total, (noise / total) ** 2 * len(pairs) * doubt


def chain(of: Mixture, schedule: Schedule, dim: int, one_variance: bool = False) -> Chain:
    """The chain of the exact denoiser, of z = `turned` x: x̂^0 through the bridge, and both moments.

    Σ = β̃_t + from_x0² Var[z^0 | z^t]. Exact where one mode explains z^t, the last step ("learned")
    included; elsewhere the kernel is one Gaussian in the place of several, which costs less the
    larger T is.

    Args:
        of: the data.
        schedule: β_t.
        dim: d.
        one_variance: leave the doubt between modes out of Σ, for methods that take no other.
    """

    def kernel(schedule: Schedule) -> Reverse:
        return partial(_reverse, of, schedule, one_variance)

    made = make_chain(gaussian.family(), schedule, kernel(schedule), (dim,), "learned")
    return made._replace(kernel=kernel)


def _reverse(
    of: Mixture, schedule: Schedule, one_variance: bool, zt: Array, t: Array
) -> gaussian.Normal:
    x0, error, doubt = denoise(of, turned(zt), schedule.log_alpha_bar[t])
    beta, before = schedule.beta[t], schedule.log_alpha_bar[t - 1]
    from_x0 = jnp.exp(0.5 * before) * beta / schedule.noise[t]
    params = gaussian.bridge(turned(x0), zt, beta, before)
    variance = params.variance + from_x0**2 * error
    if not one_variance:
        variance = variance.at[:2].add(from_x0**2 * doubt)
    return params._replace(variance=variance)


@partial(jax.jit, static_argnames="slices")
def sliced_wasserstein(key: Array, x: Array, y: Array, slices: int = 500) -> Array:
    """Mean over random directions of the distance W_1 of two sets (n, d) of draws projected.

    Raises:
        ValueError: for two sets of different shapes.
    """
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"x, y: expected one shape (n, d) of both, got {x.shape} and {y.shape}")
    direction = jax.random.normal(key, (slices, x.shape[1]), x.dtype)
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    ordered = [jnp.sort(direction @ rows.T, axis=1) for rows in (x, y)]
    return jnp.mean(jnp.abs(ordered[0] - ordered[1]))


def _shares(log_weight: np.ndarray) -> np.ndarray:
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def _whole(pairs: np.ndarray, dim: int) -> np.ndarray:
    """(n, 2) of the even and odd coordinates -> (n, dim)."""
    return np.tile(pairs, (1, dim // 2))
