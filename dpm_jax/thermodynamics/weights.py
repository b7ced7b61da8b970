"""What the largest of M weights say of their mean: a value with an interval, or a bound only.

The mean of M weights rests on the largest of them. Their tail is fitted by a generalised Pareto law
of shape k: above 1 the mean does not exist, above 1/2 the variance, and what M weights can tell of
the mean ends between (Vehtari et al. 2024).

No rule on M weights alone is safe: with e^{−c} ≪ 1/M, a weight e^{c} times the mean that is drawn
once in e^{c} doubles the mean, and M draws show it to nobody. Weights of the reverse side do:
they are drawn from the law of these in proportion to the weight itself, so that the share of them
beyond the largest of these is the share of the mean that was missed.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LEAST = 25  # weights: with fewer the tail holds less than 5 and nothing is known of its shape
LEVEL = 0.95  # of all intervals
MARKOV = math.log(1 / (1 - LEVEL))  # nats: P(p̂ >= p e^δ) <= e^−δ
ROUNDING = 1e-4  # nats: what works of float32 lose over thousands of changes; so flat a tail is one
_EFFECTIVE = 10  # weights of a normal log w, M e^{−s²}, below which they are a bound
_MISSED = 0.15  # share of the mean beyond the largest weight, above which they are a bound
_PRIOR_MEAN, _PRIOR_SD = 0.4, 0.3  # of k, in the interval
_DRAWS = 512  # of the posterior of the mean


class Judged(NamedTuple):
    """What M weights say of the mean of their law; scalars."""

    k_hat: Array  # the Pareto shape of the largest
    low: Array  # 95 %, of the logarithm of the mean
    high: Array  # +inf where the weights tell no more than a bound


@jax.jit
def judge(log_weight: Array, reverse: Array | None = None) -> Judged:
    """k̂ of M weights (M,), given as logarithms, and a 95 % interval of the log of their law's mean.

    It has two ends where k̂ is below `threshold`, where M e^{−s²} >= 10, with s the spread of log w
    above its median: so many weights M of a normal log w would be worth (k̂ alone is deceived where
    no large weight was drawn, the bulk cannot be missed); and, of `reverse` (n,), the log w of
    draws in proportion to w, where (b + 1)/(n + 2) <= 0.15 for the b beyond all M (Laplace).
    Elsewhere the mean of M weights is a bound: low is its logarithm − ln 20, since by Markov's
    inequality P(p̂ >= 20 p) <= 1/20 for weights of any law, and high is +inf. NaN for NaN.

    Source: Chatterjee & Diaconis 2018 for e^{s²}, by the shape of log w.
    """
    num = log_weight.shape[0]
    k_hat = pareto_shape(jax.lax.stop_gradient(log_weight))
    log_weight = jax.lax.stop_gradient(log_weight)
    bound = jax.nn.logsumexp(log_weight) - math.log(num) - MARKOV
    unlimited = jnp.where(jnp.isnan(bound), jnp.nan, jnp.inf)
    if num < LEAST:
        return Judged(k_hat, bound, unlimited)
    low, high = mean_interval(log_weight)
    is_value = k_hat < threshold(num)
    is_value &= _spread(log_weight) ** 2 <= math.log(num / _EFFECTIVE)
    if reverse is not None:
        beyond = jnp.sum(~(reverse <= jnp.max(log_weight) + ROUNDING))  # NaN is beyond
        is_value &= beyond <= int(_MISSED * (reverse.shape[0] + 2)) - 1
    return Judged(k_hat, jnp.where(is_value, low, bound), jnp.where(is_value, high, unlimited))


def threshold(num: int) -> float:
    """The k̂ below which the mean of `num` weights is a value: min(1 − 1/log10 M, 0.7).

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25 (72), Sec. 3.
    """
    return min(1 - 1 / math.log10(num), 0.7) if num >= LEAST else -math.inf


def tail_length(num: int) -> int:
    """How many of the largest weights the tail is: min(0.2 M, 3 √M), rounded up."""
    return math.ceil(min(0.2 * num, 3 * math.sqrt(num)))


@jax.jit
def pareto_shape(log_weight: Array) -> Array:
    """k̂ of the largest of M weights (M,), given as logarithms up to a constant; a scalar.

    +inf (unknown) for M below 25, and where none is possible; −inf where the tail is flat: the
    largest weights are one. Weights of 0 (−inf) are legal. For a batch: `jax.vmap`.

    Source: Zhang & Stephens 2009, Technometrics 51, 316, with the weak prior of Vehtari et al.
        2024, App. G: k̂ = (n k + 5)/(n + 10).
    """
    num = log_weight.shape[0]
    if num < LEAST:
        return jnp.where(jnp.isnan(jnp.max(log_weight)), jnp.nan, jnp.full((), jnp.inf))
    weight, possible = _sorted(log_weight)
    n = tail_length(num)
    b, _, log_p = _profile(weight, n)
    b_hat = jnp.sum(b * jax.nn.softmax(log_p))
    k_hat = (n * jnp.mean(jnp.log1p(-b_hat * _excess(weight, n))) + 5) / (n + 10)
    k_hat = jnp.where(_flat(weight, n), -jnp.inf, k_hat)
    return jnp.where(possible, k_hat, jnp.where(jnp.isnan(weight[-1]), jnp.nan, jnp.inf))


def mean_interval(log_weight: Array) -> tuple[Array, Array]:
    """(low, high) of the logarithm of the mean of the law of M weights, 95 %; M at least 25.

    Quantiles of its posterior: the mean of the body by Student's t, the share of the tail by a beta
    law, the mean of the tail by the generalised Pareto law, whose k has the prior N(0.4, 0.3²).
    That prior holds what no M weights show: rare weights larger than any of theirs. The draws are
    a fixed lattice: the same weights give the same interval. Never less than Student's t of all
    weights: of a law of few values, how many of them are in the tail is most of what is random.
    """
    num = log_weight.shape[0]
    n, largest = tail_length(num), jnp.max(log_weight)
    weight, _ = _sorted(log_weight)
    b, k, log_p = _profile(weight, n)
    law = jax.nn.softmax(log_p - 0.5 * ((k - _PRIOR_MEAN) / _PRIOR_SD) ** 2)
    u, gamma, share, t = (jnp.asarray(v, weight.dtype) for v in _lattice(n, num))
    index = jnp.minimum(jnp.searchsorted(jnp.cumsum(law), u), len(b) - 1)
    shape = k[index] * n / gamma  # given b, that is the law of k
    scale = (weight[-1] - weight[-n - 1]) * -shape / b[index]
    tail = weight[-n - 1] + scale / (1 - jnp.minimum(shape, 0.95))
    body = weight[:-n]
    centre = jnp.mean(body) + jnp.std(body, ddof=1) / math.sqrt(num - n) * t
    mean = jnp.sort((1 - share) * centre + share * tail)
    ends = jnp.quantile(mean, jnp.asarray([0.5 - LEVEL / 2, 0.5 + LEVEL / 2], mean.dtype))
    plain = jnp.mean(weight) + jnp.asarray([-1, 1], mean.dtype) * _half_width(weight)
    ends = jnp.stack([jnp.minimum(ends[0], plain[0]), jnp.maximum(ends[1], plain[1])])
    low, high = largest + jnp.log(jnp.maximum(ends, jnp.finfo(mean.dtype).tiny))
    return low, high


def _half_width(weight: Array) -> Array:
    """Half of the 95 % interval of the mean by Student's t."""
    from scipy import special  # here: SciPy is slow to import

    num = weight.shape[0]
    quantile = float(special.stdtrit(num - 1, 0.5 + LEVEL / 2))
    return quantile * jnp.std(weight, ddof=1) / math.sqrt(num)


