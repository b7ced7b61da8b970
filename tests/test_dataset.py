"""K of a data set: padding, two devices, means and errors, random t against the exact sum."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpm_jax.core import chunks, gaussian, model, schedule
from dpm_jax.likelihood import (
    Evaluation,
    Rows,
    bound,
    evaluate,
    evaluate_noise_floor,
    evaluate_terms,
)
from dpm_jax.likelihood.draws import by_t
from dpm_jax.likelihood.rows import _KEPT
from dpm_jax.runs import plots

T = 5
STEPS = schedule.constant_fraction(T, 0.05)
DATA = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


class Shrink(NamedTuple):
    """A network of one parameter: x̂^0 = scale x^t."""

    def init(self, key, x, t, log_snr):
        return jnp.full((), 0.7)

    def apply(self, variables, x, t, log_snr):
        return (variables * x)[..., None]


PARAMS = {"network": jnp.full((), 0.7)}


def build(noiseless=True):
    """A model; without noise in x^t its K is a function of x^0 alone."""
    family = gaussian.family()
    if noiseless:
        family = family._replace(sample=lambda key, params: params.mean + 0.3)
    return model.build(family, STEPS, Shrink(), (3,), "x0", "posterior")


def direct(built, data, steps=None):
    """K of each row, without dataset.py."""
    chain = built.chain(PARAMS, steps)

    def one(x):
        return bound.exact(jax.random.key(0), chain, x).K

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(data)), np.float64)


def null(data):
    return -0.5 * ((data.astype(np.float64) ** 2) + np.log(2 * np.pi)).sum(axis=1)


@pytest.mark.parametrize("at_once", [1, 2, 3, None])
def test_mean_and_error_are_those_of_the_examples_whatever_the_padding(at_once):
    assert jax.local_device_count() == 2
    K = direct(build(), DATA)
    result = evaluate(build(), PARAMS, DATA, rows=Rows(at_once=at_once))
    gain = K - null(DATA)
    assert result.examples == 7
    np.testing.assert_allclose(result.K, K.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.K_error, K.std(ddof=1) / np.sqrt(7), rtol=1e-4)
    np.testing.assert_allclose(result.L_null, null(DATA).mean(), rtol=1e-5)
    np.testing.assert_allclose(result.K_minus_L_null, gain.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        result.K_minus_L_null_error, gain.std(ddof=1) / np.sqrt(7), rtol=1e-4
    )


def test_respaced_prepared_and_watched():
    levels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    seen = []

    def progress(batches):
        for start in batches:
            seen.append(start)
            yield start

    rows = Rows(0, lambda key, rows: rows.astype(jnp.float32) / 6 - 1, 1, progress)
    result = evaluate(build(), PARAMS, levels, steps=3, rows=rows)
    expected = direct(build(), (levels / 6 - 1).astype(np.float32), 3)
    np.testing.assert_allclose(result.K, expected.mean(), rtol=1e-5)
    assert seen == [0, 2]


def test_one_example_has_no_error_and_takes_both_devices():
    result = evaluate(build(), PARAMS, DATA[:1])
    assert result.examples == 1 and np.isnan(result.K_error)
    np.testing.assert_allclose(result.K, direct(build(), DATA[:1])[0], rtol=1e-5)


def test_random_t_is_unbiased_against_the_exact_sum():
    """Padding included: 77 rows in pairs, of which the last is one row twice, and 39 pairs by 2."""
    passes, data = 400, np.tile(DATA, (11, 1))
    K = direct(build(), DATA)
    result = evaluate(build(), PARAMS, data, passes, rows=Rows(at_once=2))
    # Independent t would have this error; stratified t has less.
    chain = build().chain(PARAMS)
    weights = np.asarray(bound.time_law(chain))[2:]

    def one(x):
        return bound.exact_terms(jax.random.key(0), chain, x)

    terms = jax.jit(jax.vmap(one))(jnp.asarray(DATA))
    terms = np.asarray(terms, np.float64)[:, 2:]
    variance = (terms**2 / weights).sum(axis=1) - terms.sum(axis=1) ** 2
    error = np.sqrt(variance.mean() / (passes * len(data)))
    assert abs(result.K - K.mean()) < 5 * error < 0.1 * abs(K.mean())
    assert result.L_null == pytest.approx(null(DATA).mean(), rel=1e-5)


def test_the_error_of_random_t_comes_from_groups_of_examples():
    built = build(noiseless=False)
    result = evaluate(built, PARAMS, np.tile(DATA, (10, 1)), 1)  # 70 examples: groups of 3
    assert result.examples == 70 and result.groups == 23 and 0 < result.K_error < np.inf
    few = evaluate(built, PARAMS, DATA[:4], 1)
    assert few.groups == 4 and 0 < few.K_error < np.inf
    low, high = few.interval  # Student's t of 3 degrees of freedom
    np.testing.assert_allclose((high - few.K) / few.K_error, 3.182, rtol=1e-3)
    np.testing.assert_allclose((few.K - low) / few.K_error, 3.182, rtol=1e-3)
    assert np.isnan(evaluate(built, PARAMS, DATA[:1], 1).K_error)


def test_the_errors_of_random_t_are_those_of_the_seeds():
    built, data = build(noiseless=False), np.tile(DATA, (20, 1))
    found = [evaluate(built, PARAMS, data, 1, rows=Rows(seed)) for seed in range(40)]
    spread = np.std([f.K for f in found], ddof=1)  # of the draws of t alone
    assert 0.8 * spread < np.mean([f.K_error for f in found])


def counted():
    """K and its errors of 150 rows by random t, and the number of devices."""
    found = evaluate(build(False), PARAMS, np.tile(DATA, (22, 1))[:150], 2)
    return [float(v) for v in found], jax.local_device_count()


COUNTED = """
import jax, jax.extend.backend, test_dataset
for devices in (1, 8):
    jax.extend.backend.clear_backends()
    jax.config.update("jax_num_cpu_devices", devices)
    print(test_dataset.counted())
