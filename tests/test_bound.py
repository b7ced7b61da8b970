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
    bent_chain,
    bits_chain,
    bits_given,
    error_of,
    gaussian_chain,
    is_gaussian,
    keys,
    log_density,
    mean_is,
    negative_entropy,
    normal_data,
    still_chain,
)
from dpm_jax.core import binomial, gaussian, schedule
from dpm_jax.core.chain import LAST_STEPS, make_chain
from dpm_jax.core.gaussian import Normal
from dpm_jax.likelihood import bound, forward_work

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=BOTH)
def setting(request, x64):
    """A family, a schedule with β_T = 1, and one example."""
    make, x0 = BOTH[request.param]
    return make(), schedule.constant_fraction(T, 0.05), jnp.asarray(x0)


def exact_K(chain, x0, n=None, seed=0):
    """(n,) values of K, of a row each, or (n, rows) of n draws for every row."""

    def one(key, x):
        return bound.exact(key, chain, x).K

    if n is None:
        return jax.jit(jax.vmap(one))(keys(len(x0), seed), x0)
    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0), out_axes=1)
    return np.asarray(jax.jit(each)(keys(n, seed), x0))


# --- Gaussian data N(0, C): everything is known -------------------------------------------------


@pytest.mark.parametrize("C", [C_DIAGONAL, C_CORRELATED], ids=["diagonal", "correlated"])
@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_K_of_gaussian_data_is_its_closed_form(C, last_step):
    steps = schedule.constant_fraction(T, 0.1)
    chain, lost = gaussian_chain(C, steps, last_step)
    K = exact_K(chain, normal_data(C, 4000))
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
    chain, _ = gaussian_chain(C_DIAGONAL, schedule.constant_fraction(T, 0.1))
    for x0 in ([0.1, -2.0, 1.0], [1.5, 0.3, -4.0]):
        expected = log_density(C_DIAGONAL, np.asarray(x0))
        mean_is(exact_K(chain, jnp.asarray([x0]), 4000)[:, 0], expected)
        work = averaged(forward_work, 20, chain, jnp.asarray(x0))
        np.testing.assert_allclose(-work, expected, rtol=1e-9)


# --- data ~ π -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_K_of_every_example_is_log_prior_where_the_chain_is_stationary(setting, last_step):
    """T_π is reversible: its own kernel is the exact reverse of a chain in equilibrium."""
    family, _, x0 = setting
    steps = schedule.linear(T, 0.1, 0.5)  # ᾱ_T > 0: holds all the same
    chain = still_chain(family, steps, last_step)
    K, L_null = jax.jit(jax.vmap(lambda key: bound.exact(key, chain, x0)))(keys(4000))
    mean_is(K, L_null[0])
    work = averaged(forward_work, 20, chain, x0)
    np.testing.assert_allclose(-work, L_null[:20], rtol=1e-9)


def test_K_of_data_from_the_prior_is_minus_its_entropy(setting):
    family, steps, _ = setting
    chain = still_chain(family, steps)
    data = jax.vmap(lambda key: family.sample(key, chain.prior))(keys(4000, 5))
    K, L_null = jax.jit(jax.vmap(lambda key, x: bound.exact(key, chain, x)))(keys(4000), data)
    mean_is(K, -family.entropy(chain.prior))
    mean_is(K - L_null, 0.0)


# --- three bits, enumerated ---------------------------------------------------------------------


@pytest.mark.parametrize("T", [2, 3])
def test_three_bits_against_enumeration(T):
    log_p, K, chain = bits_chain(schedule.constant_fraction(T, 0.3))
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert (log_p - K > 1e-4).all()  # the kernels factorise and the law does not: a strict bound
    mean_is(exact_K(chain, jnp.asarray(STATES), 4000), K)

    # Eq. 9: the exponential of the same trajectories is unbiased for p(x^0) itself.
    def one(key, x):
        return -forward_work(key, chain, x)

    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0), out_axes=1)
    work = jax.jit(each)(keys(4000, 1), jnp.asarray(STATES))
    mean_is(work, K)
    mean_is(np.exp(work), np.exp(log_p))


