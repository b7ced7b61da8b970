"""What all baselines ask of images, pixels and numbers."""

from typing import Any, NoReturn

import numpy as np

from dpm_jax import units
from dpm_jax.core.family import numbers


def images(name: str, images) -> np.ndarray:
    """Images as an array of finite floats of four axes, none empty."""
    checked = numbers(name, images)
    array = np.asarray(images)
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (n, H, W, C), none 0, got {array.shape}")
    if array.dtype.kind in "biu":  # of levels 0..255 no density is meant
        raise ValueError(f"{name}: expected floats, standardised and noised, got {array.dtype}")
    return _finite(name, checked)


def pixels(context, target) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (n, d) and pixels (n,) as arrays of finite floats, n at least 1."""
    context, target = numbers("context", context), numbers("target", target)
    if target.ndim != 1 or not len(target):
        raise ValueError(f"target: expected shape (n,) with n >= 1, got {target.shape}")
    if context.ndim != 2 or len(context) != len(target):
        raise ValueError(f"context: expected shape ({len(target)}, d), got {context.shape}")
    return _finite("context", context), _finite("target", target)


def at_least(**numbers: tuple[Any, int]) -> None:
    """ValueError where one (the first of its pair) is none, or below its least (the second)."""
    for name, (number, least) in numbers.items():
        units.whole(name, number, least)


def refuse(name: str, what: str, images: np.ndarray) -> NoReturn:
    """ValueError: what was expected of the images, and the shape that came."""
    raise ValueError(f"{name}: expected {what}, got shape {images.shape}")


def _finite(name: str, array) -> np.ndarray:
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: expected finite values, got NaN or infinite ones")
    return np.asarray(array)
