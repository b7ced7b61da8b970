"""Integer grey levels and the density of a model: uniform noise, and one mean and one scale.

Pixels are integers, the model is a density: `dequantize` adds U[0, 1) grey levels of noise and
whitens with one mean and one scale for the whole set. The integers then cost at most −log2 density
+ log2 scale bits a pixel (Theis et al. 2016, Sec. 3.1), so the scale belongs beside every K.
A grey level is a bin of the file's own: 1/256 of the range for 8 bits, 1/65536 for 16. How many
there are, what they are called and which data are such levels is answered here and nowhere else.
"""

from collections.abc import Iterator
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LEVELS = 256  # grey levels of an 8-bit pixel
TYPES = (np.uint8, np.uint16)  # of pixels
_FAR = 1.0  # widths of the range by which floats may lie beyond it


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
        levels: number of values a pixel can take.

    Returns:
        uint8 (uint16 for more than 256 levels) of the same shape; float32 may round to the next
        level within 1e-4 of an edge, within 0.02 of one for 65536 levels.
    """
    found = jnp.clip(jnp.floor(jnp.asarray(x) * scale + mean), 0, levels - 1)
    return found.astype(type_of(levels))


def data_range(mean: float, scale: float, levels: int = LEVELS) -> tuple[float, float]:
    """Smallest and largest value that `dequantize` can give, in units of `scale`."""
    return (0 - mean) / scale, (levels - mean) / scale


def shown(images: np.ndarray | Array, levels: int) -> np.ndarray:
    """Grey levels as 8 bits for figures, the brightest 255; those of 8 bits as they are."""
    return np.rint(np.asarray(images) * (255 / (levels - 1))).astype(np.uint8)


def levels_of(images: np.ndarray | Array) -> int:
    """Number of grey levels of a type of pixels: 256 for uint8, 65536 for uint16.

    Raises:
        ValueError: for another type.
    """
    if images.dtype not in TYPES:
        raise ValueError(f"images: expected uint8 or uint16 grey levels, got {images.dtype}")
    return int(np.iinfo(images.dtype).max) + 1


def type_of(levels: int) -> type:
    """The type of pixels of so many levels: uint8 to 256, else uint16."""
    return np.uint8 if levels <= LEVELS else np.uint16


def name(levels: int) -> str:
    """What one level is called: "8-bit", "12-bit", of other numbers "100-level"."""
    bits = levels.bit_length() - 1
    return f"{bits}-bit" if levels == 1 << bits else f"{levels}-level"


def check_levels(levels: int, *sets: np.ndarray) -> int:
    """The number of levels of these images; where `levels` is 0 that of their type.

    Raises:
        ValueError: for a number outside 2..65536, or that the type does not hold, and for a pixel
            that is not below it.
    """
    most = max(levels_of(images) for images in sets)
    levels = levels or most
    if not 2 <= levels <= most:
        what = f"2..{most} for images of {sets[0].dtype}"
        raise ValueError(f"levels: expected {what}, or 0 for {most}, got {levels}")
    if levels < most:
        for images in sets:
            brightest = max(int(part.max()) for part in _parts(images))
            if brightest >= levels:
                what = f"pixels below {levels}, as --levels says"
                raise ValueError(f"levels: expected {what}, got {brightest}")
    return levels


def check_rows(argument: str, rows: np.ndarray, levels: int) -> np.ndarray:
    """Integers of the user's as pixels of the run's type.

    Args:
        argument: what they are called in messages.
        rows: integers of any type. An unsigned type of pixels says how deep they are, and must be
            the run's: 8-bit levels are no 16-bit levels.
        levels: of the run.

    Raises:
        ValueError: for the other type of pixels, or a value outside 0..levels − 1.
    """
    expected = f"{argument}: expected {name(levels)} grey levels 0..{levels - 1}, as the run has"
    deep = rows.dtype in TYPES and rows.dtype != type_of(levels)
    if deep or rows.dtype.kind not in "iu":
        raise ValueError(f"{expected} ({np.dtype(type_of(levels))}), got {rows.dtype}")
    if rows.min() < 0 or rows.max() >= levels:
        raise ValueError(f"{expected}, got {rows.min()}..{rows.max()}")
    return rows.astype(type_of(levels))


def check_units(
    argument: str, x: np.ndarray, mean: float, scale: float, levels: int, noise: float = 0.0
) -> None:
    """Refuse floats that are not images in the units of the model.

    Args:
        argument: what they are called in messages.
        x: finite floats.
        mean, scale, levels: of the run, as in `to_levels`.
        noise: variance of the noise that they hold, in the units of the model.

    Raises:
        ValueError: for values beyond the data's range by more than its width (and eight standard
            deviations of the noise), and for images within [0, 1], which are scaled otherwise.
    """
    low, high = data_range(mean, scale, levels)
    least, most = float(x.min()), float(x.max())

    def refuse(got: str) -> NoReturn:
        raise ValueError(
            f"{argument}: expected images in the units of the model, (level + 0.5 − {mean:.6g})"
            f"/{scale:.6g}, {low:.3g}..{high:.3g}, got {got}; grey levels are given as integers of"
            f" {np.dtype(type_of(levels))}"
        )

    beyond = _FAR * (high - low) + 8 * np.sqrt(noise)
    if least < low - beyond or most > high + beyond:
        refuse(f"{least:.3g}..{most:.3g}")
    if 0 <= least < most <= 1:
        refuse(f"{least:.3g}..{most:.3g}, as of levels / {levels - 1}")


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
    counts = (np.bincount(part.ravel(), minlength=levels) for part in _parts(images))
    return sum(counts, np.zeros(levels, np.int64))


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in parts of a million pixels: bincount makes an int64 copy of what it counts."""
    rows = max(1, 2**20 // images[0].size)
    return (images[i : i + rows] for i in range(0, len(images), rows))
