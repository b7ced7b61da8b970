"""The directory of a run: claimed by one configuration, never by two; read again by evaluate.py."""

import json
import os
from pathlib import Path
from typing import Any

from dpm_jax import reporting

# Flags that say where things are, how to run or what to measure; they may differ when a run is
# resumed or measured again. All others define the run.
PLACES = ("workdir", "data_dir", "manual_dir", "memory_gib", "log_every", "checkpoint_every")
MEASURES = (
    "num_eval", "passes", "num_samples", "sample_steps",
    "baselines", "baseline_patches", "view", "hole", "repeats",
)  # fmt: skip


def claim(workdir: Path, config: dict[str, Any], write: bool) -> Path:
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
        held = {n: v for n, v in read_config(path).items() if n not in PLACES + MEASURES}
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
        reporting.write_json(path, wanted)
    return workdir


def read_config(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"workdir: {path} does not read: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"workdir: {path} is not the configuration of a run")
    return held


def _check_same(workdir: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    names = [n for n in {**held, **wanted} if held.get(n) != wanted.get(n)]
    if names:
        what = ", ".join(f"{n} = {held.get(n)} there, {wanted.get(n)} here" for n in names)
        raise ValueError(f"workdir: {workdir} holds another run ({what}); choose another directory")
