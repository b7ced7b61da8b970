"""From launch to the first training step, as a user waits for it: the binary in a process."""

import contextlib
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpm_jax.benchmarks import networks
from dpm_jax.benchmarks.worker import Failed

_AGAIN = 0.02  # seconds between looks


def first_step(name: str, folder: Path, given: Mapping[str, Any], cache: Path) -> dict[str, float]:
    """Seconds, wall and CPU, from the launch of a network's binary to its first row of metrics.csv.

    Args:
        name: experiment/preset.
        folder: for data that are made.
        given: flags.
        cache: directory of compiled programs; an empty one is that of a first start.

    Raises:
        Failed: where the binary ends before its first step.
    """
    flags = networks.flags(name, folder, given) | {"log_every": 1}
    with tempfile.TemporaryDirectory() as run, tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", f"dpm_jax.experiments.{name.split('/')[0]}"]
        command += [f"--workdir={run}/run", *(f"--{flag}={v}" for flag, v in flags.items())]
        kept = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        begun, used = time.perf_counter(), _of_children()
        process = subprocess.Popen(
            command, env={**os.environ, **kept}, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        try:
            while not _stepped(Path(run) / "run" / "metrics.csv"):
                if process.poll() is not None:
                    said.seek(0)
                    last = said.read().decode(errors="replace").strip().split("\n")[-1]
                    raise Failed(f"{command[2]} ended before its first step: {last[:200]}")
                time.sleep(_AGAIN)
            took = time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()
        return {"wall": took, "cpu": _of_children() - used}


def _of_children() -> float:
    """CPU seconds of processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _stepped(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open(newline="", encoding="utf-8") as file:
        return len(list(csv.reader(file))) > 1
    return False
