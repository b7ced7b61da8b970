"""Readouts: formulas by hand, agreement with the exact bridge, ranges, errors; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.core import binomial, gaussian, schedule
from dpm_jax.images import kernel, law

pytestmark = pytest.mark.usefixtures("x64")

T = 6
X = np.array([0.5, -1.2, 2.0])
RAW = np.array([[0.3, -1.0], [2.0, 0.5], [-0.7, 3.0]])
BITS = np.array([1.0, 0.0, 1.0])
RATE = np.array([0.2, 0.5, 0.7])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def close(actual, expected, rtol=1e-10):
    np.testing.assert_allclose(actual, expected, rtol, 1e-13)


def read(mean, variance="eq64", raw=RAW, t=3, x=X, x0_range=None, steps=None):
    """The reverse kernel that a Gaussian readout makes of `raw`, and its schedule."""
    steps = schedule.constant_fraction(T, 0.05) if steps is None else steps
    chosen = gaussian.family().readout(mean, variance)
    raw = jnp.asarray(raw)[..., : chosen.outputs]
    return chosen.apply(raw, jnp.asarray(x), steps, jnp.asarray(t), x0_range), steps


def read_bits(mean, z, t, x=BITS, rate=RATE):
    """The logits that a binomial readout makes of z, and its family and schedule."""
    family, steps = binomial.family(rate), schedule.constant_fraction(T, 0.05)
    chosen = family.readout(mean)
    assert chosen.outputs == 1
    raw = jnp.asarray(z)[..., None]
    return chosen.apply(raw, jnp.asarray(x), steps, jnp.asarray(t), None).logits, family, steps


@pytest.mark.parametrize("t", [1, 2, T - 1])
def test_eq_64_and_eq_65(t):
    p, steps = read("eq65", t=t)
    beta = float(steps.beta[t])
    sigma = sigmoid(RAW[:, 1] + np.log(beta / (1 - beta)))
    close(p.variance, sigma)
    close(p.mean, (X - RAW[:, 0]) * (1 - sigma) + RAW[:, 0])


def test_eq_64_with_an_output_of_zero_is_the_forward_variance():
    for t in range(1, T + 1):
        p, steps = read("eq65", raw=0 * RAW, t=t)
        close(p.variance, np.full(3, steps.beta[t]))


@pytest.mark.parametrize("t", [1, 3, T])
def test_the_mean_of_the_authors_code(t):
    p, steps = read("code", t=t)
    beta = float(steps.beta[t])
    close(p.mean, X * np.sqrt(1 - beta) + RAW[:, 0] * np.sqrt(beta))


@pytest.mark.parametrize("t", [2, 4, T])
def test_x0_and_v_of_the_true_x0_are_the_exact_bridge(t):
    x0 = np.array([1.0, 0.2, -0.4])
    steps = schedule.constant_fraction(T, 0.05)
    signal, noise = float(jnp.sqrt(steps.alpha_bar[t])), float(jnp.sqrt(steps.noise[t]))
    epsilon = (X - signal * x0) / noise
    v = signal * epsilon - noise * x0  # Salimans & Ho 2022
    exact = gaussian.bridge(
        jnp.asarray(x0), jnp.asarray(X), steps.beta[t], steps.log_alpha_bar[t - 1]
    )
    for mean, z in (("x0", x0), ("v", v)):
        p, _ = read(mean, "posterior", np.stack([z], axis=-1), t)
        close(p.mean, exact.mean)
        close(p.variance, exact.variance)


def test_x0_at_t_1_is_the_guess_itself():
    p, steps = read("x0", "posterior", t=1)
    close(p.mean, RAW[:, 0])
    close(p.variance, np.full(3, steps.beta[2] * steps.noise[1] / steps.noise[2]))


@pytest.mark.parametrize("t", range(1, T + 1))
def test_between_lies_between_the_entropies_of_eq_24(t):
    family, x = gaussian.family(), jnp.asarray(X)
    steps = schedule.constant_fraction(T, 0.05)

    def H(params):
        return float(family.entropy(params))

    upper = H(family.step(x, steps.beta[t]))
    s = max(t, 2)  # at t = 1 there is no lower bound but that of t = 2
    marginal = [H(family.marginal(x, steps.log_alpha_bar[i])) for i in (s - 1, s)]
    lower = H(family.step(x, steps.beta[s])) + marginal[0] - marginal[1]
    for z, expected in ((-40.0, lower), (0.0, (lower + upper) / 2), (40.0, upper)):
        p, _ = read("v", "between", np.full((3, 2), z), t)
        close(H(p), expected, 1e-9)
    p, _ = read("v", "between", t=t)
    assert lower < H(p) < upper


@pytest.mark.parametrize("mean", ["x0", "v"])
def test_x0_range_clamps(mean):
    steps = schedule.constant_fraction(T, 0.05)
    for t in (1, 3, T):
        raw = 100.0 * np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
        p, _ = read(mean, raw=raw, t=t, x0_range=(-2.0, 3.0))
        sign = np.array([1.0, -1.0, 1.0]) * (1 if mean == "x0" else -1)
        at = jnp.asarray(np.where(sign > 0, 3.0, -2.0))
        exact = gaussian.bridge(at, jnp.asarray(X), steps.beta[t], steps.log_alpha_bar[t - 1])
        close(p.mean, exact.mean)
    inside = np.zeros((3, 2))
    close(
        read("x0", raw=inside, x0_range=(-2.0, 3.0))[0].mean,
        read("x0", raw=inside, x0_range=None)[0].mean,
    )


@pytest.mark.parametrize("mean", gaussian.MEANS)
@pytest.mark.parametrize("variance", ["eq64", "between"])
def test_gaussian_readouts_are_finite_with_beta_T_1(mean, variance):
    def loss(raw, x, t, steps):
        p = gaussian.readout(mean, variance).apply(raw, x, steps, t, None)
        return jnp.sum(p.mean) + jnp.sum(jnp.log(p.variance))

    grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
    with jax.enable_x64(False):
        steps = schedule.constant_fraction(T, 1e-5)
        args = [jnp.asarray(a, jnp.float32) for a in (RAW, X)]
        for t in (1, 2, T):
            for leaf in jax.tree.leaves(grad(*args, jnp.asarray(t), steps)):
                assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()


# --- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 4, T])
def test_binomial_x0_is_the_exact_mixture(t):
    z = np.array([0.3, -2.0, 4.0])
    logits, family, steps = read_bits("x0", z, t)
    weight, beta, x = sigmoid(z), steps.beta[t], jnp.asarray(BITS)
    before = steps.log_alpha_bar[t - 1]
    ones, zeros = (family.bridge(jnp.full(3, v), x, beta, before).logits for v in (1.0, 0.0))
    mixture = weight * sigmoid(np.asarray(ones)) + (1 - weight) * sigmoid(np.asarray(zeros))
    close(sigmoid(np.asarray(logits)), mixture)
    if t == 1:
        close(logits, z)


def test_binomial_x0_that_is_certain_is_the_bridge():
    for t in (2, T):
        logits, family, steps = read_bits("x0", np.array([400.0, -400.0, 400.0]), t)
        x0, x = jnp.asarray([1.0, 0.0, 1.0]), jnp.asarray(BITS)
        close(logits, family.bridge(x0, x, steps.beta[t], steps.log_alpha_bar[t - 1]).logits)


def test_binomial_sigmoid_and_step():
    z = np.array([0.3, -2.0, 4.0])
    close(read_bits("sigmoid", z, 3)[0], z)
    logits, _, steps = read_bits("step", z, 3)
    beta = float(steps.beta[3])
    forward = BITS * (1 - beta) + RATE * beta
    close(sigmoid(np.asarray(logits)), sigmoid(z + np.log(forward / (1 - forward))))


@pytest.mark.parametrize("mean", binomial.MEANS)
def test_binomial_gradients_are_finite_in_float32(mean):
    with jax.enable_x64(False):
        family, steps = binomial.family(0.2), schedule.constant_fraction(T, 1e-5)
        x = jnp.asarray([1.0, 0.0, 1.0])

        def loss(raw, t):
            p = family.readout(mean).apply(raw, x, steps, t, None)
            return family.log_prob(p, 1 - x)

        grad = jax.jit(jax.value_and_grad(loss))
        for t in (1, 2, T):
            for z in (-30.0, 0.0, 30.0):
                for leaf in jax.tree.leaves(grad(jnp.full((3, 1), z), jnp.asarray(t))):
                    assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()


@pytest.mark.parametrize(
    "family, names, message",
    [
        ("gaussian", ("eq66", "eq64"), r"readout: expected one of \('eq65', .*\), got 'eq66'"),
        ("gaussian", ("sigmoid", "eq64"), "readout: expected one of .* got 'sigmoid'"),
        ("gaussian", ("x0", "fixed"), r"variance: expected one of \('eq64', .*\), got 'fixed'"),
        ("gaussian", ("eq65", "posterior"), "variance: expected eq64 or between .* 'posterior'"),
        ("binomial", ("eq65", "eq64"), r"readout: expected one of \('sigmoid', .*\), got 'eq65'"),
    ],
)
def test_unknown_names(family, names, message):
    family = gaussian.family() if family == "gaussian" else binomial.family()
    with pytest.raises(ValueError, match=message):
        family.readout(*names)


def test_the_readout_of_a_law_of_images():
    steps = schedule.geometric(5, 0.01)
    images = np.random.default_rng(0).normal(size=(50, 4, 4, 2))
    skip = law.fit(images)
    read = kernel.readout(skip)
    x, t = jnp.asarray(images[0]), jnp.asarray(3)
    assert read.outputs == 1 and read.features(x, steps, t).shape == (4, 4, 4)
    # The network gives F of both colours, then z of both.
    raw = jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
    pair = jnp.stack([raw[..., :2, 0], raw[..., 2:, 0]], axis=-1)
    for x0_range in (None, (-0.3, 0.4)):
        found = read.apply(raw, x, steps, t, x0_range)
        expected = kernel.kernel(skip, pair, x, steps, t, x0_range)
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.variance, expected.variance)
