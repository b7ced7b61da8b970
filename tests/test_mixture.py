"""The mixture of 25 modes under linear measurements, and the methods of others, by closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import multivariate_normal

from dpm_jax import gaussian, posterior, sampling, schedule
from dpm_jax.baselines import inverse
from dpm_jax.core.chain import make_chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.exact import mixture
from dpm_jax.posterior import linear, tilt

KEY = jax.random.key(0)


def density(of, x, log_alpha_bar):
    """q(x^t) by the sum over modes, in float64."""
    signal, dim = np.exp(log_alpha_bar), x.shape[-1]
    covariance = (signal * of.variance - np.expm1(log_alpha_bar)) * np.eye(dim)
    centres = np.sqrt(signal) * np.tile(of.centre, (1, dim // 2))
    each = [multivariate_normal(c, covariance).pdf(x) for c in centres]
    return np.exp(of.log_weight) @ np.array(each)


@pytest.mark.parametrize("log_alpha_bar", [-1e-3, -0.1, -1.0, -4.0])
def test_denoiser_is_tweedies_formula_of_the_sum_over_modes(log_alpha_bar, x64):
    of = mixture.mixture(np.random.default_rng(0))
    noise, denoise = -np.expm1(log_alpha_bar), jax.jit(partial(mixture.denoise, of))
    for x0 in mixture.prior(np.random.default_rng(1), of, 8, 3):
        xt = np.exp(log_alpha_bar / 2) * x0 + np.sqrt(noise) * np.cos(np.arange(8.0))
        step = 1e-5 * np.eye(8)
        above, below = (np.log(density(of, xt + s, log_alpha_bar)) for s in (step, -step))
        score = (above - below) / 2e-5
        expected = (xt + noise * score) / np.exp(log_alpha_bar / 2)
        found, *_ = denoise(jnp.asarray(xt), jnp.asarray(log_alpha_bar))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 6])
def test_turned_is_a_reflection_that_puts_what_differs_between_modes_first(dim, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, dim)))
    z = mixture.turned(x)
    np.testing.assert_allclose(mixture.turned(z), x, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(z**2, axis=1), jnp.sum(x**2, axis=1))
    means = x.reshape(3, -1, 2).mean(axis=1) * np.sqrt(dim / 2)
    np.testing.assert_allclose(z[:, :2], means, atol=1e-12)


def test_the_variance_of_the_kernel_is_that_of_x0_given_xt(x64):
    """By Tweedie's formula, (1−ᾱ)/√ᾱ ∂x̂^0/∂x^t, along the axes of `turned`."""
    of, log_alpha_bar = mixture.mixture(np.random.default_rng(0)), jnp.asarray(-1.5)
    noise, xt = -jnp.expm1(log_alpha_bar), 0.3 * jnp.cos(jnp.arange(6.0))

    def x0(z):
        return mixture.turned(mixture.denoise(of, mixture.turned(z), log_alpha_bar)[0])

    z = mixture.turned(xt)
    expected = noise / jnp.exp(log_alpha_bar / 2) * jnp.diag(jax.jit(jax.jacobian(x0))(z))
    _, one, doubt = jax.jit(lambda x: mixture.denoise(of, x, log_alpha_bar))(xt)
    found = jnp.full(6, one).at[:2].add(doubt)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_data_have_mean_0_variance_1_and_modes_where_the_benchmark_has_them():
    of = mixture.mixture(np.random.default_rng(3))
    x = mixture.prior(np.random.default_rng(4), of, 6, 20_000)
    assert np.abs(x.mean(axis=0)).max() < 0.04 and abs(np.mean(x**2) - 1) < 0.03
    raw = mixture.restored(of, x)
    mode = 8 * np.round(raw[:, :2].reshape(-1, 2) / 8)
    within = np.linalg.norm(raw - np.tile(mode, (1, 3)), axis=1) < 5.5  # all but some of 20,000
    assert within.mean() > 0.999 and set(np.unique(mode)) == {-16, -8, 0, 8, 16}


@pytest.mark.parametrize("seed", range(4))
def test_evidence_and_posterior_are_those_of_weighted_draws_of_the_prior(seed):
    of = mixture.problem(seed, 4, 2)
    of = of._replace(noise=np.maximum(of.noise, 0.01))
    joint = of.mixture.log_weight + mixture._log_evidence(of)
    of = of._replace(log_z=np.logaddexp.reduce(joint), log_share=joint - np.logaddexp.reduce(joint))
    x = mixture.prior(np.random.default_rng(seed + 9), of.mixture, 4, 400_000)
    error = of.y - x @ of.A.T
    like = np.exp(-0.5 * np.sum(error**2, axis=1) / of.noise) / (2 * np.pi * of.noise)
    weight = like / like.sum()
    spread = like.std() / like.mean() / np.sqrt(len(x))
    assert abs(np.log(like.mean()) - of.log_z) < 5 * spread + 1e-3
    draws = mixture.posterior(np.random.default_rng(seed + 5), of, 20_000)
    few = 1 / np.sum(weight**2)
    for power in (1, 2):
        ours, theirs = draws**power, weight @ x**power
        variance = weight @ (x**power - theirs) ** 2
        error = np.sqrt(variance * (1 / few + 1 / len(draws)))
        assert np.all(np.abs(ours.mean(axis=0) - theirs) < 5 * error)


