"""Posteriors of a trained run (Sec. 2.5): inpainting and denoising, the paper's way or exactly.

    python experiments/posterior.py --workdir=runs/swiss_roll --task=denoise --method=particles

Reads its configuration from the run. Takes rows of the test set and hides a part of them or makes
them noisy, or takes a file as it is; draws from p~(x^0) ∝ p(x^0) r(x^0); writes figure, draws,
mean, spread and numbers into DIR/posterior/TASK_METHOD (or --out). Methods:

* paper      r(x^t) = r(x^0) (eq. 23): biased, since eq. 22 normalises a factor of eq. 21 away
* annealed   r(x^t) = r(x^0)^((T−t)/T): less biased
* replacement  (inpaint) the known part noised as the data are, each step taken --repeats times
* particles  that factor kept as the weights of a particle filter: exact as --num_samples grows
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from dpm_jax import files, hosts, later, runs
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs.config import HELP, check_at_most, name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.workdir import PLACES_OF_DATA, check_writable
from dpm_jax.training.options import MAX_SEED

with later.imports(globals()):
    from dpm_jax.runs import identity, observations, plots, results
    from dpm_jax.runs import posterior_report as report

METHODS = ("paper", "annealed", "particles", "replacement")  # as observations.py has them
FLAGS = {
    "workdir": Flag(Path, "Directory of a trained run."),
    "task": Flag(str, "inpaint or denoise.", "inpaint", ("inpaint", "denoise")),
    "method": Flag(str, "paper, annealed, particles or replacement.", "particles", METHODS),
    "start": Flag(
        str, "Law of x^T: tilted (π r) or observed (at y itself).", "tilted", ("tilted", "observed")
    ),
    "threshold": Flag(float, "Particles: resample below this part of all, in ESS.", 0.8, "[0, 1]"),
    "filters": Flag(
        int,
        "Particles: independent filters that share --num_samples; 25 or more for an interval of"
        " log Z~.",
        1,
        values="[1, inf)",
    ),
    "input": Flag(
        Path,
        "File (.npy, .png) that was observed, in the place of rows of the test set: images of 8"
        " bits are grey levels, all else in the units of the model. Nothing is added to it, and the"
        " images of the run are not read.",
    ),
    "mask": Flag(
        Path,
        "What inpainting fills: left_half (default), right_half, centre, random; or a file (.npy,"
        " .png) of the example's shape, 0 where hidden.",
    ),
    "out": Flag(Path, "Folder of the result; by default DIR/posterior/TASK_METHOD."),
    "experiment": Flag(Path, "Python file of an experiment of your own, which registers itself."),
    "dataset": Flag(Path, "The data of the run at another place (cifar10, dead_leaves)."),
    "image_dir": Flag(Path, "The photographs of the run at another place (bark)."),
    "other_data": Flag(
        bool, "Take test rows of data that are not those of the run, in its scaling.", False
    ),
    "data_dir": Flag(Path, "Where prepared data sets are kept."),
    "manual_dir": Flag(Path, "Folder with the original files, for machines without a network."),
    "num_samples": Flag(
        int,
        "Draws (particles) for each problem; 4096 for small examples, 16 for images.",
        values="[2, inf)",
        bytes=32,
    ),
    "examples": Flag(
        int, "Problems, the first rows of the test set; 8.", values="[1, inf)", bytes=64
    ),
    "repeats": Flag(int, "replacement: times that each step is taken (10).", values="[1, inf)"),
    "steps": Flag(
        int,
        "Respace the chain to so many steps; by default as the run samples.",
        values="[2, inf)",
    ),
    "seed": Flag(
        int,
        "Seed of noise, mask and draws; by default that of the run + 20.",
        values=f"[0, {MAX_SEED - 1}]",
    ),
    "noise": Flag(
        float,
        "denoise: variance of the noise in units of the model's data (1), or the probability that"
        " a bit is flipped (0.1).",
    ),
    "fraction": Flag(float, "Part that --mask=random hides.", 0.5, "(0, 1)"),
    "pdf": HELP["pdf"]._replace(default=False),
}
_HELD = (
    "task", "method", "input", "mask", "fraction", "noise", "start", "repeats", "threshold", "seed",
)  # fmt: skip


def execute(config) -> str:
    """Draw, measure, write; the report as text.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    with plots.formats(config["pdf"]):
        return _execute(config)


