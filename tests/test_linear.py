"""Linear measurements: their singular values against brute force, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from dpm_jax.posterior import linear

KNOWN = np.random.default_rng(0).random((5, 4, 2)) < 0.4
MATRIX = np.random.default_rng(1).normal(size=(3, 6))
TALL = np.random.default_rng(2).normal(size=(9, 4))
DEFICIENT = np.stack([MATRIX[0], MATRIX[1], MATRIX[0] - 2 * MATRIX[1]])


def rolled(x):
    """A function that is linear, of its own shapes: (4, 3) -> (2, 3)."""
    return jnp.cumsum(x, axis=0)[1::2] - jnp.roll(x, 1, axis=1)[:2]


CASES = {
    "mask": (lambda: linear.mask(KNOWN), lambda x: x[KNOWN]),
    "mask of numbers": (lambda: linear.mask(KNOWN[:, 0, 0]), lambda x: x[KNOWN[:, 0, 0]]),
    "block mean": (
        lambda: linear.block_mean((6, 4, 2), 2),
        lambda x: sum(x[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4,
    ),
    "block mean of grey": (
        lambda: linear.block_mean((6, 3), 3),
        lambda x: x.reshape(2, 3, 3).mean(axis=1).mean(axis=-1, keepdims=True),
    ),
    "block mean of numbers": (
        lambda: linear.block_mean((8,), 4),
        lambda x: x.reshape(2, 4).mean(1),
    ),
    "blur": (
        lambda: linear.blur((6, 5, 2), 0.8),
        lambda x: scipy.ndimage.gaussian_filter(x, (0.8, 0.8, 0), mode="reflect", truncate=8),
    ),
    "strong blur": (
        lambda: linear.blur((7, 6), 2.0),
        lambda x: scipy.ndimage.gaussian_filter(x, 2.0, mode="reflect", truncate=8),
    ),
    "blur of numbers": (
        lambda: linear.blur((9,), 1.3),
        lambda x: scipy.ndimage.gaussian_filter(x, 1.3, mode="reflect", truncate=8),
    ),
    "channels": (lambda: linear.channels((3, 2, 3)), lambda x: x.mean(axis=-1)),
    "weighted channels": (
        lambda: linear.channels((3, 2, 3), [0.3, -0.6, 0.1]),
        lambda x: x @ np.array([0.3, -0.6, 0.1]),
    ),
    "matrix": (lambda: linear.dense(MATRIX, (3, 2)), lambda x: MATRIX @ x.ravel()),
    "tall matrix": (lambda: linear.dense(TALL, (4,)), lambda x: TALL @ x),
    "deficient matrix": (lambda: linear.dense(DEFICIENT, (6,)), lambda x: DEFICIENT @ x),
    "function": (lambda: linear.dense(rolled, (4, 3)), rolled),
    "number": (lambda: linear.dense(lambda x: x.sum(), (4, 3)), lambda x: x.sum()),
    "tall function": (
        lambda: linear.dense(lambda x: jnp.convolve(x, jnp.array([1.0, -2.0, 0.5])), (5,)),
        lambda x: np.convolve(x, [1.0, -2.0, 0.5]),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    made, A = CASES[request.param]
    return made(), A


def entries(function, shape):
    """The matrix of a linear function, by its values at the unit vectors."""
    size = int(np.prod(shape))
    return np.stack([np.ravel(function(unit.reshape(shape))) for unit in np.eye(size)], axis=1)


def test_singular_values_and_vectors_are_those_of_A(case):
    found, A = case
    x = np.random.default_rng(3).normal(size=found.shape)
    y = np.asarray(A(x))
    assert found.out == y.shape
    np.testing.assert_allclose(found.apply(jnp.asarray(x)), y, atol=2e-5)
    by_jax = entries(lambda unit: found.apply(jnp.asarray(unit)), found.shape)
    of_A = entries(A, found.shape)
    np.testing.assert_allclose(by_jax, of_A, atol=2e-5)
    s = np.linalg.svd(of_A, compute_uv=False)
    np.testing.assert_allclose(np.sort(found.singular)[::-1], s[s > 1e-6 * s[0]], atol=1e-5)


def test_rows_are_orthonormal_and_back_is_their_transpose(case):
    found, _ = case
    k = len(found.singular)
    V = entries(lambda z: found.back(jnp.asarray(z)), (k,))
    rows = entries(lambda x: found.rows(jnp.asarray(x)), found.shape)
    np.testing.assert_allclose(rows, V.T, atol=1e-6)
    np.testing.assert_allclose(rows @ V, np.eye(k), atol=2e-6)
    assert jnp.shape(found.back(jnp.zeros(k))) == found.shape


def test_what_was_seen_is_s_times_the_coordinates_and_the_pseudoinverse_is_found(case):
    found, A = case
    x = jax.random.normal(jax.random.key(4), found.shape)
    seen = found.seen(found.apply(x))
    np.testing.assert_allclose(seen, found.singular * found.rows(x), atol=1e-5)
    # Moore & Penrose: V s⁻¹ Uᵀ, where the singular values are not too far apart for float32.
    if found.singular.max() < 1e3 * found.singular.min():
        inverse = entries(
            lambda y: found.back(found.seen(jnp.asarray(y)) / found.singular), found.out
        )
        np.testing.assert_allclose(
            inverse, np.linalg.pinv(entries(A, found.shape), rcond=1e-6), atol=2e-3
        )


def test_spread_is_the_variance_of_each_coordinate(case):
    found, _ = case
    d = np.random.default_rng(5).random(found.shape)
    rows = entries(lambda x: found.rows(jnp.asarray(x)), found.shape)
    np.testing.assert_allclose(
        found.spread(jnp.asarray(d)), np.diag(rows * d.ravel() @ rows.T), atol=1e-5
    )
    np.testing.assert_allclose(found.spread(2), 2 * np.ones(len(rows)), rtol=1e-4)


def test_all_of_it_under_jit_vmap_and_grad(case):
    found, _ = case
    x = jax.random.normal(jax.random.key(6), (2, *found.shape))

    @jax.jit
    @jax.vmap
    def total(x):
        back = jax.grad(lambda x: jnp.sum(found.apply(x) ** 2))(x)
        return back, 2 * found.back(found.singular**2 * found.rows(x))

    back, expected = total(x)
    np.testing.assert_allclose(back, expected, atol=2e-4)


def test_projections_are_random_rows_of_length_1_in_the_mean():
    found = linear.projection(jax.random.key(0), (20, 10), 50)
    assert found.out == (50,) and len(found.singular) == 50
    A = entries(lambda x: found.apply(jnp.asarray(x)), (20, 10))
    np.testing.assert_allclose((A**2).sum(axis=1).mean(), 1, atol=0.1)
    assert abs(A.mean()) < 5 * A.std() / np.sqrt(A.size)
    expected = jax.random.normal(jax.random.key(0), (50, 200)) / np.sqrt(200)
    np.testing.assert_allclose(A, expected, atol=1e-5)


def test_a_strong_blur_keeps_what_rounding_leaves_alone():
    found = linear.blur((32, 32), 4.0)
    s = np.asarray(found.singular)
    assert len(s) < 300 and s.min() > 1e-6 * s.max() and np.isclose(s.max(), 1)


@jax.custom_jvp
def silent(x):
    return x[:1]


silent.defjvp(lambda primals, tangents: (primals[0][:1], 0 * tangents[0][:1]))
NOT_LINEAR = {
    "off by": lambda x: x[:2] ** 2,
    r"A\(ax\+by\) off by .* of its values": jax.nn.relu,
    r"A\(0\) up to 1": lambda x: x + 1.0,
    "NaN or infinite": lambda x: x / 0,
    "0 everywhere": lambda x: 0 * x,
    "function of JAX, from x of shape .4,.": lambda x: x @ jnp.ones((3, 2)),
    "function of JAX": np.sort,
    "an array, got": lambda x: (x, x),
    "real numbers, got complex64": jnp.fft.fft,
    "real numbers, got bool": lambda x: x > 0,
    "by its transpose, off by": silent,
}


@pytest.mark.parametrize("said", NOT_LINEAR)
def test_functions_that_are_refused(said):
    A = NOT_LINEAR[said]
    with pytest.raises(ValueError, match=f"^A: expected .*{said}"):
        linear.dense(A, (4,))


REFUSED = {
    r"A: expected a matrix \(m, 6\) for events \(3, 2\), got \(3, 5\)": lambda: linear.dense(
        np.ones((3, 5)), (3, 2)
    ),
    "A: expected finite": lambda: linear.dense(MATRIX * np.nan, (6,)),
    "A: .* 0 everywhere": lambda: linear.dense(0 * MATRIX, (6,)),
    "A: .* 4096 singular .* got 5,000 x 5,000 .give a `Linear`": lambda: linear.dense(
        lambda x: x, (5000,)
    ),
    "num: .* got 9,000 x 10,000": lambda: linear.projection(jax.random.key(0), (100, 100), 9000),
    "num: expected at least 1": lambda: linear.projection(jax.random.key(0), (4,), 0),
    "shape: expected at least 1": lambda: linear.dense(MATRIX, (0,)),
    "known: expected bool, .* got float64": lambda: linear.mask(np.ones(3)),
    "known: .* False everywhere": lambda: linear.mask(np.zeros(3, bool)),
    r"factor: .* divides H and W of \(6, 4\), got 3": lambda: linear.block_mean((6, 4), 3),
    r"shape: expected \(H,\), .* got \(2, 2, 2, 2\)": lambda: linear.block_mean((2, 2, 2, 2), 2),
    "sigma: .* above 0, of .* got 0": lambda: linear.blur((4,), 0),
    "sigma: .* above 0, of .* got nan": lambda: linear.blur((4,), np.nan),
    r"weights: expected 3 .* got \[1. 2.\]": lambda: linear.channels((2, 3), [1, 2]),
    "weights: .* not all 0": lambda: linear.channels((2, 3), [0, 0, 0]),
}


@pytest.mark.parametrize("said", REFUSED)
def test_arguments_that_are_refused(said):
    with pytest.raises(ValueError, match=f"^{said}"):
        REFUSED[said]()


def test_types_that_are_refused():
    with pytest.raises(TypeError, match=r"^A: expected a matrix whose values are known"):
        jax.jit(lambda A: linear.dense(A, (6,)).apply(jnp.ones(6)))(MATRIX)
    with pytest.raises(TypeError, match=r"^A: expected an array of numbers"):
        linear.dense("blur", (6,))
    with pytest.raises(TypeError, match=r"^key"):
        linear.projection(0, (6,), 2)
