"""Images as integer grey levels: sets of tensorflow-datasets by name, mosaics, .npy files.

Pixels stay integers; images/dequantisation.py makes densities of them, by the mean and the scale
that stand beside the images here.
"""

import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax import hosts
from dpm_jax.data import arrays, cache, mosaics, tfds_images
from dpm_jax.images.dequantisation import check_levels, mean_and_scale

Folder = str | os.PathLike | None


class ImageData(NamedTuple):
    """A set of images, and the mean and scale that whiten it once it is dequantised."""

    train: np.ndarray  # (N, H, W, C) uint8, or uint16 for 16-bit images
    test: np.ndarray  # (M, H, W, C), the same type
    mean: float  # of the dequantised training set, grey levels
    scale: float  # its standard deviation over all pixels, grey levels
    levels: int  # number of values a pixel can take


def load(
    name: str = "mnist",
    data_dir: Folder = None,
    manual_dir: Folder = None,
    levels: int = 0,
    memory_gib: float = 4.0,
) -> ImageData:
    """A data set by name; what had to be decoded is kept below data_dir as .npy files.

    Of several processes the first prepares it, then the others read what it kept.

    Args:
        name: a set of tensorflow-datasets: "mnist", "cifar10" (both offline too) or any other that
            holds images of one size, in the order of tensorflow-datasets. Or the path of a .npy
            file, "x.npy" (see `arrays.open_set`); "x_test.npy" beside it, or else its last tenth,
            is the test set.
        data_dir: folder that keeps the prepared data; where not given, $TFDS_DATA_DIR
            or ~/tensorflow_datasets.
        manual_dir: folder with the original files, where there is no network; or
            with train.npy and test.npy; or, for "cifar10", with mosaics (`mosaics.read`), which
            come in the order of the files, as many images as there are.
        levels: number of values a pixel can take, 2..65536, such as 4096 for 12 bits in uint16;
            0: all of the type.
        memory_gib: a prepared split that is larger stays on disk, memory-mapped.

    Returns:
        Training and test images. Those of .npy files are memory-mapped.

    Raises:
        ValueError: for an unknown name, a manual_dir without the original files, a damaged one;
            for levels that the type does not hold, or a pixel that is not below them.
        OSError: where there is neither network nor manual_dir, or data_dir cannot be written.
    """
    if name.endswith(".npy"):
        return _of(*arrays.open_set(name), levels)
    manual = Path(manual_dir).expanduser().absolute() if manual_dir else None
    shapes = tfds_images.shapes(name)
    if manual and any((manual / file).exists() for file in ("train.npy", "test.npy")):
        known = (shapes["train"] or ())[1:]
        return _of(*arrays.open_pair(manual / "train.npy", manual / "test.npy", known), levels)
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data = Path(data_dir).expanduser().absolute()
    key, read = name.replace("/", "+"), None
    if manual and name == "cifar10" and mosaics.present(manual):
        key, shapes, read = mosaics.source(manual)
    read = read or tfds_images.reader(name, data, manual)
    most = memory_gib * 2**30

    def kept() -> dict[str, np.ndarray]:
        return {
            split: _kept(data / "dpm_jax" / f"{key}_{split}.npy", shape, partial(read, split), most)
            for split, shape in shapes.items()
        }

    splits = hosts.in_turn(kept)
    return _of(splits["train"], splits["test"], levels)


def _kept(
    path: Path, shape: tuple[int, ...] | None, decode: Callable[[], cache.Pieces], most: float
) -> np.ndarray:
    """The images of a split, which are decoded where `path` does not hold them."""
    images = cache.read(path, shape, most)
    if images is None and cache.write(path, decode()):
        images = cache.read(path, shape, most)
    if images is not None:
        return images
    pieces = decode()  # a read-only data_dir only makes the next start slower
    size = math.prod(pieces.shape) * np.dtype(pieces.dtype).itemsize
    if size > most:
        what = f"{size / 2**30:.3g} GiB are held in memory"
        warnings.warn(f"data_dir: {path} cannot be written: {what}", stacklevel=2)
    return pieces.whole()


def _of(train: np.ndarray, test: np.ndarray, levels: int) -> ImageData:
    levels = check_levels(levels, train, test)
    return ImageData(train, test, *mean_and_scale(train), levels)
