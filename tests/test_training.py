"""Training: it learns, compiles once, resumes to the bit, and leaves non-finite updates out."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax import binomial, bound, gaussian, model, networks, schedule, training
from dpm_jax.training import Options, loop
from dpm_jax.training.checkpoint import Checkpoints

DEVICES = jax.local_device_count()
T = 6
BETA_1 = 1e-2
MEAN, SPREAD = 0.5, 0.3  # of the data


class Affine:
    """Raw outputs affine in x with numbers of their own for each t: exact for one Gaussian."""

    def __init__(self, outputs=2):
        self.outputs = outputs

    def init(self, key, x, t, log_snr):
        return {name: jnp.zeros(T + 1) for name in ("slope", "offset", "spread")}

    def apply(self, variables, x, t, log_snr):
        z = variables["slope"][t] * x + variables["offset"][t]
        raw = [z, jnp.full_like(z, variables["spread"][t])]
        return jnp.stack(raw[: self.outputs], axis=-1)


def make_model(readout="x0", variance="between", event=(1,), **kwargs):
    network = Affine(1 if variance == "posterior" else 2)
    steps = schedule.geometric(T, BETA_1)
    return model.build(gaussian.family(), steps, network, event, readout, variance, **kwargs)


def make_mlp(**kwargs):
    """A Gaussian model of two dimensions with a network of flax."""
    network = networks.MLP(4, 1, outputs=2)
    return model.build(gaussian.family(), schedule.geometric(5, 1e-2), network, (2,), **kwargs)


def exact_K(built, params, key, batch):
    """K of each example, by the sum over all t."""
    chain, keys = built.chain(params), jax.random.split(key, len(batch))
    return jax.vmap(lambda k, x: bound.exact(k, chain, x).K)(keys, batch)


def make_data(n=4096, event=(1,)):
    return MEAN + SPREAD * jax.random.normal(jax.random.key(1), (n, *event), jnp.float32)


def attainable_K():
    """K of the exact reverse kernels for N(MEAN, SPREAD²), by hand, in nats.

    K = −h(X_1) − KL(q(x^T) ‖ π) + E log π(X_0) − E log π(X_1): eq. 14 where every KL is the
    mutual information that no kernel can avoid, and these telescope.
    """
    steps = schedule.geometric(T, BETA_1)

    def moments(t):
        alpha_bar = float(np.exp(np.float64(steps.log_alpha_bar[t])))
        return math.sqrt(alpha_bar) * MEAN, alpha_bar * SPREAD**2 + 1 - alpha_bar

    mean_1, variance_1 = moments(1)
    mean_T, variance_T = moments(T)
    entropy_1 = 0.5 * math.log(2 * math.pi * math.e * variance_1)
    prior = 0.5 * (mean_T**2 + variance_T - 1 - math.log(variance_T))
    edge = 0.5 * (mean_1**2 + variance_1 - MEAN**2 - SPREAD**2)
    return -entropy_1 - prior + edge


def numbers(state):
    """A copy on the host: the state's own memory is taken over by the next step."""
    return jax.tree.map(lambda x: np.array(x), state)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        assert x.tobytes() == y.tobytes(), f"{jax.tree_util.keystr(path)}: {x} and {y}"


@pytest.fixture
def shared_step(monkeypatch):
    """Fits of one test that differ in length only share one compiled step, to save its time."""
    compiled = []
    make = loop.make_dispatch

    def once(step, looped):
        compiled.append(compiled[0] if compiled else make(step, looped))
        return compiled[0]

    monkeypatch.setattr(loop, "make_dispatch", once)


@pytest.fixture
def no_compilation(monkeypatch):
    """Fail where training goes so far as to compile its step."""

    def refuse(*args, **kwargs):
        pytest.fail("the step was made before the error was found")

    monkeypatch.setattr(loop, "make_dispatch", refuse)


