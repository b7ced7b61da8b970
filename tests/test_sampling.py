"""Trajectories: moments of samples, one key is one trajectory, which t is in which slot."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import averaged, is_gaussian, mean_is, still_chain
from dpm_jax import networks
from dpm_jax.core import binomial, gaussian, model, sampling, schedule
from dpm_jax.core.chain import make_chain
from dpm_jax.core.gaussian import Normal

T = 7
SHAPE = (3,)


@pytest.fixture(params=["gaussian", "binomial"])
def family(request):
    return gaussian.family() if request.param == "gaussian" else binomial.family(0.2)


def test_samples_of_the_optimal_kernels_have_the_moments_of_the_data():
    steps = schedule.constant_fraction(T, 0.05)
    C = jnp.asarray([0.2, 1.0, 3.0])
    S = steps.alpha_bar[:, None] * C[None] + steps.noise[:, None]

    def reverse(xt, t):
        gain = jnp.sqrt(1 - steps.beta[t]) * S[t - 1] / S[t]
        return Normal(gain * xt, steps.beta[t] * S[t - 1] / S[t])

    chain = make_chain(gaussian.family(), steps, reverse, SHAPE, "learned")
    x0 = averaged(sampling.sample, 10_000, chain).astype(np.float64)
    mean_is(x0, 0.0)
    mean_is(x0**2, C)
    mean_is(x0**4, 3 * np.asarray(C) ** 2)
    mean_is(x0[:, 0] * x0[:, 1], 0.0)


def test_the_stationary_chain_samples_from_the_prior(family):
    chain = still_chain(family, schedule.linear(T, 0.1, 0.5))
    x0 = averaged(sampling.sample, 5000, chain).astype(np.float64)
    mean, variance = (0.0, 1.0) if is_gaussian(family) else (0.2, 0.16)
    mean_is(x0, mean)
    mean_is((x0 - mean) ** 2, variance)


def test_forward_trajectories_have_the_marginals(family):
    steps, x0 = schedule.constant_fraction(T, 0.05), jnp.asarray([1.0, 0.0, 1.0])
    chain = still_chain(family, steps)
    states = averaged(sampling.forward_trajectory, 5000, chain, x0, 3).astype(np.float64)
    assert states.shape == (5000, 3, 3)
    np.testing.assert_array_equal(states[:, 0], np.broadcast_to(x0, (5000, 3)))
    for slot, t in enumerate((0, 3, 6)):
        kept, noise = np.float64(steps.alpha_bar[t]), np.float64(steps.noise[t])
        if is_gaussian(family):
            mean, variance = np.sqrt(kept) * np.asarray(x0), noise
        else:
            mean = kept * np.asarray(x0) + 0.2 * noise
            variance = mean * (1 - mean)
        mean_is(states[:, slot], mean)
        if t:
            mean_is((states[:, slot] - mean) ** 2, variance)


@pytest.mark.parametrize("every", [1, 2, 3, 4, 6, 7])
def test_slot_k_holds_the_state_at_k_times_every(every):
    """A chain that counts: each forward step adds 1 to x, each reverse step takes 1 away."""
    counting = gaussian.family()._replace(
        sample=lambda key, params: params,
        prior=lambda shape: jnp.full(shape, float(T)),
        step=lambda x, beta: x + 1,
    )

    # The reverse kernel is told the t it steps from.
    def reverse(xt, t):
        return jnp.where(xt == t.astype(xt.dtype), xt - 1, jnp.nan)

    chain = make_chain(counting, schedule.constant_fraction(T), reverse, (2, 2), "learned")
    expected = np.arange(0, T + 1, every, dtype=np.float32)
    forward = sampling.forward_trajectory(jax.random.key(0), chain, jnp.zeros((2, 2)), every)
    assert forward.shape == (T // every + 1, 2, 2)
    np.testing.assert_array_equal(forward[:, 0, 1], expected)
    backward = sampling.reverse_trajectory(jax.random.key(0), chain, every)
    assert backward.shape == (T // every + 1, 2, 2)
    np.testing.assert_array_equal(backward[:, 1, 0], expected)


def test_one_key_is_one_trajectory(family):
    chain = still_chain(family, schedule.constant_fraction(T, 0.05), shape=(8,))

    @jax.jit
    def run(key):
        x0 = sampling.sample(key, chain)
        backward = [sampling.reverse_trajectory(key, chain, k) for k in (1, 3)]
        forward = [sampling.forward_trajectory(key, chain, x0, k) for k in (1, 3)]
        return x0, backward, forward

    x0, backward, forward = run(jax.random.key(4))
    np.testing.assert_allclose(backward[0][-1], sampling.start(jax.random.key(4), chain), 1e-6)
    for states in (backward, forward):
        np.testing.assert_array_equal(states[0][0], x0)
        np.testing.assert_array_equal(states[1], states[0][::3])
    assert not np.array_equal(run(jax.random.key(5))[0], x0)


@pytest.mark.parametrize("every", [0, -1, T + 1])
def test_every_outside_the_chain_is_refused(family, every):
    chain, key = still_chain(family, schedule.constant_fraction(T)), jax.random.key(0)
    with pytest.raises(ValueError, match=f"every: expected 1..7, got {every}"):
        sampling.reverse_trajectory(key, chain, every)
    with pytest.raises(ValueError, match=f"every: expected 1..7, got {every}"):
        sampling.forward_trajectory(key, chain, jnp.zeros(SHAPE), every)


def test_a_second_call_of_sample_compiles_nothing(caplog):
    def built():
        steps = schedule.constant_fraction(T, 0.05)
        network = networks.MLP(4, 1, outputs=2)
        return model.build(gaussian.family(), steps, network, SHAPE, "v", x0_range=[-3, 3])

    m, key = built(), jax.random.key(1)
    params = m.init(jax.random.key(0))
    other = jax.tree.map(lambda leaf: leaf + 0.3, params)
    first = model.sample(m, params, key, 5), model.sample(m, params, key, 5, steps=3)
    keys = jax.random.split(key, 5)
    expected = jax.vmap(lambda k: sampling.sample(k, m.chain(params, 3)))(keys)
    np.testing.assert_allclose(first[1], expected, rtol=1e-4, atol=1e-5)
    with jax.log_compiles():
        again = model.sample(m, params, key, 5), model.sample(m, params, key, 5, steps=3)
        others = model.sample(m, other, key, 5)
        assert not [r for r in caplog.records if "ompil" in r.message]
        model.sample(m, params, key, 6)
        assert [r for r in caplog.records if "ompil" in r.message]
    np.testing.assert_array_equal(first, again)
    assert np.any(others != first[0])


def test_the_compiled_samplers_that_are_kept_are_few():
    class Made:
        def __call__(self, params, x0_range):
            raise AssertionError

    made = weakref.WeakSet()
    for _ in range(40):
        one = Made()
        made.add(one)
        model._sampler(one, None, None)
    del one
    gc.collect()
    assert len(made) == 16


@pytest.mark.parametrize("given", [{"num": 0}, {"num": 2.5}, {"num": "2"}, {"num": 2, "steps": 1}])
def test_sample_refuses_numbers_that_are_none(given):
    network = networks.MLP(1, 1, outputs=2)
    m = model.build(gaussian.family(), schedule.linear(4, 0.1, 0.5), network, (1,), "v")
    name, value = list(given.items())[-1]
    with pytest.raises(ValueError, match=f"^{name}: expected .* got {value!r}"):
        model.sample(m, {}, jax.random.key(0), **given)
