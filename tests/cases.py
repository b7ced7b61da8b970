"""Settings in which everything is known, and what it takes to compare with them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import binomial, gaussian
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import make_chain
from dpm_jax.core.gaussian import Normal

T = 4
C_DIAGONAL = np.diag([0.3, 1.2, 2.0])
C_CORRELATED = np.array([[1.0, 0.6, -0.2], [0.6, 1.5, 0.3], [-0.2, 0.3, 0.7]])
LOG_2PIE = np.log(2 * np.pi * np.e)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def error_of(values):
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


def mean_is(values, expected, errors=5.0, expected_error=0.0):
    """The mean of independent draws (n, ...) is `expected` within so many standard errors."""
    values = np.asarray(values)
    error = np.hypot(error_of(values), expected_error) + 1e-12
    z = np.abs(values.mean(axis=0) - expected) / error
    assert np.all(z < errors), f"off by {z} standard errors of {error}"


def averaged(function, n, *args):
    """(n, ...) values of function(key, *args), compiled once."""
    return np.asarray(jax.jit(jax.vmap(lambda key: function(key, *args)))(keys(n)))


def bent_chain(family, steps, last_step="fixed", shape=(3,)):
    """A chain whose kernels are neither exact nor far off, for both families, at every t."""

    def reverse(xt, t):
        forward = family.step(xt, steps.beta[t])
        if isinstance(forward, Normal):
            return Normal(0.8 * forward.mean + 0.1, 1.3 * forward.variance)
        return Bernoulli(0.8 * forward.logits + 0.1)

    return make_chain(family, steps, reverse, shape, last_step)


def still_chain(family, steps, last_step="fixed", shape=(3,)):
    """The chain in equilibrium: T_π is reversible, so that it is its own exact reverse."""

    def reverse(xt, t):
        return family.step(xt, steps.beta[t])

    return make_chain(family, steps, reverse, shape, last_step)


def is_gaussian(family):
    return family.prior is gaussian.prior


BOTH = {
    "gaussian": (gaussian.family, [0.7, -1.9, 0.2]),
    "binomial": (lambda: binomial.family(np.array([0.2, 0.2, 0.7])), [1.0, 0.0, 0.0]),
}


# --- Gaussian data N(0, C): everything is known -------------------------------------------------


def gaussian_chain(C, steps, last_step="learned"):
    """The best diagonal kernels for data N(0, C), and the nats lost at each t (0 if C is too).

    q(x^{t-1}|x^t) is N(√(1−β) S_{t-1} S_t^{-1} x^t, V) with S_t = ᾱC + (1−ᾱ)I and
    V = S_{t-1} − (1−β) S_{t-1} S_t^{-1} S_{t-1}; the best diagonal fit has its mean and diag V.
    """
    alpha_bar, beta = np.asarray(steps.alpha_bar), np.asarray(steps.beta)
    S = [a * C + (1 - a) * np.eye(len(C)) for a in alpha_bar]
    gains, variances, lost = [np.eye(len(C))], [np.ones(len(C))], [0.0]
    for t in range(1, steps.T + 1):
        back = S[t - 1] @ np.linalg.inv(S[t])
        V = S[t - 1] - (1 - beta[t]) * back @ S[t - 1]
        gains.append(np.sqrt(1 - beta[t]) * back)
        variances.append(np.diag(V))
        lost.append(0.5 * (np.log(np.diag(V)).sum() - np.linalg.slogdet(V)[1]))
    A, v = jnp.asarray(np.stack(gains)), jnp.asarray(np.stack(variances))

    def reverse(xt, t):
        return Normal(A[t] @ xt, v[t])

    return make_chain(gaussian.family(), steps, reverse, (len(C),), last_step), np.array(lost)


def model_covariance(steps, reverse):
    """Covariance of x^0 under the model whose kernels are N(A_t x^t, v_t), by its recursion."""
    at = jax.jit(jax.vmap(jax.vmap(reverse, (0, None)), (None, 0)))
    kernels = jax.tree.map(np.asarray, at(jnp.eye(3), jnp.arange(1, steps.T + 1)))
    S = np.eye(3)
    for rows, variance in zip(kernels.mean[::-1], kernels.variance[::-1]):
        S = rows.T @ S @ rows + np.diag(variance[0])  # the rows are A_t of unit vectors
    return S


def normal_data(C, n):
    return jax.random.normal(jax.random.key(11), (n, len(C))) @ jnp.linalg.cholesky(C).T


def log_density(C, x):
    return -0.5 * (x @ np.linalg.inv(C) @ x + np.linalg.slogdet(2 * np.pi * C)[1])


def negative_entropy(C):
    return -0.5 * (len(C) * LOG_2PIE + np.linalg.slogdet(C)[1])


# --- three bits, enumerated ---------------------------------------------------------------------

STATES = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
LAW = np.array([0.3, 0.02, 0.05, 0.13, 0.2, 0.1, 0.05, 0.15])
RATE = np.array([0.2, 0.5, 0.7])


def bits_given(p):
    """P(all 8 states) of independent bits with P(1) = p: (..., 3) -> (..., 8)."""
    p = np.asarray(p)[..., None, :]
    return np.where(STATES == 1, p, 1 - p).prod(axis=-1)


def bits_chain(steps):
    """Exact log p(x^0) and K of the 8 states, by sums over all states, and the chain of them.

    Its kernels are the best that factorise.
    """
    beta, alpha_bar = np.asarray(steps.beta), np.asarray(steps.alpha_bar)
    marginal = [bits_given(STATES * a + (1 - a) * RATE) for a in alpha_bar]  # [t][x0, xt]
    p = bits_given(RATE)  # p(x^T)
    K = -(marginal[-1] * np.log(marginal[-1] / p)).sum(axis=1)
    logits = np.zeros((steps.T + 1, 8, 3))
    for t in range(steps.T, 0, -1):
        forward = bits_given(STATES * (1 - beta[t]) + beta[t] * RATE)  # [x_prev, xt]
        joint = LAW[:, None, None] * marginal[t - 1][:, :, None] * forward  # [x0, x_prev, xt]
        pair = joint.sum(axis=0)
        rate = (pair.T @ STATES) / pair.sum(axis=0)[:, None]  # P(bit of x_prev = 1 | xt)
        logits[t] = np.log(rate) - np.log1p(-rate)
        kernel = bits_given(rate)  # [xt, x_prev]
        given_x0 = joint / LAW[:, None, None]  # q(x_prev, xt | x0)
        log_p = np.where(given_x0 > 0, np.log(kernel.T), 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.log(given_x0 / marginal[t][:, None, :])
        K += (given_x0 * (log_p - np.where(given_x0 > 0, log_q, 0))).sum(axis=(1, 2))
        p = kernel.T @ p
    table, place = jnp.asarray(logits), jnp.asarray([4, 2, 1])

    def reverse(xt, t):
        return Bernoulli(table[t, place @ xt.astype(int)])

    chain = make_chain(binomial.family(RATE), steps, reverse, (3,), "learned")
    return np.log(p), K, chain


def mnist_originals(place, num_train, num_test=40):
    """`place` with small "MNIST" files in it for --manual_dir: bars of grey on black."""
    for name, num in (("train", num_train), ("test", num_test)):
        images = np.zeros((num, 28, 28, 1), np.uint8)
        images[::2, 8:20, 12:16] = 255
        images[1::2, 12:16, 8:20] = 100
        np.save(place / f"{name}.npy", images)
    return place
