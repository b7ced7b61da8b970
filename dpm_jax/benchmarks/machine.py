"""What a measurement was made on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from dpm_jax.benchmarks import timing


def facts() -> dict[str, Any]:
    """Processor, cores in use, load and versions; None for what is not known or installed."""
    return {
        "processor": _processor(),
        "cores": f"{len(timing.affinity())} of {os.cpu_count()}",
        "load": timing.load(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("dpm_jax", "jax", "torch")},
    }


def pin(cores: int) -> None:
    """Let this process and those it starts have the last `cores` of its cores.

    Raises:
        ValueError: for more than it has, or where the system does not pin.
    """
    mine = timing.affinity()
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"cores: expected none on a system that pins no process, got {cores}")
    if cores > len(mine):
        raise ValueError(f"cores: expected 1..{len(mine)}, got {cores}")
    os.sched_setaffinity(0, mine[-cores:])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
