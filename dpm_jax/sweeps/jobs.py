"""One run of a sweep: what it is, the command that makes it, and how far it came."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import find

_MODULE = "dpm_jax.experiments"  # where binaries are, in a clone and installed
_NUMBERS = ("K_", "bits_per_dim_", "ceiling_bits", "beta_1", "seconds")  # begin so, and are finite


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
    report, wrong = None, ""
    try:
        if os.path.lexists(place / "report.json"):
            report = read(place)
            wrong = ", ".join(differences(job, report))
            wrong = wrong and f"report.json is of other values of {wrong}"
    except ValueError as error:
        wrong = str(error)
    if report is not None and not wrong:
        return Outcome(job, place, report, "")
    cut = "cut off: the same command goes on" if log_of(job, root).exists() else ""
    told = last_words(job, root) or wrong or cut or why or "not made yet"
    return Outcome(job, place, None, " ".join(told.split()))


def read(place: Path) -> dict[str, Any]:
    """report.json of a run that ended; ValueError where it does not read, or is not as runs are."""
    path = place / "report.json"
    try:
        report = workdirs.read(path)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("workdir: ")) from error
    if not isinstance(report.get("config"), dict):
        raise ValueError(f"{path} does not say of what flags it is")
    for name, value in report.items():
        if name.startswith(_NUMBERS) and not (value is None or _is_number(value)):
            raise ValueError(f"{path}: {name}: expected a number, got {str(value)[:80]!r}")
    return report


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def differences(job: Job, report: Mapping[str, Any]) -> list[str]:
    """Names of flags in which a report is of something else than the job."""
    free = (*workdirs.PLACES, *workdirs.MOVABLE)
    preset = find(job.experiment).presets[job.preset] if job.preset else {}
    wanted = {n: v for n, v in {**preset, **job.flags}.items() if n not in free}
    # What a later version added has the value that it had before; of the preset alone, what only
    # measures may be missing too.
    held = {**workdirs.ADDED, **{n: preset[n] for n in workdirs.MEASURES if n in preset}}
    held |= report["config"]
    missing = [] if "K_bits" in report or not job.preset else ["K"]
    return missing + [name for name, value in wanted.items() if held.get(name) != value]


def log_of(job: Job, root: Path) -> Path:
    """Where the output of a job goes."""
    return root / "logs" / f"{job.name}.log"


def last_words(job: Job, root: Path) -> str:
    """What a binary said at its end of what went wrong; "" where it said nothing."""
    try:
        text = log_of(job, root).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    told = [line for line in text.splitlines() if line.startswith(f"{job.experiment}.py: ")]
    return told[-1].strip() if told else ""


def _argument(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{name}={value}"
