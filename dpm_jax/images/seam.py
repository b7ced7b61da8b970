"""How well a filled square sits in its photograph: the seam at its border, the texture inside it.

Four measures, positive and without a unit, so that photographs of any contrast compare:

* border     gradient energy across the border, over that across parallel lines close to it
* step       the same of means over blocks, a twelfth of the side: a square that is of another
             brightness stands out here long before single pixels tell
* spectrum   rms difference of the logarithms of the radially averaged spectra, inside and outside
* histogram  distance W1 of the grey values inside and outside, in standard deviations of the latter

Outside are the squares of the same size around it. What counts is how far a filled square is from
intact ones: `scores` are the z of the logarithms among those of `intact`, measured in photographs
that nobody touched.
"""

import math
from typing import NamedTuple

import numpy as np

SMALLEST = 8  # pixels of a square
LINES = 3  # of blocks on either side of the border, their distance a block: 2 LINES − 1 in all
RINGS = 12  # of the radially averaged spectrum
QUANTILES = 256  # at which histograms are compared
EACH = 64  # squares of a photograph
FEWEST = 10  # squares of all, of which a spread is known
_TINY = 1e-12  # so that a photograph of one grey has measures too


class Seam(NamedTuple):
    """The measures of one square, floats; or of many, (n,) each."""

    border: np.ndarray | float  # ratio of energies
    step: np.ndarray | float  # ratio of energies
    spectrum: np.ndarray | float  # nats
    histogram: np.ndarray | float  # standard deviations


def measure(image: np.ndarray, top: int, left: int, size: int) -> Seam:
    """The measures of the square of `size` pixels whose first row and column are top and left.

    Args:
        image: (H, W) or (H, W, C), in any unit.
        top, left: such that another square fits above, below, left and right.
        size: SMALLEST pixels at least.

    Raises:
        ValueError: for a square that is smaller, or without such neighbours.
    """
    image = np.asarray(image, np.float64)
    image = image[..., None] if image.ndim == 2 else image
    height, width = image.shape[:2]
    if size < SMALLEST or not (
        size <= top <= height - 2 * size and size <= left <= width - 2 * size
    ):
        raise ValueError(
            f"size: expected a square of {SMALLEST} pixels or more, with one of its size on every"
            f" side, got {size} at ({top}, {left}) of {height}×{width}"
        )
    around = image[top - size : top + 2 * size, left - size : left + 2 * size]
    tiles = around.reshape(3, size, 3, size, -1).swapaxes(1, 2).reshape(9, size, size, -1)
    outside = np.delete(tiles, 4, axis=0)
    return Seam(
        border=_across(around, size, 1),
        step=_across(around, size, max(1, size // 12)),
        spectrum=_spectral_distance(tiles[4], outside),
        histogram=_wasserstein(tiles[4], outside),
    )


def intact(photographs, size: int) -> Seam:
    """The measures of squares all over photographs, (n,) each: the spread to compare with.

    Args:
        photographs: (H, W) or (H, W, C) each, of any sizes; at most about EACH squares of one.
        size: of the squares, pixels.

    Raises:
        ValueError: where they have room for fewer than FEWEST squares.
    """
    found = []
    for photograph in photographs:
        room = [max(0, side - 3 * size) for side in photograph.shape[:2]]
        stride = max(1, size // 2, math.ceil(math.sqrt(room[0] * room[1] / EACH)))
        tops, lefts = (range(size, side - 2 * size + 1, stride) for side in photograph.shape[:2])
        found += [measure(photograph, top, left, size) for top in tops for left in lefts]
    if len(found) < FEWEST:
        expected = f"room for {FEWEST} squares of {size} pixels with neighbours"
        raise ValueError(f"photographs: expected {expected}, got {len(found)}")
    return Seam(*np.array(found).T)


def scores(seam: Seam, among: Seam) -> Seam:
    """z of each logarithm among those of `intact`: about N(0, 1) of an intact square."""
    logs = [np.log(values) for values in among]
    return Seam(*((np.log(v) - x.mean()) / (x.std(ddof=1) + _TINY) for v, x in zip(seam, logs)))


def within(z: Seam, most: float = 2.0) -> np.ndarray:
    """Whether a square is among intact ones by its z: no seam either way, no stranger texture."""
    seams = [np.abs(z.border) <= most, np.abs(z.step) <= most]
    return np.all([*seams, np.less_equal(z.spectrum, most), np.less_equal(z.histogram, most)], 0)


def _across(around: np.ndarray, size: int, block: int) -> float:
    """Energy of the differences of neighbouring blocks across the border, over that beside it."""
    side = size // block
    lines = LINES if block > 1 else 2 * LINES
    energy = np.zeros(2 * lines - 1)
    for turns in range(4):
        turned = np.rot90(around, turns)[size - lines * block :, size:]
        strip = turned[: 2 * lines * block, : side * block]
        means = strip.reshape(2 * lines, block, side, block, -1).mean(axis=(1, 3))
        energy += (np.diff(means, axis=0) ** 2).mean(axis=(1, 2))
    beside = np.delete(energy, lines - 1).mean()
    return float((energy[lines - 1] + _TINY) / (beside + _TINY))


def _spectral_distance(inside: np.ndarray, outside: np.ndarray) -> float:
    difference = _log_spectrum(inside) - np.mean([_log_spectrum(x) for x in outside], axis=0)
    return float(np.sqrt(np.mean(difference**2)) + _TINY)


def _log_spectrum(x: np.ndarray) -> np.ndarray:
    """Log of the mean power in rings of frequency, (RINGS,), of a square under a Hann window."""
    size = len(x)
    window = np.hanning(size + 2)[1:-1]
    window = (window[:, None] * window)[..., None]
    centred = x - (window * x).sum((0, 1)) / window.sum()
    power = (np.abs(np.fft.fft2(window * centred, axes=(0, 1))) ** 2).mean(-1)
    frequency = np.fft.fftfreq(size) * size
    radius = np.hypot(frequency[:, None], frequency)
    ring = np.digitize(radius, np.geomspace(1, size / 2, RINGS + 1)) - 1
    used = [i for i in range(RINGS) if (ring == i).any()]  # the lowest may lie between frequencies
    return np.log([power[ring == i].mean() + _TINY for i in used])


def _wasserstein(inside: np.ndarray, outside: np.ndarray) -> float:
    """W1 of all values: the mean distance of their quantiles."""
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    one, other = (np.quantile(x, at, method="inverted_cdf") for x in (inside, outside))
    return float((np.abs(one - other).mean() + _TINY) / (outside.std() + _TINY))
