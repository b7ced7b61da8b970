"""What the pictures of a trained run show: the arrays behind them."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run_files import plain, small

from cases import C_CORRELATED, gaussian_chain
from dpm_jax import runs
from dpm_jax.core import binomial, gaussian, model, schedule
from dpm_jax.data import heartbeat
from dpm_jax.exact import heartbeat as exact
from dpm_jax.experiments import swiss_roll
from dpm_jax.networks import MLP, BumpDense, MultiScaleConv
from dpm_jax.runs import learned, plots


def seen(chain, x0, xt, t):
    return jax.vmap(partial(learned.kernel, chain))(x0, xt, jnp.full(len(xt), t))


@pytest.mark.parametrize("t", [2, 4, 6])
def test_the_kernel_of_a_gaussian_law_expects_its_wiener_filter(x64, t):
    steps = schedule.geometric(6, 1e-2)
    chain, _ = gaussian_chain(C_CORRELATED, steps)
    xt = jax.random.normal(jax.random.key(1), (5, 3))
    found = seen(chain, jnp.zeros_like(xt), xt, t)
    alpha_bar, beta = float(steps.alpha_bar[t]), float(steps.beta[t])
    S = alpha_bar * C_CORRELATED + (1 - alpha_bar) * np.eye(3)
    wiener = math.sqrt(alpha_bar) * np.asarray(xt) @ np.linalg.solve(S, C_CORRELATED)
    np.testing.assert_allclose(found.x0, wiener, atol=1e-9)
    law = jax.vmap(chain.reverse, (0, None))(xt, t)
    np.testing.assert_allclose(found.drift, law.mean - xt, atol=1e-12)
    np.testing.assert_allclose(found.variance, law.variance / beta, atol=1e-12)
    bound = np.log(steps.noise[t - 1] / steps.noise[t]) * 3 / 2
    np.testing.assert_allclose(found.entropies[:, 0] - found.entropies[:, 2], bound, atol=1e-9)
    assert np.all(np.diff(found.entropies[:, :2]) > 0)  # the lower bound lies below


def test_the_exact_kernel_of_bits_expects_the_posterior_of_the_phase():
    steps, rate = schedule.constant_fraction(50, 1e-4), 0.2
    network = exact.BayesNetwork(steps.log_alpha_bar, rate)
    built = model.build(binomial.family(rate), steps, network, (20,), "x0")
    x0 = heartbeat.sample(jax.random.key(0), 8)
    for t in (3, 20, 45):
        drawn = np.arange(8) < 6
        found = learned.kernels(built, {"network": {}}, x0, np.full(8, t), drawn)
        assert np.all(found.xt[~drawn] == np.asarray(x0)[~drawn])
        assert np.isin(found.xt, (0, 1)).all() and found.variance is None
        each = jax.vmap(exact.bit_logits, (0, None, None))
        logits = each(found.xt, steps.log_alpha_bar[t], rate)
        np.testing.assert_allclose(found.x0, jax.nn.sigmoid(logits), atol=2e-4)
        chain = built.chain({"network": {}})
        law = jax.vmap(chain.reverse, (0, None))(jnp.asarray(found.xt), t)
        beta = float(steps.beta[t])
        forward = found.xt * (1 - beta) + rate * beta
        np.testing.assert_allclose(found.drift, jax.nn.sigmoid(law.logits) - forward, atol=1e-6)


def test_noised_rows_have_the_law_of_their_t():
    steps = schedule.geometric(10, 1e-2)
    built = model.build(gaussian.family(), steps, MLP(4, 1, outputs=2), (2,))
    x0 = np.tile(np.float32([[1.0, -2.0]]), (4000, 1))
    params = built.init(jax.random.key(0))
    found = learned.kernels(built, params, x0, np.full(4000, 7), np.ones(4000, bool))
    mean, noise = math.sqrt(steps.alpha_bar[7]) * x0[0], float(steps.noise[7])
    assert np.all(abs(found.xt.mean(axis=0) - mean) < 5 * math.sqrt(noise / 4000))
    np.testing.assert_allclose(found.xt.var(axis=0), noise, rtol=0.12)
    np.testing.assert_allclose(
        found.entropies[0, 2], np.log(2 * np.pi * np.e * steps.beta[7]), 1e-5
    )


BUMPS = {  # network, readout, variance, place and centres of its bumps
    "t": (BumpDense(20, (8,), 5), "code", "t", np.array([2.0, 6, 10, 14, 18])),
    "conv": (
        MultiScaleConv(T=20, channels=2, layers=1, num_scales=1, pointwise=(3,), num_bumps=4,
                       outputs=2, condition="log_snr", log_snr_range=(-4.0, 4.0)),
        "v", "log-SNR, nats", np.array([-3.0, -1, 1, 3]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUMPS)
def test_bumps_sum_to_one_are_highest_at_their_centres_and_have_the_size_of_their_weights(name):
    network, readout, unit, centres = BUMPS[name]
    steps = schedule.geometric(20, 1e-2)
    built = model.build(gaussian.family(), steps, network, (4, 4, 1), readout)
    params = built.init(jax.random.key(0))
    weights = params["network"]["params"]["readout_kernel"]
    weights = weights.at[1, :, 0::2].set(0.0).at[2, :, 1::2].set(2.0)  # z^μ, z^Σ of a pixel
    params["network"]["params"]["readout_kernel"] = weights
    found = learned.bumps(built, params)
    assert found.unit == unit
    np.testing.assert_allclose(found.g.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.centres, centres)
    inner = found.g[:, 1:-1]  # those at the ends go on rising beyond their centres
    spacing = np.abs(np.diff(found.place)).max()
    assert np.all(abs(found.place[inner.argmax(axis=0)] - centres[1:-1]) < spacing + 0.8)
    mean, variance = found.sizes.values()
    assert mean[1] == 0 and variance[1] > 0
    assert variance[2] == pytest.approx(2 * math.sqrt(weights[2].size / 2))
    assert mean[0] == pytest.approx(float(jnp.linalg.norm(weights[0, :, 0::2])), rel=1e-5)


def test_other_networks_have_no_bumps():
    built = small()
    assert learned.bumps(built, built.init(jax.random.key(0))) is None


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    tiny = {"T": 8, "width": 4, "num_steps": 5, "batch_size": 16, "num_eval": 20, "num_t": -1}
    return runs.start(tmp_path_factory.mktemp("roll"), plain(swiss_roll.EXPERIMENT), **tiny)


def test_a_run_is_drawn_into_its_figures_and_its_rate_is_that_of_the_chain(roll, monkeypatch):
    lines = {}
    save = plots.save

    def kept(figure, path):
        lines[path.name] = [line.get_ydata() for line in figure.axes[0].lines]
        return save(figure, path)

    monkeypatch.setattr(plots, "save", kept)
    wrote = learned.draw(roll)
    assert wrote == {n: f"figures/{n}.png" for n in ("learned_schedule", "learned_kernel")}
    assert all((roll.workdir / path).stat().st_size > 10_000 for path in wrote.values())
    constant, start, ours = lines["learned_schedule.png"]
    chain = roll.model.chain(roll.params)
    np.testing.assert_allclose(ours, chain.schedule.beta[1:], rtol=1e-6)
    np.testing.assert_allclose(constant, 1 / np.arange(8, 0, -1), rtol=1e-6)
    assert start[0] == ours[0] and np.any(start[1:] != ours[1:])


def test_a_model_of_ones_own_has_its_rate_alone(tmp_path):
    built = small()
    run = runs.save(tmp_path / "run", built, built.init(jax.random.key(0)))
    assert learned.draw(run, tmp_path / "else") == {
        "learned_schedule": "../else/learned_schedule.png"
    }
