"""Dead leaves: opaque discs that fall one on another until the plane is full (Matheron 1968).

The images of Tables 1-2 and Figure 4: radii with density ∝ r^-3, which makes them nearly scale
invariant (Lee, Mumford & Huang 2001), and uniform greys. Seen from above, the discs that touch a
window come in independent draws, so painting them front to back, each on pixels that are still
bare, until none is bare, is an exact sample (Kendall & Thönnes 1999), not the result of a burn-in.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax.images import dequantisation

Discs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # y, x, radius, grey

_FIRST, _LARGEST = 32, 2048  # draws in the first block and in the largest; no image depends on it


def sample(
    n: int,
    seed: int = 0,
    size: int | tuple[int, int] = 256,
    r_min: float = 2.0,
    r_max: float = 256.0,
    start: int = 0,
) -> np.ndarray:
    """n independent dead-leaves images, number `start` to `start` + n − 1 of the set of this seed.

    An image depends on its number, the seed, the size and the radii alone, so a set can be made in
    parts. Only raw PCG64 integers, + − * / and sqrt are used, which NumPy and IEEE 754 fix to the
    last bit: the same call gives the same images with any NumPy on any platform.

    Args:
        n: number of images, at least 0.
        seed: which set, a whole number, at least 0.
        size: side of a square image, or (height, width), in pixels; a pixel is as its centre.
        r_min, r_max: smallest and largest radius, pixels; 0 < r_min <= r_max < ∞. The time of an
            image grows as r_min^-2.
        start: number of the first image, at least 0.

    Returns:
        (n, H, W, 1) uint8, each leaf of one grey, uniform on 0..255. 5 ms for 256×256.

    Raises:
        ValueError: for an argument out of its range.
    """
    shape = _check_size(size)
    for name, number in (("n", n), ("seed", seed), ("start", start)):
        _check_whole(name, number, 0)
    _check_radii(r_min, r_max)
    law = _RadiusLaw.touching(shape, float(r_min), float(r_max))
    images = np.empty((n, *shape, 1), np.uint8)
    for i in range(n):
        key = np.random.SeedSequence(int(seed), spawn_key=(int(start) + i,))
        images[i, ..., 0] = _paint(_blocks(np.random.PCG64(key), law), shape)
    return images


class _RadiusLaw(NamedTuple):
    """The law of the radii of the discs that touch a window: density ∝ r^-3 (h + 2r)(w + 2r).

    A disc touches only if its centre is in the window grown by r. That box is used whole: where a
    disc at its corner misses every pixel, painting it changes nothing. Drawn by rejection under a
    staircase, one step an octave, because the inverse of the distribution function needs log.
    """

    height: float  # h: of the window from first to last pixel centre, pixels
    width: float  # w
    left: np.ndarray  # (steps,) where a step of the staircase begins, pixels
    length: np.ndarray  # (steps,) of a step, pixels
    mass: np.ndarray  # (steps,) area of the staircase up to the end of a step

    @classmethod
    def touching(cls, shape: tuple[int, int], r_min: float, r_max: float) -> "_RadiusLaw":
        height, width = shape[0] - 1.0, shape[1] - 1.0
        edges = [r_min]
        while 2 * edges[-1] < r_max:
            edges.append(2 * edges[-1])
        left, length = np.array(edges), np.diff([*edges, r_max])
        mass = np.cumsum(length * _density(left, height, width))
        return cls(height, width, left, length, mass)

    def discs(self, u: np.ndarray) -> Discs:
        """The accepted ones of (draws, 6) uniform numbers, in the order of the draws."""
        step, place, accept, y, x, grey = u.T.copy()
        # u < 1 can still round to the whole mass, and with r_min = r_max the mass is 0.
        k = np.searchsorted(self.mass, step * self.mass[-1], side="right")
        k = np.minimum(k, len(self.mass) - 1)
        r = self.left[k] + self.length[k] * place
        top = _density(self.left[k], self.height, self.width)
        kept = accept * top < _density(r, self.height, self.width)
        r, y, x, grey = r[kept], y[kept], x[kept], grey[kept]
        y, x = y * (self.height + 2 * r) - r, x * (self.width + 2 * r) - r
        return y, x, r, (256 * grey).astype(np.uint8)


def _density(r: np.ndarray, height: float, width: float) -> np.ndarray:
    """Of the radii that touch, not normalised. It falls: a step is as high as where it begins."""
    return (height / r + 2) * (width / r + 2) / r


def _blocks(bits: np.random.PCG64, law: _RadiusLaw) -> Iterator[Discs]:
    """Discs from the topmost down, without end, in blocks that grow as bare pixels get rare."""
    draws = _FIRST
    while True:
        # The sequence of raw integers is guaranteed by NumPy; that of Generator.random is not.
        raw = bits.random_raw((draws, 6))
        yield law.discs((raw >> np.uint64(11)) * 2.0**-53)
        draws = min(2 * draws, _LARGEST)


def _paint(blocks: Iterator[Discs], shape: tuple[int, int]) -> np.ndarray:
    """Front to back: each pixel gets the grey of the first disc that covers it; (H, W) uint8."""
    image = np.empty(shape[0] * shape[1], np.uint8)
    bare = np.arange(image.size)  # pixels that no disc covers yet, by rows
    for y, x, r, grey in blocks:
        disc, begin, end = _spans(y, x, r, shape)
        # Bare pixels of a span have consecutive numbers among all that are bare.
        before = np.zeros(image.size + 1, np.int64)
        before[bare + 1] = 1
        np.cumsum(before, out=before)
        begin, end = before[begin], before[end]
        found = begin < end
        of_span, number = _ranges(begin[found], end[found])
        first = np.full(bare.size, len(r))
        np.minimum.at(first, number, disc[found][of_span])
        covered = first < len(r)
        image[bare[covered]] = grey[first[covered]]
        bare = bare[~covered]
        if not bare.size:
            break
    return image.reshape(shape)


def _spans(
    y: np.ndarray, x: np.ndarray, r: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels whose centres are in a disc, row by row: disc, begin, end; nothing if not <."""
    height, width = shape
    top = np.clip(np.ceil(y - r), 0, height).astype(np.int64)
    bottom = np.clip(np.floor(y + r) + 1, top, height).astype(np.int64)
    disc, row = _ranges(top, bottom)
    dy, radius, centre = row - y[disc], r[disc], x[disc]
    half = np.sqrt(np.maximum(radius * radius - dy * dy, 0))  # y ± r is rounded, so −1e-16 occurs
    begin = np.clip(np.ceil(centre - half), 0, width).astype(np.int64)
    end = np.clip(np.floor(centre + half) + 1, 0, width).astype(np.int64)
    return disc, row * width + begin, row * width + end


