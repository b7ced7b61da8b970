"""Integer grey levels and the density of a model: uniform noise, and one mean and one scale.

Pixels are integers, the model is a density: `dequantize` adds U[0, 1) grey levels of noise and
whitens with one mean and one scale for the whole set. The integers then cost at most −log2 density
+ log2 scale bits a pixel (Theis et al. 2016, Sec. 3.1), so the scale belongs beside every K.
A grey level is a bin of the file's own: 1/256 of the range for 8 bits, 1/65536 for 16.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LEVELS = 256  # grey levels of an 8-bit pixel
TYPES = (np.uint8, np.uint16)  # of pixels


def dequantize(key: Array, images: Array, mean: float, scale: float) -> Array:
    """(x + u − mean)/scale with u ~ U[0, 1) grey levels (Theis et al. 2016, Sec. 3.1).

    Args:
        key: a typed JAX key.
        images: any shape, uint8 or uint16 grey levels.
        mean, scale: of the dequantised training set, grey levels; those of `data.images.ImageData`.

    Returns:
        float32 of the same shape, in units of `scale`: mean 0 and variance 1 over the training set.

    Raises:
        ValueError: where the images are neither uint8 nor uint16.
    """
    levels_of(images)
    levels = jnp.asarray(images).astype(jnp.float32)
    return (levels + jax.random.uniform(key, levels.shape, jnp.float32) - mean) / scale


def to_levels(x: Array, mean: float, scale: float, levels: int = LEVELS) -> Array:
    """The grey level that x lies in, ⌊x·scale + mean⌋ clipped to the range: undoes `dequantize`.

    Args:
        x: any shape, float, in units of `scale`.
        mean, scale: as in `dequantize`, grey levels.
        levels: number of values a pixel can take, 256 or 65536.

    Returns:
        uint8 (uint16 for more than 256 levels) of the same shape; float32 may round to the next
        level within 1e-4 of an edge, within 0.02 of one for 65536 levels.
    """
    dtype = jnp.uint8 if levels <= LEVELS else jnp.uint16
    return jnp.clip(jnp.floor(jnp.asarray(x) * scale + mean), 0, levels - 1).astype(dtype)


def data_range(mean: float, scale: float, levels: int = LEVELS) -> tuple[float, float]:
    """Smallest and largest value that `dequantize` can give, in units of `scale`."""
    return (0 - mean) / scale, (levels - mean) / scale


def levels_of(images: np.ndarray | Array) -> int:
    """Number of grey levels of a type of pixels: 256 for uint8, 65536 for uint16.

    Raises:
        ValueError: for another type.
    """
    if images.dtype not in TYPES:
        raise ValueError(f"images: expected uint8 or uint16 grey levels, got {images.dtype}")
    return int(np.iinfo(images.dtype).max) + 1


def mean_and_scale(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x + U[0, 1) over all pixels of `images`, in grey levels.

    Args:
        images: (N, ...) uint8 or uint16, at least one pixel; may be memory-mapped.

    Raises:
        ValueError: for another dtype or no pixels.
    """
    return moments(histogram(images))


def moments(weights: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x + U[0, 1) for P(x = k) ∝ weights[k]: exact, in float64.

    The uniform noise adds 1/2 to the mean and 1/12 to the variance.

    Args:
        weights: (levels,) not negative, not all 0.

    Returns:
        Mean and standard deviation in grey levels.
    """
    levels = np.arange(len(weights), dtype=np.float64)
    mean = np.average(levels, weights=weights)
    variance = np.average((levels - mean) ** 2, weights=weights)
    return float(mean + 0.5), float(np.sqrt(variance + 1 / 12))


def histogram(images: np.ndarray) -> np.ndarray:
    """How many pixels have each grey level.

    Args:
        images: (N, ...) uint8 or uint16; a memory-mapped array is read in parts.

    Returns:
        (256,) or (65536,) counts.

    Raises:
        ValueError: for another dtype or no pixels.
    """
    if images.dtype not in TYPES or images.size == 0:
        got = f"{images.dtype} {images.shape}"
        raise ValueError(f"images: expected uint8 or uint16 pixels, got {got}")
    levels = levels_of(images)
    # bincount makes an int64 copy of what it counts: about a million pixels keep that small.
    rows = max(1, 2**20 // images[0].size)
    parts = (images[i : i + rows].ravel() for i in range(0, len(images), rows))
    return sum((np.bincount(part, minlength=levels) for part in parts), np.zeros(levels, np.int64))
