"""Any runs side by side in one table: seeds, means and errors.

    python experiments/compare.py RUN RUN ... [--out=FILE.csv]

Runs that differ in their seed alone are one row. Reads report.json of each run and nothing else.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from dpm_jax import files, later
from dpm_jax.runs import Invalid, binary
from dpm_jax.runs.flags import Flag

with later.imports(globals()):
    from dpm_jax.runs.report import table
    from dpm_jax.sweeps import compare

FLAGS = {
    "runs": Flag(list, "Directories of runs; also without --runs=, one after the other."),
    "out": Flag(Path, "A new file for the table as comma-separated values."),
}


def execute(config: dict[str, Any]) -> str:
    """The table as text."""
    try:
        check(config)
        rows = compare.table([compare.read(run) for run in config["runs"]])
    except (ValueError, OSError) as error:
        raise Invalid(f"--{error}") from error
    lines = [table(rows), "", compare.NOTE]
    if config["out"]:
        path = Path(config["out"]).expanduser()
        with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        lines.append(f"wrote {path}")
    return "\n".join(lines)


def check(config: dict[str, Any]) -> None:
    """ValueError naming the first bad flag."""
    if not config["runs"]:
        raise ValueError("runs: expected directories of runs, got none")
    places = [Path(run).expanduser().resolve() for run in config["runs"]]
    twice = next((run for run, p in zip(config["runs"], places) if places.count(p) > 1), None)
    if twice is not None:
        raise ValueError(f"runs: expected each run once, got {twice} twice")
    if config["out"] and not Path(config["out"]).expanduser().parent.is_dir():
        raise ValueError(f"out: expected a file in a folder that exists, got {config['out']}")
    if config["out"] and Path(config["out"]).expanduser().exists():
        raise ValueError(f"out: expected a new file, got {config['out']}, which exists")


if __name__ == "__main__":
    binary.direct("compare.py", FLAGS, execute, check=check)
