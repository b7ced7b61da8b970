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
from PIL import Image, ImageOps

from dpm_jax.images import dequantisation

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Stack(NamedTuple):
    """Photographs of one or of many sizes: each lies in the corner of its place, zeros beyond."""

    photos: np.ndarray  # (n, H, W, C) uint8 or uint16, H and W the largest of all
    sizes: np.ndarray  # (n, 2) int32, height and width of each in pixels
    files: tuple[str, ...]  # names below the folder


class Photos(NamedTuple):
    """What a folder holds: two stacks, what whitens them, and what became of each file."""

    train: Stack
    test: Stack
    mean: float  # of the dequantised training photographs, each with the same weight; grey levels
    scale: float  # standard deviation of the same, grey levels
    skipped: tuple[str, ...]  # "name: why", of the files that are not used
    notes: tuple[str, ...]  # which files were converted, and how

    @property
    def levels(self) -> int:
        """Number of values a pixel can take, 256 or 65536."""
        return dequantisation.levels_of(self.train.photos)


class _Decoded(NamedTuple):
    pixels: np.ndarray  # (H, W, C) uint8 or uint16
    note: str  # how it was converted; "" where it was not


def read(
    image_dir: str | Path, size: int, colour: bool = False, test: float | Sequence[str] = 0.1
) -> Photos:
    """The photographs of a folder and its subfolders, split into training and test files.

    A file that cannot be decoded, or is smaller than a crop, is skipped and named; one warning
    counts them. Colour becomes grey by ITU-R 601 luma, grey becomes three equal channels,
    transparency is dropped. Where 8-bit and 16-bit files are mixed, the upper 8 bits of the latter
    are used. All is held in memory: n times the largest height times the largest width.

    Args:
        image_dir: the folder; files by their SUFFIXES, but for hidden ones.
        size: side of the crops that will be taken, pixels.
        colour: 3 channels, R G B; else 1.
        test: what to hold out. Below 1 a fraction of the files, rounded, at least one; from 1 on a
            number of them: both evenly spaced in the order of the names. Files too small for a crop
            are counted too, so the split depends on neither `size` nor `colour`. Or a list of names
            below the folder.

    Raises:
        ValueError: for a folder without images, a bad `size` or `test`, and where no file is left
            for training or for testing.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    folder = Path(image_dir).expanduser()
    names = _names(folder)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        decoded = pool.map(partial(_decode, colour=colour), (folder / name for name in names))
        found = dict(zip(names, decoded))
    held_out = _held_out(folder, found, test)
    good, skipped = _large_enough(found, size)
    if skipped:
        what = f"{len(skipped)} of {len(names)} images in {folder} skipped: {_listed(skipped)}"
        warnings.warn(what, stacklevel=2)
    pixels, notes = _one_depth(good)
    train = _stack(folder, "training", {k: x for k, x in pixels.items() if k not in held_out})
    held = _stack(folder, "testing", {k: x for k, x in pixels.items() if k in held_out})
    return Photos(train, held, *_mean_and_scale(train), skipped, notes)


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
        path: the file, decoded anew at each call.
        rng: a NumPy generator.
        size, colour: as in `read`.

    Returns:
        (size, size, C) uint8, or uint16 for a 16-bit file.

    Raises:
        ValueError: for a file that cannot be decoded or is smaller than the crop; it is named.
    """
    good, why = _large_enough({str(path): _decode(path, colour)}, size)
    if why:
        raise ValueError(why[0])
    pixels = good[str(path)].pixels
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - size + 1)
    return pixels[top : top + size, left : left + size]


def names(image_dir: str | Path) -> list[str]:
    """The names of the images that `read` finds in a folder, in order; errors as there."""
    return _names(Path(image_dir).expanduser())


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"image_dir: {folder} is not a folder")
    below = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(
        path.as_posix()
        for path in below
        if path.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in path.parts)
    )
    if not names:
        raise ValueError(f"image_dir: {folder} has no images ({' '.join(SUFFIXES)})")
    return names


def _listed(names: Sequence[str]) -> str:
    return "; ".join([*names[:5], *(["..."] if len(names) > 5 else [])])


