"""From a configuration to a trained run: train (or resume), bound, figures, report.json."""

import contextlib
import dataclasses
import math
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from dpm_jax import files, hosts, likelihood, training, units
from dpm_jax.core.family import checked
from dpm_jax.core.model import Model
from dpm_jax.data.streaming import Stream
from dpm_jax.likelihood import Evaluation, Rows
from dpm_jax.runs import bars, identity, learned, parts, places, plots, report
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.bars import batches, phase
from dpm_jax.runs.config import (
    Invalid,
    check,
    configure,
    name_flag,
    too_much,
    training_options,
    with_init_from,
)
from dpm_jax.runs.experiment import Config, Experiment, Problem, find
from dpm_jax.runs.flags import available_memory, check_memory
from dpm_jax.runs.run import Run, starting_point
from dpm_jax.runs.train import train


def start(
    workdir: str | Path,
    experiment: str | Experiment,
    preset: str | None = None,
    init_from: str | Path | Run | None = None,
    **flags,
) -> Run:
    """Train an experiment as its binary does, or resume it: the same work directory and report.

    Args:
        workdir: directory of the run.
        experiment: an Experiment, or the name of one (`find`).
        preset: of its presets; None: the first.
        init_from: a run whose parameters (EMA) step 0 starts from.
        flags: other values than the preset has, by the names of its flags.

    Raises:
        ValueError: for an unknown name, or a flag that others leave unread.
        Invalid: for anything else that can be mended, before any long work.
    """
    known = find(experiment) if isinstance(experiment, str) else experiment
    given = {**flags, **_init_from(init_from)}
    config = configure(known, preset or known.preset, workdir, given)
    check_alike(config)
    return execute(known, config)[0]


def fit(
    workdir: str | Path,
    model: Model,
    data: Any,
    options: training.Options = training.Options(),
    test: Any = None,
    init_from: str | Path | Run | None = None,
) -> Run:
    """Train a model of your own in a work directory, or resume it; report.json has K of `test`.

    Args:
        workdir: directory of the run.
        model: from `model.build`.
        data: (n, *event), as in `training.fit`; not kept: `load` gives the model and parameters.
            Resumed, they must be the same, and so must `test`: data.json has their digests.
        options: how to train.
        test: (m, *event) held-out examples for K; None: no report.
        init_from: a run whose parameters (EMA) step 0 starts from.

    Raises:
        ValueError: for bad options or data, or a directory that holds another run or is in use.
    """
    training.check(options)
    training.objective.loss_of(model, options)
    for name, rows in (("data", data), ("test", test)):
        if rows is not None and not isinstance(rows, Stream):
            checked(model.family, model.event_shape, name, rows, many=True)
    problem = Problem(model=model, data=data, test=test)
    config = {"experiment": None, **dataclasses.asdict(options), "model": parts.encode(model)}
    config |= with_init_from(_init_from(init_from))
    with contextlib.ExitStack() as held:
        place, config, params = _claimed(places.local(workdir), config, problem, held)
        try:
            state, facts = train(problem, options, place, params)
        except Invalid as error:
            raise ValueError(str(error).removeprefix("--")) from error
        if test is not None:
            rows = Rows(options.seed + 1, progress=batches("bound"))
            found = likelihood.evaluate(model, state.ema, test, rows=rows)
            content = {**report.of_bound(found), **_of_training(state, facts), "unit": "bits"}
            beta = model.chain(state.ema).schedule.beta
            content |= {"beta_1": float(beta[1]), "ceiling_bits": None, "figures": {}}
            _write(place, content)
    return Run(place, config, problem, state.ema, int(state.step))


def execute(experiment: Experiment, config: Config) -> tuple[Run, str]:
    """Train (or resume), bound, draw figures, write report.json; the run and its final table.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    with contextlib.ExitStack() as held:
        return _execute(experiment, config, held)


def _execute(experiment, config: Config, held: contextlib.ExitStack) -> tuple[Run, str]:
    workdir, config, problem, params = _prepare(experiment, config, held)
    held.enter_context(plots.formats(config["pdf"]))
    fewer = fewer_rows(config["num_eval"], problem.test)
    _say_where_much(experiment, config)
    state, trained = train(problem, training_options(config), workdir, params)
    run = Run(workdir, config, problem, state.ema, int(state.step), experiment)
    found, kl = _bound(problem, state.ema, config)
    figures, facts, sample_rows = _figures(run, experiment, kl)
    with phase("ceiling and report"):
        content, rows = report.content(experiment, config, problem, state.ema, found)
    content |= {**_of_training(state, trained), **facts, **fewer, "figures": figures}
    content = _write(workdir, content)
    text = report.text(experiment, found, content, rows + sample_rows, workdir)
    return run, text


def _figures(run: Run, experiment: Experiment, kl: np.ndarray):
    """What the flags ask for: paths below the directory by name, facts, rows of the table."""
    if not run.config["figures"]:
        return {}, {}, []
    folder = run.workdir / "figures"
    with phase("samples and figures"):
        figures, facts, rows = experiment.figures(run.config, run.problem, run.params, folder)
    with phase("where K is spent"):
        figures["bound_terms"] = str(_draw_bound_terms(run.problem, run.params, kl, folder))
    figures = {name: str(Path(path).relative_to(run.workdir)) for name, path in figures.items()}
    if run.config["learned"]:
        with phase("what was learned"):
            figures |= learned.draw(run)
    return figures, facts, rows


def version() -> str:
    """The version of this library, as it is installed."""
    try:
        return metadata.version("dpm_jax")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def fewer_rows(num_eval: int | None, rows: Any) -> dict[str, str]:
    """What report.json says where there are fewer rows than --num_eval asks for; said at once."""
    if num_eval is None or num_eval <= len(rows):
        return {}
    note = f"num_eval: {num_eval} asked for, all {len(rows)} there are were measured"
    logging.warning("--%s", note)
    return {"num_eval_note": note}


def _prepare(experiment: Experiment, config: Config, held: contextlib.ExitStack):
    """Everything that can be refused, and the directory claimed once nothing was."""
    try:
        hosts.together(_check_flags, experiment, config)
        config = config | {"workdir": str(places.local(config["workdir"]))}
        problem = hosts.together(_set_up, experiment, config)
        workdir, config, params = _claimed(Path(config["workdir"]), config, problem, held)
    except (ValueError, OSError) as error:
        raise Invalid(name_flag(error, config, experiment)) from error
    return workdir, config, problem, params


def _check_flags(experiment: Experiment, config: Config) -> None:
    if not config["workdir"]:
        raise ValueError("workdir: expected a directory for the run, got none")
    check(config, experiment)
    training.check(training_options(config))


def _say_where_much(experiment: Experiment, config: Config) -> None:
    """Before training, of a preset that is no CPU's; not again once the run has ended."""
    ended = (Path(config["workdir"]) / "report.json").exists()
    told = too_much(experiment, config)
    if told and not ended and jax.default_backend() == "cpu":
        bars.say(told)


