"""Schedules: closed forms, float32 precision of 1 − ᾱ, the learned one, respacing, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax.core import schedule

T = 40


def close(actual, expected, rtol=1e-6, atol=0.0):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol, atol)


def test_constant_fraction_erases_1_over_T_of_the_signal_a_step():
    s = schedule.constant_fraction(T)
    t = np.arange(T + 1)
    close(s.beta[1:], 1 / (T - t[1:] + 1))
    close(s.alpha_bar, (T - t) / T)
    assert s.beta[-1] == 1 and s.log_alpha_bar[-1] == -np.inf and s.T == T


def test_constant_fraction_with_a_beta_1():
    s = schedule.constant_fraction(T, 1e-3)
    plain = schedule.constant_fraction(T)
    assert s.beta[1] == np.float32(1e-3)
    close(s.beta[2:], plain.beta[2:])
    close(s.alpha_bar[2:] / s.alpha_bar[1], plain.alpha_bar[2:] / plain.alpha_bar[1])


def test_geometric_has_a_constant_ratio_of_noise_to_signal(x64):
    s = schedule.geometric(T, 1e-4, final_ratio=50.0)
    ratio = s.noise[1:] / s.alpha_bar[1:]
    close(ratio[1:] / ratio[:-1], np.full(T - 1, ratio[1] / ratio[0]), rtol=1e-10)
    close(ratio[-1], 50.0, rtol=1e-12)
    close(s.beta[1], 1e-4, rtol=1e-12)
    close(np.diff(s.log_snr[1:]), np.full(T - 1, np.diff(s.log_snr[1:3])[0]), rtol=1e-10)


def test_linear_has_its_ends_and_equal_steps(x64):
    s = schedule.linear(T, 1e-4, 0.02)
    close(s.beta[1:], 1e-4 + (0.02 - 1e-4) * np.arange(T) / (T - 1), rtol=1e-12)
    ho = schedule.linear(1000)
    close(ho.beta[jnp.asarray([1, 1000])], [1e-4, 0.02], rtol=1e-12)


def test_cosine_is_the_published_formula(x64):
    s = schedule.cosine(1000)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    inside = 1 - f[1:] / f[:-1] < 0.999
    assert inside[:-1].all() and not inside[-1]
    close(s.alpha_bar[:-1], f[:-1] / f[0], rtol=1e-9)
    close(s.beta[-1], 0.999, rtol=1e-12)


def test_log_snr_is_its_formula_within_its_range():
    s = schedule.constant_fraction(T, 1e-5)
    alpha_bar = np.asarray(s.alpha_bar, np.float64)[1:-1]
    close(s.log_snr[1:-1], np.log(alpha_bar / (1 - alpha_bar)), rtol=2e-3)
    close(s.log_snr[jnp.asarray([0, T])], [20.0, -20.0])
    assert (np.diff(s.log_snr) < 0).all()


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(schedule.FIXED)),
    st.sampled_from([2, 3, 10, 200]),  # each T is a shape and costs a compilation
    st.none() | st.floats(1e-7, 0.1),
)
def test_every_fixed_schedule_is_a_schedule(name, T, beta_1):
    s = schedule.by_name(name, T, beta_1)
    beta, log_alpha_bar = np.asarray(s.beta, np.float64), np.asarray(s.log_alpha_bar, np.float64)
    assert s.T == T and beta.shape == log_alpha_bar.shape == s.network_t.shape == (T + 1,)
    assert beta[0] == 0 and log_alpha_bar[0] == 0
    assert (beta[1:] > 0).all() and (beta[1:] <= 1).all() and (beta[:-1] < 1).all()
    if beta_1 is not None:
        assert beta[1] == pytest.approx(beta_1, rel=1e-6)
    np.testing.assert_allclose(np.exp(log_alpha_bar), np.cumprod(1 - beta), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(s.network_t, np.arange(T + 1))
    assert np.isfinite(s.log_snr).all()


@pytest.mark.parametrize("name", sorted(schedule.FIXED))
def test_noise_in_float32_is_that_of_float64(name):
    single = schedule.by_name(name, 1000, 1e-6)
    with jax.enable_x64(True):
        double = schedule.by_name(name, 1000, 1e-6)
        noise, beta = np.asarray(double.noise), np.asarray(double.beta)
    assert single.noise.dtype == np.float32 and noise.dtype == np.float64
    close(single.noise[1:], noise[1:], rtol=5e-7)
    close(single.beta[1:], beta[1:], rtol=1e-7)


@pytest.mark.parametrize("name", sorted(schedule.FIXED))
def test_learned_starts_at_the_given_schedule(name, x64):
    s = schedule.by_name(name, T, 1e-4)
    again = schedule.learned(s.beta[1], schedule.to_logits(s))
    unclipped = np.asarray((s.beta[2:] >= 1e-6) & (s.beta[2:] <= 1 - 1e-3))
    assert unclipped[:-1].all() and again.T == T
    close(again.beta[2:][unclipped], s.beta[2:][unclipped], rtol=1e-10)
    close(again.beta[:2], s.beta[:2], rtol=0)
    close(again.log_alpha_bar[:-1], s.log_alpha_bar[:-1], rtol=1e-9)
    np.testing.assert_array_equal(again.network_t, s.network_t)


def test_learned_starts_where_steps_are_tiny():
    s = schedule.geometric(1000, 1e-6)  # β_2 is 1.9e-8
    again = schedule.learned(s.beta[1], schedule.to_logits(s))
    close(again.beta[2:-1], s.beta[2:-1], rtol=1e-5)


def test_learned_keeps_beta_1_and_has_finite_gradients():
    def total(logits):
        s = schedule.learned(1e-5, logits)
        return jnp.sum(s.noise) + jnp.sum(s.beta) + jnp.sum(s.log_alpha_bar[-1])

    for start in (schedule.constant_fraction(T, 1e-5), schedule.geometric(T, 1e-5)):
        logits = schedule.to_logits(start)
        assert schedule.learned(1e-5, logits + 1).beta[1] == np.float32(1e-5)
        assert jnp.isfinite(jax.grad(total)(logits)).all()
    assert jnp.isfinite(jax.grad(total)(jnp.asarray([-100.0, 100.0]))).all()


@given(st.sampled_from(sorted(schedule.FIXED)), st.sampled_from([2, 7]), st.data())
def test_respacing_keeps_alpha_bar_at_the_kept_t(name, T, data):
    steps = data.draw(st.integers(2, T))
    s = schedule.by_name(name, T)
    short = schedule.respace(s, steps)
    kept = np.asarray(short.network_t)
    assert steps == short.T and (kept[0], kept[1], kept[-1]) == (0, 1, T)
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(short.log_alpha_bar, s.log_alpha_bar[kept])
    remaining = np.cumprod(1 - np.asarray(short.beta, np.float64))
    np.testing.assert_allclose(remaining, short.alpha_bar, rtol=1e-4, atol=1e-7)


def test_respacing_to_all_steps_is_the_identity_and_twice_is_once_by_network_t():
    s = schedule.geometric(T, 1e-4)
    same = schedule.respace(s, T)
    close(same.beta, s.beta, rtol=1e-5)
    np.testing.assert_array_equal(same.log_alpha_bar, s.log_alpha_bar)
    np.testing.assert_array_equal(same.network_t, s.network_t)
    twice = schedule.respace(schedule.respace(s, 20), 5)
    np.testing.assert_array_equal(twice.log_alpha_bar, s.log_alpha_bar[twice.network_t])


def test_respacing_works_under_jit_and_differentiates():
    s = schedule.constant_fraction(T)
    jitted = jax.jit(lambda s: schedule.respace(s, 7))(s)
    for actual, expected in zip(jitted, schedule.respace(s, 7)):
        close(actual, expected)

    def total(logits):
        return jnp.sum(schedule.respace(schedule.learned(1e-4, logits), 7).beta)

    assert jnp.isfinite(jax.grad(total)(schedule.to_logits(s))).all()


@pytest.mark.parametrize("name", sorted(schedule.FIXED))
@pytest.mark.parametrize("T", [1, 0, -3, 2.5])
def test_T_below_2_or_broken_is_refused(name, T):
    with pytest.raises(ValueError, match=f"T: expected an integer of at least 2, got {T}"):
        schedule.by_name(name, T)


@pytest.mark.parametrize("name", sorted(schedule.FIXED))
@pytest.mark.parametrize("beta_1", [0.0, 1.0, -0.1, np.nan])
def test_beta_1_outside_the_unit_interval_is_refused(name, beta_1):
    with pytest.raises(ValueError, match=r"beta_1: expected a number inside \(0, 1\), got"):
        schedule.by_name(name, T, beta_1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedule.from_beta([0.5]), r"T: expected at least 2 steps, got beta of .*\(1,\)"),
        (lambda: schedule.from_beta(0.5), r"T: expected at least 2 steps, got beta of shape \(\)"),
        (lambda: schedule.from_beta([0.5, 0.0]), r"expected values in \(0, 1\], got beta_2 = 0.0"),
        (lambda: schedule.from_beta([1.5, 0.1]), r"expected values in \(0, 1\], got beta_1 = 1.5"),
        (lambda: schedule.from_beta([0.1, np.nan]), r"values in \(0, 1\], got beta_2 = nan"),
        (lambda: schedule.from_beta([1.0, 0.1]), "beta: expected beta_t < 1 before t = T, got 1"),
        (lambda: schedule.linear(T, 1e-4, 1.5), r"expected values in \(0, 1\], got beta_"),
        (
            lambda: schedule.geometric(T, 0.5, 0.5),
            r"beta_1: expected .* below final_ratio = 0.5, got 0.5",
        ),
        (lambda: schedule.geometric(T, 0.5, np.inf), "final_ratio: expected .*got inf"),
        (lambda: schedule.by_name("sine", T), r"schedule: expected one of \['const.*got 'sine'"),
        (lambda: schedule.respace(schedule.cosine(T), 1), "steps: expected 2..40, got 1"),
        (lambda: schedule.respace(schedule.cosine(T), 41), "steps: expected 2..40, got 41"),
    ],
)
def test_errors_name_the_argument_what_was_expected_and_what_came(make, message):
    with pytest.raises(ValueError, match=message):
        make()