# --- the forms of K agree -----------------------------------------------------------------------


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_exact_is_the_mean_of_eq_12(setting, last_step):
    family, steps, x0 = setting
    chain = bent_chain(family, steps, last_step)
    K = exact_K(chain, x0[None], 3000)[:, 0]
    work = averaged(forward_work, 3000, chain, x0)
    mean_is(-work, K.mean(), expected_error=error_of(K))


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_terms_sum_to_exact_and_every_step_after_the_first_costs(setting, last_step):
    family, steps, x0 = setting
    args = (jax.random.key(3), bent_chain(family, steps, last_step), x0)
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
        chain = bent_chain(family, steps)

        def both(key, x, chain=chain):
            K = bound.exact(key, chain, x).K
            terms = bound.exact_terms(key, chain, x)
            log_alpha_bar = chain.schedule.log_alpha_bar
            entropy = [family.entropy(family.marginal(x, log_alpha_bar[t])) for t in (T, 1)]
            H_p = family.entropy(family.prior(x.shape))
            return K, terms[2:].sum() + entropy[0] - entropy[1] - H_p

        K, printed = jax.jit(jax.vmap(both))(keys(len(rows)), x0)
        np.testing.assert_allclose(K.mean(), printed.mean(), rtol=1e-10)
        if is_gaussian(family):  # what eq. 14 drops for one example: edge and prior
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

        return bound.exact(jax.random.key(9), make_chain(family, steps, reverse, (3,)), x0).K

    gradient, h = jax.grad(K)(logits), 1e-5
    for i in range(5):
        shift = h * jnp.eye(5)[i]
        difference = (K(logits + shift) - K(logits - shift)) / (2 * h)
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-6)


def test_gradient_of_the_schedule_is_finite_however_far_it_has_been_learned():
    """In float32 σ(17) is 1, where the derivative of √(1−β) is infinite."""
    with jax.enable_x64(False):

        def K(logits):
            chain = bent_chain(gaussian.family(), schedule.learned(1e-3, logits), shape=(2,))
            return bound.exact(jax.random.key(0), chain, jnp.ones(2)).K

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

        return bound.exact(key, make_chain(family, steps, reverse, x.shape), x).K

    compiled = jax.jit(K)
    for beta_1 in (0.1, 0.2, 0.3):
        compiled(jax.random.key(0), schedule.cosine(5, beta_1), x0)
    assert len(traces) == 1
    for steps in (schedule.cosine(5), schedule.cosine(50)):
        jaxpr = str(jax.make_jaxpr(K)(jax.random.key(0), steps, x0))
        assert jaxpr.count("scan[") == 1 and "while[" not in jaxpr.split("scan[")[0]
        sizes.append(jaxpr.count(" = "))  # equations
    assert sizes[0] == sizes[1]


# --- the noise floor -----------------------------------------------------------------------------


@pytest.mark.parametrize("C", [C_DIAGONAL, C_CORRELATED], ids=["diagonal", "correlated"])
def test_K_of_noised_gaussian_data_is_its_closed_form_at_every_noise(C):
    """K(t0) = −h(X^{t0}) − what the kernels lose after t0; K' falls as noise is added."""
    steps, t0 = schedule.constant_fraction(6, 0.05), range(1, 7)
    chain, lost = gaussian_chain(C, steps)

    def one(key, x):
        return bound.noise_floor(key, chain, x, t0)

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
    args = (jax.random.key(3), bent_chain(family, steps), x0)
    exact, floor = bound.exact(*args), bound.noise_floor(*args, [1])
    np.testing.assert_allclose(exact.K - exact.L_null, (floor.K - floor.L_null)[0], rtol=1e-12)
    if is_gaussian(family):
        edge = steps.beta[1] * (3 - jnp.sum(x0**2)) / 2
    else:
        log_odds = family.prior(x0.shape).logits  # log π is linear in the bits
        edge = jnp.sum(log_odds * steps.beta[1] * (x0 - jax.nn.sigmoid(log_odds)))
    np.testing.assert_allclose(exact.K - floor.K[0], edge, rtol=1e-9)
    few = bound.noise_floor(*args, [3, 1, 3])
    np.testing.assert_allclose(few.K[1], floor.K[0], rtol=1e-12)
    assert few.K[0] == few.K[2]


def test_noise_floor_of_three_bits_against_enumeration():
    steps, t0 = schedule.constant_fraction(3, 0.3), [1, 2, 3]
    _, _, chain = bits_chain(steps)
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

    def one(key, x):
        return bound.noise_floor(key, chain, x, t0).K

    found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(keys(3000), jnp.asarray(STATES))
    mean_is(np.einsum("nxt,x->nt", found, LAW), expected)


@pytest.mark.parametrize("num_t", [1, 3])
def test_noise_floor_from_random_t_is_unbiased(setting, num_t):
    family, steps, x0 = setting
    args, t0 = (bent_chain(family, steps), x0), (1, 2, 4)
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
        bound.noise_floor(jax.random.key(0), bent_chain(family, steps), x0, t0, num_t)


