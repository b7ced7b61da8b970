"""Parzen windows: closed forms, float64, the choice of the width, Table 2's perfect model."""

import gzip
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from dpm_jax import units
from dpm_jax.baselines import parzen
from dpm_jax.baselines.parzen import (
    CAUTION,
    WIDTHS,
    choose_width,
    evaluate,
    log_densities,
    log_density,
)

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(23, 2, 3)).astype(np.float32)
X = RNG.normal(size=(17, 2, 3)).astype(np.float32)


def direct(samples, x, width):
    """log p(x) by differences in float64."""
    s, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (samples, x))
    d2 = np.stack([((s - row) ** 2).sum(axis=1) for row in y])
    kernels = -d2 / (2 * width**2) - s.shape[1] * np.log(np.sqrt(2 * np.pi) * width)
    return logsumexp(kernels, axis=1) - np.log(len(s))


def test_one_sample_is_one_gaussian():
    x, width = np.array([[0.3, -0.2]]), 0.7
    expected = -0.5 * (0.3**2 + 0.2**2) / width**2 - np.log(2 * np.pi * width**2)
    found = log_density(np.zeros((1, 2)), x, width)
    assert found.shape == (1,) and found.dtype == np.float64
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("width", [1e-3, 0.05, 0.4, 3.0, 1e3])
def test_mixture_against_float64(width):
    np.testing.assert_allclose(
        log_density(SAMPLES, X, width), direct(SAMPLES, X, width), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 17, 23, 1000])
def test_chunks_and_widths_change_nothing(chunk):
    widths = (2.0, 0.1, 0.5)  # in the order given
    found = log_densities(SAMPLES, X, widths, chunk)
    expected = np.stack([direct(SAMPLES, X, width) for width in widths])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_density_integrates_to_1():
    samples = np.array([[0.0, 0.0], [1.0, 0.5], [-0.5, 1.0]])
    axis = np.arange(-4, 5, 0.05)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(log_density(samples, grid, 0.3)).sum() * 0.05**2
    assert total == pytest.approx(1, abs=1e-6)


def test_images_at_small_widths_and_far_from_zero():
    """The mean of the samples is taken off, so an offset of any size costs no digits of its own."""
    samples, x = (RNG.uniform(size=(40, 784)) + 1000.0 for _ in range(2))
    for width in (0.3, 0.1, 0.02):
        error = log_density(samples, x, width) - direct(samples, x, width)
        assert np.abs(error).max() < 1e-6 * 784 / 12 / width**2


def test_duplicates_have_distance_0():
    """Rounding gives no negative distance: no density above that of the kernels' peaks."""
    samples = RNG.uniform(size=(50, 784)).astype(np.float32)
    for width in (0.1, 1e-2, 1e-4):
        peak = -np.log(50) - 784 * np.log(np.sqrt(2 * np.pi) * width)
        found = log_density(samples, samples, width)
        np.testing.assert_array_less(found, peak + 1e-6)
        np.testing.assert_array_less(peak - 1e-6 * 784 / 12 / width**2, found)


@pytest.mark.parametrize("width", [1e-30, 1e-12, 1e12, 1e30])
def test_absurd_widths_stay_finite(width):
    assert np.isfinite(log_density(SAMPLES, X, width)).all()


def test_float64_mode_and_other_dtypes(x64):
    levels = RNG.integers(0, 256, size=(30, 2), dtype=np.uint8)
    found = log_density(jnp.asarray(levels[:20]), levels[20:], 20.0)
    np.testing.assert_allclose(found, direct(levels[:20], levels[20:], 20.0), rtol=1e-6)


def test_width_is_that_of_the_largest_mean():
    samples, validation = RNG.normal(size=(300, 4)), RNG.normal(size=(300, 4))
    dense = np.geomspace(0.1, 1, 400)
    means = log_densities(samples, validation, dense).mean(axis=1)
    width = choose_width(samples, validation)
    assert width == pytest.approx(dense[means.argmax()], rel=0.03)
    assert log_density(samples, validation, width).mean() == pytest.approx(means.max(), abs=1e-3)
    assert choose_width(samples, validation, WIDTHS[::-1]) == width


def test_width_of_a_gaussian_about_one_point():
    """All samples 0: the best width is the standard deviation about 0, σ² = mean x²."""
    validation = RNG.normal(size=(500, 3)) * 0.37
    width = choose_width(np.zeros((2, 3)), validation)
    assert width == pytest.approx(np.sqrt((validation**2).mean()), rel=0.015)


