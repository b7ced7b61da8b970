"""The linear skip: conditional expectations, K in closed form, float32 at low noise, sizes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from scipy.stats import multivariate_normal

from cases import LOG_2PIE, averaged, keys, mean_is
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.core.chain import make_chain
from dpm_jax.images import dct, kernel
from dpm_jax.images.kernel import wiener
from dpm_jax.images.law import LinearSkip, fit, log_density, resolved
from dpm_jax.images.resize import resize
from dpm_jax.likelihood import bound

SHAPE = (4, 3, 3)  # three channels: the squares of 2×2 axes are symmetric and hide a transpose
LOG_ALPHA_BARS = (-1e-7, -1e-3, -0.3, -2.0, -9.0)


def close(actual, expected, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol, atol)


def law(shape=SHAPE, seed=0, by_pixel=True, slope=3.0):
    """A law whose powers span e^±slope, with oblique colour axes."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=shape if by_pixel else shape[-1:])
    axes = np.linalg.qr(rng.normal(size=(shape[-1], shape[-1])))[0]
    power = np.exp(rng.uniform(-slope, slope, size=shape))
    return LinearSkip(*(jnp.asarray(v, jnp.result_type(float)) for v in (mean, axes, power)))


def dense(skip):
    """Mean (d,) and covariance (d, d) of the law's pixels, by scipy's DCT."""
    shape = skip.power.shape
    unit = np.eye(np.prod(shape)).reshape(-1, *shape)
    pixels = scipy.fft.idctn(unit @ np.asarray(skip.axes).T, axes=(1, 2), norm="ortho")
    basis = pixels.reshape(len(unit), -1)  # a row for each coefficient
    mean = np.broadcast_to(np.asarray(skip.mean), shape).ravel()
    return mean, basis.T @ (np.asarray(skip.power).ravel()[:, None] * basis)


def draws(skip, n, seed=0):
    """(n, H, W, C) images from the law, by scipy's DCT."""
    z = np.random.default_rng(seed).normal(size=(n, *skip.power.shape)) * np.sqrt(skip.power)
    pixels = scipy.fft.idctn(z @ np.asarray(skip.axes).T, axes=(1, 2), norm="ortho")
    return pixels + np.asarray(skip.mean)


def posterior_covariance(skip, log_alpha_bar):
    """Gain and covariance of x^0 given x^t, (d, d) each, by linear algebra."""
    C = dense(skip)[1]
    a = np.exp(log_alpha_bar)
    gain = np.sqrt(a) * C @ np.linalg.inv(a * C + (1 - a) * np.eye(len(C)))
    return gain, C - np.sqrt(a) * gain @ C


# --- transforms and filter ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 32, 256])
def test_the_dct_is_scipys_and_orthonormal(size):
    D = dct.matrix(size)
    close(D, scipy.fft.dct(np.eye(size), axis=0, norm="ortho"), atol=1e-12)
    close(D @ D.T, np.eye(size), atol=1e-12)


def test_analysis_and_synthesis_are_inverse(x64):
    skip = law()
    x = np.random.default_rng(1).normal(size=SHAPE)
    z = dct.analyse(skip.axes, jnp.asarray(x))
    close(z, scipy.fft.dctn(x, axes=(0, 1), norm="ortho") @ np.asarray(skip.axes))
    close(dct.synthesise(skip.axes, z), x)


@pytest.mark.parametrize("log_alpha_bar", LOG_ALPHA_BARS)
def test_the_filter_is_the_conditional_expectation(x64, log_alpha_bar):
    skip = law()
    mean, _ = dense(skip)
    gain, P = posterior_covariance(skip, log_alpha_bar)
    xt = np.random.default_rng(2).normal(size=SHAPE)
    found = wiener(skip, jnp.asarray(xt), jnp.asarray(log_alpha_bar))
    expected = mean + gain @ (xt.ravel() - np.exp(log_alpha_bar / 2) * mean)
    close(found.x0_hat.ravel(), expected, rtol=1e-7)  # the reference inverts a matrix
    close(found.variance, np.diag(P).reshape(SHAPE).mean(axis=(0, 1)), rtol=1e-7)


