"""Particle Gibbs: sweeps of few particles go to posteriors that are known exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    C_CORRELATED,
    STATES,
    T,
    bits_chain,
    gaussian_chain,
    keys,
    mean_is,
    model_covariance,
)
from dpm_jax import binomial, particles, posterior, schedule
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import make_chain
from dpm_jax.posterior import linear, particle_gibbs

STEPS = schedule.constant_fraction(T, 0.1)
FLIP = 0.1
PAST = 100  # sweeps that are thrown away


def chains(key, chain, tilt, num, sweeps, number):
    """x^0 of independent Markov chains (number, sweeps, *event)."""
    found = jax.vmap(lambda k: particles.gibbs(k, chain, tilt, num, sweeps))(
        jax.random.split(key, number)
    )
    return found.x, found.changed, found.lost_t


def shares(x, states):
    """Of the sweeps of each chain, (chains, states)."""
    return (np.asarray(x)[:, :, None] == states).all(axis=-1).mean(axis=1)


def is_law(x, states, law):
    """Averages of independent chains over their later sweeps have this law."""
    later = shares(x[:, PAST:], states)
    # A state that was hardly met has no error of its own: at least that of free draws.
    free = np.sqrt(law * (1 - law) / later.shape[0] / (x.shape[1] - PAST))
    mean_is(later, law, errors=4.5, expected_error=free)


# --- three bits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bits():
    log_p, _, chain = bits_chain(STEPS)
    return np.exp(log_p), chain


@pytest.mark.parametrize("r_t, num", [("constant", 4), ("annealed", 2), ("noised", 3)])
def test_every_posterior_of_three_bits_seen_through_flips(r_t, num, bits):
    p, chain = bits

    def one(y):
        tilt = posterior.denoise(chain, y, FLIP, r_t)
        return chains(jax.random.key(0), chain, tilt, num, 3 * PAST, 64)

    x, changed, lost_t = jax.jit(jax.vmap(one))(jnp.asarray(STATES, jnp.float32))
    assert not np.asarray(lost_t).any() and np.asarray(changed).min() > 0
    r = np.where(STATES[:, None] == STATES, 1 - FLIP, FLIP).prod(axis=-1)
    law = p * r / (p * r).sum(axis=1, keepdims=True)
    for draws, expected in zip(np.asarray(x), law):
        is_law(draws, STATES, expected)
    # The first sweeps are filters of so few particles, and far from it.
    first = np.stack([shares(draws[:, :1], STATES).mean(axis=0) for draws in np.asarray(x)])
    later = np.stack([shares(draws[:, PAST:], STATES).mean(axis=0) for draws in np.asarray(x)])
    far, near = (np.abs(share - law).sum(axis=1).mean() / 2 for share in (first, later))
    assert near < 0.03 and far > 3 * near


def test_known_bits_stay_and_the_others_follow(bits):
    p, chain = bits
    known, values = np.array([False, True, False]), np.array([0.0, 1.0, 0.0])
    tilt = posterior.inpaint(chain, known, values, "noised")
    x, _, _ = jax.jit(lambda k: chains(k, chain, tilt, 2, 3 * PAST, 128))(jax.random.key(1))
    assert (np.asarray(x)[..., 1] == 1).all()
    is_law(x, STATES, p * STATES[:, 1] / (p * STATES[:, 1]).sum())


# --- five spins on a ring -----------------------------------------------------------------------


def ring():
    """p(x^0) of 32 states and the chain that has it: each spin leans to its neighbours' last."""
    states = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    rate, beta = np.full(5, 0.5), np.asarray(STEPS.beta)

    def logits(x, kept, lean, roll):
        return kept * (2 * x - 1) + lean * (roll(x, 1) + roll(x, -1) - 1) + 0.3

    def reverse(xt, t):
        strong = 1 + STEPS.beta[t]
        return Bernoulli(logits(xt, 0.8 * strong, 0.9 * strong, jnp.roll))

    p = np.full(32, 1 / 32)
    for t in range(T, 0, -1):
        strong = 1 + beta[t]
        each = np.stack(
            [1 / (1 + np.exp(-logits(s, 0.8 * strong, 0.9 * strong, np.roll))) for s in states]
        )
        p = p @ np.where(states == 1, each[:, None], 1 - each[:, None]).prod(axis=-1)
    chain = make_chain(binomial.family(rate), STEPS, reverse, (5,), "learned")
    return states, p, chain


