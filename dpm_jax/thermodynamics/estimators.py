"""Estimators of a free energy from works: Jarzynski's, which serves eq. 9, Bennett's and Crooks'.

A system of energy E_λ(x) is driven from A to B; W is the work done on it, in units of k_B T. For
any speed of driving, ⟨e^{−W}⟩ = e^{−ΔF}. For a diffusion model −log p(x^0) is the ΔF, W the
negative logarithm of the bracket of eq. 9, and K = −⟨W⟩.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import units
from dpm_jax.core.family import numbers
from dpm_jax.thermodynamics import weights


class Estimate(NamedTuple):
    """What M works say of log⟨e^{−W}⟩, which is −ΔF, or log p(x^0); scalars, nats."""

    value: Array  # log (1/M) Σ e^{−W}: its mean is the bound L_M of Burda et al. 2015, <= the truth
    error: Array  # standard error by the delta method
    jackknife: Array  # standard error by the jackknife
    ess: Array  # effective sample size (Σ w)²/Σ w², 1..M; below 2 `value` is a bound, not a value
    K: Array  # −⟨W⟩, the bound of eq. 12
    K_error: Array  # its standard error
    k_hat: Array  # Pareto shape of the largest weights (weights.py); +inf: unknown
    low: Array  # 95 % interval of the truth
    high: Array  # +inf where `value` is no more than a bound

    @property
    def is_value(self) -> Array:
        """Whether `value` is one, with an interval about it; False: a lower bound, in the mean."""
        return self.high < jnp.inf

    @property
    def interval(self) -> tuple[Array, Array]:
        """(low, high) of log⟨e^{−W}⟩, 95 %; high is +inf of a bound."""
        return self.low, self.high

    @property
    def dissipation(self) -> Array:
        """⟨W⟩ − ΔF >= 0: what the driving wastes, or by how much K is below log p(x^0)."""
        return self.value - self.K

    def __str__(self) -> str:
        """The value with its interval, or what it bounds; of a batch a summary."""
        if any(isinstance(field, jax.core.Tracer) for field in self):
            return repr(self)
        value, ess = np.asarray(self.value), np.asarray(self.ess)
        if value.ndim == 0:
            said = units.bounded(float(value), float(self.low), float(self.high))
            return f"{said} (k̂ {units.number(float(self.k_hat), digits=2)}, ESS {ess:.1f})"
        return (
            f"{value.size} estimates, mean {units.number(float(value.mean()))} nats,"
            f" {int(np.sum(self.is_value))} of them values and the others bounds,"
            f" median ESS {np.median(ess):.1f}"
        )


class Difference(NamedTuple):
    """Bennett's estimate of ΔF."""

    value: float  # nats
    error: float  # asymptotic standard error; NaN (unknown) where ess is below 2
    ess: float  # effective number of works in the overlap, on the side that has fewer
    forward_beyond: float = 0.0  # share of the works W_F outside the range of the −W_R
    reverse_beyond: float = 0.0  # share of the −W_R outside the range of the W_F

    def __str__(self) -> str:
        """The value with its error and effective sample size, or that it is unknown."""
        if self.forward_beyond == self.reverse_beyond == 1:
            return "unknown: no work of one side lies among the other's"
        error = "" if math.isfinite(self.error) else " ± unknown"
        return f"{units.number(self.value, self.error)}{error} nats (ESS {self.ess:.1f})"


class Crossing(NamedTuple):
    """Where P_F(W) and P_R(−W) cross, with standard errors; NaN where they do not overlap."""

    value: float  # −a/b, which is ΔF; nats
    error: float
    slope: float  # b, which is 1 by Crooks' theorem
    slope_error: float

    def __str__(self) -> str:
        """The value and the slope with their errors."""
        slope = units.number(self.slope, self.slope_error)
        return f"{units.number(self.value, self.error)} nats (slope {slope})"


