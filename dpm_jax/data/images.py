"""Images as integer grey levels: sets of tensorflow-datasets by name, mosaics, .npy files.

Pixels are integers, the model is a density: ``dequantize`` adds U[0, 1) grey levels of noise and
whitens with one mean and one scale for the whole set. The integers then cost at most −log2 density
+ log2 scale bits a pixel (Theis et al. 2016, Sec. 3.1), so the scale belongs beside every K.
A grey level is a bin of the file's own: 1/256 of the range for 8 bits, 1/65536 for 16.
"""

import contextlib
import os
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.data import arrays, mosaics, tfds_images

Array = jax.Array
Folder = str | os.PathLike | None
LEVELS = 256  # grey levels of an 8-bit pixel
_TYPES = (np.uint8, np.uint16)


class ImageData(NamedTuple):
    """A set of images, and the mean and scale that whiten it once it is dequantised."""

    train: np.ndarray  # (N, H, W, C) uint8, or uint16 for 16-bit images
    test: np.ndarray  # (M, H, W, C), the same type
    mean: float  # of the dequantised training set, grey levels
    scale: float  # its standard deviation over all pixels, grey levels

    @property
    def levels(self) -> int:
        """Number of values a pixel can take, 256 or 65536."""
        return levels_of(self.train)


def load(name: str = "mnist", data_dir: Folder = None, manual_dir: Folder = None) -> ImageData:
    """A data set by name; what had to be decoded is kept below data_dir as .npy files.

    Args:
        name: a set of tensorflow-datasets: "mnist", "cifar10" (both offline too) or any other that
            holds images of one size, in the order of tensorflow-datasets. Or the path of a .npy
            file, "x.npy" (see `arrays.open_set`); "x_test.npy" beside it, or else its last tenth,
            is the test set.
        data_dir: folder that keeps the prepared data (--data_dir); where not given, $TFDS_DATA_DIR
            or ~/tensorflow_datasets.
        manual_dir: folder with the original files (--manual_dir), where there is no network; or
            with train.npy and test.npy; or, for "cifar10", with mosaics (`mosaics.read`), which
            come in the order of the files, as many images as there are.

    Returns:
        Training and test images. Those of .npy files are memory-mapped.

    Raises:
        ValueError: for an unknown name, a manual_dir without the original files, a damaged one.
        OSError: where there is neither network nor manual_dir, or data_dir cannot be written.
    """
    if name.endswith(".npy"):
        return _of(*arrays.open_set(name))
    manual = Path(manual_dir).expanduser().absolute() if manual_dir else None
    shapes = tfds_images.shapes(name)
    if manual and any((manual / file).exists() for file in ("train.npy", "test.npy")):
        known = (shapes["train"] or ())[1:]
        return _of(*arrays.open_pair(manual / "train.npy", manual / "test.npy", known))
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data = Path(data_dir).expanduser().absolute()
    key, read = name.replace("/", "+"), None
    if manual and name == "cifar10" and mosaics.present(manual):
        key, shapes, read = mosaics.source(manual)
    read = read or tfds_images.reader(name, data, manual)
    splits = {}
    for split, shape in shapes.items():
        cache = data / "dpm_jax" / f"{key}_{split}.npy"
        images = _read_cache(cache, shape)
        if images is None:
            images = read(split)
            _write_cache(cache, images)
        splits[split] = images
    return _of(splits["train"], splits["test"])


def levels_of(images: np.ndarray | Array) -> int:
    """Number of grey levels of a type of pixels: 256 for uint8, 65536 for uint16.

    Raises:
        ValueError: for another type.
    """
    if images.dtype not in _TYPES:
        raise ValueError(f"images: expected uint8 or uint16 grey levels, got {images.dtype}")
    return int(np.iinfo(images.dtype).max) + 1


