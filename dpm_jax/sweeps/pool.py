"""The pool: runs the jobs of a sweep that are missing, each in a process, one bar over all.

Each process takes its part of the machine, a GPU or a core. What ended is taken as it is, what was
cut off goes on, what fails is named and stops nothing. Directories are held by locks, so the same
command on several hosts that share the directory divides the jobs among them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dpm_jax import hosts
from dpm_jax.runs import bars
from dpm_jax.runs.experiment import find
from dpm_jax.runs.flags import available_memory
from dpm_jax.sweeps.jobs import Job, Outcome, arguments, last_words, log_of, outcome

_LOOK = 0.5  # seconds between two looks at the processes
_PATIENCE = 60.0  # seconds that a process has to save what it trained
_EACH = 3 * 2**30  # bytes of memory that a process may want
_MOST = 16  # processes on CPU
_TRAINING = 0.75  # of the time of a run, about


class Slot(NamedTuple):
    """The part of a machine that one process has."""

    cores: tuple[int, ...]
    environment: dict[str, str]


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    slot: Slot
    begun: float


def slots(workers: int = 0) -> list[Slot]:
    """The parts of this machine: a GPU each, or its cores divided.

    Args:
        workers: how many; 0: as many as there are GPUs, or cores and memory for them.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = _gpus()
    if gpus:
        chosen = gpus[: workers or len(gpus)]
        return [Slot((), {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in chosen]
    if any(_has(f"libtpu{end}") for end in ("", "-nightly")):  # one process has all of its chips
        return [Slot((), {})]
    fit = max(1, int(available_memory() // _EACH)) if workers == 0 else workers
    count = min(workers or _MOST, fit, len(cores) or 1)
    return [Slot(tuple(cores[i::count]), {}) for i in range(count)]


def run(jobs: Sequence[Job], root: Path, name: str, workers: int = 0) -> list[Outcome]:
    """Make the runs that are missing; all of them, as far as they came, in the order of `jobs`.

    Args:
        jobs: to be done; those that take longest begin.
        root: directory with runs/ and logs/, which are made.
        name: of the bar.
        workers: processes at a time; 0: what the machine has.

    Raises:
        KeyboardInterrupt: once every process has saved.
    """
    for folder in ("runs", "logs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    done = {job.name for job in jobs if outcome(job, root).report is not None}
    waiting = sorted((job for job in jobs if job.name not in done), key=lambda job: -job.seconds)
    total = sum(job.seconds for job in jobs)
    begun = sum(job.seconds for job in jobs if job.name in done)
    # Ctrl-C ends this process once the others have saved.
    with hosts.finishing(), _bar(name, total, begun) as show:
        _work(waiting, root, slots(workers), show)
    return [outcome(job, root) for job in jobs]


def _work(waiting: list[Job], root: Path, free: list[Slot], show) -> None:
    running: list[_Running] = []
    try:
        while waiting or running:
            for job in [job for job in waiting if not in_use(root / "runs" / job.name)]:
                if not free:
                    break
                waiting.remove(job)
                running.append(_start(job, root, free.pop(0)))
            time.sleep(_LOOK)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                _close(each)
                free.append(each.slot)
                _ended(each, root, waiting)
            found = [job for job in waiting if outcome(job, root).report is not None]  # elsewhere
            waiting[:] = [job for job in waiting if job not in found]
            show(running, waiting, root)
    finally:
        _stop(running)


def _start(job: Job, root: Path, slot: Slot) -> _Running:
    argv = [sys.executable, "-m", "dpm_jax.sweeps.worker", job.experiment]
    argv += arguments(job, root / "runs" / job.name)
    # Appended to: the end of a process before this one may be written late.
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(log_of(job, root), how, 0o666), "wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **slot.environment},
            start_new_session=True,  # Ctrl-C is for this process, which tells the others
        )
    if slot.cores:
        with contextlib.suppress(OSError):  # it may have ended
            os.sched_setaffinity(process.pid, slot.cores)
    return _Running(job, process, slot, time.monotonic())


def _ended(each: _Running, root: Path, waiting: list[Job]) -> None:
    if each.process.returncode and not last_words(each.job, root):
        with contextlib.suppress(OSError), log_of(each.job, root).open("a") as log:
            log.write(f"\n{each.job.experiment}.py: {_end(each.process.returncode)}\n")
    found, seconds = outcome(each.job, root), time.monotonic() - each.begun
    if found.report is not None:
        bars.say(f"{each.job.name}: done, {seconds:.0f} s")
    elif "is in use by" in found.why:  # another host was faster
        waiting.append(each.job)
    else:
        bars.say(f"{each.job.name}: failed (code {each.process.returncode}): {found.why}")


def _end(code: int) -> str:
    """What a process that said nothing ended by."""
    if code > 0:
        return f"ended with code {code}, without a word but its log"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"killed by {name}{why}; the same command goes on"
    return f"killed by signal {-code}; the same command goes on"


def _stop(running: list[_Running]) -> None:
    """Let every process save and end."""
    for each in running:
        with contextlib.suppress(OSError):
            each.process.send_signal(signal.SIGTERM)
    for each in running:
        try:
            each.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
        _close(each)


def _close(each: _Running) -> None:
    assert each.process.stdin is not None
    each.process.stdin.close()


@contextlib.contextmanager
def _bar(name: str, total: float, done: float) -> Iterator:
    """A bar in seconds of one core, with the time that is left at the speed so far."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    more = {"total": total, "initial": done, "smoothing": 0, "bar_format": form}
    with bars.bar(None, name, "s", True, **more) as shown:

        def show(running, waiting, root: Path) -> None:
            parts = [trained(each.job, root) for each in running]
            left = sum(job.seconds for job in waiting)
            for each, part in zip(running, parts):
                left += each.job.seconds * (1 - _TRAINING * (part or 0.0))
            names = (f"{each.job.name} {_told(part)}" for each, part in zip(running, parts))
            shown.set_postfix_str(", ".join(names), refresh=False)
            shown.update(max(0.0, total - left - shown.n))

        yield show


def _told(part: float | None) -> str:
    if part is None:
        return "begins"
    return f"{part:.0%} trained" if part < 1 else "trained, measures"


def trained(job: Job, root: Path) -> float | None:
    """The part of its training that a job has logged; None before the first row."""
    metrics = root / "runs" / job.name / "metrics.csv"
    with contextlib.suppress(OSError, ValueError, IndexError):
        step = metrics.read_text(encoding="utf-8").rstrip().rsplit("\n", 1)[1].split(",")[0]
        steps = job.flags.get("num_steps") or find(job.experiment).presets[job.preset]["num_steps"]
        return int(step) / int(steps)
    return None


def in_use(place: Path) -> bool:
    """Whether another process, of any host, holds the directory of a run."""
    try:
        with (place / "lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _gpus() -> list[str]:
    """The GPUs that JAX would use, by number or name."""
    if not any(_has(f"jax-cuda{version}-plugin") for version in (12, 13)):
        return []
    if "cpu" in os.environ.get("JAX_PLATFORMS", "").split(",")[:1]:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each for each in visible.split(",") if each]
    if shutil.which("nvidia-smi") is None:
        return []
    told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(told.stdout.splitlines()) if line.startswith("GPU")]


def _has(package: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False
