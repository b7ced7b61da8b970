"""Where the directory of a run is: here, at a URL (gs://, s3://, ...), or with process 0 alone.

All of `runs` works in a local directory. At a URL that is a copy, brought there as it changes; and
in every process but the first a scratch copy of the small files, which goes with the process.
"""

import errno
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any

from absl import logging

from dpm_jax import files, hosts

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}", re.IGNORECASE)
_SMALL = (".json", ".csv", "data.npz")  # what the other processes read of a run
_EVERY = 30.0  # seconds between two copies of what grows
_EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}
_kept: set[Path] = set()  # directories that outlive this process, since they are nowhere else
_COMMIT = "checksums.json"  # the last file of a checkpoint: without it there is none


class Mirror:
    """A local copy of a directory at a URL."""

    def __init__(self, url: str, system: Any, root: str):
        self.url, self._system, self._root = url, system, root.rstrip("/")
        self.local = _temporary(PurePosixPath(root).name)
        self._there: dict[str, tuple[int, int]] = {}  # time and size of what is as it is here
        self._lock, self._last = threading.Lock(), 0.0
        self._fetch()

    def _fetch(self) -> None:
        if self._system.isfile(self._root):
            raise NotADirectoryError("expected a directory, got a file")
        found = self._system.find(self._root) if self._system.exists(self._root) else []
        names = {str(PurePosixPath(path).relative_to(self._root)): path for path in found}
        whole = {str(PurePosixPath(n).parent) for n in names if PurePosixPath(n).name == _COMMIT}
        for name, path in names.items():
            parts = PurePosixPath(name).parts
            if ".." in parts:
                raise ValueError(f"{name} leads out of it")
            if parts[0] == "checkpoints" and "/".join(parts[:2]) not in whole:
                continue  # its copy was cut short
            here = self.local / name
            here.parent.mkdir(parents=True, exist_ok=True)
            self._system.get_file(path, str(here))
            self._there[name] = _state(here)

    def bring(self) -> None:
        """Copy what changed here since the last time, and delete there what is gone here."""
        with self._lock:
            self._last = time.monotonic()
            here = dict(_files(self.local))
            for name, path in here.items():
                state = _state(path)
                if self._there.get(name) != state:
                    self._system.makedirs(
                        f"{self._root}/{PurePosixPath(name).parent}", exist_ok=True
                    )
                    self._system.put_file(str(path), f"{self._root}/{name}")
                    self._there[name] = state
            for name in [name for name in self._there if name not in here]:
                self._system.rm_file(f"{self._root}/{name}")
                del self._there[name]
            _kept.discard(self.local.parent)

    def try_to_bring(self) -> None:
        """The same; a failure is a warning, since there will be another time."""
        try:
            self.bring()
        except Exception as error:  # each file system has errors of its own
            _kept.add(self.local.parent)
            logging.warning(
                "%s: cannot write there now (%s): tried again later; all of it is in %s",
                self.url, error, self.local,
            )  # fmt: skip

    def bring_soon(self) -> None:
        """The same in a thread, where the last time is long enough ago: nobody waits for it."""
        if time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            threading.Thread(target=self.try_to_bring, name="dpm_jax bring", daemon=True).start()


_MIRRORS: dict[Path, Mirror] = {}  # by their local copy
_SCRATCH: dict[Path, Path] = {}  # by the directory of process 0


def local(workdir: str | Path, flag: str = "workdir") -> Path:
    """The directory of this machine that stands for a run's; to be called in every process.

    Args:
        workdir: path or URL; of a URL a new copy is made, as it is there now.
        flag: that gave it, for messages.

    Raises:
        ValueError: for a URL that cannot be reached, or whose file system is not installed.
    """
    found, seen = hosts.on_first(_on_first, str(workdir), flag)
    if hosts.first():
        return found
    if found not in _SCRATCH:
        _SCRATCH[found] = _temporary(found.name)
        hosts.call(_SCRATCH[found], found)
    _fill(_SCRATCH[found], seen)
    return _SCRATCH[found]


def bring_soon(workdir: Path, now: bool = False) -> None:
    """Copy what changed to where the run really is, once in half a minute, or `now`; or warn."""
    mirror = _MIRRORS.get(workdir)
    if mirror is not None:
        mirror.try_to_bring() if now else mirror.bring_soon()


def bring(workdir: Path) -> None:
    """Copy what changed to where the run really is, if that is at a URL.

    Args:
        workdir: as `local` gave it.

    Raises:
        OSError: where it cannot be copied; names the local copy, which stays.
    """
    mirror = _MIRRORS.get(workdir)
    if mirror is None:
        return
    try:
        mirror.bring()
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        _kept.add(mirror.local.parent)
        hosts.call(mirror.local, mirror.local)  # messages name it from now on
        raise OSError(errno.EIO, f"{why}; all of it is in {mirror.local}", mirror.url) from error


def is_url(path: str | Path) -> bool:
    """Whether this is no path of this machine."""
    return _URL.match(str(path)) is not None


def _on_first(name: str, flag: str) -> tuple[Path, dict[str, bytes | None]]:
    """The directory in process 0, and what the other processes are to see of it."""
    found = _mirror(name, flag).local if is_url(name) else Path(name).expanduser()
    return found, _seen(found) if hosts.many() else {}


def _mirror(name: str, flag: str) -> Mirror:
    url = _URL.sub(lambda m: f"{m[1]}://", name, count=1)  # pathlib makes one slash of two
    scheme = url.partition(":")[0].lower()
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # each file system has errors of its own
        advice = f"pip install {_EXTRAS.get(scheme, 'fsspec')}"
        raise ValueError(
            f"{flag}: expected a path, or a URL whose file system is installed ({advice}), got"
            f" {name}: {error}"
        ) from error
    if not url.partition("://")[2].strip("/"):
        raise ValueError(f"{flag}: expected a URL with a path, got {name}")
    try:
        mirror = Mirror(url, system, root)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{flag}: cannot read {url}: {why}") from error
    _MIRRORS[mirror.local] = mirror
    hosts.call(mirror.local, url)
    return mirror


def _seen(folder: Path) -> dict[str, bytes | None]:
    """What there is in a directory by name: bytes of small files, b"" of others, None: a folder."""
    found: dict[str, bytes | None] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] == "checkpoints" and len(name.parts) > 2:
            continue
        small = path.name.endswith(_SMALL)
        found[str(name)] = None if path.is_dir() else path.read_bytes() if small else b""
    return found


def _fill(folder: Path, seen: dict[str, bytes | None]) -> None:
    for name, content in seen.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).write_bytes(content)


def _files(folder: Path):
    """The whole files of a directory by name; those that commit a checkpoint come last."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(paths, key=lambda path: path.name == _COMMIT):
        parts = path.relative_to(folder).parts
        unfinished = files.is_unfinished(path) or any(".partial" in part for part in parts)
        if not unfinished and parts != ("lock",):
            yield "/".join(parts), path


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _temporary(name: str) -> Path:
    """A directory that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="dpm_jax-"))
    hosts.at_exit(_remove, folder)
    (folder / (name or "run")).mkdir()
    return folder / (name or "run")


def _remove(folder: Path) -> None:
    if folder not in _kept:
        shutil.rmtree(folder, ignore_errors=True)
