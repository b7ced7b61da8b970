"""The heartbeat: its exact entropy and Bayes posteriors against enumeration of all bit strings."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.core import binomial, schedule
from dpm_jax.data import heartbeat
from dpm_jax.exact import heartbeat as exact

LN2 = math.log(2.0)
BETAS = [1e-6, 1e-3, 0.1, 0.7]


def states(length):
    """All bit strings, (2^length, length) float64."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=length)))


def data_rows(length, period):
    """The sequences, written from the definition: a 1 in bins k, k + period, ..."""
    return np.array([[float(i % period == k) for i in range(length)] for k in range(period)])


def log_marginals(x, noise, rate, period):
    """log q(x^t | phase) in float64 bit by bit, (n, length) -> (n, period); noise = 1 − ᾱ_t."""
    rows = data_rows(x.shape[1], period)[None]
    one = np.where(rows == 1, 1 - noise * (1 - rate), noise * rate)
    zero = np.where(rows == 1, noise * (1 - rate), 1 - noise * rate)
    return np.where(x[:, None] == 1, np.log(one), np.log(zero)).sum(axis=2)


def test_sequences_of_the_paper():
    rows = np.asarray(heartbeat.sequences())
    assert rows.shape == (5, 20) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, data_rows(20, 5))


def test_sample_is_uniform_over_the_phases():
    x = np.asarray(heartbeat.sample(jax.random.key(0), 20_000))
    assert x.shape == (20_000, 20) and x.dtype == np.float32
    assert np.all(heartbeat.is_valid(x))
    frequency = x[:, :5].mean(axis=0)
    assert np.all(np.abs(frequency - 0.2) < 5 * math.sqrt(0.16 / 20_000))
    small = heartbeat.sample(jax.random.key(1), 4, length=6, period=3)
    assert small.shape == (4, 6) and bool(jnp.all(heartbeat.is_valid(small, period=3)))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_is_valid_accepts_exactly_the_sequences(dtype):
    x = states(6).astype(dtype)
    accepted = np.asarray(heartbeat.is_valid(x, period=3))
    expected = [any((row == good).all() for good in data_rows(6, 3)) for row in x]
    np.testing.assert_array_equal(accepted, expected)
    assert accepted.sum() == 3
    assert heartbeat.is_valid(np.zeros((2, 3, 20), dtype)).shape == (2, 3)
    assert heartbeat.is_valid(data_rows(20, 5)[0].astype(dtype)).shape == ()


def test_is_valid_refuses_values_that_are_not_bits():
    assert not bool(heartbeat.is_valid(0.99 * heartbeat.sequences()[0]))


@pytest.mark.parametrize(("length", "period"), [(6, 3), (10, 5), (4, 4)])
@pytest.mark.parametrize("rate", [0.2, 0.6])
@pytest.mark.parametrize("beta_1", [*BETAS, 1.0])
def test_entropy_matches_enumeration(beta_1, rate, length, period):
    q = np.exp(log_marginals(states(length), beta_1, rate, period)).mean(axis=1)
    assert abs(q.sum() - 1) < 1e-12
    entropy = -np.sum(q * np.log(q))
    assert abs(exact.entropy_x1(beta_1, rate, length, period) - entropy) < 1e-12


# β_1, bits: the sum over all 2^20 states in float64, done once outside this file.
EXACT = [(1 / 100, -2.923839), (1 / 500, -2.472068), (1 / 2000, -2.365865), (1e-5, -2.323168)]


@pytest.mark.parametrize(("beta_1", "bits"), EXACT)
def test_ceiling_of_the_paper_setting(beta_1, bits):
    assert abs(-exact.entropy_x1(beta_1) / LN2 - bits) < 1e-6


def test_entropy_limits():
    assert abs(exact.entropy_x1(0.0) - math.log(5)) < 1e-12
    bit = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert abs(exact.entropy_x1(1.0) - 20 * bit) < 1e-12


@pytest.mark.parametrize("rate", [0.2, 0.6])
@pytest.mark.parametrize("noise", BETAS)
def test_posteriors_match_bayes(noise, rate):
    x = states(6)
    joint = log_marginals(x, noise, rate, 3)
    log_sum = np.logaddexp.reduce(joint, axis=1)
    others = np.stack(
        [np.logaddexp.reduce(np.delete(joint, k, axis=1), axis=1) for k in range(3)], axis=1
    )
    log_alpha_bar = jnp.float32(math.log1p(-noise))
    batch = jnp.asarray(x, jnp.float32)
    phase = jax.jit(jax.vmap(lambda x: exact.phase_posterior(x, log_alpha_bar, rate, 3)))
    logits = jax.jit(jax.vmap(lambda x: exact.bit_logits(x, log_alpha_bar, rate, 3)))
    expected = joint - log_sum[:, None]
    np.testing.assert_allclose(phase(batch), expected, rtol=2e-6, atol=1e-5)
    expected = np.tile(joint - others, (1, 2))
    np.testing.assert_allclose(logits(batch), expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("beta", "noise_prev"), [(0.1, 1e-4), (0.3, 0.5), (1.0, 0.8)])
