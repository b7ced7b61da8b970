"""Evaluation: padding, two devices, means and standard errors, random t against the exact sum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpm_jax import bound, gaussian, model, plots, schedule
from dpm_jax.evaluation import evaluate, noise_floor

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
    """K of each row, without evaluation.py."""
    return np.asarray(
        model.log_likelihood_bound(built, PARAMS, jax.random.key(0), jnp.asarray(data), steps).K,
        np.float64,
    )


def null(data):
    return -0.5 * ((data.astype(np.float64) ** 2) + np.log(2 * np.pi)).sum(axis=1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_mean_and_error_are_those_of_the_examples_whatever_the_padding(batch_size):
    assert jax.local_device_count() == 2
    K = direct(build(), DATA)
    result = evaluate(build(), PARAMS, DATA, batch_size=batch_size)
    gain = K - null(DATA)
    assert result.examples == 7
    np.testing.assert_allclose(result.K, K.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.K_error, K.std(ddof=1) / np.sqrt(7), rtol=1e-4)
    np.testing.assert_allclose(result.L_null, null(DATA).mean(), rtol=1e-5)
    np.testing.assert_allclose(result.K_minus_L_null, gain.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        result.K_minus_L_null_error, gain.std(ddof=1) / np.sqrt(7), rtol=1e-4
    )


def test_respaced_drawn_and_watched():
    levels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    seen = []

    def progress(batches):
        for start in batches:
            seen.append(start)
            yield start

    result = evaluate(
        build(),
        PARAMS,
        levels,
        draw=lambda key, rows: rows.astype(jnp.float32) / 6 - 1,
        steps=3,
        batch_size=1,
        progress=progress,
    )
    expected = direct(build(), (levels / 6 - 1).astype(np.float32), 3)
    np.testing.assert_allclose(result.K, expected.mean(), rtol=1e-5)
    assert seen == [0, 2]


def test_one_example_has_no_error_and_takes_both_devices():
    result = evaluate(build(), PARAMS, DATA[:1])
    assert result.examples == 1 and np.isnan(result.K_error)
    np.testing.assert_allclose(result.K, direct(build(), DATA[:1])[0], rtol=1e-5)


def test_random_t_is_unbiased_against_the_exact_sum():
    """Padding included: 7 rows in batches of 4, of which the last holds one row twice."""
    passes = 4000
    K = direct(build(), DATA)
    result = evaluate(build(), PARAMS, DATA, batch_size=2, passes=passes)
    # Independent t would have this error; stratified t has less.
    weights = np.asarray(bound.time_weights(STEPS))[2:]
    built = build()
    reverse = built.reverse(PARAMS, STEPS)
    terms = jax.vmap(
        lambda x: bound.exact_terms(jax.random.key(0), built.family, STEPS, reverse, x)
    )(jnp.asarray(DATA))
    terms = np.asarray(terms, np.float64)[:, 2:]
    variance = (terms**2 / weights).sum(axis=1) - terms.sum(axis=1) ** 2
    error = np.sqrt(variance.mean() / (passes * len(DATA)))
    assert abs(result.K - K.mean()) < 5 * error < 0.1 * abs(K.mean())
    assert result.L_null == pytest.approx(null(DATA).mean(), rel=1e-5)


def test_the_error_of_random_t_comes_from_batch_means():
    result = evaluate(build(noiseless=False), PARAMS, np.tile(DATA, (4, 1)), batch_size=2, passes=1)
    assert result.examples == 28 and 0 < result.K_error < np.inf
    one_batch = evaluate(build(noiseless=False), PARAMS, DATA[:4], batch_size=2, passes=1)
    assert np.isnan(one_batch.K_error) and np.isfinite(one_batch.K)


def test_the_seed_decides():
    built = build(noiseless=False)
    first, again, other = (evaluate(built, PARAMS, DATA[:4], seed=s).K for s in (0, 0, 1))
    assert first == again != other


# --- the noise floor -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 100])
def test_noise_floor_is_that_of_the_examples_whatever_the_padding(batch_size):
    built_model, t0 = build(), [1, 3, 5]
    result = noise_floor(built_model, PARAMS, DATA, t0, batch_size=batch_size)
    reverse = built_model.reverse(PARAMS, STEPS)
    K, null = jax.vmap(
        lambda x: bound.noise_floor(jax.random.key(0), built_model.family, STEPS, reverse, x, t0)
    )(jnp.asarray(DATA))
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


@pytest.mark.parametrize("steps", [None, 3])
def test_noise_floor_begins_where_K_of_the_fixed_last_step_is(steps):
    built_model = build(noiseless=False)
    options = {"seed": 4, "batch_size": 2, "steps": steps}
    whole = evaluate(built_model, PARAMS, DATA, **options)
    floor = noise_floor(built_model, PARAMS, DATA, [1], **options)
    np.testing.assert_allclose(floor.gain, [whole.K_minus_L_null], rtol=1e-5)
    np.testing.assert_allclose(floor.gain_error, [whole.K_minus_L_null_error], rtol=1e-5)
    np.testing.assert_allclose(floor.noise, STEPS.noise[1:2], rtol=1e-6)


def test_noise_floor_from_random_t():
    """Unbiased; its examples are independent and its noise is that of any model with the seed."""
    built_model, data, t0 = build(noiseless=False), np.tile(DATA, (40, 1)), [1, 2, 4]
    exact = noise_floor(built_model, PARAMS, data, t0, seed=1)
    few = noise_floor(built_model, PARAMS, data, t0, passes=2)
    assert (np.abs(few.gain - exact.gain) < 4 * np.hypot(few.gain_error, exact.gain_error)).all()
    assert (few.gain_error > exact.gain_error).all()
    near = {"network": jnp.full((), 0.71)}
    pairs = few.each - noise_floor(built_model, near, data, t0, passes=2).each
    assert (pairs.std(axis=0) < 0.2 * few.each.std(axis=0)).all()


def test_the_figure_of_noise_floors(tmp_path):
    result = noise_floor(build(), PARAMS, DATA, [1, 3, 5])
    curve = (result.noise, result.gain / 3, result.gain_error / 3)
    path = plots.noise_floor(tmp_path / "floor.png", {"a": curve, "b": curve}, 3, "title")
    with Image.open(path) as image:
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(10**6)) > 3


def test_noise_floor_of_one_example_has_no_error():
    result = noise_floor(build(), PARAMS, DATA[:1], [2])
    assert np.isnan(result.gain_error).all() and np.isfinite(result.gain).all()


@pytest.mark.parametrize(
    "data, t0, options, message",
    [
        (DATA[:0], [1], {}, "expected data, .*got 0 rows"),
        (DATA, [1], {"passes": 0}, "passes >= 1.*got 7 rows.*passes=0"),
        (DATA, [0], {}, r"t0: expected a list of values in 1\.\.5, got \[0\]"),
        (DATA, [4], {"steps": 3}, r"t0: expected a list of values in 1\.\.3, got \[4\]"),
    ],
)
def test_noise_floors_that_do_not_exist(data, t0, options, message):
    with pytest.raises(ValueError, match=message):
        noise_floor(build(), PARAMS, data, t0, **options)


@pytest.mark.parametrize(
    "data, options, got",
    [
        (DATA[:0], {}, "0 rows"),
        (DATA, {"batch_size": 0}, "batch_size=0"),
        (DATA, {"passes": 0}, "passes=0"),
    ],
)
def test_errors(data, options, got):
    with pytest.raises(ValueError, match=f"expected data, batch_size >= 1 and passes >= 1.*{got}"):
        evaluate(build(), PARAMS, data, **options)