def test_evaluation_of_test_data_at_the_chosen_width():
    samples, validation, test = (RNG.normal(size=(n, 3)) for n in (200, 100, 150))
    result = evaluate(samples, validation, test)
    values = direct(samples, test, result.width)
    assert result.width == choose_width(samples, validation)
    assert result.log_likelihood == pytest.approx(values.mean(), rel=1e-5)
    assert result.error == pytest.approx(values.std(ddof=1) / np.sqrt(150), rel=1e-5)
    assert (result.samples, result.examples, result.at_edge) == (200, 150, False)


@pytest.mark.parametrize(
    "widths, width, at_edge",
    [((0.01, 0.02), 0.02, True), ((8.0, 5.0, 20.0), 5.0, True), ((0.2,), 0.2, False)],
)
def test_edge_of_the_grid(widths, width, at_edge):
    result = evaluate(SAMPLES, X, X, widths)
    assert result.width == width and result.at_edge is at_edge


def test_progress_sees_each_pass():
    seen = []

    def progress(chunks):
        seen.append(list(chunks))
        return seen[-1]

    evaluate(SAMPLES, X[:3], X, chunk=10, progress=progress)
    assert seen == [[0], [0], [0, 10]]


def bad(value, rows=SAMPLES):
    rows = rows.copy()
    rows[0, 0, :2] = value
    return rows


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": SAMPLES[:1]}, "samples: expected at least 2 rows, got 1"),
        ({"test": X[:1]}, "test: expected at least 2 rows, got 1"),
        ({"test": X[:, :1]}, r"test: expected rows \(2, 3\), got \(1, 3\)"),
        ({"validation": X[..., None]}, r"validation: expected rows \(2, 3\), got \(2, 3, 1\)"),
        ({"validation": X[:0]}, r"validation: expected shape .* got \(0, 2, 3\)"),
        ({"samples": np.zeros(5)}, r"samples: expected shape \(n, \*event\).* got \(5,\)"),
        ({"samples": bad(np.nan)}, "samples: expected finite values.* got 2 NaN.* of 138"),
        ({"test": bad(-np.inf, X)}, "test: expected finite values.* got 2 NaN.* of 102"),
        ({"samples": bad(1e17)}, "samples: expected finite values below 1e.16, got 2"),
        ({"widths": (0.1, 0.0)}, r"widths: expected positive numbers, got \[0.1, 0.0\]"),
        ({"widths": (np.nan,)}, "widths: expected positive"),
        ({"widths": (np.inf,)}, "widths: expected positive"),
        ({"widths": ()}, r"widths: expected positive numbers, got \[\]"),
        ({"chunk": 0}, "chunk: expected at least 1, got 0"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        evaluate(**({"samples": SAMPLES, "validation": X, "test": X} | change))


def test_products_are_full_float32_on_every_device():
    """A GPU would round to TF32 and a TPU to bfloat16, and the CPU of a test would not show it."""
    shapes = ((1, 4, 2), (1, 4), (3, 2), (3,), (1,))
    jaxpr = jax.make_jaxpr(parzen._nearest_and_sums)(*(jnp.ones(s, jnp.float32) for s in shapes))
    assert "Precision.HIGHEST" in str(jaxpr)


def test_the_caution_says_what_to_compare():
    assert "do not rank" in CAUTION and "number of samples" in CAUTION
    assert "CAUTION" in inspect.getdoc(parzen)


def mnist(folder, name):
    """The images of an original MNIST file, (n, 28, 28) in [0, 1]."""
    path = folder / "mnist" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    with gzip.open(path) as file:
        levels = np.frombuffer(file.read(), np.uint8, offset=16)
    return (levels / np.float32(255)).reshape(-1, 28, 28)


def test_perfect_model_of_table_2(dpm_data):
    """10,000 training images as samples: the paper has 349 ± 3.3 bits. The test takes 4 s."""
    train = mnist(dpm_data, "train-images-idx3-ubyte.gz")
    test = mnist(dpm_data, "t10k-images-idx3-ubyte.gz")
    samples = train[np.random.default_rng(0).permutation(50_000)[:10_000]]
    result = evaluate(samples, train[-1000:], test)
    assert units.bits(result.log_likelihood) == pytest.approx(349, abs=5)
    assert units.bits(result.error) == pytest.approx(2.8, abs=0.2)
    assert 0.15 < result.width < 0.2 and not result.at_edge
    assert (result.samples, result.examples) == (10_000, 10_000)
    fewer = evaluate(samples[:1000], train[-1000:], test)
    assert fewer.log_likelihood < result.log_likelihood - 80  # what `CAUTION` warns of
