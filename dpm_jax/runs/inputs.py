"""Arrays and images of the user's, in the units of the model."""

from pathlib import Path

import numpy as np

from dpm_jax.images import dequantisation
from dpm_jax.runs.experiment import ImageScale


def read_values(
    path: str,
    shape: tuple[int, ...],
    scaling: ImageScale | None,
    known: np.ndarray | bool = True,
    noise: float = 0.0,
    crop: int | None = None,
) -> np.ndarray:
    """(n, *shape) of a file in the units of the model, 0 where hidden.

    Integers of an image run are its grey levels, and are scaled as its data, to the middle of a
    level; all else is in the units of the model.

    Raises:
        ValueError: for another shape, and for levels or units that are not the run's.
    """
    values = _rows(path, shape, crop)
    if values.shape[1:] != shape or not len(values):
        raise ValueError(f"input: expected shape {('n', *shape)}, got {values.shape} in {path}")
    seen = np.where(known, values, np.zeros((), values.dtype))
    if scaling is None or not np.isfinite(seen).all():  # which the family refuses
        return np.asarray(seen, np.float64)
    of = (scaling.mean, scaling.scale, scaling.levels)
    if values.dtype.kind == "f":
        dequantisation.check_units("input", seen, *of, noise)
        return np.asarray(seen, np.float64)
    levels = dequantisation.check_rows("input", seen, scaling.levels)
    return np.where(known, (levels + 0.5 - scaling.mean) / scaling.scale, 0)


def size_of(path: str, shape: tuple[int, ...], crop: int | None = None) -> tuple[int, ...]:
    """Shape of one image of a file, of as many axes and colours as `shape`; its sides are free.

    Raises:
        ValueError: as `read_values`, and for a crop that is larger than the image.
    """
    found = _rows(path, shape, crop).shape[1:]
    if len(found) != len(shape) or found[2:] != shape[2:]:
        raise ValueError(f"input: expected images as of shape {shape}, got {found} in {path}")
    return found


def _rows(path: str, shape: tuple[int, ...], crop: int | None) -> np.ndarray:
    """(n, ...) of a file, one image or many, the middle square of `crop` pixels of each."""
    values = read_array(path, "input")
    if len(shape) == 3 and shape[-1] == 1 and values.shape[-1:] != (1,):
        values = values[..., None]
    one = values.ndim == len(shape) or (len(shape) > 1 and Path(path).suffix != ".npy")
    values = values[None] if one else values
    if crop is None:
        return values
    sides = values.shape[1:3]
    if len(shape) < 2 or min(sides) < crop:
        raise ValueError(f"crop: expected at most the side of the image, got {crop} of {sides}")
    top, left = ((side - crop) // 2 for side in sides)
    return values[:, top : top + crop, left : left + crop]


def read_array(path: str, flag: str) -> np.ndarray:
    """The numbers of a .npy file, or the pixels of an image as deep as the file has them.

    Raises:
        ValueError: for a file that does not read, holds no numbers, or an image with transparency
            or of several pages.
    """
    file = Path(path).expanduser()
    expected = f"{flag}: expected a .npy file or an image, got {path}"
    try:
        found = _load(file) if file.suffix == ".npy" else _pixels(file)
    except Exception as error:  # NumPy and Pillow raise anything for what is damaged
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{expected}: {why}") from error
    if found.dtype.kind not in "biuf" or not found.size:
        raise ValueError(f"{expected}: {found.dtype} of shape {found.shape}, no numbers")
    return found


def _load(file: Path) -> np.ndarray:
    found = np.load(file)
    if not isinstance(found, np.ndarray):
        raise ValueError("an archive of arrays; expected one array")
    return found


def _pixels(file: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    from dpm_jax.data import pictures

    with Image.open(file) as opened:
        pages = getattr(opened, "n_frames", 1)
        if pages > 1:
            raise ValueError(f"{pages} pages; expected one")
        if pictures.deep_colour(opened):
            raise ValueError("colours of 16 bits, of which 8 would be read; give a .npy file")
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise ValueError("transparency; expected an image without")
            image = image.convert("RGBA").convert("RGB")
        if image.mode in ("1", "L", "F") or image.mode[0] == "I":
            return np.asarray(image)
        pixels = np.asarray(image.convert("RGB"))
        grey = opened.mode not in ("RGB", "RGBA") and (pixels == pixels[..., :1]).all()
        return pixels[..., 0] if grey else pixels
