"""What all baselines ask of images and numbers."""

from typing import NoReturn

import numpy as np


def images(name: str, images) -> np.ndarray:
    """Images as an array of finite floats of four axes, none empty."""
    array = np.asarray(images)
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (n, H, W, C), none 0, got {array.shape}")
    if array.dtype.kind != "f":  # of levels 0..255 no density is meant
        raise ValueError(f"{name}: expected floats, standardised and noised, got {array.dtype}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: expected finite values, got NaN or infinite ones")
    return array


def at_least(**numbers: tuple[int, int]) -> None:
    """ValueError where a number (the first of its pair) is below its least (the second)."""
    for name, (number, least) in numbers.items():
        if number < least:
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def refuse(name: str, what: str, images: np.ndarray) -> NoReturn:
    """ValueError: what was expected of the images, and the shape that came."""
    raise ValueError(f"{name}: expected {what}, got shape {images.shape}")
