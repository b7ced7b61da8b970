"""Networks: shapes, gradients, what each is conditioned on, bumps (eq. 63); build's errors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import likelihood, networks, training
from dpm_jax.core import binomial, gaussian, model, schedule
from dpm_jax.core.chain import LAST_STEPS
from dpm_jax.likelihood import bound
from dpm_jax.networks.paper import bumps

T = 8
STEPS = schedule.constant_fraction(T, 0.05)
NETWORKS = {
    "RBF": (networks.RBF(T, units=5), (3,)),
    "SigmoidPerceptron": (networks.SigmoidPerceptron(T, units=(6, 5), outputs=2), (3,)),
    "BumpDense": (networks.BumpDense(T, units=(7, 6), num_bumps=3), (2, 3)),
    "MLP": (networks.MLP(width=8, depth=2, octaves=2, outputs=2), (3,)),
    "ResidualMLP": (networks.ResidualMLP(width=8, depth=2, outputs=2), (2, 2)),
    "UNet": (networks.UNet((4, 6), 1, bottleneck=5, outputs=2, mixing="all"), (8, 4, 2)),
    "MultiScaleConv, FiLM": (
        networks.MultiScaleConv(
            T, 4, 2, 2, pointwise=(4,), outputs=2, condition="log_snr", film=True
        ),
        (8, 4, 2),
    ),
}
KNOW_T = ("RBF", "SigmoidPerceptron", "BumpDense")


@pytest.fixture(params=NETWORKS)
def case(request):
    """A network's name, itself, its event, and parameters without the zeros it starts from."""
    network, shape = NETWORKS[request.param]
    x = jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    params = jax.jit(network.init)(jax.random.key(0), x, jnp.asarray(1), jnp.asarray(0.0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)]
    return request.param, network, x, jax.tree.unflatten(tree, leaves)


def test_outputs_conditioning_and_gradients(case):
    name, network, x, params = case

    def loss(params, x, t, log_snr):
        raw = network.apply(params, x, t, log_snr)
        return jnp.sum(raw**2), raw

    compiled = jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    def call(t, log_snr):
        gradient, raw = compiled(params, x, jnp.asarray(t), jnp.asarray(log_snr))
        return jax.tree.map(np.asarray, jax.tree.leaves(gradient)), np.asarray(raw)

    gradient, raw = call(3, 0.5)
    assert raw.shape == (*x.shape, 2) and raw.dtype == np.float32
    assert np.any(raw != call(4, 0.5)[1]) == (name in KNOW_T)
    assert np.any(raw != call(3, -2.0)[1]) == (name not in KNOW_T)
    assert all(np.any(leaf != 0) for leaf in gradient)
    for log_snr in (-20.0, 20.0):
        gradient, raw = call(3, log_snr)
        assert all(np.isfinite(leaf).all() for leaf in (*gradient, raw))


CONV = networks.MultiScaleConv(T, 4, 2, 2, pointwise=(4,), dense=(5,), condition="log_snr")
SMALL = NETWORKS | {
    "MultiScaleConv": (CONV, (8, 4, 2)),
    "UNet, bfloat16": (NETWORKS["UNet"][0].clone(dtype=jnp.bfloat16), (8, 4, 2)),
    "MultiScaleConv, bfloat16": (CONV.clone(dtype=jnp.bfloat16), (8, 4, 2)),
}