@pytest.mark.parametrize("log_alpha_bar", LOG_ALPHA_BARS)
def test_the_residual_is_white_and_its_noise_known(x64, log_alpha_bar):
    skip, a = law(), np.exp(log_alpha_bar)

    def residual(x):
        return wiener(skip, x, jnp.asarray(log_alpha_bar)).residual.ravel()

    mean, C = dense(skip)
    J = np.asarray(jax.jacobian(residual)(jnp.zeros(SHAPE))).reshape(len(mean), -1)
    close(J @ (a * C + (1 - a) * np.eye(len(mean))) @ J.T, np.eye(len(mean)), atol=1e-9)
    close(residual(jnp.asarray(np.sqrt(a) * mean.reshape(SHAPE))), 0 * mean)
    noise = np.diag((1 - a) * J @ J.T).reshape(SHAPE).mean(axis=(0, 1))
    close(wiener(skip, jnp.zeros(SHAPE), jnp.asarray(log_alpha_bar)).noise, noise)


def test_without_signal_and_without_noise():
    skip, xt = law(), jnp.asarray(np.random.default_rng(3).normal(size=SHAPE), jnp.float32)
    nothing = wiener(skip, xt, jnp.asarray(-jnp.inf))
    close(nothing.x0_hat, np.broadcast_to(skip.mean, SHAPE))
    close(nothing.variance, np.diag(dense(skip)[1]).reshape(SHAPE).mean(axis=(0, 1)), 1e-5)
    close(nothing.noise, 1.0, rtol=1e-6)
    everything = wiener(skip, xt, jnp.zeros(()))
    close(everything.x0_hat, xt)
    close(everything.variance, 0.0)


def test_filter_and_density_have_finite_gradients():
    def loss(skip, xt, log_alpha_bar):
        found = wiener(skip, xt, log_alpha_bar)
        return sum(jnp.sum(v**2) for v in found) + log_density(skip, xt, log_alpha_bar)

    value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    for log_alpha_bar in (-np.inf, -1.0, -5e-8, 0.0):
        found = value_and_grad(law(), jnp.ones(SHAPE), jnp.asarray(log_alpha_bar, jnp.float32))
        for leaf in jax.tree.leaves(found):
            assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()


@pytest.mark.parametrize("log_alpha_bar", [0.0, -0.7])
def test_log_density_is_that_of_the_normal_law(x64, log_alpha_bar):
    skip, a = law(by_pixel=False), np.exp(log_alpha_bar)
    mean, C = dense(skip)
    x = draws(skip, 3)
    exact = multivariate_normal(np.sqrt(a) * mean, a * C + (1 - a) * np.eye(len(mean)))
    found = jax.vmap(lambda x: log_density(skip, x, log_alpha_bar))(jnp.asarray(x))
    close(found, exact.logpdf(x.reshape(3, -1)))


# --- kernel and bound ---------------------------------------------------------------------------

STEPS = 12


def closed_form_KL(skip, steps):
    """E KL_t, (T+1,), 0 below t = 2, of the law's kernels on data from the law, by linear algebra:
    ½ Σ_i [log Σ_i/v + (v + A² P_ii)/Σ_i − 1] with Σ = v + A² c²."""
    log_alpha_bar, beta = (np.asarray(v) for v in (steps.log_alpha_bar, steps.beta))
    noise, KL = -np.expm1(log_alpha_bar), np.zeros(steps.T + 1)
    for t in range(2, steps.T + 1):
        P = np.diag(posterior_covariance(skip, log_alpha_bar[t])[1]).reshape(skip.power.shape)
        A = np.exp(log_alpha_bar[t - 1] / 2) * beta[t] / noise[t]
        v = beta[t] * noise[t - 1] / noise[t]
        Sigma = v + A**2 * np.broadcast_to(P.mean(axis=(0, 1)), P.shape)
        KL[t] = 0.5 * np.sum(np.log(Sigma / v) + (v + A**2 * P) / Sigma - 1)
    return KL