def jarzynski(work, reverse_work=None) -> Estimate:
    """Jarzynski's estimate of log⟨e^{−W}⟩ from M works (eq. 9), with errors and what it rests on.

    Args:
        work: (M,) nats, of independent trajectories; +inf is legal (a trajectory of weight 0). Of
            NumPy works or a list the least is subtracted in float64, so that a common offset costs
            no digits, and value, K, low and high are float64. Of works on a device (under
            `jax.vmap` all are) error and interval hold what an offset cost by rounding.
        reverse_work: (n,) of the reverse process, as `bennett` takes them; −W of `reverse_work` in
            likelihood. They do not move `value`, but tell whether there is one: no M works show
            a weight rarer than 1/M, and the reverse process starts there.

    Returns:
        Estimate. With M = 1 the errors are NaN: unknown. Where every work is +inf, value and K are
        −inf, ess is 0 and the errors NaN.

    Raises:
        TypeError: where work is no array of real numbers.
        ValueError: where work is not one-dimensional with M >= 1, or reverse_work not (n,).

    Source: Jarzynski 1997, eq. 2; Neal 2001 (annealed importance sampling); Burda et al. 2015.
    """
    checked = numbers("work", work)
    if reverse_work is not None:
        reverse_work = numbers("reverse_work", reverse_work)
    if isinstance(checked, Array):
        return _estimate(checked, reverse_work)
    work = np.asarray(work, np.float64)
    if (work == -np.inf).any():
        raise ValueError("work: expected numbers above −inf, got −inf, a weight without end")
    least = np.min(work[np.isfinite(work)], initial=np.inf)
    least = least if np.isfinite(least) else 0.0
    if reverse_work is not None:
        reverse_work = np.asarray(reverse_work, np.float64) + least
    found = _estimate(jnp.asarray(work - least), reverse_work)
    traced = isinstance(found.value, jax.core.Tracer)

    def shift(value: Any) -> Any:
        return (value if traced else np.float64(value)) - least

    return found._replace(
        value=shift(found.value),
        K=shift(found.K),
        low=shift(found.low),
        high=shift(found.high),
    )


@jax.jit  # one program instead of one for each operation, also where none is around it
def _estimate(work: Array, reverse_work=None) -> Estimate:
    if reverse_work is not None:
        reverse_work = jnp.asarray(reverse_work, work.dtype)
        if reverse_work.ndim != 1:
            raise ValueError(f"reverse_work: expected shape (n,), got {reverse_work.shape}")
    if work.ndim != 1 or work.shape[0] < 1:
        raise ValueError(f"work: expected shape (M,) with M >= 1, got {work.shape}")
    m = work.shape[0]
    possible = jnp.min(work) != jnp.inf  # NaN among the works is not +inf: it makes all NaN
    # Weights relative to the largest. Where none is possible, the branch not taken stays finite.
    least = jax.lax.stop_gradient(jnp.where(possible, jnp.min(work), 0.0))
    weight = jnp.where(possible, jnp.exp(least - work), jnp.ones_like(work))
    total = jnp.sum(weight)
    unknown = jnp.where(possible & (m > 1), 0.0, jnp.nan)
    spread = jnp.sum((weight - total / m) ** 2) / max(m - 1, 1)
    K_spread = jnp.sum((work - jnp.mean(work)) ** 2) / max(m - 1, 1)
    found = Estimate(
        jnp.where(possible, jnp.log(total / m) - least, -jnp.inf),
        jnp.sqrt(spread / m) / (total / m) + unknown,
        _jackknife(jax.lax.stop_gradient(work)) + unknown,
        jnp.where(possible, total**2 / jnp.sum(weight**2), 0.0),
        -jnp.mean(work),
        jnp.sqrt(K_spread / m) + unknown,
        *weights.judge(-work, reverse_work),
    )
    # What a common offset cost before the works came here: vmap casts NumPy's float64, too.
    lost = 0.5 * jnp.finfo(work.dtype).eps * jnp.abs(least)
    ends = {"low": found.low - lost, "high": found.high + lost}
    return found._replace(error=jnp.hypot(found.error, lost), **ends)


