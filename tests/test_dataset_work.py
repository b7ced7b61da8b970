"""Eq. 9 over a data set: the same numbers as example by example, and their two errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    C_CORRELATED,
    C_DIAGONAL,
    gaussian_chain,
    keys,
    log_density,
    mean_is,
    model_covariance,
    normal_data,
)
from dpm_jax import likelihood
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.likelihood import Proposal, Rows, bound, rows, summarise

T = 5
STEPS = schedule.geometric(T, 0.01)
DATA = np.asarray(normal_data(C_CORRELATED, 7), np.float32)


def built(last_step="fixed", C=C_CORRELATED, steps=STEPS):
    """The best diagonal kernels, for correlated data not exact: a model without parameters."""

    chain, _ = gaussian_chain(C, steps, last_step)

    def make(params, x0_range):
        return chain

    return model.Model(gaussian.family(), (3,), last_step, False, None, lambda key: {}, make, {})


def test_works_are_many_independent_draws_whatever_a_device_holds():
    few, many = (
        likelihood.evaluate_works(built(), {}, DATA, 400, rows=Rows(seed, at_once=at_once))
        for seed, at_once in ((0, 3), (1, 10_000))
    )
    assert few.shape == many.shape == (7, 400)
    assert len(np.unique(few)) > 2700
    gap = few.mean(axis=1) - many.mean(axis=1)
    error = np.hypot(few.std(axis=1), many.std(axis=1)) / 20
    assert (np.abs(gap) < 4 * error).all()
    chain = built().chain({})
    K = jax.vmap(lambda key: bound.exact(key, chain, jnp.asarray(DATA[0])).K)(keys(2000))
    mean_is(-few[0], float(K.mean()), expected_error=float(K.std()) / 2000**0.5)


def test_summary_is_the_mean_of_the_estimates_and_its_errors_are_apart():
    rng = np.random.default_rng(0)
    log_p, sigma = rng.normal(-3, 1, 500), 0.5
    work = -log_p[:, None] + sigma**2 / 2 + sigma * rng.normal(size=(500, 256))
    whole = summarise(work)
    assert whole.num == 256 and whole.examples == 500 and whole.impossible == 0
    # log p̂ of a Gaussian work: bias −(e^σ² − 1)/2M, variance (e^σ² − 1)/M
    spread = np.expm1(sigma**2)
    noise = np.sqrt(spread / 256 / 500)
    assert abs(whole.log_p - log_p.mean() + spread / 512) < 4 * noise
    assert whole.trajectory_error == pytest.approx(noise, rel=0.05)
    assert whole.error == pytest.approx(np.sqrt(log_p.var() / 500 + noise**2), rel=0.02)
    assert pytest.approx(-work.mean()) == whole.K and whole.dissipation == pytest.approx(
        whole.log_p - whole.K
    )
    assert whole.ess / 256 == pytest.approx(np.exp(-(sigma**2)), rel=0.05)
    groups = summarise(work, 16)
    assert groups.num == 16 and 1 <= groups.least_ess <= groups.ess <= 16
    assert abs(groups.log_p - log_p.mean() + spread / 32) < 4 * noise + spread**2 / 16**2
    assert pytest.approx(whole.K) == groups.K and groups.log_p < whole.log_p
    single = summarise(work, 1)
    assert single.log_p == pytest.approx(whole.K) and single.poor == 0
    assert single.trajectory_error == pytest.approx(sigma / np.sqrt(256 * 500), rel=0.05)


def test_of_one_work_no_error_over_trajectories_is_known():
    found = summarise([[1.0], [2.0], [3.0]])
    assert (found.num, found.log_p, found.ess) == (1, -2.0, 1.0)
    assert found.error == pytest.approx(1 / np.sqrt(3)) and np.isnan(found.trajectory_error)
    assert not found.is_value and found.interval[1] == np.inf
    assert str(found).startswith(
        "log p = −2.000 nats, in the mean a lower bound; 95 % above −4.484"
    )


MANY = {
    "down before up": "up_down",
    "particles": Proposal("up_down", 4, every=1, threshold=1.0),
    "more particles than a device holds": Proposal("paper", 8, every=2),
}


@pytest.mark.parametrize("name", MANY)
def test_of_every_proposal_works_and_sandwich_hold_p(name):
    m = built()
    chain, of = m.chain({}), Rows(at_once=6)
    covariance = model_covariance(chain.schedule, chain.reverse)
    works = likelihood.evaluate_works(m, {}, DATA[:3], 1500, rows=of, proposal=MANY[name])
    truth = np.array([log_density(covariance, x) for x in DATA[:3]])
    mean_is(np.exp(-works.T - truth), 1.0)
    pairs = likelihood.evaluate_sandwich(m, {}, 300, 2, rows=of, proposal=MANY[name])
    width = pairs[:, 1] - pairs[:, 0]
    assert width.mean() > -3 * width.std() / 300**0.5


def test_an_equal_proposal_compiles_nothing_and_another_is_another():
    m = built()

    def drawn(particles):
        proposal = Proposal("up_down", particles, late=particles)
        return likelihood.evaluate_works(m, {}, DATA, 2, proposal=proposal)

    def newest():
        return next(reversed(rows._KEPT.values()))

    first, made = drawn(2), newest()
    np.testing.assert_array_equal(drawn(2), first)
    assert newest() is made
    assert not np.array_equal(drawn(3), first) and newest() is not made


def test_nothing_is_lost_of_exact_kernels():
    found = likelihood.evaluate_losses(built("learned", C_DIAGONAL), {}, DATA, 8)
    np.testing.assert_array_equal(found.t, np.arange(1, T + 1))
    np.testing.assert_allclose(found.paper, 0, atol=1e-3)
    assert np.isnan(found.down).all() and np.isnan(found.up).all()


def test_with_the_fixed_last_step_the_paper_s_order_loses_all_of_it_in_the_first_step():
    m, data = built("fixed", C_DIAGONAL, schedule.geometric(40, 0.01)), DATA[:4]
    found = likelihood.evaluate_losses(m, {}, data, 1000)
    assert found.t[0] == 2 and found.t[-1] == 40
    chain = m.chain({})
    covariance = model_covariance(chain.schedule, chain.reverse)
    log_p = np.mean([log_density(covariance, x) for x in data])
    for lost, order in ((found.paper, "paper"), (found.up, "up_down")):
        works = likelihood.evaluate_works(m, {}, data, 1000, proposal=order)
        assert lost[-1] == pytest.approx(log_p + works.mean(), abs=0.03)
    assert found.paper[0] > 0.05 and np.ptp(found.paper) < 1e-3
    assert (found.up > 0).all() and (found.up < 0.6 * found.paper).all()
    assert found.down[0] == pytest.approx(found.up[0], rel=1e-3) and np.isnan(found.down[-1])


def test_one_impossible_example_is_stated():
    work = np.zeros((3, 4))
    work[1] = np.inf
    found = summarise(work)
    assert found.log_p == -np.inf and found.impossible == 1 and found.least_ess == 0
    work[1, 0] = np.nan
    found = summarise(work)
    assert found.impossible == 0 and found.not_a_number == 1


def test_sandwich_holds_log_p():
    pairs = likelihood.evaluate_sandwich(built("learned"), {}, 600, 16, rows=Rows(at_once=64))
    assert pairs.shape == (600, 2)
    width = pairs[:, 1] - pairs[:, 0]
    assert width.mean() > 4 * width.std() / 600**0.5


def test_dissipation_is_the_bound_term_by_term():
    found = likelihood.evaluate_dissipation(built(), {}, DATA, 2000, rows=Rows(at_once=500))
    assert all(values.shape == (T + 1,) for values in found)
    chain = built().chain({})

    def one(key, x):
        return bound.exact_terms(key, chain, x)

    terms = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(keys(2000), jnp.asarray(DATA))
    terms = np.asarray(terms, np.float64).mean(axis=(0, 1))
    np.testing.assert_allclose(found.kl[2:], -terms[2:], rtol=0.05)
    np.testing.assert_allclose(found.work[2:], found.kl[2:], rtol=0.1, atol=0.02)
    np.testing.assert_allclose(found.cumulative[-1], found.work[2:].sum(), rtol=1e-5)
    assert (found.variance[2:] > 0).all() and (found.lower[2:] < found.upper[2:]).all()


def works(data=DATA, num=4, at_once=None):
    return likelihood.evaluate_works(built(), {}, data, num, rows=Rows(at_once=at_once))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: works(DATA[:0]), "data: expected at least 1, got 0"),
        (lambda: works(num=0), "num: expected at least 1, got 0"),
        (lambda: works(at_once=0), "at_once: expected at least 1, got 0"),
        (
            lambda: likelihood.evaluate_sandwich(built(), {}, 0, 4),
            "examples: expected at least 1, got 0",
        ),
        (
            lambda: likelihood.evaluate_sandwich(built(lambda params, x0: 0.0), {}, 2, 4),
            "last_step: expected one with `draw` for samples, got a function",
        ),
        (
            lambda: likelihood.evaluate_dissipation(built(), {}, DATA, 1),
            "num: expected at least 2, got 1",
        ),
        (lambda: summarise(np.zeros((2, 4)), 5), r"num: expected 1\.\.4, got 5"),
        (
            lambda: likelihood.evaluate_works(built("learned"), {}, DATA, 2, proposal="up_down"),
            "proposal: expected 'paper' but for the fixed last step, got 'up_down'",
        ),
        (
            lambda: likelihood.evaluate_sandwich(built(), {}, 2, 2, proposal=Proposal("paper", 0)),
            "proposal.particles: expected at least 1, got 0",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_log_p_of_a_data_set_is_the_closed_form():
    chain = built("learned").chain({})
    covariance = model_covariance(chain.schedule, chain.reverse)

    def one(key, x):
        return likelihood.estimate(key, chain, x, 1024)

    found = jax.vmap(one)(keys(7, 1), jnp.asarray(DATA))
    truth = np.array([log_density(covariance, x) for x in DATA])
    value, error = np.asarray(found.value, np.float64), np.asarray(found.error, np.float64)
    assert found.value.shape == (7,) and (np.asarray(found.ess) > 20).all()
    assert (np.abs(value - truth) < 4 * error).all()
    whole = summarise(likelihood.evaluate_works(built("learned"), {}, DATA, 1024))
    assert abs(whole.log_p - truth.mean()) < 4 * whole.trajectory_error < 0.2


def test_a_log_likelihood_is_written_with_its_error_and_ess():
    found = summarise(np.full((3, 4), -2.5))
    assert str(found) == (
        "log p = 2.500 nats, in the mean a lower bound; 95 % above 2.500 (M = 4, 0% of the"
        " estimates are values, median ESS 4.0, 3 examples)"
    )
    known = summarise(np.full((3, 40), -2.5))
    assert str(known).startswith("log p = 2.500 ± 0.000 nats (M = 40, 100% of the estimates")
    assert known.is_value and known.interval == (2.5, 2.5)
    assert str(summarise(np.full((1, 4), np.inf))).startswith("log p = −inf nats (M = 4, 0% of")


def test_intervals_of_a_mean_hold_the_bias_and_bounds_have_no_upper_end():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        log_p, sigma = rng.normal(-3, 0.02, 50), 0.8
        work = -log_p[:, None] + sigma**2 / 2 + sigma * rng.normal(size=(50, 64))
        found = summarise(work)
        assert found.values > 0.5 and found.is_value
        low, high = found.interval
        covered.append(low <= -3 <= high)
    assert np.mean(covered) > 0.88
    wide = summarise(3 * rng.normal(size=(50, 64)))
    assert not wide.is_value and wide.interval[1] == np.inf and wide.values < 0.1
