"""Images kept as .npy files with a checksum, written and checked piece by piece."""

import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpm_jax import files
from dpm_jax.images.dequantisation import TYPES

_PIECE = 2**22  # bytes read at once


class Pieces(NamedTuple):
    """Images that are decoded as they are asked for, some at a time, once."""

    shape: tuple[int, ...]  # (N, H, W, C) of all together
    dtype: Any  # uint8 or uint16
    each: Iterable[np.ndarray]  # (n, H, W, C), in their order

    def whole(self) -> np.ndarray:
        """All of them in memory."""
        images, start = np.empty(self.shape, self.dtype), 0
        for piece in self.each:
            images[start : start + len(piece)] = piece
            start += len(piece)
        return images


def read(
    path: Path, shape: tuple[int, ...] | None = None, most: float = math.inf
) -> np.ndarray | None:
    """The images of `write`, or None where the file is missing, cut short or altered.

    Args:
        path: of the file.
        shape: (N, H, W, C) that is expected; None: any.
        most: bytes; more than these stay on disk, memory-mapped.
    """
    try:
        images = np.load(path, mmap_mode="r")
        if images.dtype not in TYPES or shape not in (None, images.shape):
            return None
        with open(path, "rb") as file:
            file.seek(images.offset)
            checksum, left = 0, images.nbytes
            while left and (part := file.read(min(left, _PIECE))):
                checksum, left = zlib.crc32(part, checksum), left - len(part)
            if np.load(file) != checksum:
                return None
        return images if images.nbytes > most else np.array(images)
    except Exception:  # a damaged header makes np.load raise anything, tokenize errors too
        return None


def write(path: Path, pieces: Pieces) -> bool:
    """Keep images in a .npy file, their checksum as a second array behind them.

    Returns:
        Whether it could be written.

    Raises:
        OSError: where the images cannot be read; it has no errno, as those of a disk do.
    """
    kind = {"descr": np.lib.format.dtype_to_descr(np.dtype(pieces.dtype)), "fortran_order": False}
    checksum = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, kind | {"shape": pieces.shape})
            for piece in pieces.each:
                part = np.ascontiguousarray(piece, pieces.dtype)
                file.write(part.data)
                checksum = zlib.crc32(part.data, checksum)
            np.save(file, checksum)
    except OSError as error:
        if error.errno is None:
            raise
        return False
    return True