def test_K_of_data_from_the_law_is_the_closed_form(x64):
    """Term by term, and its sum below −h(X_1) − KL(q(x^T)‖π), what a dense covariance reaches."""
    skip, family, n = law(slope=1.5), gaussian.family(), 3000
    steps = schedule.geometric(STEPS, 1e-2, 30.0)
    chain = make_chain(family, steps, kernel.reverse(skip, steps), SHAPE)
    terms = jax.jit(jax.vmap(lambda k, x: bound.exact_terms(k, chain, x)))
    found = np.asarray(terms(keys(n), jnp.asarray(draws(skip, n))))
    KL = closed_form_KL(skip, steps)
    mean_is(found[:, 2:], -KL[2:])
    mean, C = dense(skip)
    a, one = np.exp(np.asarray(steps.log_alpha_bar)), np.eye(len(mean))

    def h(t):
        return np.linalg.slogdet(a[t] * C + (1 - a[t]) * one)[1] / 2

    prior = 0.5 * (a[-1] * (mean @ mean + np.trace(C)) - a[-1] * len(mean)) - h(-1)
    best = -h(1) - len(mean) * LOG_2PIE / 2 - prior
    gap = best - found[:, :2].mean(axis=0).sum() + KL.sum()
    assert gap > 0
    assert gap < 0.05 * len(mean)


def test_KL_of_the_law_is_what_is_resolved_of_each_e_fold_of_noise(x64):
    skip, steps = law(), schedule.geometric(4000, 1e-3, 50.0)
    t = np.arange(2, 4000)
    share = resolved(skip, steps.log_snr[t])
    folds = np.log(50.0 / (1e-3 / (1 - 1e-3))) / 3999  # of noise over signal, in each step
    KL = np.asarray(closed_form_KL(skip, steps))[t]
    np.testing.assert_allclose(KL, 0.5 * np.prod(SHAPE) * folds * share, rtol=0.02)


def test_white_noise_is_resolved_as_its_signal_stands_above_the_noise():
    white = LinearSkip(jnp.zeros(1), jnp.eye(1), jnp.ones((4, 4, 1)))
    at = np.linspace(-30, 30, 7)
    close(resolved(white, at), 1 / (1 + np.exp(-at)))


def test_the_law_of_t_follows_the_KL_of_the_skip_and_has_less_variance():
    shape = (16, 16, 1)  # large enough for terms to differ by t more than by their noise
    skip, steps = law(shape, by_pixel=False), schedule.geometric(200, 1e-4, 300.0)

    class Zero(nn.Module):
        @nn.compact
        def __call__(self, x, t, log_snr):
            return jnp.zeros((*x.shape, 1))

    built = model.build(gaussian.family(), steps, Zero(), shape, kernel.readout(skip))
    chain = built.chain({"network": {}})
    weights = np.asarray(bound.time_law(chain))
    assert weights.sum() == pytest.approx(1, rel=1e-5) and not weights[:2].any()
    expected = resolved(skip, steps.log_snr[2:]) * np.diff(np.log(steps.noise[1:]))
    expected = 0.25 / 199 + 0.75 * expected / expected.sum()
    np.testing.assert_allclose(weights[2:], expected, rtol=1e-3)
    x0 = jnp.asarray(draws(skip, 1), jnp.float32)  # one t: no strata

    @jax.jit
    def means(keys, law):
        def once(key):
            terms = bound.draw_terms(key, chain, x0, law=law)
            return (bound.ends(chain, x0[0]) + terms.term / terms.probability).mean()

        return jax.vmap(once)(keys)

    uniform = jnp.asarray(np.where(np.arange(201) > 1, 1 / 199, 0), jnp.float32)
    ours, theirs = means(keys(2000), jnp.asarray(weights)), means(keys(2000), uniform)
    mean_is(ours - theirs, 0.0)  # both are unbiased
    assert ours.std() < 0.6 * theirs.std()


def test_K_of_white_data_loses_nothing(x64):
    """A diagonal kernel is then exact: K = −h(X_0) − KL(q(x^T)‖π), the last step learned too."""
    s, family, n = 0.3, gaussian.family(), 2000
    skip = LinearSkip(jnp.zeros(1), jnp.eye(1), jnp.full((4, 4, 1), s))
    steps = schedule.geometric(5, 1e-2, 30.0)
    chain = make_chain(family, steps, kernel.reverse(skip, steps), (4, 4, 1), "learned")
    K = jax.jit(jax.vmap(lambda k, x: bound.exact(k, chain, x).K))
    found = K(keys(n), jnp.asarray(draws(skip, n)))
    total = float(steps.alpha_bar[-1]) * s + float(steps.noise[-1])
    prior = 0.5 * (total - 1 - np.log(total))
    mean_is(found, -16 * (0.5 * (LOG_2PIE + np.log(s)) + prior))


