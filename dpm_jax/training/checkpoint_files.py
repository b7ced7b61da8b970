"""What a checkpoint is on disk: named arrays, checksums of files, and what differs from a state."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import files

PyTree = Any
CHECKSUMS = "checksums.json"
# By any of these a folder is known as a checkpoint: ours, and orbax's.
_FILES = (CHECKSUMS, "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "ocdbt.process_0")
_NAMED_DIFFERENCES = 4  # a wrong width changes every leaf: the first few say what is wrong


class DamagedError(Exception):
    """One step that does not read whole; the message is the reason in few words."""


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, in the order of the tree."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    # A tree that is one bare array has the empty path, which orbax cannot store.
    named = {jax.tree_util.keystr(p, simple=True, separator="/") or "state": x for p, x in pairs}
    if len(named) != len(pairs):
        raise ValueError(f"two leaves of the state have one path, among {', '.join(named)}")
    return named


def to_host(state: PyTree) -> dict[str, np.ndarray]:
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
    found = jax.device_get(arrays)  # one call: the copies from the device overlap
    # A copy of its own: the next step takes over the memory, while this is written.
    return {name: np.array(value) for name, value in found.items()}


def is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint, whole or not, and no folder or link of somebody else's."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint(_FILES)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path from there."""
    # NFS keeps a deleted file that is still open as .nfs*, for a while: not part of anything.
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".nfs"))
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(found)}


def check_files(folder: Path) -> None:
    """Raise DamagedError at the first file of a checkpoint that is missing or changed."""
    try:
        saved = json.loads((folder / CHECKSUMS).read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{CHECKSUMS} is missing or does not read") from error
    if not isinstance(saved, dict):
        raise DamagedError(f"{CHECKSUMS} does not read")
    for name, digest in saved.items():
        try:
            found = files.sha256(folder / name)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{name} is missing or does not read") from error
        if found != digest:
            raise DamagedError(f"{name} is not as it was saved")


def fill(like: PyTree, arrays: dict[str, np.ndarray], step: int) -> PyTree:
    """The tree `like` with the arrays as leaves; ValueError where the two do not fit."""
    expected = _named_leaves(jax.eval_shape(lambda tree: tree, like))
    # Orbax stores no array without elements: those are made here, the rest must be there.
    empty = {k: np.empty(x.shape, x.dtype) for k, x in expected.items() if x.size == 0}
    arrays = empty | arrays
    there, wanted = ({name.split("/")[0] for name in of} for of in (arrays, expected))
    if there < wanted:
        raise ValueError(
            f"checkpoint step {step} holds {', '.join(sorted(there))} alone: it can be evaluated,"
            " and a new run can start from it (--init_from), but it cannot be trained further"
        )
    differences = list(_differences(expected, arrays))
    if differences:
        more = len(differences) - _NAMED_DIFFERENCES
        tail = f"; and {more} more" if more > 0 else ""
        if all(phrase.startswith("opt_state/") for phrase in differences):
            tail += "; of another optimizer: a new run can start from it (--init_from)"
        first = "; ".join(differences[:_NAMED_DIFFERENCES])
        raise ValueError(f"checkpoint step {step}: {first}{tail}")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])


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