# It learns.


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A fit with odd numbers of steps: model, state, and how often it was traced up to each log."""
    built, traced, logged = make_model(), [], []

    def draw(key, data, n):
        traced.append(n)
        return training.draw_rows(key, data, n)

    options = Options(
        num_steps=215,
        batch_size=32 * DEVICES,
        learning_rate=0.2,
        clip_norm=100.0,
        ema_decay=0.9,
        num_t=0,
        log_every=40,
        checkpoint_every=70,
    )
    checkpoints = Checkpoints(tmp_path_factory.mktemp("learned") / "checkpoints")
    state = training.fit(
        built,
        make_data(),
        options,
        draw,
        checkpoints=checkpoints,
        on_log=lambda s: logged.append((int(s.step), len(traced), numbers(s))),
    )
    return built, state, traced, logged, checkpoints


def test_K_comes_close_to_the_closed_form(learned):
    built, state, _, _, _ = learned
    x0 = make_data(8192)
    K = jax.jit(lambda p: jnp.mean(exact_K(built, p, jax.random.key(2), x0)))
    start = float(K(built.init(jax.random.key(0))))
    end, best = float(K(numbers(state.ema))), attainable_K()
    assert start < best - 1  # nothing was known
    assert best - 0.1 < end < best + 0.05  # the bound holds, up to the noise of its 8192 draws


def test_last_log_and_checkpoint_are_of_the_last_step(learned):
    _, state, _, logged, checkpoints = learned
    assert [step for step, _, _ in logged] == [40, 80, 120, 160, 200, 215]
    assert checkpoints.steps() == [140, 210, 215]
    assert int(state.step) == 215 and int(state.skipped) == 0
    assert_same_bits(checkpoints.restore(state)[1], state)


def test_logged_K_follows_the_training(learned):
    _, _, _, logged, _ = learned
    K = [float(state.K) for _, _, state in logged]
    assert all(a < b for a, b in itertools.pairwise(K)) and K[-1] > K[0] + 0.3
    assert all(np.isfinite(state.grad_norm) and state.grad_norm > 0 for _, _, state in logged)


def test_step_compiles_once(learned):
    """Whatever dispatches of 40, 30, 10, 20 and 5 steps there are in between."""
    _, _, traced, logged, _ = learned
    assert traced[0] == 32
    assert [count for _, count, _ in logged] == [logged[0][1]] * len(logged)
    assert traced == [32, 32]  # the check of what is drawn, and the step


def test_K_of_a_learned_schedule_rises_with_it():
    """The gradient of the loss in β is that of K, with the noise held constant."""
    built = make_model(learn_schedule=True)
    params = built.init(jax.random.key(0))
    assert params["beta_logits"].shape == (T - 1,)
    moved = {**params, "beta_logits": params["beta_logits"] + 3}
    for values in (params, moved):
        np.testing.assert_allclose(built.chain(values).schedule.beta[1], BETA_1, rtol=1e-6)
    loss = training.make_loss(built, num_t=0)
    batch, key = make_data(64), jax.random.key(3)

    @jax.jit
    def value(logits):
        return loss({**params, "beta_logits": logits}, key, batch)[0]

    gradient = np.asarray(jax.jit(jax.grad(value))(params["beta_logits"]))
    assert np.isfinite(gradient).all() and (gradient != 0).all()
    step = jnp.eye(T - 1) * 1e-2
    logits = params["beta_logits"]
    numeric = [float(value(logits + e) - value(logits - e)) / 2e-2 for e in step]
    np.testing.assert_allclose(gradient, numeric, rtol=0.05, atol=2e-3)


# A run resumed is the run that was not interrupted.

RUNS = {
    "random t": ({}, {}),
    "all t, learned schedule": ({"learn_schedule": True}, {"num_t": 0}),
    "v, one step a dispatch": (
        {"readout": "v", "variance": "posterior"},
        {"objective": "v", "steps_per_dispatch": 1},
    ),
    "shared t, learned last step": ({"last_step": "learned"}, {"num_t": 2, "warmup": 5}),
}


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_equals_the_uninterrupted_one(name, tmp_path, shared_step):
    settings, more = RUNS[name]
    built, data = make_model(**settings), make_data()
    options = Options(
        num_steps=24,
        batch_size=4 * DEVICES,
        learning_rate=0.05,
        log_every=5,
        checkpoint_every=8,
        **more,
    )
    expected = training.fit(built, data, options, checkpoints=Checkpoints(tmp_path / "whole"))
    started = numbers(built.init(jax.random.fold_in(jax.random.key(0), 0x1A17)))
    assert not np.array_equal(
        jax.tree.leaves(numbers(expected.params))[0], jax.tree.leaves(started)[0]
    )

    def kill(state):
        if int(state.step) == 15:  # after the checkpoint of step 8, before that of step 16
            raise Killed

    with pytest.raises(Killed):
        training.fit(built, data, options, None, None, Checkpoints(tmp_path / "run"), kill)
    assert Checkpoints(tmp_path / "run").steps() == [8]
    seen = []
    resumed = training.fit(
        built,
        data,
        options,
        checkpoints=Checkpoints(tmp_path / "run"),
        on_log=lambda s: seen.append(int(s.step)),
    )
    assert seen == [10, 15, 20, 24]
    assert_same_bits(resumed, expected)
    finished = training.fit(built, data, options, checkpoints=Checkpoints(tmp_path / "run"))
    assert_same_bits(finished, expected)


def test_steps_per_dispatch_changes_nothing_but_speed():
    built, data = make_model(), make_data()
    states = [
        training.fit(
            built,
            data,
            Options(num_steps=60, batch_size=4 * DEVICES, log_every=60, steps_per_dispatch=n),
        )
        for n in (1, 50)
    ]
    for one, fifty in zip(*map(jax.tree.leaves, states)):
        np.testing.assert_allclose(np.asarray(one), np.asarray(fifty), rtol=2e-4, atol=2e-5)


def test_convolutions_on_cpu_are_dispatched_one_by_one(monkeypatch):
    """A loop makes their gradient many times slower there."""

    class Convolving(Affine):
        def apply(self, variables, x, t, log_snr):
            smooth = jnp.convolve(x, jnp.ones(3), "same")
            return super().apply(variables, smooth, t, log_snr)

    steps = schedule.geometric(T, BETA_1)
    built = model.build(gaussian.family(), steps, Convolving(), (4,))
    options = Options(log_every=7)
    assert loop.steps_per_dispatch(built, options) == 1
    assert loop.steps_per_dispatch(make_model(), options) == 7
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loop.steps_per_dispatch(built, options) == 7


def test_seeds_differ(shared_step):
    built, data = make_model(), make_data()
    a, b, c = (
        training.fit(built, data, Options(num_steps=3, batch_size=2 * DEVICES, seed=seed))
        for seed in (0, 0, 1)
    )
    assert_same_bits(a, b)
    assert float(a.grad_norm) != float(c.grad_norm)


# Updates that are not finite.


@pytest.fixture(scope="module")
def history():
    """The states after each step of a run in which some batches are NaN."""
    states = []

    def draw(key, data, n):
        key_bad, key_rows = jax.random.split(key)
        bad = jax.random.bernoulli(key_bad, 0.2)
        return jnp.where(bad, jnp.nan, training.draw_rows(key_rows, data, n))

    options = Options(
        num_steps=20,
        batch_size=2 * DEVICES,
        log_every=1,
        steps_per_dispatch=1,
        ema_decay=0.6,
        lr_schedule="constant",
    )
    training.fit(
        make_model(), make_data(), options, draw, on_log=lambda s: states.append(numbers(s))
    )
    return states, options


def test_bad_updates_are_left_out_and_counted(history):
    states, _ = history
    left_out = 0
    for i, (before, after) in enumerate(itertools.pairwise(states)):
        assert int(after.step) == int(before.step) + 1 == i + 2
        kept = ("params", "ema", "opt_state", "K")
        if int(after.skipped) > int(before.skipped):
            left_out += 1
            assert int(after.bad_run) == int(before.bad_run) + 1
            for name in kept:
                assert_same_bits(getattr(after, name), getattr(before, name))
        else:
            assert int(after.bad_run) == 0
            for name in kept:
                pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (before, after)))
                assert any(not np.array_equal(a, b) for a, b in pairs), name
    assert 3 <= left_out <= 16  # of 19
    assert int(states[-1].skipped) == left_out + int(states[0].skipped)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1].params))


def test_ema_arithmetic(history):
    states, options = history
    for before, after in itertools.pairwise(states):
        if int(after.skipped) > int(before.skipped):
            continue
        age = float(before.step)
        decay = min(options.ema_decay, (1 + age) / (10 + age))
        for old, new, value in zip(*map(jax.tree.leaves, (before.ema, after.ema, after.params))):
            expected = decay * old.astype(np.float64) + (1 - decay) * value
            np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-8)


def test_a_row_of_huge_values_does_not_end_training(shared_step):
    data = make_data(8).at[3].set(1e30)
    options = Options(num_steps=30, batch_size=2 * DEVICES, log_every=10, learning_rate=0.1)
    clean = training.fit(make_model(), make_data(8), options)
    state = training.fit(make_model(), data, options)
    assert int(clean.skipped) == 0
    assert 0 < int(state.skipped) < 30
    assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(state.ema)))


def test_a_run_of_bad_updates_stops_at_the_last_good_checkpoint(tmp_path, shared_step):
    def draw(key, data, n):
        rows, bad = data
        return jnp.where(bad, jnp.nan, training.draw_rows(key, rows, n))

    def kill(state):
        if int(state.step) == 5:
            raise Killed

    built, options = (
        make_model(),
        Options(num_steps=1000, batch_size=2 * DEVICES, log_every=5, checkpoint_every=4),
    )
    good, bad = (make_data(), jnp.asarray(False)), (make_data(), jnp.asarray(True))
    with pytest.raises(Killed):
        training.fit(built, good, options, draw, None, Checkpoints(tmp_path / "run"), kill)
    checkpoints = Checkpoints(tmp_path / "run")
    like = training.initial_state(built, options)
    expected = checkpoints.restore(like)[1]
    rare = dataclasses.replace(options, checkpoint_every=50)
    with pytest.raises(training.Diverged) as stopped:
        training.fit(built, bad, rare, draw, checkpoints=checkpoints)
    message = str(stopped.value)
    assert "stopped at step 15: 11 updates in a row" in message
    assert "last good checkpoint: step 4" in message
    assert "\n" not in message
    step, state = checkpoints.restore(like)
    assert step == 4 and checkpoints.steps() == [4]
    assert_same_bits(state, expected)

    # A run that has saved nothing has no checkpoint to name.
    fresh = Checkpoints(tmp_path / "fresh")
    with pytest.raises(training.Diverged, match="stopped at step 10") as stopped:
        training.fit(built, bad, rare, draw, checkpoints=fresh)
    assert fresh.steps() == []
    assert "checkpoint: step" not in str(stopped.value)


# The losses.


def mean_and_error(loss, params, batch, n):
    """Mean over n keys of a loss, and its standard error."""
    draws = jax.jit(jax.vmap(lambda key: loss(params, key, batch)))
    value, K = draws(jax.random.split(jax.random.key(11), n))
    np.testing.assert_allclose(-np.asarray(K) / batch[0].size, value, rtol=1e-5, atol=1e-6)
    value = np.asarray(value, np.float64)
    return value.mean(), value.std() / math.sqrt(n)


@pytest.mark.parametrize("last_step", ["fixed", "learned"])
def test_losses_are_unbiased(last_step):
    """The sum over all t, a t for each example and shared t have the mean −K/dims of eq. 14."""
    built = make_model(event=(2,), last_step=last_step)
    params = built.init(jax.random.key(0))
    params["network"]["slope"] = jnp.linspace(0.9, 0.2, T + 1)
    params["network"]["spread"] = jnp.linspace(-1.0, 1.0, T + 1)
    batch = make_data(4, (2,))
    many = jnp.tile(batch, (1000, 1))
    K = jax.jit(lambda key: exact_K(built, params, key, many))(jax.random.key(4))
    K = np.asarray(K, np.float64)
    per_dim = -K.reshape(1000, 4).mean(axis=1) / 2
    cases = {"fixed": ((0, 500), (-1, 2000), (2, 2000)), "learned": ((-1, 2000),)}
    for num_t, n in cases[last_step]:
        mean, error = mean_and_error(training.make_loss(built, num_t=num_t), params, batch, n)
        assert abs(mean - per_dim.mean()) < 4 * math.hypot(error, per_dim.std() / 1000**0.5)
        assert error < 0.05 * abs(mean)  # so that the line above says something


@pytest.mark.parametrize("num_t", [0, -1])
def test_x0_hat_is_not_clamped_in_training(num_t):
    """Outside of it the same model's K is another: the data lie far beyond this range."""
    free, clamped = make_model(), make_model(x0_range=(-0.1, 0.1))
    params = free.init(jax.random.key(0))
    params["network"]["slope"] = jnp.full(T + 1, 0.7)
    batch, key = make_data(16), jax.random.key(6)
    a, b = (
        jax.jit(jax.value_and_grad(training.make_loss(built, num_t=num_t), has_aux=True))(
            params, key, batch
        )
        for built in (free, clamped)
    )
    assert_same_bits(a, b)
    K = [float(jnp.mean(exact_K(built, params, key, batch))) for built in (free, clamped)]
    assert abs(K[0] - K[1]) > 0.1