@pytest.mark.parametrize("t", [1, 2, 5, STEPS])
def test_the_kernel_is_q_of_one_step_given_the_next(x64, t):
    """Mean exact, variance its mean over the pixels of a channel, t = 1 included."""
    skip, steps = law(), schedule.constant_fraction(STEPS, 1e-3)
    mean, C = dense(skip)
    a, beta = np.asarray(steps.alpha_bar), np.asarray(steps.beta)
    S = [a[i] * C + (1 - a[i]) * np.eye(len(C)) for i in (t - 1, t)]
    back = np.sqrt(1 - beta[t]) * S[0] @ np.linalg.inv(S[1])
    V = S[0] - np.sqrt(1 - beta[t]) * back @ S[0]
    xt = np.random.default_rng(4).normal(size=SHAPE)
    p = kernel.reverse(skip, steps)(jnp.asarray(xt), jnp.asarray(t))
    expected = np.sqrt(a[t - 1]) * mean + back @ (xt.ravel() - np.sqrt(a[t]) * mean)
    close(p.mean.ravel(), expected, rtol=1e-8)
    by_channel = np.diag(V).reshape(SHAPE).mean(axis=(0, 1))
    close(p.variance, np.broadcast_to(by_channel, SHAPE), rtol=1e-8)


def test_F_corrects_x0_in_units_of_c_and_z_scales_what_it_leaves(x64):
    skip, steps, t = law(), schedule.geometric(STEPS, 1e-2), jnp.asarray(4)
    rng = np.random.default_rng(5)
    xt, x0 = (jnp.asarray(rng.normal(size=SHAPE)) for _ in range(2))
    found = wiener(skip, xt, steps.log_alpha_bar[t])
    F = (x0 - found.x0_hat) / jnp.broadcast_to(jnp.sqrt(found.variance), SHAPE)
    q = gaussian.bridge(x0, xt, steps.beta[t], steps.log_alpha_bar[t - 1])
    at_0 = kernel.reverse(skip, steps)(xt, t).variance - q.variance
    for z, factor in ((-3.0, np.exp(-3.0)), (9.0, np.exp(4.0)), (-99.0, np.exp(-8.0))):
        raw = jnp.stack([F, jnp.full(SHAPE, z)], axis=-1)
        p = kernel.kernel(skip, raw, xt, steps, t)
        close(p.mean, q.mean)
        close(p.variance - q.variance, factor * at_0)
    raw = jnp.stack([F, jnp.zeros(SHAPE)], axis=-1)
    p = kernel.kernel(skip, raw, xt, steps, t, x0_range=(-0.2, 0.1))
    clipped = gaussian.bridge(
        jnp.clip(x0, -0.2, 0.1), xt, steps.beta[t], steps.log_alpha_bar[t - 1]
    )
    close(p.mean, clipped.mean)


def test_features_are_the_filtered_image_and_the_residual_in_units_of_noise(x64):
    skip, steps = law(), schedule.geometric(STEPS, 1e-2)
    t = jnp.asarray(3)
    xt = jnp.asarray(np.random.default_rng(6).normal(size=SHAPE))
    seen = kernel.features(skip, xt, steps, t)
    found = wiener(skip, xt, steps.log_alpha_bar[t])
    assert seen.shape == (4, 3, 6)
    close(seen[..., :3], found.x0_hat)
    close(np.sinh(seen[..., 3:]) * np.sqrt(found.noise), found.residual)

    def of_a_flat_patch(key):  # x^0 = m everywhere: what is left is ε, at scale 1
        signal, noise = jnp.exp(steps.log_alpha_bar[t] / 2), steps.noise[t]
        flat = signal * skip.mean + jnp.sqrt(noise) * jax.random.normal(key, SHAPE)
        return jnp.mean(jnp.sinh(kernel.features(skip, flat, steps, t)[..., 3:]) ** 2)

    mean_is(averaged(of_a_flat_patch, 2000), 1.0)


def mix(seen, t):
    """Raw outputs from features, in place of a network."""
    return 0.1 * jnp.stack([jnp.tanh(seen[..., :3]), seen[..., 3:]], axis=-1)


def test_reverse_is_features_network_and_kernel_in_one_filtering():
    skip, steps, xt = law(), schedule.geometric(STEPS, 1e-2), jnp.ones(SHAPE)

    def apart(xt, t):
        raw = mix(kernel.features(skip, xt, steps, t), t)
        return kernel.kernel(skip, raw, xt, steps, t)

    together = kernel.reverse(skip, steps, mix)

    def alone(xt, t):
        return wiener(skip, xt, steps.log_alpha_bar[t])

    t = jnp.asarray(5)
    compiled = [jax.jit(f).lower(xt, t).compile() for f in (apart, together, alone)]
    for a, b in zip(compiled[0](xt, t), compiled[1](xt, t)):
        close(a, b, rtol=1e-6)
    products = [c.as_text().count(" dot(") for c in compiled]
    assert products[0] == products[1] == products[2] > 0


