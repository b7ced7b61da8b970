"""Pictures of runs made small enough for one file."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from dpm_jax import later

with later.imports(globals()):
    from PIL import Image, ImageChops, ImageStat

WIDEST = 1100  # pixels: twice what a phone shows, and more than a column of the page
NARROWEST = 200
_MANY = 30_000  # colours: those of a plot with smooth lines are fewer
_UNSEEN = 0.5  # levels of 256 by which a palette may change a picture in the mean
MOST = 7_000_000  # bytes of all, which base64 makes a third more


def small(paths: Sequence[Path], most: int = MOST) -> dict[Path, tuple[str, bytes]]:
    """path -> media type and content; narrower, all of them, until they fit into `most` bytes.

    A file that is no image, or half of one, is left out.

    Args:
        paths: of images.
        most: bytes of all together.

    Raises:
        ValueError: where even the narrowest do not fit.
    """
    width, total = WIDEST, 0
    while width >= NARROWEST:
        found = {path: made for path in paths if (made := _encoded(path, width)) is not None}
        total = sum(len(content) for _, content in found.values())
        if total <= most:
            return found
        width = int(0.95 * width * (most / total) ** 0.5)  # bytes go as the area
    raise ValueError(f"pictures: expected {len(paths)} to fit into {most} bytes, got {total}")


def encoded(path: Path, width: int) -> tuple[str, bytes]:
    """One picture, at most `width` wide: PNG, of a palette where 256 colours do, or JPEG."""
    with Image.open(path) as opened:
        flat = Image.new("RGB", opened.size, "white")
        picture = opened.convert("RGBA")
        flat.paste(picture, mask=picture)
    if flat.width > width:
        flat = flat.resize(
            (width, max(1, flat.height * width // flat.width)), Image.Resampling.LANCZOS
        )
    drawn = _bytes(_of_few_colours(flat), "PNG", optimize=True)
    photograph = _bytes(flat, "JPEG", quality=88, optimize=True)
    # Lines and letters of a plot are sharp in a PNG, which is also the smaller one for them.
    return ("image/jpeg", photograph) if 2 * len(photograph) < len(drawn) else ("image/png", drawn)


def _of_few_colours(flat):
    """The picture with a palette of 256 where that is hardly seen, else as it is."""
    if flat.getcolors(_MANY) is None:
        return flat
    few = flat.quantize(256, dither=Image.Dither.NONE)
    change = ImageStat.Stat(ImageChops.difference(flat, few.convert("RGB"))).mean
    return few if max(change) < _UNSEEN else flat


def _encoded(path: Path, width: int) -> tuple[str, bytes] | None:
    try:
        return encoded(path, width)
    except OSError as error:  # what Pillow raises for damaged files too
        logging.warning("%s is left out of the page: %s", path, error)
        return None


def _bytes(picture, form: str, **how) -> bytes:
    held = io.BytesIO()
    picture.save(held, form, **how)
    return held.getvalue()