@pytest.mark.parametrize("num", [2, 4])
def test_five_spins_in_a_field(num):
    states, p, chain = ring()
    field = np.array([1.5, -2.0, 0.0, 0.7, -1.0], np.float32)
    tilt = posterior.perturb(chain, lambda x: field * x, "annealed")
    x, changed, _ = jax.jit(lambda k: chains(k, chain, tilt, num, 3 * PAST, 256))(
        jax.random.key(num)
    )
    law = p * np.exp(states @ field)
    is_law(x, states, law / law.sum())
    assert np.asarray(changed).mean() > 0.7 * (1 - 1 / num)  # the most is 1 − 1/num


# --- Gaussian data ------------------------------------------------------------------------------

A = np.array([[1.0, 0.5, -0.3], [0.0, 1.0, 1.0]])
Y, NOISE = np.array([1.5, -1.0]), 0.3
CHAIN, _ = gaussian_chain(C_CORRELATED, STEPS)
B, CURVED = np.array([1.0, -0.5, 0.4], np.float32), 0.3


def bent(x):
    return jnp.sum(B * x - 0.5 * CURVED * x**2)


TILTS = {  # and what of log r, b x − x·precision·x/2, it is
    "mmps": (lambda: posterior.measure(CHAIN, A, Y, NOISE, "mmps"), True, False),
    "pigdm": (
        lambda: posterior.measure(CHAIN, linear.dense(A, (3,)), Y, NOISE, "pigdm"),
        True,
        False,
    ),
    "noised": (lambda: posterior.measure(CHAIN, A, Y, NOISE, "noised"), True, False),
    "to first order": (lambda: posterior.perturb(CHAIN, bent, "annealed"), False, True),
    "of two": (
        lambda: posterior.compose(
            posterior.measure(CHAIN, A, Y, NOISE), posterior.perturb(CHAIN, bent, "annealed")
        ),
        True,
        True,
    ),
}


@pytest.mark.parametrize("name", TILTS)
def test_gaussian_posteriors_with_three_particles(name):
    made, measured, curved = TILTS[name]
    S = np.asarray(model_covariance(STEPS, CHAIN.reverse), np.float64)
    precision = measured * A.T @ A / NOISE + curved * CURVED * np.eye(3)
    C = np.linalg.inv(np.linalg.inv(S) + precision)
    mean, tilt = C @ (measured * A.T @ Y / NOISE + curved * B), made()
    x, changed, lost_t = jax.jit(lambda k: chains(k, CHAIN, tilt, 3, 4 * PAST, 128))(
        jax.random.key(7)
    )
    assert not np.asarray(lost_t).any() and np.asarray(changed).min() > 0.02
    away = np.asarray(x, np.float64)[:, PAST:] - mean
    mean_is(away.mean(axis=1), 0, errors=4.5, expected_error=1e-6)
    mean_is(np.einsum("csi,csj->cij", away, away) / away.shape[1], C, 4.5, 1e-6)


def test_known_coordinates_of_gaussian_data():
    mask, known = np.array([True, False, False]), np.array([1.2, 0.0, 0.0])
    S = np.asarray(model_covariance(STEPS, CHAIN.reverse), np.float64)
    mean = S[1:, 0] / S[0, 0] * known[0]
    C = S[1:, 1:] - np.outer(S[1:, 0], S[0, 1:]) / S[0, 0]
    tilt = posterior.inpaint(CHAIN, mask, known, "noised")
    x, _, _ = jax.jit(lambda k: chains(k, CHAIN, tilt, 2, 4 * PAST, 128))(jax.random.key(8))
    assert (np.asarray(x)[..., 0] == np.float32(1.2)).all()
    away = np.asarray(x, np.float64)[:, PAST:, 1:] - mean
    mean_is(away.mean(axis=1), 0, errors=4.5)
    mean_is(np.einsum("csi,csj->cij", away, away) / away.shape[1], C, errors=4.5)


# --- its parts ----------------------------------------------------------------------------------