@pytest.mark.parametrize("name", SMALL)
def test_float64_under_strict_promotion(x64, name):
    """With the parameters of a training in float32, which flax's are under x64 too."""
    network, shape = SMALL[name]
    x = jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    rest = jnp.asarray(3, jnp.int32), jnp.asarray(0.3)

    @jax.jit
    def run(x):
        params = network.init(jax.random.key(0), x, *rest)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)

        def loss(params, x):
            raw = network.apply(params, x, *rest)
            return jnp.sum(raw**2), raw

        gradient, raw = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return params, gradient, raw

    params, gradient, raw = run(x)
    assert raw.dtype == gradient[1].dtype == x.dtype == jnp.float64
    assert jax.tree.map(jnp.result_type, gradient[0]) == jax.tree.map(jnp.result_type, params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((gradient, raw)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_model_trains_and_is_measured_in_float64_whatever_its_data(x64, dtype):
    rows = np.random.default_rng(0).standard_normal((8, 3)).astype(dtype)
    steps = schedule.constant_fraction(T, 0.05)
    built = model.build(gaussian.family(), steps, NETWORKS["MLP"][0], (3,), "v")
    devices = jax.local_device_count()
    state = training.fit(built, rows, training.Options(num_steps=2, batch_size=devices))
    chain, key = built.chain(state.ema), jax.random.key(0)
    assert np.isfinite(likelihood.evaluate(built, state.ema, rows).K)
    for x0 in (rows[0], jnp.asarray(rows[0])):
        assert likelihood.estimate(key, chain, x0, 4).value.dtype == jnp.float64
    assert model.sample(built, state.ema, key, 2).dtype == jnp.float64


@pytest.mark.parametrize("case", ["RBF", "MLP"], indirect=True)
def test_same_parameters_serve_the_respaced_chain(case):
    _, network, x, params = case
    built = model.build(gaussian.family(), STEPS, network, x.shape, "v")
    params = {"network": params}
    assert list(np.asarray(built.chain(params, 3).schedule.network_t)) == [0, 1, 4, 8]
    batch = jnp.stack([x, -x])

    @jax.jit
    def use(key):
        x0 = model.sample(built, params, key, 2, steps=3)
        chain = built.chain(params, 3)
        bounds = jax.vmap(lambda k, x: bound.exact(k, chain, x))
        return bounds(jax.random.split(key, 2), batch), x0

    (K, L_null), x0 = use(jax.random.key(0))
    assert K.shape == L_null.shape == (2,) and np.isfinite(K).all()
    assert x0.shape == batch.shape and np.isfinite(x0).all()


class Echo(NamedTuple):
    """A network without parameters whose raw outputs are t and log-SNR: shows what reaches it."""

    which: str
    outputs: int = 1

    def init(self, key, x, t, log_snr) -> Any:
        return {}

    def apply(self, variables, x, t, log_snr):
        value = t.astype(x.dtype) if self.which == "t" else log_snr
        return jnp.full((*x.shape, self.outputs), value)


@pytest.mark.parametrize("which", ["t", "log_snr"])
def test_networks_are_told_the_original_t_and_the_log_snr_of_the_respaced_chain(which):
    family, event = binomial.family(0.2), (2,)
    built = model.build(family, STEPS, Echo(which), event, "sigmoid", last_step="learned")
    short = built.chain({"network": {}}, 4)
    table = STEPS.network_t if which == "t" else STEPS.log_snr
    for t in range(1, 5):
        logits = short.reverse(jnp.zeros(event), jnp.asarray(t)).logits
        np.testing.assert_allclose(
            logits, np.full(2, table[short.schedule.network_t[t]]), rtol=1e-6
        )


def test_build_fixes_the_last_step_or_leaves_it_to_the_network():
    family, event = binomial.family(0.2), (2,)
    x1 = jnp.asarray([1.0, 0.0])
    for last_step in LAST_STEPS:
        built = model.build(family, STEPS, Echo("t"), event, "sigmoid", last_step=last_step)
        kernel = built.chain({"network": {}}).reverse
        expected = family.step(x1, STEPS.beta[1]).logits if last_step == "fixed" else jnp.ones(2)
        np.testing.assert_allclose(kernel(x1, jnp.asarray(1)).logits, expected, rtol=1e-6)
        np.testing.assert_allclose(kernel(x1, jnp.asarray(2)).logits, np.full(2, 2.0), rtol=1e-6)


def test_a_learned_schedule_starts_where_it_was_told_and_has_gradients():
    network, shape = NETWORKS["MLP"]
    built = model.build(gaussian.family(), STEPS, network, shape, "v", learn_schedule=True)
    params = jax.jit(built.init)(jax.random.key(0))
    np.testing.assert_allclose(built.chain(params).schedule.beta[:-1], STEPS.beta[:-1], rtol=1e-5)

    def K(params, key):
        chain = built.chain(params)
        each = jax.vmap(lambda k: bound.exact(k, chain, jnp.ones(shape)).K)
        return jnp.sum(each(jax.random.split(key, 2)))

    gradient = jax.jit(jax.grad(K))(params, jax.random.key(0))
    assert jnp.isfinite(gradient["beta_logits"]).all()
    assert jnp.all(gradient["beta_logits"] != 0)


def test_bumps_of_eq_63():
    T, num = 1000, 10
    t = jnp.arange(0.0, T + 1)
    g = np.asarray(jax.vmap(lambda t: bumps(t, T, num))(t))
    np.testing.assert_allclose(g.sum(axis=1), 1.0, rtol=1e-6)
    centres, width = (np.arange(num) + 0.5) * 100, 100.0
    weights = np.exp(-((np.arange(T + 1)[:, None] - centres) ** 2) / (2 * width**2))
    np.testing.assert_allclose(
        g, weights / weights.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(g[centres.astype(int)].argmax(axis=1), np.arange(num))
    # The outermost bumps are pulled outwards by the normalisation; the inner ones are not.
    np.testing.assert_allclose(g.argmax(axis=0)[3:-3], centres[3:-3], atol=3)


@pytest.mark.parametrize(
    "name, shape",
    [("RBF", (2, 2)), ("SigmoidPerceptron", (2, 2)), ("UNet", (3,)), ("UNet", (6, 8, 1))],
)
def test_an_event_that_the_network_does_not_take_is_refused(name, shape):
    with pytest.raises(ValueError, match=rf"network: {name} does not take an event of shape"):
        model.build(gaussian.family(), STEPS, NETWORKS[name][0], shape)


def test_a_network_that_fails_without_a_message_is_refused_too():
    class Bare(Echo):
        def apply(self, variables, x, t, log_snr):
            raise AssertionError

    with pytest.raises(ValueError, match=r"network: Bare does not take an event of shape \(3,\)"):
        model.build(binomial.family(), STEPS, Bare("t"), (3,), "x0")


def test_outputs_that_the_readout_does_not_take_are_refused():
    network, shape = NETWORKS["MLP"]
    with pytest.raises(ValueError, match=r"network: expected .* \(3, 1\) .*, got \(3, 2\)"):
        model.build(gaussian.family(), STEPS, network, shape, "v", "posterior")
    with pytest.raises(ValueError, match=r"network: .* and one for the variance\), got \(3, 1\)"):
        model.build(gaussian.family(), STEPS, networks.MLP(), shape, "v")


def test_build_refuses_a_learned_schedule_for_bits_and_unknown_last_steps():
    network = networks.MLP(width=4, depth=1)
    with pytest.raises(ValueError, match=r"learn_schedule: expected .* gaussian; got binomial"):
        model.build(binomial.family(), STEPS, network, (3,), "x0", learn_schedule=True)
    with pytest.raises(ValueError, match="last_step: expected one of"):
        model.build(binomial.family(), STEPS, network, (3,), "x0", last_step="none")