def test_bit_logits_give_the_best_factorised_kernel(beta, noise_prev):
    """Σ_v P(x^0_i=v | x^t) q(x^{t-1}_i | x^t_i, v) is the marginal of q(x^{t-1} | x^t), by summing
    the joint law of phase, x^{t-1} and x^t over everything."""
    rate, x = 0.2, states(6)
    previous = np.exp(log_marginals(x, noise_prev, rate, 3)).mean(axis=1)
    one = x * (1 - beta) + rate * beta  # q(x^t_i = 1 | x^{t-1}_i)
    transition = np.prod(np.where(x[None] == 1, one[:, None], 1 - one[:, None]), axis=2)
    joint = previous[:, None] * transition
    marginal = (joint.T @ x) / joint.sum(axis=0)[:, None]

    with np.errstate(divide="ignore"):
        log_alpha_bar = np.float32(np.log1p(-noise_prev) + np.log1p(-beta))  # −inf for β = 1
    batch = jnp.asarray(x, jnp.float32)
    logits = jax.vmap(lambda xt: exact.bit_logits(xt, log_alpha_bar, rate, 3))(batch)
    is_one = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    kernel = 0.0
    for v, weight in ((1, is_one), (0, 1 - is_one)):
        p = v * (1 - noise_prev) + rate * noise_prev  # q(x^{t-1}_i = 1 | x^0_i = v)
        given_one = np.where(x == 1, 1 - beta + rate * beta, 1 - (1 - beta + rate * beta))
        given_zero = np.where(x == 1, rate * beta, 1 - rate * beta)
        kernel += weight * p * given_one / (p * given_one + (1 - p) * given_zero)
    np.testing.assert_allclose(kernel, marginal, atol=2e-6)


@pytest.mark.parametrize("log_alpha_bar", [-math.inf, -100.0, -1e-6, -1e-7])
@pytest.mark.parametrize("rate", [1e-3, 0.2, 0.999])
def test_paper_size_stays_finite(log_alpha_bar, rate):
    rows = heartbeat.sequences()
    x = jnp.concatenate([rows, jnp.zeros_like(rows[:1]), jnp.ones_like(rows[:1])])
    log_alpha_bar = jnp.float32(log_alpha_bar)
    phase = jax.vmap(lambda x: exact.phase_posterior(x, log_alpha_bar, rate))(x)
    logits = jax.vmap(lambda x: exact.bit_logits(x, log_alpha_bar, rate))(x)
    assert phase.shape == (7, 5) and logits.shape == (7, 20)
    assert bool(jnp.all(jnp.isfinite(phase))) and bool(jnp.all(jnp.isfinite(logits)))
    np.testing.assert_allclose(jnp.exp(phase).sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(logits[5:], math.log(0.25), rtol=1e-5)  # no phase preferred


def test_no_signal_gives_one_in_period():
    logits = exact.bit_logits(heartbeat.sequences()[0], -jnp.inf, 0.2)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.2, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, math.nan])
def test_bad_rate_is_named(rate):
    x = heartbeat.sequences()[0]
    message = rf"rate: expected a number in \(0, 1\), got {rate}"
    with pytest.raises(ValueError, match=message):
        exact.entropy_x1(0.1, rate)
    with pytest.raises(ValueError, match=message):
        exact.phase_posterior(x, -1.0, rate)
    with pytest.raises(ValueError, match=message):
        exact.bit_logits(x, -1.0, rate)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="length: expected length a positive multiple of 5, got 7"):
        heartbeat.sequences(7)
    with pytest.raises(ValueError, match=r"length: expected .* got 0"):
        heartbeat.sample(jax.random.key(0), 3, length=0)
    with pytest.raises(ValueError, match="period: expected at least 2, got 1"):
        heartbeat.sequences(20, 1)
    with pytest.raises(ValueError, match=r"beta_1: expected a number in \[0, 1\], got -0.1"):
        exact.entropy_x1(-0.1)
    with pytest.raises(ValueError, match=r"xt: expected shape \(length,\), .* got \(2, 20\)"):
        exact.bit_logits(jnp.zeros((2, 20)), -1.0)
    with pytest.raises(ValueError, match=r"xt: expected .* got 7"):
        exact.phase_posterior(jnp.zeros(7), -1.0)
    with pytest.raises(ValueError, match=r"x: expected .* got 7"):
        heartbeat.is_valid(jnp.zeros((2, 7)))


# --- what the experiment compares with ----------------------------------------------------------


