"""Trajectories down and up: unbiased on both sides, for any kernels; narrower than the paper's."""

from functools import lru_cache

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
)
from dpm_jax import likelihood, schedule
from dpm_jax.likelihood import up_down

STEPS = {
    "several steps down": schedule.geometric(16, 0.1, 30.0),
    "one level above": schedule.constant_fraction(4, 0.1),  # t_1 = 1: ᾱ_2 < ᾱ_1²
}
X0 = np.array([0.7, -0.9, 0.2])


@lru_cache
def chain_of(name, C="correlated"):
    """Diagonal kernels for correlated data: linear and not exact, so that p(x^0) is known."""
    of = {"correlated": C_CORRELATED, "diagonal": C_DIAGONAL}[C]
    chain, _ = gaussian_chain(of, STEPS[name], "fixed")
    return chain, model_covariance(STEPS[name], chain.reverse)


def test_where_trajectories_turn():
    assert [up_down.turn(chain_of(name)[0]) for name in STEPS] == [3, 1]
    steps = STEPS["several steps down"]
    at = up_down.turn(chain_of("several steps down")[0])
    level = np.asarray(steps.log_alpha_bar)
    assert level[at] > 2 * level[1] >= level[at + 1]
    assert jax.jit(lambda: up_down.turn(chain_of("several steps down")[0]))() == at


@pytest.mark.parametrize("C", ["correlated", "diagonal"])
@pytest.mark.parametrize("name", STEPS)
def test_the_mean_of_the_weights_is_p(name, C):
    chain, S = chain_of(name, C)
    works = jax.jit(lambda k: likelihood.forward_works(k, chain, X0, 20_000, proposal="up_down"))
    mean_is(np.exp(-works(jax.random.key(0)) - log_density(S, X0)), 1.0)


@pytest.mark.parametrize("name", STEPS)
def test_the_reverse_side_has_the_mean_1_over_p(name):
    """E over samples of the model of p(x^0)/p̂_up(x^0) is 1, at one trajectory and at four."""
    chain, S = chain_of(name)

    @jax.jit
    def many():
        one = jax.vmap(lambda k: likelihood.reverse_work(k, chain, "up_down"))
        four = jax.vmap(lambda k: likelihood.sandwich(k, chain, 4, proposal="up_down"))
        return one(keys(20_000)), four(keys(20_000, 1))

    (x0, work), found = jax.tree.map(np.asarray, many())
    p = np.array([log_density(S, x) for x in x0])
    mean_is(np.exp(work + p), 1.0)
    p = np.array([log_density(S, x) for x in found.x0])
    mean_is(np.exp(p - found.upper), 1.0)
    mean_is(np.exp(found.lower - p), 1.0)
    mean_is(x0[:, :, None] * x0[:, None], S)  # a sample of the model


def test_in_many_dimensions_it_is_closer_than_the_paper_s_order():
    """32 dimensions, half of them flat, T = 200: an eighth of the paper's width, or less."""
    spectrum = np.where(np.arange(32) < 16, 2.0 / (1 + np.arange(32)), 1e-4)
    chain, _ = gaussian_chain(np.diag(spectrum), schedule.geometric(200, 2e-3, 1e4), "fixed")

    @jax.jit
    def widths(keys):
        def of(proposal):
            found = jax.vmap(lambda k: likelihood.sandwich(k, chain, 8, proposal=proposal))(keys)
            return jnp.mean(found.upper - found.lower)

        return of("paper"), of("up_down")

    paper, ours = widths(keys(16))
    assert abs(float(ours)) < float(paper) / 8


def test_gradients_are_those_of_differences(x64):
    chain, _ = gaussian_chain(C_CORRELATED, schedule.geometric(16, 0.1, 30.0), "fixed")
    work = jax.jit(lambda x: likelihood.forward_work(jax.random.key(0), chain, x, "up_down"))
    step = 1e-5 * np.eye(3)
    slope = [(work(X0 + h) - work(X0 - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(jax.grad(work)(X0), slope, rtol=1e-5)
