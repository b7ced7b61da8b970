"""The pictures in the files of a folder: which files those are, and what Pillow makes of each."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

DEEP = " of 16 bits (their upper 8)"  # of colours, which Pillow reads so
_PAGED = ("GIF", "PNG", "TIFF", "WEBP")  # every page is a picture; of others the rest are previews
_SUBFILE, _SMALLER = 254, "a smaller copy of another page"  # a tag of TIFF, where its bit 0 is set


class Picture(NamedTuple):
    """One picture of a file."""

    file: str  # name below the folder
    pixels: np.ndarray  # (H, W, C) uint8 or uint16
    note: str  # how it was converted; "" where it was not

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.pixels.shape


Found = dict[str, "Picture | str"]  # "name" or "name, page k" -> the picture, or why there is none


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images below a folder, sorted, and "name: why" of what is not read.

    Subfolders and linked ones are gone through, hidden ones are not; a file that several names lead
    to is read once.

    Raises:
        ValueError: where it is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise ValueError(f"image_dir: {folder} is not a folder")
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    left: list[str] = []
    found: list[str] = []
    places: dict[str, str] = {}  # where a file lies -> its name
    for path in sorted(_files(folder, left), key=lambda p: (p.is_symlink(), p.as_posix())):
        name, place = path.relative_to(folder).as_posix(), os.path.realpath(path)
        if path.suffix.lower() not in known:
            left.append(f"{name}: no image that Pillow reads, by its suffix")
        elif not path.is_file():
            left.append(f"{name}: no file, or a link to none")
        elif place in places:
            left.append(f"{name}: the same file as {places[place]}")
        else:
            places[place] = name
            found.append(name)
    if not found:
        why = f": {listed(left)}" if left else ""
        raise ValueError(f"image_dir: {folder} has no images{why}")
    return sorted(found), sorted(left)


def _files(folder: Path, left: list[str]) -> Iterator[Path]:
    """Files below a folder but for hidden ones; links to folders last, each place once."""
    tops, above, seen = [folder], os.path.realpath(folder), set()

    def unreadable(error: OSError) -> None:
        left.append(f"{error.filename}: {error.strerror}")

    for top in tops:  # which grows
        place = os.path.realpath(top)
        if top != folder and f"{above}/".startswith(f"{place.rstrip('/')}/"):
            left.append(f"{top.relative_to(folder).as_posix()}: a link to a folder above, {place}")
            continue
        for base, folders, files in os.walk(top, onerror=unreadable):
            place = os.path.realpath(base)
            fresh = place not in seen
            seen.add(place)
            folders[:] = sorted(f for f in folders if fresh and not f.startswith("."))
            tops += [Path(base, f) for f in folders if os.path.islink(Path(base, f))]
            yield from (Path(base, f) for f in files if fresh and not f.startswith("."))


def pages(folder: Path, name: str, colour: bool, only: int | None = None) -> Found:
    """The pictures of a file, all or of one page from 0, or why they cannot be used."""
    found: Found = {}
    try:
        with Image.open(folder / name) as file:
            n = getattr(file, "n_frames", 1)
            for page in range(n) if only is None else [only]:
                label = name if n == 1 else f"{name}, page {page + 1}"
                if page and file.format not in _PAGED:
                    found[label] = f"no picture of its own in a file of {file.format}"
                    continue
                if page:
                    file.seek(page)
                reduced = getattr(file, "tag_v2", {}).get(_SUBFILE, 0) & 1
                found[label] = _SMALLER if reduced else _decode(file, name, colour)
    except Exception as error:  # Pillow raises anything for a damaged file
        label = f"{name}, page {len(found) + 1}" if found else name
        found[label] = f"damaged or no image ({' '.join(str(error).split())})"
    return found


def deep_colour(file: Image.Image) -> bool:
    """Whether a file has colours of 16 bits, of which Pillow drops the lower 8, by its layout."""
    layout = getattr(file, "tile", [])
    args = layout[0][3] if layout else ()
    portable = file.format == "PPM" and isinstance(args, tuple) and args[-1] > 255
    return file.mode[0] != "I" and (";16" in str(layout) or portable)


def _decode(file: Image.Image, name: str, colour: bool) -> Picture | str:
    deep = DEEP if deep_colour(file) else ""
    image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        return "floating-point pixels; expected 8 or 16 bits"
    if image.mode[0] == "I":
        return _from_16(image, name, colour)
    return _from_8(image, name, colour, deep)


def _from_8(image: Image.Image, name: str, colour: bool, deep: str) -> Picture:
    mode, target = image.mode, "RGB" if colour else "L"
    if "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    pixels = np.asarray(image.convert(target))
    note = f"{mode}{deep} to {target}" if deep or mode != target else ""
    return Picture(name, pixels if colour else pixels[..., None], note)


def _from_16(image: Image.Image, name: str, colour: bool) -> Picture | str:
    grey = np.asarray(image)[..., None]
    if grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
        return "values outside 0..65535; expected 8 or 16 bits"
    pixels = np.repeat(grey.astype(np.uint16), 3 if colour else 1, axis=2)
    return Picture(name, pixels, "16-bit grey to three channels" if colour else "")


def listed(names: Sequence[str]) -> str:
    """The first five, for a message."""
    return "; ".join([*names[:5], *(["..."] if len(names) > 5 else [])])