def test_the_readout_pairs_F_and_z_of_each_channel():
    """A network sees 2C channels and gives F of all, then z of all."""
    skip, steps, t = law((4, 4, 2)), schedule.geometric(STEPS, 1e-2), jnp.asarray(3)
    read = kernel.readout(skip)
    x = jnp.asarray(draws(skip, 1)[0], jnp.float32)
    seen = read.features(x, steps, t)
    assert read.outputs == 1 and seen.shape == (4, 4, 4)
    np.testing.assert_array_equal(seen, kernel.features(skip, x, steps, t))
    raw = jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
    pair = jnp.stack([raw[..., :2, 0], raw[..., 2:, 0]], axis=-1)
    for x0_range in (None, (-0.2, 0.3)):
        found = read.apply(raw, x, steps, t, x0_range)
        expected = kernel.kernel(skip, pair, x, steps, t, x0_range)
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.variance, expected.variance)
    at = jnp.linspace(-12.0, 12.0, 9)
    np.testing.assert_allclose(read.kl_per_fold(at), resolved(skip, at), rtol=1e-2)


@pytest.mark.parametrize("beta_T", [0.5, 1.0])
def test_gradients_through_the_kernel_are_finite_in_float32(beta_T):
    """By x^t, the raw outputs and the law; by β too, where it is not 1."""
    skip, beta = law(), np.array([5e-8, 1e-7, 1e-3, 0.3, beta_T])

    def loss(inputs, t):
        xt, raw, skip, logits = inputs
        steps = schedule.from_beta(beta)
        if beta_T < 1:
            steps = schedule.learned(steps.beta[1], logits)
        p = kernel.kernel(skip, raw, xt, steps, t)
        seen = kernel.features(skip, xt, steps, t)
        return jnp.sum(p.mean) + jnp.sum(jnp.log(p.variance)) + jnp.sum(seen)

    logits = jnp.asarray(np.log(beta[1:]) - np.log1p(-np.minimum(beta[1:], 0.9)), jnp.float32)
    inputs = (jnp.ones(SHAPE), jnp.zeros((*SHAPE, 2)), skip, logits)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    for t in (1, 2, 3, 5):
        for leaf in jax.tree.leaves(value_and_grad(inputs, jnp.asarray(t))):
            assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()


# --- float32 where the bits are -----------------------------------------------------------------


def natural(size=16):
    """A law with the spectrum of photographs: powers 300/f² over the noise of 8-bit levels."""
    f = np.hypot(*np.meshgrid(np.arange(size), np.arange(size)))
    power = 100.0 / (0.3 + f**2)[..., None] + 2e-5
    values = (np.array([0.1]), np.eye(1), power)
    return LinearSkip(*(jnp.asarray(v, jnp.result_type(float)) for v in values))


def KL_terms(beta_1, x0, ts):
    """KL_t of the law's kernels in the default precision, at the same noise in any."""
    skip, steps = natural(), schedule.geometric(1000, beta_1, 333.0)
    reverse = kernel.reverse(skip, steps)
    noise = np.random.default_rng(7).normal(size=(len(ts), *x0.shape))
    dtype = jnp.result_type(float)

    def one(x, e, t):
        q = gaussian.marginal(x, steps.log_alpha_bar[t])
        xt = q.mean + jnp.sqrt(q.variance) * e
        q = gaussian.bridge(x, xt, steps.beta[t], steps.log_alpha_bar[t - 1])
        return gaussian.kl(q, reverse(xt, t))

    over = jax.vmap(jax.vmap(one, (0, 0, None)), (None, 0, 0))
    args = (jnp.asarray(x0, dtype), jnp.asarray(noise, dtype), jnp.asarray(ts))
    return np.asarray(jax.jit(over)(*args), np.float64)


