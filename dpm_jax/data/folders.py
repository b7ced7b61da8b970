"""Photographs in a folder, and random crops of them: the textures of Sec. 3.2 and the like.

Files are held out whole, so that no test crop comes from a photograph that was trained on. Pixels
stay integers, as in images.py: 16-bit files keep their own bins, 1/65536 of the range.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import pictures
from dpm_jax.data.pictures import Found, Picture, listed
from dpm_jax.images import dequantisation


class Stack(NamedTuple):
    """Photographs of one or of many sizes: each lies in the corner of its place, zeros beyond."""

    photos: np.ndarray  # (n, H, W, C) uint8 or uint16, H and W the largest of all
    sizes: np.ndarray  # (n, 2) int32, height and width of each in pixels
    files: tuple[str, ...]  # names below the folder, of each; pages of a file have one name


class Photos(NamedTuple):
    """What a folder holds: two stacks, what whitens them, and what became of each file."""

    train: Stack
    test: Stack
    mean: float  # of the dequantised training photographs, each with the same weight; grey levels
    scale: float  # standard deviation of the same, grey levels
    skipped: tuple[str, ...]  # "name: why", of the files and pages that are not used
    notes: tuple[str, ...]  # which files were converted, and how
    levels: int  # number of values a pixel can take


def read(
    image_dir: str | Path,
    size: int,
    colour: bool = False,
    test: float | Sequence[str] = 0.1,
    levels: int = 0,
) -> Photos:
    """The photographs of a folder and its subfolders, split into training and test files.

    Every page of a GIF, PNG, TIFF or WebP is a photograph. Linked subfolders are read too, each
    file once. What is left out (cannot be decoded, is smaller than a crop, is no image) is named,
    and one warning counts it. Colour becomes grey by ITU-R 601 luma, grey becomes three equal
    channels, transparency is dropped. All is held in memory: n times the largest height times the
    largest width.

    Args:
        image_dir: the folder; files by the suffixes that Pillow reads, but for hidden ones.
        size: side of the crops that will be taken, pixels.
        colour: 3 channels, R G B; else 1.
        test: what to hold out. Below 1 a fraction of the files, rounded, at least one; from 1 on a
            number of them: both evenly spaced in the order of the names. Files too small for a crop
            are counted too, so the split depends on neither `size` nor `colour`. Or a list of names
            below the folder.
        levels: number of values a pixel can take, such as 4096 for 12 bits in files of 16; 0: all
            that their type has.

    Raises:
        ValueError: for a folder without images, a bad `size` or `test`, and where no file is left
            for training or for testing; for files of 8 bits beside others of 16, which have no
            level in common; as `dequantisation.check_levels`.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    folder = Path(image_dir).expanduser()
    names, left = pictures.names(folder)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        found: Found = {}
        for pages in pool.map(partial(pictures.pages, folder, colour=colour), names):
            found |= pages
    held_out = _held_out(folder, names, found, test)
    good, skipped = _large_enough(found, size)
    skipped = (*left, *skipped)
    notes = _notes(good)
    said = [f"{len(skipped)} of {len(found) + len(left)} left out: {listed(skipped)}"]
    said = said[: len(skipped)] + [note for note in notes if pictures.DEEP in note]
    if said:
        warnings.warn(f"{folder}: {'; '.join(said)}", stacklevel=2)
    _check_depth(good)
    train = _stack(folder, "training", [x for x in good.values() if x.file not in held_out])
    held = _stack(folder, "testing", [x for x in good.values() if x.file in held_out])
    levels = dequantisation.check_levels(levels, train.photos, held.photos)
    return Photos(train, held, *_mean_and_scale(train), skipped, notes, levels)


def crop(key: Array, photos: Array, size: int, sizes: Array | None = None) -> Array:
    """A square cut from a random place of a random photograph; jit and vmap over keys apply.

    Every photograph is as likely as any other, and so is every place within it.

    Args:
        key: a typed key.
        photos: (n, H, W, C) of any type, as in `Stack`.
        size: side of the crop, pixels; static.
        sizes: (n, 2) int32, the true heights and widths, none below `size`; None where all are
            (H, W). A crop never reaches beyond them.

    Returns:
        (size, size, C) of the type of `photos`.

    Raises:
        ValueError: where the crop is larger than the stack.
    """
    n, height, width, channels = photos.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size: expected 1..{min(height, width)} pixels, got {size}")
    key_photo, key_top, key_left = jax.random.split(key, 3)
    i = jax.random.randint(key_photo, (), 0, n)
    # int32: a plain int would be int64 under x64, and dynamic_slice wants indices of one type.
    true = jnp.asarray((height, width) if sizes is None else jnp.asarray(sizes)[i], jnp.int32)
    top = jax.random.randint(key_top, (), 0, true[0] - size + 1)
    left = jax.random.randint(key_left, (), 0, true[1] - size + 1)
    return jax.lax.dynamic_slice(
        jnp.asarray(photos), (i, top, left, jnp.zeros_like(i)), (1, size, size, channels)
    )[0]