def test_a_problem_is_that_of_its_seed_and_the_truth_explains_it():
    one, same = (mixture.problem(7, 8, 4) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one.y, mixture.problem(8, 8, 4).y)
    np.testing.assert_allclose(one.rows @ one.rows.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(one.A)[1], one.singular, atol=1e-12)
    assert np.logaddexp.reduce(one.log_share) == pytest.approx(0)
    for bad in ((0, 7, 1), (0, 8, 0), (0, 8, 9)):
        with pytest.raises(ValueError, match=r"^(dim|measurements): expected"):
            mixture.problem(*bad)


def test_sliced_wasserstein_of_a_shift_and_of_one_law():
    x = np.random.default_rng(0).standard_normal((512, 6)).astype(np.float32)
    shift = np.linspace(0, 1, 6, dtype=np.float32)
    found = mixture.sliced_wasserstein(KEY, x, x + shift, slices=20_000)
    mean = np.linalg.norm(shift) * np.exp(gammaln(3) - gammaln(3.5)) / np.sqrt(np.pi)
    assert found == pytest.approx(mean, rel=0.02)  # E|θ·δ| of a random direction θ
    other = np.random.default_rng(1).standard_normal((512, 6)).astype(np.float32)
    assert mixture.sliced_wasserstein(KEY, x, other) < 0.1
    with pytest.raises(ValueError, match="x, y: expected one shape"):
        mixture.sliced_wasserstein(KEY, x, other[:5])


@pytest.mark.parametrize("dim", [8, 80])
def test_chain_draws_the_data(dim):
    of = mixture.mixture(np.random.default_rng(2))
    chain = mixture.chain(of, schedule.geometric(150, 1e-4, 1e6), dim)
    each = jax.jit(jax.vmap(lambda k: mixture.turned(sampling.sample(k, chain))))
    draws = each(jax.random.split(KEY, 1024))
    exact = [
        mixture.prior(np.random.default_rng(s), of, dim, 1024).astype(np.float32) for s in range(6)
    ]
    floor = [mixture.sliced_wasserstein(KEY, a, b) for a, b in zip(exact[::2], exact[1::2])]
    found = mixture.sliced_wasserstein(KEY, draws, exact[0])
    assert found < 2 * np.mean(floor)


# --- methods of others --------------------------------------------------------------------------


def one_mode(variance=0.5, dim=6, T=60, beta_1=1e-3):
    """A single Gaussian: its chain, whose posteriors are known."""
    zeros = np.zeros((1, 2))
    of = mixture.Mixture(np.zeros(1), zeros, np.array(variance), zeros[0], np.ones(()))
    return mixture.chain(of, schedule.geometric(T, beta_1, 1e4), dim)


def measured(dim=6, num=2):
    rng = np.random.default_rng(5)
    return linear.dense(rng.standard_normal((num, dim)), (dim,))


def test_turned_chain_is_the_same_with_the_rows_of_A_in_front():
    chain, A = one_mode(), measured()
    turned, back = inverse.turned(chain, A)
    z, again = jax.random.normal(KEY, (6,)), jax.jit(back)

    @jax.jit
    def both(t):
        return turned.reverse(z, t), chain.reverse(back(z), t)

    np.testing.assert_allclose(A.rows(again(z)), z[:2], atol=1e-5)
    np.testing.assert_allclose(np.sum(again(z) ** 2), np.sum(z**2), rtol=1e-5)
    for t in (1, 30, 60):
        ours, its = both(jnp.asarray(t))
        np.testing.assert_allclose(again(ours.mean), its.mean, atol=1e-5)
        np.testing.assert_allclose(ours.variance, its.variance)
    known = linear.mask(np.arange(6) == 2)  # a row that is a unit vector already
    np.testing.assert_allclose(inverse.turned(chain, known)[1](z)[2], z[0], atol=1e-6)


