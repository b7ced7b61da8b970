"""Eq. 9 and eq. 24 against closed forms, enumeration, and the bracket as it is printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    BOTH,
    C_CORRELATED,
    LAW,
    STATES,
    averaged,
    bent_chain,
    bits_chain,
    bits_given,
    error_of,
    gaussian_chain,
    keys,
    log_density,
    mean_is,
    model_covariance,
    normal_data,
    still_chain,
)
from dpm_jax import likelihood
from dpm_jax.core import binomial, gaussian, sampling, schedule
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import LAST_STEPS, make_chain
from dpm_jax.likelihood import bound, work

pytestmark = pytest.mark.usefixtures("x64")

T = 6
UNIT = C_CORRELATED / np.trace(C_CORRELATED) * 3  # mean variance 1, as eq. 24 assumes


@pytest.fixture(params=[(name, last) for name in BOTH for last in LAST_STEPS], ids="-".join)
def bent(request, x64):
    """A chain with β_T = 1 whose reverse kernel is not exact, and one example."""
    name, last_step = request.param
    make, x0 = BOTH[name]
    return bent_chain(make(), schedule.constant_fraction(T, 0.05), last_step), jnp.asarray(x0)


# --- the work -----------------------------------------------------------------------------------


def states(key, chain, x0):
    """x^0 .. x^T of the trajectory whose work `forward_work` of the same key is."""
    _, (before, after, _, _) = work._walk(key, chain, x0, lambda step: step)
    return jnp.concatenate([before[:1], after])


def test_work_is_the_bracket_of_eq_9_along_the_same_trajectory(bent):
    (chain, x0), key = bent, jax.random.key(3)
    family = chain.family
    x = states(key, chain, x0)
    log_bracket = family.log_prob(family.prior(x0.shape), x[-1])
    for t in range(1, T + 1):
        log_bracket += family.log_prob(chain.reverse(x[t], jnp.asarray(t)), x[t - 1])
        log_bracket -= family.log_prob(family.step(x[t - 1], chain.schedule.beta[t]), x[t])
    np.testing.assert_allclose(likelihood.forward_work(key, chain, x0), -log_bracket, rtol=1e-9)


def test_profile_sums_to_work_and_its_means_are_the_terms_of_K(bent):
    each = jax.jit(jax.vmap(lambda key: likelihood.profile(key, *bent)))(keys(4000))
    total = averaged(likelihood.forward_work, 4000, *bent)
    np.testing.assert_allclose(each.work.sum(axis=1), total, rtol=1e-9, atol=1e-9)
    terms = averaged(bound.exact_terms, 4000, *bent)
    both = np.asarray(each.kl[:, 2:]), np.asarray(each.work[:, 2:])
    mean_is(both[0] - both[1], 0.0)
    mean_is(both[0], -terms[:, 2:].mean(axis=0), expected_error=error_of(terms[:, 2:]))
    mean_is(each.work.sum(axis=1), -terms.sum(axis=1).mean(), expected_error=error_of(terms.sum(1)))
    assert (np.asarray(each.kl[:, :2]) == 0).all()


def test_impossible_data_have_log_p_minus_infinity_and_no_nan():
    def reverse(xt, t):
        return Bernoulli(jnp.full(3, -jnp.inf))

    steps = schedule.constant_fraction(4)
    chain = make_chain(binomial.family(0.5), steps, reverse, (3,), "learned")
    result = likelihood.estimate(jax.random.key(0), chain, jnp.asarray([1.0, 0.0, 0.0]), 8)
    assert result.value == -np.inf and -np.inf == result.K and result.ess == 0


# --- log p --------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [10, 100, 1000])
def test_gaussian_data_with_the_best_diagonal_kernels(T):
    """log p of the model is known: the error bars hold it in 90–98 % of 400 repetitions."""

    def chain():
        return gaussian_chain(C_CORRELATED, schedule.geometric(T, 1e-3), "fixed")[0]

    x0 = np.array([0.8, -0.5, 0.4])
    truth = log_density(model_covariance(chain().schedule, chain().reverse), x0)
    with jax.enable_x64(False):  # the precision of use; float64 would only be slower
        single, x0 = chain(), jnp.asarray(x0, jnp.float32)

        def one(key):
            return likelihood.estimate(key, single, x0, 64, chunk=64)

        # A thousand steps run for longer than they compile: at level 0 three times as long.
        options = {"xla_backend_optimization_level": 2} if T == 1000 else None
        draw = jax.jit(lambda k: jax.lax.map(one, k, batch_size=40), compiler_options=options)
        result = draw(keys(400, 7))
    value, error, jackknife, K = (
        np.asarray(v, np.float64) for v in (result.value, result.error, result.jackknife, result.K)
    )
    assert 0.90 <= (np.abs(value - truth) < 1.96 * error).mean() <= 0.98
    assert 0.90 <= (np.abs(value - truth) < 1.96 * jackknife).mean() <= 0.985
    assert K.mean() + 4 * error_of(K) < truth  # K is a strict bound here
    mean_is(value + error**2 / 2, truth, errors=4)  # the bias of a logarithm


@pytest.mark.parametrize("T", [2, 3])
def test_three_bits_against_the_sum_over_all_trajectories(T):
    log_p, _, chain = bits_chain(schedule.constant_fraction(T, 0.3))

    def one(x):
        return likelihood.estimate(jax.random.key(1), chain, x, 4096)

    result = jax.jit(jax.vmap(one))(jnp.asarray(STATES))
    z = (np.asarray(result.value) - log_p) / np.asarray(result.error)
    assert (np.abs(z) < 4).all(), z
    p = np.exp(result.value)
    error = np.sqrt(np.sum((p * np.asarray(result.error)) ** 2))
    assert abs(p.sum() - 1) < 4 * error and error < 0.02


def test_more_trajectories_only_raise_the_bound():
    """K = L_1 <= L_2 <= L_8 <= log p (Burda et al. 2015)."""
    log_p, _, chain = bits_chain(schedule.constant_fraction(3, 0.3))
    each = averaged(likelihood.forward_works, 4000, chain, jnp.asarray(STATES[1]), 8)

    def group(m):
        return np.log(np.exp(-each.reshape(4000, -1, m)).mean(-1)).mean(1)

    for few, many in ((1, 2), (2, 8)):
        gain = group(many) - group(few)
        assert gain.mean() > 4 * error_of(gain)
    assert group(8).mean() < log_p[1] + 4 * error_of(group(8))


def test_chunks_change_nothing(bent):
    args = (jax.random.key(0), *bent, 50)
    whole = likelihood.forward_works(*args, chunk=50)
    np.testing.assert_allclose(likelihood.forward_works(*args, chunk=7), whole, rtol=1e-12)
    assert len(set(np.asarray(whole).tolist())) > 20


def test_memory_does_not_grow_with_M_or_T():
    def memory(num, T):
        args = bent_chain(gaussian.family(), schedule.geometric(T, 0.01)), jnp.zeros(3)
        compiled = jax.jit(lambda k: likelihood.estimate(k, *args, num, chunk=64).value)
        return compiled.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    few = memory(1000, 10)
    assert memory(1000, 1000) - few < 990 * 8 * 4  # the schedule's arrays
    assert memory(100_000, 10) - few < 99_000 * 8 * 12  # keys, works and weights, no states


@pytest.mark.parametrize("num, chunk, name", [(0, 1, "num"), (-3, 1, "num"), (4, 0, "chunk")])
def test_num_and_chunk_are_positive(num, chunk, name):
    chain = bent_chain(gaussian.family(), schedule.constant_fraction(4), shape=(2,))
    with pytest.raises(ValueError, match=f"^{name}: expected at least 1, got {min(num, chunk)}"):
        likelihood.forward_works(jax.random.key(0), chain, jnp.zeros(2), num, chunk)


def test_the_estimate_is_differentiable():
    family, steps = gaussian.family(), schedule.geometric(5, 0.01)

    def log_p(scale, chunk=4):
        def reverse(xt, t):
            p = family.step(xt, steps.beta[t])
            return p._replace(mean=scale * p.mean)

        chain, x0 = make_chain(family, steps, reverse, (2,), "learned"), jnp.asarray([0.3, -1.0])
        return likelihood.estimate(jax.random.key(2), chain, x0, 10, chunk=chunk).value

    value, gradient = (jax.jit(f, static_argnums=1) for f in (log_p, jax.grad(log_p)))
    slope = gradient(0.9)
    np.testing.assert_allclose(slope, (value(0.9 + 1e-5) - value(0.9 - 1e-5)) / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient(0.9, 10), rtol=1e-10)


# --- the sandwich -------------------------------------------------------------------------------


def sandwiched():
    """A chain of correlated data and the covariance of its x^0."""
    chain, _ = gaussian_chain(C_CORRELATED, schedule.constant_fraction(10, 0.05))
    return chain, model_covariance(chain.schedule, chain.reverse)


def test_the_models_own_trajectory_measures_one_over_p():
    chain, S = sandwiched()
    x0, own = jax.jit(jax.vmap(lambda key: likelihood.reverse_work(key, chain)))(keys(20_000))
    log_p = np.array([log_density(S, x) for x in np.asarray(x0)])
    mean_is(np.exp(np.asarray(own) + log_p), 1.0)
    assert np.std(np.asarray(own) + log_p) > 0.05  # not trivially exact
    np.testing.assert_allclose(x0[0], sampling.sample(keys(1)[0], chain), rtol=1e-9)


def test_sandwich_holds_log_p_between_its_means_and_closes():
    (chain, S), widths = sandwiched(), []
    for num in (2, 32):

        def one(key, num=num):
            return likelihood.sandwich(key, chain, num)

        result = jax.jit(jax.vmap(one))(keys(4000))
        log_p = np.array([log_density(S, x) for x in np.asarray(result.x0)])
        below, above = np.asarray(result.lower) - log_p, np.asarray(result.upper) - log_p
        assert below.mean() < 4 * error_of(below) and above.mean() > -4 * error_of(above)
        widths.append((above - below).mean())
        assert widths[-1] > 4 * error_of(above - below)
    assert widths[1] < widths[0] / 4


# --- entropy bounds, eq. 24 ---------------------------------------------------------------------


def test_entropy_bounds_of_gaussian_data_hold_the_closed_form():
    chain = bent_chain(gaussian.family(), schedule.constant_fraction(T, 0.1))

    def entropy(C):
        return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.asarray(C))[1]

    zero = jnp.zeros(3)  # they are the same for every state
    for t in range(2, T + 1):
        alpha_bar, beta = np.asarray(chain.schedule.alpha_bar), float(chain.schedule.beta[t])
        S = [alpha_bar[s] * UNIT + (1 - alpha_bar[s]) * np.eye(3) for s in (t - 1, t)]
        true = entropy(beta * np.eye(3)) + entropy(S[0]) - entropy(S[1])
        lower, upper = likelihood.entropy_bounds(chain, zero, zero, zero, jnp.asarray(t))
        printed = [entropy((1 - alpha_bar[s]) * np.eye(3)) for s in (t - 1, t)]
        np.testing.assert_allclose(lower, entropy(beta * np.eye(3)) + printed[0] - printed[1])
        np.testing.assert_allclose(upper, entropy(beta * np.eye(3)))
        assert lower < true < upper + 1e-12


def test_entropy_bounds_of_bits_by_enumeration():
    """Averaged over q they are eq. 24 as printed, about H_q(X^{t-1}|X^t) summed over all states."""
    rate = LAW @ STATES  # eq. 24's upper bound needs data of mean rate ρ
    steps = schedule.constant_fraction(4, 0.2)
    chain = bent_chain(binomial.family(rate), steps)
    beta, alpha_bar = np.asarray(steps.beta), np.asarray(steps.alpha_bar)
    marginal = [bits_given(STATES * a + (1 - a) * rate) for a in alpha_bar]  # [t][x0, xt]

    def H(p):
        return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)

    for t in range(2, 5):
        forward = bits_given(STATES * (1 - beta[t]) + beta[t] * rate)  # [x_prev, xt]
        law = [LAW @ m for m in (marginal[t - 1], marginal[t])]
        upper = law[0] @ H(forward)
        lower = upper + LAW @ (H(marginal[t - 1]) - H(marginal[t]))
        true = upper + H(law[0]) - H(law[1])
        joint = LAW[:, None, None] * marginal[t - 1][:, :, None] * forward
        x = jnp.asarray(STATES)

        def each(x0, x_prev, xt, t=t):
            return likelihood.entropy_bounds(chain, x0, x_prev, xt, jnp.asarray(t))

        grid = jax.vmap(jax.vmap(jax.vmap(each, (None, None, 0)), (None, 0, None)), (0, None, None))
        ours = [np.sum(joint * np.asarray(bounds)) for bounds in grid(x, x, x)]
        np.testing.assert_allclose(ours, [lower, upper], rtol=1e-9)
        assert lower < true < upper


def test_the_profile_holds_the_entropy_bounds(bent):
    (chain, x0), key = bent, jax.random.key(3)
    found = likelihood.profile(key, chain, x0)
    x = states(key, chain, x0)
    for t in range(2, T + 1):
        index = jnp.asarray(t)
        bounds = likelihood.entropy_bounds(chain, x0, x[t - 1], x[t], index)
        ours = found.lower[t], found.upper[t], found.entropy[t]
        expected = (*bounds, chain.family.entropy(chain.reverse(x[t], index)))
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_gaussian_data_of_the_prior_waste_nothing():
    """p is q in equilibrium: one trajectory is enough, W = −log π(x^0) (the quasi-static limit)."""
    chain = still_chain(gaussian.family(), schedule.constant_fraction(T, 0.1), "learned")
    x0 = normal_data(np.eye(3), 1)[0]
    found = averaged(likelihood.forward_work, 50, chain, x0)
    np.testing.assert_allclose(found, -chain.family.log_prob(chain.prior, x0), rtol=1e-9)
