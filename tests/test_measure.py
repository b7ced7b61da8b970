"""Posteriors of linear measurements, through the network or not, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import C_DIAGONAL, keys, mean_is
from dpm_jax import particles, posterior, schedule
from dpm_jax.benchmarks.measurements import measurements, posed
from dpm_jax.core import gaussian, sampling
from dpm_jax.core.chain import make_chain
from dpm_jax.exact import linear_gaussian
from dpm_jax.posterior import linear
from dpm_jax.posterior.tilt import look

T, NOISE = 12, 0.5
STEPS = schedule.geometric(T, 0.02, 1e4)
ALL = measurements(4)
CASES = [(name, "mmps") for name in ALL]
CASES += [(name, r_t) for name in ("mask", "projection") for r_t in ("dps", "pigdm", "noised")]


@pytest.mark.parametrize("name, r_t", CASES)
def test_gaussian_data_have_their_posterior(name, r_t):
    """Z~ times a weighted mean is unbiased at any N: many small filters."""
    of = posed(ALL[name], STEPS, noise=NOISE)
    tilt = posterior.measure(of.chain, of.A, of.y, NOISE, r_t)
    found = jax.jit(jax.vmap(lambda k: particles.sample(k, of.chain, tilt, 64)))(keys(128, 3))
    assert not np.asarray(found.lost_t).any()
    evidence = np.exp(np.asarray(found.log_z, np.float64) - of.exact.log_z)
    mean_is(evidence, 1)
    value, axes = np.linalg.eigh(of.exact.covariance)
    away = np.asarray(found.x, np.float64).reshape(128, 64, 16) - of.exact.mean
    along = away @ axes / np.sqrt(value)
    weight = evidence[:, None] * np.asarray(found.weight, np.float64)
    mean_is(np.einsum("fn,fni->fi", weight, along), 0)
    mean_is(np.einsum("fn,fni,fnj->fij", weight, along, along), np.eye(16))


def test_exact_kernels_of_gaussian_data():
    """The chain's x^0 has the data's law, and its kernels are Bayes' rule."""
    variances = np.array([0.05, 0.4, 2.5])
    chain = linear_gaussian.chain(variances, schedule.geometric(5, 0.1, 30.0))
    x = jax.jit(jax.vmap(lambda k: sampling.sample(k, chain)))(keys(20_000))
    mean_is(np.asarray(x) ** 2, variances)
    t, xt = 3, jnp.asarray([0.3, -1.0, 2.0])
    found, beta = chain.reverse(xt, t), chain.schedule.beta[t]
    level = np.exp(float(chain.schedule.log_alpha_bar[t - 1]))
    before = level * variances + 1 - level
    precision = 1 / before + (1 - beta) / beta
    np.testing.assert_allclose(found.variance, 1 / precision, rtol=1e-5)
    np.testing.assert_allclose(
        found.mean, np.sqrt(1 - beta) / beta * np.asarray(xt) / precision, rtol=1e-5
    )


def test_the_closed_posterior_is_that_of_a_joint_law():
    rng = np.random.default_rng(2)
    A, y = rng.normal(size=(3, 5)), rng.normal(size=3)
    found = linear_gaussian.posterior(linear_gaussian.spectrum(5), A, y, 0.2)
    prior = np.diag(linear_gaussian.spectrum(5))
    C = np.linalg.inv(np.linalg.inv(prior) + A.T @ A / 0.2)
    np.testing.assert_allclose(found.covariance, C, atol=1e-12)
    np.testing.assert_allclose(found.mean, C @ A.T @ y / 0.2)
    # Bayes: log p(y) = log p(x) + log p(y|x) − log p(x|y) at any x.
    x = rng.normal(size=5)

    def log_normal(e, S):
        return -0.5 * (e @ np.linalg.solve(S, e) + np.linalg.slogdet(2 * np.pi * S)[1])

    bayes = log_normal(x, prior) + log_normal(y - A @ x, 0.2 * np.eye(3))
    np.testing.assert_allclose(found.log_z, bayes - log_normal(x - found.mean, C))
    assert np.isclose(linear_gaussian.spectrum(7).mean(), 1)


@pytest.mark.parametrize("r_t", posterior.R_T)
def test_a_measured_mask_is_denoise_of_it(r_t):
    """The same kernels at every t, and r(x^t) and Z~ up to the factor that a law of x^t has."""
    chain = linear_gaussian.chain(np.diag(C_DIAGONAL), STEPS)
    known, y = np.array([True, False, True]), np.array([0.7, 0.0, -1.2])
    ours = posterior.measure(chain, linear.mask(known), y[known], NOISE, r_t)
    theirs = posterior.denoise(chain, y, NOISE, r_t, known)
    x = jax.random.normal(jax.random.key(0), (3,))

    @jax.jit
    def looked(keys, params, t):
        """log Z~, the law and log r of both tilts, and draws of the first."""
        both = [(of.log_z(params, x, t), of(params, t), of.log_r(x, t)) for of in (ours, theirs)]
        law = both[0][1]
        return *zip(*both), jax.vmap(lambda k: ours.draw(k, law))(keys)

    factor = np.asarray(STEPS.log_alpha_bar) * known.sum() / 2 * (r_t == "noised")
    for t in (1, 2, T // 2, T, T + 1):
        params = chain.prior if t > T else chain.reverse(x, jnp.asarray(t))
        (a, b), (law, same), log_r, drawn = looked(keys(4000, t), params, jnp.asarray(t))
        np.testing.assert_allclose(a + factor[t - 1], b, rtol=2e-5, err_msg=f"log Z~ at {t}")
        np.testing.assert_allclose(law.mean, same.mean, rtol=2e-5, atol=1e-6)
        if t <= T:
            a, b = log_r
            np.testing.assert_allclose(a + factor[t], b, rtol=2e-5, err_msg=f"log r at {t}")
        mean_is((drawn - same.mean[None]) ** 2, same.variance, expected_error=1e-6)


@pytest.mark.parametrize("products", [None, 1])
def test_where_tweedies_variance_is_negative_the_draws_stay(products):
    """A network may have x̂^0 fall with x^t: nothing divides by the noise alone there."""

    def reverse(xt, t):
        beta, before = STEPS.beta[t], STEPS.log_alpha_bar[t - 1]
        return gaussian.bridge(-0.5 * xt, xt, beta, before)

    chain = make_chain(gaussian.family(), STEPS, reverse, (2,))
    y, tiny = np.array([1.0]), 1e-6
    tilt = posterior.measure(chain, np.array([[1.0, 0.0]]), y, tiny, products=products)
    x = np.array([0.8, -0.4], np.float32)
    shift = jax.jit(lambda t: look(chain, tilt, jnp.asarray(x), t)[1].shift)
    for t in (2, T // 2, T):
        a = gaussian.bridge(1.0, jnp.zeros(()), STEPS.beta[t], STEPS.log_alpha_bar[t - 1]).mean
        assert abs(shift(jnp.asarray(t))[0] / a) < 1.01 * abs(y[0] + 0.5 * x[0])
    found = jax.jit(lambda k: particles.sample(k, chain, tilt, 64))(jax.random.key(0))
    assert np.isfinite(found.log_z) and np.abs(found.x[:, 0] - 1).max() < 0.5
