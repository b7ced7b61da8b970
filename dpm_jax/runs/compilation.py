"""Compiled programs kept from start to start (JAX's persistent compilation cache).

The key of an entry holds the program, the versions of JAX and XLA, and the devices with the
features of the processor, so that machines may share a directory. JAX writes an entry in place:
one that a kill cut short does not read, and JAX would neither use nor replace it.
"""

import contextlib
import functools
import glob
import os
import re
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

from absl import logging

from dpm_jax import later
from dpm_jax.runs import places
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    import jax

FLAGS = {
    "compilation_cache": Flag(
        Path,
        "Directory in which compiled programs are kept for the next start, of other runs and hosts"
        " too (default: $JAX_COMPILATION_CACHE_DIR, or dpm_jax in the user's cache folder); none:"
        " they are not kept.",
    ),
}
MOST_BYTES = 2**30  # of all entries; the least recently used go first
_WRITTEN = 10.0  # seconds in which an entry may still be being written
_ERROR = r"Error (reading|writing) persistent compilation cache entry for '(\w+)'"


def use(given: str | None) -> None:
    """Let JAX keep what it compiles from here on.

    Args:
        given: directory or URL; "" or "none": keep nothing; None: by the environment.
    """
    path = given if given is not None else os.environ.get("JAX_COMPILATION_CACHE_DIR") or _default()
    allowed = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    if path in ("", "none") or not allowed:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    here = None if places.is_url(path) else Path(path).expanduser().absolute()
    try:
        _make(here or path)
    except Exception as error:  # each file system has errors of its own
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        logging.warning("--compilation_cache: cannot write %s (%s): goes on without", path, why)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if here is not None:
        path = str(here)
        _bound(here)
    _mend(here)
    jax.config.update("jax_compilation_cache_dir", path)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX's default, a second, keeps 2 of the 172 programs of a swiss roll.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _make(place: Path | str) -> None:
    """The directory, where it is not there; raises where nothing can be written into it."""
    if isinstance(place, str):
        from etils import epath  # here: as JAX reads a URL

        epath.Path(place).mkdir(parents=True, exist_ok=True)
        return
    place.mkdir(0o700, parents=True, exist_ok=True)  # it holds what will be executed
    if not os.access(place, os.W_OK):
        raise PermissionError(13, "Permission denied")


def _default() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return str(Path(home) / "dpm_jax" / "compiled") if os.path.isabs(home) else "none"


@functools.cache
def _bound(folder: Path) -> None:
    """Where all entries are more than MOST_BYTES, remove those that were read last long ago.

    Once a process: with thousands of entries it takes 20 ms.
    """
    found = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process removes, too
            state = path.stat()
            found.append((max(state.st_atime, state.st_mtime), state.st_size, path))
    kept = 0
    for _, size, path in sorted(found, reverse=True):
        kept += size
        if kept > MOST_BYTES:
            _remove([path])


def _mend(folder: Path | None) -> None:
    """Remove entries that do not read, so that they are written anew, in the place of warnings.

    At a URL (None) they stay: the program is compiled, and nothing said.
    """
    usual, told = warnings.showwarning, list[object]()

    def show(message, *where, **more) -> None:
        failed = re.match(_ERROR, str(message))
        if failed is None:
            usual(message, *where, **more)
            return
        _remove(
            path
            for path in (folder.glob(f"{glob.escape(failed[2])}-*-cache") if folder else ())
            if path.stat().st_mtime < time.time() - _WRITTEN
        )
        if failed[1] == "writing" and not told:
            told.append(message)
            logging.warning(
                "--compilation_cache: %s: goes on without what it cannot write", message
            )

    warnings.filterwarnings("always", _ERROR)
    warnings.showwarning = show


def _remove(paths: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for path in paths:
            path.unlink(missing_ok=True)