"""


def test_the_error_of_random_t_is_that_of_any_number_of_devices():
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=2", "")
    result = subprocess.run(
        [sys.executable, "-c", COUNTED],
        cwd=Path(__file__).parent,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    found, devices = zip(counted(), *map(ast.literal_eval, result.stdout.splitlines()))
    assert devices == (2, 1, 8)
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-5)
    assert found[0][1] > 0 and found[0][-1] == 21


def test_the_seed_decides():
    built = build(noiseless=False)
    first, again, other = (
        evaluate(built, PARAMS, DATA[:4], rows=Rows(seed)).K for seed in (0, 0, 1)
    )
    assert first == again != other


# --- the noise floor -----------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, None])
def test_noise_floor_is_that_of_the_examples_whatever_the_padding(at_once):
    chain, t0 = build().chain(PARAMS), [1, 3, 5]
    result = evaluate_noise_floor(build(), PARAMS, DATA, t0, rows=Rows(at_once=at_once))

    def one(x):
        return bound.noise_floor(jax.random.key(0), chain, x, t0)

    K, null = jax.jit(jax.vmap(one))(jnp.asarray(DATA))
    K, gain = np.asarray(K, np.float64), np.asarray(K - null, np.float64)
    assert result.examples == 7 and result.each.shape == (7, 3)
    np.testing.assert_array_equal(result.t0, t0)
    np.testing.assert_allclose(result.noise, 1 - np.asarray(STEPS.alpha_bar)[t0], rtol=1e-5)
    np.testing.assert_allclose(result.K, K.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result.K_error, K.std(axis=0, ddof=1) / 7**0.5, rtol=1e-4)
    np.testing.assert_allclose(result.each, gain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.gain, gain.mean(axis=0), rtol=1e-4, atol=1e-5)
    error = gain.std(axis=0, ddof=1) / 7**0.5
    np.testing.assert_allclose(result.gain_error, error, rtol=1e-3, atol=1e-6)


def test_noise_floor_begins_where_K_of_the_fixed_last_step_is():
    built, rows = build(noiseless=False), Rows(seed=4, at_once=2)
    whole = evaluate(built, PARAMS, DATA, rows=rows)
    floor = evaluate_noise_floor(built, PARAMS, DATA, [1], rows=rows)
    np.testing.assert_allclose(floor.gain, [whole.K_minus_L_null], rtol=1e-5)
    np.testing.assert_allclose(floor.gain_error, [whole.K_minus_L_null_error], rtol=1e-5)
    np.testing.assert_allclose(floor.noise, STEPS.noise[1:2], rtol=1e-6)


def test_noise_floor_from_random_t():
    """Unbiased; its examples are independent and its noise is that of any model with the seed."""
    built, data, t0 = build(noiseless=False), np.tile(DATA, (40, 1)), [1, 2, 4]
    exact = evaluate_noise_floor(built, PARAMS, data, t0, rows=Rows(seed=1))
    few = evaluate_noise_floor(built, PARAMS, data, t0, passes=2)
    assert (np.abs(few.gain - exact.gain) < 4 * np.hypot(few.gain_error, exact.gain_error)).all()
    assert (few.gain_error > exact.gain_error).all()
    near = {"network": jnp.full((), 0.71)}
    pairs = few.each - evaluate_noise_floor(built, near, data, t0, passes=2).each
    assert (pairs.std(axis=0) < 0.2 * few.each.std(axis=0)).all()


def test_the_figure_of_noise_floors(tmp_path):
    result = evaluate_noise_floor(build(), PARAMS, DATA, [1, 3, 5])
    curve = (result.noise, result.gain / 3, result.gain_error / 3)
    path = plots.noise_floor(tmp_path / "floor.png", {"a": curve, "b": curve}, 3, "title")
    with Image.open(path) as image:
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(10**6)) > 3


def test_noise_floor_of_one_example_has_no_error():
    result = evaluate_noise_floor(build(), PARAMS, DATA[:1], [2])
    assert np.isnan(result.gain_error).all() and np.isfinite(result.gain).all()


@pytest.mark.parametrize(
    "t0, got", [([0], r"1\.\.5, got \[0\]"), ([6], r"1\.\.5, got \[6\]"), ([], "")]
)
def test_noise_floors_that_do_not_exist(t0, got):
    with pytest.raises(ValueError, match=f"t0: expected a list of values in {got}"):
        evaluate_noise_floor(build(), PARAMS, DATA, t0)


@pytest.mark.parametrize(
    "data, passes, at_once, name",
    [(DATA[:0], None, None, "data"), (DATA, 0, None, "passes"), (DATA, None, 0, "at_once")],
)
def test_errors(data, passes, at_once, name):
    rows = Rows(at_once=at_once)
    for call in (
        lambda: evaluate(build(), PARAMS, data, passes, rows=rows),
        lambda: evaluate_noise_floor(build(), PARAMS, data, [1], passes, rows),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
            call()


def test_an_evaluation_is_written_with_its_errors_where_it_has_them():
    found = Evaluation(1.23456, 0.01, 0.5, 0.73456, 0.02, 7)
    assert str(found) == "K = 1.235 ± 0.010 nats, K − L_null = 0.735 ± 0.020 nats (7 examples)"
    nan = float("nan")
    alone = found._replace(K_error=nan, K_minus_L_null_error=nan, examples=1)
    assert str(alone) == "K = 1.235 nats, K − L_null = 0.735 nats (1 examples)"


def test_a_second_call_compiles_nothing():
    built, traced = build(noiseless=False), []

    def prepare(key, rows):
        traced.append(len(rows))
        return rows

    first = evaluate(built, PARAMS, DATA, rows=Rows(0, prepare))
    count = len(traced)
    again = evaluate(built, PARAMS, DATA, rows=Rows(0, prepare))
    other = evaluate(built, PARAMS, DATA, rows=Rows(1, prepare))
    # One call of `prepare` each is the check of the first rows.
    assert again == first and other.K != first.K and len(traced) == count + 2


def test_a_second_measurement_compiles_nothing_and_floors_share_what_K_compiled():
    built, data = build(noiseless=False), np.tile(DATA, (4, 1))
    rows = Rows(prepare=lambda key, x: x + 0.1 * jax.random.normal(key, x.shape))
    seen = []
    _KEPT.clear()
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))

    def compiled(measure):
        seen.clear()
        measure()
        return sum(event.endswith("backend_compile_duration") for event in seen)

    def floors():
        return evaluate_noise_floor(built, PARAMS, data, [1, 3], 16, rows)

    def K():
        return evaluate(built, PARAMS, data, 8, rows=rows)

    assert compiled(K) >= 2  # what is drawn, and the terms
    assert compiled(K) == 0
    assert compiled(floors) >= 1 and len(_KEPT) == 3  # what is drawn for it
    assert compiled(floors) == 0


def test_chunks_change_no_number():
    def one(row):
        key, x = row
        return jnp.tanh(x + jax.random.normal(key, (3,)))

    for num in (12, 11):  # 11 divides by nothing
        rows = jax.random.split(jax.random.key(0), num), jnp.asarray(np.tile(DATA, (2, 1))[:num])
        whole = jax.vmap(one)(rows)
        for most, parts in {1: num, 5: 3, num: 1, 100: 1}.items():

            def run(rows, most=most):
                return chunks.mapped(one, rows, most)

            np.testing.assert_allclose(jax.jit(run)(rows), whole, rtol=1e-6)
            loops = [e for e in jax.make_jaxpr(run)(rows).eqns if e.primitive.name == "scan"]
            assert [e.params["length"] for e in loops] == ([parts] if parts > 1 else [])


def test_chunks_shrink_as_examples_grow():
    def size(n, *shared):
        return chunks.at_once(lambda x, *_: jnp.tanh(x) @ x, (np.ones(n, np.float32),), shared)

    assert size(8) >= 2**16 > 64 >= size(2**22) >= 1

    def with_weights(x, w):  # made of what all share: once, however many examples there are
        return jnp.tanh(x) @ jnp.tanh(w)

    w = np.ones((8, 2**20), np.float32)
    shared = chunks.at_once(with_weights, (np.ones(8, np.float32),), (w,))
    assert shared > chunks.at_once(with_weights, (np.ones(8, np.float32), w))


def test_the_curve_of_terms_is_that_of_the_terms_behind_K():
    built, data = build(noiseless=False), np.tile(DATA, (20, 1))
    found, kl = evaluate_terms(built, PARAMS, data)
    assert found == evaluate(built, PARAMS, data) and kl.shape == (T - 1,)
    chain = built.chain(PARAMS)
    ends = np.mean([bound.ends(chain, jnp.asarray(x)) for x in DATA], dtype=np.float64)
    np.testing.assert_allclose(ends - kl.sum(), found.K, rtol=1e-5)
    _, drawn = evaluate_terms(built, PARAMS, data, 8)  # 1,120 terms: some hundred at each t
    np.testing.assert_allclose(drawn, kl, rtol=0.4)
    _, few = evaluate_terms(built, PARAMS, DATA, 1)  # 7 terms are one mean
    assert np.ptp(few) == 0 and few[0] > 0


def test_the_curve_of_drawn_terms_sums_to_what_is_spent():
    """Neighbours share a mean; drawn as often as the law says, their sum is that of all KL_t."""
    kl = np.geomspace(10, 0.01, 12)
    law = np.linspace(1, 12, 12) / 78
    count = np.round(780 * law)  # about 10 to 120 terms a t
    weight = 1 / law
    padded = [np.concatenate([[0, 0], v]) for v in (count, count * weight, -count * weight * kl)]
    np.testing.assert_allclose(by_t(*padded).sum(), kl.sum(), rtol=1e-12)
    assert len(set(by_t(*padded).round(9))) < len(kl)
