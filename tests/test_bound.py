"""K against closed forms: Gaussian data, data ~ π, three bits enumerated; its estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    BOTH,
    C_CORRELATED,
    C_DIAGONAL,
    LAW,
    RATE,
    STATES,
    T,
    averaged,
    bent,
    bits_given,
    enumerated,
    error_of,
    gaussian_reverse,
    keys,
    log_density,
    mean_is,
    negative_entropy,
    normal_data,
    of_states,
)
from dpm_jax import binomial, bound, gaussian, likelihood, schedule
from dpm_jax.gaussian import Normal

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=BOTH)
def setting(request, x64):
    """A family, a schedule with β_T = 1, and one example."""
    make, x0 = BOTH[request.param]
    return make(), schedule.constant_fraction(T, 0.05), jnp.asarray(x0)


# --- Gaussian data N(0, C): everything is known -------------------------------------------------


@pytest.mark.parametrize("C", [C_DIAGONAL, C_CORRELATED], ids=["diagonal", "correlated"])
@pytest.mark.parametrize("last_step", bound.LAST_STEPS)
def test_K_of_gaussian_data_is_its_closed_form(C, last_step):
    family, steps = gaussian.family(), schedule.constant_fraction(T, 0.1)
    reverse, lost = gaussian_reverse(C, steps)
    x0 = normal_data(C, 4000)
    one = lambda key, x: bound.exact(key, family, steps, reverse, x, last_step).K  # noqa: E731
    K = jax.jit(jax.vmap(one))(keys(4000), x0)
    if last_step == "learned":
        expected = negative_entropy(C) - lost[1:].sum()
    else:  # −h(X_1), and what the edge costs data that are not of unit variance
        beta = float(steps.beta[1])
        first = (1 - beta) * C + beta * np.eye(3)
        edge = beta * (3 - np.trace(C)) / 2
        expected = negative_entropy(first) - lost[2:].sum() + edge
    mean_is(K, expected)
    assert error_of(np.asarray(K)) < 0.04


def test_K_of_one_gaussian_example_is_its_log_density_and_eq_12_has_no_variance():
    family, steps = gaussian.family(), schedule.constant_fraction(T, 0.1)
    reverse, _ = gaussian_reverse(C_DIAGONAL, steps)
    for x0 in ([0.1, -2.0, 1.0], [1.5, 0.3, -4.0]):
        x0 = jnp.asarray(x0)
        expected = log_density(C_DIAGONAL, np.asarray(x0))
        one = lambda key, x0=x0: bound.exact(key, family, steps, reverse, x0, "learned").K  # noqa: E731
        mean_is(averaged(one, 4000), expected)
        work = -averaged(likelihood.work, 20, family, steps, reverse, x0)
        np.testing.assert_allclose(work, expected, rtol=1e-9)


# --- data ~ π -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last_step", bound.LAST_STEPS)
def test_K_of_every_example_is_log_prior_where_the_chain_is_stationary(setting, last_step):
    """T_π is reversible: its own kernel is the exact reverse of a chain in equilibrium."""
    family, _, x0 = setting
    steps = schedule.linear(T, 0.1, 0.5)  # ᾱ_T > 0: holds all the same
    reverse = lambda xt, t: family.step(xt, steps.beta[t])  # noqa: E731
    one = lambda key: bound.exact(key, family, steps, reverse, x0, last_step)  # noqa: E731
    K, L_null = jax.jit(jax.vmap(one))(keys(4000))
    mean_is(K, L_null[0])
    work = -averaged(likelihood.work, 20, family, steps, reverse, x0)
    np.testing.assert_allclose(work, L_null[:20], rtol=1e-9)


def test_K_of_data_from_the_prior_is_minus_its_entropy(setting):
    family, steps, x0 = setting
    prior = family.prior(x0.shape)
    data = jax.vmap(lambda key: family.sample(key, prior))(keys(4000, 5))
    reverse = lambda xt, t: family.step(xt, steps.beta[t])  # noqa: E731
    one = lambda key, x: bound.exact(key, family, steps, reverse, x)  # noqa: E731
    K, L_null = jax.jit(jax.vmap(one))(keys(4000), data)
    mean_is(K, -family.entropy(prior))
    mean_is(K - L_null, 0.0)


# --- three bits, enumerated ---------------------------------------------------------------------


@pytest.mark.parametrize("T", [2, 3])
def test_three_bits_against_enumeration(T):
    family, steps = binomial.family(RATE), schedule.constant_fraction(T, 0.3)
    log_p, K, logits = enumerated(steps)
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert (log_p - K > 1e-4).all()  # the kernels factorise and the law does not: a strict bound
    reverse = of_states(logits)

    one = lambda key, x: bound.exact(key, family, steps, reverse, x, "learned").K  # noqa: E731
    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0), out_axes=1)
    values = jax.jit(each)(keys(4000), jnp.asarray(STATES))
    mean_is(values, K)
    # Eq. 9: the exponential of the same trajectories is unbiased for p(x^0) itself.
    one = lambda key, x: -likelihood.work(key, family, steps, reverse, x)  # noqa: E731
    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0), out_axes=1)
    work = jax.jit(each)(keys(4000, 1), jnp.asarray(STATES))
    mean_is(work, K)
    mean_is(np.exp(work), np.exp(log_p))


# --- the forms of K agree -----------------------------------------------------------------------


@pytest.mark.parametrize("last_step", bound.LAST_STEPS)
def test_exact_is_the_mean_of_eq_12(setting, last_step):
    family, steps, x0 = setting
    reverse = bent(family, steps)
    if last_step == "fixed":
        reverse = bound.fix_last_step(family, steps, reverse)
    one = lambda key: bound.exact(key, family, steps, reverse, x0, last_step).K  # noqa: E731
    K = averaged(one, 3000)
    work = -averaged(likelihood.work, 3000, family, steps, reverse, x0)
    mean_is(work, K.mean(), expected_error=error_of(K))


@pytest.mark.parametrize("last_step", bound.LAST_STEPS)
def test_terms_sum_to_exact_and_every_step_after_the_first_costs(setting, last_step):
    family, steps, x0 = setting
    args = (jax.random.key(3), family, steps, bent(family, steps), x0, last_step)
    terms = bound.exact_terms(*args)
    assert terms.shape == (T + 1,)
    np.testing.assert_allclose(terms.sum(), bound.exact(*args).K, rtol=1e-12)
    assert (np.asarray(terms)[2:] < 0).all() and terms[0] <= 0


@pytest.mark.parametrize(
    "family, rows",
    [
        (gaussian.family, [[1.5, 0.0, 0.5], [-0.5, 1.0, -1.5]]),  # mean |x|² = 3
        (lambda: binomial.family(0.25), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0.0]]),
    ],
    ids=["gaussian", "binomial"],
)
def test_K_is_eq_14_as_printed_on_data_as_it_assumes(family, rows):
    """Both sides share their noise and the rest is analytic: equal to rounding, ᾱ_T > 0 or not."""
    family, x0 = family(), jnp.asarray(rows)
    for steps in (schedule.constant_fraction(T, 0.1), schedule.linear(T, 0.1, 0.4)):
        reverse = bent(family, steps)

        def both(key, x, steps=steps, reverse=reverse):
            K = bound.exact(key, family, steps, reverse, x).K
            terms = bound.exact_terms(key, family, steps, reverse, x)
            entropy = [family.entropy(family.marginal(x, steps.log_alpha_bar[t])) for t in (T, 1)]
            H_p = family.entropy(family.prior(x.shape))
            return K, terms[2:].sum() + entropy[0] - entropy[1] - H_p

        K, printed = jax.jit(jax.vmap(both))(keys(len(rows)), x0)
        np.testing.assert_allclose(K.mean(), printed.mean(), rtol=1e-10)
        if family.name == "gaussian":  # what eq. 14 drops for one example: edge and prior
            scale = float(steps.beta[1] + steps.alpha_bar[-1])
            dropped = scale * (3 - (np.asarray(rows) ** 2).sum(axis=1)) / 2
            np.testing.assert_allclose(K - printed, dropped, rtol=1e-8)


def test_gradient_of_the_schedule_with_frozen_noise_is_the_finite_difference():
    family, x0 = gaussian.family(), jnp.asarray([0.7, -1.9, 0.2])
    logits = schedule.to_logits(schedule.constant_fraction(6, 0.05))

    @jax.jit
    def K(logits):
        steps = schedule.learned(0.05, logits)

        def reverse(xt, t):
            sigma = jax.nn.sigmoid(0.3 + jnp.log(steps.beta[t]) - jnp.log1p(-steps.beta[t]))
            return Normal((1 - sigma) * xt + sigma * jnp.tanh(xt), sigma * jnp.ones(3))

        return bound.exact(jax.random.key(9), family, steps, reverse, x0).K

    gradient, h = jax.grad(K)(logits), 1e-5
    for i in range(5):
        shift = h * jnp.eye(5)[i]
        difference = (K(logits + shift) - K(logits - shift)) / (2 * h)
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-6)


def test_gradient_of_the_schedule_is_finite_however_far_it_has_been_learned():
    """In float32 σ(17) is 1, where the derivative of √(1−β) is infinite."""
    with jax.enable_x64(False):
        family = gaussian.family()

        def K(logits):
            steps = schedule.learned(1e-3, logits)
            return bound.exact(jax.random.key(0), family, steps, bent(family, steps), jnp.ones(2)).K

        compiled = jax.jit(jax.value_and_grad(K))
        for logit in (-30.0, 16.0, 20.0, 40.0):
            for place in range(3):
                logits = np.zeros(3, np.float32)
                logits[place] = logit
                value, gradient = compiled(jnp.asarray(logits))
                assert np.isfinite(value) and np.isfinite(gradient).all(), (logits, gradient)


def test_exact_is_one_loop_whatever_T_and_traces_once(setting):
    family, _, x0 = setting
    sizes, traces = [], []

    def K(key, steps, x):
        def reverse(xt, t):
            traces.append(t)
            return family.step(xt, steps.beta[t])

        return bound.exact(key, family, steps, reverse, x).K

    compiled = jax.jit(K)
    for beta_1 in (0.1, 0.2, 0.3):
        compiled(jax.random.key(0), schedule.cosine(5, beta_1), x0)
    assert len(traces) == 1
    for steps in (schedule.cosine(5), schedule.cosine(50)):
        jaxpr = str(jax.make_jaxpr(K)(jax.random.key(0), steps, x0))
        assert jaxpr.count("scan[") == 1 and "while[" not in jaxpr.split("scan[")[0]
        sizes.append(len(jaxpr.splitlines()))
    assert sizes[0] == sizes[1]


# --- the noise floor -----------------------------------------------------------------------------


@pytest.mark.parametrize("C", [C_DIAGONAL, C_CORRELATED], ids=["diagonal", "correlated"])
def test_K_of_noised_gaussian_data_is_its_closed_form_at_every_noise(C):
    """K(t0) = −h(X^{t0}) − what the kernels lose after t0; K' falls as noise is added."""
    family, steps, t0 = gaussian.family(), schedule.constant_fraction(6, 0.05), range(1, 7)
    reverse, lost = gaussian_reverse(C, steps)
    one = lambda key, x: bound.noise_floor(key, family, steps, reverse, x, t0)  # noqa: E731
    K, L_null = jax.jit(jax.vmap(one))(keys(4000), normal_data(C, 4000))
    S = [a * C + (1 - a) * np.eye(3) for a in np.asarray(steps.alpha_bar)[1:]]
    after = np.append(np.cumsum(lost[:1:-1])[::-1], 0)
    expected = np.array([negative_entropy(s) for s in S]) - after
    mean_is(K, expected)
    mean_is(L_null, [-0.5 * (3 * np.log(2 * np.pi) + np.trace(s)) for s in S])
    assert (error_of(np.asarray(K)) < 0.05).all()
    assert (np.diff(np.mean(K - L_null, axis=0)) < 0).all()
    np.testing.assert_allclose(np.mean(K - L_null, axis=0)[-1], 0, atol=1e-12)


