"""Strict checkpoints: atomic saves through orbax, a digest of every file, a way past damage.

DIRECTORY/STEP/ is one orbax PyTree checkpoint, a flat dict {path: array} with paths such as
"params/network/Dense_0/kernel", and beside orbax's files `checksums.json` with the SHA-256 of each.
All of it is written under the name STEP.partial and renamed at the end, so a save that was cut
short is never seen as a checkpoint. Files are checked before orbax reads them: whatever orbax says
after that is not damage, and is not hidden.
"""

import contextlib
import json
import logging
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.options import MultiprocessingOptions

from dpm_jax import files, hosts
from dpm_jax.training.checkpoint_files import (
    CHECKSUMS,
    DamagedError,
    check_files,
    digests,
    fill,
    is_ours,
    to_host,
)

PyTree = Any

_ORBAX_FOLDER = os.path.dirname(ocp.__file__)
_MARK = "commit_success.txt"  # read on object stores alone, and it names this machine's path
_UNFINISHED = re.compile(r"\d+\.partial(\.orbax-checkpoint-tmp.*)?")  # our name, orbax's suffix


class CheckpointError(RuntimeError):
    """A checkpoint directory that cannot be used as asked; the message names it and says why."""


class Checkpoints:
    """The checkpoints of one run: `max_to_keep` newest steps of `directory`, for one writer.

    Only `save` changes anything on disk: the directory itself is made by the first save. Of several
    processes the first alone reads and writes, and all call the same methods.

    Args:
        directory: of the checkpoints; the others than process 0 need not see it.
        max_to_keep: the older ones are deleted.
        after: called when a checkpoint is on disk, in the thread that wrote it.

    Raises:
        ValueError: `max_to_keep` is below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_to_keep: int = 3,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep must be at least 1, got {max_to_keep}")
        self._directory = Path(directory).absolute()  # orbax refuses relative paths
        self._max_to_keep = max_to_keep
        self._damaged: list[int] = []  # what `restore` passed over; the next save moves it aside
        self._after = after
        self._writer = ThreadPoolExecutor(1, "dpm_jax checkpoint")
        self._writing: Future[None] | None = None
        # Without this orbax waits for all processes, of which one writes.
        alone = MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="dpm_jax")
        with _quiet_orbax():
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
            self._orbax = ocp.Checkpointer(handler, multiprocessing_options=alone)

    def steps(self) -> list[int]:
        """Steps present, oldest first; not checked for damage, [] where there is no directory."""
        return hosts.on_first(self._steps)

    def _steps(self) -> list[int]:
        if not self._directory.exists():
            return []
        names = [path.name for path in self._directory.iterdir() if is_ours(path)]
        # Orbax's temporary folders and our "damaged-40" are not plain numbers.
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def digest(self, step: int) -> str:
        """SHA-256 of a step's checksums.json, and so of all that the step holds."""
        return hosts.on_first(files.sha256, self._directory / str(step) / CHECKSUMS)

    def save(self, step: int, state: PyTree, wait: bool = True) -> None:
        """Write `state`, a tree of arrays, as `step`.

        Returns when it is on disk; with `wait` False when it is copied from the devices, and the
        next call of any method here raises what went wrong.

        Steps only grow: `step` must be newer than every checkpoint present. Those that `restore`
        found damaged are first renamed to "damaged-STEP", and kept; of the others the
        `max_to_keep` newest stay.

        Raises:
            CheckpointError: the directory holds this step or a newer one, or a folder of somebody
                else's under its name.
            ValueError: a negative step, a state without numbers, or a leaf that JAX cannot hold
                as it is.
        """
        self.wait()
        hosts.on_first(self._begin, operator.index(step), state)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk; raises what went wrong with it."""
        writing, self._writing = self._writing, None
        hosts.on_first(lambda: writing and writing.result())

    def _begin(self, step: int, state: PyTree) -> None:
        arrays = to_host(state)
        if not any(array.size for array in arrays.values()):
            raise ValueError("the state holds no numbers to save")
        self._check_newest(step)
        self._clear_way()
        self._writing = self._writer.submit(self._write, step, arrays)

    def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        partial = self._directory / f"{step}.partial"
        held = ocp.args.PyTreeSave({name: array for name, array in arrays.items() if array.size})
        try:
            with _quiet_orbax():
                self._orbax.save(partial, held)
            (partial / _MARK).unlink(missing_ok=True)
            (partial / CHECKSUMS).write_text(json.dumps(digests(partial), indent=1))
        except Exception:  # a full disk, which what was written of it would fill still
            self._clear_way()
            raise
        partial.rename(self._directory / str(step))
        self._drop_old()
        self._after()

    def restore(self, like: PyTree, part: str = "") -> tuple[int, PyTree] | None:
        """The newest checkpoint that reads whole, as (step, state); None where there is none.

        `like` gives tree, shapes and dtypes, as arrays or jax.ShapeDtypeStruct. The state comes
        back bit for bit, as JAX arrays on the default device. Nothing on disk is changed; a
        warning names each damaged step passed over. With `part`, the first name of paths, only
        what lies below it is read: of {part: like}, like.

        Raises:
            ValueError: tree, shape or dtype differ from `like`; names the paths.
            CheckpointError: there are checkpoints and every one is damaged.
        """
        self.wait()
        found = hosts.on_first(self._restore, like, part)
        if found is None:
            return None
        step, state = found
        # jnp.array copies: the state may be donated, so it must not share memory with numpy.
        return step, jax.tree.map(jnp.array, state)

    def _restore(self, like: PyTree, part: str) -> tuple[int, PyTree] | None:
        damaged: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                arrays = self._read(step)
            except DamagedError as error:
                damaged[step] = str(error)
                continue
            if damaged:
                absl_logging.warning(
                    "damaged checkpoint in %s: %s. Falling back to step %d; the next save here"
                    " renames what is damaged to damaged-STEP and keeps it.",
                    *(self._directory, _reasons(damaged), step),
                )
            if part:
                arrays = {name: x for name, x in arrays.items() if name.startswith(f"{part}/")}
            state = fill({part: like} if part else like, arrays, step)
            self._damaged = list(damaged)
            return step, state[part] if part else state
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self._directory} is damaged: {_reasons(damaged)}. Put a "
                "whole one back, or start a new run in another directory."
            )
        return None

    def settle(self) -> None:
        """Return when nothing is being written; where that failed and nobody heard, warn."""
        writing, self._writing = self._writing, None
        if writing is not None and writing.exception() is not None:
            absl_logging.warning("%s: %s", self._directory, writing.exception())

    def close(self) -> None:
        """Release what orbax holds; call it once, after the last save or restore."""
        self.settle()
        self._writer.shutdown()
        self._orbax.close()

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of one step; DamagedError where a file is not as it was saved."""
        folder = self._directory / str(step)
        check_files(folder)
        with _quiet_orbax():
            return self._orbax.restore(folder, ocp.args.PyTreeRestore())

    def _check_newest(self, step: int) -> None:
        """Raise unless `step` may follow the whole checkpoints present."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        newest = max(set(self._steps()) - set(self._damaged), default=-1)
        if step <= newest:
            raise CheckpointError(
                f"{self._directory} holds checkpoint step {newest}, so step {step} cannot be "
                "saved there: restore and go on from it, or use another directory"
            )
        place = self._directory / str(step)
        if step not in self._damaged and (place.exists() or place.is_symlink()):
            raise CheckpointError(f"{place} is no checkpoint and in the way of one: move it away")

    def _clear_way(self) -> None:
        """Make the directory, rename what was found damaged, drop what interrupted saves left."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for step in set(self._damaged) & set(self._steps()):
            aside = files.free_name(self._directory / f"damaged-{step}")
            (self._directory / str(step)).rename(aside)
        self._damaged = []
        for path in self._directory.iterdir():
            named = _UNFINISHED.fullmatch(path.name)  # by orbax too: nobody else's
            if is_ours(path) if named and not named[1] else named and path.is_dir():
                shutil.rmtree(path)

    def _drop_old(self) -> None:
        """Delete all but the newest `max_to_keep` checkpoints."""
        for step in self._steps()[: -self._max_to_keep]:
            folder = self._directory / str(step)
            # Under this name the next save finishes a deletion that was cut short.
            shutil.rmtree(folder.rename(folder.with_name(f"{step}.partial")))


def _reasons(damaged: dict[int, str]) -> str:
    """Damaged steps with their reasons, as one phrase."""
    return "; ".join(f"step {step} ({reason})" for step, reason in damaged.items())


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Hold back orbax's log lines below ERROR: each save would print dozens through absl."""

    def keep(record: logging.LogRecord) -> bool:
        of_orbax = record.pathname.startswith(_ORBAX_FOLDER)
        return record.levelno >= logging.ERROR or not of_orbax

    logger = absl_logging.get_absl_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
