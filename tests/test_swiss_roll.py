"""The Swiss roll: its law against samples, its density against Monte Carlo and exact limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.data import swiss_roll
from dpm_jax.exact import swiss_roll as exact

LN2 = math.log(2.0)


def raw_curve(n):
    """n points of the raw curve at midpoints in u, float64, from scikit-learn's formula."""
    s = 1.5 * np.pi * (1 + 2 * (np.arange(n) + 0.5) / n)
    return np.stack([s * np.cos(s), s * np.sin(s)], axis=1)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_moments_are_those_of_the_formula(noise):
    mean, scale = swiss_roll.moments(noise)
    curve = raw_curve(100_000)
    np.testing.assert_allclose(mean, curve.mean(axis=0), atol=1e-6)
    variance = curve.var(axis=0).mean() + noise**2
    np.testing.assert_allclose(scale, math.sqrt(variance), rtol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_samples_have_mean_zero_and_mean_variance_one(noise):
    n = 200_000
    x = np.asarray(swiss_roll.sample(jax.random.key(1), n, noise), np.float64)
    assert np.all(np.abs(x.mean(axis=0)) < 5 * x.std(axis=0) / math.sqrt(n))
    square = 0.5 * np.sum(x**2, axis=1)  # its mean under the law is exactly 1
    assert abs(square.mean() - 1) < 5 * square.std() / math.sqrt(n)


def test_noiseless_samples_lie_on_the_curve():
    x = swiss_roll.sample(jax.random.key(2), 1000)
    assert x.shape == (1000, 2) and x.dtype == jnp.float32
    mean, scale = swiss_roll.moments()
    raw = np.asarray(x, np.float64) * scale + mean
    s = np.linalg.norm(raw, axis=1)
    assert s.min() > 1.5 * np.pi - 1e-4 and s.max() < 4.5 * np.pi + 1e-4
    np.testing.assert_allclose(raw, np.stack([s * np.cos(s), s * np.sin(s)], axis=1), atol=2e-4)
    # u = (s/1.5π − 1)/2 is uniform: Kolmogorov distance below the 1e-4 quantile.
    u = np.sort((s / (1.5 * np.pi) - 1) / 2)
    assert np.abs(u - (np.arange(1000) + 0.5) / 1000).max() < 2.2 / math.sqrt(1000)


def test_sample_under_jit_and_vmap_with_traced_noise():
    key = jax.random.key(3)
    noises = jnp.array([0.0, 0.25, 1.0])
    mapped = jax.jit(jax.vmap(lambda noise: swiss_roll.sample(key, 7, noise)))(noises)
    each = jnp.stack([swiss_roll.sample(key, 7, float(noise)) for noise in noises])
    np.testing.assert_allclose(mapped, each, atol=2e-6)


@pytest.mark.parametrize(("beta_1", "noise"), [(0.01, 0.0), (0.01, 0.5), (0.0, 0.5), (0.5, 0.25)])
def test_density_integrates_to_one(beta_1, noise):
    axis = np.arange(-5.0, 5.0, 0.03)  # at most 0.4 widths: the sum is exact to 1e-9 and better
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(exact.log_density(grid, beta_1, noise)).sum() * 0.03**2
    assert abs(total - 1) < 1e-5


@pytest.mark.parametrize(("beta_1", "noise"), [(1e-3, 0.0), (0.03, 0.5), (0.7, 0.0)])
def test_density_is_the_mixture_over_the_curve(beta_1, noise):
    mean, scale = swiss_roll.moments(noise)
    centre = math.sqrt(1 - beta_1) * (raw_curve(100_000) - mean) / scale
    variance = beta_1 + (1 - beta_1) * (noise / scale) ** 2
    ends_and_more = np.concatenate([centre[[0, -1, 40_000]], [[0.3, -0.2], [2.5, 2.5]]])
    for x, value in zip(ends_and_more, exact.log_density(ends_and_more, beta_1, noise)):
        log_terms = -np.sum((x - centre) ** 2, axis=1) / (2 * variance)
        peak = log_terms.max()
        expected = (
            peak + math.log(np.exp(log_terms - peak).mean()) - math.log(2 * math.pi * variance)
        )
        assert abs(value - expected) < 1e-5 * max(1.0, abs(expected))


def noised(key, n, beta_1, noise):
    """n draws of x^1."""
    key_x, key_eps = jax.random.split(key)
    x = swiss_roll.sample(key_x, n, noise)
    x = math.sqrt(1 - beta_1) * x + math.sqrt(beta_1) * jax.random.normal(key_eps, (n, 2), x.dtype)
    return np.asarray(x, np.float64)


def test_density_matches_a_histogram_of_samples():
    n, beta_1, noise = 200_000, 0.01, 0.5
    x = noised(jax.random.key(4), n, beta_1, noise)
    edges = np.linspace(-2.5, 2.5, 26)
    count, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])
    fine = np.linspace(-2.5, 2.5, 201)  # 8 midpoints a bin and axis
    middle = 0.5 * (fine[1:] + fine[:-1])
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(exact.log_density(grid, beta_1, noise)).reshape(25, 8, 25, 8)
    expected = n * density.sum(axis=(1, 3)) * 0.025**2
    used = expected > 20
    chi2 = np.sum((count[used] - expected[used]) ** 2 / expected[used])
    assert used.sum() > 150
    assert abs(chi2 - used.sum()) < 5 * math.sqrt(2 * used.sum())


