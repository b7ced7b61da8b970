"""One contract for both columns of Table App.1, in float64; then what float32 must still hold."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from cases import is_gaussian, mean_is
from dpm_jax.core import binomial, gaussian, schedule
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import LAST_STEPS, make_chain
from dpm_jax.core.gaussian import Normal
from dpm_jax.likelihood import bound

RATES = np.array([0.05, 0.35, 0.5, 0.9])
FAMILIES = {
    "gaussian": gaussian.family,
    "binomial": lambda: binomial.family(0.2),
    "binomial, a rate per element": lambda: binomial.family(RATES),
}
D = 4
T = 5


@pytest.fixture(params=FAMILIES)
def family(request, x64):
    """Each family in float64."""
    return FAMILIES[request.param]()


@pytest.fixture(params=FAMILIES)
def family32(request):
    """Each family in float32."""
    return FAMILIES[request.param]()


@pytest.fixture
def steps(x64):
    """A schedule that ends with β_T = 1, in float64."""
    return schedule.constant_fraction(T, 1e-2)


def states(family, key=0):
    """States of the event's shape (D,): all bit strings, or as many normal vectors."""
    if is_gaussian(family):
        return 1.5 * jax.random.normal(jax.random.key(key), (2**D, D))
    return jnp.asarray(list(itertools.product([0.0, 1.0], repeat=D)))


def some_params(family, seed):
    """Parameters of no particular meaning."""
    key_1, key_2 = jax.random.split(jax.random.key(seed))
    first = 1.5 * jax.random.normal(key_1, (D,))
    if is_gaussian(family):
        return Normal(first, jnp.exp(jax.random.normal(key_2, (D,))))
    return Bernoulli(first)


def moments(params):
    """Mean and variance of each element."""
    if isinstance(params, Normal):
        return params.mean, params.variance
    p = jax.nn.sigmoid(params.logits)
    return p, p * (1 - p)


def after_step(family, mean, variance, beta):
    """Mean and variance after one step of the chain, by the laws of total mean and variance.

    Mean and variance of q(x^t|x^{t-1}) are affine in x^{t-1} (for bits: anything is), so two values
    of x^{t-1} determine them.
    """
    mean_0, variance_0 = moments(family.step(jnp.zeros(D), beta))
    mean_1, variance_1 = moments(family.step(jnp.ones(D), beta))
    slope = mean_1 - mean_0
    within = variance_0 + (variance_1 - variance_0) * mean
    return mean_0 + slope * mean, within + slope**2 * variance


def close(actual, expected, rtol=1e-10, atol=1e-12):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


# --- the contract -----------------------------------------------------------------------------


def test_steps_compose_to_the_marginal(family, steps):
    for x0 in states(family)[::5]:
        mean, variance = x0, jnp.zeros(D)
        for t in range(1, T + 1):
            mean, variance = after_step(family, mean, variance, steps.beta[t])
            close((mean, variance), moments(family.marginal(x0, steps.log_alpha_bar[t])))


def test_prior_is_invariant_under_the_step(family):
    prior = moments(family.prior((D,)))
    for beta in (1e-5, 0.3, 1.0):
        close(after_step(family, *prior, jnp.asarray(beta)), prior)


def test_marginal_starts_at_the_data_and_ends_in_the_prior(family):
    x0 = states(family)[6]
    close(moments(family.marginal(x0, jnp.asarray(0.0))), (x0, jnp.zeros(D)))
    close(family.marginal(x0, jnp.asarray(-jnp.inf)), family.prior((D,)))
    close(moments(family.marginal(x0, jnp.asarray(-1e-13))), (x0, jnp.zeros(D)), atol=1e-12)


