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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from dpm_jax import files

PyTree = Any

_ORBAX_FOLDER = os.path.dirname(ocp.__file__)
_CHECKSUMS = "checksums.json"
# By any of these a folder is known as a checkpoint: ours, and orbax's.
_FILES = (_CHECKSUMS, "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "ocdbt.process_0")
_UNFINISHED = re.compile(r"\d+\.partial(\.orbax-checkpoint-tmp.*)?")  # our name, orbax's suffix
_NAMED_DIFFERENCES = 4  # a wrong width changes every leaf: the first few say what is wrong


class CheckpointError(RuntimeError):
    """A checkpoint directory that cannot be used as asked; the message names it and says why."""


class _DamagedError(Exception):
    """One step that does not read whole; the message is the reason in few words."""


class Checkpoints:
    """The checkpoints of one run: `max_to_keep` newest steps of `directory`, for one writer.

    Only `save` changes anything on disk: the directory itself is made by the first save.

    Raises:
        ValueError: `max_to_keep` is below 1.
    """

    def __init__(self, directory: str | os.PathLike[str], max_to_keep: int = 3) -> None:
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep must be at least 1, got {max_to_keep}")
        self._directory = Path(directory).absolute()  # orbax refuses relative paths
        self._max_to_keep = max_to_keep
        self._damaged: list[int] = []  # what `restore` passed over; the next save moves it aside
        with _quiet_orbax():
            self._orbax = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps present, oldest first; not checked for damage, [] where there is no directory."""
        if not self._directory.exists():
            return []
        names = [path.name for path in self._directory.iterdir() if _is_ours(path)]
        # Orbax's temporary folders and our "damaged-40" are not plain numbers.
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def digest(self, step: int) -> str:
        """SHA-256 of a step's checksums.json, and so of all that the step holds."""
        return files.sha256(self._directory / str(step) / _CHECKSUMS)

    def save(self, step: int, state: PyTree) -> None:
        """Write `state`, a tree of arrays, as `step`; returns when it is on disk.

        Steps only grow: `step` must be newer than every checkpoint present. Those that `restore`
        found damaged are first renamed to "damaged-STEP", and kept; of the others the
        `max_to_keep` newest stay.

        Raises:
            CheckpointError: the directory holds this step or a newer one, or a folder of somebody
                else's under its name.
            ValueError: a negative step, a state without numbers, or a leaf that JAX cannot hold
                as it is.
        """
        step = operator.index(step)
        arrays = _to_host(state)
        if not any(array.size for array in arrays.values()):
            raise ValueError("the state holds no numbers to save")
        self._check_newest(step)
        self._clear_way()
        partial = self._directory / f"{step}.partial"
        held = ocp.args.PyTreeSave({name: array for name, array in arrays.items() if array.size})
        try:
            with _quiet_orbax():
                self._orbax.save(partial, held)
            (partial / _CHECKSUMS).write_text(json.dumps(_digests(partial), indent=1))
        except Exception:  # a full disk, which what was written of it would fill still
            self._clear_way()
            raise
        partial.rename(self._directory / str(step))
        self._drop_old()

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
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                arrays = self._read(step)
            except _DamagedError as error:
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
            state = _fill({part: like} if part else like, arrays, step)
            self._damaged = list(damaged)
            return step, state[part] if part else state
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self._directory} is damaged: {_reasons(damaged)}. Put a "
                "whole one back, or start a new run in another directory."
            )
        return None

    def close(self) -> None:
        """Release what orbax holds; call it once, after the last save or restore."""
        self._orbax.close()

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of one step; _DamagedError where a file is not as it was saved."""
        folder = self._directory / str(step)
        _check_files(folder)
        with _quiet_orbax():
            return self._orbax.restore(folder, ocp.args.PyTreeRestore())

    def _check_newest(self, step: int) -> None:
        """Raise unless `step` may follow the whole checkpoints present."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        newest = max(set(self.steps()) - set(self._damaged), default=-1)
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
        for step in set(self._damaged) & set(self.steps()):
            aside = files.free_name(self._directory / f"damaged-{step}")
            (self._directory / str(step)).rename(aside)
        self._damaged = []
        for path in self._directory.iterdir():
            named = _UNFINISHED.fullmatch(path.name)  # by orbax too: nobody else's
            if _is_ours(path) if named and not named[1] else named and path.is_dir():
                shutil.rmtree(path)

    def _drop_old(self) -> None:
        """Delete all but the newest `max_to_keep` checkpoints."""
        for step in self.steps()[: -self._max_to_keep]:
            folder = self._directory / str(step)
            # Under this name the next save finishes a deletion that was cut short.
            shutil.rmtree(folder.rename(folder.with_name(f"{step}.partial")))


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, in the order of the tree."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    # A tree that is one bare array has the empty path, which orbax cannot store.
    named = {jax.tree_util.keystr(p, simple=True, separator="/") or "state": x for p, x in pairs}
    if len(named) != len(pairs):
        raise ValueError(f"two leaves of the state have one path, among {', '.join(named)}")
    return named


