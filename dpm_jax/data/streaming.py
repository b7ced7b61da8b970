"""Batches from disk, read ahead by a thread: for a set of examples larger than memory.

Which examples make up the batch of a step depends on (seed, step) alone, so a run that is resumed
at step k sees what it would have seen.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Read = Callable[[Any, np.random.Generator], np.ndarray]


class Stream(NamedTuple):
    """A set of examples on disk, in the place of an array of them in `training.fit`."""

    source: Any  # as in `stream`
    read: Read | None = None
    threads: int = 1  # that call `read` at once

    def batches(
        self,
        batch: int,
        seed: int,
        steps: Iterable[int],
        part: slice = slice(None),
        ahead: int = 4,
    ) -> Generator[np.ndarray]:
        """The batches of these steps, as `stream` gives them.

        Args:
            batch, seed, steps, ahead: as there.
            part: what one of several processes reads of each batch: the rows it would see there.
        """
        _check_at_least(1, batch=batch, ahead=ahead)
        _check_at_least(0, seed=seed)
        fetch, n = self._open()

        def make(step: int) -> np.ndarray:
            # Philox is counter-based: (seed, step) is its key, so no step depends on another.
            key = np.array([seed, step], np.uint64)
            rows = np.random.Generator(np.random.Philox(key=key)).integers(0, n, batch)
            return fetch(rows[part], _generators(key, range(batch)[part]))

        return _ahead(make, steps, ahead)

    def spread(self, num: int) -> np.ndarray:
        """`num` examples, evenly spread over the set and always the same: (num, ...)."""
        _check_at_least(1, num=num)
        fetch, n = self._open()
        return fetch(np.arange(num) * n // num, _generators(np.zeros(2, np.uint64), range(num)))

    def _open(self) -> tuple[Callable, int]:
        """What makes examples of row numbers and generators, and how many rows there are."""
        if self.read is None:
            fetch, n = _rows(self.source)
        else:
            fetch, n = _items(self.source, self.read, self.threads)
        if n == 0:
            raise ValueError("source: expected at least one example, got none")
        return fetch, n


def stream(
    source: Any,
    batch: int,
    seed: int,
    steps: Iterable[int],
    read: Read | None = None,
    ahead: int = 4,
) -> Generator[np.ndarray]:
    """The batches of `steps`, of rows drawn uniformly with replacement, in the order of the steps.

    A thread reads up to `ahead` batches before they are asked for. It ends with the last step, with
    the first error, and when the iterator is closed (``close()``) or no longer referred to.

    Args:
        source: an array (N, ...), memory-mapped or not; the path of a .npy file or a list of such
            paths, whose rows are taken one file after the other; with `read`, a list of N items.
        batch: rows of a batch.
        seed: not negative.
        steps: the numbers of the steps, not negative: range(k, num_steps) resumes at k.
        read: turns an item and a NumPy generator into an example: (path, rng) -> array, all of one
            shape and type (`folders.read_crop`, say). Its draws depend on (seed, step, row) alone.
        ahead: batches that are kept ready, at least 1.

    Returns:
        An iterator of arrays (batch, ...), in the type of the source. What goes wrong while reading
        is raised where the batch is asked for.

    Raises:
        ValueError: for an empty source, files that differ in shape or type, and a number that is
            out of its range.
    """
    return Stream(source, read).batches(batch, seed, steps, ahead=ahead)


def _generators(key: np.ndarray, rows: range) -> Iterator[np.random.Generator]:
    """Each row of a batch has a generator of its own: another stretch of the counter."""
    own = (np.random.Philox(key=key, counter=[0, 0, 0, i + 1]) for i in rows)
    return map(np.random.Generator, own)


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def _rows(source: Any) -> tuple[Callable, int]:
    """(rows, rng) -> the rows of one array or of several files, and how many there are."""
    if isinstance(source, np.ndarray):
        parts = [source]
    else:
        paths = [source] if isinstance(source, (str, Path)) else list(source)
        parts = [_open(path) for path in paths]
        for path, part in zip(paths, parts):
            kind, first = (f"{x.dtype} {x.shape[1:]}" for x in (part, parts[0]))
            if kind != first:
                raise ValueError(f"{path}: expected rows {first} as in {paths[0]}, got {kind}")
    ends = np.cumsum([len(part) for part in parts])

    def fetch(rows: np.ndarray, _) -> np.ndarray:
        found = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
        which = np.searchsorted(ends, rows, side="right")
        for k in np.unique(which):
            chosen = which == k
            found[chosen] = parts[k][rows[chosen] - (ends[k] - len(parts[k]))]
        return found

    return fetch, int(ends[-1]) if parts else 0


def _open(path: str | Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except Exception as error:  # a damaged header makes np.load raise anything, tokenize errors too
        raise ValueError(f"{path}: missing, damaged or no .npy file ({error})") from error


def _items(items: Sequence, read: Read, threads: int) -> tuple[Callable, int]:
    """(rows, rng) -> the examples that `read` makes of the items of these numbers."""
    items = list(items)

    def fetch(rows: np.ndarray, each: Iterable[np.random.Generator]) -> np.ndarray:
        chosen = [items[row] for row in rows]
        if threads == 1:
            examples = list(map(read, chosen, each))
        else:
            with ThreadPoolExecutor(threads, "dpm_jax read") as pool:
                examples = list(pool.map(read, chosen, each))
        for row, example in zip(rows, examples):
            kind, first = (f"{x.dtype} {x.shape}" for x in (example, examples[0]))
            if kind != first:
                raise ValueError(f"{items[row]}: expected {first} as from others, got {kind}")
        return np.stack(examples)

    return fetch, len(items)


def _ahead(
    make: Callable[[int], np.ndarray], steps: Iterable[int], ahead: int
) -> Generator[np.ndarray]:
    """make(step) for each step, made by a thread, `ahead` of them in advance."""
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    closed = threading.Event()

    def work() -> None:
        try:
            for step in steps:
                ready.put(make(step))
                if closed.is_set():
                    return
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, name="dpm_jax stream", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        closed.set()
        while thread.is_alive():  # it may be waiting for room in the queue
            try:
                ready.get(timeout=0.01)
            except queue.Empty:
                thread.join(timeout=0.01)