def test_noise_floor_at_t_1_is_K_of_the_fixed_last_step(setting):
    """K − L_null of the same key agrees for one example; K differs by log π(x^0) − E log π(x^1)."""
    family, steps, x0 = setting
    args = (jax.random.key(3), family, steps, bent(family, steps), x0)
    exact, floor = bound.exact(*args), bound.noise_floor(*args, [1])
    np.testing.assert_allclose(exact.K - exact.L_null, (floor.K - floor.L_null)[0], rtol=1e-12)
    if family.name == "gaussian":
        edge = steps.beta[1] * (3 - jnp.sum(x0**2)) / 2
    else:
        log_odds = family.prior(x0.shape).logits  # log π is linear in the bits
        edge = jnp.sum(log_odds * steps.beta[1] * (x0 - jax.nn.sigmoid(log_odds)))
    np.testing.assert_allclose(exact.K - floor.K[0], edge, rtol=1e-9)
    few = bound.noise_floor(*args, [3, 1, 3])
    np.testing.assert_allclose(few.K[1], floor.K[0], rtol=1e-12)
    assert few.K[0] == few.K[2]


def test_noise_floor_of_three_bits_against_enumeration():
    family, steps, t0 = binomial.family(RATE), schedule.constant_fraction(3, 0.3), [1, 2, 3]
    reverse = of_states(enumerated(steps)[2])
    beta, alpha_bar = np.asarray(steps.beta), np.asarray(steps.alpha_bar)
    law = [LAW @ bits_given(STATES * a + (1 - a) * RATE) for a in alpha_bar]
    K = -(law[3] * np.log(law[3] / bits_given(RATE))).sum()
    expected, entropies = [], [-(p * np.log(p)).sum() for p in law]
    for t in (3, 2, 1):  # a kernel loses what the bits of x^{t-1} know of each other, given x^t
        expected.insert(0, K - entropies[t])
        pair = law[t - 1][:, None] * bits_given(STATES * (1 - beta[t]) + beta[t] * RATE)
        kernel = bits_given((pair.T @ STATES) / pair.sum(axis=0)[:, None]).T
        K -= (pair * np.log(pair / pair.sum(axis=0) / kernel)).sum()
    assert (np.array(expected)[:2] < -np.array(entropies)[1:3] - 1e-3).all()
    one = lambda key, x: bound.noise_floor(key, family, steps, reverse, x, t0).K  # noqa: E731
    found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(keys(3000), jnp.asarray(STATES))
    mean_is(np.einsum("nxt,x->nt", found, LAW), expected)