def histogram(images: np.ndarray) -> np.ndarray:
    """How many pixels have each grey level.

    Args:
        images: (N, ...) uint8 or uint16; a memory-mapped array is read in parts.

    Returns:
        (256,) or (65536,) counts.

    Raises:
        ValueError: for another dtype or no pixels.
    """
    if images.dtype not in _TYPES or images.size == 0:
        got = f"{images.dtype} {images.shape}"
        raise ValueError(f"images: expected uint8 or uint16 pixels, got {got}")
    levels = levels_of(images)
    # bincount makes an int64 copy of what it counts: about a million pixels keep that small.
    rows = max(1, 2**20 // images[0].size)
    parts = (images[i : i + rows].ravel() for i in range(0, len(images), rows))
    return sum((np.bincount(part, minlength=levels) for part in parts), np.zeros(levels, np.int64))


def mean_and_scale(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x + U[0, 1) over all pixels of `images`, in grey levels.

    Args:
        images: (N, ...) uint8 or uint16, at least one pixel; may be memory-mapped.

    Raises:
        ValueError: for another dtype or no pixels.
    """
    return moments(histogram(images))


def moments(weights: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x + U[0, 1) for P(x = k) ∝ weights[k]: exact, in float64.

    The uniform noise adds 1/2 to the mean and 1/12 to the variance.

    Args:
        weights: (levels,) not negative, not all 0.

    Returns:
        Mean and standard deviation in grey levels.
    """
    levels = np.arange(len(weights), dtype=np.float64)
    mean = np.average(levels, weights=weights)
    variance = np.average((levels - mean) ** 2, weights=weights)
    return float(mean + 0.5), float(np.sqrt(variance + 1 / 12))


def dequantize(key: Array, images: Array, mean: float, scale: float) -> Array:
    """(x + u − mean)/scale with u ~ U[0, 1) grey levels (Theis et al. 2016, Sec. 3.1).

    Args:
        key: a typed JAX key.
        images: any shape, uint8 or uint16 grey levels.
        mean, scale: of the dequantised training set, grey levels; those of `ImageData`.

    Returns:
        float32 of the same shape, in units of `scale`: mean 0 and variance 1 over the training set.

    Raises:
        ValueError: where the images are neither uint8 nor uint16.
    """
    levels_of(images)
    levels = jnp.asarray(images).astype(jnp.float32)
    return (levels + jax.random.uniform(key, levels.shape, jnp.float32) - mean) / scale


def to_levels(x: Array, mean: float, scale: float, levels: int = LEVELS) -> Array:
    """The grey level that x lies in, ⌊x·scale + mean⌋ clipped to the range: undoes `dequantize`.

    Args:
        x: any shape, float, in units of `scale`.
        mean, scale: as in `dequantize`, grey levels.
        levels: number of values a pixel can take, 256 or 65536.

    Returns:
        uint8 (uint16 for more than 256 levels) of the same shape; float32 may round to the next
        level within 1e-4 of an edge, within 0.02 of one for 65536 levels.
    """
    dtype = jnp.uint8 if levels <= LEVELS else jnp.uint16
    return jnp.clip(jnp.floor(jnp.asarray(x) * scale + mean), 0, levels - 1).astype(dtype)


def data_range(mean: float, scale: float, levels: int = LEVELS) -> tuple[float, float]:
    """Smallest and largest value that `dequantize` can give, in units of `scale`."""
    return (0 - mean) / scale, (levels - mean) / scale


def _of(train: np.ndarray, test: np.ndarray) -> ImageData:
    return ImageData(train, test, *mean_and_scale(train))


def _read_cache(path: Path, shape: tuple[int, ...] | None) -> np.ndarray | None:
    """The images of `_write_cache`, or None where the file is missing, cut short or altered.

    A `shape` of None accepts any.
    """
    try:
        with open(path, "rb") as file:
            images, checksum = np.load(file), np.load(file)
        known = images.dtype in _TYPES and shape in (None, images.shape)
        return images if known and zlib.crc32(images.tobytes()) == checksum else None
    except Exception:  # a damaged header makes np.load raise anything, tokenize errors too
        return None


def _write_cache(path: Path, images: np.ndarray) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with contextlib.suppress(OSError):  # a read-only data_dir only makes the next start slower
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, images)
            np.save(file, zlib.crc32(images.tobytes()))  # a second array behind the first
        os.replace(temporary, path)
    with contextlib.suppress(OSError):
        temporary.unlink()