def _jackknife(work: Array) -> Array:
    """Standard error by the jackknife; +inf where all but one of the weights are 0."""
    m, first = work.shape[0], jnp.argmin(work)
    weight = jnp.exp(jnp.min(work) - work)
    # The largest weight is left out by a sum without it: in `total − weight` the others drown.
    rest = jax.nn.logsumexp(jnp.where(jnp.arange(m) == first, -jnp.inf, -work)) + work[first]
    others = jnp.log(jnp.maximum(jnp.sum(weight) - weight, 1e-30))
    others = jnp.where(jnp.arange(m) == first, rest, others)
    centred = jnp.sum((others - jnp.mean(others)) ** 2)
    return jnp.where(rest == -jnp.inf, jnp.inf, jnp.sqrt(centred * (m - 1) / m))


def bennett(forward_work, reverse_work) -> Difference:
    """Bennett's acceptance ratio: Σ_F f(W − ΔF + M) = Σ_R f(W + ΔF − M), M = log(n_F/n_R).

    f(x) = 1/(1+e^x). Given Crooks' theorem, no other estimate has less variance. Runs on the host.
    Where W_F and −W_R have no range in common, ΔF is anywhere between: value and error are NaN and
    ess is 0. Works that rounding alone tells apart are one number, which is ΔF.

    Args:
        forward_work, reverse_work: (n_F,), (n_R,) nats, independent, finite, at least 2 of each.

    Raises:
        ValueError: for works of another shape, too few, or not finite.

    Source: Bennett 1976, J. Comput. Phys. 22, 245, eq. 10–12; Shirts et al. 2003.
    """
    from scipy import optimize, special  # here: SciPy is slow to import

    forward, reverse = _works("forward_work", forward_work), _works("reverse_work", reverse_work)
    shift = math.log(len(forward) / len(reverse))
    beyond = _outside(forward, -reverse), _outside(-reverse, forward)
    beyond = (0.0, 0.0) if _reversible(forward, reverse) else beyond
    if min(beyond) == 1:
        return Difference(math.nan, math.nan, 0.0, *beyond)

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
    known = min(ess) >= 2
    error = math.sqrt(max(variance, 0.0)) if known else math.nan
    return Difference(d + shift, error, min(ess), *beyond)


def crooks(forward_work, reverse_work) -> Crossing:
    """Fit of log P_F(W)/P_R(−W) = a + b W, by logistic regression of the direction on the work.

    Arguments and errors as `bennett`. Crooks' theorem says b = 1 and −a/b = ΔF. No histogram. NaN
    of reversible works too: all are one number, and what tells them apart is rounding.

    Source: Crooks 1999, eq. 2; Shirts et al. 2003 (logistic regression, there with b = 1).
    """
    forward, reverse = _works("forward_work", forward_work), _works("reverse_work", reverse_work)
    apart = forward.min() >= -reverse.min() or forward.max() <= -reverse.max()
    work = np.concatenate([forward, -reverse])
    if apart or _reversible(forward, reverse):
        return Crossing(math.nan, math.nan, math.nan, math.nan)
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
    from scipy import special  # here: SciPy is slow to import

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


def _outside(work: np.ndarray, other: np.ndarray) -> float:
    """Share of the works outside the range of the others."""
    return float(np.mean((work < other.min()) | (work > other.max())))


def _reversible(forward: np.ndarray, reverse: np.ndarray) -> bool:
    """Whether all works are one number, told apart by rounding alone."""
    return float(np.append(forward, -reverse).std()) <= weights.ROUNDING


def _works(name: str, work) -> np.ndarray:
    numbers(name, work)
    work = np.asarray(work, np.float64)
    if work.ndim != 1 or work.shape[0] < 2:
        raise ValueError(f"{name}: expected shape (n,) with n >= 2, got {work.shape}")
    if bad := int(np.sum(~np.isfinite(work))):
        raise ValueError(f"{name}: expected finite works, got {bad} of {len(work)} not finite")
    return work
