"""K and W in float32 against float64, with the same noise, where the steps are tiny."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, bound, gaussian, likelihood, schedule
from dpm_jax.core.chain import make_chain

VARIANCE = 0.7  # of the data
N = 8  # examples, of 8 elements


@pytest.fixture
def same_noise(monkeypatch):
    """float32 random numbers in either precision."""
    for name in ("normal", "logistic"):
        draw = getattr(jax.random, name)
        monkeypatch.setattr(
            jax.random, name, lambda k, s, d=float, draw=draw: draw(k, s, jnp.float32).astype(d)
        )


def in_both(function, family, steps, last, x0):
    """function(key, chain, x0) of each example in float32 and in float64: (N,) float64 each."""
    found = []
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):

            def cast(tree, dtype=dtype):
                return jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, tree)

            made = family(dtype)
            kind = made._replace(prior=lambda shape, m=made, cast=cast: cast(m.prior(shape)))
            schedules = cast(steps())
            chain = make_chain(kind, schedules, last(schedules, dtype), x0.shape[1:])
            each = jax.jit(jax.vmap(lambda key, x, chain=chain: function(key, chain, x)))
            keys = jax.random.split(jax.random.key(0), len(x0))
            found.append(np.asarray(each(keys, jnp.asarray(x0, dtype)), np.float64))
    return found


def denoiser(steps, dtype):
    """The kernel of the best linear x̂^0, through the bridge."""
    read = gaussian.readout("x0", "posterior")

    def reverse(xt, t):
        a = steps.alpha_bar[t]
        x0 = jnp.sqrt(a) * VARIANCE / (a * VARIANCE + steps.noise[t]) * xt
        return read.apply(x0[..., None].astype(dtype), xt, steps, t, None)

    return reverse


def gaussians():
    return np.sqrt(VARIANCE) * np.random.default_rng(0).normal(size=(N, 8))


@pytest.mark.parametrize(("T", "beta_1"), [(1000, 1e-3), (10_000, 1e-6), (100_000, 1e-7)])
def test_K_of_gaussians(same_noise, T, beta_1):
    single, double = in_both(
        lambda key, chain, x: bound.exact(key, chain, x).K,
        lambda dtype: gaussian.family(),
        lambda: schedule.geometric(T, beta_1),
        denoiser,
        gaussians(),
    )
    np.testing.assert_allclose(single, double, rtol=1e-5)


def test_W_of_gaussians(same_noise):
    """The states are rounded, so each W is that of a neighbouring trajectory; their mean is not."""
    single, double = in_both(
        likelihood.forward_work,
        lambda dtype: gaussian.family(),
        lambda: schedule.geometric(10_000, 1e-6),
        denoiser,
        np.tile(gaussians(), (16, 1)),
    )
    difference = single - double
    assert difference.std() < 0.02  # nats, of W with a spread of 2
    error = difference.std() / np.sqrt(len(difference))
    assert abs(difference.mean()) < 5 * error < 1e-3 * abs(double.mean())


def test_K_of_bits(same_noise):
    """The kernel P(x^0 = 1|x^t) = 0.3, or 0.7 where x^t is 1, through the bridge."""

    def family(dtype):
        rate = jnp.asarray(0.4, dtype)
        made = binomial.family()
        own = {"prior": binomial.prior, "step": binomial.step, "marginal": binomial.marginal}
        own |= {"bridge": binomial.bridge, "readout": binomial.readout}
        return made._replace(**{name: partial(f, rate) for name, f in own.items()})

    def last(steps, dtype):
        read = family(dtype).readout("x0")

        def reverse(xt, t):
            logit = jnp.where(xt > 0.5, 1.0, -1.0).astype(dtype)
            return read.apply(logit[..., None], xt, steps, t, None)

        return reverse

    bits = np.random.default_rng(0).integers(0, 2, (N, 8)).astype(float)
    single, double = in_both(
        lambda key, chain, x: bound.exact(key, chain, x).K,
        family,
        lambda: schedule.constant_fraction(10_000, 1e-7),
        last,
        bits,
    )
    np.testing.assert_allclose(single, double, rtol=1e-5)