@pytest.mark.parametrize("beta_1, tolerance", [(5.5e-6, 1e-4), (5e-8, 1e-3)])
def test_K_in_float32_is_that_of_float64(beta_1, tolerance):
    """In bits a pixel, over T = 1,000: every tenth t, each for ten. At 5e-8 what is left comes from
    the difference of the two kernels' means in gaussian.kl, not from the filter."""
    x0 = draws(natural(), 4).astype(np.float32)
    ts = np.arange(2, 1001, 10)
    single = KL_terms(beta_1, x0, ts)
    with jax.enable_x64(True):
        double = KL_terms(beta_1, x0, ts)

    def bits(KL):
        return 10 * KL.sum(axis=0).mean() / 256 / np.log(2)

    assert abs(bits(single) - bits(double)) < tolerance


@pytest.mark.parametrize("beta_1", [5.5e-6, 5e-8])
def test_the_filter_in_float32_is_off_by_less_than_the_noise(beta_1):
    """By 2 % of the noise at 5e-8, 0.2 % at 5.5e-6: rounding of x^t itself, 1.2e-7 at |x| = 2."""
    x = draws(natural(), 1)[0].astype(np.float32)
    single = wiener(natural(), jnp.asarray(x), jnp.asarray(np.log1p(-beta_1), jnp.float32))
    with jax.enable_x64(True):
        double = wiener(natural(), jnp.asarray(x, float), jnp.asarray(np.log1p(-beta_1)))
    difference = np.asarray(single.x0_hat, float) - np.asarray(double.x0_hat)
    assert np.sqrt(np.mean(difference**2)) < 3e-8 * np.abs(x).max()
    close(single.variance, double.variance, rtol=1e-5)


# --- fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stationary_mean", [True, False])
def test_fit_is_the_moments_of_the_coefficients(x64, stationary_mean):
    images = draws(law(), 40)
    skip = fit(images, stationary_mean=stationary_mean, shrinkage=1e-12, chunk=7)
    mean = images.mean(axis=0)
    if stationary_mean:
        mean = mean.mean(axis=(0, 1))
    close(skip.mean, mean)
    pixels = (images - mean).reshape(-1, 3)
    values, axes = np.linalg.eigh(pixels.T @ pixels / len(pixels))
    close(np.abs(np.asarray(skip.axes).T @ axes[:, ::-1]), np.eye(3), atol=1e-9)
    z = scipy.fft.dctn(images - mean, axes=(1, 2), norm="ortho") @ np.asarray(skip.axes)
    close(skip.power, (z**2).mean(axis=0), rtol=1e-7)
    close(skip.power.mean(axis=(0, 1)), values[::-1])


def test_fit_recovers_a_law():
    truth, n = law((6, 5, 3), by_pixel=False), 4000
    # Axes are only defined where the variances along them differ.
    truth = truth._replace(power=truth.power * jnp.asarray([9.0, 3.0, 1.0])[None, None, :])
    skip = fit(draws(truth, n, seed=8))
    assert all(leaf.dtype == jnp.float32 for leaf in skip)
    turn = np.asarray(skip.axes).T @ np.asarray(truth.axes)
    close(np.abs(turn), np.eye(3), atol=0.05)
    ratio = np.asarray(skip.power)[1:, 1:] / np.asarray(truth.power)[1:, 1:]
    leak = (1 - np.diag(turn) ** 2).max() * 81 * np.exp(6)  # from the strongest to the weakest
    assert np.abs(np.log(ratio)).max() < 5 * np.sqrt(2 / n) + leak
    error = np.sqrt(np.asarray(truth.power[0, 0]).sum() / 30 / n)
    close(skip.mean, truth.mean, atol=5 * error)


def test_fit_streams_8_bit_rows():
    rows = np.random.default_rng(9).integers(0, 256, (30, 4, 4, 1), np.uint8)

    def prepare(r):
        return (r.astype(np.float32) + 0.5 - 128) / 64

    whole = fit(prepare(rows))
    for a, b in zip(fit(rows, prepare, chunk=4), whole):
        close(a, b, rtol=1e-5)
    noisy = fit(rows, prepare, noise_variance=0.25)
    close(noisy.power, whole.power + 0.25, rtol=1e-5)


def test_fit_leaves_no_power_at_zero():
    images = np.zeros((5, 4, 4, 1))
    images[:, 0, 0, 0] = np.arange(5.0)
    images -= images.mean(axis=(1, 2, 3), keepdims=True)  # nothing at frequency 0
    skip = fit(images, stationary_mean=False, shrinkage=1e-3)
    variance = np.var(images, axis=0).mean()
    close(skip.power[0, 0, 0], 1e-3 * variance, rtol=1e-5)
    close(skip.power.mean(), variance, rtol=1e-5)
    assert jnp.isfinite(log_density(skip, jnp.ones((4, 4, 1))))