def _ranges(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All whole numbers of the ranges begin <= k < end, one range after another: (range, k)."""
    count = end - begin
    which = np.repeat(np.arange(len(count)), count)
    return which, np.arange(len(which)) + np.repeat(begin - (np.cumsum(count) - count), count)


# --- a set from a file --------------------------------------------------------------------------


def load(path: str | os.PathLike, levels: int = 0) -> np.ndarray:
    """The images of a .npy or .mat file, such as the set of Theis, Hosseini & Bethge 2012.

    Args:
        path: one array of (n, H, W) or (n, H, W, 1); a .mat file may also hold what has fewer axes.
            Values are uint8, or any numbers that are the whole levels 0..255, or these / 255.
        levels: number of values a pixel can take, in the place of 256; 0: 256.

    Returns:
        (n, H, W, 1) uint8, or uint16 for more than 256 levels.

    Raises:
        ValueError: where the file holds none or several such arrays, may be meant as (H, W, n), or
            has values that are not grey levels (noise was added, say) or of unclear scale.
        OSError: where it cannot be opened.
    """
    path = Path(path)
    images = _one_array(path)
    images = images if images.ndim == 4 else images[..., None]
    levels = levels or dequantisation.LEVELS
    most, kind = levels - 1, dequantisation.type_of(levels)
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels: expected 2..65536, or 0 for 256, got {levels}")
    low, high = images.min(), images.max()
    pixels = images.dtype == kind  # else they may be in 0..1
    found = images * float(most) if high <= 1 and not pixels else images
    # float32 keeps k/255 to 1e-5 levels, k/65535 to 4e-3. NaN fails every comparison.
    near = max(1e-3, 2e-7 * most)
    known = low >= 0 and high <= most and np.all(np.abs(found - np.rint(found)) < near)
    if not known:
        what = f"values from {low} to {high}"
        raise ValueError(f"{path}: expected whole levels 0..{most}, or these / {most}, got {what}")
    if not pixels and high <= 1 and np.all((images == 0) | (images == 1)):
        what = f"levels, or levels / {most}? expected {np.dtype(kind)} for these"
        raise ValueError(f"{path}: only 0 and 1: {what}")
    return np.rint(found).astype(kind, order="C")


def _one_array(path: Path) -> np.ndarray:
    """The one array of the file that has the shape of images."""
    arrays = _arrays(path)
    shapes = ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in arrays.items()) or "no array"
    found = [a for a in arrays.values() if a.ndim == 3 or (a.ndim == 4 and a.shape[3] == 1)]
    found = [a for a in found if a.dtype.kind in "iuf" and a.size]
    if len(found) != 1:
        raise ValueError(f"{path}: expected one array (n, H, W) or (n, H, W, 1), got {shapes}")
    first, second, last = found[0].shape[:3]
    if found[0].ndim == 3 and first == second != last:
        what = f"{shapes}, which may be (H, W, n); write (n, H, W, 1) to make it clear"
        raise ValueError(f"{path}: expected (n, H, W), got {what}")
    return found[0]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name."""
    if path.suffix not in (".npy", ".mat"):
        raise ValueError(f"path: expected a .npy or .mat file, got {str(path)!r}")
    with open(path, "rb") as file:
        try:
            if path.suffix == ".npy":
                return {"array": np.lib.format.read_array(file, allow_pickle=False)}
            from scipy.io import loadmat

            content = loadmat(file)
        except Exception as error:  # the readers raise anything on what they do not know
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"{path}: cannot be read as {path.suffix}, {what}") from error
    return {k: v for k, v in content.items() if isinstance(v, np.ndarray) and k[:2] != "__"}


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number, at least {least}, got {value!r}")


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"size: expected a side or (height, width), got {size!r}")
    for side in pair:
        _check_whole("size", side, 1)
    return int(pair[0]), int(pair[1])


def _check_radii(r_min: float, r_max: float) -> None:
    if not 0 < r_min < math.inf:
        raise ValueError(f"r_min: expected a finite radius > 0, got {r_min}")
    if not r_min <= r_max < math.inf:
        raise ValueError(f"r_max: expected a finite radius, at least r_min = {r_min}, got {r_max}")
