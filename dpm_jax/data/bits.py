"""Bits of grey levels: a pixel is 1 with probability level/255 (Salakhutdinov & Murray 2008).

Drawn once, "fixed" as Larochelle's binarised MNIST, or each time an image is taken, "dynamic". One
fixed draw has the law of every other, so that a model of either kind may be tested on it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_IMAGES = 1000  # of which random numbers are held at once


def white(levels: np.ndarray) -> int:
    """The level that is 1 for certain: 255, or 1 of images (n, ...) that are bits already."""
    return 255 if levels.max(initial=0) > 1 else 1


def fixed(levels: np.ndarray, seed: int, white: int = 255) -> np.ndarray:
    """One draw of the bits of grey levels (n, ...): uint8, the same on every machine.

    By the raw numbers of PCG64, which NumPy keeps as they are: u < level/white for each pixel in
    turn, u of 53 bits.
    """
    numbers = np.random.PCG64(seed)
    found = np.empty(levels.shape, np.uint8)
    for start in range(0, len(levels), _IMAGES):
        part = levels[start : start + _IMAGES]
        u = (numbers.random_raw(part.size) >> np.uint64(11)) * 2.0**-53
        found[start : start + _IMAGES] = u.reshape(part.shape) * white < part
    return found


def drawn(key: Array, levels: Array, white: int = 255) -> Array:
    """Bits of grey levels of any shape, drawn anew for each key, as floats 0 or 1."""
    u = jax.random.uniform(key, levels.shape, jnp.float32)
    return (u * white < levels.astype(jnp.float32)).astype(jnp.float32)


def rate(levels: np.ndarray, white: int = 255, least: float = 1e-3) -> np.ndarray:
    """Mean bit of each pixel of grey levels (n, ...), float32; kept off 0 and 1 by `least`."""
    mean = levels.mean(axis=0, dtype=np.float64) / white
    return np.clip(mean, least, 1 - least).astype(np.float32)
