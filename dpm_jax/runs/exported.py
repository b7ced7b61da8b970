"""A run without what only training needs: a quarter as large, to be kept or given away."""

import contextlib
import shutil
from pathlib import Path

from dpm_jax import files, hosts
from dpm_jax.runs import places
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.run import Run, load, part
from dpm_jax.training.checkpoint import Checkpoints

_KEPT = ("data.json", "data.npz", "metrics.csv")


def export(run: str | Path | Run, workdir: str | Path) -> Run:
    """Write a run into a new directory: what is evaluated and sampled (EMA) and what it says of it.

    `load`, evaluate.py, posterior.py and --init_from take that directory as the run itself; the
    training cannot be resumed in it. Figures and events of TensorBoard stay behind.

    Args:
        run: a run, or its directory.
        workdir: a new directory.

    Raises:
        ValueError: for a directory that holds no run, or one to write into that holds anything.
        CheckpointError: where every checkpoint of the run is damaged.
    """
    run = run if isinstance(run, Run) else load(run, data=False)
    config, report = workdirs.read_config(run.workdir), run.report
    place = places.local(workdir)
    hosts.together(_check_new, place)
    with workdirs.locked(place):
        _check_new(place, "lock")  # another process may have been faster
        try:
            _write(run, place, config, report)
        except BaseException:  # of a new directory all is ours, and half of a run is none
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise
    (place / "lock").unlink(missing_ok=True)
    places.bring(place)
    return load(workdir, run.model if run.experiment is None else None, data=False)


def _write(run: Run, place: Path, config: Config, report: Config | None) -> None:
    for name in _KEPT:
        if (run.workdir / name).is_file():
            shutil.copyfile(run.workdir / name, place / name)
    if report is not None:
        files.write_json(place / "report.json", {**report, "figures": {}})
    with contextlib.closing(Checkpoints(place / "checkpoints")) as checkpoints:
        checkpoints.save(run.step, {part(run.config): run.params})
    # Last: a directory without it is no run, and says so.
    files.write_json(place / "config.json", config)


def _check_new(place: Path, *known: str) -> None:
    workdirs.check_writable(place)
    names = {path.name for path in place.iterdir()} if place.exists() else set()
    held = sorted(names - set(known))
    if held:
        raise ValueError(f"workdir: expected a new directory, got {place}, which holds {held[0]}")
