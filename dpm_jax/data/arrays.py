"""Images in .npy files, memory-mapped: a set may be larger than memory."""

from pathlib import Path

import numpy as np


def open_npy(path: str | Path) -> np.ndarray:
    """The images of a .npy file, memory-mapped and read-only.

    Args:
        path: file of an array (N, H, W) or (N, H, W, C), uint8 or uint16.

    Returns:
        (N, H, W, C) as stored; C = 1 where the file has three axes.

    Raises:
        ValueError: where there is no such file, or it is damaged or holds another array.
    """
    path = Path(path).expanduser()
    expected = "an array (N, H, W) or (N, H, W, C), uint8 or uint16"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {expected}")
    try:
        images = np.load(path, mmap_mode="r")
        if not isinstance(images, np.ndarray):
            raise ValueError("an archive of arrays")
    except Exception as error:  # a damaged header makes np.load raise anything, tokenize errors too
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{path}: damaged or no .npy file ({why}); expected {expected}") from error
    if images.dtype not in (np.uint8, np.uint16) or images.ndim not in (3, 4) or images.size == 0:
        got = f"{images.dtype} {images.shape}"
        raise ValueError(f"{path}: expected {expected}, got {got}")
    return images if images.ndim == 4 else images[..., None]


def open_pair(
    train: str | Path, test: str | Path, shape: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The images of two .npy files, of one shape and type.

    Args:
        train, test: files, as in `open_npy`.
        shape: (H, W, C) that their images must have; () for any.

    Returns:
        (N, H, W, C) and (M, H, W, C).

    Raises:
        ValueError: as `open_npy`, for images of another shape, and where those of the two differ.
    """
    pair = open_npy(train), open_npy(test)
    if shape and pair[0].shape[1:] != shape:
        raise ValueError(f"{train}: expected images {shape}, got {pair[0].shape[1:]}")
    kinds = [f"{images.dtype} {images.shape[1:]}" for images in pair]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{test}: expected images {kinds[0]} as in {train}, got {kinds[1]}")
    return pair


def open_set(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images of a file "x.npy", and of "x_test.npy" where that lies beside it.

    Args:
        path: the file of the training set, as in `open_npy`; it ends in .npy.

    Returns:
        (N, H, W, C) and (M, H, W, C). Without a second file the test set is the last tenth of the
        first, at least one image.

    Raises:
        ValueError: as `open_pair`, and for a single image and no second file.
    """
    path = Path(path).expanduser()
    test = path.with_name(f"{path.stem}_test.npy")
    if test.exists():
        return open_pair(path, test)
    images = open_npy(path)
    if len(images) < 2:
        raise ValueError(f"{path}: expected at least 2 images, or {test.name} beside it; got 1")
    return hold_out(images)


def hold_out(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images of a set without a split: the last tenth, at least one, is the test.

    Args:
        images: (N, ...).

    Returns:
        (N − M, ...) and (M, ...), M = max(1, ⌊N/10⌋); views.
    """
    held_out = max(1, len(images) // 10)
    return images[:-held_out], images[-held_out:]