def _to_host(state: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a state as numpy arrays, refusing those that JAX would store otherwise."""
    named = _named_leaves(state)
    arrays = {name: jnp.asarray(leaf) for name, leaf in named.items()}
    for name, leaf in named.items():
        if jax.dtypes.issubdtype(arrays[name].dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} is a typed PRNG key: save jax.random.key_data of it")
        if getattr(leaf, "dtype", arrays[name].dtype) != arrays[name].dtype:
            raise ValueError(
                f"{name} has dtype {leaf.dtype}, which JAX turns to {arrays[name].dtype} here: "
                "convert it before saving"
            )
    return jax.device_get(arrays)  # one call: the copies from the device overlap


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint, whole or not, and no folder or link of somebody else's."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint(_FILES)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path from there."""
    # NFS keeps a deleted file that is still open as .nfs*, for a while: not part of anything.
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".nfs"))
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(found)}


def _check_files(folder: Path) -> None:
    """Raise _DamagedError at the first file of a checkpoint that is missing or changed."""
    try:
        saved = json.loads((folder / _CHECKSUMS).read_bytes())
    except (OSError, ValueError) as error:
        raise _DamagedError(f"{_CHECKSUMS} is missing or does not read") from error
    if not isinstance(saved, dict):
        raise _DamagedError(f"{_CHECKSUMS} does not read")
    for name, digest in saved.items():
        try:
            found = files.sha256(folder / name)
        except (OSError, ValueError) as error:
            raise _DamagedError(f"{name} is missing or does not read") from error
        if found != digest:
            raise _DamagedError(f"{name} is not as it was saved")


def _fill(like: PyTree, arrays: dict[str, np.ndarray], step: int) -> PyTree:
    """The tree `like` with the arrays as leaves; ValueError where the two do not fit."""
    expected = _named_leaves(jax.eval_shape(lambda tree: tree, like))
    # Orbax stores no array without elements: those are made here, the rest must be there.
    empty = {k: np.empty(x.shape, x.dtype) for k, x in expected.items() if x.size == 0}
    arrays = empty | arrays
    differences = list(_differences(expected, arrays))
    if differences:
        more = len(differences) - _NAMED_DIFFERENCES
        tail = f"; and {more} more" if more > 0 else ""
        first = "; ".join(differences[:_NAMED_DIFFERENCES])
        raise ValueError(f"checkpoint step {step}: {first}{tail}")
    # jnp.array copies: the state may be donated, so it must not share memory with numpy.
    leaves = [jnp.array(arrays[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _differences(
    expected: dict[str, jax.ShapeDtypeStruct], arrays: dict[str, np.ndarray]
) -> Iterator[str]:
    """One phrase for each leaf that the run expects otherwise than the checkpoint holds it."""
    for name, leaf in expected.items():
        want = f"shape {leaf.shape} and dtype {leaf.dtype}"
        if name not in arrays:
            yield f"{name} is missing, the run expects it with {want}"
        elif arrays[name].shape != leaf.shape:
            yield f"{name} has shape {arrays[name].shape}, the run expects {leaf.shape}"
        elif arrays[name].dtype != leaf.dtype:
            yield f"{name} has dtype {arrays[name].dtype}, the run expects {leaf.dtype}"
    for name in [name for name in arrays if name not in expected]:
        held = f"shape {arrays[name].shape} and dtype {arrays[name].dtype}"
        yield f"{name} is extra ({held}), the run does not have it"


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
