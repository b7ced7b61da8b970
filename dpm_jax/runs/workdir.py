"""The directory of a run: claimed by one configuration, held by one process, read by `load`."""

import contextlib
import datetime
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from dpm_jax import files
from dpm_jax.runs.config import check
from dpm_jax.runs.experiment import Config, Experiment

# Flags that say where things are, how to run or what to measure; they may differ when a run is
# resumed or measured again. All others define the run.
PLACES = (
    "workdir", "data_dir", "manual_dir", "memory_gib", "log_every", "checkpoint_every",
    "microbatches", "remat", "pdf",
)  # fmt: skip
MEASURES = (
    "num_eval", "passes", "num_samples", "sample_steps", "choose_steps", "figures", "learned",
    "baselines", "baseline_patches", "view", "hole", "window", "adapt", "hole_steps",
    "repeats", "jump", "escort",
)  # fmt: skip
# Flags that name data: another path may lead to the same, which their digest in data.json says.
MOVABLE = ("dataset", "image_dir")
FREE = (*PLACES, *MEASURES, *MOVABLE)
PLACES_OF_DATA = (*MOVABLE, "data_dir", "manual_dir")
# What config.json says of the checkpoint that --init_from led to.
INIT_FROM = ("init_from_step", "init_from_sha256")
# What this program writes into the directory of a run.
_OURS = (
    "config.json", "data.json", "data.npz", "lock", "metrics.csv", "report.json",
    "checkpoints", "tensorboard", "figures", "posterior", "mixture.json",
)  # fmt: skip
_RESULTS = ("report.json", "mixture.json")

_NAMED = re.compile(r"\w+(/\w[\w.-]*)?(:[\d.*]+)?")  # a set of tensorflow-datasets
# Flags that older runs lack, and what they did.
ADDED = {
    "levels": 0, "pointwise": 2, "bumps": "auto", "optimizer": "adam", "weight_decay": 0.0,
    "quartic": 0.0, "film": False, "bfloat16": False, "bottleneck": 512,
    "median_noise": 0.5, "mixing": "middle",
}  # fmt: skip


def claim(workdir: Path, config: Config, write: bool) -> Path:
    """Check that `workdir` is new or holds this very run; with `write`, put config.json there.

    A directory whose training never began may be taken by another configuration. With `write` it is
    `locked` by the caller; without, it must be free.

    Raises:
        ValueError: for a directory of another run, of somebody else, in use, or that cannot be
            written.
    """
    workdir = workdir.expanduser()
    check_writable(workdir)
    if not write and (workdir / "lock").is_file():
        with (workdir / "lock").open(encoding="utf-8", errors="replace") as file:
            _take(file, fcntl.LOCK_SH, workdir)
    path = workdir / "config.json"
    wanted = {n: v for n, v in config.items() if n not in PLACES + MEASURES}
    if path.exists():
        held = {**{n: v for n, v in ADDED.items() if n in wanted}, **read(path)}
        marked = any((workdir / name).exists() for name in ("lock", "data.json"))
        ours = marked and _only_ours(workdir)  # a config.json alone may be anybody's
        if began(workdir) or "experiment" not in held or not ours:
            _check_same(workdir, held, wanted)
            return workdir
    else:
        for name in ("checkpoints", "metrics.csv", *_RESULTS, "figures", "tensorboard"):
            if (workdir / name).exists():
                raise ValueError(
                    f"workdir: {workdir} holds {name} but no config.json: not overwritten"
                )
    if write:
        _make(workdir)
        files.write_json(path, wanted)
    return workdir


def began(workdir: Path) -> bool:
    """Whether a run left anything: a checkpoint, a row of metrics.csv, a report."""
    if any((workdir / name).exists() for name in _RESULTS) or any(
        (workdir / "checkpoints").glob("*")
    ):
        return True
    metrics = workdir / "metrics.csv"
    return metrics.is_file() and metrics.read_bytes().count(b"\n") > 1