@pytest.mark.parametrize("num_t", [1, 3])
def test_noise_floor_from_random_t_is_unbiased(setting, num_t):
    family, steps, x0 = setting
    args, t0 = (family, steps, bent(family, steps), x0), (1, 2, 4)
    exact = averaged(lambda key: bound.noise_floor(key, *args, t0).K, 3000)
    few = averaged(lambda key: bound.noise_floor(key, *args, t0, num_t).K, 3000)
    mean_is(few, exact.mean(axis=0), expected_error=error_of(exact))
    np.testing.assert_allclose(few[:, 2], few[0, 2], rtol=1e-9)  # nothing is left to draw at T


@pytest.mark.parametrize(
    "t0, num_t, message",
    [
        ([0, 1], None, r"t0: expected a list of values in 1\.\.4, got \[0, 1\]"),
        ([5], None, r"t0: expected a list of values in 1\.\.4, got \[5\]"),
        ([], None, r"t0: expected a list"),
        (2, None, r"t0: expected a list .*, got 2"),
        ([2], 0, "num_t: expected at least 1, got 0"),
    ],
)
def test_noise_floors_that_do_not_exist(setting, t0, num_t, message):
    family, steps, x0 = setting
    with pytest.raises(ValueError, match=message):
        bound.noise_floor(jax.random.key(0), family, steps, bent(family, steps), x0, t0, num_t)


