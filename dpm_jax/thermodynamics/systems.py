"""Systems of Jarzynski 1997 whose work is known exactly: a ring of states and a Brownian trap.

A system of energy E_λ(x) is driven from A to B; W is the work done on it. Energies and works are in
units of k_B T; F = −log Σ_x e^{−E(x)}, and ⟨e^{−W}⟩ = e^{−ΔF} at any speed of driving.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class WorkMoments(NamedTuple):
    """What the master equation says of the work, exactly; scalars."""

    exponential: Array  # ⟨e^{−W}⟩, which is e^{−ΔF}
    mean: Array  # ⟨W⟩, at least ΔF; nats


def free_energy(energy: Array) -> Array:
    """F = −log Σ_x e^{−E(x)} in units of k_B T, of energies (..., S): shape (...)."""
    return -jax.nn.logsumexp(-energy, axis=-1)


def metropolis(energy: Array) -> Array:
    """P(x, y) of a step to a neighbour on a ring, by Metropolis' rule: it keeps e^{−E}/Z.

    Args:
        energy: (S,) in units of k_B T; state S−1 is a neighbour of state 0.

    Returns:
        (S, S), rows sum to 1; e^{−E(x)} P(x, y) = e^{−E(y)} P(y, x) (detailed balance).

    Source: Metropolis et al. 1953; Jarzynski 1997, Sec. II: all that the equality asks of P.
    """
    up = 0.5 * jnp.exp(jnp.minimum(energy - jnp.roll(energy, -1), 0.0))
    down = 0.5 * jnp.exp(jnp.minimum(energy - jnp.roll(energy, 1), 0.0))
    stay = jnp.eye(energy.shape[0], dtype=energy.dtype)
    above, below = jnp.roll(stay, 1, axis=1), jnp.roll(stay, -1, axis=1)
    return up[:, None] * above + down[:, None] * below + (1 - up - down)[:, None] * stay


def master_equation(energy: Array) -> WorkMoments:
    """⟨e^{−W}⟩ and ⟨W⟩ of a switching process, summed over all paths: g ← (g e^{−ΔE}) P.

    Starts in equilibrium at E_0; then, for k = 1..n, the energy changes to E_k, which is work, and
    one Metropolis step at E_k follows, which is heat.

    Args:
        energy: (n+1, S), E_0..E_n in units of k_B T, finite. Reversed in k: the reverse process.

    Raises:
        ValueError: where energy is not (n+1, S) with n >= 1.

    Source: Jarzynski 1997, Phys. Rev. E 56, 5018: the master-equation approach.
    """
    if energy.ndim != 2 or energy.shape[0] < 2:
        raise ValueError(f"energy: expected shape (n+1, S) with n >= 1, got {energy.shape}")

    def switch(carry, now):
        weighted, law, work = carry
        before, after = now
        cost, P = after - before, metropolis(after)
        return (weighted * jnp.exp(-cost) @ P, law @ P, (work + law * cost) @ P), None

    law = jax.nn.softmax(-energy[0])
    start = (law, law, jnp.zeros_like(law))
    (weighted, _, work), _ = jax.lax.scan(switch, start, (energy[:-1], energy[1:]))
    return WorkMoments(jnp.sum(weighted), jnp.sum(work))


def trap_free_energy(stiffness: Array) -> Array:
    """F = −log ∫ e^{−k(x−c)²/2} dx = ½ log(k/2π) in units of k_B T; stiffness k of any shape."""
    return 0.5 * jnp.log(stiffness / (2 * jnp.pi))


def trap_work(key: Array, centre: Array, stiffness: Array, dt: float) -> Array:
    """Work W on one Brownian particle whose trap k(x−c)²/2 moves and stiffens; diffusivity 1.

    Starts in equilibrium in trap 0; then, for j = 1..n, the trap changes to j, which is work, and
    the particle relaxes for dt, by the exact Ornstein–Uhlenbeck transition: trap j keeps its
    canonical law, so that ⟨e^{−W}⟩ = e^{−ΔF} and Crooks' theorem hold at any dt.

    Arrays reversed give the reverse process. That one relaxes, then changes; but its relaxation
    before the first change acts on equilibrium, and ours after the last change does no work.

    Args:
        key: of this trajectory; ``jax.vmap`` over keys draws many.
        centre, stiffness: (n+1,), c_0..c_n and k_0..k_n > 0 in units of k_B T and one length.
        dt: time between two changes, at least 0; 1/k is the relaxation time of a trap.

    Raises:
        ValueError: where centre and stiffness are not both (n+1,) with n >= 1.

    Source: Jarzynski 1997; Crooks 1999, Phys. Rev. E 60, 2721.
    """
    changes = _changes(centre, stiffness)

    def switch(carry, now):
        x, work = carry
        (c, k), (c_next, k_next), j = now
        work += 0.5 * (k_next * (x - c_next) ** 2 - k * (x - c) ** 2)
        noise = jax.random.normal(jax.random.fold_in(key, j), dtype=x.dtype)
        x = c_next + jnp.exp(-k_next * dt) * (x - c_next)
        return (x + jnp.sqrt(-jnp.expm1(-2 * k_next * dt) / k_next) * noise, work), None

    noise = jax.random.normal(jax.random.fold_in(key, 0), dtype=centre.dtype)
    start = (centre[0] + noise / jnp.sqrt(stiffness[0]), jnp.zeros_like(noise))
    (_, work), _ = jax.lax.scan(switch, start, changes)
    return work


def trap_mean_work(centre: Array, stiffness: Array, dt: float) -> Array:
    """⟨W⟩ of `trap_work` exactly, by the mean and variance of x; arguments and errors as there."""
    changes = _changes(centre, stiffness)

    def switch(carry, now):
        mean, variance, work = carry
        (c, k), (c_next, k_next), _ = now
        square = (mean - c_next) ** 2 + variance
        work += 0.5 * (k_next * square - k * ((mean - c) ** 2 + variance))
        keep = jnp.exp(-k_next * dt)
        mean = c_next + keep * (mean - c_next)
        return (mean, keep**2 * variance - jnp.expm1(-2 * k_next * dt) / k_next, work), None

    start = (centre[0], 1 / stiffness[0], jnp.zeros_like(centre[0]))
    (_, _, work), _ = jax.lax.scan(switch, start, changes)
    return work


def _changes(centre: Array, stiffness: Array):
    """What a scan over the changes of a trap sees: the trap before, after, and j = 1..n."""
    if centre.ndim != 1 or centre.shape[0] < 2:
        raise ValueError(f"centre: expected shape (n+1,) with n >= 1, got {centre.shape}")
    if stiffness.shape != centre.shape:
        raise ValueError(f"stiffness: expected shape {centre.shape}, got {stiffness.shape}")
    j = jnp.arange(1, centre.shape[0])
    return (centre[:-1], stiffness[:-1]), (centre[1:], stiffness[1:]), j