@pytest.mark.parametrize(("beta_1", "noise"), [(1e-4, 0.0), (1e-2, 0.0), (1e-3, 0.5), (0.3, 1.0)])
def test_entropy_matches_monte_carlo(beta_1, noise):
    log_q = exact.log_density(noised(jax.random.key(5), 8_000, beta_1, noise), beta_1, noise)
    error = log_q.std() / math.sqrt(len(log_q))
    assert error < 0.02
    assert abs(log_q.mean() - exact.negative_entropy(beta_1, noise)) < 4 * error


# noise, β_1, bits. Measured independently of this code, on a prototype, to the digits shown.
TABLE = [
    *[(0.0, 1e-5, 2.60), (0.0, 1e-4, 0.94), (0.0, 1e-3, -0.726), (0.0, 1e-2, -2.40)],
    *[(0.25, 0.0, -0.947), (0.25, 1e-5, -0.95), (0.25, 1e-4, -1.00)],
    *[(0.25, 1e-3, -1.346), (0.25, 1e-2, -2.49)],
    *[(0.5, 0.0, -1.949), (0.5, 1e-5, -1.95), (0.5, 1e-4, -1.96)],
    *[(0.5, 1e-3, -2.071), (0.5, 1e-2, -2.71)],
]


@pytest.mark.parametrize(("noise", "beta_1", "bits"), TABLE)
def test_ceiling_table(noise, beta_1, bits):
    assert abs(exact.negative_entropy(beta_1, noise) / LN2 - bits) < 0.01


def test_thin_limit_is_the_entropy_of_arc_length_plus_a_gaussian():
    """As the width w → 0: h = E log(3π |dc/ds|) + ½ log(2πe w²), up to O(w)."""
    beta_1 = 1e-6
    _, scale = swiss_roll.moments()
    s = np.linalg.norm(raw_curve(100_000), axis=1)
    speed = 3 * math.pi * np.sqrt(1 + s**2) * math.sqrt(1 - beta_1) / scale
    entropy = np.log(speed).mean() + 0.5 * math.log(2 * math.pi * math.e * beta_1)
    assert abs(exact.negative_entropy(beta_1) + entropy) < 1e-3


@pytest.mark.parametrize(("beta_1", "noise"), [(1.0, 0.0), (0.0, 1e4), (0.5, 1e4)])
def test_wide_limit_is_the_standard_normal(beta_1, noise):
    gaussian = math.log(2 * math.pi * math.e)
    assert abs(exact.negative_entropy(beta_1, noise) + gaussian) < 1e-6


def test_far_points_and_no_points():
    value = exact.log_density([[1e3, 0.0]], 1e-4)
    assert np.all(np.isfinite(value)) and value[0] < -4e9
    assert exact.log_density(np.zeros((0, 2)), 0.1).shape == (0,)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf])
