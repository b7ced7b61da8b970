"""Particles against closed-form posteriors of linear measurements, in 64 dimensions and more.

    python -m dpm_jax.benchmarks.measurements --side=8 --r_t mmps mmps:8 pigdm:error

Data N(0, diag(λ)), λ ∝ 1/i in an order drawn once, exact kernels (exact/linear_gaussian.py): every
difference is the particles' own. Repeated filters tell its error. "mmps:8" is mmps with 8 vector
products a step, "pigdm:error" ΠGDM with the true variance of x^0 given x^t along each row of A.
"""

import argparse
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import schedule
from dpm_jax.core.chain import Chain
from dpm_jax.exact import linear_gaussian
from dpm_jax.exact.linear_gaussian import Posterior
from dpm_jax.posterior import linear, particles
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.measurement import measure

NOISE = 0.01  # variance of ε; the data's is 1 in the mean


class Problem(NamedTuple):
    """One y = A x^0 + ε of data whose variances are those of `chain`."""

    A: Linear
    variances: np.ndarray  # of the event's shape
    chain: Chain
    y: np.ndarray
    exact: Posterior


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
    falling = np.geomspace(1, 0.1, few)[:, None]
    return {
        "mask": linear.mask(rng.random(shape) < 0.5),
        "block mean": linear.block_mean(shape, 2),
        "blur": linear.blur(shape, 1.0),
        "channels": linear.channels((side // 2, side // 2, 4)),
        "projection": linear.projection(jax.random.key(seed), shape, few),
        "dense": linear.dense(falling * rng.normal(size=(few, size)), shape),
    }


def posed(A: Linear, steps: schedule.Schedule, seed: int = 0, noise: float = NOISE) -> Problem:
    """A y of a true x^0, drawn by the seed, and its posterior."""
    rng, size = np.random.default_rng(seed), int(np.prod(A.shape))
    variances = rng.permutation(linear_gaussian.spectrum(size)).reshape(A.shape)
    eye = jnp.eye(size).reshape(-1, *A.shape)
    entries = np.asarray(jax.vmap(A.apply)(eye), np.float64).reshape(size, -1).T
    x = np.sqrt(variances) * rng.normal(size=A.shape)
    y = entries @ x.ravel() + noise**0.5 * rng.normal(size=len(entries))
    exact = linear_gaussian.posterior(variances, entries, y, noise)
    chain = linear_gaussian.chain(variances, steps)
    return Problem(A, variances, chain, y.reshape(A.out), exact)


def row(problem: Problem, r_t: str, num: int, repeats: int, seed: int = 0) -> Row:
    """`repeats` filters of `num` particles against the posterior of one y."""
    chain, exact = problem.chain, problem.exact
    name, _, more = r_t.partition(":")
    tilt = measure(chain, problem.A, problem.y, NOISE, name, **_given(problem, more))
    value, vector = np.linalg.eigh(exact.covariance)
    scaled, centre = (jnp.asarray(a, jnp.float32) for a in (vector / np.sqrt(value), exact.mean))

    @jax.jit
    @jax.vmap
    def filters(key):
        found = particles.sample(key, chain, tilt, num)
        along = (found.x.reshape(num, -1) - centre[None]) @ scaled
        return found.log_z, found.weight @ along, found.weight @ along**2, found.least_ess

    found = filters(jax.random.split(jax.random.key(seed), repeats))
    log_z, mean, square, least = (np.asarray(leaf, np.float64) for leaf in found)
    error = log_z - exact.log_z
    return Row(error, float(_z(np.exp(error), 1)), _z(mean, 0), _z(square, 1), float(least.mean()))


def _given(problem: Problem, more: str) -> dict[str, Any]:
    """The arguments of `measure` that follow the colon."""
    if more != "error":
        return {"products": min(int(more), len(problem.A.singular))} if more else {}
    level = linear_gaussian.noised(problem.variances, problem.chain.schedule)
    noise = jnp.expand_dims(problem.chain.schedule.noise, tuple(range(1, level.ndim)))
    return {"error": jax.vmap(problem.A.spread)(noise / level * problem.variances[None])}


def _z(values: np.ndarray, expected: float) -> np.ndarray:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return (values.mean(axis=0) - expected) / error


def main() -> None:
    """Print the table of one size."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--side", type=int, default=8, help="of an image: side² dimensions")
    flags.add_argument("--r_t", nargs="+", default=["mmps", "mmps:8", "pigdm:error"])
    flags.add_argument("--num", type=int, default=1024, help="particles of a filter")
    flags.add_argument("--repeats", type=int, default=32, help="filters")
    flags.add_argument("--T", type=int, default=100, help="steps: network calls of a particle")
    given = flags.parse_args()
    head = ("A", "rank", "r(x^t)", "log Z~, rms error", "Z~/Z", "mean", "variances", "least ESS")
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    steps = schedule.geometric(given.T, 1e-4, 1e6)
    for (name, A), r_t in itertools.product(measurements(given.side).items(), given.r_t):
        found = row(posed(A, steps), r_t, given.num, given.repeats)
        rms = np.sqrt(np.mean(found.log_z**2))
        both = [f"{np.sqrt(np.mean(z**2)):.2f} ({np.abs(z).max():.1f})" for z in found[2:4]]
        cells = [name, len(A.singular), r_t, f"{rms:.3f}", f"{found.evidence:.1f}", *both]
        print("|", " | ".join(map(str, [*cells, f"{found.ess:.0f}"])), "|", flush=True)


if __name__ == "__main__":
    main()