@pytest.mark.parametrize("t", [2, 3, T])
def test_bridge_is_bayes_rule(family, steps, t):
    beta, before = steps.beta[t], steps.log_alpha_bar[t - 1]

    def both_sides(x0, x_prev, xt):
        bridge = family.bridge(x0, xt, beta, before)
        marginal = family.marginal(x0, steps.log_alpha_bar[t])
        left = family.log_prob(bridge, x_prev) + family.log_prob(marginal, xt)
        forward = family.log_prob(family.step(x_prev, beta), xt)
        return left, family.log_prob(family.marginal(x0, before), x_prev) + forward

    close(*jax.vmap(both_sides)(states(family, 0), states(family, 1)[::-1], states(family, 2)))


def test_the_last_bridge_is_the_marginal_where_nothing_of_x0_is_left(family, steps):
    x0, xt = states(family)[3], states(family, 1)[9]
    before = steps.log_alpha_bar[T - 1]
    close(family.bridge(x0, xt, steps.beta[T], before), family.marginal(x0, before))


def test_the_first_bridge_is_x0(family, steps):
    x0, xt = states(family)[3], states(family, 1)[9]
    bridge = family.bridge(x0, xt, steps.beta[1], steps.log_alpha_bar[0])
    close(moments(bridge), (x0, jnp.zeros(D)))


def test_samples_have_the_moments_of_their_parameters(family):
    params = some_params(family, 3)
    draw = jax.vmap(lambda key: family.sample(key, params))
    x = draw(jax.random.split(jax.random.key(0), 10_000))
    mean, variance = moments(params)
    mean_is(x, mean)
    mean_is((np.asarray(x) - np.asarray(mean)) ** 2, variance)
    close(x[0], family.sample(jax.random.split(jax.random.key(0), 10_000)[0], params))


def test_log_prob_is_normalised(family):
    params = some_params(family, 4)
    if isinstance(params, Bernoulli):
        total = jnp.sum(jnp.exp(on_states(family, params)))
    else:
        # The density is a product over axes, so its integral is the product of theirs.
        grid = jnp.linspace(-40.0, 40.0, 8001)
        total = jnp.ones(())
        for i in range(D):
            one = Normal(params.mean[i : i + 1], params.variance[i : i + 1])
            density = jnp.exp(jax.vmap(lambda x, p=one: family.log_prob(p, x[None]))(grid))
            total = total * jnp.sum(density) * (grid[1] - grid[0])
    close(total, 1.0)


def test_entropy_and_kl_against_monte_carlo(family):
    q, p = some_params(family, 5), some_params(family, 6)
    x = jax.vmap(lambda key: family.sample(key, q))(jax.random.split(jax.random.key(1), 10_000))
    log_q = jax.vmap(lambda x: family.log_prob(q, x))(x)
    log_p = jax.vmap(lambda x: family.log_prob(p, x))(x)
    mean_is(-log_q, family.entropy(q))
    mean_is(log_q - log_p, family.kl(q, p))


def test_kl_of_a_law_to_itself_is_zero(family):
    for seed in range(5):
        params = some_params(family, seed)
        assert float(family.kl(params, params)) == 0.0


def test_perturbing_with_r_1_is_the_identity(family):
    params = some_params(family, 7)
    close(family.perturb(params, lambda x: 0.0 * x), params, rtol=0, atol=0)


def test_perturbing_with_a_log_linear_r_is_exact(family):
    params = some_params(family, 8)
    slope = jnp.asarray([1.0, -2.0, 0.5, 0.1])
    tilted = family.perturb(params, lambda x: slope * x)

    def log_normaliser(x):
        return family.log_prob(params, x) + slope @ x - family.log_prob(tilted, x)

    constants = jax.vmap(log_normaliser)(states(family))
    close(constants, jnp.full(2**D, constants[0]))


def on_states(family, params, key=0):
    """log_prob of all the states, (2^D,)."""
    return jax.jit(jax.vmap(lambda x: family.log_prob(params, x)))(states(family, key))


def same_up_to_a_constant(actual, expected):
    difference = np.asarray(actual - expected)
    close(difference, np.full_like(difference, difference[0]), atol=1e-9)


