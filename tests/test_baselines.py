"""Baselines of image density: closed forms, normalisation, EM, the cases of the border, errors."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm

from dpm_jax.baselines import blocks, causal, mcgsm
from dpm_jax.baselines.causal import fit_scale_mixture

RNG = np.random.default_rng(0)
SMALL = {"components": 2, "scales": 2, "features": 3, "steps": 1000}  # an MCGSM that is soon fitted


def field(n, height, width):
    """Gaussian images of correlation 0.8^|Δi| 0.6^|Δj| about 0.3, and their exact log density.

    A pixel depends on its left, upper and upper left neighbour alone, so that a window of one row
    and one column holds all there is to know, at the border as well.
    """
    sides = ((0.8, height), (0.6, width))
    rows, columns = (r ** np.abs(np.subtract.outer(range(m), range(m))) for r, m in sides)
    a, b = np.linalg.cholesky(rows), np.linalg.cholesky(columns)
    images = a @ RNG.normal(size=(n, height, width)) @ b.T + 0.3
    law = multivariate_normal(np.full(height * width, 0.3), np.kron(rows, columns))
    return images[..., None], lambda x: law.logpdf(x.reshape(len(x), -1))


def contrasts(n, *shape):
    """Correlated pixels, of a contrast that varies from image to image."""
    mix = np.linalg.cholesky(0.4 * np.eye(np.prod(shape)) + 0.6)
    x = RNG.normal(size=(n, np.prod(shape))) @ mix.T
    return (x * np.exp(0.4 * RNG.normal(size=(n, 1)))).reshape(n, *shape)


# --- Gaussians ------------------------------------------------------------------------------------


def test_isotropic_is_L_null():
    x = RNG.normal(size=(5, 3, 4, 2))
    expected = norm.logpdf(x).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(blocks.isotropic(x), expected, rtol=1e-12)
    found = blocks.isotropic(jax.numpy.asarray(x, jax.numpy.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blocks_are_one_gaussian():
    """Against scipy, block by block, with the mean and covariance of all blocks of all images."""
    train, test = (contrasts(n, 4, 6, 2) + 0.5 for n in (20, 3))

    def rows_of(images):
        corners = [(i, j) for i in (0, 2) for j in (0, 2, 4)]
        return np.stack([images[:, i : i + 2, j : j + 2].reshape(-1, 8) for i, j in corners])

    rows = rows_of(train).reshape(-1, 8)
    law = multivariate_normal(rows.mean(axis=0), np.cov(rows.T, ddof=0))
    expected = sum(law.logpdf(block) for block in rows_of(test))
    model = blocks.fit(train, 2)
    assert model.mean.shape == (2, 2, 2)
    np.testing.assert_allclose(blocks.log_density(model, test), expected, rtol=1e-10)


def test_blocks_as_large_as_the_image_reach_the_truth():
    train, _ = field(20_000, 4, 4)
    test, truth = field(1000, 4, 4)
    lost = truth(test) - blocks.log_density(blocks.fit(train, 4), test)
    assert 0 < lost.mean() < 0.02  # 152 parameters of 20,000 images: 0.004


# --- the product of conditionals ------------------------------------------------------------------


class Recorder:
    """A conditional that keeps what it was fitted on, and whose log p tells all it is given."""

    def __init__(self, context, target):
        self.context, self.target = context, target

    def log_prob(self, context, target):
        """A different number for whatever stands elsewhere."""
        return context @ np.sqrt(1.0 + np.arange(context.shape[1])) + 0.1 * target


def test_windows_against_loops():
    """Every pixel once, with its causal window, the channels before it, and 0 elsewhere."""
    x = RNG.normal(size=(3, 4, 5, 2))
    model = causal.fit(x, Recorder, rows=2, columns=1)
    assert len(model.conditionals) == 3 * 3 * 2
    expected = np.zeros(3)
    for number, i, j, channel in np.ndindex(x.shape):
        window = [(i - 2, j - 1), (i - 2, j), (i - 2, j + 1), (i - 1, j - 1), (i - 1, j)]
        window += [(i - 1, j + 1), (i, j - 1)]
        context = [x[number, a, b] if a >= 0 and 0 <= b < 5 else [0, 0] for a, b in window]
        context = np.append(context, x[number, i, j, 0] if channel else 0)
        factors = np.sqrt(1.0 + np.arange(15))
        expected[number] += context @ factors + 0.1 * x[number, i, j, channel]
    np.testing.assert_allclose(causal.log_density(model, x), expected, rtol=1e-12)
    corner = model.conditionals[0, 0, 1, 1]
    np.testing.assert_array_equal(corner.target, x[:, 0, 0, 1])


def test_many_pixels_are_scored_in_parts(monkeypatch):
    x = contrasts(7, 5, 4, 1)
    model = causal.fit(x, rows=1, columns=1)
    expected = causal.log_density(model, x)
    monkeypatch.setattr(causal, "_ROWS", 5)
    np.testing.assert_allclose(causal.log_density(model, x), expected, rtol=1e-12)


def test_pixels_are_drawn_once_each_in_the_order_of_their_images():
    x = np.arange(600.0).reshape(50, 3, 4, 1)
    model, again, other = (
        causal.fit(x, Recorder, rows=0, columns=1, pixels=80, seed=seed) for seed in (0, 0, 1)
    )
    inner, left = model.conditionals[0, 1, 1, 0].target, model.conditionals[0, 0, 1, 0].target
    assert len(inner) == len(left) == len(set(inner)) == 80  # of 300, and of 150
    assert np.all(np.diff(inner // 12) >= 0)
    np.testing.assert_array_equal(inner, again.conditionals[0, 1, 1, 0].target)
    assert set(inner) != set(other.conditionals[0, 1, 1, 0].target)
    everything = causal.fit(x, Recorder, rows=0, columns=1)
    assert len(everything.conditionals[0, 1, 1, 0].target) == 300


def test_progress_sees_the_cases():
    seen = []

    def progress(cases):
        seen.extend(cases)
        return cases

    causal.fit(contrasts(3, 9, 10, 1), Recorder, progress=progress)
    assert len(seen) == 45
    sizes = [len(places) for _, places in seen]
    assert sizes == sorted(sizes, reverse=True) and seen[0][0] == (4, 4, 4, 0)


def test_causal_density_of_a_gaussian_field_is_exact():
    """It reaches the true log density of whole images, and so of larger ones that it never saw."""
    train, _ = field(8000, 4, 5)
    model = causal.fit(train, rows=1, columns=1)
    for size in ((4, 5), (3, 7)):
        test, truth = field(1000, *size)
        lost = truth(test) - causal.log_density(model, test)
        assert -0.01 < lost.mean() < 0.05, size


def test_channels_are_predicted_in_their_order():
    """One pixel of three channels: the product is their joint Gaussian."""
    train, test = (contrasts(n, 1, 1, 3) + np.arange(3) for n in (4000, 100))
    model = causal.fit(train, partial(fit_scale_mixture, components=1, ridge=1e-9))
    rows = train.reshape(-1, 3)
    law = multivariate_normal(rows.mean(axis=0), np.cov(rows.T, ddof=0))
    np.testing.assert_allclose(
        causal.log_density(model, test), law.logpdf(test.reshape(-1, 3)), rtol=1e-9
    )


def grid(points, shape):
    """All images of these values, (points^dims, *shape)."""
    axes = np.meshgrid(*[points] * int(np.prod(shape)), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, *shape)


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 2, 1), (1, 2, 2)])
def test_plain_density_integrates_to_1(shape):
    fit_one = partial(fit_scale_mixture, floor=0.16)  # no scale below the step of the grid
    model = causal.fit(contrasts(400, *shape), fit_one, rows=1, columns=1)
    scales = {len(np.unique(c.variances.round(3))) for c in model.conditionals.values()}
    assert max(scales) >= 3  # it is a mixture
    h = 0.4
    images = grid(np.arange(-6, 6.1, h), shape)
    assert np.exp(causal.log_density(model, images)).sum() * h ** np.prod(shape) == pytest.approx(
        1, abs=5e-3
    )


@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 1, 2)])
def test_mcgsm_integrates_to_1(shape):
    model = mcgsm.fit(contrasts(400, *shape), rows=0, columns=2 - shape[2], **SMALL)
    h = 0.08
    images = grid(np.arange(-12, 12, h), shape)
    assert np.exp(causal.log_density(model, images)).sum() * h**2 == pytest.approx(1, abs=1e-4)


# --- samples --------------------------------------------------------------------------------------


class Rule(Recorder):
    """A pixel that is told by its context."""

    def sample(self, context, rng):
        """Stays within ±1, so that whole images do; no two windows give the same."""
        return np.sin(self.log_prob(context, 0) + 0.3)


def test_a_sample_sees_its_causal_window():
    """In whatever order pixels are drawn, each has those before it in raster order, as loops do."""
    x = RNG.normal(size=(3, 5, 6, 2))
    model = causal.fit(x, Rule, rows=2, columns=1)
    images = causal.sample(model, (9, 7), 2)
    assert images.shape == (2, 9, 7, 2) and images.dtype == np.float64
    seen = np.pad(images, ((0, 0), (2, 0), (1, 1), (0, 0)))
    factors = np.sqrt(1.0 + np.arange(15))
    for number, i, j in np.ndindex(2, 9, 7):
        window = [*seen[number, i : i + 2, j : j + 3].reshape(-1), *seen[number, i + 2, j]]
        first = np.sin(np.append(window, 0) @ factors + 0.3)
        second = np.sin(np.append(window, first) @ factors + 0.3)
        np.testing.assert_allclose(images[number, i, j], [first, second], atol=1e-9)


def autoregression():
    """`field` as a product of conditionals, by hand: pixels of correlation 0.8^|Δi| 0.6^|Δj|."""
    up, left, offset = 0.8, 0.6, 0.3
    conditionals = {}
    for above, before, after in np.ndindex(2, 2, 2):
        a = np.array([-up * left * above * before, up * above, 0, left * before])
        variance = (1 - up**2 * above) * (1 - left**2 * before)
        coefficients = np.append(a, offset * (1 - a.sum()))
        one = causal.ScaleMixture(coefficients, np.ones(1), np.array([variance]))
        conditionals[above, before, after, 0] = one
    return causal.Causal(1, 1, 1, conditionals)


def test_samples_of_a_gaussian_autoregression_have_its_covariance():
    n, shape = 40_000, (3, 4)
    x = causal.sample(autoregression(), shape, n)
    rows = x.reshape(n, -1)
    sides = ((0.8, 3), (0.6, 4))
    law = np.kron(*(r ** np.abs(np.subtract.outer(range(m), range(m))) for r, m in sides))
    np.testing.assert_allclose(rows.mean(axis=0), 0.3, atol=5 / n**0.5)
    np.testing.assert_allclose(np.cov(rows.T), law, atol=5 * (2 / n) ** 0.5)
    entropy = multivariate_normal(cov=law).entropy()
    found = causal.log_density(autoregression(), x)
    assert found.mean() == pytest.approx(-entropy, abs=5 * (12 / 2 / n) ** 0.5)


@pytest.mark.parametrize("kind", ["plain", "MCGSM"])
def test_samples_of_a_conditional_have_its_density(kind):
    """For one context: the share of draws below x, and E log p against −∫ p log p."""
    moved = mixture()._replace(whiten=RNG.normal(size=(2, 2)), linear=np.array([0.3, -0.2]))
    moved = moved._replace(mean=np.array([0.5, 1.0]), offset=0.7, scale=3.0)
    plain = causal.ScaleMixture(np.array([0.5, -1.0, 2.0]), np.array([0.7, 0.3]), np.array([1, 9]))
    model = {"plain": plain, "MCGSM": moved}[kind]
    for context in RNG.normal(size=(3, 2)):
        drawn_as_said(model, context, np.arange(-40, 40, 0.005))


def drawn_as_said(model, context, points, n=20_000):
    step = points[1] - points[0]
    log_p = model.log_prob(np.tile(context, (len(points), 1)), points)
    below = np.cumsum(np.exp(log_p)) * step
    assert below[-1] == pytest.approx(1, abs=1e-6)
    drawn = model.sample(np.tile(context, (n, 1)), np.random.default_rng(1))
    assert kstest(drawn, lambda x: np.interp(x, points + step / 2, below)).pvalue > 1e-4
    values = model.log_prob(np.tile(context, (n, 1)), drawn)
    entropy = -step * np.sum(np.exp(log_p) * log_p)
    assert values.mean() == pytest.approx(-entropy, abs=5 * values.std() / n**0.5)


def test_samples_are_a_function_of_the_seed_and_refuse_a_size_that_is_not_known():
    model = causal.fit(contrasts(60, 4, 4, 1), rows=1, columns=1)
    first, again, other = (causal.sample(model, (5, 4), 2, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other) and not np.any(first[0] == first[1])
    for shape, message in (
        ((4, 1), "shape: expected a size whose windows are cut as those of the training images"),
        (4, r"shape: expected \(height, width\), got 4"),
        ((0, 4), "height: expected at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            causal.sample(model, shape)


# --- the plain conditional ------------------------------------------------------------------------


def regression(n, d=3):
    """Linear prediction with errors of two scales, and log p(x|c)."""
    a, weights, sigma = np.array([0.5, -1.0, 0.2])[:d], (0.7, 0.3), (0.1, 1.5)
    c = RNG.normal(size=(n, d)) + 1
    x = c @ a + 0.4 + RNG.normal(size=n) * np.where(RNG.random(n) < weights[0], *sigma)

    def truth(c, x):
        error = x - c @ a - 0.4
        return np.log(sum(w * norm.pdf(error, scale=s) for w, s in zip(weights, sigma)))

    return c, x, truth


def test_scale_mixture_recovers_the_truth():
    c, x, _ = regression(20_000)
    model = fit_scale_mixture(c, x, components=2, rounds=100)
    np.testing.assert_allclose(model.coefficients, [0.5, -1.0, 0.2, 0.4], atol=0.01)
    np.testing.assert_allclose(np.sort(model.variances), [0.01, 2.25], rtol=0.05)
    np.testing.assert_allclose(model.weights[np.argsort(model.variances)], [0.7, 0.3], atol=0.02)
    c, x, truth = regression(20_000)
    assert abs(np.mean(truth(c, x) - model.log_prob(c, x))) < 2e-3
    gaussian = fit_scale_mixture(c, x, components=1)
    assert np.mean(gaussian.log_prob(c, x)) < np.mean(truth(c, x)) - 0.5


def test_no_round_lowers_the_objective():
    c, x, _ = regression(500)
    ridge = 20.0  # strong enough that the penalty counts

    def objective(rounds, floor):
        model = fit_scale_mixture(c, x, components=3, rounds=rounds, ridge=ridge, floor=floor)
        penalty = 0.5 * ridge * np.sum(model.coefficients[:-1] ** 2)
        return model.log_prob(c, x).sum() - penalty

    for floor in (1e-8, 0.02):  # the second is met
        values = np.array([objective(rounds, floor) for rounds in range(1, 25)])
        assert np.all(np.diff(values) > -1e-9 * abs(values[0])), floor
        assert values[-1] > values[0] + 1


def test_one_component_is_ridge_regression():
    c, x, _ = regression(50)
    model = fit_scale_mixture(c, x, components=1, ridge=1e-9)
    design = np.column_stack([c, np.ones(50)])
    a, squares, *_ = np.linalg.lstsq(design, x, rcond=None)
    np.testing.assert_allclose(model.coefficients, a, rtol=1e-7)
    np.testing.assert_allclose(model.variances, squares / 50, rtol=1e-7)
    stiff = fit_scale_mixture(c, x, components=1, ridge=1e9)
    np.testing.assert_allclose(stiff.coefficients, [0, 0, 0, x.mean()], atol=1e-6)


def test_flat_images_stop_at_the_floor():
    flat = np.ones((1, 2, 1)) * RNG.normal(size=(400, 1, 1, 1))
    model = causal.fit(flat, partial(fit_scale_mixture, floor=1e-4, ridge=1e-9), rows=0, columns=1)
    inner = model.conditionals[0, 1, 0, 0]
    np.testing.assert_array_equal(inner.variances, 1e-4)
    assert np.isfinite(causal.log_density(model, flat)).all()
    assert np.isfinite(causal.log_density(mcgsm.fit(flat, rows=0, columns=1, **SMALL), flat)).all()


# --- the MCGSM ------------------------------------------------------------------------------------


def mixture():
    """An MCGSM whose context chooses between two predictors and how sharp they are."""
    parameters = mcgsm.Parameters(
        a=np.array([[0.0, 0.0], [1.0, -1.0]]),
        m=np.array([0.5, 0.0]),
        b=np.array([[1.0], [0.3]]),
        beta=np.array([[0.05, 1.5]]),
        eta=np.array([[-2.0, -2.5], [0.5, 1.0]]),
        alpha=np.array([[2.0, 4.0], [1.0, 3.0]]),
    )
    return mcgsm.Conditional(np.zeros(2), np.eye(2), np.zeros(2), 0.0, 1.0, parameters)


def gates(p, c):
    """p(k, s|c), (K, S), of one context."""
    energy = ((c @ p.b) ** 2) @ (p.beta**2)
    values = np.exp(p.eta - 0.5 * np.exp(p.alpha) * energy[:, None])
    return values / values.sum()


def draw(n):
    """Contexts, and a pixel of `mixture` given each."""
    p, c = mixture().parameters, RNG.normal(size=(n, 2))
    chosen = [RNG.choice(4, p=gates(p, row).ravel()) for row in c]
    k, s = np.unravel_index(chosen, (2, 2))
    return c, (c @ p.a + p.m)[np.arange(n), k] + RNG.normal(size=n) * np.exp(-p.alpha[k, s] / 2)


def test_mcgsm_is_its_formula():
    c, x = draw(7)
    p = mixture().parameters
    scale = np.exp(-p.alpha / 2)
    means = [(row @ p.a + p.m)[:, None] for row in c]
    expected = [np.sum(gates(p, row) * norm.pdf(v, m, scale)) for row, v, m in zip(c, x, means)]
    np.testing.assert_allclose(mixture().log_prob(c, x), np.log(expected), rtol=1e-10)


def test_whitening_is_a_change_of_variables():
    c, x = draw(9)
    whiten, linear, mean = RNG.normal(size=(2, 2)), np.array([0.3, -0.2]), np.array([1.0, 2.0])
    moved = mixture()._replace(mean=mean, whiten=whiten, linear=linear, offset=0.7, scale=3.0)
    inside = (c - mean) @ whiten
    expected = mixture().log_prob(inside, (x - inside @ linear - 0.7) / 3) - np.log(3)
    np.testing.assert_allclose(moved.log_prob(c, x), expected, rtol=1e-10)


def test_blocks_of_pixels_change_nothing(monkeypatch):
    c, x = draw(11)
    expected = mixture().log_prob(c, x)
    monkeypatch.setattr(mcgsm, "_BLOCK", 4)
    np.testing.assert_allclose(mixture().log_prob(c, x), expected, rtol=1e-12)


def test_mcgsm_recovers_the_truth():
    """What the plain stand-in cannot: the context chooses the predictor."""
    fitted = mcgsm.fit_conditional(*draw(6000), components=6, scales=3, features=4, steps=1500)
    plain = fit_scale_mixture(*draw(6000))
    c, x = draw(4000)
    truth, found = mixture().log_prob(c, x), fitted.log_prob(c, x)
    assert -0.01 < np.mean(truth - found) < 0.05
    assert np.mean(plain.log_prob(c, x)) < truth.mean() - 0.5
    assert found.dtype == np.float64 and not jax.config.jax_enable_x64  # the caller's mode is kept


def test_mcgsm_of_a_gaussian_field():
    train, _ = field(2000, 3, 3)
    test, truth = field(1000, 3, 3)
    lost = truth(test) - causal.log_density(mcgsm.fit(train, rows=1, columns=1, **SMALL), test)
    assert 0 < lost.mean() < 0.1


def test_a_fit_goes_on_from_a_start():
    c, x = draw(2000)
    fitted = mcgsm.fit_conditional(c, x, **SMALL)
    few = {**SMALL, "steps": 8}
    cold, warm = (mcgsm.fit_conditional(c, x, start=p, **few) for p in (None, fitted.parameters))
    found = fitted.log_prob(c, x).mean()
    assert abs(found - warm.log_prob(c, x).mean()) < 0.02 < 0.2 < found - cold.log_prob(c, x).mean()
    with pytest.raises(ValueError, match=r"^start: expected shapes \(\(1, 2\), .* got \(\(2, 2\),"):
        mcgsm.fit_conditional(c[:, :1], x, start=fitted.parameters, **few)


def test_held_out_pixels_choose_the_fit():
    """150 pixels that no context predicts: 1,700 parameters would learn them by heart."""
    c, x = RNG.normal(size=(2150, 20)), RNG.normal(size=2150)
    model = mcgsm.fit_conditional(c[:150], x[:150], steps=600)
    lost = norm.logpdf(x[150:]) - model.log_prob(c[150:], x[150:])
    assert lost.mean() < 0.6


# --- errors and imports ---------------------------------------------------------------------------


def image(*shape, value=0.0):
    x = np.zeros(shape)
    x[..., :1] = value
    return x


@pytest.mark.parametrize("fit", [blocks.fit, causal.fit, mcgsm.fit, blocks.isotropic])
@pytest.mark.parametrize(
    "images, message",
    [
        (image(4, 8, 8), r"expected shape \(n, H, W, C\), none 0, got \(4, 8, 8\)"),
        (image(0, 8, 8, 1), r"expected shape .* got \(0, 8, 8, 1\)"),
        (np.zeros((4, 8, 8, 1), np.uint8), "expected floats, standardised and noised, got uint8"),
        (image(4, 8, 8, 1, value=np.nan), "expected finite values"),
        (image(4, 8, 8, 1, value=-np.inf), "expected finite values"),
    ],
)
def test_images_that_have_no_density(fit, images, message):
    with pytest.raises(ValueError, match=f"^(train|images): {message}"):
        fit(images)


def test_images_that_a_model_cannot_have():
    x = contrasts(60, 4, 4, 1)
    by_blocks, by_window = blocks.fit(x, 2), causal.fit(x, rows=1, columns=1)
    for log_density, model in ((blocks.log_density, by_blocks), (causal.log_density, by_window)):
        with pytest.raises(ValueError, match=r"^images: expected 1 channels, got shape \(2, 4, 4,"):
            log_density(model, image(2, 4, 4, 3))
        with pytest.raises(ValueError, match=r"^images: expected floats"):
            log_density(model, np.zeros((2, 4, 4, 1), int))
    with pytest.raises(
        ValueError, match=r"^images: .* divisible by block = 2, got shape \(2, 4, 3"
    ):
        blocks.log_density(by_blocks, image(2, 4, 3, 1))
    with pytest.raises(
        ValueError, match=r"^images: expected a size whose windows are cut as those"
    ):
        causal.log_density(by_window, image(2, 4, 1, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: blocks.fit(x, 3),
            r"train: .* divisible by block = 3, got shape \(60, 4, 4, 1\)",
        ),
        (lambda x: blocks.fit(x, 0), "block: expected at least 1, got 0"),
        (lambda x: blocks.fit(x, 2.0), "block: expected a whole number, .*got 2.0"),
        (
            lambda x: blocks.fit(x[:16], 4),
            "train: expected more than 16 blocks.* got 16 of singular",
        ),
        (lambda x: blocks.fit(x * 0 + x[:, :1, :1], 2), "train: .* of singular covariance"),
        (lambda x: causal.fit(x, rows=-1), "rows: expected at least 0, got -1"),
        (lambda x: causal.fit(x, columns=-1), "columns: expected at least 0, got -1"),
        (lambda x: causal.fit(x, pixels=0), "pixels: expected at least 1, got 0"),
        (lambda x: mcgsm.fit(x, pixels=0), "pixels: expected at least 1, got 0"),
        (lambda x: mcgsm.fit(x, scales=0), "scales: expected at least 1, got 0"),
        (lambda x: mcgsm.fit(x[:9]), "target: expected at least 10 pixels, got 9"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(contrasts(60, 4, 4, 1))


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"components": 0}, "components: expected at least 1, got 0"),
        ({"rounds": 0}, "rounds: expected at least 1, got 0"),
        ({"ridge": 0.0}, "ridge: expected a positive number, got 0.0"),
        ({"floor": np.nan}, "floor: expected a positive number, got nan"),
    ],
)
def test_settings_of_the_scale_mixture(setting, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fit_scale_mixture(*draw(20), **setting)


def test_importing_baselines_costs_jax_alone():
    heavy = ("scipy.optimize", "scipy.linalg", "matplotlib", "flax", "optax", "orbax")
    code = (
        "import sys, dpm_jax; before = set(sys.modules); "
        "from dpm_jax.baselines import blocks, causal, mcgsm;"
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
