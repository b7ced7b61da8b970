"""The likelihood report of a trained run: K, log p, the sandwich, where the bound is lost.

    python experiments/evaluate.py --workdir=runs/swiss_roll [--input=x.npy]

Reads its configuration from the run. Prints, in nats and bits (bits/dim for images), K (eq. 14);
the Jarzynski estimate of log p (eq. 9) from M trajectories, which in the mean is the bound L_M of
Burda et al. 2015, or from M works of N particles each; the upper estimate on samples of the model;
what p integrates to, where that can be known. What the flags leave open takes about --minutes.
Writes likelihood.json and figures/dissipation.png into the run; of --input K and log p alone, into
likelihood_NAME.json.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dpm_jax import files, hosts, later, runs
from dpm_jax.runs import Invalid, bars, binary, flags, places
from dpm_jax.runs.config import HELP, check_at_most, name_flag
from dpm_jax.runs.flags import Flag
from dpm_jax.runs.workdir import PLACES_OF_DATA as PLACES
from dpm_jax.runs.workdir import check_writable
from dpm_jax.training.options import MAX_SEED

with later.imports(globals()):
    import jax
    import numpy as np

    from dpm_jax.runs import effort, identity, plots, results
    from dpm_jax.runs import likelihood_report as report
    from dpm_jax.runs.execution import fewer_rows
    from dpm_jax.runs.inputs import read_array
    from dpm_jax.runs.likelihood_measure import Measure

FLAGS = {
    "workdir": Flag(Path, "Directory of a trained run."),
    "input": Flag(
        Path,
        "Array (.npy) or image to measure in the place of the test set; the images of the run are"
        " not read.",
    ),
    "proposal": Flag(
        str,
        "The order of trajectories for log p: the paper's, or down before up, of the fixed last"
        " step; by default the better one.",
        values=("paper", "up_down"),
    ),
    "particles": Flag(
        int,
        "Trajectories N that are resampled on their way and make one work together (Gaussians); by"
        " default 1, and of images what --minutes allow.",
        values="[1, inf)",
        bytes=64,
    ),
    "trajectories": Flag(
        str,
        "Numbers M of trajectories, or of works of particles, for log p; the largest are drawn. By"
        " default 16,256; of images 1 with particles, else what --minutes allow.",
    ),
    "minutes": Flag(
        float,
        "What log p and sandwich may take, about: by it trajectories, particles, examples and"
        " samples are chosen that are not given.",
        5.0,
        "(0, inf)",
    ),
    "experiment": Flag(Path, "Python file of an experiment of your own, which registers itself."),
    "dataset": Flag(Path, "The data of the run at another place (cifar10, dead_leaves)."),
    "image_dir": Flag(Path, "The photographs of the run at another place (bark)."),
    "other_data": Flag(
        bool,
        "Measure data that are not those of the run, in its scaling: K and log p alone, into"
        " likelihood_NAME.json.",
        False,
    ),
    "data_dir": Flag(Path, "Where prepared data sets are kept."),
    "manual_dir": Flag(Path, "Folder with the original files, for machines without a network."),
    "examples": Flag(
        int,
        "Examples for log p; by default what --minutes allow.",
        values="[2, inf)",
        bytes=64,
    ),
    "model_samples": Flag(
        int, "Samples of the model for the sandwich.", values="[2, inf)", bytes=64
    ),
    "lanes": Flag(int, "Trajectories a device holds at once.", values="[1, inf)", bytes=16),
    "num_eval": Flag(int, "Examples for K.", values="[2, inf)", bytes=64),
    "passes": Flag(int, "Stratified draws of t for K (images).", values="[1, inf)", bytes=64),
    "steps": Flag(
        int, "Respace the chain to so many steps: a model of its own.", values="[2, inf)"
    ),
    "seed": Flag(
        int,
        "Seed of the measurement; by default that of the run + 10.",
        values=f"[0, {MAX_SEED - 1}]",
    ),
    "pdf": HELP["pdf"]._replace(default=False),
}
_COUNT = Flag(int, "One of --trajectories.", values="[1, inf)", bytes=16)


def execute(config) -> str:
    """Measure, draw, write likelihood.json; the report as text.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    with plots.formats(config["pdf"]):
        return _execute(config)


