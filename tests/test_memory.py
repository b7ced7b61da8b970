"""Parts of a batch and work done again: the same gradient, to rounding, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import networks, training
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.training.step import _gradient

N = 8


def build(network, event=(3,), T=6):
    steps = schedule.geometric(T=T, beta_1=1e-2)
    return model.build(gaussian.family(), steps, network, event, readout="v")


class Affine:
    """Raw outputs w_t x + b of any precision."""

    def init(self, key, x, t, log_snr):
        return {"w": jax.random.normal(key, (7, 2), x.dtype), "b": jnp.ones(2, x.dtype)}

    def apply(self, params, x, t, log_snr):
        return jnp.tanh(jnp.outer(x, params["w"][t]) + params["b"][None])


@pytest.fixture(scope="module")
def dense():
    return build(networks.MLP(4, 1, outputs=2))


def gradient_of(built, num_t, parts=1, remat=False):
    loss = training.make_loss(built, num_t=num_t, remat=remat)
    params = built.init(jax.random.key(0))
    batch = jax.random.normal(jax.random.key(1), (N, *built.event_shape))
    return jax.jit(lambda p: _gradient(loss, parts, p, jax.random.key(2), batch))(params)


@pytest.mark.parametrize("num_t, parts", [(-1, 4), (4, 2), (2, 4), (0, 2), (0, 1)])
def test_parts_have_the_gradient_of_the_whole(num_t, parts, x64):
    """In float64, so that the same draws are seen to be taken, and not others like them."""
    built = build(Affine())
    whole = gradient_of(built, num_t)
    (_, K), gradient = gradient_of(built, num_t, parts, remat=num_t == 0)
    np.testing.assert_allclose(K, whole[0][1], rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole[1])):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


NETWORKS = {
    "UNet": (lambda r: networks.UNet((4, 8), 1, 0, 2, remat=r), 0.75),
    "MultiScaleConv": (lambda r: networks.MultiScaleConv(T=6, layers=5, channels=16, remat=r), 0.9),
    "sum over all t": (lambda r: networks.MLP(8, 1, outputs=2), 0.2),
}


def value_of(loss, batch, params):
    return loss(params, jax.random.key(2), batch)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_remat_keeps_less_and_changes_nothing(name):
    """What the backward pass is given, in bytes; parameters have the same names."""
    make, most = NETWORKS[name]
    event, num_t = ((3,), 0) if "all t" in name else ((8, 8, 1), -1)
    kept, values, trees = [], [], []
    for remat in (False, True):
        built = build(make(remat), event, T=100 if num_t == 0 else 6)
        loss = training.make_loss(built, num_t=num_t, remat=remat)
        params = built.init(jax.random.key(0))
        batch = jax.random.normal(jax.random.key(1), (2, *event))

        value = partial(value_of, loss, batch)
        found = jax.eval_shape(partial(jax.vjp, value), params)[1]
        kept.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found)))
        values.append(jax.jit(jax.grad(value))(params))
        trees.append(jax.tree.structure(params))
    assert trees[0] == trees[1] and kept[1] < most * kept[0], kept
    for a, b in zip(*map(jax.tree.leaves, values)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"microbatches": 3}, "microbatches: expected a divisor"),
        ({"microbatches": 0}, "microbatches: expected a divisor"),
        ({"microbatches": 8, "num_t": 4}, "microbatches: expected a divisor"),
        ({"remat": 1}, "remat: expected true or false, got 1"),
    ],
)
def test_bad_parts_are_refused(more, message):
    options = training.Options(batch_size=N * jax.local_device_count(), **more)
    with pytest.raises(ValueError, match=message):
        training.check(options)


def test_a_training_in_parts_is_that_of_the_whole(dense):
    data = jax.random.normal(jax.random.key(3), (32, 3))
    found = []
    for parts in (1, 2):
        options = training.Options(
            num_steps=3, batch_size=N * jax.local_device_count(), microbatches=parts
        )
        found.append(training.fit(dense, jnp.copy(data), options).params)
    for a, b in zip(*map(jax.tree.leaves, found)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
