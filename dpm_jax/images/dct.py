"""Images as coefficients: orthonormal DCT-II by frequency, colour axes by channel."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II, (size, size) float64: row k holds the cosine of frequency k."""
    angle = np.pi / size * np.arange(size)[:, None] * (np.arange(size) + 0.5)
    scale = np.where(np.arange(size) == 0, 1, 2) / size
    return np.sqrt(scale)[:, None] * np.cos(angle)


def analyse(axes: Array, x: Array) -> Array:
    """Coefficients (H, W, C) of an image; HIGHEST, since 1 − ᾱ is below what TF32 resolves."""
    vertical, horizontal = (jnp.asarray(matrix(n), x.dtype) for n in x.shape[:2])
    return jnp.einsum("ki,lj,ca,ijc->kla", vertical, horizontal, axes, x, precision="highest")


def synthesise(axes: Array, z: Array) -> Array:
    """The image of these coefficients: the inverse of `analyse`, which is its transpose."""
    vertical, horizontal = (jnp.asarray(matrix(n), z.dtype) for n in z.shape[:2])
    return jnp.einsum("ki,lj,ca,kla->ijc", vertical, horizontal, axes, z, precision="highest")


def transform(images: np.ndarray, inverse: bool = False) -> np.ndarray:
    """2-D DCT of images (n, H, W, C), by channel; or back. In float64, on the host."""
    n, height, width, channels = images.shape
    vertical, horizontal = (matrix(size) for size in (height, width))
    if inverse:
        vertical, horizontal = vertical.T, horizontal.T
    rows = vertical @ images.reshape(n, height, width * channels)
    return (horizontal @ rows.reshape(n, height, width, channels)).reshape(images.shape)
