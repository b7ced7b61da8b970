"""Chains: the last step, respacing, the clamp of x̂^0; readouts and last steps of one's own."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import bent_chain, still_chain
from dpm_jax import posterior, training
from dpm_jax.core import binomial, gaussian, model, sampling, schedule
from dpm_jax.core.chain import fix_last_step, make_chain, respace
from dpm_jax.core.readout import Readout
from dpm_jax.likelihood import bound

T = 8
STEPS = schedule.constant_fraction(T, 0.05)
X = jnp.asarray([0.5, -1.2, 2.0])


class Line(NamedTuple):
    """A network of two numbers: the outputs slope x + log-SNR/10 and, where wanted, a constant."""

    outputs: int = 2

    def init(self, key, x, t, log_snr):
        return jnp.asarray([0.8, 0.5])

    def apply(self, variables, x, t, log_snr):
        raw = jnp.stack([variables[0] * x + log_snr / 10, jnp.full_like(x, variables[1])], axis=-1)
        return raw[..., : self.outputs]


def build(last_step="fixed", **options):
    """A Gaussian model on the network above, and parameters of it."""
    options = {"readout": "x0", **options}
    built = model.build(gaussian.family(), STEPS, Line(), (3,), last_step=last_step, **options)
    return built, built.init(jax.random.key(0))


def same(chain, other, rtol=0.0):
    """Both have the same schedule, and the same kernel at every t."""
    assert chain.last_step == other.last_step and chain.shape == other.shape
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=0.1 * rtol)
    jax.tree.map(close, chain.schedule, other.schedule)
    for t in range(1, chain.T + 1):
        jax.tree.map(close, *(c.reverse(X, jnp.asarray(t)) for c in (chain, other)))


# --- the last step ------------------------------------------------------------------------------


@pytest.mark.parametrize("last_step", ["none", "discretized", None])
def test_unknown_last_steps(last_step):
    message = rf"last_step: expected one of \('fixed', 'learned'\) or a function, got {last_step!r}"
    with pytest.raises(ValueError, match=message):
        make_chain(gaussian.family(), STEPS, lambda xt, t: None, (3,), last_step)
    with pytest.raises(ValueError, match=message):
        build(last_step)


@pytest.mark.parametrize(
    "family", [gaussian.family(), binomial.family(0.2)], ids=["gaussian", "binomial"]
)
def test_the_fixed_last_step_is_the_forward_kernel_and_all_others_are_the_networks(family):
    learned, x = bent_chain(family, STEPS, "learned"), jnp.asarray([1.0, 0.0, 1.0])
    forward = family.step(x, STEPS.beta[1])
    for fixed in (bent_chain(family, STEPS), fix_last_step(learned)):
        assert fixed.first_t == 2 and learned.first_t == 1
        jax.tree.map(np.testing.assert_array_equal, fixed.reverse(x, jnp.asarray(1)), forward)
        for t in (2, T):
            kernels = (c.reverse(x, jnp.asarray(t)) for c in (fixed, learned))
            jax.tree.map(np.testing.assert_array_equal, *kernels)


def test_a_last_step_that_is_a_function_has_the_networks_kernel_and_its_own_log_probability():
    def last_step(params, x0):
        return -jnp.sum(jnp.abs(x0 - params.mean))

    built, params = build(last_step)
    chain, learned = built.chain(params), build("learned")[0].chain(params)
    same(chain._replace(last_step="learned"), learned)
    key = jax.random.key(0)
    p = learned.reverse(sampling.noised(key, learned, X, 1), 1)
    np.testing.assert_allclose(bound.term(key, chain, X, 1), last_step(p, X), rtol=1e-5)
    assert chain.first_t == 1


@pytest.mark.parametrize(
    "last_step", [lambda params, x0: params.logits, lambda params: 0.0], ids=["logits", "arguments"]
)
def test_a_last_step_that_does_not_fit_the_family_is_refused(last_step):
    message = "last_step: expected a function of gaussian parameters and x.0, got one that fails"
    with pytest.raises(ValueError, match=message):
        build(last_step)


# --- respacing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_schedule", [False, True])
@pytest.mark.parametrize("last_step", ["fixed", "learned"])
def test_a_respaced_chain_is_that_of_the_model_in_fewer_steps(last_step, learn_schedule):
    built, params = build(last_step, learn_schedule=learn_schedule, x0_range=(-1.0, 1.0))
    short = built.chain(params, 3)
    assert short.T == 3
    same(respace(built.chain(params), 3), short)
    same(respace(built.chain(params), T), built.chain(params), rtol=1e-5)
    same(respace(fix_last_step(built.chain(params)), 3), fix_last_step(short))


def test_a_chain_that_is_bound_to_its_schedule_is_not_respaced():
    built, params = build()
    chain = built.chain(params)
    tilt = posterior.denoise(chain, X, 0.5)
    for bound_to_it in (still_chain(gaussian.family(), STEPS), posterior.tilted(chain, tilt)):
        with pytest.raises(ValueError, match="chain: expected one whose kernel takes any schedule"):
            respace(bound_to_it, 3)


@pytest.mark.parametrize("steps", [0, 1, T + 1])
def test_steps_outside_the_chain(steps):
    built, params = build()
    with pytest.raises(ValueError, match=rf"steps: expected 2\.\.8, got {steps}"):
        built.chain(params, steps)


# --- x0_range -----------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["x0", "v"])
def test_x0_range_clamps_everywhere_but_in_training(readout):
    free, params = build("learned", readout=readout)
    built, _ = build("learned", readout=readout, x0_range=(-0.3, 0.4))
    same(built.chain(params, clamped=False), free.chain(params))
    outside = 0
    for steps in (T, 3):
        chain = built.chain(params, steps)
        beta, log_alpha_bar = chain.schedule.beta, chain.schedule.log_alpha_bar
        for t in range(1, steps + 1):
            clamped, plain = (
                m.chain(params, steps).reverse(X, jnp.asarray(t)) for m in (built, free)
            )
            low, high = (
                gaussian.bridge(jnp.full(3, x0), X, beta[t], log_alpha_bar[t - 1]).mean
                for x0 in (-0.3, 0.4)
            )
            np.testing.assert_allclose(clamped.mean, jnp.clip(plain.mean, low, high), atol=1e-6)
            np.testing.assert_array_equal(clamped.variance, plain.variance)
            outside += int(jnp.sum(clamped.mean != plain.mean))
    assert outside > 5

    def gradient(m):
        loss = training.make_loss(m, num_t=0)
        return jax.grad(lambda p: loss(p, jax.random.key(0), X[None])[0])(params)["network"]

    np.testing.assert_array_equal(gradient(built), gradient(free))


@pytest.mark.parametrize("x0_range", [(1.0, -1.0), (0.0, 0.0), (0.0, np.nan)])
def test_a_range_that_is_none(x0_range):
    with pytest.raises(ValueError, match=r"x0_range: expected .low, high. with"):
        build(x0_range=x0_range)


# --- a readout of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("names", [("v", "between"), ("code", "eq64")])
def test_a_readout_goes_by_its_name_or_itself(names):
    by_name, params = build(readout=names[0], variance=names[1])
    itself, _ = build(readout=gaussian.readout(*names))
    same(itself.chain(params), by_name.chain(params))


def test_a_readout_of_ones_own_says_what_the_network_sees_and_how_large_K_is():
    def apply(raw, xt, schedule, t, x0_range):
        assert raw.shape == (6, 1)
        return gaussian.Normal(raw[:3, 0] - raw[3:, 0], jnp.full_like(xt, schedule.beta[t]))

    def features(xt, schedule, t):
        return jnp.concatenate([xt, jnp.full(3, schedule.noise[t])])

    def sizes(log_snr):
        return jnp.exp(-0.1 * log_snr)

    own = Readout(1, apply, features, sizes)
    built = model.build(gaussian.family(), STEPS, Line(1), (3,), own)
    params = built.init(jax.random.key(0))
    for chain in (built.chain(params), built.chain(params, 3)):
        found = chain.reverse(X, jnp.asarray(2))
        noise, beta = chain.schedule.noise[2], chain.schedule.beta[2]
        np.testing.assert_allclose(found.mean, 0.8 * (X - noise), rtol=1e-5)
        np.testing.assert_allclose(found.variance, jnp.full(3, beta), rtol=1e-6)
        plain = bound.time_law(chain._replace(kl_per_fold=None))
        ratio = (bound.time_law(chain) - 0.25 / (chain.T - 1)) / (plain - 0.25 / (chain.T - 1))
        expected = sizes(chain.schedule.log_snr)
        np.testing.assert_allclose((ratio / expected)[3:], (ratio / expected)[2], rtol=1e-3)
    with pytest.raises(ValueError, match=r"network: expected raw outputs of shape \(6, 1\)"):
        model.build(gaussian.family(), STEPS, Line(2), (3,), own)