def test_the_bayes_network_has_the_exact_logits_as_raw_outputs():
    log_alpha_bar = jnp.asarray([0.0, -0.1, -1.0], jnp.float32)
    network = exact.BayesNetwork(log_alpha_bar, 0.3, period=3)
    x, t = jnp.asarray([1.0, 0, 0, 0, 0, 1], jnp.float32), jnp.asarray(2)
    assert network.init(jax.random.key(0), x, t, 0.0) == {}
    raw = network.apply({}, x, t, 0.0)
    assert raw.shape == (6, 1)
    np.testing.assert_array_equal(raw[:, 0], exact.bit_logits(x, log_alpha_bar[2], 0.3, 3))


@pytest.mark.parametrize("last_step", ["fixed", "learned"])
def test_log_likelihood_is_the_law_of_the_data_noised_twice_or_not_at_all(last_step):
    rate, period = 0.3, 3
    steps = schedule.from_beta(np.array([0.1, 0.3]))
    x = states(6)
    found = exact.log_likelihood(binomial.family(rate), steps, last_step, jnp.asarray(x), period)
    if last_step == "fixed":
        law = log_marginals(x, 1 - 0.9**2, rate, period)
        expected = np.log(np.exp(law).mean(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:
        rows = data_rows(6, period)
        is_data = (x[:, None] == rows).all(axis=2).any(axis=1)
        np.testing.assert_allclose(np.exp(found), is_data / period, atol=1e-6)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


def test_entropies_are_those_of_all_bit_strings():
    """Eq. 24 from the joint law of x^{t-1} and x^t, summed over all pairs."""
    rate, period, length = 0.3, 3, 6
    steps = schedule.from_beta(np.array([0.1, 0.3, 0.6]))
    lower, true, upper = exact.entropies(steps, rate, length, period)
    assert lower[0] == true[0] == upper[0] == 0
    x, rows = states(length), data_rows(length, period)
    for t in (1, 2, 3):
        before, beta = float(steps.noise[t - 1]), float(steps.beta[t])
        if t == 1:
            given = (x[:, None] == rows).all(axis=2).astype(float)
        else:
            given = np.exp(log_marginals(x, before, rate, period))  # q(x^{t-1} | phase)
        kept = np.where(x == 1, 1 - beta * (1 - rate), beta * rate)[:, None]  # P(next bit is 1)
        step = np.where(x[None] == 1, kept, 1 - kept).prod(axis=2)  # q(x^t | x^{t-1})

        def conditional(joint):
            p, q = joint.ravel(), joint.sum(axis=0)
            return -(p * np.log(np.where(p > 0, p, 1))).sum() + (q * np.log(q)).sum()

        assert true[t] == pytest.approx(conditional(given.mean(axis=1)[:, None] * step), rel=1e-5)
        each = [conditional(given[:, [k]] * step) for k in range(period)]
        assert lower[t] == pytest.approx(np.mean(each), rel=1e-4, abs=1e-6)
        marginal = given.mean(axis=1)
        change = -(marginal[:, None] * step * np.log(step)).sum()
        assert upper[t] == pytest.approx(change, rel=1e-5)
        assert lower[t] <= true[t] + 1e-9 and true[t] <= upper[t] + 1e-9


def test_shares_of_the_phases_are_bayes_rule_over_what_was_seen():
    y, known = np.zeros(6), np.array([True, True, False, False, False, True])
    y[0] = 1  # bits 0, 1 and 5 are 1, 0 and 0: phase 0
    np.testing.assert_array_equal(exact.phase_shares(y, known, 0.0, 3), [1, 0, 0])
    flip = 0.1
    likelihood = np.array([0.9**3, 0.1 * 0.1 * 0.9, 0.1 * 0.9 * 0.1])
    expected = likelihood / likelihood.sum()
    np.testing.assert_allclose(exact.phase_shares(y, known, flip, 3), expected, rtol=1e-12)
    y[1] = 1  # two ones in a period: no sequence
    np.testing.assert_array_equal(exact.phase_shares(y, known, 0.0, 3), [0, 0, 0])


def test_draws_are_compared_with_the_posterior_of_the_phase():
    rows = data_rows(6, 3)
    y, known = rows[0], np.array([True] + [False] * 5)
    broken = np.array([1.0, 1, 1, 0, 0, 0])
    weight = np.array([0.5, 0.25, 0.25])
    found = exact.compare(y, known, 0.0, np.stack([rows[0], rows[1], broken]), weight, 3)
    assert found["valid"] == 0.75 and found["consistent_phases"] == 1
    assert [found[f"phase_{k}"] for k in range(3)] == [0.5, 0.25, 0]
    assert [found[f"phase_{k}_exact"] for k in range(3)] == [1, 0, 0]
    assert found["total_variation"] == 0.5
    nothing = exact.compare(y * 0 + 1, np.ones(6, bool), 0.0, rows, np.full(3, 1 / 3), 3)
    assert nothing["total_variation"] == 1 and nothing["consistent_phases"] == 0