def _execute(config) -> str:
    try:
        counts = _check(config)
        what = f"K and log p of {config['input'] or 'the test set'}"
        bars.say(f"evaluate: {what}, by the run in {config['workdir']}")
        with bars.phase("loading run and data"):
            run, (rows, prepare), chosen = _load(config, counts)
        wrote, asked = hosts.together(_place, config, run, rows)
        bars.say(f"evaluate: {chosen}")
        bars.begin()
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    seed = run.config.get("seed", 0) + 10 if config["seed"] is None else config["seed"]
    measure = Measure(run, chosen, config["steps"], seed)
    fewer = fewer_rows(config["num_eval"], rows)
    bound = measure.K(rows[: run.config.get("num_eval", len(rows))])
    rows = rows[: chosen.examples]
    x0 = np.asarray(rows if prepare is None else prepare(jax.random.key(seed + 1), rows))
    found = measure.log_p(bound, x0)
    if not _other(config):
        with bars.phase("sandwich, Σ p and truth"):
            found = measure.of_the_run(found, x0)
    names = results.begin(wrote[0], asked, wrote[1:])
    measure.draw(x0, wrote[1])
    with bars.phase("report"):
        content = report.content(run, found)
    content |= {"seed": seed, "steps": config["steps"], "settings": asked, "files": names}
    content |= fewer | effort.told(chosen)
    content["figures"] = {"dissipation": str(wrote[1].relative_to(run.workdir))}
    files.write_json(wrote[0], content)
    places.bring(run.workdir)
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in wrote)])


def _other(config) -> str:
    """What the names of the files end in where not the data of the run are measured."""
    if config["input"]:
        return f"_{Path(config['input']).stem}"
    path = config["dataset"] or config["image_dir"] or "other_data"
    return f"_{Path(path).stem}" if config["other_data"] else ""


def _place(config, run, rows) -> tuple[list[Path], dict[str, Any]]:
    """likelihood.json and its figure, which no other data and no respaced chain replace; asked."""
    other, steps = _other(config), config["steps"]
    data = {"test": identity.digest(rows)} if other else {}
    if other and not config["input"] and run.problem.identity.get("test_files"):
        data = {"test_files": run.problem.identity["test_files"]}  # crops depend on --num_eval
    name = other + ("" if steps is None else f"_{steps}_steps")
    figure = run.workdir / f"figures/dissipation{name}.png"
    wrote = [run.workdir / f"likelihood{name}.json", *plots.written(figure)]
    asked = {"steps": steps, "data": data}
    flag = "input" if config["input"] else "other_data" if other else "workdir"
    results.check(wrote[0], asked, flag, wrote[1:])
    return wrote, asked


def _load(config, counts: list[int] | None):
    """The run, the rows to measure with what prepares them, and how much; ValueError: bad flags."""
    if config["experiment"]:
        runs.import_file(config["experiment"])
    given = {name: config[name] for name in (*PLACES, "num_eval", "passes")}
    more = {"other_data": config["other_data"], "data": not config["input"]}
    run = runs.load(config["workdir"], **more, **given)
    found = hosts.together(_rows, config, run)
    chosen = effort.choose(config, run, len(found[0]), counts, bool(_other(config)))
    most = chosen.counts[-1] * max(chosen.examples, chosen.model_samples)
    flags.check_memory("trajectories", chosen.counts[-1], 8.0 * most)
    N = chosen.proposal.particles
    flags.check_memory("particles", N, 16.0 * N * math.prod(run.model.event_shape))
    return run, found, chosen


def _rows(config, run):
    check_writable(run.workdir)
    if config["passes"] is not None and "passes" not in run.config:
        got = config["passes"]
        raise ValueError(f"passes: expected none, since this run sums over all t, got {got}")
    run.model.chain(run.params, config["steps"])  # a bad --steps ends here
    try:
        found = run.rows(read_array(config["input"], "input") if config["input"] else None)
    except ValueError as error:
        raise ValueError(str(error).replace("data:", "input:", 1)) from error
    check_at_most(config, examples=len(found[0]))
    return found


def _check(config) -> list[int] | None:
    """The numbers of trajectories in rising order, where given; bad flags end here."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a trained run, got none")
    flags.check(config, FLAGS, optional=True)
    if config["trajectories"] is None:
        return None
    text = str(config["trajectories"])
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ValueError(f"trajectories: expected numbers as in 16,256, got {text!r}") from error
    for count in counts:
        flags.check({"trajectories": count}, {"trajectories": _COUNT})
    return counts


if __name__ == "__main__":
    binary.run("evaluate.py", FLAGS, execute, check=_check)
