"""The last step onto integers: masses against float64 and their sum; chains of four grey levels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cases import averaged, keys, mean_is, still_chain
from dpm_jax import likelihood, training
from dpm_jax.core import binomial, gaussian, model, schedule
from dpm_jax.core.chain import make_chain
from dpm_jax.core.gaussian import Normal
from dpm_jax.likelihood import Proposal, Rows, bound, discretized
from dpm_jax.likelihood.discretized import Bins

EIGHT = discretized.bins(256, 112.3, 64.1)
SIXTEEN = discretized.bins(65536, 27000.0, 15000.0)
FOUR = Bins(0.7, -1.05, 1.05)


def each_mass(mean, variance, x, bins):
    """log_mass of one pixel at a time: arrays (n,) -> (n,)."""
    return jax.vmap(lambda m, v, x: discretized.log_mass(Normal(m, v), x, bins))(mean, variance, x)


def in_float64(mean, variance, x, bins):
    """The same by scipy in float64: log Φ(b) + log(1 − Φ(a)/Φ(b)), mirrored to the lower tail."""
    mean, sigma, x = (np.asarray(v, np.float64) for v in (mean, np.sqrt(variance), x))
    sigma = np.sqrt(np.asarray(variance, np.float64))
    half, below = bins.width / 2, -np.abs(x - mean)
    b, a = special.log_ndtr((below + half) / sigma), special.log_ndtr((below - half) / sigma)
    closed = b + np.log1p(-np.exp(a - b))
    lowest = special.log_ndtr((x + half - mean) / sigma)
    highest = special.log_ndtr((mean - x + half) / sigma)
    return np.select([x < bins.low + half, x > bins.high - half], [lowest, highest], closed)


def settings(bins, n=20_000, spread=6.0):
    """(n,) means, variances and bins of every kind: σ from 10^-6 to 10^4, means near and far."""
    rng = np.random.default_rng(0)
    levels = round((bins.high - bins.low) / bins.width) + 1
    k = np.concatenate([rng.integers(0, levels, n - n // 4), np.repeat([0, levels - 1], n // 8)])
    x = np.asarray(discretized.centre(k, bins))
    sigma = 10 ** rng.uniform(-6, 4, n)
    far = np.where(rng.random(n) < 0.5, bins.width * rng.normal(size=n), rng.normal(size=n))
    mean = x + np.where(rng.random(n) < 0.5, spread * sigma * rng.normal(size=n), far)
    return mean.astype(np.float32), (sigma**2).astype(np.float32), x


# --- the mass of a bin ---------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [EIGHT, SIXTEEN, FOUR], ids=["8 bit", "16 bit", "4 levels"])
def test_mass_and_gradient_in_float32_are_those_of_float64(bins):
    bins = Bins(*(float(np.float32(value)) for value in bins))
    mean, variance, x = settings(bins)
    value = jax.value_and_grad(lambda m, v: jnp.sum(each_mass(m, v, x, bins)), (0, 1))
    _, gradient = jax.jit(value)(mean, variance)
    found = np.asarray(jax.jit(lambda m, v: each_mass(m, v, x, bins))(mean, variance), np.float64)
    expected = in_float64(mean, variance, x, bins)
    assert found.max() <= 0 and all(np.isfinite(g).all() for g in gradient)
    # What rounding x − μ to float32 makes of a mass that depends on it so much.
    place = np.abs(x - mean) + bins.width
    rounding = np.abs(np.asarray(gradient[0], np.float64)) * place * 2.0**-23
    assert (np.abs(found - expected) < 1e-6 * (1 + np.abs(expected)) + rounding).all()
    # d log P/dμ = (φ(a) − φ(b))/(σ P); float64 knows it to 1e-4 where the bin is not too narrow.
    sigma, half, place = np.sqrt(variance.astype(float)), bins.width / 2, x - mean.astype(float)
    known = (bins.width / sigma > 1e-3) & (expected > -1e3)
    log_phi = [-0.5 * (((place + s) / sigma) ** 2 + np.log(2 * np.pi)) for s in (-half, half)]
    a, b = (np.exp((log_p - expected)[known]) for log_p in log_phi)
    a[(x < bins.low + half)[known]] = 0
    b[(x > bins.high - half)[known]] = 0
    assert known.mean() > 0.3
    np.testing.assert_allclose(np.asarray(gradient[0])[known] * sigma[known], a - b, 1e-3, 1e-3)


@pytest.mark.parametrize("bins", [EIGHT, SIXTEEN, FOUR], ids=["8 bit", "16 bit", "4 levels"])
def test_masses_of_all_bins_sum_to_one(bins):
    levels = round((bins.high - bins.low) / bins.width) + 1
    x = discretized.centre(np.arange(levels), bins)
    means = jnp.asarray([-40.0, -1.7, 0.0, 0.3, 1.3, 5.0])
    sigmas = jnp.asarray([1e-5, 1e-3, 0.011, 0.1, 1.0, 7.0, 1e3])

    def log_total(mean, sigma):
        each = each_mass(jnp.full(levels, mean), jnp.full(levels, sigma**2), x, bins)
        return jax.nn.logsumexp(each)

    found = jax.jit(jax.vmap(jax.vmap(log_total, (0, None)), (None, 0)))(means, sigmas)
    # Centres are rounded to float32, by up to 3e-3 of a bin of 16 bits: edges do not quite meet.
    np.testing.assert_allclose(found, 0, atol=3e-5 if levels < 1000 else 1e-2)


def test_mass_of_a_wide_law_is_the_density_times_the_width_and_of_a_narrow_one_is_1():
    x = discretized.centre(np.arange(1, 255), EIGHT)
    for sigma, mean in ((10.0, 0.3), (300.0, -200.0)):
        law = Normal(jnp.full(254, mean), jnp.full(254, sigma**2))
        density = gaussian.log_prob(law, x) + 254 * np.log(EIGHT.width)
        np.testing.assert_allclose(discretized.log_mass(law, x, EIGHT), density, rtol=2e-6)
    law = Normal(x + 0.2 * EIGHT.width, jnp.full(254, (EIGHT.width / 20) ** 2))
    assert discretized.log_mass(law, x, EIGHT) == pytest.approx(254 * special.log_ndtr(6), abs=1e-6)


def test_gradient_far_in_the_tails_points_home():
    """Where jax.scipy.special.log_ndtr in float32 gives 1 instead of 10^6."""
    x = discretized.centre(np.array([0, 100, 255]), EIGHT)
    mean = x + jnp.asarray([2.0, 2.0, -2.0])

    @jax.jit
    @jax.grad
    def slope(mean, sigma):
        return discretized.log_mass(Normal(mean, sigma**2 * jnp.ones(3)), x, EIGHT)

    for z in (10.0, 1e3, 1e6):
        edge = 2.0 - EIGHT.width / 2  # from the mean to the near edge of the bin
        expected = -np.array([1, 1, -1]) * edge * (z / 2) ** 2
        np.testing.assert_allclose(slope(mean, 2 / z), expected, rtol=0.02 if z == 10 else 1e-5)


def test_centre_is_the_middle_of_the_grey_level():
    levels = np.arange(256, dtype=np.uint8)
    expected = (levels.astype(float) + 0.5 - 112.3) / 64.1
    np.testing.assert_allclose(discretized.centre(levels, EIGHT), expected, rtol=1e-6, atol=1e-6)
    assert discretized.centre(levels, EIGHT).dtype == jnp.float32
    np.testing.assert_allclose(EIGHT, (1 / 64.1, expected[0], expected[-1]))


# --- a chain of two steps onto four levels, by quadrature ----------------------------------------

LEVELS = np.array([-1.05, -0.35, 0.35, 1.05])
GRID = np.linspace(-9, 9, 1801)


def short():
    return schedule.linear(2, 0.3, 0.8)


def reverse(xt, t):
    """A reverse kernel of the right size that is not exact."""
    return Normal(0.9 * jnp.tanh(xt) - 0.05, jnp.full_like(xt, jnp.where(t == 1, 0.25, 0.4)))


def normal(x, mean, variance):
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


@pytest.fixture(scope="module")
def four():
    """Exact log p and K of each of the four levels, by sums over x^1 and x^2."""
    family, dx = gaussian.family(), GRID[1] - GRID[0]
    with jax.enable_x64(True):
        steps = short()
        x = jnp.asarray(GRID)
        first, second = (reverse(x, jnp.asarray(t)) for t in (1, 2))
        law_1 = normal(GRID[:, None], np.asarray(second.mean), 0.4) @ normal(GRID, 0, 1) * dx
        mass = [in_float64(first.mean, first.variance, np.full_like(GRID, k), FOUR) for k in LEVELS]
        log_p = np.log([np.sum(law_1 * np.exp(m)) * dx for m in mass])
        K = []
        for k, m in zip(LEVELS, mass):
            x0 = jnp.asarray(k)
            q1, q2 = (family.marginal(x0, steps.log_alpha_bar[t]) for t in (1, 2))
            each = jax.vmap(
                lambda xt, p, x0=x0: family.kl(
                    family.bridge(x0, xt, steps.beta[2], steps.log_alpha_bar[1]), p
                )
            )(x, second)
            value = np.sum(normal(GRID, *map(float, q1[:2])) * m) * dx
            value -= np.sum(normal(GRID, *map(float, q2[:2])) * each) * dx
            K.append(value - float(family.kl(q2, family.prior(()))))
    return log_p, np.array(K)


@pytest.fixture
def chain(x64):
    return make_chain(gaussian.family(), short(), reverse, (1,), discretized.last_step(FOUR))


def test_probabilities_of_the_levels_sum_to_one_and_K_is_below_their_logarithm(four):
    log_p, K = four
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
    assert (log_p - 0.01 > K).all()


def of_levels(function, n):
    """(n, 4, ...) values of function(key, x^0), for each of the four levels."""
    x0 = jnp.asarray(LEVELS)[:, None]
    return jax.jit(jax.vmap(jax.vmap(function, (None, 0)), (0, None)))(keys(n), x0)


def test_K_is_that_of_quadrature_in_every_form(chain, four):
    exact = of_levels(lambda key, x: bound.exact(key, chain, x), 2000)
    mean_is(exact.K, four[1])
    terms = of_levels(lambda key, x: bound.exact_terms(key, chain, x), 2000)
    np.testing.assert_allclose(terms.sum(axis=-1), exact.K, rtol=1e-12)
    batch = jnp.asarray(LEVELS)[:, None]
    for num_t in (-1, 2):

        def once(key, n=num_t):
            return bound.estimate(key, chain, batch, n)

        mean_is(averaged(once, 3000), four[1])


def of_three(chain):
    """The chain of three independent elements."""
    return chain._replace(shape=(3,), prior=gaussian.prior((3,)))


def test_L_null_is_the_mass_of_the_prior(chain):
    x0 = jnp.asarray(LEVELS[:3])
    L_null = bound.exact(jax.random.key(0), of_three(chain), x0).L_null
    edges = np.array([-np.inf, -0.7, 0.0, 0.7])
    np.testing.assert_allclose(L_null, np.log(np.diff(special.ndtr(edges))).sum(), rtol=1e-9)


def test_the_work_of_eq_9_gives_the_probability_itself(chain, four):
    work = -of_levels(lambda key, x: likelihood.forward_work(key, chain, x), 4000)
    mean_is(np.exp(work), np.exp(four[0]))
    mean_is(work, four[1])
    steps = of_levels(lambda key, x: likelihood.profile(key, chain, x).work, 4000)
    np.testing.assert_allclose(steps.sum(axis=-1), -work, rtol=1e-12, atol=1e-12)


def test_of_a_chain_in_equilibrium_p_is_that_of_the_prior(x64):
    steps, last = schedule.linear(4, 0.1, 0.5), discretized.last_step(FOUR)
    chain, x0 = still_chain(gaussian.family(), steps, last, (1,)), jnp.asarray([LEVELS[1]])
    expected = bound.null(chain, x0)
    work = averaged(likelihood.forward_work, 4000, chain, x0)
    mean_is(np.exp(-work), np.exp(expected))
    K = averaged(lambda key: bound.exact(key, chain, x0).K, 2000)
    assert K.mean() < expected - 0.01  # the bin is wide beside the kernel: x^0 at its centre costs


def test_with_tiny_bins_K_is_that_of_the_learned_step_and_the_width(chain):
    x0 = jnp.asarray([0.31, -1.2, 0.7])
    for width in (1e-3, 1e-6):
        mass = discretized.last_step(Bins(width, -100.0, 100.0))
        found, expected = (
            bound.exact(jax.random.key(3), of_three(chain)._replace(last_step=last), x0)
            for last in (mass, "learned")
        )
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a - 3 * np.log(width), b, atol=3 * width**2 + 1e-9)


# --- a model with such a last step ----------------------------------------------------------------


class Pull(NamedTuple):
    """A network of two numbers: x̂^0 = slope x^t, and the logit of the variance."""

    def init(self, key, x, t, log_snr):
        return jnp.asarray([0.8, 0.5])

    def apply(self, variables, x, t, log_snr):
        return jnp.stack([variables[0] * x, jnp.full_like(x, variables[1])], axis=-1)


DATA = np.random.default_rng(0).integers(0, 4, (6, 2)).astype(np.uint8)
PARAMS = {"network": jnp.asarray([0.8, 0.5])}
LONG = schedule.geometric(5, 0.05)


def built(last_step=None):
    last_step = last_step or discretized.last_step(FOUR)
    return model.build(gaussian.family(), LONG, Pull(), (2,), "x0", last_step=last_step)


def centred(key, rows):
    del key
    return discretized.centre(rows, FOUR)


def test_every_entry_to_the_bound_counts_masses():
    x0, m = discretized.centre(DATA, FOUR), built()
    chain = m.chain(PARAMS)
    many = jax.jit(jax.vmap(lambda key, x: bound.exact(key, chain, x)))
    found = many(keys(3000), jnp.tile(x0, (500, 1)))
    K = np.asarray(found.K, np.float64).reshape(500, 6)
    edges = special.ndtr([-np.inf, -0.7, 0.0, 0.7, np.inf])
    L_null = np.log(np.diff(edges))[DATA].sum(axis=1)
    np.testing.assert_allclose(found.L_null[:6], L_null, rtol=1e-5)
    average = K.mean(axis=1)
    error = average.std() / 500**0.5
    for num_t, n in ((0, 300), (2, 1000)):
        loss = training.make_loss(m, num_t=num_t)
        value = averaged(lambda key, loss=loss: loss(PARAMS, key, x0)[0], n)
        mean_is(-2 * value, average.mean(), expected_error=error)
    tiled, rows = np.tile(DATA, (100, 1)), Rows(prepare=centred)
    for passes in (None, 3):
        result = likelihood.evaluate(m, PARAMS, tiled, passes, rows=rows)
        spread = 5 * np.hypot(error, result.K_error)
        assert abs(result.K - average.mean()) < spread < 0.5
        assert result.L_null == pytest.approx(L_null.mean(), rel=1e-5)
    work = likelihood.evaluate_works(m, PARAMS, DATA, 500, rows=rows)
    mean_is(-work.T, K.mean(axis=0), expected_error=K.std(axis=0) / 500**0.5)
    likely = jax.jit(jax.vmap(lambda key, x: likelihood.estimate(key, chain, x, 200).K))
    gap = np.asarray(likely(keys(6, 1), x0)) + work.mean(axis=1)
    assert (np.abs(gap) < 5 * work.std(axis=1) / 140**0.5).all()
    profile = likelihood.evaluate_dissipation(m, PARAMS, tiled, 2, rows=rows)
    assert profile.work.sum() == pytest.approx(-average.mean(), abs=0.2)


def test_samples_are_those_of_a_learned_last_step():
    draws = [model.sample(m, PARAMS, jax.random.key(0), 5) for m in (built(), built("learned"))]
    np.testing.assert_array_equal(*draws)


def test_gradients_are_finite_whatever_the_variance():
    x0, m = discretized.centre(DATA, FOUR), built()
    loss = training.make_loss(m, num_t=0)
    slope = jax.jit(jax.grad(lambda params: loss(params, jax.random.key(0), x0)[0]))
    for logit in (-25.0, -8.0, 0.0, 15.0):
        gradient = slope({"network": jnp.asarray([3.0, logit])})["network"]
        assert jnp.isfinite(gradient).all() and jnp.any(gradient != 0)


@pytest.mark.parametrize("proposal", ["paper", Proposal("paper", 4, every=1, threshold=1.0)])
def test_both_sides_have_the_probability_of_the_level_as_their_mean(chain, four, proposal):
    """Samples of the model are levels, as often as they are probable; 1/p̂ has the mean 1/p."""
    works = of_levels(lambda key, x: likelihood.forward_work(key, chain, x, proposal), 4000)
    mean_is(np.exp(-works), np.exp(four[0]))
    x0, works = jax.jit(jax.vmap(lambda k: likelihood.reverse_work(k, chain, proposal)))(keys(8000))
    level = np.rint((np.asarray(x0)[:, 0] - FOUR.low) / FOUR.width).astype(int)
    np.testing.assert_allclose(np.asarray(x0)[:, 0], LEVELS[level])
    mean_is(np.exp(works + four[0][level]), 1.0)
    mean_is(np.eye(4)[level], np.exp(four[0]))


def test_a_discretized_last_step_needs_a_gaussian_and_a_function_a_draw():
    message = "last_step: expected a function of binomial parameters and x.0, got one that fails"
    with pytest.raises(ValueError, match=message):
        last_step = discretized.last_step(FOUR)
        model.build(binomial.family(), LONG, Pull(), (2,), "x0", last_step=last_step)
    other = built(lambda params, x0: jnp.sum(x0))
    with pytest.raises(ValueError, match="last_step: expected one with `draw` for samples"):
        likelihood.sandwich(jax.random.key(0), other.chain(PARAMS), 4)


@pytest.mark.parametrize(
    "bins, message",
    [
        (Bins(0.0, -1.0, 1.0), "width above 0, got 0"),
        (Bins(-0.1, -1.0, 1.0), "width above 0, got -0.1"),
        (Bins(float("nan"), -1.0, 1.0), "width above 0, got nan"),
        (Bins(0.5, 1.0, -1.0), "high − low to be 1, 2, .. widths, got -4"),
        (Bins(0.5, 1.0, 1.0), "widths, got 0"),
        (Bins(0.3, -1.0, 1.0), "widths, got 6.66"),
    ],
)
def test_bad_bins(bins, message):
    with pytest.raises(ValueError, match=f"bins: expected .*{message}"):
        discretized.last_step(bins)


@pytest.mark.parametrize("levels, scale", [(1, 64.0), (256, 0.0), (256, -1.0), (256, np.inf)])
def test_bins_of_what_is_no_data(levels, scale):
    with pytest.raises(ValueError, match="bins: expected at least 2 levels and a scale above 0"):
        discretized.bins(levels, 100.0, scale)
