"""Files that are written whole or not at all: the one atomic write of this library."""

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\..+")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to, renamed to `path` where the body succeeds.

    Where the body fails, or is interrupted, the temporary file is removed and an old file at `path`
    stays as it was. The suffix is that of `path`, since writers read the format from it.

    Args:
        path: of the file to write; its folder exists.
    """
    path = Path(path)
    # A name of its own for each process that writes the same file.
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it is gone where all went well
            temporary.unlink()


def is_unfinished(path: Path) -> bool:
    """Whether a file is what `replacing` leaves where its process was killed; nobody's loss."""
    return _UNFINISHED.fullmatch(path.name) is not None


def free_name(path: Path) -> Path:
    """`path`, or where it is taken the first of path-2, path-3, ... that is not."""
    found, count = path, 1
    while found.exists() or found.is_symlink():
        count += 1
        found = path.with_name(f"{path.name}-{count}")
    return found


def sha256(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike, content: Mapping) -> None:
    """Write JSON whole or not at all.

    Raises:
        ValueError, TypeError: for content that JSON does not have, NaN and infinity included.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
