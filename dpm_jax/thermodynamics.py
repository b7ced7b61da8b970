"""Nonequilibrium work: the estimators that serve eq. 9, and Jarzynski 1997, from which it comes.

A system of energy E_λ(x) is driven from A to B; W is the work done on it, in units of k_B T. For
any speed of driving, ⟨e^{−W}⟩ = e^{−ΔF}. For a diffusion model −log p(x^0) is the ΔF, W the
negative logarithm of the bracket of eq. 9, and K = −⟨W⟩.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Estimate(NamedTuple):
    """What M works say of log⟨e^{−W}⟩, which is −ΔF, or log p(x^0); scalars, nats."""

    value: Array  # log (1/M) Σ e^{−W}: its mean is the bound L_M of Burda et al. 2015, <= the truth
    error: Array  # standard error by the delta method
    jackknife: Array  # standard error by the jackknife
    ess: Array  # effective sample size (Σ w)²/Σ w², 1..M; below 2 `value` is a bound, not a value
    K: Array  # −⟨W⟩, the bound of eq. 12
    K_error: Array  # its standard error

    @property
    def dissipation(self) -> Array:
        """⟨W⟩ − ΔF >= 0: what the driving wastes, or by how much K is below log p(x^0)."""
        return self.value - self.K


def jarzynski(work: Array) -> Estimate:
    """Jarzynski's estimate of log⟨e^{−W}⟩ from M works (eq. 9), with errors and what it rests on.

    Args:
        work: (M,) nats, of independent trajectories; +inf is legal (a trajectory of weight 0).

    Returns:
        Estimate. With M = 1 the errors are NaN: unknown. Where every work is +inf, value and K are
        −inf, ess is 0 and the errors NaN.

    Raises:
        ValueError: where work is not one-dimensional with M >= 1.

    Source: Jarzynski 1997, eq. 2; Neal 2001 (annealed importance sampling); Burda et al. 2015.
    """
    work = jnp.asarray(work)
    if work.ndim != 1 or work.shape[0] < 1:
        raise ValueError(f"work: expected shape (M,) with M >= 1, got {work.shape}")
    m = work.shape[0]
    possible = jnp.min(work) != jnp.inf  # NaN among the works is not +inf: it makes all NaN
    # Weights relative to the largest. Where none is possible, the branch not taken stays finite.
    least = jax.lax.stop_gradient(jnp.where(possible, jnp.min(work), 0.0))
    weight = jnp.where(possible, jnp.exp(least - work), jnp.ones_like(work))
    total = jnp.sum(weight)
    others = jnp.log(jnp.maximum(total - weight, 0.0) / max(m - 1, 1))  # log mean without the i-th
    unknown = jnp.where(possible & (m > 1), 0.0, jnp.nan)
    spread = jnp.sum((weight - total / m) ** 2) / max(m - 1, 1)
    centred = jnp.sum((others - jnp.mean(others)) ** 2)
    K_spread = jnp.sum((work - jnp.mean(work)) ** 2) / max(m - 1, 1)
    return Estimate(
        value=jnp.where(possible, jnp.log(total / m) - least, -jnp.inf),
        error=jnp.sqrt(spread / m) / (total / m) + unknown,
        jackknife=jnp.sqrt(centred * (m - 1) / m) + unknown,
        ess=jnp.where(possible, total**2 / jnp.sum(weight**2), 0.0),
        K=-jnp.mean(work),
        K_error=jnp.sqrt(K_spread / m) + unknown,
    )


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


class Difference(NamedTuple):
    """Bennett's estimate of ΔF."""

    value: float  # nats
    error: float  # asymptotic standard error; far too small where ess is below 2
    ess: float  # effective number of works in the overlap, on the side that has fewer


class Crossing(NamedTuple):
    """Where P_F(W) and P_R(−W) cross, with standard errors; NaN where they do not overlap."""

    value: float  # −a/b, which is ΔF; nats
    error: float
    slope: float  # b, which is 1 by Crooks' theorem
    slope_error: float