# --- random t -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last_step, num_t", [("fixed", -1), ("learned", 2)])
def test_estimate_is_unbiased(setting, last_step, num_t):
    family, steps, x0 = setting
    chain = bent_chain(family, steps, last_step)
    batch = jnp.stack([x0, x0[::-1] if is_gaussian(family) else 1 - x0] * 2)
    K = exact_K(chain, batch[:2], 3000)
    estimates = averaged(lambda key: bound.estimate(key, chain, batch, num_t), 3000)
    for half in (estimates[:, :2], estimates[:, 2:]):
        mean_is(half, K.mean(axis=0), expected_error=error_of(K))
    mean_is(estimates.mean(axis=1), K.mean(), expected_error=error_of(K.mean(axis=1)))


def time_law(steps, last_step="fixed"):
    return bound.time_law(bent_chain(gaussian.family(), steps, last_step))


@pytest.mark.parametrize("last_step, first", [("fixed", 2), ("learned", 1), (lambda p, x: 0.0, 1)])
def test_the_time_law_is_one_over_the_t_that_are_learned(last_step, first):
    law = np.asarray(time_law(schedule.constant_fraction(10), last_step))
    assert law.shape == (11,) and law.sum() == pytest.approx(1)
    assert (law[:first] == 0).all() and (law[first:] > 0).all()
    t = np.arange(2, 11)
    folds = np.log(t / (t - 1.0))  # of the noise t/T, which is about 1/t
    folds = np.concatenate([[1.0], folds])[first - 1 :]
    expected = 0.25 / len(folds) + 0.75 * folds / folds.sum()
    np.testing.assert_allclose(law[first:], expected, rtol=1e-5)


def test_the_time_law_of_the_geometric_schedule_is_uniform_and_sees_the_cliff_of_another():
    low = np.asarray(time_law(schedule.geometric(400, 1e-6, 1e-2)))[2:]
    np.testing.assert_allclose(low, 1 / 399, rtol=0.02)
    cliff = np.asarray(time_law(schedule.constant_fraction(400, 1e-6)))
    assert cliff[2] > 0.4  # log 2500 of 13.8 e-folds
    assert cliff[3] < 0.05


def test_no_gradient_of_a_learned_schedule_reaches_the_law_of_t():
    logits = schedule.to_logits(schedule.constant_fraction(10, 0.05))

    def weight(logits):
        return time_law(schedule.learned(0.05, logits))[2]

    assert not np.any(jax.grad(weight)(logits))


@pytest.mark.parametrize("num_t", [-1, 16])
def test_draws_of_t_are_stratified_and_follow_their_weights(num_t):
    n, x0 = 64, jnp.zeros((64, 1))
    chain = bent_chain(gaussian.family(), schedule.constant_fraction(10), shape=(1,))
    many = jax.vmap(lambda key: bound.draw_terms(key, chain, x0, num_t))
    draws, weights = jax.jit(lambda keys: (many(keys), bound.time_law(chain)))(keys(300))
    t = np.asarray(draws.t)
    assert t.shape == (300, n) and t.min() == 2 and t.max() == 10
    np.testing.assert_array_equal(draws.probability, np.asarray(weights)[t])
    assert np.isfinite(draws.term).all()
    groups = t.reshape(300, n if num_t == -1 else num_t, -1)
    assert (groups == groups[:, :, :1]).all()  # equal groups of examples share one t
    counts = np.stack([(groups[:, :, 0] == k).sum(axis=1) for k in range(11)], axis=1)
    expected = groups.shape[1] * np.asarray(weights)
    assert (np.abs(counts - expected) < 2).all()
    mean_is(counts, expected)
    mean_is(t[:, 0] == 2, weights[2])  # the order is random: no example has a t of its own
    mean_is(t[:, -1] == 2, weights[2])


def test_terms_by_another_law_of_t_are_unbiased_too(setting):
    family, steps, x0 = setting
    chain, law = bent_chain(family, steps), jnp.asarray([0.0, 0.0, 0.2, 0.7, 0.1])
    batch = jnp.stack([x0] * 2)

    def estimate(key):
        found = bound.draw_terms(key, chain, batch, law=law)
        return bound.ends(chain, x0) + jnp.mean(found.term / found.probability)

    K = exact_K(chain, x0[None], 3000)
    mean_is(averaged(estimate, 3000), K.mean(), expected_error=error_of(K[:, 0]))


@pytest.mark.parametrize("num_t", [0, -2, 3, 5, 8])
def test_num_t_must_divide_the_batch(num_t):
    chain = bent_chain(gaussian.family(), schedule.constant_fraction(T), shape=(2,))
    with pytest.raises(ValueError, match=f"num_t: expected −1 or a divisor of .* 4, got {num_t}"):
        bound.estimate(jax.random.key(0), chain, jnp.zeros((4, 2)), num_t)