def integral(family, log_f):
    """Σ or ∫ of exp(log_f(x)) over the values x (n, D) of each element: (D,)."""
    if not is_gaussian(family):
        return jnp.sum(jnp.exp(log_f(jnp.asarray([[0.0] * D, [1.0] * D]))), axis=0)
    grid = jnp.linspace(-30.0, 30.0, 6001)
    return jnp.sum(jnp.exp(log_f(jnp.tile(grid[:, None], D))), axis=0) * (grid[1] - grid[0])


def each(family, params):
    """log_prob element by element: x (n, D) -> (n, D)."""
    one = jax.vmap(lambda p, x: family.log_prob(p, x))
    return lambda x: jax.vmap(lambda row: one(params, row))(x)


def test_multiply_is_the_normalised_product(family):
    """log p + log r = log p~ + log Z~ at every state, with p~ normalised (eq. 22)."""
    p, r = some_params(family, 10), some_params(family, 11)
    product, log_z = family.multiply(p, r)
    left = on_states(family, p) + on_states(family, r)
    close(on_states(family, product) + jnp.sum(log_z), left)
    total = integral(family, lambda x: each(family, p)(x) + each(family, r)(x))
    close(log_z, jnp.log(total), rtol=1e-8)


def test_multiply_by_a_delta_is_the_delta(family):
    """Bit by bit, whatever p is, another delta there included; log Z~ is log p of its place."""
    y, p = states(family)[5], some_params(family, 12)
    delta = family.observe(y, 0.0)
    product, log_z = family.multiply(p, delta)
    close(product, delta, rtol=0, atol=0)
    close(log_z, each(family, p)(y[None])[0])
    for other in (y, 1 - y):  # a delta there, and one elsewhere
        close(family.multiply(family.observe(other, 0.0), delta)[0], delta, rtol=0, atol=0)
    r = family.observe(y, 0.2)
    close(moments(family.multiply(delta, r)[0]), (y, jnp.zeros(D)), rtol=0, atol=0)
    np.testing.assert_array_equal(family.sample(jax.random.key(0), product), y)


def test_a_delta_in_float32_is_exact(family32):
    """At any scale of y and of the kernel: known values come back to the bit."""
    y = states(family32)[5]
    y = y * (1000 / 3) if is_gaussian(family32) else y
    delta = family32.observe(y, 0.0)
    for p in (family32.prior((D,)), family32.marginal(states(family32)[3], jnp.asarray(-1e-10))):
        product, log_z = family32.multiply(p, delta)
        np.testing.assert_array_equal(family32.sample(jax.random.key(0), product), y)
        assert jnp.isfinite(log_z).all()


def test_power_is_a_power_of_r(family):
    r = some_params(family, 13)
    for s in (1.0, 0.4, 1e-6):
        powered = family.power(r, jnp.asarray(s))
        same_up_to_a_constant(on_states(family, powered), s * on_states(family, r))
    delta = family.observe(states(family)[5], 0.0)
    close(family.power(delta, jnp.asarray(0.3)), delta, rtol=0, atol=0)


def test_noised_is_the_expectation_of_r_given_xt(family, steps):
    """E[r(x^0) | x^t] for x^0 ~ π, from the joint law π(x^0) q(x^t | x^0) itself."""
    r = family.observe(states(family)[5], jnp.asarray([0.1, 0.2, 0.3, 0.45]))

    def expected(xt, log_alpha_bar):
        def log_joint(x0):
            def forward(x):
                return each(family, family.marginal(x, log_alpha_bar))(xt[None])[0]

            return each(family, family.prior((D,)))(x0) + jax.vmap(forward)(x0)

        joint = integral(family, lambda x0: log_joint(x0) + each(family, r)(x0))
        return jnp.sum(jnp.log(joint) - jnp.log(integral(family, log_joint)))

    truth = jax.jit(jax.vmap(expected, (0, None)))
    for t in (1, 2, T - 1):
        ours = on_states(family, family.noised(r, steps.log_alpha_bar[t]))
        same_up_to_a_constant(ours, truth(states(family), steps.log_alpha_bar[t]))


