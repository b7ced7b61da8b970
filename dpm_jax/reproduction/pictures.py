"""Pictures of runs made small enough for one file."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from dpm_jax import later

with later.imports(globals()):
    from PIL import Image

WIDEST = 1100  # pixels: twice what a phone shows, and more than a column of the page
_WIDTHS = (WIDEST, 800, 600, 440, 320)
MOST = 7_000_000  # bytes of all, which base64 makes a third more


def small(paths: Sequence[Path], most: int = MOST) -> dict[Path, tuple[str, bytes]]:
    """path -> media type and content; narrower, all of them, until they fit into `most` bytes.

    Args:
        paths: of images.
        most: bytes of all together.

    Raises:
        ValueError: where even the narrowest do not fit.
    """
    for width in _WIDTHS:
        found = {path: encoded(path, width) for path in paths}
        total = sum(len(content) for _, content in found.values())
        if total <= most:
            return found
        logging.info("pictures %d pixels wide take %d bytes, %d may be", width, total, most)
    raise ValueError(f"pictures: expected {len(paths)} to fit into {most} bytes, got {total}")


def encoded(path: Path, width: int) -> tuple[str, bytes]:
    """One picture, at most `width` wide: a palette where few colours do, else JPEG."""
    with Image.open(path) as opened:
        flat = Image.new("RGB", opened.size, "white")
        picture = opened.convert("RGBA")
        flat.paste(picture, mask=picture)
    if flat.width > width:
        flat = flat.resize(
            (width, max(1, flat.height * width // flat.width)), Image.Resampling.LANCZOS
        )
    drawn = _bytes(flat.quantize(256, dither=Image.Dither.NONE), "PNG", optimize=True)
    photograph = _bytes(flat, "JPEG", quality=88, optimize=True)
    # Lines and letters of a plot are sharp in a PNG, which is also the smaller one for them.
    return ("image/jpeg", photograph) if 2 * len(photograph) < len(drawn) else ("image/png", drawn)


def _bytes(picture, form: str, **how) -> bytes:
    held = io.BytesIO()
    picture.save(held, form, **how)
    return held.getvalue()