@pytest.mark.parametrize("t", [1, 2, 30, 60])
def test_x0_hat_of_a_kernel_is_the_denoiser(t):
    chain, x = one_mode(), jax.random.normal(KEY, (6,))
    signal = chain.schedule.alpha_bar[t]
    exact = jnp.sqrt(signal) * 0.5 * x / (signal * 0.5 + 1 - signal)

    @jax.jit
    def denoised(t):
        params = chain.reverse(x, t)
        return x0_hat(params.mean + params.low, x, chain.schedule, t)

    found = denoised(jnp.asarray(t))
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weigh", [False, True])
def test_mcgdiff_of_one_mode_has_its_posterior(weigh):
    """Mean and Z~ of a Gaussian, over many small filters; free below τ only as κ allows."""
    v, noise, chain, A = 0.5, 0.1, one_mode(T=150), measured()
    turned, back = inverse.turned(chain, A)
    y = A.apply(jnp.linspace(-1, 1, 6))
    of = inverse.seen(A, y, jnp.asarray(noise))

    def one(key):
        z, log_w, log_z = inverse.mcgdiff(key, turned, of, 256, 1e-2, weigh)
        return jnp.exp(log_w) @ jax.vmap(back)(z), log_z

    # It runs for longer than it compiles: at level 0 twice as long.
    each = jax.jit(jax.vmap(one), compiler_options={"xla_backend_optimization_level": 2})
    means, log_z = map(np.asarray, each(jax.random.split(KEY, 100)))
    matrix = np.asarray(jax.jacobian(A.apply)(jnp.zeros(6)), np.float64)
    covariance = v * matrix @ matrix.T + noise * np.eye(2)
    exact = multivariate_normal(np.zeros(2), covariance).logpdf(y)
    z = np.exp(log_z.astype(np.float64) - exact)
    gain = v * matrix.T @ np.linalg.inv(covariance) @ np.asarray(y)
    share = z / z.sum() if weigh else np.full(100, 0.01)
    error = np.sqrt(share**2 @ (means - gain) ** 2)
    assert abs(z.mean() - 1) < 4 * z.std() / 10 + (0 if weigh else 0.1)
    assert np.all(np.abs(share @ means - gain) < 4.5 * error + (0 if weigh else 0.03))


def test_ddrm_takes_y_where_it_has_no_noise_and_draws_the_rest():
    chain, A = one_mode(beta_1=1e-6), measured()
    turned, back = inverse.turned(chain, A)
    y = A.apply(jnp.linspace(-1, 1, 6))
    used = inverse.ddrm(turned, inverse.seen(A, y, jnp.asarray(1e-8)))
    each = jax.jit(jax.vmap(lambda k: back(sampling.sample(k, used))))
    draws = each(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(jax.vmap(A.apply)(draws), jnp.tile(y, (2000, 1)), atol=0.02)
    free = np.asarray(draws - jax.vmap(lambda x: A.back(A.rows(x)))(draws))
    assert np.abs(free.mean(axis=0)).max() < 0.08
    spread = np.sum(np.var(free, axis=0))  # of four free directions; η < 1 narrows
    assert spread == pytest.approx(4 * 0.5, rel=0.35)


def test_dps_follows_the_gradient_of_the_distance():
    chain, A = one_mode(), measured()
    y, x, t = A.apply(jnp.linspace(-1, 1, 6)), jnp.cos(jnp.arange(6.0)), jnp.asarray(20)
    signal = chain.schedule.alpha_bar[t]
    slope = jnp.sqrt(signal) * 0.5 / (signal * 0.5 + 1 - signal)  # x̂^0 = slope x^t
    error = y - A.apply(slope * x)
    matrix = jax.jacobian(A.apply)(x)
    expected = 0.3 * slope * matrix.T @ error / jnp.linalg.norm(error)
    kernels = [inverse.dps(chain, A, y, 0.3).reverse, chain.reverse]
    moved, still = jax.jit(lambda t: [reverse(x, t) for reverse in kernels])(t)
    np.testing.assert_allclose(moved.mean - still.mean, expected, atol=1e-5)
    assert gaussian.family().name == chain.family.name


def test_mmps_pulls_nowhere_along_negative_directions_of_a_network():
    """x̂^0 = −x^t has V < 0, which no covariance is: with S = R = 1e-8 it would pull by 1e8."""
    steps = schedule.geometric(20, 1e-2, 1e3)

    def reverse(xt, t):
        return gaussian.bridge(-xt, xt, steps.beta[t], steps.log_alpha_bar[t - 1])

    chain = make_chain(gaussian.family(), steps, reverse, (6,))
    made = posterior.measure(chain, measured(), jnp.ones(2), 1e-8)
    _, law = jax.jit(lambda t: tilt.look(chain, made, jnp.ones(6), t))(jnp.asarray(10))
    np.testing.assert_array_equal(law.shift, 0.0)


def test_methods_take_any_gaussian_chain():
    """A chain of a bare kernel, of an event with two axes."""
    steps = schedule.geometric(20, 1e-2, 1e3)

    def reverse(xt, t):
        return gaussian.bridge(0.5 * xt, xt, steps.beta[t], steps.log_alpha_bar[t - 1])

    chain = make_chain(gaussian.family(), steps, reverse, (2, 3))
    A = linear.dense(np.random.default_rng(0).standard_normal((2, 6)), (2, 3))
    turned, back = inverse.turned(chain, A)
    of = inverse.seen(A, jnp.ones(2), jnp.asarray(0.1))
    z, _, log_z = jax.jit(lambda k: inverse.mcgdiff(k, turned, of, 16))(KEY)
    assert jax.vmap(back)(z).shape == (16, 2, 3) and np.isfinite(log_z)
    for used, shape in (
        (inverse.dps(chain, A, jnp.ones(2), 0.1), (2, 3)),
        (inverse.ddrm(turned, of), (6,)),
    ):
        assert jax.jit(lambda k, used=used: sampling.sample(k, used))(KEY).shape == shape