def test_noised_begins_at_r_and_ends_constant(family):
    for noise in (0.0, 0.2):
        r = family.observe(states(family)[5], noise)
        close(family.noised(r, jnp.asarray(0.0)), r)
        end = on_states(family, family.noised(r, jnp.asarray(-jnp.inf)))
        assert jnp.isfinite(end).all()
        # The Gaussian ends at ᾱ = e^-27, where √ᾱ is 1.4e-6.
        close(end, jnp.full_like(end, end[0]), atol=3e-5 if is_gaussian(family) else 1e-12)


def test_observe_is_the_likelihood_of_x(family):
    y, noise = states(family)[5], jnp.asarray([0.1, 0.2, 0.3, 0.45])
    r = family.observe(y, noise)
    if is_gaussian(family):
        truth = jax.vmap(lambda x: family.log_prob(Normal(x, noise), y))(states(family))
    else:
        flipped = states(family) != y[None]
        truth = jnp.sum(jnp.log(jnp.where(flipped, noise[None], 1 - noise[None])), axis=1)
    close(on_states(family, r), truth)
    close(jax.jit(family.observe)(y, noise), r)


# --- what the two columns do not share ---------------------------------------------------------


def test_gaussian_perturbation_is_eq_61(x64):
    params = some_params(gaussian.family(), 9)
    tilted = gaussian.perturb(params, lambda x: -0.5 * jnp.sum((x - 1) ** 2))  # a scalar log r
    close(tilted, Normal(params.mean + params.variance * (1 - params.mean), params.variance))


def test_binomial_perturbation_is_the_table(x64):
    params = some_params(binomial.family(), 9)
    r0, r1 = jnp.asarray([1.0, 0.2, 3.0, 0.0]), jnp.asarray([0.5, 0.2, 0.0, 1.0])

    def log_r(x):
        return jnp.log(jnp.where(x > 0.5, r1, r0))

    c, d = jax.nn.sigmoid(params.logits), r1 / (r0 + r1)
    expected = c * d / (c * d + (1 - c) * (1 - d))
    close(jax.nn.sigmoid(binomial.perturb(params, log_r).logits), expected)


def test_binomial_perturbation_refuses_a_scalar_log_r():
    with pytest.raises(ValueError, match=r"log_r: expected shape \(2,\) \(per bit\), got \(\)"):
        binomial.perturb(Bernoulli(jnp.zeros(2)), jnp.sum)


def test_gaussian_samples_are_differentiable_with_the_noise_held_constant(x64):
    key = jax.random.key(2)
    noise = jax.random.normal(key, (D,))

    def sample(m, v):
        return jnp.sum(gaussian.sample(key, Normal(m, v)))

    mean, variance = jnp.zeros(D), jnp.full(D, 0.25)
    close(jax.grad(sample, (0, 1))(mean, variance), (jnp.ones(D), noise))  # 1/(2 √0.25) = 1


def test_gaussian_perturbation_is_multiplication_where_the_variance_is_small(x64):
    """To first order in Σ: what is left, in the mean and in Σ, falls as Σ²."""
    r, center = Normal(jnp.asarray([0.5, -1.0]), jnp.asarray([0.7, 2.0])), jnp.asarray([2.0, 0.3])

    def left(h):
        p = Normal(center, jnp.full(2, h))
        first, exact = (
            gaussian.perturb(p, lambda x: gaussian.log_prob(r, x)),
            gaussian.multiply(p, r)[0],
        )
        return jnp.stack([first.mean - exact.mean, first.variance - exact.variance])

    close(left(1e-3) / left(5e-4), jnp.full((2, 2), 4.0), rtol=2e-3)