# --- random t -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last_step, num_t", [("fixed", None), ("learned", 2)])
def test_estimate_is_unbiased(setting, last_step, num_t):
    family, steps, x0 = setting
    reverse = bent(family, steps)
    batch = jnp.stack([x0, x0[::-1]] if family.name == "gaussian" else [x0, 1 - x0])
    batch = jnp.concatenate([batch, batch])
    one = lambda key, x: bound.exact(key, family, steps, reverse, x, last_step).K  # noqa: E731
    K = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0), out_axes=1))(keys(3000), batch[:2])
    K = np.asarray(K)
    estimates = averaged(
        lambda key: bound.estimate(key, family, steps, reverse, batch, last_step, num_t), 3000
    )
    for half in (estimates[:, :2], estimates[:, 2:]):
        mean_is(half, K.mean(axis=0), expected_error=error_of(K))
    mean_is(estimates.mean(axis=1), K.mean(), expected_error=error_of(K.mean(axis=1)))


@pytest.mark.parametrize("last_step", bound.LAST_STEPS)
def test_time_weights_are_a_law_over_the_t_that_are_learned(last_step):
    steps = schedule.constant_fraction(10)
    weights = np.asarray(bound.time_weights(steps, last_step))
    first = bound.first_t(last_step)
    assert weights.shape == (11,) and weights.sum() == pytest.approx(1)
    assert (weights[:first] == 0).all() and (weights[first:] > 0).all()
    t = np.arange(2, 11)
    folds = np.log(t / (t - 1.0))  # of the noise t/T, which is about 1/t
    folds = np.concatenate([[1.0], folds])[first - 1 :]
    expected = 0.25 / len(folds) + 0.75 * folds / folds.sum()
    np.testing.assert_allclose(weights[first:], expected, rtol=1e-5)


