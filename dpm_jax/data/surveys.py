"""One pass over the pictures of a folder: what each is, and its pixels where they are to be kept.

A folder may be larger than memory: pixels of training photographs are let go once their stack
would take more than it may.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from dpm_jax.data import pictures
from dpm_jax.data.pictures import Picture, listed
from dpm_jax.images import dequantisation

_FILES = 32  # decoded before the first of them is let go


class Page(NamedTuple):
    """One picture of a file, its pixels let go or not."""

    file: str  # name below the folder
    number: int  # of the page in its file, from 0
    shape: tuple[int, ...]  # (H, W, C)
    dtype: np.dtype  # uint8 or uint16
    note: str  # how it was converted; "" where it was not
    sha256: str  # of the pixels
    pixels: np.ndarray | None  # (H, W, C)


One = TypeVar("One", Page, Picture)
Pages = dict[str, "Page | str"]  # "name" or "name, page k" -> the page, or why there is none


class Survey(NamedTuple):
    """What the files of a folder hold."""

    found: Pages
    held_out: set[str]  # names of files
    weights: np.ndarray  # (65536,) grey levels of training photographs, each of weight 1
    streams: bool  # the pixels of training photographs are not kept


def survey(
    folder: Path,
    names: list[str],
    size: int,
    colour: bool,
    test: float | Sequence[str],
    most: float,
) -> Survey:
    """Decode every file, a few at a time.

    Args:
        folder, names: of the files.
        size, colour, test: as in `folders.read`.
        most: bytes of the stack of training photographs above which their pixels are let go.

    Raises:
        ValueError: as `folders.read`, for `test` and where no file is whole.
    """
    # Which files are whole is known at the end: where some are not, others may be held out.
    held_out = _spread(names, test) if isinstance(test, (int, float)) else set(test)
    while True:
        seen = _pass(folder, names, size, colour, held_out, most)
        if (right := _held_out(folder, names, seen.found, test)) == held_out:
            return seen
        held_out = right


def _pass(
    folder: Path, names: list[str], size: int, colour: bool, held_out: set[str], most: float
) -> Survey:
    found: Pages = {}
    weights = np.zeros(np.iinfo(np.uint16).max + 1)
    count, largest, streams, kept = 0, np.zeros(3, np.int64), False, set(names)
    for label, page, counts in _looks(partial(_look, folder, size, colour), names, kept):
        found[label] = _in_memory(page, kept)
        if counts is None or isinstance(page, str) or page.file in held_out:
            continue
        weights[: len(counts)] += counts / counts.sum()
        count, largest = count + 1, np.maximum(largest, page.shape)
        if not streams and count * math.prod(largest.tolist()) * page.dtype.itemsize > most:
            streams = True
            kept &= held_out
            found = {name: _in_memory(one, kept) for name, one in found.items()}
    return Survey(found, held_out, weights, streams)


def _in_memory(page: Page | str, kept: set[str]) -> Page | str:
    """The page, its pixels let go where those of its file are not kept."""
    return page if isinstance(page, str) or page.file in kept else page._replace(pixels=None)


Look = tuple[str, "Page | str", "np.ndarray | None"]  # label, page, its histogram


def _looks(look: Callable, names: list[str], kept: set[str]) -> Iterator[Look]:
    """What `look` makes of each file, in order; `kept` may change on the way."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(names), _FILES):
            some = names[start : start + _FILES]
            for pages in pool.map(look, some, [name in kept for name in some]):
                yield from pages


def _look(folder: Path, size: int, colour: bool, name: str, keep: bool) -> list[Look]:
    looks: list[Look] = []
    for number, (label, one) in enumerate(pictures.pages(folder, name, colour).items()):
        if isinstance(one, str):
            looks.append((label, one, None))
            continue
        pixels = np.ascontiguousarray(one.pixels)
        sha256 = hashlib.sha256(pixels.data).hexdigest()
        page = Page(name, number, pixels.shape, pixels.dtype, one.note, sha256, None)
        if min(pixels.shape[:2]) < size:
            looks.append((label, page, None))
            continue
        page = page._replace(pixels=pixels) if keep else page
        looks.append((label, page, dequantisation.histogram(pixels)))
    return looks


def _spread(names: list[str], test: float) -> set[str]:
    """So many of these names, or a fraction of them, evenly spaced."""
    n = len(names)
    number = min(n, max(1, round(test * n)) if test < 1 else int(test))
    return {names[(2 * i + 1) * n // (2 * number)] for i in range(number)}


def _held_out(
    folder: Path, files: list[str], found: Pages, test: float | Sequence[str]
) -> set[str]:
    if not isinstance(test, (int, float)):
        unknown = sorted(set(test) - set(files))
        if unknown or not test:
            raise ValueError(f"test: expected names of images in {folder}, got {unknown}")
        return set(test)
    names = list(dict.fromkeys(one.file for one in found.values() if not isinstance(one, str)))
    n = len(names)
    if n == 0:
        why = listed([f"{name}: {one}" for name, one in found.items()])
        raise ValueError(f"image_dir: {folder} has no image that is whole: {why}")
    if n == 1:
        raise ValueError(
            f"image_dir: expected 2 images or more, one to hold out, got 1 in {folder}"
        )
    number = max(1, round(test * n)) if test < 1 else int(test)
    if test <= 0 or number >= n or (test > 1 and number != test):
        what = f"a fraction below 1, or a number of files below the {n} in {folder}"
        raise ValueError(f"test: expected {what}, got {test}")
    return _spread(names, test)


def large_enough(found: Mapping[str, One | str], size: int) -> tuple[dict[str, One], tuple]:
    """The pictures that a crop fits into, and of each other one "name: why"."""
    good, skipped = {}, []
    for name, one in found.items():
        if isinstance(one, str):
            skipped.append(f"{name}: {one}")
        elif min(one.shape[:2]) < size:
            height, width, _ = one.shape
            skipped.append(f"{name}: {width} x {height} pixels, less than a crop of {size}")
        else:
            good[name] = one
    return good, tuple(skipped)
