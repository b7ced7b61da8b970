"""The diffusion rate β_1..β_T (Sec. 2.4.1): fixed schedules by name, the learned one, respacing.

Fixed schedules are computed in float64 on the host and stored in JAX's default float type. Arrays
have length T+1 and are indexed by the paper's t: β_0 = 0, ᾱ_0 = 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import units


class Schedule(NamedTuple):
    """β_t and log ᾱ_t for t = 0..T, and the t under which a network knows each step."""

    beta: Array  # (T+1,)
    log_alpha_bar: Array  # (T+1,), log Π_{s≤t} (1 − β_s)
    network_t: Array  # (T+1,) int32: t, or the original t after `respace`

    @property
    def T(self) -> int:
        """Number of steps of the chain."""
        return self.beta.shape[0] - 1

    @property
    def alpha_bar(self) -> Array:
        """ᾱ_t, (T+1,)."""
        return jnp.exp(self.log_alpha_bar)

    @property
    def noise(self) -> Array:
        """1 − ᾱ_t, (T+1,), to full relative precision."""
        return -jnp.expm1(self.log_alpha_bar)

    @property
    def log_snr(self) -> Array:
        """log ᾱ_t/(1−ᾱ_t), (T+1,): what networks are conditioned on.

        Kept inside ±20, because it is infinite at t = 0 and where ᾱ_T = 0; no kernel uses it.
        """
        safe = jnp.minimum(self.log_alpha_bar, -1e-9)  # t = 0 has no noise
        return jnp.clip(self.log_alpha_bar - jnp.log(-jnp.expm1(safe)), -20.0, 20.0)


def from_beta(beta) -> Schedule:
    """A schedule from β_1..β_T, an array of length T >= 2 with values in (0, 1]; β_T = 1 is legal.

    Raises:
        ValueError: for T < 2, a β outside (0, 1], or β_t = 1 before t = T.
    """
    beta = np.asarray(beta, np.float64)
    if beta.ndim != 1 or beta.shape[0] < 2:
        raise ValueError(f"T: expected at least 2 steps, got beta of shape {beta.shape}")
    wrong = ~((beta > 0) & (beta <= 1))
    if wrong.any():
        t = int(np.argmax(wrong)) + 1
        raise ValueError(f"beta: expected values in (0, 1], got beta_{t} = {beta[t - 1]}")
    if (beta[:-1] == 1).any():
        raise ValueError("beta: expected beta_t < 1 before t = T, got 1: the signal ends early")
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-beta))
    return _pack(np.concatenate([[0.0], beta]), np.concatenate([[0.0], log_alpha_bar]))


def constant_fraction(T: int, beta_1: float | None = None) -> Schedule:
    """β_t = 1/(T−t+1): a constant fraction 1/T of the signal erased a step (Sec. 2.4.1).

    Args:
        T: number of steps, at least 2.
        beta_1: replaces the first rate 1/T where given, in (0, 1).

    Raises:
        ValueError: for a bad T or beta_1.
    """
    beta = 1.0 / (check_steps(T) - np.arange(T, dtype=np.float64))
    return from_beta(_with_first(beta, beta_1))


def geometric(T: int, beta_1: float | None = None, final_ratio: float = 100.0) -> Schedule:
    """(1−ᾱ_t)/ᾱ_t geometric from β_1/(1−β_1) to `final_ratio`: log-SNR falls by equal amounts.

    Args:
        T: number of steps, at least 2.
        beta_1: first rate, in (0, 1); 1e-3 where not given.
        final_ratio: noise-to-signal ratio (1−ᾱ_T)/ᾱ_T at the end, above the first.

    Raises:
        ValueError: for a bad T, beta_1 or final_ratio.
    """
    check_steps(T)
    beta_1 = check_beta_1(1e-3 if beta_1 is None else beta_1)
    first = beta_1 / (1 - beta_1)
    if not 0 < final_ratio < np.inf:
        raise ValueError(f"final_ratio: expected a finite number above 0, got {final_ratio}")
    if not first < final_ratio:
        raise ValueError(
            f"beta_1: expected beta_1/(1-beta_1) below final_ratio = {final_ratio}, got {beta_1}"
        )
    log_alpha_bar = -np.log1p(np.geomspace(first, final_ratio, T))
    return _from_log_alpha_bar(np.concatenate([[0.0], log_alpha_bar]))


def linear(T: int, beta_1: float | None = None, beta_T: float | None = None) -> Schedule:
    """β_t linear from β_1 to β_T (Ho et al. 2020, who have 1e-4, 0.02 and T = 1000).

    Args:
        T: number of steps, at least 2.
        beta_1: first rate, in (0, 1); 0.1/T where not given.
        beta_T: last rate, in (0, 1]; 20/T (at most 0.999) where not given.

    Raises:
        ValueError: for a bad T, beta_1 or beta_T.
    """
    check_steps(T)
    beta_1 = check_beta_1(0.1 / T if beta_1 is None else beta_1)
    return from_beta(np.linspace(beta_1, min(20.0 / T, 0.999) if beta_T is None else beta_T, T))


def cosine(T: int, beta_1: float | None = None, offset: float = 0.008) -> Schedule:
    """ᾱ_t ∝ cos²(π/2 · (t/T+s)/(1+s)), β_t ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17).

    Args:
        T: number of steps, at least 2.
        beta_1: replaces the first rate where given, in (0, 1).
        offset: their s.

    Raises:
        ValueError: for a bad T or beta_1.
    """
    t = np.arange(check_steps(T) + 1, dtype=np.float64)
    alpha_bar = np.cos((t / T + offset) / (1 + offset) * np.pi / 2) ** 2
    beta = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return from_beta(_with_first(beta, beta_1))


FIXED = {
    "constant_fraction": constant_fraction,
    "geometric": geometric,
    "linear": linear,
    "cosine": cosine,
}


def by_name(name: str, T: int, beta_1: float | None = None) -> Schedule:
    """A fixed schedule by its name in ``FIXED``.

    Raises:
        ValueError: for an unknown name, or what the schedule itself refuses.
    """
    if name not in FIXED:
        raise ValueError(f"schedule: expected one of {sorted(FIXED)} (or learned), got {name!r}")
    return FIXED[name](T, beta_1)


def to_logits(schedule: Schedule) -> Array:
    """Free parameters of the learned schedule: logit β_2..β_T, (T−1,), from a starting schedule.

    β is kept inside [1e-12, 1−1e-3] at the start, since a logit of 1 would be infinite.
    """
    beta = jnp.clip(schedule.beta[2:], 1e-12, 1 - 1e-3)
    return jnp.log(beta) - jnp.log1p(-beta)


def learned(beta_1: Array, logits: Array) -> Schedule:
    """β_2..β_T = σ(logits) with β_1 fixed (Sec. 2.4.1), differentiable in logits, (T−1,).

    β_1 is fixed because maximising K over it would overfit: it sets the noise floor of the data.
    """
    # σ(17) is 1 in float32 and the derivative of √(1−β) infinite there: learning stops short of it.
    logits = jnp.clip(logits, -30.0, 15.0)
    first = jnp.asarray(beta_1, logits.dtype)
    beta = jnp.concatenate([jnp.stack([jnp.zeros_like(first), first]), jax.nn.sigmoid(logits)])
    steps = jnp.concatenate([jnp.log1p(-first)[None], jax.nn.log_sigmoid(-logits)])
    log_alpha_bar = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
    return Schedule(beta, log_alpha_bar, jnp.arange(beta.shape[0], dtype=jnp.int32))


def respace(schedule: Schedule, steps: int) -> Schedule:
    """A subset of `steps` of the t, from t = 1 to t = T, as a schedule of its own.

    The respaced chain is a diffusion model with its own β, kernels, samples and K. Networks are
    conditioned on log-SNR (or on the original t through ``network_t``), so one network serves both.

    Raises:
        ValueError: where steps is not in 2..T.
    """
    steps = units.whole("steps", steps, 2, schedule.T)
    kept = np.concatenate([[0], np.round(np.linspace(1, schedule.T, steps)).astype(np.int32)])
    log_alpha_bar = schedule.log_alpha_bar[kept]
    beta = jnp.concatenate([jnp.zeros_like(log_alpha_bar[:1]), -jnp.expm1(jnp.diff(log_alpha_bar))])
    return Schedule(beta, log_alpha_bar, schedule.network_t[kept])


def check_steps(T: int) -> int:
    """T itself; ValueError unless it is an integer of at least 2."""
    try:
        return units.whole("T", T, 2)
    except ValueError as error:
        raise ValueError(f"T: expected an integer of at least 2, got {T!r}") from error


def check_beta_1(beta_1: float) -> float:
    """β_1 itself; ValueError unless it lies inside (0, 1)."""
    if isinstance(beta_1, str) or not 0 < beta_1 < 1:
        raise ValueError(f"beta_1: expected a number inside (0, 1), got {beta_1!r}")
    return float(beta_1)


def _with_first(beta: np.ndarray, beta_1: float | None) -> np.ndarray:
    if beta_1 is not None:
        beta[0] = check_beta_1(beta_1)
    return beta


def _from_log_alpha_bar(log_alpha_bar: np.ndarray) -> Schedule:
    return _pack(np.concatenate([[0.0], -np.expm1(np.diff(log_alpha_bar))]), log_alpha_bar)


def _pack(beta: np.ndarray, log_alpha_bar: np.ndarray) -> Schedule:
    dtype = jnp.result_type(float)
    index = jnp.arange(beta.shape[0], dtype=jnp.int32)
    return Schedule(jnp.asarray(beta, dtype), jnp.asarray(log_alpha_bar, dtype), index)