def test_gaussian_curvature_is_the_spectral_norm(x64):
    """Σ/σ² of a Gaussian r, |eigenvalues| of Σ^½ H Σ^½ of any quadratic, 0 of a linear log r."""
    p = some_params(gaussian.family(), 14)
    sigma2 = jnp.asarray([0.3, 5.0, 1.0, 0.8])
    r = Normal(jnp.zeros(D), sigma2)
    close(
        gaussian.curvature(p, lambda x: gaussian.log_prob(r, x)), jnp.max(p.variance / sigma2), 1e-6
    )

    def per_element(x):
        return -0.5 * x**2 / sigma2

    close(gaussian.curvature(p, per_element), jnp.max(p.variance / sigma2), 1e-6)
    a = np.random.default_rng(0).normal(size=(D, D))
    for H in (-a @ a.T, a + a.T):
        root = np.sqrt(np.asarray(p.variance))
        norm = np.abs(np.linalg.eigvalsh(root[:, None] * H * root)).max()

        def quadratic(x, H=H):
            return 0.5 * x @ H @ x

        close(gaussian.curvature(p, quadratic), norm, 1e-3)
    assert float(gaussian.curvature(p, lambda x: 3.0 * x)) == 0.0
    close(gaussian.curvature(Normal(p.mean, jnp.zeros(D)), per_element), 0.0)


def test_binomial_curvature_is_0():
    assert float(binomial.curvature(Bernoulli(jnp.zeros(2)), lambda x: 9 * x)) == 0.0


@pytest.mark.parametrize(
    "family, y, noise, message",
    [
        ("gaussian", [0.0, np.nan], 1.0, "y: expected finite values, got NaN or infinite ones"),
        ("gaussian", [np.inf], 1.0, "y: expected finite values"),
        ("gaussian", [0.0], -0.1, r"noise: expected a variance in \[0, inf\), got -0.1"),
        ("gaussian", [0.0], np.inf, r"noise: expected a variance in \[0, inf\), got inf"),
        ("gaussian", [0.0, 1.0], [1.0, np.nan], "noise: expected a variance"),
        ("binomial", [0.0, 0.5], 0.1, "y: expected only 0 and 1"),
        ("binomial", [np.nan], 0.1, "y: expected only 0 and 1"),
        ("binomial", [1.0], 1.0, r"noise: expected a flip probability in \[0, 1\), got 1.0"),
        ("binomial", [1.0], -0.1, "noise: expected a flip probability"),
        ("binomial", [1.0], np.nan, "noise: expected a flip probability"),
    ],
)
def test_observe_names_what_is_wrong(family, y, noise, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family]().observe(np.array(y), noise)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan, [0.5, 1.5]])
def test_binomial_refuses_rates_outside_the_unit_interval(rate):
    with pytest.raises(ValueError, match=r"rate: expected values inside \(0, 1\), got"):
        binomial.family(rate)


def test_certain_bits():
    """0 · log 0 = 0; what q forbids costs p nothing, what only p forbids costs p everything."""
    inf = jnp.inf
    sure = Bernoulli(jnp.asarray([inf, -inf]))
    assert float(binomial.entropy(sure)) == 0.0
    assert float(binomial.kl(sure, sure)) == 0.0
    assert float(binomial.log_prob(sure, jnp.asarray([1.0, 0.0]))) == 0.0
    assert float(binomial.log_prob(sure, jnp.asarray([1.0, 1.0]))) == -inf
    np.testing.assert_array_equal(binomial.sample(jax.random.key(0), sure), [1.0, 0.0])
    half = Bernoulli(jnp.zeros(2))
    close(binomial.kl(sure, half), 2 * np.log(2), rtol=1e-6)
    for q in (-1.0, 0.0, 1.0, -200.0, 200.0, inf, -inf):
        for p in (inf, -inf):
            kl = float(binomial.kl(Bernoulli(jnp.asarray([q])), Bernoulli(jnp.asarray([p]))))
            assert kl == (0.0 if q == p else inf), f"KL of logits {q} to {p} is {kl}"