def test_time_weights_of_the_geometric_schedule_are_uniform_and_see_the_cliff_of_another():
    low = np.asarray(bound.time_weights(schedule.geometric(400, 1e-6, 1e-2)))[2:]
    np.testing.assert_allclose(low, 1 / 399, rtol=0.02)
    cliff = np.asarray(bound.time_weights(schedule.constant_fraction(400, 1e-6)))
    assert cliff[2] > 0.4  # log 2500 of 13.8 e-folds
    assert cliff[3] < 0.05


def test_no_gradient_of_a_learned_schedule_reaches_the_law_of_t():
    logits = schedule.to_logits(schedule.constant_fraction(10, 0.05))

    def weight(logits):
        return bound.time_weights(schedule.learned(0.05, logits))[2]

    assert not np.any(jax.grad(weight)(logits))


@pytest.mark.parametrize("num_t", [None, 16])
def test_draws_of_t_are_stratified_and_follow_their_weights(num_t):
    family, steps, n = gaussian.family(), schedule.constant_fraction(10), 64
    weights = bound.time_weights(steps)
    x0 = jnp.zeros((n, 1))

    def draw(key):
        return bound.draw_terms(key, family, steps, bent(family, steps), x0, weights, num_t)

    draws = jax.jit(jax.vmap(draw))(keys(300))
    t = np.asarray(draws.t)
    assert t.shape == (300, n) and t.min() == 2 and t.max() == 10
    np.testing.assert_array_equal(draws.probability, np.asarray(weights)[t])
    assert np.isfinite(draws.term).all()
    groups = t.reshape(300, num_t or n, -1)
    assert (groups == groups[:, :, :1]).all()  # equal groups of examples share one t
    counts = np.stack([(groups[:, :, 0] == k).sum(axis=1) for k in range(11)], axis=1)
    expected = groups.shape[1] * np.asarray(weights)
    assert (np.abs(counts - expected) < 2).all()
    mean_is(counts, expected)
    mean_is(t[:, 0] == 2, weights[2])  # the order is random: no example has a t of its own
    mean_is(t[:, -1] == 2, weights[2])


@pytest.mark.parametrize("num_t", [0, 3, 5, 8])
def test_num_t_must_divide_the_batch(num_t):
    family, steps = gaussian.family(), schedule.constant_fraction(T)
    with pytest.raises(ValueError, match=f"num_t: expected a divisor of .* size 4, got {num_t}"):
        bound.estimate(
            jax.random.key(0), family, steps, bent(family, steps), jnp.zeros((4, 2)), num_t=num_t
        )


def test_unknown_last_step():
    family, steps = gaussian.family(), schedule.constant_fraction(T)
    with pytest.raises(ValueError, match=r"last_step: expected one of .*fixed.*got 'none'"):
        bound.exact(jax.random.key(0), family, steps, bent(family, steps), jnp.zeros(2), "none")
