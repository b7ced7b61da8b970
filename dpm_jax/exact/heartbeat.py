"""The heartbeat exactly: entropies, log p, the best factorised kernel, posteriors of the phase.

Five sequences is all there is, so Bayes' rule gives every posterior exactly. With one 1 in each
period, the five likelihoods of any x^t differ only through the number of ones at each phase.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import comb, entr, logsumexp, xlogy

from dpm_jax.core.family import Family
from dpm_jax.core.schedule import Schedule
from dpm_jax.data.heartbeat import check_length, sequences


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
    check_length("length", length, period)
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


class BayesNetwork:
    """The exact logits of P(x^0 | x^t) in place of a trained network: what K can reach.

    It has the `init` and `apply` of a flax module, and no parameters; its readout is "x0".
    """

    def __init__(self, log_alpha_bar: Array, rate: float, period: int = 5):
        self.log_alpha_bar, self.rate, self.period = log_alpha_bar, rate, period

    def init(self, key, x, t, log_snr) -> dict:
        """No parameters."""
        return {}

    def apply(self, variables, x, t, log_snr) -> Array:
        """Raw outputs (length, 1)."""
        return bit_logits(x, self.log_alpha_bar[t], self.rate, self.period)[:, None]


def log_likelihood(family: Family, schedule: Schedule, last_step: str, x, period: int = 5) -> Array:
    """log p(x^0) of sequences (n, length) if all kernels were exact, (n,) nats.

    The fixed last step blurs x^1 once more: p(x^0) is then the law of the data noised by β_1 twice.

    Args:
        family: binomial.family(rate).
        schedule: β_t.
        last_step: "fixed" or "learned".
        x: (n, length) bits.
        period: bins from one 1 to the next, at least 2.
    """
    log_alpha_bar = 2 * schedule.log_alpha_bar[1] if last_step == "fixed" else jnp.zeros(())
    x = jnp.asarray(x)
    laws = family.marginal(sequences(x.shape[-1], period), log_alpha_bar)
    each = jax.vmap(jax.vmap(family.log_prob, (0, None)), (None, 0))(laws, x)
    return jax.nn.logsumexp(each, axis=1) - math.log(period)


def entropies(
    schedule: Schedule, rate: float = 0.2, length: int = 20, period: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 24 exactly: lower bound, H_q(X^{t-1}|X^t), upper bound, (T+1,) nats each; 0 at t = 0.

    H(X^{t-1}|X^t) = H(X^t|X^{t-1}) + H(X^{t-1}) − H(X^t), and the same given X^0.

    Args:
        schedule: β_t.
        rate: ρ, in (0, 1).
        length: bins of a sequence, a multiple of `period`.
        period: bins from one 1 to the next, at least 2.
    """

    def bits(probability):
        return entr(probability) + entr(1 - probability)

    beta, noise = np.asarray(schedule.beta, np.float64), np.asarray(schedule.noise, np.float64)
    share = 1 / period  # of ones in the data
    one = (share * (1 - noise) + rate * noise)[:-1]  # P(a bit of x^{t-1} is 1)
    kept, raised = 1 - beta[1:] + rate * beta[1:], rate * beta[1:]
    upper = length * (one * bits(kept) + (1 - one) * bits(raised))
    joint = np.array([entropy_x1(v, rate, length, period) for v in noise])
    beat, rest = bits(1 - noise + rate * noise), bits(rate * noise)
    given_x0 = length * (share * beat + (1 - share) * rest)
    values = (upper - np.diff(given_x0), upper - np.diff(joint), upper)
    lower, true, upper = (np.concatenate([[0.0], v]) for v in values)
    return lower, true, upper


def phase_shares(y, known, flip: float, period: int = 5) -> np.ndarray:
    """P(phase | y) of known bits, each flipped with probability `flip`: (period,), sum 1.

    Args:
        y: (length,) bits; those that are not known are not read.
        known: (length,) bool.
        flip: in [0, 1/2); 0: known bits are exact.
        period: bins from one 1 to the next, at least 2.

    Returns:
        All 0 where no sequence explains what was seen.
    """
    wrong = np.sum((np.asarray(sequences(len(known), period)) != y) & known, axis=1)
    exact = flip**wrong * (1 - flip) ** (known.sum() - wrong)
    return exact / max(exact.sum(), 1e-300)


def compare(y, known, noise: float, x, weight, period: int = 5) -> dict[str, float]:
    """How many draws are sequences of the data, and the share of each against its posterior.

    Args:
        y, known, noise: as in `phase_shares`, where `noise` is `flip`.
        x: (n, length) draws.
        weight: (n,) of the draws, their sum 1.
        period: bins from one 1 to the next, at least 2.
    """
    rows, exact = np.asarray(sequences(x.shape[1], period)), phase_shares(y, known, noise, period)
    share = weight @ np.all(x[:, None, :] == rows[None], axis=2)
    found = {"valid": float(share.sum()), "consistent_phases": int((exact > 0).sum())}
    distance = 0.5 * (np.abs(share - exact).sum() + 1 - share.sum())  # invalid draws count
    found["total_variation"] = float(distance) if exact.any() else 1.0
    found |= {f"phase_{i}": float(v) for i, v in enumerate(share)}
    return found | {f"phase_{i}_exact": float(v) for i, v in enumerate(exact)}


def _phase_scores(xt, log_alpha_bar, rate: float, period: int) -> Array:
    """log P(phase | x^t) up to a constant, (length,) -> (period,)."""
    _check_rate(rate)
    if jnp.ndim(xt) != 1:
        raise ValueError(f"xt: expected shape (length,), vmap adds a batch, got {jnp.shape(xt)}")
    check_length("xt", jnp.shape(xt)[0], period)
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
