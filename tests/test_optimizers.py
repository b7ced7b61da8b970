"""Optimizers: what a step of Muon is, that the rest is Adam's, and how rates rise and fall."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from dpm_jax import gaussian, model, networks, schedule, training
from dpm_jax.training import optimizers
from dpm_jax.training.checkpoint import Checkpoints
from dpm_jax.training.muon import muon

RATE = 1e-2
_REST = {"bias": (8,), "c": (2, 3, 4)}
DENSE = {"tall": (24, 10), "wide": (6, 30), **_REST}
CONVOLUTIONS = {"kernel": (3, 3, 4, 8), "fewer": (1, 1, 8, 4), "dense": (24, 10), **_REST}
NETWORKS = pytest.mark.parametrize(
    "shapes, stepped",
    [(DENSE, ("tall", "wide")), (CONVOLUTIONS, ("kernel", "fewer"))],
    ids=["dense", "convolutions"],
)


def make(name="muon", lr_schedule="constant", num_steps=10, warmup=0, weight_decay=0.0):
    rate = optimizers.make_rate(lr_schedule, num_steps, warmup)
    return optimizers.by_name(name, rate, RATE, 1e9, weight_decay)


def random_like(params, seed):
    keys = jax.random.split(jax.random.key(seed), len(params))
    return {
        name: jax.random.normal(key, p.shape, p.dtype)
        for key, (name, p) in zip(keys, params.items())
    }


def first_update(optimizer, params, gradient):
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradient, optimizer.init(params), params)[0]


@NETWORKS
def test_muon_steps_by_equal_singular_values(shapes, stepped):
    params = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    gradient = random_like(params, 0)
    update = first_update(make(), params, gradient)
    for name in stepped:
        step = np.asarray(update[name]).reshape(-1, shapes[name][-1])
        downhill = -np.asarray(gradient[name]).reshape(step.shape)
        left, _, right = np.linalg.svd(downhill, full_matrices=False)
        inside = left.T @ step @ right.T  # diagonal in the axes of the gradient itself
        size = optimizers.MUON_RATE * RATE * max(1, step.shape[1] / step.shape[0]) ** 0.5
        # Five iterations of Newton and Schulz bring each singular value to about 0.7 to 1.2.
        assert np.all(np.diag(inside) > 0.6 * size) and np.all(np.diag(inside) < 1.3 * size)
        np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=1e-4 * size)


@NETWORKS
def test_muon_is_optaxs_to_rounding(shapes, stepped):
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}

    def axes(params):
        made = optax.contrib.MuonDimensionNumbers
        return {
            name: made(tuple(range(p.ndim - 1)), p.ndim - 1) if name in stepped else None
            for name, p in params.items()
        }

    rate = optax.linear_schedule(1e-2, 1e-3, 5)
    ours = muon(lambda step: 10 * rate(step), 0.3, rate)
    theirs = optax.contrib.muon(
        lambda step: 10 * rate(step),
        weight_decay=0.3,
        adam_learning_rate=rate,
        muon_weight_dimension_numbers=axes,
    )
    states = [each.init(params) for each in (ours, theirs)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])  # of older checkpoints
    with jax.numpy_dtype_promotion("standard"):
        for seed in range(3):
            gradient = random_like(params, seed)
            found = [each.update(gradient, s, params) for each, s in zip((ours, theirs), states)]
            states = [state for _, state in found]
            for name in params:
                a, b = (np.asarray(update[name]) for update, _ in found)
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e10, 1.2e19])
def test_muon_steps_as_far_whatever_the_size_of_a_gradient(size):
    """From zeros, and what is nothing beside them, to the largest whose squares have a sum."""
    params = {"w": jnp.zeros((8, 5), jnp.float32)}
    gradient = random_like(params, 1)
    gradient = {"w": gradient["w"] / jnp.linalg.norm(gradient["w"])}
    optimizer = muon(lambda step: RATE, 0.0, lambda step: RATE)
    update, wanted = (
        first_update(optimizer, params, {"w": by * gradient["w"]})["w"] for by in (size, 1.0)
    )
    if size >= 1e-6:
        np.testing.assert_allclose(update, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    else:
        assert np.isfinite(update).all() and np.abs(update).max() < 1e-2 * np.abs(wanted).max()


@NETWORKS
def test_all_else_is_left_to_adam_with_nesterovs_momentum(shapes, stepped):
    params = {name: jnp.ones(shape, jnp.float32) for name, shape in shapes.items()}
    gradient = random_like(params, 1)
    with_muon = first_update(make("muon"), params, gradient)
    with_adam = first_update(optax.nadam(RATE), params, gradient)
    for name in params.keys() - set(stepped):
        np.testing.assert_allclose(with_muon[name], with_adam[name], rtol=1e-6)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@pytest.mark.parametrize(
    "lr_schedule, middle", [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)]
)
def test_rates_rise_and_fall(name, lr_schedule, middle):
    # With one gradient at every step the size of Adam's and Muon's updates is the rate's.
    optimizer = make(name, lr_schedule, num_steps=24, warmup=4)
    params = {"w": jnp.ones((3, 3), jnp.float32)}
    gradient = random_like(params, 2)
    state, sizes = optimizer.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(25):
            update, state = optimizer.update(gradient, state, params)
            sizes.append(float(optax.tree.norm(update)))
    relative = np.array(sizes) / sizes[4]
    np.testing.assert_allclose(relative[:5], [0, 0.25, 0.5, 0.75, 1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(relative[14], middle, rtol=1e-3)
    assert abs(relative[24] - (lr_schedule == "constant")) < 1e-3


@pytest.mark.parametrize("name, scale", [("muon", optimizers.MUON_RATE), ("adam", 1.0)])
@NETWORKS
def test_weights_decay_by_their_rate_and_vectors_do_not(shapes, stepped, name, scale):
    params = random_like({k: jnp.zeros(v, jnp.float32) for k, v in shapes.items()}, 7)
    nothing = jax.tree.map(jnp.zeros_like, params)
    update = first_update(make(name, weight_decay=0.3), params, nothing)
    for key, value in params.items():
        decay = 0.3 * scale * RATE if key in stepped else 0.0
        np.testing.assert_allclose(update[key], -decay * value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_optimizer_finds_the_least_squares(name):
    a = jax.random.normal(jax.random.key(3), (40, 6))
    wanted = jax.random.normal(jax.random.key(4), (6, 2))

    def loss(params):
        return jnp.mean((a @ (params["w"] - wanted)) ** 2) + jnp.sum((params["b"] - 1.0) ** 2)

    optimizer = make(name, "cosine", num_steps=800)
    params = {"w": jnp.zeros((6, 2)), "b": jnp.zeros(3)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, update), state

    for _ in range(800):
        params, state = step(params, state)
    assert float(loss(params)) < 1e-4


def test_a_run_of_muon_resumes_to_the_bit(tmp_path):
    steps = schedule.geometric(6, 1e-2)
    network = networks.MLP(width=6, depth=1)
    built = model.build(gaussian.family(), steps, network, (2,), "v", "posterior")
    data = np.asarray(jax.random.normal(jax.random.key(5), (500, 2)))
    batch = 4 * jax.local_device_count()
    options = training.Options(
        num_steps=8, batch_size=batch, optimizer="muon", log_every=4, checkpoint_every=4
    )
    whole = training.fit(built, data, options, checkpoints=Checkpoints(tmp_path / "whole"))
    once = iter([True])
    stopped = training.fit(
        built,
        data,
        options,
        checkpoints=Checkpoints(tmp_path / "run"),
        stop=lambda: next(once, False),
    )
    assert int(stopped.step) == 4
    resumed = training.fit(built, data, options, checkpoints=Checkpoints(tmp_path / "run"))
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole)):
        np.testing.assert_array_equal(a, b)
    assert int(resumed.step) == 8 and jax.tree.structure(resumed) == jax.tree.structure(whole)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"name": "sgd"}, r"optimizer: expected one of \('adam', 'muon'\), got 'sgd'"),
        ({"lr_schedule": "step"}, "lr_schedule: expected one of .*, got 'step'"),
    ],
)
def test_unknown_names(given, message):
    with pytest.raises(ValueError, match=message):
        make(**given)
