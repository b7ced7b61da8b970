"""A density of images as a product of conditionals in raster order, each a scale mixture.

p(x) = Π p(pixel | window above and to the left), as in Domke, Karapurkar & Aloimonos 2008 and in
the MCGSM of Theis, Hosseini & Bethge 2012 (mcgsm.py). Each pixel counts, at the border too. NumPy
in float64; nats.
"""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np

from dpm_jax.baselines import checks
from dpm_jax.units import LOG_2PI

Case = tuple[int, int, int, int]  # rows above, columns to the left and right that exist; channel

_ROWS = 1 << 16  # pixels whose neighbourhoods are held at once


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

    def sample(self, context: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, d) contexts -> a pixel drawn for each, (n,)."""
        scale = rng.choice(len(self.weights), len(context), p=self.weights)
        error = np.sqrt(self.variances[scale]) * rng.standard_normal(len(context))
        return context @ self.coefficients[:-1] + self.coefficients[-1] + error

    def _joint(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log density (n,) of errors with these squares, and log of each component's (n, K)."""
        with np.errstate(divide="ignore"):  # a weight that underflows is none
            constant = np.log(self.weights) - 0.5 * (LOG_2PI + np.log(self.variances))
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
        ValueError: for shapes that do not match, values that are not finite, components or
            rounds < 1, or a ridge or floor that is not positive.
    """
    context, target = checks.pixels(context, target)
    checks.at_least(components=(components, 1), rounds=(rounds, 1))
    for name, value in (("ridge", ridge), ("floor", floor)):
        if not (isinstance(value, Real) and 0 < value < np.inf):
            raise ValueError(f"{name}: expected a positive number, got {value!r}")
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


class Conditional(Protocol):
    """p(pixel | context): a normalised density of the pixel, whatever the context."""

    def log_prob(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(n, d) contexts, (n,) pixels -> (n,) nats."""

    def sample(self, context: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, d) contexts -> a pixel drawn for each, (n,)."""


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


def log_density(model: Causal, images) -> np.ndarray:
    """log p(x) of each image under a fitted product of conditionals.

    Args:
        model: of `fit` or `mcgsm.fit`.
        images: (n, H, W, C) floats in the units of the training images.

    Returns:
        (n,) float64, nats per image.

    Raises:
        ValueError: for another shape, dtype, number of channels, values that are not finite, or a
            size that the model cannot have.
    """
    images = checks.images("images", images)
    if images.shape[3] != model.channels:
        checks.refuse("images", f"{model.channels} channels", images)
    places = _places_of(model, "images", images)
    windows = _Windows(images, model.rows, model.columns)
    total = np.zeros(len(images))
    for case, bases in places.items():
        for start in range(0, len(images) * len(bases), _ROWS):
            picks = np.arange(start, min(start + _ROWS, len(images) * len(bases)))
            context, target = windows.take(picks, bases, case[3])
            values = model.conditionals[case].log_prob(context, target)
            total += np.bincount(picks // len(bases), values, len(images))
    return total


def sample(model: Causal, shape: tuple[int, int], num: int = 1, seed: int = 0) -> np.ndarray:
    """Images of any size drawn from a fitted product of conditionals, pixel by pixel.

    One pixel of each row is drawn at once, columns + 1 to the left of that in the row above, which
    it does not see: in H (columns + 1) + W steps in all.

    Args:
        model: of `fit` or `mcgsm.fit`.
        shape: height and width, pixels.
        num: of images.
        seed: of the draws.

    Returns:
        (num, H, W, C) float64, in the units of the training images and with their noise.

    Raises:
        ValueError: for numbers below 1, or a size that the model cannot have.
    """
    try:
        height, width = shape
    except (TypeError, ValueError) as error:
        raise ValueError(f"shape: expected (height, width), got {shape!r}") from error
    checks.at_least(height=(height, 1), width=(width, 1), num=(num, 1))
    images = np.zeros((num, height, width, model.channels))
    places = _places_of(model, "shape", images)
    windows = _Windows(images, model.rows, model.columns)
    rng = np.random.default_rng(seed)
    for case, bases in _fronts(places, width, model):
        picks = np.arange(num * len(bases))
        context, _ = windows.take(picks, bases, case[3])
        drawn = model.conditionals[case].sample(context, rng)
        windows.flat[:, bases + case[3]] = drawn.reshape(num, -1)
    padded = windows.flat.reshape(num, height + model.rows, -1, model.channels)
    return padded[:, model.rows :, model.columns : model.columns + width].copy()


def fit(
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
        progress: wraps the iteration over the cases, 45 C of them with a window of 4 and 4, those
            of the most pixels first.

    Raises:
        ValueError: for images as in `log_density`, rows or columns < 0, or pixels < 1.
    """
    images = checks.images("train", train)
    checks.at_least(rows=(rows, 0), columns=(columns, 0), pixels=(pixels, 1))
    rng = np.random.default_rng(seed)
    windows = _Windows(images, rows, columns)
    conditionals = {}
    places = _places(images.shape[1:], rows, columns)
    for case, bases in progress(sorted(places.items(), key=lambda each: -len(each[1]))):
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


def _places_of(model: Causal, name: str, images: np.ndarray) -> dict[Case, np.ndarray]:
    """The places of images whose cases the model has all; ValueError for others."""
    places = _places(images.shape[1:], model.rows, model.columns)
    if not places.keys() <= model.conditionals.keys():
        what = "a size whose windows are cut as those of the training images"
        checks.refuse(name, what, images)
    return places


def _fronts(places, width: int, model: Causal) -> list[tuple[Case, np.ndarray]]:
    """Cases and places in an order of drawing, those together that do not see each other."""
    found = []
    for case, bases in places.items():
        i, j = np.divmod(bases // model.channels, width + 2 * model.columns)
        # The last pixel to be seen, above and to the right, is one front earlier.
        front = (i * (model.columns + 1) + j) * model.channels + case[3]
        for number in np.unique(front):
            found.append((number, case, bases[front == number]))
    return [(case, bases) for _, case, bases in sorted(found, key=lambda each: each[:2])]


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
