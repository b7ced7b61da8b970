"""CIFAR-10 as lossless mosaics: WebP or PNG files of 25 rows of 40 images, row by row."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dpm_jax.data.cache import Pieces

ROWS, COLUMNS, SIDE = 25, 40, 32  # of a file, in images; of an image, in pixels
SUFFIXES = (".png", ".webp")


def present(folder: str | Path) -> bool:
    """Whether a folder holds mosaics, train_*.webp or test_*.webp (or .png)."""
    return any(_find(Path(folder), split) for split in ("train", "test"))


def source(manual_dir: str | Path) -> tuple[str, dict, Callable[[str], Pieces]]:
    """The mosaics of a folder, train_* and test_*, in the order of their names.

    Args:
        manual_dir: the folder.

    Returns:
        A key that changes with the content of the files; {"train": (N, 32, 32, 3), "test": ...};
        and a function "train" or "test" -> images, as `read` gives them.

    Raises:
        ValueError: where the folder lacks one of the two.
    """
    files, key = {}, 0
    for split in ("train", "test"):
        files[split] = _find(Path(manual_dir), split)
        if not files[split]:
            raise ValueError(f"manual_dir: {manual_dir} has mosaics, but no {split}_*.webp or .png")
        for path in files[split]:
            key = zlib.crc32(path.read_bytes(), key)
    shapes = {split: (ROWS * COLUMNS * len(each), SIDE, SIDE, 3) for split, each in files.items()}
    return f"cifar10_mosaics_{key:08x}", shapes, lambda split: read(files[split])


def read(files: list[Path]) -> Pieces:
    """The images of mosaics: those of a file row by row, files in the order given.

    Args:
        files: each stands alone, so that a set may lack the last ones.

    Returns:
        (1000 len(files), 32, 32, 3) uint8; decoded as they are asked for.

    Raises:
        ValueError: as they are, for a file that is damaged or no such mosaic; it is named.
    """
    return Pieces((ROWS * COLUMNS * len(files), SIDE, SIDE, 3), np.uint8, map(_tiles, files))


def _find(folder: Path, split: str) -> list[Path]:
    return sorted(path for end in SUFFIXES for path in folder.glob(f"{split}_*{end}"))


def _tiles(path: Path) -> np.ndarray:
    expected = f"{COLUMNS * SIDE} x {ROWS * SIDE} pixels, RGB"
    try:
        with Image.open(path) as image:
            got = f"{image.width} x {image.height} pixels, {image.mode}"
            pixels = np.asarray(image)
    except Exception as error:  # Pillow raises anything for a damaged file
        raise ValueError(f"{path}: cannot be read, it is damaged or no image ({error})") from error
    if got != expected:
        raise ValueError(f"{path}: expected a mosaic of {expected}, got {got}")
    tiles = pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)
