"""Particles against closed-form posteriors of linear measurements, in 64 dimensions and more.

    python -m dpm_jax.benchmarks.measurements --side=8 --r_t=mmps

Data N(0, diag(λ)), λ ∝ 1/i in an order drawn once, exact kernels (exact/linear_gaussian.py): every
difference is the particles' own. Repeated filters tell its error.
"""

import argparse
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import schedule
from dpm_jax.exact import linear_gaussian
from dpm_jax.posterior import linear, particles
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.measurement import THROUGH, measure
from dpm_jax.posterior.tilt import R_T

NOISE = 0.01  # variance of ε; the data's is 1 in the mean


class Row(NamedTuple):
    """What repeated filters say of one A and r(x^t); z are differences in standard errors."""

    log_z: np.ndarray  # (repeats,) error of log Z~, nats
    evidence: float  # z of the mean of Z~/Z
    mean: np.ndarray  # (d,) z along the axes of the posterior
    spread: np.ndarray  # (d,) z of the variances along them
    ess: float  # mean of the least effective number at any t


def measurements(side: int, seed: int = 0) -> dict[str, Linear]:
    """Six A of events (side, side, 1), and of colours (side/2, side/2, 4)."""
    shape, rng = (side, side, 1), np.random.default_rng(seed)
    size, few = side**2, side**2 // 8
    return {
        "mask": linear.mask(rng.random(shape) < 0.5),
        "block mean": linear.block_mean(shape, 2),
        "blur": linear.blur(shape, 1.0),
        "channels": linear.channels((side // 2, side // 2, 4)),
        "projection": linear.projection(jax.random.key(seed), shape, few),
        "dense": linear.dense(
            rng.normal(size=(few, size)) * np.geomspace(1, 0.1, few)[:, None], shape
        ),
    }


def row(A: Linear, r_t: str, num: int, repeats: int, T: int, seed: int = 0) -> Row:
    """`repeats` filters of `num` particles against the posterior of one y."""
    rng = np.random.default_rng(seed)
    variances = rng.permutation(linear_gaussian.spectrum(int(np.prod(A.shape)))).reshape(A.shape)
    chain = linear_gaussian.chain(variances, schedule.geometric(T, 1e-4, 1e6))
    eye = np.eye(variances.size, dtype=np.float32).reshape(-1, *A.shape)
    entries = np.asarray(jax.vmap(A.apply)(jnp.asarray(eye)), np.float64).reshape(len(eye), -1).T
    x = np.sqrt(variances) * rng.normal(size=A.shape)
    y = entries @ x.ravel() + NOISE**0.5 * rng.normal(size=len(entries))
    exact = linear_gaussian.posterior(variances, entries, y, NOISE)
    tilt = measure(chain, A, y.reshape(A.out), NOISE, r_t)

    @jax.jit
    @jax.vmap
    def filters(key):
        found = particles.sample(key, chain, tilt, num)
        away = (found.x.reshape(num, -1) - exact.mean.astype(np.float32)) @ axes
        scaled = away / scale
        return (
            found.log_z,
            found.weight @ scaled,
            found.weight @ scaled**2,
            found.least_ess,
        )

    value, vector = np.linalg.eigh(exact.covariance)
    axes, scale = (
        jnp.asarray(vector, jnp.float32),
        jnp.asarray(np.sqrt(value), jnp.float32),
    )
    found = filters(jax.random.split(jax.random.key(seed), repeats))
    log_z, mean, square, least = (np.asarray(leaf, np.float64) for leaf in found)
    error = log_z - exact.log_z
    return Row(
        error,
        float(_z(np.exp(error), 1)),
        _z(mean, 0),
        _z(square, 1),
        float(least.mean()),
    )


def _z(values: np.ndarray, expected: float) -> np.ndarray:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return (values.mean(axis=0) - expected) / error


def main() -> None:
    """Print the table of one size."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--side", type=int, default=8, help="of an image: side² dimensions")
    flags.add_argument(
        "--r_t",
        nargs="+",
        default=["noised", "pigdm", "mmps"],
        choices=(*R_T, *THROUGH),
    )
    flags.add_argument("--num", type=int, default=1024, help="particles of a filter")
    flags.add_argument("--repeats", type=int, default=32, help="filters")
    flags.add_argument("--T", type=int, default=100, help="steps: network calls of a particle")
    given = flags.parse_args()
    head = ("A", "rank", "r(x^t)", "log Z~, rms error", "Z~/Z", "mean", "variances", "least ESS")
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for (name, A), r_t in itertools.product(measurements(given.side).items(), given.r_t):
        found = row(A, r_t, given.num, given.repeats, given.T)
        rms = np.sqrt(np.mean(found.log_z**2))
        both = [f"{np.sqrt(np.mean(z**2)):.2f} ({np.mean(np.abs(z) > 3):.1%})" for z in found[2:4]]
        cells = (
            name,
            len(A.singular),
            r_t,
            f"{rms:.3f}",
            f"{found.evidence:.1f}",
            *both,
            f"{found.ess:.0f}",
        )
        print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