def test_parents_have_the_weights_law_in_every_slot_and_nearly_even_counts():
    weight = jnp.asarray([0.1, 0.0, 0.35, 0.25, 0.3])
    past = jnp.asarray([0.6, 0.1, 0.0, 0.0, 0.3])
    draw = jax.jit(jax.vmap(particle_gibbs._parents, (0, None, None)))
    free = np.asarray(draw(keys(20_000), weight, weight))
    for slot in range(5):
        mean_is(free[:, slot, None] == np.arange(5), weight, expected_error=1e-5)
    counts = (free[:, :, None] == np.arange(5)).sum(axis=1)
    assert (np.abs(counts - 5 * np.asarray(weight)) < 1 + 1e-5).all()
    mean_is(counts, 5 * np.asarray(weight), expected_error=1e-5)
    held = np.asarray(draw(keys(20_000), weight, past))
    mean_is(held[:, 0, None] == np.arange(5), past, expected_error=1e-5)
    # Given the parent of slot 0, the others are as if it had been drawn by its weight.
    for first in (0, 4):
        ours, theirs = held[held[:, 0] == first], free[free[:, 0] == first]
        expected = (theirs[:, 1:, None] == np.arange(5)).mean(axis=0)
        error = np.sqrt(expected * (1 - expected) / len(theirs)) + 1e-3
        mean_is(ours[:, 1:, None] == np.arange(5), expected, expected_error=error)


def test_effective_draws_of_an_autoregression():
    n, rho = 20_000, 0.8
    noise = np.random.default_rng(0).normal(size=(n, 2))
    x = np.zeros((n, 2))
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    x[:, 1] = noise[:, 1]
    effective = jax.jit(particle_gibbs.effective)
    found = effective(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, [n * (1 - rho) / (1 + rho), n], rtol=0.15)
    still = effective(jnp.tile(jnp.asarray([[0.5, 0.7]]), (1000, 1)))
    assert jnp.isnan(still).all()  # known, or stuck: worth an unknown number, however it rounds


def test_the_shapes_and_that_a_sweep_more_continues(bits):
    _, chain = bits
    tilt = posterior.denoise(chain, np.array([1.0, 0.0, 0.0]), FLIP, "noised")

    @jax.jit
    def draw(key):
        sizes = (3, 6), (3, 4), (2, 1)
        return [particles.gibbs(key, chain, tilt, num, sweeps) for num, sweeps in sizes]

    long, short, one = draw(jax.random.key(0))
    assert long.x.shape == (6, 3) and long.changed.shape == (T + 1,) and long.ess.shape == (3,)
    np.testing.assert_array_equal(long.x[:4], short.x)
    assert one.x.shape == (1, 3) and (np.asarray(one.changed) == 0).all()


def test_bad_arguments_are_named(bits):
    _, chain = bits
    tilt, key = posterior.denoise(chain, np.zeros(3), FLIP), jax.random.key(0)
    for args, error, message in (
        ((key, chain, tilt, 1, 5), ValueError, "num: expected at least 2, got 1"),
        ((key, chain, tilt, 4, 0), ValueError, "sweeps: expected at least 1, got 0"),
        ((key, chain, tilt, 4, 2.5), ValueError, "sweeps: expected a whole number"),
        ((0, chain, tilt, 4, 5), TypeError, "key: expected one key"),
        ((key, chain, "denoise", 4, 5), TypeError, "tilt: expected a Tilt"),
        ((key, CHAIN, tilt, 4, 5), ValueError, "tilt: expected one for Normal kernels"),
    ):
        with pytest.raises(error, match=message):
            particles.gibbs(*args)
    delta = posterior.inpaint(chain, np.ones(3, bool), np.zeros(3))
    with pytest.raises(ValueError, match="tilt: a delta at t > 0 has no weights"):
        particles.gibbs(key, chain, delta, 4, 5)


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_lost_weights_are_named_by_t(value, bits):
    _, chain = bits

    def log_z(params, x, t):
        return jnp.where(t == 2, value, 0.0)

    tilt = posterior.Tilt(T, lambda params, t: params, lambda x, t: jnp.zeros(()), log_z)
    with pytest.raises(ValueError, match="gibbs: step t = 2 left no weight, or one that is NaN"):
        particles.gibbs(jax.random.key(0), chain, tilt, 4, 3)


def test_float64_works(x64):
    chain, _ = gaussian_chain(np.diag([0.3, 1.2]), schedule.geometric(6, 0.05, 1e3))
    tilt = posterior.measure(chain, np.ones((1, 2)), [0.4], 0.1)
    found = jax.jit(lambda k: particles.gibbs(k, chain, tilt, 4, 3))(jax.random.key(0))
    assert found.x.dtype == jnp.float64 and jnp.isfinite(found.x).all()