@pytest.mark.parametrize(
    "images, options, message",
    [
        (np.zeros((5, 4, 4)), {}, r"images: expected shape \(N, H, W, C\) .* got \(5, 4, 4\)"),
        (np.zeros((1, 4, 4, 1)), {}, "images: expected shape .* N >= 2"),
        (np.ones((5, 4, 4, 1)), {}, "images: expected finite values that differ"),
        (np.full((5, 4, 4, 1), np.nan), {}, "images: expected finite values that differ"),
        (np.eye(4)[:, :, None, None], {"shrinkage": 0.0}, "shrinkage: expected .* got 0.0"),
    ],
)
def test_fit_refuses(images, options, message):
    with pytest.raises(ValueError, match=message):
        fit(images, **options)


def test_shapes_that_do_not_fit_the_law():
    skip, steps, t = law(), schedule.geometric(STEPS), jnp.asarray(2)
    with pytest.raises(ValueError, match=r"xt: expected the law's shape \(4, 3, 3\), got \(8, 3,"):
        wiener(skip, jnp.zeros((8, 3, 3)), jnp.zeros(()))
    with pytest.raises(ValueError, match=r"x: expected the law's shape"):
        log_density(skip, jnp.zeros((8, 3, 3)))
    with pytest.raises(ValueError, match=r"raw: expected shape \(4, 3, 3, 2\), got \(4, 3, 3, 1\)"):
        kernel.kernel(skip, jnp.zeros((*SHAPE, 1)), jnp.zeros(SHAPE), steps, t)


# --- other sizes --------------------------------------------------------------------------------


def stationary(height, width, length):
    """The law of a process with covariance e^{−(|dy| + |dx|)/length}, and a little white noise."""
    sides = []
    for n in (height, width):
        lags = np.abs(np.arange(n)[:, None] - np.arange(n))
        D = scipy.fft.dct(np.eye(n), axis=0, norm="ortho")
        sides.append(np.diag(D @ np.exp(-lags / length) @ D.T))
    power = np.outer(*sides)[..., None] + 1e-4
    return LinearSkip(jnp.asarray([0.3]), jnp.eye(1), jnp.asarray(power, jnp.result_type(float)))


def divergence(truth, found):
    """KL between two laws that differ in their powers, nats a pixel."""
    ratio = np.asarray(truth.power, float) / np.asarray(found.power, float)
    return 0.5 * np.mean(ratio - 1 - np.log(ratio))


@pytest.mark.parametrize(
    "old, new", [((32, 32), (64, 96)), ((32, 32), (20, 32)), ((32, 24), (32, 33)), ((8, 8), (1, 1))]
)
@pytest.mark.parametrize("length, error", [(1.0, 1e-4), (5.0, 1e-4), (40.0, 3e-3)])
def test_resized_powers_are_those_of_the_process(old, new, length, error):
    found = resize(stationary(*old, length), *new)
    truth = stationary(*new, length)
    assert found.power.shape == truth.power.shape
    assert divergence(truth, found) < error
    close(found.power.mean(), truth.power.mean(), rtol=1e-5)  # the variance of a pixel
    close(found.mean, truth.mean)


def test_resizing_by_itself_and_back():
    skip = stationary(16, 16, 3.0)
    assert resize(skip, 16, 16) is skip
    back = resize(resize(skip, 40, 40), 16, 16)
    close(back.power, skip.power, rtol=0.02)


def test_resizing_a_fitted_law_adds_little_to_its_own_error():
    truth, n = stationary(16, 16, 4.0), 2000
    fitted = fit(draws(truth, n, seed=10))
    assert divergence(truth, fitted) == pytest.approx(0.5 / n, rel=0.2)
    assert divergence(stationary(32, 32, 4.0), resize(fitted, 32, 32)) < 1 / n


def test_resize_refuses():
    with pytest.raises(ValueError, match="height, width: expected at least 1, got 0, 4"):
        resize(stationary(4, 4, 1.0), 0, 4)
    with pytest.raises(
        ValueError, match=r"skip: expected one mean for each channel, got .*4, 3, 3"
    ):
        resize(law(), 8, 8)
