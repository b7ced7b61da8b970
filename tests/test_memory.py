"""Parts of a batch and work done again: the same gradient, to rounding, in less memory."""

from functools import lru_cache, partial

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


@lru_cache
def gradient_of(num_t, parts=1, remat=False):
    loss = training.make_loss(build(Affine()), num_t=num_t, remat=remat)
    rng = np.random.default_rng(0)
    params = {"network": {"w": rng.normal(size=(7, 2)), "b": np.ones(2)}}
    batch = jnp.asarray(rng.normal(size=(N, 3)))
    return jax.jit(lambda p: _gradient(loss, parts, p, jax.random.key(2), batch))(params)


@pytest.mark.parametrize("num_t, parts", [(-1, 4), (4, 2), (2, 4), (0, 2), (0, 1)])
def test_parts_have_the_gradient_of_the_whole(num_t, parts, x64):
    """In float64, so that the same draws are seen to be taken, and not others like them."""
    whole = gradient_of(num_t)
    (_, K), gradient = gradient_of(num_t, parts, remat=num_t == 0)
    np.testing.assert_allclose(K, whole[0][1], rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(whole[1])):
        assert a.dtype == np.float64
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
    """What the backward pass is given, in bytes; parameters have the same names and shapes."""
    make, most = NETWORKS[name]
    event, num_t = ((3,), 0) if "all t" in name else ((8, 8, 1), -1)
    both = [build(make(remat), event, T=100 if num_t == 0 else 6) for remat in (False, True)]
    alike = [jax.eval_shape(built.init, jax.random.key(0)) for built in both]
    assert alike[0] == alike[1]
    # Drawn here, since an output layer begins at 0, and then so is the gradient of the others.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), alike[0])
    batch = np.float32(rng.normal(size=(2, *event)))
    kept, values = [], []
    for built, remat in zip(both, (False, True)):
        loss = training.make_loss(built, num_t=num_t, remat=remat)
        forward = jax.jit(partial(jax.vjp, partial(value_of, loss, batch)))
        backward = forward(params)[1]
        kept.append(sum(leaf.nbytes for leaf in jax.tree.leaves(backward)))
        values.append(jax.jit(lambda pull: pull(jnp.float32(1)))(backward))
    assert kept[1] < most * kept[0], kept
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