def read_crop(
    path: str | Path, rng: np.random.Generator, size: int, colour: bool = False
) -> np.ndarray:
    """A square cut from a random place of an image file, for sets that memory cannot hold.

    `functools.partial(read_crop, size=64)` is a `read` of `streaming.stream`.

    Args:
        path: the file, decoded anew at each call; of several pages one is drawn.
        rng: a NumPy generator.
        size, colour: as in `read`.

    Returns:
        (size, size, C) uint8, or uint16 for a 16-bit file.

    Raises:
        ValueError: for a file that cannot be decoded or is smaller than the crop; it is named.
    """
    good, why = _large_enough(pictures.pages(Path(), str(path), colour), size)
    if not good:
        raise ValueError(why[0])
    pages = list(good.values())
    pixels = pages[rng.integers(len(pages)) if len(pages) > 1 else 0].pixels
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - size + 1)
    return pixels[top : top + size, left : left + size]


def names(image_dir: str | Path) -> list[str]:
    """The names of the images that `read` finds in a folder, in order; errors as there."""
    return pictures.names(Path(image_dir).expanduser())[0]


def _held_out(
    folder: Path, files: list[str], found: Found, test: float | Sequence[str]
) -> set[str]:
    if not isinstance(test, (int, float)):
        unknown = sorted(set(test) - set(files))
        if unknown or not test:
            raise ValueError(f"test: expected names of images in {folder}, got {unknown}")
        return set(test)
    names = list(dict.fromkeys(one.file for one in found.values() if not isinstance(one, str)))
    n = len(names)
    if n == 0:
        why = listed(_large_enough(found, 1)[1])
        raise ValueError(f"image_dir: {folder} has no image that is whole: {why}")
    if n == 1:
        raise ValueError(
            f"image_dir: expected 2 images or more, one to hold out, got 1 in {folder}"
        )
    number = max(1, round(test * n)) if test < 1 else int(test)
    if test <= 0 or number >= n or (test > 1 and number != test):
        what = f"a fraction below 1, or a number of files below the {n} in {folder}"
        raise ValueError(f"test: expected {what}, got {test}")
    return {names[(2 * i + 1) * n // (2 * number)] for i in range(number)}


def _large_enough(found: Found, size: int) -> tuple[dict[str, Picture], tuple[str, ...]]:
    """The pictures that a crop fits into, and of each other one "name: why"."""
    good, skipped = {}, []
    for name, one in found.items():
        if isinstance(one, str):
            skipped.append(f"{name}: {one}")
        elif min(one.pixels.shape[:2]) < size:
            height, width, _ = one.pixels.shape
            skipped.append(f"{name}: {width} x {height} pixels, less than a crop of {size}")
        else:
            good[name] = one
    return good, tuple(skipped)


def _check_depth(good: dict[str, Picture]) -> None:
    """ValueError where 8 and 16 bits are mixed: of 12 bits in 16 the upper 8 would be 4."""
    deep = [name for name, one in good.items() if one.pixels.dtype == np.uint16]
    flat = [name for name in good if name not in set(deep)]
    if deep and flat:
        raise ValueError(
            f"image_dir: expected images of one depth, got {len(flat)} of 8 bits ({listed(flat)})"
            f" and {len(deep)} of 16 ({listed(deep)}): convert them, or move some away"
        )


def _notes(good: dict[str, Picture]) -> tuple[str, ...]:
    """What was converted, and how."""
    files: dict[str, list[str]] = {}
    for name, one in good.items():
        if one.note:
            files.setdefault(one.note, []).append(name)
    return tuple(
        f"{len(which)} of {len(good)} files converted, {note}: {listed(which)}"
        for note, which in files.items()
    )


def _stack(folder: Path, use: str, found: list[Picture]) -> Stack:
    if not found:
        raise ValueError(f"image_dir: {folder} has no image left for {use}, all were skipped")
    arrays = [one.pixels for one in found]
    sizes = np.array([one.shape[:2] for one in arrays], np.int32)
    photos = np.zeros((len(arrays), *sizes.max(axis=0), arrays[0].shape[2]), arrays[0].dtype)
    for photo, one in zip(photos, arrays):
        photo[: one.shape[0], : one.shape[1]] = one
    return Stack(photos, sizes, tuple(one.file for one in found))


def _mean_and_scale(stack: Stack) -> tuple[float, float]:
    """Each photograph counts the same, as `crop` draws them."""
    counts = [dequantisation.histogram(p[:h, :w]) for p, (h, w) in zip(stack.photos, stack.sizes)]
    return dequantisation.moments(np.mean([count / count.sum() for count in counts], axis=0))
