"""Evaluation: padding, two devices, means and standard errors, random t against the exact sum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import bound, gaussian, model, schedule
from dpm_jax.evaluation import evaluate

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
