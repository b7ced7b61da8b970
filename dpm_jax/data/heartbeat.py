"""The binary heartbeat of Sec. 3.1: sequences, the ceiling of K, the best factorised kernel.

A sequence of 20 bits has a 1 in every 5th bin, and the phase (the bin of the first 1, below 5) is
uniform. Five sequences is all there is, so Bayes' rule gives every posterior exactly. With one 1 in
each period, the five likelihoods of any x^t differ only through the number of ones at each phase.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import comb, entr, logsumexp, xlogy

Array = jax.Array


def sequences(length: int = 20, period: int = 5) -> Array:
    """The data set: row k has a 1 in every bin i with i mod period = k (Sec. 3.1).

    Args:
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (period, length) float32 of 0 and 1.

    Raises:
        ValueError: for a bad `period` or `length`.
    """
    _check_length("length", length, period)
    return jnp.tile(jnp.eye(period, dtype=jnp.float32), (1, length // period))


def sample(key: Array, n: int, length: int = 20, period: int = 5) -> Array:
    """n sequences with uniform phase, the data x^0.

    Args:
        key: a typed key.
        n: number of sequences.
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (n, length) float32 of 0 and 1.

    Raises:
        ValueError: for a bad `period` or `length`.
    """
    rows = sequences(length, period)
    return rows[jax.random.randint(key, (n,), 0, period)]


def is_valid(x, period: int = 5) -> Array:
    """Which rows are one of the sequences.

    Args:
        x: (..., length) bits, any type.
        period: bins from one 1 to the next, at least 2.

    Returns:
        (...) bool.

    Raises:
        ValueError: where the last axis of `x` is not a multiple of `period`.
    """
    x = jnp.asarray(x)
    _check_length("x", x.shape[-1] if x.ndim else 0, period)
    rows = sequences(x.shape[-1], period).astype(x.dtype)

    def one(row):
        return jnp.any(jnp.all(row[None, :] == rows, axis=1))

    return jnp.vectorize(one, signature="(l)->()")(x)


def entropy_x1(beta_1: float, rate: float = 0.2, length: int = 20, period: int = 5) -> float:
    """H(X^1) of x^1 ~ B(x^0 (1−β_1) + ρ β_1); K <= −H(X^1) with the fixed last step (App. B.2).

    Exact: the 2^length states fall into (length/period + 1)^period classes of equal probability,
    by the number of ones at each phase (3,125 for the paper's heartbeat). With 1−ᾱ_t in the place
    of β_1 it is H(X^t).

    Args:
        beta_1: the first diffusion rate, in [0, 1].
        rate: ρ, in (0, 1).
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2; memory grows as the number of classes.

    Returns:
        Nats per sequence, float64.

    Raises:
        ValueError: for an argument out of its range.
    """
    _check_rate(rate)
    _check_length("length", length, period)
    if not 0 <= beta_1 <= 1:
        raise ValueError(f"beta_1: expected a number in [0, 1], got {beta_1}")
    m = length // period
    ones = np.indices((m + 1,) * period).reshape(period, -1)  # (phase, class)
    states = np.prod(comb(m, ones), axis=0)
    # P(bit = 0) is written out, not 1 − P(bit = 1): it is of order β_1 where the beat is.
    beat = _log_bits(ones, m, 1 - beta_1 + rate * beta_1, beta_1 * (1 - rate))
    rest = _log_bits(ones, m, rate * beta_1, 1 - beta_1 + beta_1 * (1 - rate))
    per_phase = [beat[k] + np.delete(rest, k, axis=0).sum(axis=0) for k in range(period)]
    log_q = logsumexp(per_phase, axis=0) - math.log(period)
    return float(np.sum(states * entr(np.exp(log_q))))


def phase_posterior(xt, log_alpha_bar, rate: float = 0.2, period: int = 5) -> Array:
    """log P(phase | x^t) by Bayes' rule over the sequences, x^t ~ B(ᾱ_t x^0 + (1−ᾱ_t) ρ).

    Args:
        xt: (length,) bits of one example; vmap adds the batch.
        log_alpha_bar: log ᾱ_t < 0, a scalar; −inf (no signal left) is legal. The logarithm, since
            1 − ᾱ_t at β_1 = 1e-6 would lose its digits in float32.
        rate: ρ, a number in (0, 1).
        period: bins from one 1 to the next, at least 2.

    Returns:
        (period,) nats, finite; exp sums to 1.

    Raises:
        ValueError: for `rate` outside (0, 1), or `xt` of a wrong shape.
    """
    return jax.nn.log_softmax(_phase_scores(xt, log_alpha_bar, rate, period))


def bit_logits(xt, log_alpha_bar, rate: float = 0.2, period: int = 5) -> Array:
    """logit P(x^0_i = 1 | x^t): as an x^0-prediction it gives the exact best factorised kernel.

    Since p(x^{t-1}_i | x^t) = Σ_v P(x^0_i = v | x^t) q(x^{t-1}_i | x^t_i, x^0_i = v), no product of
    Bernoullis does better in eq. 14.

    Args:
        xt: (length,) bits of one example; vmap adds the batch.
        log_alpha_bar: log ᾱ_t < 0, a scalar; −inf gives the logit of 1/period at every bit.
        rate: ρ, a number in (0, 1).
        period: bins from one 1 to the next, at least 2.

    Returns:
        (length,) logits, finite.

    Raises:
        ValueError: for `rate` outside (0, 1), or `xt` of a wrong shape.
    """
    score = _phase_scores(xt, log_alpha_bar, rate, period)
    # log P(k) − log Σ_{j≠k} P(j), never 1 − P(k): that is 0 in float32 for most x^t at small t.
    others = jnp.where(jnp.eye(period, dtype=bool), -jnp.inf, score[None, :])
    logits = score - jax.nn.logsumexp(others, axis=1)
    return jnp.tile(logits, jnp.shape(xt)[0] // period)


def _phase_scores(xt, log_alpha_bar, rate: float, period: int) -> Array:
    """log P(phase | x^t) up to a constant, (length,) -> (period,)."""
    _check_rate(rate)
    if jnp.ndim(xt) != 1:
        raise ValueError(f"xt: expected shape (length,), vmap adds a batch, got {jnp.shape(xt)}")
    _check_length("xt", jnp.shape(xt)[0], period)
    log_alpha_bar = jnp.asarray(log_alpha_bar)
    log_ratio = log_alpha_bar - jnp.log(-jnp.expm1(log_alpha_bar))  # ᾱ/(1−ᾱ)
    # A bit's likelihood ratio, beat against no beat: 1 + ᾱ/((1−ᾱ)ρ) if it is 1,
    # 1/(1 + ᾱ/((1−ᾱ)(1−ρ))) if it is 0. Softplus keeps both to full relative precision.
    if_one = jax.nn.softplus(log_ratio - math.log(rate))
    if_zero = -jax.nn.softplus(log_ratio - math.log1p(-rate))
    bits = jnp.asarray(xt).astype(log_alpha_bar.dtype).reshape(-1, period)
    return jnp.sum(bits, axis=0) * (if_one - if_zero)  # each phase has the same number of bits


def _log_bits(ones: np.ndarray, m: int, p_one: float, p_zero: float) -> np.ndarray:
    """log probability of m independent bits of which `ones` are 1; 0 log 0 = 0."""
    return xlogy(ones, p_one) + xlogy(m - ones, p_zero)


def _check_rate(rate) -> None:
    """ValueError for a ρ outside (0, 1)."""
    if not 0 < rate < 1:
        raise ValueError(f"rate: expected a number in (0, 1), got {rate}")


def _check_length(name: str, length: int, period: int) -> None:
    """ValueError for a period below 2, or a length that is not a positive multiple of it."""
    if period < 2:
        raise ValueError(f"period: expected at least 2, got {period}")
    if length < 1 or length % period:
        raise ValueError(f"{name}: expected length a positive multiple of {period}, got {length}")
