"""Gaussians of images: independent pixels, whose log density is L_null, and square blocks.

Fitted to noised images, for a test on images so noised; every pixel counts. NumPy in float64; nats.
"""

from typing import NamedTuple

import numpy as np

from dpm_jax.baselines import checks
from dpm_jax.units import LOG_2PI


class BlockGaussian(NamedTuple):
    """Images of independent square blocks, each the same Gaussian with a full covariance."""

    mean: np.ndarray  # (block, block, C)
    cholesky: np.ndarray  # (d, d) lower factor of the covariance, d = block² C


def log_density(model: BlockGaussian, images) -> np.ndarray:
    """log p(x) of each image under a fitted Gaussian of blocks.

    Args:
        model: of `fit`.
        images: (n, H, W, C) floats in the units of the training images.

    Returns:
        (n,) float64, nats per image.

    Raises:
        ValueError: for another shape, dtype, number of channels, values that are not finite, or a
            size that the model cannot have.
    """
    from scipy.linalg import solve_triangular  # here: SciPy is slow to import

    images = checks.images("images", images)
    if images.shape[3] != model.mean.shape[2]:
        checks.refuse("images", f"{model.mean.shape[2]} channels", images)
    rows = _blocks("images", images, len(model.mean)) - model.mean.reshape(-1)
    white = solve_triangular(model.cholesky, rows.T, lower=True)
    normaliser = 0.5 * rows.shape[1] * LOG_2PI + np.sum(np.log(np.diag(model.cholesky)))
    each = -0.5 * np.sum(white * white, axis=0) - normaliser
    return each.reshape(len(images), -1).sum(axis=1)


def fit(train, block: int = 8) -> BlockGaussian:
    """The Gaussian of maximum likelihood of block × block pixels, from every block of the images.

    Args:
        train: (n, H, W, C) floats, noised as the images to be tested.
        block: side, pixels, a divisor of H and W.

    Raises:
        ValueError: for images as in `log_density`, H or W that blocks do not fill, or so few or
            flat blocks that the covariance is singular.
    """
    images = checks.images("train", train)
    checks.at_least(block=(block, 1))
    rows = _blocks("train", images, block)
    mean = rows.mean(axis=0)
    rows -= mean
    try:
        cholesky = np.linalg.cholesky(rows.T @ rows / len(rows))
    except np.linalg.LinAlgError:
        cholesky = np.zeros((1, 1))
    # A singular matrix may pass: rounding leaves pivots of 1e-16 of the largest.
    pivots = np.diag(cholesky)
    if len(rows) <= rows.shape[1] or pivots.min() <= 1e-7 * pivots.max():
        need = f"more than {rows.shape[1]} blocks, with noise in each pixel"
        raise ValueError(f"train: expected {need}, got {len(rows)} of singular covariance")
    return BlockGaussian(mean.reshape(block, block, -1), cholesky)


def isotropic(images) -> np.ndarray:
    """log N(x; 0, I) of each image (n, H, W, C): L_null one by one; (n,) nats.

    Raises:
        ValueError: for another shape, dtype, or values that are not finite.
    """
    x = checks.images("images", images).reshape(len(images), -1).astype(np.float64)
    return -0.5 * (np.sum(x * x, axis=1) + x.shape[1] * LOG_2PI)


def _blocks(name: str, images: np.ndarray, block: int) -> np.ndarray:
    """All blocks as rows (n blocks, block² C), float64, those of an image one after another."""
    n, height, width, channels = images.shape
    if height % block or width % block:
        checks.refuse(name, f"height and width divisible by block = {block}", images)
    parts = images.reshape(n, height // block, block, width // block, block, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, block * block * channels).astype(float)
