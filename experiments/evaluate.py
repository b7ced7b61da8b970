"""The likelihood report of a trained run: K, log p, the sandwich, where the bound is lost.

    python experiments/evaluate.py --workdir=runs/swiss_roll

Reads its configuration from the run. Prints, in nats and bits (bits/dim for images), K (eq. 14);
the Jarzynski estimate of log p (eq. 9) from M trajectories, which in the mean is the bound L_M of
Burda et al. 2015; the upper estimate on samples of the model; what p integrates
to, where that can be known. Writes likelihood.json and figures/dissipation.png into the run.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import bark
import cifar10
import dead_leaves
import heartbeat
import likelihood_report as report
import mnist
import settings
import swiss_roll
import workdirs
from dpm_jax import checkpoint, evaluation, plots, reporting, training, trajectories
from dpm_jax.model import respaced

_MODULES = (swiss_roll, heartbeat, mnist, cifar10, dead_leaves, bark)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES}
PROGRAM = "evaluate.py"
_PROFILED = 16  # trajectories of an example for the figure


def load(config: dict[str, Any]):
    """The problem of the run in config["workdir"], its configuration and trained parameters.

    Raises:
        settings.Invalid: for a directory that holds no run, no checkpoint, or another version's.
    """
    try:
        workdir = Path(config["workdir"] or "").expanduser()
        path = workdir / "config.json"
        if not config["workdir"] or not path.is_file():
            raise ValueError(f"workdir: expected a trained run, got {workdir}: no config.json")
        held = workdirs.read_config(path)
        if held.get("experiment") not in EXPERIMENTS:
            raise ValueError(
                f"workdir: expected a run of one of {sorted(EXPERIMENTS)},"
                f" got {held.get('experiment')!r} in {path}"
            )
        experiment = EXPERIMENTS[held["experiment"]]
        run = _configuration(experiment, held, config, path)
        if not os.access(workdir, os.W_OK):
            raise ValueError(f"workdir: cannot write into {workdir}")
        if not (workdir / "checkpoints").is_dir():
            raise ValueError(f"workdir: {workdir} holds no checkpoint: train the run first")
        problem = experiment.setup(run)
        options = settings.training_options(run)
        with contextlib.closing(checkpoint.Checkpoints(workdir / "checkpoints")) as checkpoints:
            if not checkpoints.steps():
                raise ValueError(f"workdir: {workdir} holds no checkpoint: train the run first")
            try:
                state = training.initial_state(problem.model, options, checkpoints)
            except ValueError as error:  # a checkpoint of another family, tree or shape
                raise ValueError(f"workdir: {error}") from error
        respaced(problem.evaluated, state.ema, config["steps"])  # a bad --steps ends here
        most = len(problem.test)
        if (config["examples"] or 0) > most:
            raise ValueError(f"examples: expected at most {most}, got {config['examples']}")
    except (ValueError, OSError) as error:
        raise settings.Invalid(settings.name_flag(str(error), config)) from error
    return experiment, run, problem, state


def execute(config: dict[str, Any]) -> str:
    """Measure, draw, write likelihood.json; the report as text.

    Raises:
        settings.Invalid: for anything the user can mend, before any long work.
    """
    counts = _check(config)
    experiment, run, problem, state = load(config)
    if problem.evaluated.last_step == "discretized":
        raise settings.Invalid(
            "--workdir: expected a run with a fixed or learned last step, which has a density; got"
            " discretized, of which report.json says all"
        )
    workdir = Path(config["workdir"]).expanduser()
    effort = {k: config[k] or v for k, v in problem.effort.items()}
    seed = run["seed"] + 10 if config["seed"] is None else config["seed"]
    common = {"steps": config["steps"], "lanes": effort["lanes"]}
    bound = evaluation.evaluate(
        problem.evaluated,
        state.ema,
        problem.test[: run["num_eval"]],
        seed=seed,
        draw=problem.draw_test,
        passes=run.get("passes"),
        steps=config["steps"],
        progress=_bar("K"),
    )
    rows = problem.test[: effort["examples"]]
    x0 = rows if problem.draw_test is None else problem.draw_test(jax.random.key(seed + 1), rows)
    x0 = np.asarray(x0)
    model, params = problem.evaluated, state.ema
    work = trajectories.works(
        model, params, x0, counts[-1], seed + 2, progress=_bar("log p"), **common
    )
    likelihoods = [trajectories.summary(work, num) for num in counts]
    pairs = trajectories.sandwich(
        model,
        params,
        effort["model_samples"],
        counts[-1],
        seed + 3,
        progress=_bar("sandwich"),
        **common,
    )
    total = _normalisation(problem, params, counts[-1], effort["examples"], seed + 5, common)
    truth = None if problem.log_p is None else np.asarray(problem.log_p(x0), np.float64)
    ceiling = problem.ceiling(seed, config["steps"])
    content = report.content(
        experiment, run, problem, state, bound, ceiling, likelihoods, pairs, total, truth
    )
    # A respaced chain is another model: its report does not replace that of the run.
    suffix = "" if config["steps"] is None else f"_{config['steps']}_steps"
    figure = Path("figures") / f"dissipation{suffix}.png"
    content |= {"seed": seed, "steps": config["steps"], "figures": {"dissipation": str(figure)}}
    files = [workdir / f"likelihood{suffix}.json", workdir / figure]
    reporting.write_json(files[0], content)
    _draw(problem, params, x0, seed + 4, common, files[1])
    return "\n".join([report.text(content), "", *(f"wrote {file}" for file in files)])


def _configuration(experiment, held, config, path: Path) -> dict[str, Any]:
    """The flags of the run: what it holds, and the defaults of what only measures."""
    preset = experiment.presets.get(held.get("preset"), {})
    places = workdirs.PLACES + workdirs.MEASURES
    missing = [name for name in preset if name not in held and name not in places]
    if missing or not preset:
        raise ValueError(
            f"workdir: {path} does not say {', '.join(missing) or 'its preset'}: of another version"
        )
    given = {name: value for name, value in config.items() if name in preset and value is not None}
    run = {**preset, **held, **given, "seed": held["seed"], "workdir": config["workdir"]}
    if "sample_steps" in run:  # not held, and the default may be more than this run's T
        run["sample_steps"] = min(run["sample_steps"], run["T"])
    return run


def _check(config: dict[str, Any]) -> list[int]:
    """The numbers of trajectories in rising order; bad flags end here."""
    text = str(config["trajectories"])
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise settings.Invalid(
            f"--trajectories: expected numbers as in 16,256, got {text!r}"
        ) from error
    for name, value in {**config, "trajectories": counts[0]}.items():
        least = {"trajectories": 1, "examples": 2, "model_samples": 2, "lanes": 1, "num_eval": 2}
        if name in least and value is not None and value < least[name]:
            raise settings.Invalid(f"--{name}: expected at least {least[name]}, got {value}")
    return counts


def _bar(name: str):
    return lambda batches: tqdm(batches, desc=name, unit="batch", leave=False)


def _draw(problem, params, x0, seed: int, common: dict[str, Any], path: Path) -> None:
    """The figure: where K is lost, between the entropies of eq. 24."""
    schedule = problem.evaluated.schedule(params)
    lanes = min(common["lanes"], max(_PROFILED, 4_000_000 // schedule.T))  # it holds every t
    found = trajectories.profile(
        problem.evaluated,
        params,
        x0,
        _PROFILED,
        seed,
        steps=common["steps"],
        lanes=lanes,
        progress=_bar("profile"),
    )
    exact = None
    if problem.entropy is not None and common["steps"] is None:
        exact = problem.entropy(schedule)
    plots.dissipation(path, found, x0[0].size, exact)


def _normalisation(problem, params, num: int, n: int, seed: int, common) -> dict[str, Any] | None:
    """Σ p(x) over all x, or ∫ p by importance sampling: 1 for a probability, at most 1 for a part.

    The error of each p̂ is that of its trajectories; where the points are random, the spread of
    their terms holds both.
    """
    if problem.points is None:
        return None
    x, log_weight, exhaustive = problem.points(jax.random.key(seed), 10 * n)
    num = num if exhaustive else min(num, 64)
    work = trajectories.works(
        problem.evaluated, params, np.asarray(x), num, seed + 1, progress=_bar("Σ p"), **common
    )
    p = np.exp(np.asarray(log_weight, np.float64)[:, None] - work)
    value = p.mean(axis=1).sum()
    if exhaustive:
        error = np.sqrt((p.var(axis=1, ddof=1) / num).sum()) if num > 1 else float("nan")
    else:
        error = np.std(p.mean(axis=1), ddof=1) * np.sqrt(len(p))
    of = f"P of all {len(p)} sequences of the data, at most 1"
    if not exhaustive:
        of = f"∫ p by importance sampling at {len(p)} points, 1 for a probability"
    found = {"value": float(value), "error": float(error), "of": of}
    return found | {"points": len(p), "trajectories": num}


def _main(_) -> int:
    logging.set_verbosity(logging.WARNING)
    logging.use_python_logging(quiet=True)
    values = flags.FLAGS
    try:
        print(execute({name: values[name].value for name in ("workdir", *_FLAGS)}))
    except (settings.Invalid, checkpoint.CheckpointError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


_FLAGS = {
    "trajectories": "Numbers M of trajectories for log p, as in 16,256; the largest are drawn.",
    "data_dir": "Where prepared data sets are kept.",
    "manual_dir": "Folder with the original files, for machines without a network.",
    "examples": "Examples for log p; by default what takes about a minute (mnist: minutes).",
    "model_samples": "Samples of the model for the sandwich.",
    "lanes": "Trajectories a device holds at once.",
    "num_eval": "Examples for K.",
    "passes": "Stratified draws of t for K (mnist).",
    "steps": "Respace the chain to so many steps: a model of its own.",
    "seed": "Seed of the measurement; by default that of the run + 10.",
}

if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of a trained run.")
    for _name, _help in _FLAGS.items():
        if _name in ("trajectories", "data_dir", "manual_dir"):
            flags.DEFINE_string(_name, "16,256" if _name == "trajectories" else None, _help)
        else:
            flags.DEFINE_integer(_name, None, _help)
    app.run(lambda argv: sys.exit(_main(argv)), flags_parser=settings.parse)
