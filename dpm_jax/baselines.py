"""Densities of images to set beside K: how much of K − L_null is more than second moments give.

All are normalised densities of whole images, to be compared with a diffusion model at a variance v
of the noise, on x√(1−v) + √v ε of the same test images, fitted to training images so noised. Each
pixel counts, at the border too. `isotropic` is L_null; then blocks with a full covariance; then a
product of conditionals in raster order, p(x) = Π p(pixel | window above and to the left), as in
Domke, Karapurkar & Aloimonos 2008 and in the MCGSM of Theis, Hosseini & Bethge 2012 (mcgsm.py).
NumPy in float64; nats; nothing here needs a network.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

Case = tuple[int, int, int, int]  # rows above, columns to the left and right that exist; channel

_LOG_2PI = float(np.log(2 * np.pi))
_ROWS = 1 << 16  # pixels whose neighbourhoods are held at once


def log_density(model: "BlockGaussian | Causal", images) -> np.ndarray:
    """log p(x) of each image under a fitted baseline.

    Args:
        model: of `fit_blocks`, `fit_causal` or `mcgsm.fit`.
        images: (n, H, W, C) floats in the units of the training images.

    Returns:
        (n,) float64, nats per image.

    Raises:
        ValueError: for another shape, dtype, number of channels, values that are not finite, or a
            size that the model cannot have.
    """
    return model.log_density(_check("images", images))


def isotropic(images) -> np.ndarray:
    """log N(x; 0, I) of each image (n, H, W, C): L_null one by one; (n,) nats. Errors as above."""
    x = _check("images", images).reshape(len(images), -1).astype(np.float64)
    return -0.5 * (np.sum(x * x, axis=1) + x.shape[1] * _LOG_2PI)


# --- blocks ---------------------------------------------------------------------------------------


class BlockGaussian(NamedTuple):
    """Images of independent square blocks, each the same Gaussian with a full covariance."""

    mean: np.ndarray  # (block, block, C)
    cholesky: np.ndarray  # (d, d) lower factor of the covariance, d = block² C

    def log_density(self, images: np.ndarray) -> np.ndarray:
        """`log_density` of checked images."""
        from scipy.linalg import solve_triangular

        if images.shape[3] != self.mean.shape[2]:
            _refuse("images", f"{self.mean.shape[2]} channels", images)
        rows = _blocks("images", images, len(self.mean)) - self.mean.reshape(-1)
        white = solve_triangular(self.cholesky, rows.T, lower=True)
        normaliser = 0.5 * rows.shape[1] * _LOG_2PI + np.sum(np.log(np.diag(self.cholesky)))
        each = -0.5 * np.sum(white * white, axis=0) - normaliser
        return each.reshape(len(images), -1).sum(axis=1)


def fit_blocks(train, block: int = 8) -> BlockGaussian:
    """The Gaussian of maximum likelihood of block × block pixels, from every block of the images.

    Args:
        train: (n, H, W, C) floats, noised as the images to be tested.
        block: side, pixels, a divisor of H and W.

    Raises:
        ValueError: for images as in `log_density`, H or W that blocks do not fill, or so few or
            flat blocks that the covariance is singular.
    """
    images = _check("train", train)
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


def _blocks(name: str, images: np.ndarray, block: int) -> np.ndarray:
    """All blocks as rows (n blocks, block² C), float64, those of an image one after another."""
    n, height, width, channels = images.shape
    if block < 1 or height % block or width % block:
        _refuse(name, f"height and width divisible by block = {block}", images)
    parts = images.reshape(n, height // block, block, width // block, block, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, block * block * channels).astype(float)


# --- the plain conditional ------------------------------------------------------------------------


class ScaleMixture(NamedTuple):
    """N(x; a·c + b, σ_k²) mixed over k: one linear prediction, an error of several scales.

    Our own plain stand-in for the MCGSM (Theis, Hosseini & Bethge 2012), whose mixture of such
    predictors is chosen by the context; here neither predictor nor scale depend on it.
    """

    coefficients: np.ndarray  # (d + 1,): a, b
    weights: np.ndarray  # (K,)
    variances: np.ndarray  # (K,)

    def log_prob(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(n, d) contexts, (n,) pixels -> (n,) nats."""
        error = target - context @ self.coefficients[:-1] - self.coefficients[-1]
        return self._joint(error * error)[0]

    def _joint(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log density (n,) of errors with these squares, and log of each component's (n, K)."""
        with np.errstate(divide="ignore"):  # a weight that underflows is none
            constant = np.log(self.weights) - 0.5 * (_LOG_2PI + np.log(self.variances))
        each = constant - 0.5 * squares[:, None] / self.variances
        top = each.max(axis=1)
        return top + np.log(np.exp(each - top[:, None]).sum(axis=1)), each


def fit_scale_mixture(
    context: np.ndarray,
    target: np.ndarray,
    components: int = 4,
    rounds: int = 30,
    ridge: float = 1.0,
    floor: float = 1e-8,
) -> ScaleMixture:
    """Ridge least squares, then EM in which each round predicts by least squares reweighted.

    A round never lowers Σ log p − ridge |a|²/2: weights and variances, then coefficients at the
    precisions that each pixel expects (ECM, Meng & Rubin 1993). So pixels at edges, whose errors
    are large, no longer spoil the prediction elsewhere.

    Args:
        context: (n, d), absent entries 0.
        target: (n,).
        components: K, scales of the error.
        rounds: of EM; after 30 what is left is below 0.001 bits a pixel on dead leaves.
        ridge: of the prior N(0, 1/ridge) of the coefficients a; b has none.
        floor: smallest variance of a component, units². Flat regions have an unbounded density:
            without noise in the images it is this number that the density measures.

    Raises:
        ValueError: for components or rounds < 1, or a ridge or floor that is not positive.
    """
    _check_least(components=(components, 1), rounds=(rounds, 1))
    for name, value in (("ridge", ridge), ("floor", floor)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    design = np.concatenate([context, np.ones((len(target), 1))], axis=1)
    spread = max(float(np.var(target)), floor)
    coefficients = _least_squares(design, target, np.full(len(target), 1 / spread), ridge)
    squares = (target - design @ coefficients) ** 2
    levels = (np.arange(components) + 0.5) / components
    variances = np.maximum(2 * np.quantile(squares, levels), floor)
    model = ScaleMixture(coefficients, np.full(components, 1 / components), variances)
    for _ in range(rounds):
        total, each = model._joint(squares)
        share = np.exp(each - total[:, None])
        mass = np.maximum(share.sum(axis=0), np.finfo(float).tiny)
        variances = np.maximum(squares @ share / mass, floor)
        coefficients = _least_squares(design, target, share @ (1 / variances), ridge)
        squares = (target - design @ coefficients) ** 2
        model = ScaleMixture(coefficients, mass / mass.sum(), variances)
    return model


def _least_squares(design, target, precision, ridge: float) -> np.ndarray:
    """argmin of Σ precision (target − design a)² + ridge |a|², the last column's a left out."""
    weighted = design * precision[:, None]
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 0
    return np.linalg.solve(weighted.T @ design + np.diag(penalty), weighted.T @ target)


# --- a product of conditionals in raster order ----------------------------------------------------


class Conditional(Protocol):
    """p(pixel | context): a normalised density of the pixel, whatever the context."""

    def log_prob(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(n, d) contexts, (n,) pixels -> (n,) nats."""


class Causal(NamedTuple):
    """p(x) = Π p(pixel | causal window), pixels in raster order, the channels of one pixel too.

    A window that the border cuts is a case of its own, with a conditional of its own fitted on such
    pixels: first and last columns, first rows and their corners. So all pixels count, none is
    made up, and the product is a normalised density of images of any size that has no new case.
    """

    rows: int
    columns: int
    channels: int
    conditionals: dict[Case, Conditional]

    def log_density(self, images: np.ndarray) -> np.ndarray:
        """`log_density` of checked images."""
        if images.shape[3] != self.channels:
            _refuse("images", f"{self.channels} channels", images)
        places = _places(images.shape[1:], self.rows, self.columns)
        unknown = [case for case in places if case not in self.conditionals]
        if unknown:
            what = "a size whose windows are cut as those of the training images"
            _refuse("images", what, images)
        windows = _Windows(images, self.rows, self.columns)
        total = np.zeros(len(images))
        for case, bases in places.items():
            for start in range(0, len(images) * len(bases), _ROWS):
                picks = np.arange(start, min(start + _ROWS, len(images) * len(bases)))
                context, target = windows.take(picks, bases, case[3])
                values = self.conditionals[case].log_prob(context, target)
                total += np.bincount(picks // len(bases), values, len(images))
        return total


def fit_causal(
    train,
    fit_conditional: Callable[[np.ndarray, np.ndarray], Conditional] = fit_scale_mixture,
    rows: int = 4,
    columns: int = 4,
    pixels: int = 100_000,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Causal:
    """Conditionals of all cases, each fitted on pixels drawn from the training images.

    Args:
        train: (n, H, W, C) floats, noised as the images to be tested. Each image gives one pixel to
            the case of a corner, so n should be well above the (2 columns + 1) rows C parameters.
        fit_conditional: (contexts (m, d), pixels (m,)) -> Conditional, the m in the order of their
            images. The context is the window in raster order, channel by channel, then the
            C − 1 first channels of the pixel itself; what is not there or not yet is 0.
        rows, columns: the window: so many rows above, so many columns to either side in these
            rows, and to the left in the pixel's own row. 4 and 4: the causal half of 9×9.
        pixels: at most so many for each case.
        seed: of the choice of pixels.
        progress: wraps the iteration over the cases, 45 C of them with a window of 4 and 4.

    Raises:
        ValueError: for images as in `log_density`, rows or columns < 0, or pixels < 1.
    """
    images = _check("train", train)
    _check_least(rows=(rows, 0), columns=(columns, 0), pixels=(pixels, 1))
    rng = np.random.default_rng(seed)
    windows = _Windows(images, rows, columns)
    conditionals = {}
    for case, bases in progress(list(_places(images.shape[1:], rows, columns).items())):
        total = len(images) * len(bases)
        picks = np.sort(rng.choice(total, min(pixels, total), replace=False, shuffle=False))
        context, target = windows.take(picks, bases, case[3])
        conditionals[case] = fit_conditional(context, target)
    return Causal(rows, columns, images.shape[3], conditionals)


def _places(shape: tuple[int, ...], rows: int, columns: int) -> dict[Case, np.ndarray]:
    """Case -> where its pixels are: indices into a flat image padded as that of `_Windows`."""
    height, width, channels = shape
    found: dict[Case, list[int]] = {}
    for i in range(height):
        for j in range(width):
            base = ((i + rows) * (width + 2 * columns) + j + columns) * channels
            case = (min(i, rows), min(j, columns), min(width - 1 - j, columns))
            for channel in range(channels):
                found.setdefault((*case, channel), []).append(base)
    return {case: np.array(bases) for case, bases in found.items()}


class _Windows:
    """Images padded with 0, from which the contexts of any pixels can be taken."""

    def __init__(self, images: np.ndarray, rows: int, columns: int):
        n, _, width, self.channels = images.shape
        padded = np.pad(images, ((0, 0), (rows, 0), (columns, columns), (0, 0)))
        self.flat = padded.reshape(n, -1)
        line, across = width + 2 * columns, range(-columns, columns + 1)
        before = [(i, j) for i in range(-rows, 1) for j in across if (i, j) < (0, 0)]
        own = [(i * line + j) * self.channels + c for i, j in before for c in range(self.channels)]
        self.offsets = np.array([*own, *range(self.channels - 1)], int)

    def take(self, picks: np.ndarray, bases: np.ndarray, channel: int):
        """Contexts (m, d) and pixels (m,) of places picked from images × bases, float64."""
        image, base = picks // len(bases), bases[picks % len(bases)]
        context = self.flat[image[:, None], base[:, None] + self.offsets].astype(np.float64)
        context[:, len(self.offsets) - (self.channels - 1) + channel :] = 0
        return context, self.flat[image, base + channel].astype(np.float64)


def _check(name: str, images) -> np.ndarray:
    """Images as an array of finite floats of four axes, none empty."""
    array = np.asarray(images)
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (n, H, W, C), none 0, got {array.shape}")
    if array.dtype.kind != "f":  # of levels 0..255 no density is meant
        raise ValueError(f"{name}: expected floats, standardised and noised, got {array.dtype}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: expected finite values, got NaN or infinite ones")
    return array


def _check_least(**numbers: tuple[int, int]) -> None:
    for name, (number, least) in numbers.items():
        if number < least:
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def _refuse(name: str, what: str, images: np.ndarray) -> None:
    raise ValueError(f"{name}: expected {what}, got shape {images.shape}")