def test_bad_noise_is_named(noise):
    message = f"noise: expected a finite number >= 0, got {noise}"
    with pytest.raises(ValueError, match=message):
        swiss_roll.moments(noise)
    with pytest.raises(ValueError, match=message):
        swiss_roll.sample(jax.random.key(0), 3, noise)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda key: swiss_roll.sample(key, 3, noise))(jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        exact.negative_entropy(0.1, noise)


def test_bad_density_arguments_are_named():
    with pytest.raises(ValueError, match="curve has no density"):
        exact.negative_entropy(0.0)
    with pytest.raises(ValueError, match=r"beta_1: expected a number in \[0, 1\], got 1.5"):
        exact.log_density(np.zeros((1, 2)), 1.5)
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 2\), got \(2,\)"):
        exact.log_density(np.zeros(2), 0.1)


# --- what the experiment compares with ----------------------------------------------------------


def test_what_has_a_density_and_its_ceiling():
    assert exact.has_density(0.0, "fixed") and exact.has_density(0.5, "learned")
    assert not exact.has_density(0.0, "learned")
    assert exact.ceiling(0.1, 0.2, "fixed") == exact.negative_entropy(0.1, 0.2)
    assert exact.ceiling(0.1, 0.2, "learned") == exact.negative_entropy(0.0, 0.2)
    assert exact.ceiling(0.1, 0.0, "learned") is None


def test_log_likelihood_is_the_density_noised_twice_or_not_at_all():
    x = np.random.default_rng(0).normal(size=(5, 2))
    twice = exact.log_likelihood(x, 0.1, 0.5, "fixed")
    np.testing.assert_array_equal(twice, exact.log_density(x, 1 - 0.9**2, 0.5))
    plain = exact.log_likelihood(x, 0.1, 0.5, "learned")
    np.testing.assert_array_equal(plain, exact.log_density(x, 0.0, 0.5))
    with pytest.raises(ValueError, match="beta_1: expected > 0 where noise = 0"):
        exact.log_likelihood(x, 0.1, 0.0, "learned")


def test_points_integrate_a_density():
    x, log_weight, exhaustive = exact.points(jax.random.key(7), 4000, 0.5)
    assert x.shape == (4000, 2) and x.dtype == np.float32 and not exhaustive
    terms = 4000 * np.exp(exact.log_density(x, 0.01, 0.5) + log_weight)
    assert abs(terms.mean() - 1) < 4 * terms.std() / np.sqrt(4000)


def test_total_variation_of_exact_draws_is_its_floor():
    """Draws of the grid's own posterior, by rejection from the roll."""
    rng = np.random.default_rng(1)
    setting, y, noise = {"roll_noise": 0.5, "beta_1": 1e-3}, np.array([0.6, -0.4]), 0.3
    x = np.asarray(swiss_roll.sample(jax.random.key(0), 400_000, 0.5), np.float64)
    x = x[rng.random(len(x)) < np.exp(-0.5 * ((x - y) ** 2).sum(axis=1) / noise)]
    weight = np.full(len(x), 1 / len(x))
    both = np.ones(2, bool)
    found = exact.compare(y, both, noise, x, weight, **setting)
    assert len(x) > 10_000
    assert found["total_variation"] == pytest.approx(found["total_variation_floor"], rel=0.15)
    moved = exact.compare(y, both, noise, x + 0.3, weight, **setting)
    assert moved["total_variation"] > 0.3
    # Given its first coordinate: of draws in a thin slice the second has the posterior's law.
    slab = np.asarray(swiss_roll.sample(jax.random.key(1), 2_000_000, 0.5), np.float64)
    slab = slab[abs(slab[:, 0] - y[0]) < 0.004]
    known = np.array([True, False])
    found = exact.compare(y, known, 0.0, slab, np.full(len(slab), 1 / len(slab)), **setting)
    assert found["total_variation"] < 1.6 * found["total_variation_floor"]
    assert exact.compare(y, both, 0.0, slab, np.full(len(slab), 1 / len(slab)), **setting) == {}
