"""The likelihood report of a trained run: K, log p, the sandwich, where the bound is lost.

    python experiments/evaluate.py --workdir=runs/swiss_roll [--input=x.npy]

Reads its configuration from the run. Prints, in nats and bits (bits/dim for images), K (eq. 14);
the Jarzynski estimate of log p (eq. 9) from M trajectories, which in the mean is the bound L_M of
Burda et al. 2015; the upper estimate on samples of the model; what p integrates
to, where that can be known. Writes likelihood.json and figures/dissipation.png into the run; of
--input K and log p alone, into likelihood_NAME.json.
"""

from __future__ import annotations

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

    from dpm_jax import likelihood
    from dpm_jax.likelihood import Rows
    from dpm_jax.runs import identity, plots, results
    from dpm_jax.runs import likelihood_report as report
    from dpm_jax.runs.execution import fewer_rows
    from dpm_jax.runs.inputs import read_array

FLAGS = {
    "workdir": Flag(Path, "Directory of a trained run."),
    "input": Flag(
        Path,
        "Array (.npy) or image to measure in the place of the test set; the images of the run are"
        " not read.",
    ),
    "trajectories": Flag(
        str, "Numbers M of trajectories for log p; the largest are drawn.", "16,256"
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
        "Examples for log p; by default what takes about a minute (mnist: minutes).",
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
_PROFILED = 16  # trajectories of an example for the figure


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
        what = f"K and log p of {config['input'] or 'the test set'}, M = {config['trajectories']}"
        bars.say(f"evaluate: {what}, by the run in {config['workdir']}")
        with bars.phase("loading run and data"):
            run, (rows, prepare) = _load(config, counts[-1])
        wrote, asked = hosts.together(_place, config, run, rows)
        bars.begin()
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config)) from error
    seed = run.config.get("seed", 0) + 10 if config["seed"] is None else config["seed"]
    budget = {name: config[name] or value for name, value in vars(run.problem.budget).items()}
    steps = config["steps"]

    def go(offset: int, name: str, **more) -> Rows:
        chosen = {"at_once": budget["lanes"], **more}
        return Rows(seed + offset, progress=bars.batches(name), **chosen)

    fewer = fewer_rows(config["num_eval"], rows)
    K_rows = rows[: run.config.get("num_eval", len(rows))]
    bound = run.evaluate(K_rows, steps=steps, rows=go(0, "K", at_once=None))
    rows = rows[: budget["examples"]]
    x0 = np.asarray(rows if prepare is None else prepare(jax.random.key(seed + 1), rows))
    works = likelihood.evaluate_works(run.model, run.params, x0, counts[-1], steps, go(2, "log p"))
    with bars.phase("log p of the works"):
        found = report.Measured(bound, [likelihood.summarise(works, num) for num in counts])
    if not _other(config):
        with bars.phase("sandwich, Σ p and truth"):
            found = _of_the_run(run, found, x0, budget, (counts[-1], steps), go)
    names = results.begin(wrote[0], asked, wrote[1:])
    _draw(run, x0, steps, go(4, "profile"), wrote[1])
    with bars.phase("report"):
        content = report.content(run, found)
    content |= {"seed": seed, "steps": steps, "settings": asked, "files": names}
    content |= fewer
    content["figures"] = {"dissipation": str(wrote[1].relative_to(run.workdir))}
    files.write_json(wrote[0], content)
    places.bring(run.workdir)
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in wrote)])


def _of_the_run(run, found, x0, budget, at, go) -> report.Measured:
    """What is measured besides where the test set is the run's own: sandwich, Σ p, the truth."""
    (num, steps), known, samples = at, run.problem.exact, budget["model_samples"]
    rows = go(3, "sandwich")
    pairs = likelihood.evaluate_sandwich(run.model, run.params, samples, num, steps, rows)
    return found._replace(
        pairs=pairs,
        total=report.normalisation(run, num, 10 * budget["examples"], steps, go(5, "Σ p")),
        truth=None if known.log_p is None else np.asarray(known.log_p(x0), np.float64),
        ceiling=known.ceiling(go(0, "").seed, steps),
    )


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


def _load(config, most: int):
    """The run, and the rows to measure with what prepares them; ValueError for bad flags."""
    if config["experiment"]:
        runs.import_file(config["experiment"])
    given = {name: config[name] for name in (*PLACES, "num_eval", "passes")}
    more = {"other_data": config["other_data"], "data": not config["input"]}
    run = runs.load(config["workdir"], **more, **given)
    return run, hosts.together(_rows, config, run, most)


def _rows(config, run, most: int):
    check_writable(run.workdir)
    if config["passes"] is not None and "passes" not in run.config:
        got = config["passes"]
        raise ValueError(f"passes: expected none, since this run sums over all t, got {got}")
    if callable(run.model.last_step):
        raise ValueError(
            "workdir: expected a run with a fixed or learned last step, which has a density; got"
            " discretized, of which report.json says all"
        )
    run.model.chain(run.params, config["steps"])  # a bad --steps ends here
    try:
        found = run.rows(read_array(config["input"], "input") if config["input"] else None)
    except ValueError as error:
        raise ValueError(str(error).replace("data:", "input:", 1)) from error
    check_at_most(config, examples=len(found[0]))
    for name in ("examples", "model_samples"):
        count = config[name] or vars(run.problem.budget)[name]
        flags.check_memory("trajectories", most, 8.0 * most * count)
    return found


def _check(config) -> list[int]:
    """The numbers of trajectories in rising order; bad flags end here."""
    if not config["workdir"]:
        raise ValueError("workdir: expected a trained run, got none")
    flags.check(config, FLAGS, optional=True)
    text = str(config["trajectories"])
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ValueError(f"trajectories: expected numbers as in 16,256, got {text!r}") from error
    for count in counts:
        flags.check({"trajectories": count}, {"trajectories": _COUNT})
    return counts


def _draw(run, x0, steps, rows: Rows, path: Path) -> None:
    """The figure: where K is lost, between the entropies of eq. 24."""
    schedule = run.model.chain(run.params).schedule
    lanes = min(rows.at_once, max(_PROFILED, 4_000_000 // schedule.T))  # it holds every t
    rows = rows._replace(at_once=lanes)
    found = likelihood.evaluate_dissipation(run.model, run.params, x0, _PROFILED, steps, rows)
    entropies = run.problem.exact.entropies
    exact = None if entropies is None or steps is not None else entropies(schedule)
    plots.dissipation(path, found, x0[0].size, exact)


if __name__ == "__main__":
    binary.run("evaluate.py", FLAGS, execute, check=_check)