def check_writable(workdir: Path, *more: str) -> None:
    """Refuse a directory that cannot be written, or out of which a link would lead what is written.

    Args:
        workdir: directory of a run, which need not exist.
        more: names in it that are written besides the usual ones.

    Raises:
        ValueError: naming the directory, file or link.
    """
    parent = next(p for p in (workdir, *workdir.absolute().parents) if os.path.lexists(p))
    if not parent.is_dir():
        what = "leads nowhere" if parent.is_symlink() else "is a file"
        raise ValueError(f"workdir: expected a directory, got {workdir}: {parent} {what}")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"workdir: cannot write into {parent}")
    inside = workdir.resolve()
    for name in (*_OURS, *more):
        where = (workdir / name).resolve()
        if not where.is_relative_to(inside):
            raise ValueError(
                f"workdir: {workdir / name} is a link to {where}, out of the run: not followed"
            )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the directory, which is made where it is missing, against every other process.

    The lock is the system's (flock on DIR/lock) and ends with the process, however that ends.

    Raises:
        ValueError: where another holds it; says who, where and since when.
    """
    _make(workdir)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(workdir / "lock", flags, 0o666), "r+", encoding="utf-8") as file:
        if not _take(file, fcntl.LOCK_EX, workdir):  # a file system without locks
            yield
            return
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: TextIO, how: int, workdir: Path) -> bool:
    """Take the lock; False where there are none, ValueError where another process holds it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = " ".join(file.read().split()) or "another process"
        raise ValueError(f"workdir: {workdir} is in use by {who}") from error
    except OSError:
        return False
    return True


def read(path: Path) -> Config:
    """config.json or report.json of a run; ValueError where it does not read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"workdir: {path} does not read: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"workdir: {path} holds no JSON object")
    return held


def read_config(workdir: Path) -> Config:
    """config.json of a trained run; ValueError where there is none, or it does not read."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"workdir: expected a trained run, got {workdir}: no config.json")
    return read(path)


def configuration(experiment: Experiment, held: Config, given: Config, path: Path) -> Config:
    """The flags of a run: what it holds, and the defaults of what only measures.

    Args:
        experiment: of the run.
        held: its config.json, which somebody else may have written.
        given: values that replace others; None are not given.
        path: of config.json, for messages.

    Raises:
        ValueError: for missing flags, or values that are none.
    """
    preset = experiment.presets.get(str(held.get("preset")), {})
    held = {**{n: v for n, v in ADDED.items() if n in preset}, **held}
    free = PLACES + MEASURES
    missing = [name for name in preset if name not in held and name not in free]
    if missing or not preset:
        raise ValueError(
            f"workdir: {path} does not say {', '.join(missing) or 'its preset'}: of another version"
        )
    chosen = {name: value for name, value in given.items() if name in preset and value is not None}
    # A run that somebody else made says what it is, not where this machine's files are.
    held = {name: value for name, value in held.items() if name not in PLACES}
    config = {**preset, **held, "workdir": str(path.parent)}
    try:
        check(config, experiment)
    except ValueError as error:
        raise ValueError(f"workdir: {path}: {error}") from error
    _check_dataset(held, path)
    config |= chosen
    if "sample_steps" in config:  # not held, and the default may be more than this run's T
        config["sample_steps"] = min(config["sample_steps"], config["T"])
    return config


def _make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"workdir: cannot make {workdir} ({error.strerror})") from error


def _check_dataset(held: Config, path: Path) -> None:
    """Refuse names that lead to somebody's code."""
    dataset = held.get("dataset", "")
    if dataset and not dataset.endswith((".npy", ".mat")) and not _NAMED.fullmatch(dataset):
        raise ValueError(f"workdir: {path}: dataset: expected a name or file, got {dataset!r}")


def _only_ours(workdir: Path) -> bool:
    return all(path.name in _OURS or files.is_unfinished(path) for path in workdir.iterdir())


def _check_same(workdir: Path, held: Config, wanted: Config) -> None:
    free = PLACES + MEASURES + (MOVABLE if (workdir / "data.json").exists() else ())
    if INIT_FROM[0] not in wanted:  # not read yet
        free += INIT_FROM
    held, wanted = ({n: v for n, v in of.items() if n not in free} for of in (held, wanted))
    names = [n for n in {**held, **wanted} if held.get(n) != wanted.get(n)]
    if names:
        what = ", ".join(_difference(name, held.get(name), wanted.get(name)) for name in names)
        raise ValueError(f"workdir: {workdir} holds another run ({what}); choose another directory")


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) or isinstance(here, dict):  # a model: too long for a line
        return f"another {name}"
    return f"{name} = {there} there, {here} here"
