"""Systems of Jarzynski 1997 whose work is known exactly: a ring of states and a Brownian trap.

A system of energy E_λ(x) is driven from A to B; W is the work done on it. Energies and works are in
units of k_B T; F = −log Σ_x e^{−E(x)}, and ⟨e^{−W}⟩ = e^{−ΔF} at any speed of driving.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.thermodynamics.escort import Escort, check, log_scale, matched


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


def trap_free_energy(stiffness: Array, quartic: Array | None = None) -> Array:
    """F = −log ∫ e^{−E} dx of traps, in units of k_B T: ½ log(k/2π) of harmonic ones; any shape.

    With `quartic` (a scalar above 0) by the trapezoid rule, which for such integrands is exact to
    rounding.
    """
    if quartic is None:
        return 0.5 * jnp.log(stiffness / (2 * jnp.pi))
    width = jnp.minimum(stiffness**-0.5, quartic**-0.25)
    x = jnp.linspace(-12 * width, 12 * width, 961, axis=-1)  # beyond, E is above 70
    energy = trap_energy(x, 0.0, stiffness[..., None], quartic)
    return free_energy(energy) - jnp.log(width / 40)


def trap_energy(x: Array, centre, stiffness, quartic: Array | None = None) -> Array:
    """E(x) = k(x−c)²/2 + g(x−c)⁴ in units of k_B T; all of shapes that broadcast; g None: 0."""
    harmonic = 0.5 * stiffness * (x - centre) ** 2
    return harmonic if quartic is None else harmonic + quartic * (x - centre) ** 4


def trap_work(
    key: Array,
    centre: Array,
    stiffness: Array,
    dt: float,
    maps: Escort | None = None,
    quartic: Array | None = None,
) -> Array:
    """Work W on one Brownian particle whose trap k(x−c)²/2 moves and stiffens; diffusivity 1.

    Starts in equilibrium in trap 0; then, for j = 1..n, the trap changes to j, which is work, and
    the particle relaxes for dt, by the exact Ornstein–Uhlenbeck transition: trap j keeps its
    canonical law, so that ⟨e^{−W}⟩ = e^{−ΔF} and Crooks' theorem hold at any dt. With `maps` the
    particle is carried by map j as the trap changes: W = Σ_j E_j(M_j x) − E_{j−1}(x) − log M_j',
    for which both hold as well, whatever the maps (escort.py).

    Arrays reversed, and `maps.reversed()`, give the reverse process. That one relaxes, then
    changes; but its relaxation before the first change acts on equilibrium, and ours after the last
    change does no work.

    Args:
        key: of this trajectory; ``jax.vmap`` over keys draws many.
        centre, stiffness: (n+1,), c_0..c_n and k_0..k_n > 0 in units of k_B T and one length.
        dt: time between two changes, at least 0; 1/k is the relaxation time of a trap.
        maps: n of them; None: none.
        quartic: g >= 0, a scalar: the energy of every trap is `trap_energy`, and the
            Ornstein–Uhlenbeck transition a proposal that Metropolis' rule accepts. None: 0.

    Raises:
        ValueError: where centre and stiffness are not both (n+1,) with n >= 1, or maps not n.

    Source: Jarzynski 1997; Crooks 1999, Phys. Rev. E 60, 2721; Vaikuntanathan and Jarzynski 2008.
    """
    changes = _changes(centre, stiffness, maps)

    def switch(carry, now):
        x, work = carry
        before, after, j, affine = now
        to, gain = (
            (x, 0.0) if affine is None else (affine.scale * x + affine.shift, log_scale(affine))
        )
        work += trap_energy(to, *after, quartic) - trap_energy(x, *before, quartic) - gain
        return (_relax(jax.random.fold_in(key, j), to, *after, dt, quartic), work), None

    x = _equilibrium(jax.random.fold_in(key, 0), centre[0], stiffness[0], quartic)
    (_, work), _ = jax.lax.scan(switch, (x, jnp.zeros_like(x)), changes)
    return work


def trap_mean_work(centre: Array, stiffness: Array, dt: float, maps: Escort | None = None) -> Array:
    """⟨W⟩ of `trap_work` exactly, by the mean and variance of x; arguments and errors as there."""
    changes = _changes(centre, stiffness, maps)

    def switch(carry, now):
        mean, variance, work = carry
        (c, k), (c_next, k_next), _, affine = now
        before = k * ((mean - c) ** 2 + variance)
        if affine is not None:
            mean, variance = affine.scale * mean + affine.shift, affine.scale**2 * variance
            work -= log_scale(affine)
        square = (mean - c_next) ** 2 + variance
        work += 0.5 * (k_next * square - before)
        keep = jnp.exp(-k_next * dt)
        mean = c_next + keep * (mean - c_next)
        return (mean, keep**2 * variance - jnp.expm1(-2 * k_next * dt) / k_next, work), None

    start = (centre[0], 1 / stiffness[0], jnp.zeros_like(centre[0]))
    (_, _, work), _ = jax.lax.scan(switch, start, changes)
    return work


def fitted_maps(
    key: Array,
    centre: Array,
    stiffness: Array,
    dt: float,
    num: int,
    quartic: Array | None = None,
) -> Escort:
    """Affine maps that keep mean and variance canonical, found on a pilot of `num` trajectories.

    Before change j the pilot, which is driven and carried by maps 1..j−1 itself, tells by its works
    what they should be after it, and map j takes what they are to that (`escort.matched`). Works of
    other keys than the pilot's have ⟨e^{−W}⟩ = e^{−ΔF} without bias, as with any maps. A change
    should be small: what it costs without a map, less than a few k_B T. Other arguments as
    `trap_work`.
    """
    changes = _changes(centre, stiffness, None)

    def switch(carry, now):
        x, work = carry
        before, after, j, _ = now
        work -= trap_energy(x, *before, quartic)
        found = matched(x, -work - trap_energy(x, *after, quartic))
        x = found.scale * x + found.shift
        work += trap_energy(x, *after, quartic) - log_scale(found)
        return (_relax(jax.random.fold_in(key, j), x, *after, dt, quartic), work), found

    keys = jax.random.split(jax.random.fold_in(key, 0), num)
    x = jax.vmap(lambda k: _equilibrium(k, centre[0], stiffness[0], quartic))(keys)
    return jax.lax.scan(switch, (x, jnp.zeros_like(x)), changes)[1]


def _equilibrium(key: Array, centre: Array, stiffness: Array, quartic: Array | None) -> Array:
    """x of the canonical law of one trap; an anharmonic one by rejection."""
    if quartic is None:
        return centre + jax.random.normal(key, dtype=centre.dtype) / jnp.sqrt(stiffness)

    def propose(tried):
        u_key, key = jax.random.split(tried[0])
        u = jax.random.normal(u_key, dtype=centre.dtype) / jnp.sqrt(stiffness)
        uniform_key, key = jax.random.split(key)
        accepted = jax.random.uniform(uniform_key, dtype=u.dtype) < jnp.exp(-quartic * u**4)
        return key, u, accepted

    start = (key, jnp.zeros_like(centre), jnp.zeros((), bool))
    return centre + jax.lax.while_loop(lambda tried: ~tried[2], propose, start)[1]


def _relax(key, x, centre, stiffness, dt, quartic) -> Array:
    """x after the time dt in one trap: a transition that keeps its canonical law, in detail."""
    noise_key = key if quartic is None else jax.random.fold_in(key, 0)
    noise = jax.random.normal(noise_key, x.shape, x.dtype)
    to = centre + jnp.exp(-stiffness * dt) * (x - centre)
    to = to + jnp.sqrt(-jnp.expm1(-2 * stiffness * dt) / stiffness) * noise
    if quartic is None:
        return to
    # The proposal keeps the harmonic part, in detail: what is left to accept is the quartic one.
    ratio = jnp.exp(quartic * ((x - centre) ** 4 - (to - centre) ** 4))
    uniform = jax.random.uniform(jax.random.fold_in(key, 1), x.shape, x.dtype)
    return jnp.where(uniform < ratio, to, x)


def _changes(centre: Array, stiffness: Array, maps: Escort | None):
    """What a scan over the changes of a trap sees: the trap before, after, j = 1..n, the map."""
    if centre.ndim != 1 or centre.shape[0] < 2:
        raise ValueError(f"centre: expected shape (n+1,) with n >= 1, got {centre.shape}")
    if stiffness.shape != centre.shape:
        raise ValueError(f"stiffness: expected shape {centre.shape}, got {stiffness.shape}")
    j = jnp.arange(1, centre.shape[0])
    maps = None if maps is None else check(maps, len(j))
    return (centre[:-1], stiffness[:-1]), (centre[1:], stiffness[1:]), j, maps
