"""The directory of a run: claimed by one configuration, never by two; read again by `load`."""

import json
import os
from pathlib import Path
from typing import Any

from dpm_jax import files
from dpm_jax.runs.experiment import Config

# Flags that say where things are, how to run or what to measure; they may differ when a run is
# resumed or measured again. All others define the run.
PLACES = ("workdir", "data_dir", "manual_dir", "memory_gib", "log_every", "checkpoint_every")
MEASURES = (
    "num_eval", "passes", "num_samples", "sample_steps",
    "baselines", "baseline_patches", "view", "hole", "repeats",
)  # fmt: skip
ADDED = {"levels": 0}  # flags that older runs lack, and what they did


def claim(workdir: Path, config: Config, write: bool) -> Path:
    """Check that `workdir` is new or holds this very run; with `write`, put config.json there."""
    workdir = workdir.expanduser()
    parent = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"workdir: expected a directory, got {workdir}: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"workdir: cannot write into {parent}")
    path = workdir / "config.json"
    wanted = {n: v for n, v in config.items() if n not in PLACES + MEASURES}
    if path.exists():
        there = {**{n: v for n, v in ADDED.items() if n in wanted}, **read(path)}
        held = {n: v for n, v in there.items() if n not in PLACES + MEASURES}
        _check_same(workdir, held, wanted)
        return workdir
    for name in ("checkpoints", "metrics.csv", "report.json", "figures", "tensorboard"):
        if (workdir / name).exists():
            raise ValueError(f"workdir: {workdir} holds {name} but no config.json: not overwritten")
    if write:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"workdir: cannot make {workdir} ({error.strerror})") from error
        files.write_json(path, wanted)
    return workdir


def read(path: Path) -> Config:
    """config.json or report.json of a run; ValueError where it does not read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"workdir: {path} does not read: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"workdir: {path} holds no JSON object")
    return held


def _check_same(workdir: Path, held: Config, wanted: Config) -> None:
    names = [n for n in {**held, **wanted} if held.get(n) != wanted.get(n)]
    if names:
        what = ", ".join(_difference(name, held.get(name), wanted.get(name)) for name in names)
        raise ValueError(f"workdir: {workdir} holds another run ({what}); choose another directory")


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) or isinstance(here, dict):  # a model: too long for a line
        return f"another {name}"
    return f"{name} = {there} there, {here} here"
