r"""An experiment over seeds and values of its flags, by one command; then its table.

    python experiments/sweep.py --workdir=runs/T --experiment=swiss_roll --seeds=0,1,2 \
        --vary=T=20,40,80,schedule=learned,geometric --set=num_steps=4000,figures=false

Every combination of the values is a run for each seed. Runs what is missing and goes on with what
was cut off, on every core or GPU; started on several hosts that share the directory, it divides the
runs among them. Ends in the table of compare.py.
"""

from __future__ import annotations

from typing import Any

from dpm_jax import later
from dpm_jax.runs import Invalid, bars, binary
from dpm_jax.runs.config import name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.sweeps import folder, grid

with later.imports(globals()):
    from dpm_jax.runs.report import table
    from dpm_jax.sweeps import compare, pool

FLAGS = {
    **folder.FLAGS,
    "experiment": Flag(str, f"Its name: {', '.join(grid.NAMES)}.", values=grid.NAMES),
    "preset": Flag(str, "Of the experiment; by default its first."),
    "seeds": Flag(list, "Seeds.", ["0", "1", "2"]),
    "vary": Flag(list, "Flags and their values: NAME=VALUE,VALUE,...,NAME=VALUE,..."),
    "set": Flag(list, "Values of other flags, the same in all runs: NAME=VALUE,..."),
}


def execute(config: dict[str, Any]) -> str:
    """Make the runs; the table as text.

    Raises:
        Invalid: for anything the user can mend, before any run.
    """
    try:
        wanted = check(config)
        settings = {"sweep": config["experiment"], "preset": wanted[0].preset}
        root = folder.claim(config["workdir"], "sweep.json", settings)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    bars.begin()
    bars.say(f"sweep: {len(wanted)} runs of {config['experiment']}; into {root}")
    found = pool.run(wanted, root, "sweep", config["workers"])
    reports = [each.report for each in found if each.report is not None]
    failed = [f"failed: {each.job.name}: {each.why}" for each in found if each.report is None]
    lines = [table(compare.table(reports)), "", compare.NOTE] if reports else []
    return "\n".join(["", *lines, *failed, "", f"runs: {root / 'runs'}"])


def check(config: dict[str, Any]) -> list:
    """The runs; ValueError naming the first bad flag."""
    folder.check(config["workdir"])
    if not config["experiment"]:
        raise ValueError(f"experiment: expected one of {', '.join(grid.NAMES)}, got none")
    return grid.jobs(
        config["experiment"],
        config["preset"],
        config["seeds"] or [],
        grid.lists("vary", config["vary"] or []),
        grid.lists("set", config["set"] or []),
    )


if __name__ == "__main__":
    again = "the same command goes on"
    binary.direct("sweep.py", FLAGS, execute, again, check=check)
