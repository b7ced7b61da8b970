"""Which module of the paper's model matters: one taken away or replaced at a time.

    python experiments/ablation.py --workdir=runs/paper/ablation --effort=minutes [--data_root=DIR]

On swiss roll, heartbeat, MNIST and CIFAR-10, three seeds (hours: five), in pairs of one seed: the
change of K in bits a dimension with its error, the largest first. Runs what is missing and goes on
with what was cut off, as reproduce.py, whose page shows the ablation in its DIR/ablation. Writes
ablation.md and figures/ablation.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpm_jax import hosts, later
from dpm_jax.reproduction import variants
from dpm_jax.runs import Invalid, bars, binary
from dpm_jax.runs.config import name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.sweeps import folder

with later.imports(globals()):
    from dpm_jax.reproduction import ablation, ablation_figure, efforts, page
    from dpm_jax.runs.report import table
    from dpm_jax.sweeps import pool

_DATA = tuple(subject.data for subject in variants.SUBJECTS)
FLAGS = {
    **folder.FLAGS,
    "effort": Flag(
        str,
        "minutes: an hour of 2 cores, short trainings, three seeds; hours: five seeds, 3 to 33"
        " times the steps.",
        "minutes",
        variants.EFFORTS,
    ),
    "only": Flag(list, f"Data sets: {', '.join(_DATA)}; else all."),
    "data_root": Flag(
        Path, "Folder with mnist and cifar10 (their original files); default: $DPM_DATA."
    ),
}


def execute(config: dict[str, Any]) -> str:
    """Make the runs, then the table; as text.

    Raises:
        Invalid: for anything the user can mend, before any run.
    """
    try:
        data = check(config)
        settings = {"experiment": "ablation", "effort": config["effort"]}
        names = ("ablation.md", "figures")
        root = folder.claim(config["workdir"], ablation.SETTINGS, settings, names)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    bars.begin()
    wanted = ablation.jobs(config["effort"], data, config["only"] or ())
    bars.say(f"ablation, effort {config['effort']}: {len(wanted)} runs; into {root}")
    with hosts.finishing():  # the table is written after Ctrl-C too
        try:
            pool.run(wanted, root, "ablation", config["workers"])
        finally:
            found = ablation.of(root, config["effort"])
            wrote = _write(root, found)
    lines = table(ablation.table(found)) if found.effects else "no two seeds of any change yet"
    failed = [f"failed: {line}" for line in found.failed]
    return "\n".join(["", lines, *failed, "", found.paragraph, "", *(f"wrote {p}" for p in wrote)])


def check(config: dict[str, Any]) -> dict[str, str]:
    """Folders of data by data set; ValueError naming the first bad flag."""
    folder.check(config["workdir"])
    for name in config["only"] or ():
        if name not in _DATA:
            raise ValueError(f"only: expected some of {', '.join(_DATA)}, got {name!r}")
    return efforts.data_folders(config["data_root"])


def _write(root: Path, found) -> list[Path]:
    path = root / "figures" / "ablation.png"
    drawn = [ablation_figure.draw(path, found)] if found.effects else []
    return [page.write_ablation(root, found), *drawn]


if __name__ == "__main__":
    again = "the same command goes on"
    binary.direct("ablation.py", FLAGS, execute, again, check=check)
