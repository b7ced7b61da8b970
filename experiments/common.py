"""What every experiment shares: flags, presets, work directory, training, the report."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from dpm_jax import (
    bound,
    checkpoint,
    evaluation,
    networks,
    objective,
    plots,
    reporting,
    schedule,
    training,
)
from dpm_jax.model import Model

FLAGS = flags.FLAGS

# Flags that say where things are, how to run or what to measure; they may differ when a run is
# resumed or measured again. All others define the run.
_PLACES = ("workdir", "data_dir", "manual_dir", "log_every", "checkpoint_every")
_MEASURES = ("num_eval", "passes", "num_samples", "sample_steps")


class Problem(NamedTuple):
    """What an experiment is once its configuration is known."""

    model: Model  # that is trained
    evaluated: Model  # that is evaluated and sampled; the same parameters
    data: Any  # for training.fit
    draw: training.Draw | None
    test: Any  # rows for K
    draw_test: Callable | None  # (key, rows) -> examples
    ceiling: Callable[[], float | None]  # of K in nats, for this very setting; None if unknown
    facts: dict[str, Any]  # more for report.json


class Experiment(NamedTuple):
    """One row of the paper's Table 1, or another experiment of the same form."""

    name: str
    unit: str  # of K in the tables
    presets: dict[str, dict[str, Any]]
    paper_K_bits: float | None
    paper_gain_bits: float | None  # K − L_null
    setup: Callable[[dict[str, Any]], Problem]
    figures: Callable[..., tuple]  # config, problem, params, folder -> {figure: path}, facts
    measures: Callable[..., tuple]  # problem, evaluation, ceiling -> facts, rows


class Invalid(Exception):
    """A flag, file or directory that the user can mend; printed without a traceback."""


def define_flags(presets: dict[str, dict[str, Any]], **help_of: str) -> None:
    """Define the shared flags and the experiment's own (`help_of`); presets give their defaults."""
    flags.DEFINE_string(
        "workdir", None, "Directory of the run: checkpoints, metrics, figures, report."
    )
    flags.DEFINE_enum("preset", "paper", sorted(presets), "Default values of all other flags.")
    helps = {**_HELP, **help_of}
    for name, value in presets["paper"].items():
        per_preset = ", ".join(f"{p}: {presets[p][name]}" for p in sorted(presets))
        text = f"{helps[name]} ({per_preset})"
        if isinstance(value, int):
            flags.DEFINE_integer(name, None, text)
        elif isinstance(value, float):
            flags.DEFINE_float(name, None, text)
        else:
            flags.DEFINE_string(name, None, text)
    for name in ("workdir", "preset", *presets["paper"]):  # what --help of the binary lists
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])


_HELP = {
    "seed": "Seed of data, parameters, training and evaluation.",
    "T": "Number of diffusion steps.",
    "beta_1": "First diffusion rate, inside (0, 1): the noise floor of K.",
    "schedule": "learned, or a fixed one: constant_fraction, geometric, linear, cosine.",
    "network": "Network by name: rbf, perceptron, mlp, residual_mlp, bump_dense, unet.",
    "width": "Units of a layer; of the unet: channels of its fine scale.",
    "depth": "Hidden layers; of the unet: residual blocks of each stage.",
    "readout": "Mean of the reverse kernel by name (dpm_jax/readout.py).",
    "variance": "Variance of the reverse kernel: eq64, between, posterior (Gaussian only).",
    "last_step": "fixed (App. B.2) or learned.",
    "num_steps": "Training steps.",
    "batch_size": "Examples a step, over all devices.",
    "learning_rate": "Of Adam.",
    "lr_schedule": "constant, cosine or linear, to 0 at the last step.",
    "warmup": "Steps of linear warm-up of the learning rate.",
    "clip_norm": "Global norm at which gradients are clipped.",
    "ema_decay": "Of the moving average of parameters that is evaluated.",
    "objective": "bound (eq. 15), or v (its terms reweighted to the squared error of v).",
    "num_t": "Random t drawn a step and device; 0: the sum over all t, -1: one for each example.",
    "steps_per_dispatch": "Steps in one dispatch; 0: 1 for convolutions on CPU, else log_every.",
    "log_every": "Steps between rows of metrics.csv.",
    "checkpoint_every": "Steps between checkpoints.",
    "num_eval": "Examples for the final K.",
    "data_dir": "Where prepared data sets are kept (default: that of tensorflow-datasets).",
    "manual_dir": "Folder with the original files, for machines without a network.",
}


