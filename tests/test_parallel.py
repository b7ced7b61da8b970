"""parallel.py by value: what is replicated or sharded; a gradient is that of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax import parallel, training
from dpm_jax.training.step import make_train_step

DEVICES = jax.local_device_count()
several = pytest.mark.skipif(DEVICES < 2, reason="needs two devices (conftest.py makes them)")


def rows(n, dim=3):
    """A shard (n, dim) of numbers for each device, (devices, n, dim), all different."""
    return jax.random.normal(jax.random.key(5), (DEVICES, n, dim), jnp.float32)


def test_replicated_arguments_and_results_have_no_device_axis():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.ones(()), jnp.arange(4))}
    twice = parallel.over_devices(lambda t, k: jax.tree.map(lambda x: x + x * 0 + x, t), 2)
    result = twice(tree, jax.random.key(0))
    assert jax.tree.structure(result) == jax.tree.structure(tree)
    for got, given in zip(jax.tree.leaves(result), jax.tree.leaves(tree)):
        assert got.dtype == given.dtype
        np.testing.assert_array_equal(got, 2 * given)


def test_results_can_be_fed_back():
    grow = parallel.over_devices(lambda x: 2 * x, 1)
    x = jnp.ones(3)
    for _ in range(3):
        x = grow(x)
    np.testing.assert_array_equal(x, [8.0, 8.0, 8.0])


def test_sharded_arguments_give_sharded_results():
    shards = rows(4)
    each = parallel.over_devices(lambda scale, x: scale * jnp.sum(x, axis=0), 2, sharded=(1,))
    result = each(jnp.float32(2.0), shards)
    assert result.shape == (DEVICES, 3)
    np.testing.assert_allclose(result, 2 * np.sum(np.asarray(shards), axis=1), rtol=1e-6)


def test_sharded_arguments_may_be_trees():
    shards = {"x": rows(2), "key": jax.random.split(jax.random.key(0), DEVICES)}
    each = parallel.over_devices(lambda s: jax.random.normal(s["key"], (2,)), 1, sharded=(0,))
    expected = jax.vmap(lambda key: jax.random.normal(key, (2,)))(shards["key"])
    np.testing.assert_array_equal(each(shards), expected)


def test_mean_is_over_devices():
    shards = rows(1)[:, 0]
    mean = parallel.over_devices(lambda x: parallel.mean({"m": x}), 1, sharded=(0,))(shards)["m"]
    assert mean.shape == shards.shape
    for row in mean:  # every device has the same mean
        np.testing.assert_allclose(row, np.mean(np.asarray(shards), axis=0), rtol=1e-6, atol=1e-7)


def test_device_keys_differ_between_devices_and_from_step_to_step():
    def draw(key, _):
        return jax.random.bits(parallel.device_key(key), (4,))

    each = parallel.over_devices(draw, 2, sharded=(1,))
    draws = [np.asarray(each(jax.random.key(seed), jnp.zeros(DEVICES))) for seed in (0, 1)]
    assert len({tuple(row) for row in np.concatenate(draws)}) == 2 * DEVICES
    again = each(jax.random.key(0), jnp.zeros(DEVICES))
    np.testing.assert_array_equal(again, draws[0])


def test_donated_memory_is_taken_over():
    def add(state, x):
        return state + x

    donating = parallel.over_devices(add, 2, donate=(0,))
    keeping = parallel.over_devices(add, 2)
    one = jnp.ones((), jnp.float32)
    first = donating(jnp.zeros(1000), one * jnp.ones(1000))
    second = donating(first, jnp.ones(1000))
    assert first.is_deleted()
    third = keeping(second, jnp.ones(1000))
    assert not second.is_deleted()
    assert float(third[0]) == 3.0


def quadratic(params, batch):
    """A loss with a known gradient: ½ mean over the batch of |w (x − c)|²."""
    one = jax.vmap(lambda x: jnp.sum((params["w"] * (x - params["c"])) ** 2))
    return 0.5 * jnp.mean(one(batch))


def known_gradient(params, batch):
    """The gradient of `quadratic` written out in float64."""
    w, c, x = (np.asarray(a, np.float64) for a in (params["w"], params["c"], batch))
    return {
        "w": np.mean(w * (x - c) ** 2, axis=0),
        "c": np.mean(-(w**2) * (x - c), axis=0),
    }


@several
def test_averaged_gradient_is_that_of_the_whole_batch():
    params = {"w": jnp.asarray([1.0, -2.0, 0.5]), "c": jnp.asarray([0.3, 0.0, -1.0])}

    def gradient(p, batch):
        return parallel.mean(jax.grad(quadratic)(p, batch))

    shards = rows(4)
    result = parallel.over_devices(gradient, 2, sharded=(1,))(params, shards)
    whole = known_gradient(params, np.concatenate(np.asarray(shards)))
    own = known_gradient(params, np.asarray(shards[0]))
    for name in ("w", "c"):
        for device in range(DEVICES):
            np.testing.assert_allclose(result[name][device], whole[name], rtol=1e-5, atol=1e-6)
        assert np.abs(whole[name] - own[name]).max() > 1e-2  # the shards do differ


@several
def test_training_step_moves_by_the_gradient_of_the_whole_batch():
    options = training.Options(batch_size=4 * DEVICES)
    params = {"w": jnp.asarray([1.0, -2.0, 0.5]), "c": jnp.asarray([0.3, 0.0, -1.0])}
    optimizer = optax.sgd(0.1)

    def loss(p, key, batch):
        return quadratic(p, batch), jnp.sum(batch)

    def draw(key, data, n):
        return data + jax.random.normal(key, (n, 3))

    zero = jnp.zeros((), jnp.int32)
    nan = jnp.full((), jnp.nan)
    ema = jax.tree.map(jnp.copy, params)
    state = training.TrainState(
        zero + 7, params, ema, optimizer.init(params), zero, zero, nan, nan + 0
    )
    key, data = jax.random.key(3), jnp.ones((4, 3))
    step = make_train_step(loss, optimizer, options, draw)
    new = parallel.over_devices(step, 3)(state, data, key)

    def batch_of(device):  # example indices, t and noise come from fold_in(seed, step), by device
        own = jax.random.fold_in(jax.random.fold_in(key, 7), device)
        return draw(jax.random.split(own)[0], data, 4)

    whole = np.concatenate([np.asarray(batch_of(d)) for d in range(DEVICES)])
    gradient = known_gradient(params, whole)
    for name in ("w", "c"):
        expected = np.asarray(params[name]) - 0.1 * gradient[name]
        np.testing.assert_allclose(new.params[name], expected, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    np.testing.assert_allclose(new.grad_norm, norm, rtol=1e-5)
    np.testing.assert_allclose(new.K, np.sum(whole) / DEVICES, rtol=1e-5)
    assert int(new.step) == 8


def test_check_batch():
    assert parallel.check_batch(6 * DEVICES) == 6
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        parallel.check_batch(0)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got -2"):
        parallel.check_batch(-2)


@several
def test_check_batch_wants_equal_shards():
    with pytest.raises(ValueError, match=f"multiple of the {DEVICES} devices, got 7"):
        parallel.check_batch(7)