def _spread(log_weight: Array) -> Array:
    """Root mean square of log w − its median, where that is above 0; weights of 0 aside."""
    possible = log_weight > -jnp.inf
    num = jnp.sum(possible)
    median = jnp.sort(log_weight)[-1 - num // 2]
    above = jnp.where(possible, jnp.maximum(log_weight - median, 0), 0)
    return jnp.sqrt(2 * jnp.sum(above**2) / num.astype(above.dtype))


def _sorted(log_weight: Array) -> tuple[Array, Array]:
    """Weights relative to the largest, ascending, and whether there is one that is not 0."""
    largest = jnp.max(log_weight)
    possible = jnp.isfinite(largest)
    return jnp.sort(jnp.exp(log_weight - jnp.where(largest == -jnp.inf, 0.0, largest))), possible


def _excess(weight: Array, n: int) -> Array:
    """How far the n largest lie above the next, relative to the largest: (n,) in (0, 1].

    The floor is for ties (works of bits), of which the grid has no quartile.
    """
    excess = weight[-n:] - weight[-n - 1]
    return jnp.maximum(excess / jnp.where(excess[-1] > 0, excess[-1], 1.0), 1e-6)


def _flat(weight: Array, n: int) -> Array:
    return weight[-1] - weight[-n - 1] < ROUNDING


def _profile(weight: Array, n: int) -> tuple[Array, Array, Array]:
    """b, the k of each that is likeliest, and their log likelihood: on the grid of Zhang, Stephens.

    The density of the excess x is (1 − b x)^{−1/k − 1} |b/k|, of scale −k/b; x relative to the
    largest excess.
    """
    x, m = _excess(weight, n), 30 + math.isqrt(n)
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 + jnp.asarray(1 - np.sqrt(m / (np.arange(m) + 0.5)), x.dtype) / (3 * quartile)
    b = jnp.where(b == 0, 1e-6, b)
    k = jnp.mean(jnp.log1p(-b[:, None] * x[None, :]), axis=1)
    return b, k, n * (jnp.log(-b / k) - k - 1)


def _lattice(n: int, num: int) -> tuple[np.ndarray, ...]:
    """Uniform, Gamma(n), Beta(n, M − n) and Student's t_{M−n−1}: one Latin hypercube for all.

    Source: McKay, Beckman & Conover 1979.
    """
    from scipy import special  # here: SciPy is slow to import

    rng = np.random.default_rng(0)
    u = (np.stack([rng.permutation(_DRAWS) for _ in range(4)]) + 0.5) / _DRAWS
    gamma, share = special.gammaincinv(n, u[1]), special.betaincinv(n, num - n, u[2])
    return u[0], gamma, share, special.stdtrit(num - n - 1, u[3])
