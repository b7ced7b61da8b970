"""Linear measurements y = A x^0 + ε by their singular values, A = U diag(s) Vᵀ.

Named ones have U, s and V in closed form; `dense` finds them for any other by the SVD on the host.
What a posterior needs of A is then cheap at any size: coordinates along the rows of Vᵀ, which are
orthonormal, and singular values above 0. One example at a time, as everywhere: `jax.vmap` for many.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.family import numbers
from dpm_jax.images import dct
from dpm_jax.posterior import matrix

LEAST = 1e-6  # of the largest: smaller singular values are what rounding leaves of 0


class Linear(NamedTuple):
    """The measurement A of y = A x^0 + ε by its singular values: A x = U diag(s) Vᵀ x.

    Pure functions of JAX, for one x, z or y. k is the rank: only s above 0 are kept.
    """

    apply: Callable[[Array], Array]  # x (*shape) -> A x (*out)
    shape: tuple[int, ...]  # of the event
    out: tuple[int, ...]  # of y
    singular: Array  # (k,) s, above 0
    rows: Callable[[Array], Array]  # x (*shape) -> (k,)  Vᵀ x
    back: Callable[[Array], Array]  # z (k,) -> (*shape)  V z
    seen: Callable[[Array], Array]  # y (*out) -> (k,)    Uᵀ y
    spread: Callable[[Array], Array]  # d, broadcast to (*shape) -> (k,): diag of Vᵀ diag(d) V, the
    # variances of Vᵀ x where the elements of x are independent of variances d
    diagonal: bool = False  # whether Vᵀ diag(d) V is diagonal for any d: no element is in two rows


def mask(known: ArrayLike) -> Linear:
    """y = the elements of x^0 where `known` (bool, of the event's shape), as one row.

    Raises:
        ValueError: for a mask that is not bool, or knows nothing.
    """
    known = np.asarray(known)
    if known.dtype != bool or not known.any():
        got = "one that is False everywhere" if known.dtype == bool else str(known.dtype)
        raise ValueError(f"known: expected bool, True where x^0 is known, got {got}")
    where = np.flatnonzero(known)

    def rows(x: Array) -> Array:
        return jnp.ravel(x)[where]

    return Linear(
        apply=rows,
        shape=known.shape,
        out=where.shape,
        singular=jnp.ones(where.shape),
        rows=rows,
        back=partial(_scatter, where, known.shape),
        seen=jnp.ravel,
        spread=lambda d: rows(_filled(d, known.shape)),
        diagonal=True,
    )


def block_mean(shape: Sequence[int], factor: int) -> Linear:
    """y = means of x^0 over blocks of factor × factor, (H, W, C) -> (H/f, W/f, C): small images.

    Also of shape (H, W), and (H,) with blocks of `factor`.

    Raises:
        ValueError: for a shape of more axes, or whose H or W `factor` does not divide.
    """
    shape, factor = _image(shape), units.whole("factor", factor)
    if any(size % factor for size in shape[:2]):
        raise ValueError(f"factor: expected one that divides H and W of {shape}, got {factor}")
    out = tuple(size // factor for size in shape[:2]) + shape[2:]
    split = tuple(n for size in out[:2] for n in (size, factor)) + shape[2:]
    blocks = (1, 3)[: len(shape)]
    root = float(factor) ** (len(shape[:2]) / 2)  # √ of the elements in a block

    def mean(x: Array) -> Array:
        return jnp.mean(jnp.reshape(x, split), axis=blocks)

    def back(z: Array) -> Array:
        small = jnp.expand_dims(jnp.reshape(z, out), blocks)
        return jnp.reshape(jnp.broadcast_to(small / root, split), shape)

    return Linear(
        apply=mean,
        shape=shape,
        out=out,
        singular=jnp.full(int(np.prod(out)), 1 / root),
        rows=lambda x: root * jnp.ravel(mean(x)),
        back=back,
        seen=jnp.ravel,
        spread=lambda d: jnp.ravel(mean(_filled(d, shape))),
        diagonal=True,
    )


def blur(shape: Sequence[int], sigma: float) -> Linear:
    """y = x^0 blurred by a Gaussian of s.d. `sigma` pixels with reflecting ends, (H, W, C).

    Also of shape (H, W) and (H,). The cosines of the DCT are its singular vectors; those whose s is
    below 1e-6 of the largest are taken for lost.

    Raises:
        ValueError: for a shape of more axes, or a sigma that is not above 0.
    """
    shape = _image(shape)
    if not 0 < float(sigma) <= max(shape[:2]):
        raise ValueError(
            f"sigma: expected a number of pixels above 0, of {shape} at most {max(shape[:2])},"
            f" got {sigma}"
        )
    each = [_damping(size, float(sigma)) for size in shape[:2]]
    damping = reduce(np.multiply.outer, [*each, np.ones(shape[2:])])
    where = np.flatnonzero(damping > LEAST * damping.max())
    waves = [dct.matrix(size) for size in shape[:2]]
    squares = [wave**2 for wave in waves]

    def rows(x: Array) -> Array:
        return jnp.ravel(_along(waves, x))[where]

    def back(z: Array) -> Array:
        return _along([wave.T for wave in waves], _scatter(where, shape, z))

    singular = damping.ravel()[where]
    return Linear(
        apply=lambda x: back(_times(singular, rows(x))),
        shape=shape,
        out=shape,
        singular=jnp.asarray(singular, jnp.result_type(float)),
        rows=rows,
        back=back,
        seen=rows,
        spread=lambda d: jnp.ravel(_along(squares, _filled(d, shape)))[where],
    )


def channels(shape: Sequence[int], weights: ArrayLike | None = None) -> Linear:
    """y = a weighted sum of the colours of x^0, (H, W, C) -> (H, W): grey of colour.

    Args:
        shape: of the event; its last axis is that of colours.
        weights: (C,); 1/C each where not given.

    Raises:
        ValueError: for another number of weights, or none that is not 0.
    """
    shape = _sizes(shape)
    if not shape:
        raise ValueError("shape: expected one whose last axis is that of colours, got ()")
    weights = np.full(shape[-1], 1 / shape[-1]) if weights is None else weights
    weights = np.asarray(numbers("weights", weights), np.float64)
    if weights.shape != shape[-1:] or not np.isfinite(weights).all() or not weights.any():
        raise ValueError(f"weights: expected {shape[-1]} finite numbers, not all 0, got {weights}")
    size = np.linalg.norm(weights)
    row, out = weights / size, shape[:-1]

    def mixed(weights: np.ndarray, x: Array) -> Array:
        return _dot(weights, jnp.moveaxis(x, -1, 0))

    return Linear(
        apply=partial(mixed, weights),
        shape=shape,
        out=out,
        singular=jnp.full(int(np.prod(out)), size),
        rows=lambda x: jnp.ravel(mixed(row, x)),
        back=lambda z: jnp.multiply.outer(jnp.reshape(z, out), jnp.asarray(row, z.dtype)),
        seen=jnp.ravel,
        spread=lambda d: jnp.ravel(mixed(row**2, _filled(d, shape))),
        diagonal=True,
    )


def projection(key: Array, shape: Sequence[int], num: int) -> Linear:
    """y = `num` random projections of x^0, by rows of independent N(0, 1/size): compressed sensing.

    Raises:
        TypeError: for a key that is none.
        ValueError: for num below 1, or one too large for the SVD on the host.
    """
    sampling.check_key(key)
    shape, num = _sizes(shape), units.whole("num", num)
    size = int(np.prod(shape))
    matrix.check_size("num", num, size)
    return dense(np.asarray(jax.random.normal(key, (num, size)), np.float64) / np.sqrt(size), shape)


def dense(A: ArrayLike | Callable[[Array], Array], shape: Sequence[int]) -> Linear:
    """Any linear A, by its SVD in float64 on the host; singular values that rounding left are lost.

    Args:
        A: matrix (m, size), or a function of JAX x (*shape) -> y, of any shape.
        shape: of the event.

    Raises:
        TypeError: for an A that is neither, or is traced.
        ValueError: for a matrix of another width, a function that is not linear (in random vectors)
            or does not take x of that shape, values that are not finite, an A that is 0, or one too
            large: a `Linear` with functions of your own then.
    """
    shape = _sizes(shape)
    entries, out = matrix.of(A, shape)
    left, size, right = np.linalg.svd(entries, full_matrices=False)
    keep = size > LEAST * size[0]
    kept = left[:, keep], size[keep], right[keep]
    U, s, rows = (jnp.asarray(array, jnp.result_type(float)) for array in kept)

    def along(x: Array) -> Array:
        return _dot(rows, jnp.ravel(x))

    return Linear(
        apply=lambda x: jnp.reshape(_dot(U, _times(s, along(x))), out),
        shape=shape,
        out=out,
        singular=s,
        rows=along,
        back=lambda z: jnp.reshape(_dot(rows.T, z), shape),
        seen=lambda y: _dot(U.T, jnp.ravel(y)),
        spread=lambda d: _dot(rows**2, jnp.ravel(_filled(d, shape))),
    )


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(units.whole("shape", size) for size in shape)


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = _sizes(shape)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"shape: expected (H,), (H, W) or (H, W, C), got {sizes}")
    return sizes


def _damping(size: int, sigma: float) -> np.ndarray:
    """What a Gaussian filter leaves of each cosine: its transform, (size,)."""
    reach = int(np.ceil(8 * sigma))
    steps = np.arange(-reach, reach + 1)
    weight = np.exp(-0.5 * (steps / sigma) ** 2)
    return np.cos(np.pi / size * np.outer(np.arange(size), steps)) @ weight / weight.sum()


def _along(waves: Sequence[np.ndarray], x: Array) -> Array:
    """x with its first axes multiplied by the matrices `waves`, one each."""
    for axis, wave in enumerate(waves):
        moved = _dot(wave, jnp.moveaxis(x, axis, 0))
        x = jnp.moveaxis(moved, 0, axis)
    return x


def _dot(a: ArrayLike, b: Array) -> Array:
    """a · b in the type of b; HIGHEST, since TF32 keeps three digits."""
    return jnp.tensordot(jnp.asarray(a, b.dtype), b, axes=1, precision="highest")


def _times(s: ArrayLike, z: Array) -> Array:
    """s z in the type of z."""
    return jnp.asarray(s, z.dtype) * z


def _filled(d: ArrayLike, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(jnp.asarray(d, jnp.result_type(d, float)), shape)


def _scatter(where: np.ndarray, shape: tuple[int, ...], z: Array) -> Array:
    flat = jnp.zeros(int(np.prod(shape)), z.dtype).at[where].set(z)
    return jnp.reshape(flat, shape)
