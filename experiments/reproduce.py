"""The paper, whole: every table and figure of Sohl-Dickstein et al. 2015, and a page of them.

    python experiments/reproduce.py --workdir=runs/paper --effort=minutes [--data_root=DIR]

All rows of Tables 1 and 2, Figures 1 to 5 and App.1 and Jarzynski's equality, for the paper's model
and for our best one; beyond the paper binarised MNIST and lossless CIFAR-10, beside others. Runs
what is missing, goes on with what was cut off and takes what is there, on every core or GPU of this
machine; started on several hosts that share the directory, it divides the runs among them. Writes
DIR/report.html, one file to look at and to send, and DIR/report.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpm_jax import hosts, later
from dpm_jax.reproduction import efforts
from dpm_jax.runs import Invalid, bars, binary
from dpm_jax.runs.config import name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.sweeps import folder

with later.imports(globals()):
    from dpm_jax.reproduction import ablation, page
    from dpm_jax.sweeps import jobs, pool

FLAGS = {
    **folder.FLAGS,
    "effort": Flag(
        str,
        "minutes: 45 of 2 cores, image networks trained in part; hours: what the presets say;"
        " accelerator: the same, and of each experiment the preset that fills one, if it has it.",
        "minutes",
        efforts.EFFORTS,
    ),
    "only": Flag(
        list, f"Rows, tables or figures: {', '.join((*efforts.ROWS, *efforts.GROUPS))}; else all."
    ),
    "data_root": Flag(
        Path,
        "Folder with mnist, cifar10 (their original files) and bark (photographs); default:"
        " $DPM_DATA. What it lacks is downloaded by tensorflow-datasets; bark cannot be.",
    ),
}


def execute(config: dict[str, Any]) -> str:
    """Make the runs, then the page; what was written and what is missing, as text.

    Raises:
        Invalid: for anything the user can mend, before any run.
    """
    try:
        chosen, all_jobs = check(config)
        pages = ("report.html", "report.md")
        root = folder.claim(config["workdir"], "reproduction.json", _settings(config), pages)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    bars.begin()
    wanted = [job for job in all_jobs if job.experiment in chosen and not efforts.missing(job)]
    bars.say(f"reproduce, effort {config['effort']}: {len(wanted)} runs; into {root}")
    if config["effort"] == "accelerator" and any(slot.cores for slot in pool.slots()):
        bars.say(
            "effort accelerator: found no GPU or TPU; the logs say how much its presets are here"
        )
    with hosts.finishing():  # the page is written after Ctrl-C too
        try:
            pool.run(wanted, root, "reproduce", config["workers"])
        finally:
            _write(root, all_jobs, chosen)
    return _text(root, all_jobs, chosen)


def check(config: dict[str, Any]) -> tuple[tuple[str, ...], list]:
    """The rows that are wanted and the runs of all; ValueError naming the first bad flag."""
    folder.check(config["workdir"])
    chosen = efforts.ROWS if config["only"] is None else efforts.rows(config["only"])
    return chosen, efforts.jobs(config["effort"], efforts.data_folders(config["data_root"]))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {"experiment": "reproduce", "effort": config["effort"]}


def _outcomes(root: Path, all_jobs: list, chosen: tuple[str, ...]) -> list:
    def why(job) -> str:
        left_out = "" if job.experiment in chosen else "left out by --only"
        return efforts.missing(job) or left_out

    return [jobs.outcome(job, root, why(job)) for job in all_jobs]


def _write(root: Path, all_jobs: list, chosen: tuple[str, ...]) -> None:
    with bars.phase("writing the page"):
        page.write(root, _outcomes(root, all_jobs, chosen), ablation.read(root / "ablation"))


def _text(root: Path, all_jobs: list, chosen: tuple[str, ...]) -> str:
    found = [each for each in _outcomes(root, all_jobs, chosen) if each.job.experiment in chosen]
    failed = [f"{each.job.name}: {each.why}" for each in found if each.report is None]
    made = f"{len(found) - len(failed)} of {len(found)} runs made"
    wrote = [f"wrote {root / name}" for name in ("report.html", "report.md")]
    return "\n".join(["", made, *failed, "", *wrote])


if __name__ == "__main__":
    again = "the same command goes on"
    binary.direct("reproduce.py", FLAGS, execute, again, check=check)
