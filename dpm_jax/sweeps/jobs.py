"""One run of a sweep: what it is, the command that makes it, and how far it came."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax.runs.experiment import find
from dpm_jax.runs.workdir import MOVABLE, PLACES

_MODULE = "dpm_jax.experiments"  # where binaries are, in a clone and installed


class Job(NamedTuple):
    """A run to be made."""

    name: str  # its directory below the sweep's
    experiment: str  # of dpm_jax.experiments
    preset: str  # "" where the experiment has none
    flags: Mapping[str, Any]  # other values than the preset's
    seconds: float = 60.0  # that it takes one core, about


class Outcome(NamedTuple):
    """A job and what there is of it."""

    job: Job
    place: Path  # directory of the run
    report: dict[str, Any] | None  # report.json, of a run that ended
    why: str  # why there is none, in one line; "" where there is


def arguments(job: Job, workdir: Path | str) -> list[str]:
    """The flags of a job as its binary takes them."""
    given = {"workdir": str(workdir), **({"preset": job.preset} if job.preset else {}), **job.flags}
    return [_argument(name, value) for name, value in given.items()]


def command(job: Job) -> str:
    """The command that makes a run anew, or goes on with it, beside where the sweep keeps it."""
    parts = ["python", "-m", f"{_MODULE}.{job.experiment}", *arguments(job, job.name)]
    return shlex.join(parts)


def outcome(job: Job, root: Path, why: str = "") -> Outcome:
    """How far a job came in the directory of its sweep.

    Args:
        job: the job.
        root: directory of the sweep, which holds runs/ and logs/.
        why: what to say of one that was not tried.
    """
    place = root / "runs" / job.name
    try:
        report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    if report is not None and not differences(job, report):
        return Outcome(job, place, report, "")
    return Outcome(job, place, None, last_words(job, root) or why or "not made yet")


def differences(job: Job, report: Mapping[str, Any]) -> list[str]:
    """Names of flags in which a report is of something else than the job."""
    config = report.get("config")
    if not isinstance(config, dict):
        return ["config"]
    wanted = dict(find(job.experiment).presets[job.preset]) if job.preset else {}
    wanted |= job.flags
    wanted = {n: v for n, v in wanted.items() if n not in (*PLACES, *MOVABLE)}
    # What a later version added has the value that it had before.
    return [name for name, value in wanted.items() if name in config and config[name] != value]


def log_of(job: Job, root: Path) -> Path:
    """Where the output of a job goes."""
    return root / "logs" / f"{job.name}.log"


def last_words(job: Job, root: Path) -> str:
    """What a binary said at its end of what went wrong; "" where it was never started."""
    try:
        text = log_of(job, root).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    told = [line for line in text.splitlines() if line.startswith(f"{job.experiment}.py: ")]
    return told[-1].strip() if told else "cut off: the same command goes on"


def _argument(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{name}={value}"
