"""Photographs in a folder, and random crops of them: the textures of Sec. 3.2 and the like.

Files are held out whole, so that no test crop comes from a photograph that was trained on. Pixels
stay integers, as in images.py: 16-bit files keep their own bins, 1/65536 of the range.
"""

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import pictures, surveys
from dpm_jax.data.pictures import listed
from dpm_jax.data.streaming import Stream
from dpm_jax.data.surveys import Page
from dpm_jax.images import dequantisation

Item = str | Path | tuple[str | Path, int]


class Stack(NamedTuple):
    """Photographs of one or of many sizes: each lies in the corner of its place, zeros beyond."""

    photos: Any  # (n, H, W, C) uint8 or uint16, H and W the largest of all; or a Stream of crops
    sizes: np.ndarray  # (n, 2) int32, height and width of each in pixels
    files: tuple[str, ...]  # names below the folder, of each; pages of a file have one name
    digests: tuple[str, ...]  # SHA-256 of the pixels of each


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
    memory_gib: float = math.inf,
) -> Photos:
    """The photographs of a folder and its subfolders, split into training and test files.

    Every page of a GIF, PNG, TIFF or WebP is a photograph. Linked subfolders are read too, each
    file once. What is left out (cannot be decoded, is smaller than a crop, is no image) is named,
    and one warning counts it. Colour becomes grey by ITU-R 601 luma, grey becomes three equal
    channels, transparency is dropped.

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
        memory_gib: what the training stack may take, n times the largest height times the largest
            width. A larger one is a `streaming.Stream` of crops, each decoded as it is needed; the
            test photographs are in memory. All else is equal.

    Raises:
        ValueError: for a folder without images, a bad `size` or `test`, and where no file is left
            for training or for testing; for files of 8 bits beside others of 16, which have no
            level in common; as `dequantisation.check_levels`.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    folder = Path(image_dir).expanduser()
    names, left = pictures.names(folder)
    seen = surveys.survey(folder, names, size, colour, test, memory_gib * 2**30)
    good, skipped = surveys.large_enough(seen.found, size)
    skipped = (*left, *skipped)
    notes = _notes(good)
    said = [f"{len(skipped)} of {len(seen.found) + len(left)} left out: {listed(skipped)}"]
    said = said[: len(skipped)] + [note for note in notes if pictures.DEEP in note]
    if said:
        warnings.warn(f"{folder}: {'; '.join(said)}", stacklevel=2)
    _check_depth(good)
    train = [page for page in good.values() if page.file not in seen.held_out]
    stack = _streamed(folder, train, size, colour) if seen.streams else None
    stack = stack or _stack(folder, "training", train)
    held = _stack(folder, "testing", [p for p in good.values() if p.file in seen.held_out])
    weights = seen.weights[: dequantisation.levels_of(held.photos)] / len(train)
    present = np.flatnonzero(weights).astype(held.photos.dtype)
    levels = dequantisation.check_levels(levels, present, held.photos)
    return Photos(stack, held, *dequantisation.moments(weights), skipped, notes, levels)


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


def read_crop(item: Item, rng: np.random.Generator, size: int, colour: bool = False) -> np.ndarray:
    """A square cut from a random place of an image file, for sets that memory cannot hold.

    `functools.partial(read_crop, size=64)` is a `read` of `streaming.stream`.

    Args:
        item: the path of a file, or that and the number of a page from 0; of several pages one is
            drawn. Decoded anew but for the last ones.
        rng: a NumPy generator.
        size, colour: as in `read`.

    Returns:
        (size, size, C) uint8, or uint16 for a 16-bit file.

    Raises:
        ValueError: for a file that cannot be decoded or is smaller than the crop; it is named.
    """
    path, page = item if isinstance(item, tuple) else (item, None)
    good, why = surveys.large_enough(_decoded(str(path), page, colour, _stamp(path)), size)
    if not good:
        raise ValueError(why[0])
    found = list(good.values())
    pixels = found[rng.integers(len(found)) if len(found) > 1 else 0].pixels
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - size + 1)
    return pixels[top : top + size, left : left + size].copy()


@functools.lru_cache(maxsize=2)  # crops of one photograph often follow each other
def _decoded(path: str, page: int | None, colour: bool, stamp: tuple) -> pictures.Found:
    return pictures.pages(Path(), path, colour, page)


def _stamp(path: str | Path) -> tuple:
    """What changes with the content of a file."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size, found.st_ino
    return ()


def names(image_dir: str | Path) -> list[str]:
    """The names of the images that `read` finds in a folder, in order; errors as there."""
    return pictures.names(Path(image_dir).expanduser())[0]


def _check_depth(good: dict[str, Page]) -> None:
    """ValueError where 8 and 16 bits are mixed: of 12 bits in 16 the upper 8 would be 4."""
    deep = [name for name, one in good.items() if one.dtype == np.uint16]
    flat = [name for name in good if name not in set(deep)]
    if deep and flat:
        raise ValueError(
            f"image_dir: expected images of one depth, got {len(flat)} of 8 bits ({listed(flat)})"
            f" and {len(deep)} of 16 ({listed(deep)}): convert them, or move some away"
        )


def _notes(good: dict[str, Page]) -> tuple[str, ...]:
    """What was converted, and how."""
    files: dict[str, list[str]] = {}
    for name, one in good.items():
        if one.note:
            files.setdefault(one.note, []).append(name)
    return tuple(
        f"{len(which)} of {len(good)} files converted, {note}: {listed(which)}"
        for note, which in files.items()
    )


def _stack(folder: Path, use: str, found: list[Page]) -> Stack:
    if not found:
        raise ValueError(f"image_dir: {folder} has no image left for {use}, all were skipped")
    sizes = _sizes(found)
    shape = (len(found), *sizes.max(axis=0), found[0].shape[2])
    photos = np.zeros(shape, found[0].dtype)
    for photo, (height, width), page in zip(photos, sizes, found):
        photo[:height, :width] = page.pixels
    return _of(photos, found)


def _streamed(folder: Path, found: list[Page], size: int, colour: bool) -> Stack:
    """Crops in the place of the photographs."""
    items = [(str(folder / page.file), page.number) for page in found]
    read = functools.partial(read_crop, size=size, colour=colour)
    return _of(Stream(items, read, os.cpu_count() or 1), found)


def _of(photos: Any, found: list[Page]) -> Stack:
    files, digests = ([getattr(p, name) for p in found] for name in ("file", "sha256"))
    return Stack(photos, _sizes(found), tuple(files), tuple(digests))


def _sizes(found: list[Page]) -> np.ndarray:
    return np.array([page.shape[:2] for page in found], np.int32)