@pytest.mark.parametrize("median_noise", [0.5, 0.9])
def test_v_loss_is_the_squared_error_of_v(median_noise):
    """Readout v with the posterior variance: |v̂ − v|², v = √ᾱ ε − √(1−ᾱ) x^0, by hand."""
    built = make_model("v", "posterior", event=(3,))
    params = built.init(jax.random.key(0))
    slope, offset = jnp.linspace(-0.5, 0.5, T + 1), jnp.linspace(0.2, -0.1, T + 1)
    params["network"] |= {"slope": slope, "offset": offset}
    chain = built.chain(params)
    steps, family = chain.schedule, chain.family
    batch, key = make_data(8, (3,)), jax.random.key(9)
    options = Options(objective="v", median_noise=median_noise)
    loss, K = jax.jit(training.objective.loss_of(built, options))(params, key, batch)

    law, _ = gaussian.v_weights(steps, median_noise)
    t = np.asarray(jax.jit(lambda key: bound.draw_terms(key, chain, batch, law=law).t)(key))
    assert t.min() >= 2
    keys = jax.random.split(jax.random.split(key)[1], (8, 1))[:, 0]
    marginals = jax.vmap(family.marginal)(batch, steps.log_alpha_bar[t])
    xt = np.asarray(jax.vmap(family.sample)(keys, marginals), np.float64)
    alpha_bar = np.exp(np.asarray(steps.log_alpha_bar, np.float64))[t][:, None]
    signal, noise, x0 = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), np.asarray(batch, np.float64)
    v = signal * (xt - signal * x0) / noise - noise * x0
    errors = np.asarray(slope)[t][:, None] * xt + np.asarray(offset)[t][:, None] - v
    np.testing.assert_allclose(loss, np.mean(errors**2), rtol=1e-3)
    assert np.isfinite(K)