def _held_out(
    folder: Path, found: dict[str, _Decoded | str], test: float | Sequence[str]
) -> set[str]:
    if not isinstance(test, (int, float)):
        unknown = sorted(set(test) - set(found))
        if unknown or not test:
            raise ValueError(f"test: expected names of images in {folder}, got {unknown}")
        return set(test)
    names = [name for name, one in found.items() if not isinstance(one, str)]
    n = len(names)
    if n == 0:
        why = _listed(_large_enough(found, 1)[1])
        raise ValueError(f"image_dir: {folder} has no image that is whole: {why}")
    number = max(1, round(test * n)) if test < 1 else int(test)
    if test <= 0 or number >= n or (test > 1 and number != test):
        what = f"a fraction below 1, or a number of files below the {n} in {folder}"
        raise ValueError(f"test: expected {what}, got {test}")
    return {names[(2 * i + 1) * n // (2 * number)] for i in range(number)}


def _decode(path: str | Path, colour: bool) -> _Decoded | str:
    """The image, or why it cannot be used."""
    try:
        with Image.open(path) as file:
            # Pillow has no 16-bit colour and drops the lower 8 bits; the file's layout tells.
            deep = " of 16 bits" if ";16" in str(file.tile) else ""
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                return "floating-point pixels; expected 8 or 16 bits"
            return _from_16(image, colour) if image.mode[0] == "I" else _from_8(image, colour, deep)
    except Exception as error:  # Pillow raises anything for a damaged file
        return f"damaged or no image ({' '.join(str(error).split())})"


def _from_8(image: Image.Image, colour: bool, deep: str) -> _Decoded:
    mode, target = image.mode, "RGB" if colour else "L"
    if "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    pixels = np.asarray(image.convert(target))
    note = f"{mode}{deep} to {target}" if deep or mode != target else ""
    return _Decoded(pixels if colour else pixels[..., None], note)


def _from_16(image: Image.Image, colour: bool) -> _Decoded | str:
    grey = np.asarray(image)[..., None]
    if grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
        return "values outside 0..65535; expected 8 or 16 bits"
    pixels = np.repeat(grey.astype(np.uint16), 3 if colour else 1, axis=2)
    return _Decoded(pixels, "16-bit grey to three channels" if colour else "")


def _large_enough(
    found: dict[str, _Decoded | str], size: int
) -> tuple[dict[str, _Decoded], tuple[str, ...]]:
    """The images that a crop fits into, and of each other file one "name: why"."""
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


def _one_depth(good: dict[str, _Decoded]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The pixels of all files in one type, and what was converted."""
    pixels = {name: one.pixels for name, one in good.items()}
    converted = [(one.note, name) for name, one in good.items() if one.note]
    deep = [name for name, one in pixels.items() if one.dtype == np.uint16]
    if len(deep) < len(pixels):
        for name in deep:
            pixels[name] = (pixels[name] >> 8).astype(np.uint8)
            converted.append(("16 bits to their upper 8", name))
    files: dict[str, list[str]] = {}
    for note, name in converted:
        files.setdefault(note, []).append(name)
    return pixels, tuple(
        f"{len(which)} of {len(good)} files converted, {note}: {_listed(which)}"
        for note, which in files.items()
    )


def _stack(folder: Path, use: str, pixels: dict[str, np.ndarray]) -> Stack:
    if not pixels:
        raise ValueError(f"image_dir: {folder} has no image left for {use}, all were skipped")
    arrays = list(pixels.values())
    sizes = np.array([one.shape[:2] for one in arrays], np.int32)
    photos = np.zeros((len(arrays), *sizes.max(axis=0), arrays[0].shape[2]), arrays[0].dtype)
    for photo, one in zip(photos, arrays):
        photo[: one.shape[0], : one.shape[1]] = one
    return Stack(photos, sizes, tuple(pixels))


def _mean_and_scale(stack: Stack) -> tuple[float, float]:
    """Each photograph counts the same, as `crop` draws them."""
    counts = [dequantisation.histogram(p[:h, :w]) for p, (h, w) in zip(stack.photos, stack.sizes)]
    return dequantisation.moments(np.mean([count / count.sum() for count in counts], axis=0))
