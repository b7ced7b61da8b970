"""A family that the library does not know: three values a site, trained, bounded and tilted."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import averaged, error_of, keys, mean_is
from dpm_jax import likelihood, networks, posterior, training
from dpm_jax.core import model, sampling, schedule
from dpm_jax.core.family import Family, Noise
from dpm_jax.core.readout import Readout


class Three(NamedTuple):
    """log P(0), log P(1) and log P(2) of each site, up to a constant of the site."""

    zero: jax.Array
    one: jax.Array
    two: jax.Array


def of(log_weights):
    return Three(*jnp.moveaxis(log_weights, -1, 0))


def logs(params):
    """(*event, 3): normalised."""
    return jax.nn.log_softmax(jnp.stack(params, axis=-1))


def hot(x):
    return jax.nn.one_hot(x.astype(int), 3, dtype=x.dtype)


def mixed(x, noise):
    """x itself, and with probability `noise` any of the three values instead."""
    return of(jnp.log((1 - noise) * hot(x) + noise / 3))


def bridge(x0, xt, beta, log_alpha_bar_prev):
    return of(logs(mixed(x0, -jnp.expm1(log_alpha_bar_prev))) + logs(mixed(xt, beta)))


def multiply(p, r):
    product = logs(p) + logs(r)
    return of(product), jax.nn.logsumexp(product, axis=-1)


def kl(q, p):
    q, p = logs(q), logs(p)
    return jnp.sum(jnp.where(q > -jnp.inf, jnp.exp(q) * (q - p), 0.0))


def perturb(params, log_r):
    values = [log_r(jnp.full_like(params.zero, value)) for value in (0.0, 1.0, 2.0)]
    return of(logs(params) + jnp.stack(values, axis=-1))


def noised(r, log_alpha_bar):
    signal, r = jnp.exp(log_alpha_bar), jnp.exp(logs(r))
    return of(jnp.log(signal * r - jnp.expm1(log_alpha_bar) * jnp.mean(r, axis=-1, keepdims=True)))


def read_x0(raw, xt, schedule, t, x0_range):
    """P(x^0|x^t) = softmax(raw), through the exact bridge."""

    def to(value):
        x0 = jnp.full_like(xt, value)
        return logs(bridge(x0, xt, schedule.beta[t], schedule.log_alpha_bar[t - 1]))

    kernels = jnp.stack([to(value) for value in (0.0, 1.0, 2.0)], axis=-1)  # site, x^{t-1}, x^0
    return of(jax.nn.logsumexp(jax.nn.log_softmax(raw)[:, None, :] + kernels, axis=-1))


def validate(data):
    if not np.isin(data, (0, 1, 2)).all():
        raise ValueError("data: expected only 0, 1 and 2")


FAMILY = Family(
    name="three values",
    validate=validate,
    prior=lambda shape: of(jnp.zeros((*shape, 3))),
    step=mixed,
    marginal=lambda x0, log_alpha_bar: mixed(x0, -jnp.expm1(log_alpha_bar)),
    bridge=bridge,
    perturb=perturb,
    curvature=lambda params, log_r: jnp.zeros(()),
    observe=lambda y, noise: mixed(jnp.asarray(y, float), noise),
    multiply=multiply,
    power=lambda r, s: of(s * logs(r)),
    noised=noised,
    sample=lambda key, p: jax.random.categorical(key, logs(p)).astype(p.zero.dtype),
    log_prob=lambda params, x: jnp.sum(jnp.where(hot(x) > 0, logs(params), 0.0)),
    entropy=lambda params: jnp.sum(jax.scipy.special.entr(jnp.exp(logs(params)))),
    kl=kl,
    readout=lambda mean, variance: Readout(3, read_x0),
    noise=Noise("probability of a value at random", most=1.0, default=0.1, additive=False),
)
STATES = np.array(list(itertools.product((0.0, 1.0, 2.0), repeat=2)), np.float32)
COUNTS = np.array([30, 5, 5, 3, 2, 20, 5, 25, 5])  # of 100; the two sites know of each other
LAW = COUNTS / 100
DATA = np.repeat(STATES, COUNTS, axis=0)


@pytest.fixture(scope="module")
def trained():
    """The model, its parameters, its chain, and its exact law p(x^0) by enumeration."""
    network = networks.MLP(width=32, depth=2, octaves=2, outputs=3)
    steps = schedule.constant_fraction(20)
    built = model.build(FAMILY, steps, network, (2,), last_step="learned")
    params = training.fit(built, DATA, training.Options(1500, 128, 1e-2)).ema
    chain, x, p = built.chain(params), jnp.asarray(STATES), np.full(9, 1 / 9)

    @jax.jit
    def kernel(t):  # [x^t, x^{t-1}]
        def one(xt, x):
            return FAMILY.log_prob(chain.reverse(xt, t), x)

        return jnp.exp(jax.vmap(jax.vmap(one, (None, 0)), (0, None))(x, x))

    for t in range(20, 0, -1):
        p = p @ np.asarray(kernel(jnp.asarray(t)), np.float64)
    assert p.sum() == pytest.approx(1, abs=1e-4)
    return built, params, chain, p


def test_K_is_below_log_p_and_close_to_minus_the_entropy_of_the_law(trained):
    built, params, _, p = trained
    result = likelihood.evaluate(built, params, np.tile(DATA, (100, 1)))
    log_p, H = LAW @ np.log(p), -LAW @ np.log(LAW)
    assert result.K - 5 * result.K_error < log_p < -H < result.K + 0.08
    assert result.K_error < 0.03


def test_log_p_is_that_of_enumeration(trained):
    _, _, chain, p = trained
    one = jax.jit(jax.vmap(lambda key, x: likelihood.estimate(key, chain, x, 1000)))
    found = one(keys(9), jnp.asarray(STATES))
    assert (np.abs(found.value - np.log(p)) < 5 * found.error).all() and found.error.max() < 0.05


def test_samples_have_the_law_of_the_model_which_is_close_to_that_of_the_data(trained):
    _, _, chain, p = trained
    draws = averaged(sampling.sample, 5000, chain)
    mean_is((draws[:, None] == STATES[None]).all(axis=-1), p)
    np.testing.assert_allclose(p, LAW, atol=0.02)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_inpainting_by_particles_is_the_exact_conditional(trained, value):
    _, _, chain, p = trained
    known, mask = np.array([value, 0.0]), np.array([True, False])
    tilt = posterior.inpaint(chain, mask, known, r_t="noised")

    def one(key):
        return posterior.particles.sample(key, chain, tilt, 100)

    found = jax.jit(jax.vmap(one))(keys(200))
    assert (found.x[..., 0] == value).all()
    share = np.einsum("pn,pnk->pk", found.weight, np.asarray(hot(found.x[..., 1])))
    joint = p.reshape(3, 3)[value]
    mean_is(share, joint / joint.sum())
    mean_is(np.exp(found.log_z), joint.sum())
    assert error_of(share).max() < 0.01


def test_the_exact_product_and_any_log_r_agree(trained):
    _, _, chain, _ = trained
    y, r = np.array([1.0, 2.0]), FAMILY.observe(np.array([1.0, 2.0]), 0.3)

    def log_r(x):
        return jnp.sum(jnp.where(hot(x) > 0, logs(r), 0.0), axis=-1)

    kernel = chain.reverse(jnp.asarray(STATES[5]), jnp.asarray(3))
    tilts = posterior.denoise(chain, y, 0.3), posterior.perturb(chain, log_r)
    np.testing.assert_allclose(*(logs(tilt(kernel, jnp.asarray(3))) for tilt in tilts), 1e-5)


def test_what_is_not_of_the_family_is_refused(trained):
    with pytest.raises(ValueError, match="data: expected only 0, 1 and 2"):
        training.fit(trained[0], DATA + 1, training.Options(1, 2))
    with pytest.raises(ValueError, match=r"objective: 'v' expects .* got .*three values"):
        training.make_loss(trained[0], "v")