def check_alike(config: Config) -> None:
    """ValueError, in every process, where another was started with other flags or versions."""
    same = {name: v for name, v in config.items() if name not in workdirs.PLACES_OF_DATA}
    hosts.check_same(same | {"dpm_jax": version(), "jax": jax.__version__})


def _set_up(experiment: Experiment, config: Config) -> Problem:
    workdir = workdirs.claim(Path(config["workdir"]), config, write=False)
    if (workdir / "lock").exists():  # another process that has it is told of before data are read
        with workdirs.locked(workdir):
            pass
    with phase("loading the data"):
        options, problem = training_options(config), experiment.setup(config)
    _check_sizes(problem, options, config)
    training.objective.loss_of(problem.model, options)
    return problem


def _claimed(workdir: Path, config: Config, problem: Problem, held: contextlib.ExitStack):
    """The directory, locked, with config.json and data.json; and where step 0 starts, if given."""
    facts, params = hosts.together(_facts, workdir, config, problem), None
    theirs = hosts.on_first(lambda: facts)
    advice = "give every process the same data"
    hosts.together(identity.check, theirs, facts, workdir, advice)
    if "init_from" in config:
        source, params = starting_point(config["init_from"], problem.model, workdir)
        config = config | source
    hosts.together(_take, workdir, config, problem, facts, held)
    places.bring(workdir)
    return workdir, config, params


def _facts(workdir: Path, config: Config, problem: Problem) -> dict[str, Any]:
    """data.json of the problem; ValueError where that is not the directory's."""
    workdirs.claim(workdir, config, write=False)
    with phase("digests of the data"):
        facts = identity.of(problem, config)
    advice = "put the same data back, or choose another directory"
    identity.check(identity.kept(workdir), facts, workdir, advice)
    return facts


def _take(workdir: Path, config: Config, problem: Problem, facts, held) -> None:
    workdirs.claim(workdir, config, write=False)
    held.enter_context(workdirs.locked(workdir))
    identity.keep(workdir, facts, problem.fitted)
    workdirs.claim(workdir, config, write=True)


def _init_from(run: str | Path | Run | None) -> Config:
    return {} if run is None else {"init_from": str(run.workdir if isinstance(run, Run) else run)}


def _of_training(state: training.TrainState, facts: dict[str, Any]) -> dict[str, Any]:
    told = report.of_training(state, facts["seconds"])
    return told | {"trained_on": facts["trained_on"]}


def _check_sizes(problem: Problem, options: training.Options, config: Config) -> None:
    """ValueError where parameters or batch cannot fit into the memory of the devices."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    free = sum(each.get("bytes_limit", 0) for each in stats) or available_memory()
    init = jax.eval_shape(problem.model.init, jax.random.key(0))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(init))
    # Parameters, their average, two moments and the gradient.
    check_memory("width", config.get("width"), 20.0 * parameters, free)
    each = 4.0 * math.prod(problem.model.event_shape)
    if options.num_t == 0:  # the sum over all t
        each *= config.get("T", 1)
    here = options.batch_size / jax.process_count()
    check_memory("batch_size", options.batch_size, here * each, free)


def _bound(problem: Problem, params, config: Config) -> tuple[Evaluation, np.ndarray]:
    rows = Rows(config["seed"] + 1, problem.prepare, progress=batches("bound"))
    test = problem.test[: config["num_eval"]]
    return likelihood.evaluate_terms(problem.model, params, test, config.get("passes"), rows=rows)


def _draw_bound_terms(problem: Problem, params, kl: np.ndarray, folder: Path) -> Path:
    """Where K is spent: the mean KL term at each t, of the terms behind K itself."""
    log_snr = np.asarray(report.schedule_of(problem.model, params).log_snr)[1:]
    return plots.bound_terms(folder / "bound_terms.png", kl / units.LN2, log_snr)


def _write(workdir: Path, content: dict[str, Any]) -> dict[str, Any]:
    content = {k: units.or_null(v) if isinstance(v, float) else v for k, v in content.items()}
    files.write_json(workdir / "report.json", content)
    places.bring(workdir)
    return content
