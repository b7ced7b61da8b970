"""What every experiment shares: flags, presets, work directory, training, the report."""

import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from tqdm import tqdm

import settings
import workdirs
from dpm_jax import (
    bound,
    checkpoint,
    evaluation,
    objective,
    plots,
    reporting,
    training,
)
from dpm_jax.data.streaming import Stream
from dpm_jax.model import Model


class Problem(NamedTuple):
    """What an experiment is once its configuration is known."""

    model: Model  # that is trained
    evaluated: Model  # that is evaluated and sampled; the same parameters
    data: Any  # for training.fit
    draw: training.Draw | None
    test: Any  # rows for K
    draw_test: Callable | None  # (key, rows) -> examples
    ceiling: Callable[..., float | None]  # seed, steps -> of K in nats, here; None if unknown
    facts: dict[str, Any]  # more for report.json
    effort: dict[str, int]  # what evaluate.py can afford: examples, model_samples, lanes
    validation: Any = None  # rows held out of both, on which samplers and widths are chosen
    entropy: Callable[[Any], Any] | None = None  # schedule -> eq. 24: lower, true, upper
    points: Callable[..., Any] | None = None  # (key, n) -> x, log w: E Σ w p(x) is 1 at most
    log_p: Callable[..., Any] | None = None  # examples -> log p of exact kernels, nats
    enlarge: Callable[..., Any] | None = None  # shape -> the evaluated model of larger images
    whole: Any = ()  # held-out images larger than the test set's, for figures
    compare: Callable[..., dict] | None = None  # y, known, noise, x, weight -> numbers
    streams: bool = False  # each step reads its rows from disk


class Experiment(NamedTuple):
    """One row of the paper's Table 1, or another experiment of the same form."""

    name: str
    unit: str  # of K in the tables
    presets: dict[str, dict[str, Any]]
    paper_K_bits: float | None
    paper_gain_bits: float | None  # K − L_null
    setup: Callable[[dict[str, Any]], Problem]
    figures: Callable[..., tuple]  # config, problem, params, folder -> {name: path}, facts, rows
    measures: Callable[..., tuple]  # problem, evaluation, ceiling -> facts, rows


def run(experiment: Experiment) -> None:
    """Entry point of an experiment binary; a bad flag ends in one line that names it."""
    keep_memory()
    app.run(lambda _: sys.exit(_main(experiment)), flags_parser=settings.parse)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc.

    XLA on CPU allocates its temporaries at every dispatch. Given back to the system and taken
    again, page by page, they cost a fifth of a training step of a U-Net.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def _main(experiment: Experiment) -> int:
    logging.set_verbosity(logging.WARNING)
    logging.use_python_logging(quiet=True)
    program = f"{experiment.name}.py"
    try:
        report = execute(experiment, settings.config_from_flags(experiment))
    except (settings.Invalid, training.Diverged, checkpoint.CheckpointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; the same command resumes the run", file=sys.stderr)
        return 130
    print(report)
    return 0


def execute(experiment: Experiment, config: dict[str, Any]) -> str:
    """Train (or resume), bound, draw figures, write report.json; the final table as text.

    Raises:
        settings.Invalid: for anything the user can mend, before any long work.
    """
    try:
        if not config["workdir"]:
            raise ValueError("workdir: expected a directory for the run, got none")
        options = settings.training_options(config)
        training.check(options)
        settings.evaluation_size(config)
        workdir = workdirs.claim(Path(config["workdir"]), config, write=False)
        problem = experiment.setup(config)
        objective.make_loss(problem.model, options.objective, options.num_t)
        workdirs.claim(workdir, config, write=True)
    except (ValueError, OSError) as error:
        raise settings.Invalid(settings.name_flag(str(error), config)) from error
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
    figures, facts, sample_rows = experiment.figures(
        config, problem, state.ema, workdir / "figures"
    )
    figures["bound_terms"] = str(_draw_bound_terms(problem, state.ema, config, workdir / "figures"))
    ceiling = problem.ceiling(config["seed"] + 1, None)
    measured, rows = experiment.measures(problem, result, ceiling)
    content = _report(experiment, config, problem, state, result, seconds, ceiling)
    figures = {name: str(Path(path).relative_to(workdir)) for name, path in figures.items()}
    content |= {**problem.facts, **facts, **measured, "figures": figures}
    content = {k: reporting.or_null(v) if isinstance(v, float) else v for k, v in content.items()}
    reporting.write_json(workdir / "report.json", content)
    return _final_table(experiment, result, content, rows + sample_rows, workdir)


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
        raise settings.Invalid(f"--workdir: {error}") from error
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

        data = Stream(problem.data) if problem.streams else problem.data
        with _signals_asked() as asked:
            fit = training.fit
            state = fit(
                problem.model, data, options, problem.draw, state, checkpoints, on_log, asked
            )
    if int(state.step) < options.num_steps:
        raise KeyboardInterrupt
    return state, metrics.seconds_at(int(state.step))


def some_rows(problem, num: int):
    """The data for `problem.draw`; only `num` of them, evenly spread, where they are on disk."""
    if not problem.streams:
        return jnp.asarray(problem.data)
    return jnp.asarray(problem.data[np.arange(num) * len(problem.data) // num])


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
            lambda k, x: bound.exact_terms(k, model.family, steps, reverse, x, model.last)
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
        "config": {name: value for name, value in config.items() if name not in workdirs.PLACES},
    }


def _minus(a: float | None, b: float) -> float | None:
    return None if a is None else a - b


def _final_table(experiment, result, content, rows, workdir: Path) -> str:
    bits, number = reporting.bits, reporting.number
    table = [
        ("", "paper", "ours", "ceiling", "unit"),
        (
            "K",
            number(content["paper_K_bits"]),
            number(bits(result.K), bits(result.K_error)),
            number(content["ceiling_bits"]),
            experiment.unit,
        ),
        (
            "K − L_null",
            number(content["paper_K_minus_L_null_bits"]),
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
    known = content["ceiling_bits"] is not None
    names = ["ceiling_kind"] * known + ["paper_note", "parzen_note", "figure5_note"]
    notes = [f"{n.split('_')[0]}: {content[n]}" for n in names if n in content]
    lines = [title, reporting.table(table), *notes, "", *(f"wrote {workdir / f}" for f in files)]
    return "\n".join(["", *lines])