def test_gradients_at_certain_bits_are_finite():
    inf = jnp.inf
    logits = jnp.asarray([inf, -inf, 0.0, 3.0])
    assert jnp.isfinite(jax.grad(lambda z: binomial.entropy(Bernoulli(z)))(logits)).all()

    def kl(p):
        return binomial.kl(Bernoulli(logits), Bernoulli(p))

    assert jnp.isfinite(jax.grad(kl)(jnp.asarray([1.0, 2.0, -3.0, 40.0]))).all()
    assert jnp.isfinite(jax.grad(kl)(jnp.asarray([inf, -inf, 0.0, 3.0]))).all()


# --- closed forms and ranges -------------------------------------------------------------------

LOGIT = st.floats(-30, 30, width=32)
MEAN = st.floats(-10, 10, width=32)
LOG_VARIANCE = st.floats(-12, 3)


def bernoulli_kl(q, p):
    """KL in float64 from logits, the textbook sum."""
    log_1, log_0 = -np.logaddexp(0, -q), -np.logaddexp(0, q)
    ratio_1, ratio_0 = log_1 + np.logaddexp(0, -p), log_0 + np.logaddexp(0, p)
    return np.exp(log_1) * ratio_1 + np.exp(log_0) * ratio_0


@given(LOGIT, LOGIT)
def test_binomial_kl_and_entropy_in_float32(q, p):
    def one(value):
        return Bernoulli(jnp.full((1,), value, jnp.float32))

    kl = float(binomial.kl(one(q), one(p)))
    assert kl >= -1e-9
    assert kl == pytest.approx(bernoulli_kl(np.float64(q), np.float64(p)), rel=1e-4, abs=1e-7)
    log_1, log_0 = -np.logaddexp(0, -q), -np.logaddexp(0, q)
    entropy = -np.exp(log_1) * log_1 - np.exp(log_0) * log_0
    assert float(binomial.entropy(one(q))) == pytest.approx(entropy, rel=1e-5)


@given(MEAN, LOG_VARIANCE, MEAN, LOG_VARIANCE)
def test_gaussian_kl_and_entropy_in_float32(m_q, l_q, m_p, l_p):
    q = [np.float32(m_q), np.float32(np.exp(l_q))]
    p = [np.float32(m_p), np.float32(np.exp(l_p))]
    kl = float(gaussian.kl(*[Normal(jnp.full((1,), m), jnp.full((1,), v)) for m, v in (q, p)]))
    (m_q, v_q), (m_p, v_p) = np.float64(q), np.float64(p)
    expected = 0.5 * ((m_q - m_p) ** 2 / v_p + v_q / v_p - 1 - np.log(v_q / v_p))
    assert kl >= -1e-9
    assert kl == pytest.approx(expected, rel=1e-4, abs=1e-6)
    entropy = float(gaussian.entropy(Normal(jnp.zeros(1), jnp.full((1,), q[1]))))
    assert entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e * v_q), rel=1e-5, abs=1e-6)


def test_a_binomial_kl_of_1e_6_nats_in_float32():
    q = np.linspace(-9, 9, 181).astype(np.float32)
    slope = np.sqrt(1e-6 * 2 * (1 + np.exp(q)) * (1 + np.exp(-q)))  # KL ≈ σ(q)σ(−q)d²/2
    for sign in (-1, 1):
        p = (q + sign * slope).astype(np.float32)
        one = jax.vmap(lambda q, p: binomial.kl(Bernoulli(q[None]), Bernoulli(p[None])))
        expected = bernoulli_kl(q.astype(np.float64), p.astype(np.float64))
        assert expected.min() > 2e-7 and expected.max() < 5e-6
        np.testing.assert_allclose(one(jnp.asarray(q), jnp.asarray(p)), expected, rtol=1e-3)


# --- float32 along a whole chain ---------------------------------------------------------------