def test_v_weights_turn_each_term_into_the_squared_error():
    """The same for every t, one by one: −KL_t · weight = −|v̂ − v|², with v̂ = 0."""
    built = make_model("v", "posterior", event=(3,))
    params = built.init(jax.random.key(0))
    chain, x0 = built.chain(params), make_data(1, (3,))[0]
    steps = chain.schedule
    _, weights = built.family.v_weights(steps, 0.5)

    def both(t):
        key = jax.random.key(5)
        term = bound.term(key, chain, x0, t)
        xt = built.family.sample(key, built.family.marginal(x0, steps.log_alpha_bar[t]))
        signal, noise = jnp.sqrt(steps.alpha_bar[t]), jnp.sqrt(steps.noise[t])
        v = signal * (xt - signal * x0) / noise - noise * x0
        return -term * weights[t], jnp.sum(v**2)

    weighted, squared = jax.jit(jax.vmap(both))(jnp.arange(2, T + 1))
    np.testing.assert_allclose(weighted, squared, rtol=2e-3)


@pytest.mark.parametrize("median_noise", [0.5, 0.9])
@pytest.mark.parametrize("name", sorted(schedule.FIXED))
def test_law_of_v_is_uniform_in_the_angle(name, median_noise):
    """Whatever the schedule, t has its share of the angle of a cosine one of that median noise."""
    steps = schedule.by_name(name, 20, 1e-3)
    law, weights = (np.asarray(x) for x in gaussian.v_weights(steps, median_noise))
    assert law.shape == weights.shape == (21,)
    assert (law[:2] == 0).all() and (law >= 0).all() and np.isfinite(weights).all()
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-5)
    noise = 1 - np.asarray(steps.alpha_bar, np.float64)
    angle = np.arctan2(np.sqrt(noise * (1 - median_noise)), np.sqrt((1 - noise) * median_noise))
    np.testing.assert_allclose(law[2:], np.diff(angle)[1:] / (angle[-1] - angle[1]), atol=1e-4)