def _execute(config) -> str:
    try:
        _check(config)
        if config["experiment"]:
            runs.import_file(config["experiment"])
        given = {name: config[name] for name in PLACES_OF_DATA}
        bars.say(f"posterior: {config['task']} by {config['method']}, run in {config['workdir']}")
        with bars.phase("loading run and data"):
            more = {"other_data": config["other_data"], "data": not config["input"]}
            run = runs.load(config["workdir"], **more, **given)
        config, seen = hosts.together(_observe, config, run)
        out = places.local(config["out"], "out") if config["out"] else run.workdir / _name(config)
        held = hosts.together(_claimed, config, run, seen, out)
        bars.begin()
        found = observations.draw(config, run, seen)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    with bars.phase("measuring the draws"):
        content = report.content(run, seen, found, held)
    wrote = _files(out)
    content["files"] = results.begin(wrote[0], held, wrote[1:])
    with bars.phase("drawing the figure"):
        report.draw(wrote[2], run, seen, found, f"{config['task']}, {config['method']}")
    report.save_arrays(wrote[1], seen, found)
    files.write_json(wrote[0], content)
    places.bring(run.workdir)
    places.bring(out)
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in wrote)])


def _observe(config, run):
    """The flags with the defaults of this run, and what is observed; ValueError for bad ones."""
    run.model.chain(run.params, config["steps"])  # a bad --steps ends here
    if run.test is not None and not config["input"]:
        check_at_most(config, examples=len(run.test))
    config = _defaults(config, run)
    num = config["num_samples"]
    if num % config["filters"] or num < 2 * config["filters"]:
        got = f"{config['filters']} for {num}"
        raise ValueError(f"filters: expected a divisor of --num_samples below it, got {got}")
    flags.check_memory("num_samples", num, 8.0 * num * math.prod(run.model.event_shape))
    if not config["out"]:  # no link may lead elsewhere
        check_writable(run.workdir, _name(config))
    return config, observations.observe(config, run)


def _claimed(config, run, seen, out: Path) -> dict[str, Any]:
    """What the question is, once the folder is seen to be free for its answer."""
    held = {name: config[name] for name in _HELD}
    held |= {"steps": config["steps"], "num_samples": config["num_samples"]}
    held |= {
        "train_steps": run.step,
        "problems": len(seen.y),
        "run": identity.of_config(run.config),
    }
    if config["filters"] > 1:
        held["filters"] = config["filters"]
    if config["other_data"]:
        held["other_data"] = config["dataset"] or config["image_dir"] or "in the same place"
    held["data"] = {"y": identity.digest(seen.y), "known": identity.digest(seen.known)}
    _claim(out, held)
    return held


def _check(config) -> None:
    """Flags that need no run to be refused."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a trained run, got none")
    flags.check(config, FLAGS, optional=True)
    task, method = config["task"], config["method"]
    if config["start"] == "observed" and (task != "denoise" or method not in ("paper", "annealed")):
        raise ValueError("start: observed is for --task=denoise with --method=paper or annealed")
    if method == "replacement" and task != "inpaint":
        raise ValueError("method: replacement is for --task=inpaint")
    if method != "particles" and config["filters"] != 1:
        raise ValueError(f"filters: expected 1 with --method={method}, got {config['filters']}")
    if task == "denoise" and config["mask"] is not None:
        raise ValueError(f"mask: expected none with --task=denoise, got {config['mask']!r}")


def _defaults(config, run) -> dict[str, Any]:
    """What was not given: as many draws as the size of an example allows, the steps of the run."""
    small = math.prod(run.model.event_shape) <= 64
    steps = run.config.get("sample_steps") if config["steps"] is None else config["steps"]
    given = {name: value for name, value in config.items() if value is not None}
    defaults: dict[str, Any] = {"num_samples": 4096 if small else 16, "repeats": 10}
    defaults["examples"] = None if config["input"] else 8  # of a file all
    defaults |= {"mask": "left_half" if config["task"] == "inpaint" else None}
    defaults |= {"seed": run.config.get("seed", 0) + 20}
    T = run.model.chain(run.params).T
    return {**config, **defaults, **given, "steps": None if steps == T else steps}


def _name(config) -> str:
    """The folder of the run that a result goes into."""
    return f"posterior/{config['task']}_{config['method']}"


def _claim(out: Path, held: dict[str, Any]) -> None:
    """Only the same question may be asked again in the same folder: nothing else is replaced."""
    parent = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out: expected a directory to write into, got {parent}")
    there = [] if not out.exists() else [p for p in out.iterdir() if not files.is_unfinished(p)]
    wrote = _files(out)
    results.check(wrote[0], held, "out", wrote[1:], there)


def _files(out: Path) -> list[Path]:
    """What is written: numbers, arrays, figure."""
    return [out / "posterior.json", out / "posterior.npz", *plots.written(out / "posterior.png")]


if __name__ == "__main__":
    binary.run("posterior.py", FLAGS, execute, check=_check)