def same_noise(family):
    """The family with samples from float32 noise in either precision, to compare the two."""

    def sample(key, params):
        if isinstance(params, Normal):
            noise = jax.random.normal(key, params.mean.shape, jnp.float32)
            return params.mean + jnp.sqrt(params.variance) * noise.astype(params.mean.dtype)
        noise = jax.random.logistic(key, params.logits.shape, jnp.float32)
        dtype = params.logits.dtype
        return (noise.astype(dtype) < params.logits).astype(dtype)

    return family._replace(sample=sample)


def guess_x0(family, steps):
    """A chain through the bridge from a guess at x^0 that is good at low noise."""

    def reverse(xt, t):
        beta, before = steps.beta[t], steps.log_alpha_bar[t - 1]
        if is_gaussian(family):
            guess = jnp.exp(0.5 * steps.log_alpha_bar[t]) * xt  # Wiener's, for unit variance
            return family.bridge(guess, xt, beta, before)
        return Bernoulli(0.99 * family.bridge(xt, xt, beta, before).logits)

    return make_chain(family, steps, reverse, (D,))


@pytest.mark.parametrize("make", [schedule.geometric, schedule.constant_fraction])
@pytest.mark.parametrize("name", FAMILIES)
def test_K_in_float32_is_that_of_float64(name, make):
    def K():
        chain = guess_x0(same_noise(FAMILIES[name]()), make(1000, 1e-5))
        x0 = jnp.asarray([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
        keys = jax.random.split(jax.random.key(0), 2)

        def one(key, x):
            return bound.exact(key, chain, x).K

        return np.asarray(jax.jit(jax.vmap(one))(keys, x0))

    single = K()
    with jax.enable_x64(True):
        double = K()
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-4)


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_values_and_gradients_are_finite_with_beta_T_1(family32, last_step):
    steps = schedule.constant_fraction(T, 1e-5)
    assert steps.log_alpha_bar[-1] == -jnp.inf and steps.beta[-1] == 1

    def K(theta, x0):
        def reverse(xt, t):
            forward = family32.step(xt, steps.beta[t])
            if isinstance(forward, Normal):
                return Normal(forward.mean * theta, forward.variance * theta)
            return Bernoulli(forward.logits * theta + 0.1)

        chain = make_chain(family32, steps, reverse, (D,), last_step)
        terms = bound.exact_terms(jax.random.key(0), chain, x0)
        return jnp.sum(terms), terms

    x0 = states(family32)[5]
    (gradient, gradient_x0), terms = jax.grad(K, (0, 1), has_aux=True)(jnp.asarray(0.9), x0)
    assert jnp.isfinite(terms).all()
    assert jnp.isfinite(gradient) and jnp.isfinite(gradient_x0).all()


# --- validate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family, data, message",
    [
        ("gaussian", np.zeros(5), r"data: expected shape \(n, \*event\) with n >= 1, got \(5,\)"),
        ("gaussian", np.zeros((0, 5)), r"data: expected shape .*, got \(0, 5\)"),
        ("gaussian", [[1.0, np.nan], [np.inf, 0.0]], "data: expected finite .*, got 2 NaN .* of 4"),
        ("binomial", np.zeros(5), r"data: expected shape \(n, \*event\) with n >= 1, got \(5,\)"),
        ("binomial", [[0, 1], [0.5, 2]], r"data: expected only 0 and 1, got 0.5 \(2 values\)"),
        ("binomial", [[0, np.nan]], r"data: expected only 0 and 1, got nan \(1 values\)"),
    ],
)
def test_validate_names_what_is_wrong(family, data, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family]().validate(data)


def test_training_data_of_a_gaussian_differ():
    with pytest.raises(ValueError, match="data: expected values that differ, got variance 0"):
        gaussian.family().trainable(np.full((3, 2), 7.0))
    gaussian.validate(np.full((3, 2), 7.0))  # a K of them can be known


def test_validate_accepts_data_of_the_support(family32):
    assert family32.validate(np.asarray(states(family32))) is None
    assert binomial.validate(np.array([[True, False]])) is None