def run(experiment: Experiment) -> None:
    """Entry point of an experiment binary; a bad flag ends in one line that names it."""
    app.run(lambda _: sys.exit(_main(experiment)), flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        print(f"{Path(argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    if len(rest) > 1:
        print(
            f"{Path(argv[0]).name}: unknown argument {rest[1]!r}: flags begin with --",
            file=sys.stderr,
        )
        sys.exit(2)
    return rest


def _main(experiment: Experiment) -> int:
    logging.set_verbosity(logging.WARNING)
    logging.use_python_logging(quiet=True)
    program = f"{experiment.name}.py"
    try:
        report = execute(experiment, config_from_flags(experiment))
    except (Invalid, training.Diverged, checkpoint.CheckpointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; the same command resumes the run", file=sys.stderr)
        return 130
    print(report)
    return 0


def config_from_flags(experiment: Experiment) -> dict[str, Any]:
    """The preset with the flags given on the command line put in."""
    config = {"experiment": experiment.name, "preset": FLAGS.preset, "workdir": FLAGS.workdir}
    for name, default in experiment.presets[FLAGS.preset].items():
        value = FLAGS[name].value
        config[name] = default if value is None else value
    return config


def execute(experiment: Experiment, config: dict[str, Any]) -> str:
    """Train (or resume), bound, draw figures, write report.json; the final table as text.

    Raises:
        Invalid: for anything the user can mend, before any long work.
    """
    try:
        if not config["workdir"]:
            raise ValueError("workdir: expected a directory for the run, got none")
        options = training_options(config)
        training.check(options)
        evaluation_size(config)
        workdir = _claim(Path(config["workdir"]), config, write=False)
        problem = experiment.setup(config)
        objective.make_loss(problem.model, options.objective, options.num_t)
        _claim(workdir, config, write=True)
    except (ValueError, OSError) as error:
        raise Invalid(_name_flag(str(error), config)) from error
    with contextlib.closing(checkpoint.Checkpoints(workdir / "checkpoints")) as checkpoints:
        state, seconds = _train(problem, options, workdir, checkpoints)
    result = evaluation.evaluate(
        problem.evaluated,
        state.ema,
        problem.test[: config["num_eval"]],
        seed=config["seed"] + 1,
        draw=problem.draw_test,
        passes=config.get("passes"),
        progress=lambda batches: tqdm(batches, desc="bound", unit="batch", leave=False),
    )
    figures, facts = experiment.figures(config, problem, state.ema, workdir / "figures")
    figures["bound_terms"] = str(_draw_bound_terms(problem, state.ema, config, workdir / "figures"))
    ceiling = problem.ceiling()
    measured, rows = experiment.measures(problem, result, ceiling)
    content = _report(experiment, config, problem, state, result, seconds, ceiling)
    figures = {name: str(Path(path).relative_to(workdir)) for name, path in figures.items()}
    content |= {**problem.facts, **facts, **measured, "figures": figures}
    content = {k: reporting.or_null(v) if isinstance(v, float) else v for k, v in content.items()}
    reporting.write_json(workdir / "report.json", content)
    for name in ("valid_samples", "non_finite_samples"):
        if name in facts:
            rows.append((name.replace("_", " "), "–", f"{facts[name]:g}", "–", "of all samples"))
    return _final_table(experiment, result, content, rows, workdir)


def training_options(config: dict[str, Any]) -> training.Options:
    """The fields of training.Options among the flags."""
    fields = {f.name for f in dataclasses.fields(training.Options)}
    values = {name: value for name, value in config.items() if name in fields}
    if values["num_t"] < -1:
        raise ValueError(f"num_t: expected at least -1, got {values['num_t']}")
    values["num_t"] = None if values["num_t"] == -1 else values["num_t"]
    return training.Options(**values)


def evaluation_size(config: dict[str, Any]) -> None:
    """ValueError unless num_eval can give a K."""
    if config["num_eval"] < 2:
        raise ValueError(f"num_eval: expected at least 2, got {config['num_eval']}")


def make_schedule(config: dict[str, Any]) -> schedule.Schedule:
    """The fixed schedule named by the flags; "learned" starts from the geometric one."""
    name = "geometric" if config["schedule"] == "learned" else config["schedule"]
    schedule.check_steps(config["T"])
    schedule.check_beta_1(config["beta_1"])
    if name == "geometric" and "final_ratio" in config:
        return schedule.geometric(config["T"], config["beta_1"], config["final_ratio"])
    return schedule.by_name(name, config["T"], config["beta_1"])


def make_network(config: dict[str, Any], outputs: int) -> Any:
    """The network named by the flags, with as many outputs as the readout needs."""
    T, width, depth = config["T"], config["width"], config["depth"]
    if width < 1 or depth < 1:
        name = "width" if width < 1 else "depth"
        raise ValueError(f"{name}: expected at least 1, got {config[name]}")
    makers: dict[str, Callable[[], Any]] = {
        "rbf": lambda: networks.RBF(T, width, outputs),
        "perceptron": lambda: networks.SigmoidPerceptron(T, (width,) * depth, outputs),
        "bump_dense": lambda: networks.BumpDense(T, (width,) * depth, outputs=outputs),
        "mlp": lambda: networks.MLP(width, depth, config.get("octaves", 0), outputs),
        "residual_mlp": lambda: networks.ResidualMLP(width, depth, outputs),
        "unet": lambda: networks.UNet((width, 2 * width), depth, outputs=outputs),
    }
    if config.get("octaves", 0) < 0:
        raise ValueError(f"octaves: expected at least 0, got {config['octaves']}")
    if config["network"] not in makers:
        raise ValueError(f"network: expected one of {sorted(makers)}, got {config['network']!r}")
    return makers[config["network"]]()


def _name_flag(message: str, config: dict[str, Any]) -> str:
    """Messages of the library begin with the argument; here it is the flag of that name."""
    return f"--{message}" if message.split(":")[0] in config else message


def _claim(workdir: Path, config: dict[str, Any], write: bool) -> Path:
    """Check that `workdir` is new or holds this very run; with `write`, put config.json there."""
    workdir = workdir.expanduser()
    parent = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"workdir: expected a directory, got {workdir}: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"workdir: cannot write into {parent}")
    path = workdir / "config.json"
    wanted = {n: v for n, v in config.items() if n not in _PLACES + _MEASURES}
    if path.exists():
        _check_same(workdir, _read_config(path), wanted)
        return workdir
    for name in ("checkpoints", "metrics.csv", "report.json", "figures", "tensorboard"):
        if (workdir / name).exists():
            raise ValueError(f"workdir: {workdir} holds {name} but no config.json: not overwritten")
    if write:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"workdir: cannot make {workdir} ({error.strerror})") from error
        reporting.write_json(path, wanted)
    return workdir


def _read_config(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"workdir: {path} does not read: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"workdir: {path} is not the configuration of a run")
    return held


def _check_same(workdir: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    names = [n for n in {**held, **wanted} if held.get(n) != wanted.get(n)]
    if names:
        what = ", ".join(f"{n} = {held.get(n)} there, {wanted.get(n)} here" for n in names)
        raise ValueError(f"workdir: {workdir} holds another run ({what}); choose another directory")


@contextlib.contextmanager
def _signals_asked():
    """SIGINT and SIGTERM end the training after the present dispatch, with a checkpoint.

    Yields a function that says whether one came. A second signal ends the program at once.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(problem: Problem, options: training.Options, workdir: Path, checkpoints):
    """training.fit with a progress bar, metrics.csv and TensorBoard events: state, seconds."""
    from tensorboardX import SummaryWriter

    try:
        state = training.initial_state(problem.model, options, checkpoints)
    except ValueError as error:  # a checkpoint of another tree or shape
        raise Invalid(f"--workdir: {error}") from error
    start = int(state.step)
    metrics = reporting.MetricsFile(workdir / "metrics.csv")
    before = metrics.seconds_at(start)
    begun = time.monotonic()
    if start == options.num_steps:
        return state, before
    with (
        SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1) as board,
        tqdm(total=options.num_steps, initial=start, desc="train", unit="step") as bar,
    ):

        def on_log(state: training.TrainState) -> None:
            step, K = int(state.step), reporting.bits(float(state.K))
            seconds = round(before + time.monotonic() - begun, 2)
            row = {"step": step, "seconds": seconds, "K_bits": K}
            row |= {"grad_norm": float(state.grad_norm), "skipped": int(state.skipped)}
            if metrics.append(**row):
                for name in ("K_bits", "grad_norm", "skipped"):
                    board.add_scalar(name, row[name], step)
            bar.set_postfix_str(f"K = {K:.3f} bits", refresh=False)
            bar.update(step - bar.n)

        data, draw = problem.data, problem.draw
        with _signals_asked() as asked:
            fit = training.fit
            state = fit(problem.model, data, options, draw, state, checkpoints, on_log, asked)
    if int(state.step) < options.num_steps:
        raise KeyboardInterrupt
    return state, metrics.seconds_at(int(state.step))


def _draw_bound_terms(problem: Problem, params, config: dict[str, Any], folder: Path) -> Path:
    """Where K is spent: the mean KL term at each t, over enough examples to see its shape."""
    model = problem.evaluated
    steps = model.schedule(params)
    x0 = problem.test[: max(8, 20_000 // steps.T)]
    key_draw, key = jax.random.split(jax.random.key(config["seed"] + 3))
    x0 = x0 if problem.draw_test is None else problem.draw_test(key_draw, x0)

    @jax.jit
    def mean_terms(params, keys, x0):
        reverse = model.reverse(params, steps)
        each = jax.vmap(
            lambda k, x: bound.exact_terms(k, model.family, steps, reverse, x, model.last_step)
        )
        return each(keys, x0).mean(axis=0)

    terms = np.asarray(mean_terms(params, jax.random.split(key, len(x0)), x0), np.float64)
    return plots.bound_terms(
        folder / "bound_terms.png", -terms[2:] / reporting.LN2, np.asarray(steps.noise[2:])
    )


def _report(experiment, config, problem, state, result, seconds, ceiling) -> dict[str, Any]:
    bits = reporting.bits
    beta = problem.evaluated.schedule(state.ema).beta
    return {
        "experiment": experiment.name,
        "preset": config["preset"],
        "K_bits": bits(result.K),
        "K_standard_error_bits": bits(result.K_error),
        "K_minus_L_null_bits": bits(result.K_minus_L_null),
        "K_minus_L_null_standard_error_bits": bits(result.K_minus_L_null_error),
        "L_null_bits": bits(result.L_null),
        "ceiling_bits": None if ceiling is None else bits(ceiling),
        "paper_K_bits": experiment.paper_K_bits,
        "paper_K_minus_L_null_bits": experiment.paper_gain_bits,
        "unit": experiment.unit,
        "examples": result.examples,
        "beta_1": float(beta[1]),
        "last_step": config["last_step"],
        "seconds": round(seconds, 1),
        "train_steps": int(state.step),
        "skipped_updates": int(state.skipped),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "devices": jax.local_device_count(),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "config": {name: value for name, value in config.items() if name not in _PLACES},
    }


def _minus(a: float | None, b: float) -> float | None:
    return None if a is None else a - b


def _final_table(experiment, result, content, rows, workdir: Path) -> str:
    bits, number = reporting.bits, reporting.number
    table = [
        ("", "paper", "ours", "ceiling", "unit"),
        (
            "K",
            number(experiment.paper_K_bits),
            number(bits(result.K), bits(result.K_error)),
            number(content["ceiling_bits"]),
            experiment.unit,
        ),
        (
            "K − L_null",
            number(experiment.paper_gain_bits),
            number(bits(result.K_minus_L_null), bits(result.K_minus_L_null_error)),
            number(_minus(content["ceiling_bits"], content["L_null_bits"])),
            experiment.unit,
        ),
        *rows,
    ]
    preset = experiment.presets[content["preset"]]
    differ = [
        f"{n}={v}" for n, v in content["config"].items() if preset.get(n, v) != v and n != "seed"
    ]
    changed = f" with {', '.join(differ)}" if differ else ""
    title = (
        f"{experiment.name}, preset {content['preset']}{changed}, β_1 = {content['beta_1']:.3g},"
        f" last step {content['last_step']}, seed {content['config']['seed']};"
        f" ± one standard error over {result.examples} examples"
    )
    files = ["report.json", *content["figures"].values()]
    notes = [
        f"{n.split('_')[0]}: {content[n]}" for n in ("ceiling_kind", "paper_note") if n in content
    ]
    lines = [title, reporting.table(table), *notes, "", *(f"wrote {workdir / f}" for f in files)]
    return "\n".join(["", *lines])