@pytest.mark.parametrize("median_noise", [0.1, 0.5, 0.9])
def test_half_of_the_draws_of_v_lie_below_the_median_noise(median_noise):
    steps = schedule.geometric(4000, 1e-6, 1e8)
    law, _ = gaussian.v_weights(steps, median_noise)
    below = np.asarray(steps.noise) <= median_noise
    np.testing.assert_allclose(np.asarray(law)[below].sum(), 0.5, atol=5e-3)


def test_a_median_noise_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match=r"median_noise: expected a number in .*, got nan"):
        training.make_loss(make_model("v", "posterior", event=(3,)), "v", median_noise=math.nan)


# The learning rate.


def rates(options, n):
    """Learning rates of the first n steps, read off the updates for a constant gradient."""
    optimizer = loop.make_optimizer(options)
    params = jnp.zeros(1)
    state, found = optimizer.init(params), []

    @jax.jit
    def step(state):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(jnp.full(1, 0.5), state, params)

    for _ in range(n):
        update, state = step(state)
        found.append(-float(update[0]))
    return np.asarray(found)


@pytest.mark.parametrize("lr_schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 10])
def test_learning_rate_warms_up_and_ends_at_zero(lr_schedule, warmup):
    found = rates(Options(num_steps=50, warmup=warmup, lr_schedule=lr_schedule), 51)
    np.testing.assert_allclose(found[:warmup], 1e-3 * np.arange(warmup) / 10, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(found[warmup], 1e-3, rtol=1e-3)
    assert (np.diff(found[warmup:]) < 0).all()
    assert found[49] > 0
    np.testing.assert_allclose(found[50], 0, atol=1e-9)
    middle = warmup + (50 - warmup) // 2
    np.testing.assert_allclose(found[middle], 0.5e-3, rtol=1e-2)


def test_constant_learning_rate_stays():
    found = rates(Options(num_steps=10, lr_schedule="constant"), 20)
    np.testing.assert_allclose(found, 1e-3, rtol=1e-3)


def test_gradients_are_clipped():
    """Adam forgets the scale of a gradient, but not that one was clipped and the next was not."""
    optimizer = loop.make_optimizer(Options(clip_norm=1.0))
    params = jnp.zeros(2)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(jnp.asarray([30.0, 40.0]), optimizer.init(params), params)
    moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(moment, [0.06, 0.08], rtol=1e-5)  # (1 − b1) (0.6, 0.8)


# Bad input, found before anything is compiled.

WRONG = [
    ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ({"num_steps": 0}, "num_steps: expected more than 0, got 0"),
    ({"learning_rate": 0.0}, "learning_rate: expected more than 0, got 0"),
    ({"learning_rate": math.nan}, "learning_rate: expected more than 0, got nan"),
    ({"clip_norm": 0.0}, "clip_norm: expected more than 0, got 0"),
    ({"log_every": 0}, "log_every: expected more than 0, got 0"),
    ({"checkpoint_every": -1}, "checkpoint_every: expected more than 0, got -1"),
    ({"ema_decay": 1.0}, "ema_decay: expected a number in .0, 1., got 1"),
    ({"ema_decay": -0.1}, "ema_decay: expected a number in .0, 1., got -0.1"),
    ({"lr_schedule": "wild"}, "lr_schedule: expected one of .*'cosine'.*, got 'wild'"),
    ({"median_noise": 1.0}, r"median_noise: expected a number in .0.001, 0.999., got 1.0"),
    ({"objective": "wild"}, "objective: expected one of .*'bound'.*, got 'wild'"),
    ({"warmup": -1}, "warmup: "),
    ({"steps_per_dispatch": -1}, "steps_per_dispatch: "),
    ({"num_t": 3, "batch_size": 4 * DEVICES}, "num_t: .*divisor"),
    ({"optimizer": "sgd"}, "optimizer: expected one of .*'adam'.*, got 'sgd'"),
    ({"num_t": -2}, f"num_t: expected −1, 0 or a divisor of .* {128 // DEVICES}, got -2"),
    ({"seed": 2**33}, "seed: "),  # else the same run as seed 0
    ({"seed": -1}, "seed: "),
    ({"log_every": 1.5}, "log_every: expected an integer, got 1.5"),  # it would end early
    ({"num_steps": 4.0}, "num_steps: expected an integer, got 4.0"),
    ({"batch_size": "8"}, "batch_size: expected an integer, got '8'"),
    ({"warmup": True}, "warmup: expected an integer, got True"),
    ({"seed": None}, "seed: expected an integer, got None"),
    ({"learning_rate": "1e-3"}, "learning_rate: expected a number, got '1e-3'"),
    ({"ema_decay": 1j}, "ema_decay: expected a number, got 1j"),
    ({"optimizer": 3}, "optimizer: expected a name, got 3"),
]


@pytest.mark.parametrize("fields, message", WRONG, ids=lambda x: str(x) if type(x) is dict else "")
def test_bad_options(fields, message, no_compilation):
    with pytest.raises(ValueError, match=f"^{message}"):
        training.check(Options(**fields))
    with pytest.raises(ValueError, match=f"^{message}"):
        training.fit(make_model(), make_data(), Options(**fields))


def test_options_may_be_numpys(no_compilation):
    """Nothing is refused, and nothing else than the same of plain numbers is meant."""
    given = Options(num_steps=np.int64(3), learning_rate=np.float32(0.5), clip_norm=1)
    training.check(given)
    assert given == Options(num_steps=3, learning_rate=0.5, clip_norm=1.0)


@pytest.mark.parametrize("num_t", [-1, 0, 1, 2, 4])
def test_options_of_num_t(num_t):
    """−1, one t for each example, is the default; it and 0 go with any batch."""
    assert Options().num_t == -1
    training.check(Options(num_t=num_t, batch_size=4 * DEVICES))


@pytest.mark.skipif(DEVICES < 2, reason="needs two devices")
def test_batch_that_the_devices_do_not_divide(no_compilation):
    with pytest.raises(ValueError, match=f"batch_size: .*multiple of the {DEVICES} devices, got 7"):
        training.fit(make_model(), make_data(), Options(batch_size=7))


def bits_model():
    steps = schedule.constant_fraction(T)
    return model.build(binomial.family(0.5), steps, Affine(1), (1,), "x0")


BAD_DATA = [
    (make_model, np.zeros((10, 2), np.float32) + np.arange(2), r"shape \(n, 1\) .*, got \(10, 2\)"),
    (make_model, np.arange(10.0, dtype=np.float32), r"shape \(n, 1\) with n >= 1, got \(10,\)"),
    (make_model, np.zeros((0, 1), np.float32), r"n >= 1, got \(0, 1\)"),
    (make_model, np.asarray([[1.0], [np.nan], [np.inf]], np.float32), "got 2 NaN or infinite of 3"),
    (make_model, np.ones((10, 1), np.float32), "values that differ, got variance 0"),
    (bits_model, np.asarray([[1.0], [0.5]], np.float32), "only 0 and 1, got 0.5"),
    (bits_model, np.asarray([[1.0, 0.0]], np.float32), r"shape \(n, 1\) .*, got \(1, 2\)"),
]


@pytest.mark.parametrize("make, data, message", BAD_DATA, ids=[row[2] for row in BAD_DATA])
def test_bad_data(make, data, message, no_compilation):
    with pytest.raises(ValueError, match=f"^data: expected .*{message}"):
        training.fit(make(), data, Options(batch_size=DEVICES))


def test_unknown_last_step_and_learned_schedule_of_bits():
    with pytest.raises(ValueError, match=r"last_step: expected one of .*, got 'wild'"):
        make_model(last_step="wild")
    with pytest.raises(ValueError, match=r"learn_schedule: expected .* gaussian; got binomial"):
        model.build(
            binomial.family(0.5),
            schedule.constant_fraction(T),
            Affine(1),
            (1,),
            learn_schedule=True,
        )


REFUSED = {
    "the sum over all t": ({}, 0),
    "a learned last step": ({"last_step": "learned"}, -1),
    "a learned schedule": ({"learn_schedule": True}, -1),
}


@pytest.mark.parametrize("setting, num_t", REFUSED.values(), ids=REFUSED)
def test_objective_v_is_refused_where_it_is_no_bound(setting, num_t):
    built = make_mlp(**setting)
    with pytest.raises(ValueError, match=r"objective: .v. expects"):
        training.make_loss(built, "v", num_t)


def test_objective_v_is_refused_for_bits():
    steps = schedule.constant_fraction(5)
    built = model.build(binomial.family(0.2), steps, networks.MLP(4, 1), (2,))
    with pytest.raises(ValueError, match=r"objective: .v. expects .* got .* binomial"):
        training.make_loss(built, "v")


def test_a_run_asked_to_stop_saves_and_resumes_to_the_bit(tmp_path):
    built = make_mlp()
    data = jax.random.normal(jax.random.key(0), (64, 2))
    options = Options(num_steps=40, batch_size=4 * DEVICES, log_every=10, checkpoint_every=40)
    whole = training.fit(built, data, options)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    asked = iter([False, True])
    cut = training.fit(built, data, options, checkpoints=checkpoints, stop=lambda: next(asked))
    assert int(cut.step) == 20 and checkpoints.steps() == [20]
    resumed = training.fit(built, data, options, checkpoints=checkpoints)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_training_starts_under_jax_debug_nans():
    """No NaN marks what is not known yet; −inf does."""
    built, data = make_mlp(), np.eye(8, 2, dtype=np.float32)
    options = Options(num_steps=1, batch_size=DEVICES)
    with jax.debug_nans(True):
        assert float(training.initial_state(built, options).K) == -math.inf
        assert math.isfinite(training.fit(built, data, options).K)


def test_a_dispatch_has_the_steps_that_take_its_time(monkeypatch):
    clock = iter([100.0, 108.0, 500.0])  # the first compiles; the second takes 8 s
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    pace, state = loop._Pace(200), jnp.zeros(())
    allowed = []
    for num in (200, 200, 50):
        pace.dispatched(num, state)
        allowed.append(pace.most)
    assert allowed == [200, 50, 50] and next(clock) == 500.0  # nothing is timed after the second