def bennett(forward_work, reverse_work) -> Difference:
    """Bennett's acceptance ratio: Σ_F f(W − ΔF + M) = Σ_R f(W + ΔF − M), M = log(n_F/n_R).

    f(x) = 1/(1+e^x). Given Crooks' theorem, no other estimate has less variance. Runs on the host.

    Args:
        forward_work, reverse_work: (n_F,), (n_R,) nats, independent, finite, at least 2 of each.

    Raises:
        ValueError: for works of another shape, too few, or not finite.

    Source: Bennett 1976, J. Comput. Phys. 22, 245, eq. 10–12; Shirts et al. 2003.
    """
    from scipy import optimize, special  # here: `import dpm_jax` costs JAX alone

    forward, reverse = _works("forward_work", forward_work), _works("reverse_work", reverse_work)
    shift = math.log(len(forward) / len(reverse))

    def balance(d: float) -> float:  # logarithms: far from the root both sums underflow
        return special.logsumexp(special.log_expit(d - forward)) - special.logsumexp(
            special.log_expit(-d - reverse)
        )

    margin = abs(shift) + 2  # at that distance from all works the signs of `balance` are certain
    low = min(forward.min(), -reverse.max()) - margin
    d = optimize.brentq(balance, low, max(forward.max(), -reverse.min()) + margin)
    log_f = [special.log_expit(d - forward), special.log_expit(-d - reverse)]
    ess = [math.exp(2 * special.logsumexp(f) - special.logsumexp(2 * f)) for f in log_f]
    variance = 1 / ess[0] - 1 / len(forward) + 1 / ess[1] - 1 / len(reverse)
    return Difference(d + shift, math.sqrt(max(variance, 0.0)), min(ess))


def crooks(forward_work, reverse_work) -> Crossing:
    """Fit of log P_F(W)/P_R(−W) = a + b W, by logistic regression of the direction on the work.

    Arguments and errors as `bennett`. Crooks' theorem says b = 1 and −a/b = ΔF. No histogram.

    Source: Crooks 1999, eq. 2; Shirts et al. 2003 (logistic regression, there with b = 1).
    """
    forward, reverse = _works("forward_work", forward_work), _works("reverse_work", reverse_work)
    if forward.min() >= -reverse.min() or forward.max() <= -reverse.max():
        return Crossing(math.nan, math.nan, math.nan, math.nan)
    work = np.concatenate([forward, -reverse])
    is_forward = np.arange(len(work)) < len(forward)
    centre, scale = work.mean(), work.std()
    design = np.stack([np.ones_like(work), (work - centre) / scale], axis=1)
    shift = math.log(len(forward) / len(reverse))
    (a, b), covariance = _logistic(design, is_forward)
    a -= shift
    # The numbers of works were chosen, not drawn: a then varies by less than Fisher's information
    # says (Prentice and Pyke 1979). b does not.
    covariance[0, 0] -= 1 / len(forward) + 1 / len(reverse)
    direction = np.array([1.0, -a / b])
    error = math.sqrt(max(direction @ covariance @ direction, 0.0)) / abs(b)
    slope, slope_error = b / scale, math.sqrt(covariance[1, 1]) / scale
    return Crossing(*map(float, (centre - a / slope, scale * error, slope, slope_error)))


def _logistic(design: np.ndarray, label: np.ndarray):
    """Logistic regression by Newton's method with halved steps: coefficients, covariance."""
    from scipy import special  # here: `import dpm_jax` costs JAX alone

    def loss(beta):
        return -special.log_expit(np.where(label, 1, -1) * (design @ beta)).sum()

    beta = np.zeros(2)  # where the information cannot be singular
    for _ in range(100):
        p = special.expit(design @ beta)
        information = (design.T * (p * (1 - p))) @ design
        step = np.linalg.solve(information, design.T @ (label - p))
        while loss(beta + step) > loss(beta) and np.abs(step).max() > 1e-9:
            step = step / 2
        beta = beta + step
        if np.abs(step).max() < 1e-9 * (1 + np.abs(beta).max()):
            break
    return beta, np.linalg.inv(information)


def _works(name: str, work) -> np.ndarray:
    work = np.asarray(work, np.float64)
    if work.ndim != 1 or work.shape[0] < 2:
        raise ValueError(f"{name}: expected shape (n,) with n >= 2, got {work.shape}")
    if bad := int(np.sum(~np.isfinite(work))):
        raise ValueError(f"{name}: expected finite works, got {bad} of {len(work)} not finite")
    return work
